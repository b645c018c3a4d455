"""The documentation as a site: python -m docs.site, or make docs."""

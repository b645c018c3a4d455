"""Programs: they parse arguments and compose `dbjax`; no method lives here."""

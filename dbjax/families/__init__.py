"""Families: networks cut into blocks, each with its task."""

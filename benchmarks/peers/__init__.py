"""Lepton next to other engines: environments, models, timing, tables (README.md)."""

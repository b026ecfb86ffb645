"""Tells Redis what has changed in PostgreSQL. cycle also runs inside the server: standard library only."""

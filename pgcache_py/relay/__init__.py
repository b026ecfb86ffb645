"""Tells Redis what has changed in PostgreSQL. cycle and scripts also run inside the server: standard library only."""

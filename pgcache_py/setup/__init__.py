"""Brings pgcache into a database, and out of it again."""

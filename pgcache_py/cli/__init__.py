"""The commands: python -m pgcache_py."""

"""Faces of the cache for programs that speak something else than SQL or Python."""

"""Faces of the cache for frameworks, and for programs that speak something else than SQL or Python."""

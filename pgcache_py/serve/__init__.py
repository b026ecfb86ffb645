"""What `python -m pgcache_py serve` answers over HTTP: a page, metrics, and the AI worker's endpoints."""

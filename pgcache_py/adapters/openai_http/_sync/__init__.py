# Made of pgcache_py/adapters/openai_http/_async/__init__.py by tools/async_to_sync.py: change that one.
"""Written with await, in ; what is in _sync is made of it."""

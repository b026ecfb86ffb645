"""Written with await, in _async; what is in _sync is made of it."""

"""The near cache: entries that a process keeps, and that are never older than it says."""

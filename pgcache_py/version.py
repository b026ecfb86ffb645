"""The version of the package, and of the SQL in it."""

__version__ = "0.2.0"

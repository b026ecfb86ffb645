"""A session, as the tests of the SQL have it."""

from tests.sql.conftest import ask, new_session, role

__all__ = ["ask", "new_session", "role"]

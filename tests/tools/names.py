"""Names that no other test of a run uses, whichever of its processes that test is in."""

from __future__ import annotations

import os
from itertools import count

# The process of pytest-xdist that we are in, such as gw0.
WORKER = os.environ.get("PYTEST_XDIST_WORKER", "")
NUMBERS = count(1)


def unique(stem: str) -> str:
    """For what lives outside a test's own database: databases, roles, directories, keys in a Redis."""
    return f"{stem}_{WORKER}{'_' if WORKER else ''}{next(NUMBERS)}"

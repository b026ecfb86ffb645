"""What the frameworks' tests need."""

from __future__ import annotations

from tests.docs.conftest import new_world

__all__ = ["new_world"]

"""For test modules that are no ranks themselves: in place of conftest.py's fixtures."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """This process is no rank."""


@pytest.fixture(autouse=True)
def still_usable() -> None:
    """Nor has it an engine."""

"""Every rank is a process under a launcher and runs all tests; a test is collective."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import khorus.torch as hvd


@pytest.fixture(scope="session", autouse=True)
def engine() -> Iterator[None]:
    hvd.init()
    yield
    hvd.shutdown()


@pytest.fixture(autouse=True)
def still_usable() -> Iterator[None]:
    """After every test, whatever it did wrong: the engine works on all ranks."""
    yield
    import torch

    assert hvd.allreduce(torch.ones(3), op=hvd.Sum, name="still").tolist() == [hvd.size()] * 3

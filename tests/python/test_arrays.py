"""khorus on NumPy arrays and other memory."""

from __future__ import annotations

import array

import numpy as np
import pytest

import khorus

TYPES = ["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64"]


@pytest.mark.parametrize("dtype", TYPES)
def test_allreduce(dtype: str) -> None:
    mine = (np.arange(12).reshape(3, 4) % 3 + khorus.rank()).astype(dtype)
    all_ranks = [(np.arange(12).reshape(3, 4) % 3 + r).astype(dtype) for r in range(khorus.size())]
    assert np.array_equal(khorus.allreduce(mine, op=khorus.Sum), sum(all_ranks))
    assert np.array_equal(khorus.allreduce(mine, op=khorus.Max), np.max(all_ranks, axis=0))
    assert np.array_equal(khorus.allreduce(mine, op=khorus.Min), np.min(all_ranks, axis=0))
    assert khorus.allreduce(mine, op=khorus.Sum).dtype == mine.dtype
    assert np.array_equal(mine, all_ranks[khorus.rank()]), "the input was changed"


def test_bool_and_scalars() -> None:
    flags = np.array([True, khorus.rank() == 0])
    assert khorus.allreduce(flags, op=khorus.Sum).tolist() == [True, True]
    assert khorus.allreduce(flags, op=khorus.Product).tolist() == [True, khorus.size() == 1]
    total = khorus.allreduce(float(khorus.rank()), op=khorus.Sum)
    assert total.shape == () and total == sum(range(khorus.size()))


def test_views_and_buffers() -> None:
    strided = np.arange(20.0).reshape(4, 5)[:, ::2]
    assert np.array_equal(khorus.allreduce(strided), strided)
    assert khorus.allgather(array.array("i", [khorus.rank()])).tolist() == list(
        range(khorus.size())
    )
    torch = pytest.importorskip("torch")
    tensor = torch.full((2,), float(khorus.rank()))
    assert np.array_equal(
        khorus.broadcast(tensor, khorus.size() - 1), np.full(2, khorus.size() - 1.0)
    )


def test_rows() -> None:
    rank, size = khorus.rank(), khorus.size()
    ragged = np.full((rank, 2), rank, dtype=np.int32)
    expected = np.concatenate([np.full((r, 2), r, dtype=np.int32) for r in range(size)])
    assert np.array_equal(khorus.allgather(ragged), expected)
    received, splits = khorus.alltoall(np.arange(size), splits=[1] * size)
    assert received.tolist() == [rank] * size and splits.tolist() == [1] * size
    assert khorus.alltoall(np.arange(size)).tolist() == [rank] * size
    rows = np.arange(2 * size + 1, dtype=np.float64)
    parts = np.array_split(rows * size, size)
    assert np.array_equal(khorus.reducescatter(rows, op=khorus.Sum), parts[rank])
    assert khorus.allgather(np.empty((0, 3))).shape == (0, 3)


def test_mistakes() -> None:
    with pytest.raises(TypeError, match="complex64"):
        khorus.allreduce(np.zeros(2, np.complex64))
    with pytest.raises(ValueError, match="root rank 99"):
        khorus.broadcast(np.zeros(2), 99)
    with pytest.raises(ValueError, match="not part of the job"):
        khorus.allreduce(np.zeros(2), process_set=khorus.ProcessSet([0]))
    if khorus.size() > 1:
        shape = 3 if khorus.rank() == 0 else 4
        with pytest.raises(khorus.HorovodInternalError, match=r'"w".*rank 0') as caught:
            khorus.allreduce(np.zeros(shape), name="w")
        assert caught.value.code == "mismatch" and caught.value.lost_rank == -1

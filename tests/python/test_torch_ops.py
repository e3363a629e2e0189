"""khorus.torch: every operation, its gradient, and what is refused."""

from __future__ import annotations

import hashlib

import pytest
import torch

import khorus.torch as hvd

TYPES = [
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
]


def of_rank(
    rank: int, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (3, 4)
) -> torch.Tensor:
    count = int(torch.Size(shape).numel())
    return ((torch.arange(count) % 5) + rank + 1).reshape(shape).to(dtype)


def of_all(
    dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (3, 4)
) -> list[torch.Tensor]:
    return [of_rank(r, dtype, shape) for r in range(hvd.size())]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 4), (2, 0, 3), (70000,)], ids=str)
def test_allreduce(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    mine, everyone = of_rank(hvd.rank(), dtype, shape), torch.stack(of_all(dtype, shape))
    for op, expected in (
        (hvd.Sum, everyone.double().sum(0)),
        (hvd.Min, everyone.double().amin(0)),
        (hvd.Max, everyone.double().amax(0)),
        (hvd.Average, everyone.double().mean(0)),
    ):
        result = hvd.allreduce(mine, op=op)
        assert result.dtype == dtype and result.shape == torch.Size(shape)
        if not dtype.is_floating_point:
            expected = expected.trunc()
        torch.testing.assert_close(result, expected.to(dtype))
        again = mine.clone()
        assert hvd.allreduce_(again, op=op) is again
        assert torch.equal(again, result)


def test_allreduce_of_many_kinds_of_memory() -> None:
    size = hvd.size()
    transposed = of_rank(hvd.rank()).t()
    total = sum(of_all()).t()
    assert torch.equal(hvd.allreduce(transposed, op=hvd.Sum), total)
    assert torch.equal(hvd.allreduce_(transposed, op=hvd.Sum), total)
    assert torch.equal(transposed, total), "in place on a view that is not contiguous"
    leaf = torch.ones(4, requires_grad=True)
    with torch.no_grad():
        hvd.allreduce_(leaf, op=hvd.Sum)
    assert leaf.tolist() == [size] * 4
    half = of_rank(hvd.rank())[1:, :2]
    assert torch.equal(hvd.allreduce(half, op=hvd.Sum), sum(of_all())[1:, :2])


def test_scales_average_and_compression() -> None:
    mine, total = of_rank(hvd.rank()), sum(of_all())
    scaled = hvd.allreduce(mine, op=hvd.Sum, prescale_factor=0.5, postscale_factor=4.0)
    torch.testing.assert_close(scaled, 2 * total)
    with pytest.warns(DeprecationWarning):
        torch.testing.assert_close(hvd.allreduce(mine, average=True), total / hvd.size())
    with pytest.raises(ValueError, match="both given"):
        hvd.allreduce(mine, average=True, op=hvd.Sum)
    for compression in (hvd.Compression.fp16, hvd.Compression.bf16):
        reduced = hvd.allreduce(mine, compression=compression, op=hvd.Sum)
        assert reduced.dtype == torch.float32
        torch.testing.assert_close(reduced, total)
        whole = hvd.allreduce(mine.int(), compression=compression, op=hvd.Sum)
        assert torch.equal(whole, total.int())


def test_handles() -> None:
    handles = [
        hvd.allreduce_async(of_rank(hvd.rank()), name=f"h{i}", op=hvd.Sum) for i in range(50)
    ]
    for handle in reversed(handles):
        assert torch.equal(hvd.synchronize(handle), sum(of_all()))
        assert hvd.poll(handle)
    assert torch.equal(hvd.synchronize(handles[0]), sum(of_all()))
    for i in range(200):  # dropped at once: the memory must outlive the operation
        hvd.allreduce_async_(torch.ones(5000), name=f"dropped {i}")
    hvd.barrier()


def test_groups() -> None:
    tensors = [of_rank(hvd.rank(), shape=(n,)) for n in (1, 5, 300)]
    expected = [sum(of_all(shape=(n,))) for n in (1, 5, 300)]
    for got, want in zip(hvd.grouped_allreduce(tensors, op=hvd.Sum), expected, strict=True):
        assert torch.equal(got, want)
    gathered = hvd.grouped_allgather(tensors)
    assert torch.equal(gathered[1], torch.cat(of_all(shape=(5,))))
    parts = hvd.grouped_reducescatter([t.repeat(hvd.size(), 1) for t in tensors], op=hvd.Sum)
    assert torch.equal(parts[2], expected[2].reshape(1, 300))
    assert hvd.grouped_allreduce_(tensors, name="g", op=hvd.Sum)[0] is tensors[0]
    assert torch.equal(tensors[2], expected[2])


def test_rows() -> None:
    rank, size = hvd.rank(), hvd.size()
    ragged = torch.full((rank, 2), float(rank))
    assert torch.equal(
        hvd.allgather(ragged), torch.cat([torch.full((r, 2), float(r)) for r in range(size)])
    )
    assert hvd.allgather(torch.tensor(float(rank))).tolist() == [float(r) for r in range(size)]
    splits = torch.tensor([(rank + i) % 3 for i in range(size)])
    rows = torch.repeat_interleave(torch.arange(size) + 10 * rank, splits)
    received, counts = hvd.alltoall(rows, splits)
    want = [torch.full(((r + rank) % 3,), rank + 10 * r) for r in range(size)]
    assert torch.equal(received, torch.cat(want))
    assert counts.tolist() == [(r + rank) % 3 for r in range(size)]
    assert counts.dtype == torch.int32
    matrix = of_rank(rank, shape=(2 * size + 1, 3))
    total = sum(of_all(shape=(2 * size + 1, 3)))
    pieces = torch.tensor_split(total, size)
    assert torch.equal(hvd.reducescatter(matrix, op=hvd.Sum), pieces[rank])


@pytest.mark.parametrize("dtype", [*TYPES, torch.bool], ids=str)
def test_broadcast(dtype: torch.dtype) -> None:
    for root in range(hvd.size()):
        mine = of_rank(hvd.rank(), dtype)
        assert torch.equal(hvd.broadcast(mine, root), of_rank(root, dtype))
        assert hvd.broadcast_(mine.t(), root).data_ptr() == mine.data_ptr()
        assert torch.equal(mine, of_rank(root, dtype))


def test_send_and_recv() -> None:
    rank, size = hvd.rank(), hvd.size()
    if size == 1:
        pytest.skip("there is nobody to send to")
    into = torch.empty(3, 4)
    sent = hvd.send_async(of_rank(rank), (rank + 1) % size, tag=4)
    assert hvd.recv(into, (rank - 1) % size, tag=4) is into
    hvd.synchronize(sent)
    assert torch.equal(into, of_rank((rank - 1) % size))


def test_sparse_allreduce() -> None:
    rank, size = hvd.rank(), hvd.size()
    mine = torch.sparse_coo_tensor([[0, rank + 1]], [1.0, 2.0], (size + 1,), check_invariants=True)
    summed = hvd.sparse_allreduce_async(mine, "sparse", hvd.Sum)().to_dense()
    assert summed.tolist() == [float(size)] + [2.0] * size
    mean = hvd.sparse_allreduce_async(mine, "sparse", hvd.Average)().to_dense()
    torch.testing.assert_close(mean, summed / size)


def test_process_sets() -> None:
    rank, size = hvd.rank(), hvd.size()
    even = hvd.add_process_set(hvd.ProcessSet(range(0, size, 2)))
    last = hvd.add_process_set([size - 1])
    assert even.size() == (size + 1) // 2 and even.included() == (rank % 2 == 0)
    assert hvd.global_process_set.size() == size
    if even.included():
        assert even.rank() == rank // 2
        assert (
            hvd.allreduce(torch.ones(2), op=hvd.Sum, process_set=even).tolist() == [even.size()] * 2
        )
        assert hvd.allgather(torch.tensor([rank]), process_set=even).tolist() == even.ranks
    else:
        with pytest.raises(ValueError, match="is not in process set"):
            hvd.allreduce(torch.ones(2), process_set=even)
    assert hvd.remove_process_set(even) and hvd.remove_process_set(last)
    assert not hvd.remove_process_set(even)
    with pytest.raises(ValueError, match="not part of the job"):
        hvd.barrier(process_set=even)


def test_join() -> None:
    for step in range(hvd.rank() + 1):
        total = hvd.allreduce(torch.ones(2), op=hvd.Sum, name="batch")
        assert total.tolist() == [float(hvd.size() - step)] * 2
    assert hvd.join() == hvd.size() - 1


def test_objects() -> None:
    mine = {"rank": hvd.rank(), "text": "x" * hvd.rank()}
    assert hvd.broadcast_object(mine, root_rank=hvd.size() - 1)["rank"] == hvd.size() - 1
    assert [o["rank"] for o in hvd.allgather_object(mine)] == list(range(hvd.size()))


def test_adasum() -> None:
    if hvd.size() & (hvd.size() - 1):
        with pytest.raises(ValueError, match="power of two"):
            hvd.allreduce(torch.ones(2), op=hvd.Adasum)
        return
    same = torch.tensor([1.0, 2.0, 3.0])
    torch.testing.assert_close(hvd.allreduce(same, op=hvd.Adasum), same)
    apart = torch.zeros(hvd.size())
    apart[hvd.rank()] = 1.0
    torch.testing.assert_close(hvd.allreduce(apart, op=hvd.Adasum), torch.ones(hvd.size()))


# ---- gradients: those of the sum over all ranks of <w_r, f(x_0 .. x_n)_r> ----


def numeric_gradient(function: object, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """By central differences; all ranks move every element of every rank in turn."""
    gradient = torch.zeros_like(x)
    for rank in range(hvd.size()):
        count = int(hvd.broadcast(torch.tensor([x.numel()]), rank).item())
        for i in range(count):
            sides = []
            for delta in (1e-4, -1e-4):
                moved = x.clone()
                if hvd.rank() == rank:
                    moved.view(-1)[i] += delta
                value = (function(moved) * weight).sum()  # type: ignore[operator]
                sides.append(hvd.allreduce(value.detach(), op=hvd.Sum))
            if hvd.rank() == rank:
                gradient.view(-1)[i] = (sides[0] - sides[1]) / 2e-4
    return gradient


def rows_here() -> int:
    return hvd.rank() + 1


CASES = {
    "sum": (lambda x: hvd.allreduce(x, op=hvd.Sum, prescale_factor=2.0), (2, 3)),
    "average": (lambda x: hvd.allreduce(x, op=hvd.Average, postscale_factor=3.0), (2, 3)),
    "max": (lambda x: hvd.allreduce(x, op=hvd.Max), (2, 3)),
    "min": (lambda x: hvd.allreduce(x, op=hvd.Min), (2, 3)),
    "product": (lambda x: hvd.allreduce(x, op=hvd.Product), (2, 3)),
    "grouped": (lambda x: sum(hvd.grouped_allreduce([x, x * x], op=hvd.Sum)), (2, 3)),
    "allgather": (hvd.allgather, None),
    "broadcast": (lambda x: hvd.broadcast(x, 0), (2, 3)),
    "alltoall": (lambda x: hvd.alltoall(x, [1] * hvd.size())[0], "ranks"),
    "reducescatter": (lambda x: hvd.reducescatter(x, op=hvd.Average), "ranks"),
}


@pytest.mark.parametrize("case", CASES)
def test_gradients(case: str) -> None:
    function, shape = CASES[case]
    if shape is None:
        shape = (rows_here(), 2)
    elif shape == "ranks":
        shape = (hvd.size(), 2)
    generator = torch.Generator().manual_seed(hvd.rank())
    x = torch.rand(shape, dtype=torch.float64, generator=generator) + 0.5
    x.requires_grad_()
    y = function(x)
    weight = torch.rand(y.shape, dtype=torch.float64, generator=generator)
    (y * weight).sum().backward()
    expected = numeric_gradient(function, x.detach(), weight)
    torch.testing.assert_close(x.grad, expected, rtol=1e-6, atol=1e-6)


def test_mistakes() -> None:
    with pytest.raises(TypeError, match=r"expected a torch\.Tensor"):
        hvd.allreduce_async([1.0])
    with pytest.raises(TypeError, match="complex64"):
        hvd.allgather(torch.zeros(2, dtype=torch.complex64))
    with pytest.raises(ValueError, match="root rank 99"):
        hvd.broadcast(torch.zeros(2), 99)
    with pytest.raises(ValueError, match="sparse"):
        hvd.broadcast(torch.zeros(2).to_sparse(), 0)
    with pytest.raises(ValueError, match="add up to"):
        hvd.alltoall(torch.zeros(2), [3] + [0] * (hvd.size() - 1))
    with pytest.raises(ValueError, match="receiving from any"):
        hvd.recv(torch.zeros(2), -1)
    if hvd.size() > 1:
        dtype = torch.float32 if hvd.rank() == 0 else torch.float64
        with pytest.raises(hvd.HorovodInternalError, match="float64") as caught:
            hvd.allreduce(torch.zeros(2, dtype=dtype), name="w")
        texts = hvd.allgather_object(str(caught.value))
        assert len(set(texts)) == 1, texts
        twice = hvd.allreduce_async(torch.zeros(2), name="twice") if hvd.rank() == 0 else None
        if twice is not None:
            with pytest.raises(ValueError, match="twice"):
                hvd.allreduce(torch.zeros(2), name="twice")
        hvd.barrier()
        hvd.synchronize(twice or hvd.allreduce_async(torch.zeros(2), name="twice"))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return pytest.fail, ("it was unpickled",)


def test_objects_of_another_key_are_not_unpickled(monkeypatch: pytest.MonkeyPatch) -> None:
    from khorus import _core
    from khorus.torch import functions

    digests = hvd.allgather_object(hashlib.sha256(_core.object_key()).hexdigest())
    assert len(set(digests)) == 1 and len(_core.object_key()) == 32 and any(_core.object_key())
    value = {"a": torch.arange(3), "rank": hvd.rank()}
    assert hvd.broadcast_object(value, hvd.size() - 1)["rank"] == hvd.size() - 1
    if hvd.rank() == 0:
        monkeypatch.setattr(functions, "object_key", lambda: b"x" * 32)
        hvd.broadcast_object(Bomb(), 0)
    else:
        with pytest.raises(hvd.HorovodInternalError, match="MAC is wrong"):
            hvd.broadcast_object(None, 0)

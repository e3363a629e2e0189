"""What is refused: the same on all ranks, and the engine works on. Of every public function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import khorus
import khorus.torch as hvd

Z = torch.zeros(2)
NOWHERE = hvd.ProcessSet([0])  # has no id


def sgd() -> torch.optim.SGD:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=0.1)


def by_rank(root: Any, other: Any) -> Any:
    return root if hvd.rank() == 0 else other


# What is wrong with the arguments themselves: every rank finds out by itself, before it sends
# anything. Each with the words that the message must have.
WRONG: dict[str, list[tuple[Callable[[], Any], str]]] = {
    "DistributedOptimizer": [
        (lambda: hvd.DistributedOptimizer(3), "expected a torch optimizer"),
        (lambda: hvd.DistributedOptimizer(sgd(), op=hvd.Max), "gradients know"),
        (lambda: hvd.DistributedOptimizer(sgd(), backward_passes_per_step=0), "at least 1"),
        (lambda: hvd.DistributedOptimizer(sgd(), num_groups=-1), "0 or more"),
    ],
    "ProcessSet": [(lambda: hvd.ProcessSet("ab"), "invalid literal")],
    "ReduceOp": [(lambda: hvd.ReduceOp(99), "not a valid ReduceOp")],
    "SyncBatchNorm": [
        (lambda: hvd.SyncBatchNorm(3)(Z), "at least 2 dimensions"),
        (lambda: hvd.SyncBatchNorm(3)(torch.zeros(2, 4)), "expected 3 features"),
    ],
    "add_process_set": [
        (lambda: hvd.add_process_set([0, 99]), "rank 99 does not exist"),
        (lambda: hvd.add_process_set([]), "at least one rank"),
        (lambda: hvd.add_process_set(hvd.global_process_set), "already"),
    ],
    "allgather": [(lambda: hvd.allgather(Z.to_sparse()), "sparse")],
    "allgather_async": [(lambda: hvd.allgather_async(3), "expected a torch.Tensor")],
    "allgather_object": [(lambda: hvd.allgather_object(1, process_set=NOWHERE), "add_process_set")],
    "allreduce": [
        (lambda: hvd.allreduce(Z, op="sum"), "not a valid ReduceOp"),
        (lambda: hvd.allreduce(Z, average=True, op=hvd.Sum), "both given"),
        (lambda: hvd.allreduce(Z, compression="fp16"), "compress"),
        (lambda: hvd.allreduce(Z, process_set=[0]), "expected a ProcessSet"),
        (lambda: hvd.allreduce(Z, name=3), "incompatible"),
        (lambda: hvd.allreduce(torch.zeros(2, dtype=torch.bool)), "bool has no average"),
    ],
    "allreduce_": [(lambda: hvd.allreduce_(torch.zeros(2, dtype=torch.complex64)), "complex64")],
    "allreduce_async": [(lambda: hvd.allreduce_async(Z, prescale_factor="a"), "incompatible")],
    "allreduce_async_": [(lambda: hvd.allreduce_async_([1.0]), "expected a torch.Tensor")],
    "alltoall": [
        (lambda: hvd.alltoall(torch.zeros(7), [1] * hvd.size()), "add up to"),
        (lambda: hvd.alltoall(Z, [-1] + [3] * (hvd.size() - 1)), "0 or more"),
        (lambda: hvd.alltoall(torch.tensor(1.0)), "scalar"),
    ],
    "alltoall_async": [(lambda: hvd.alltoall_async(Z, [2] * (hvd.size() + 1)), "one for each")],
    "barrier": [(lambda: hvd.barrier(3), "expected a ProcessSet")],
    "broadcast": [
        (lambda: hvd.broadcast(Z, 99), "root rank 99"),
        (lambda: hvd.broadcast(Z, None), "incompatible"),
    ],
    "broadcast_": [(lambda: hvd.broadcast_(Z, -1), "root rank -1")],
    "broadcast_async": [(lambda: hvd.broadcast_async(3, 0), "expected a torch.Tensor")],
    "broadcast_async_": [(lambda: hvd.broadcast_async_(Z.to_sparse(), 0), "sparse")],
    "broadcast_object": [(lambda: hvd.broadcast_object(1, 99), "root rank 99")],
    "broadcast_optimizer_state": [
        (lambda: hvd.broadcast_optimizer_state(3, 0), "expected an optimizer"),
        (lambda: hvd.broadcast_optimizer_state(sgd(), 99), "root rank 99"),
    ],
    "broadcast_parameters": [
        (lambda: hvd.broadcast_parameters(3, 0), "params is a int"),
        (lambda: hvd.broadcast_parameters({"a": Z}, 99), "root rank 99"),
    ],
    "grouped_allgather": [(lambda: hvd.grouped_allgather([Z, 3]), "expected a torch.Tensor")],
    "grouped_allgather_async": [(lambda: hvd.grouped_allgather_async(3), "not iterable")],
    "grouped_allreduce": [(lambda: hvd.grouped_allreduce([Z], op=99), "not a valid ReduceOp")],
    "grouped_allreduce_": [(lambda: hvd.grouped_allreduce_([Z.to_sparse()]), "sparse")],
    "grouped_allreduce_async": [(lambda: hvd.grouped_allreduce_async(None), "not iterable")],
    "grouped_allreduce_async_": [
        (lambda: hvd.grouped_allreduce_async_([Z], process_set=NOWHERE), "add_process_set")
    ],
    "grouped_reducescatter": [
        (lambda: hvd.grouped_reducescatter([torch.tensor(1.0)]), "no rows"),
    ],
    "grouped_reducescatter_async": [
        (lambda: hvd.grouped_reducescatter_async([Z], op=hvd.Adasum), "adasum"),
    ],
    "init": [
        (lambda: hvd.init(comm=[0]), "no communicators"),
        (lambda: hvd.init(process_sets="static"), "dynamic"),
    ],
    "poll": [(lambda: hvd.poll(3), "asynchronous function")],
    "recv": [(lambda: hvd.recv(Z, -1), "receiving from any")],
    "recv_async": [(lambda: hvd.recv_async(Z, 99), "rank 99")],
    "reducescatter": [(lambda: hvd.reducescatter(torch.tensor(1.0)), "no rows")],
    "reducescatter_async": [(lambda: hvd.reducescatter_async(Z, op=hvd.Adasum), "adasum")],
    "remove_process_set": [
        (lambda: hvd.remove_process_set(hvd.global_process_set), "cannot be removed"),
        (lambda: hvd.remove_process_set(3), "expected a ProcessSet"),
    ],
    "send": [(lambda: hvd.send(Z, 99), "rank 99")],
    "send_async": [(lambda: hvd.send_async(Z, hvd.rank()), "cannot send to itself")],
    "sparse_allreduce_async": [
        (lambda: hvd.sparse_allreduce_async(Z, "s", hvd.Sum), "dense"),
        (lambda: hvd.sparse_allreduce_async(Z.to_sparse(), "s", hvd.Max), "sparse tensors know"),
    ],
    "start_timeline": [(lambda: hvd.start_timeline(3), "incompatible")],
    "synchronize": [(lambda: hvd.synchronize(None), "asynchronous function")],
}
# Names for values, and functions that take nothing to be wrong about.
HARMLESS = {
    *["Adasum", "Average", "Compression", "Compressor", "Handle", "HorovodInternalError", "Max"],
    *["HostsUpdatedInterrupt", "Min", "Product", "Sum", "global_process_set", "elastic", "join"],
    *["ccl_built", "cross_rank", "cross_size", "cuda_built", "ddl_built", "gloo_built"],
    *["gloo_enabled", "is_homogeneous", "is_initialized", "local_rank", "local_size", "mpi_built"],
    *["mpi_enabled", "mpi_threads_supported", "nccl_built", "rank", "rocm_built", "shutdown"],
    *["size", "stop_timeline"],
}
# What is wrong only beside what the other ranks say: HorovodInternalError with one text on all.
APART: dict[str, Callable[[], Any]] = {
    "add_process_set": lambda: hvd.add_process_set([hvd.rank()]),
    "allgather": lambda: hvd.allgather(torch.zeros(2, by_rank(3, 4)), "w"),
    "allreduce": lambda: hvd.allreduce(torch.zeros(by_rank(3, 4)), name="w"),
    "allreduce of ops": lambda: hvd.allreduce(Z, name="w", op=by_rank(hvd.Sum, hvd.Max)),
    "allreduce_": lambda: hvd.allreduce_(by_rank(Z, Z.double()), name="w"),
    "alltoall": lambda: hvd.alltoall(torch.zeros(hvd.size(), by_rank(1, 2)), name="w"),
    "broadcast": lambda: hvd.broadcast(Z, by_rank(0, 1), "w"),
    "broadcast_": lambda: hvd.broadcast_(torch.zeros(by_rank(3, 4)), 0, "w"),
    "broadcast_object": lambda: hvd.broadcast_object(1, by_rank(0, 1), "w"),
    "broadcast_parameters": lambda: hvd.broadcast_parameters({"w": by_rank(Z, Z.double())}, 0),
    "broadcast and allreduce": lambda: by_rank(hvd.broadcast_, hvd.allreduce_)(Z, 0, "w"),
    "grouped_allgather": lambda: hvd.grouped_allgather([Z, torch.zeros(2, by_rank(3, 4))], "w"),
    "grouped_allreduce": lambda: hvd.grouped_allreduce([Z, by_rank(Z, Z.double())], name="w"),
    "grouped_reducescatter": lambda: hvd.grouped_reducescatter(
        [torch.zeros(hvd.size(), by_rank(3, 4))], "w"
    ),
    "reducescatter": lambda: hvd.reducescatter(torch.zeros(hvd.size(), by_rank(3, 4)), "w"),
    "SyncBatchNorm": lambda: hvd.SyncBatchNorm(by_rank(3, 4))(torch.ones(2, by_rank(3, 4))),
    "khorus.allgather": lambda: khorus.allgather(torch.zeros(2, by_rank(3, 4)), "w"),
    "khorus.allreduce": lambda: khorus.allreduce(by_rank(Z, Z.double()), "w"),
    "khorus.alltoall": lambda: khorus.alltoall(torch.zeros(hvd.size(), by_rank(1, 2)), name="w"),
    "khorus.broadcast": lambda: khorus.broadcast(Z, by_rank(0, 1), "w"),
    "khorus.reducescatter": lambda: khorus.reducescatter(
        torch.zeros(hvd.size(), by_rank(3, 4)), "w"
    ),
}


def test_every_public_name_is_listed() -> None:
    assert set(hvd.__all__) == set(WRONG) | HARMLESS
    assert not set(WRONG) & HARMLESS


@pytest.mark.parametrize("name", WRONG)
def test_wrong_arguments(name: str) -> None:
    for call, words in WRONG[name]:
        if hvd.size() == 1 and words in ("add_process_set", "cannot send to itself"):
            words = ""  # a set of all, or no peer at all: another refusal
        with pytest.raises((TypeError, ValueError), match=words):
            result = call()
            if isinstance(result, hvd.Handle):  # what the engine refuses shows there
                hvd.synchronize(result)


@pytest.mark.parametrize("name", APART)
def test_ranks_that_contradict_each_other(name: str) -> None:
    if hvd.size() == 1:
        pytest.skip("there is nobody to contradict")
    with pytest.raises(hvd.HorovodInternalError, match="rank") as caught:
        APART[name]()
    assert caught.value.code == "mismatch"
    texts = hvd.allgather_object(str(caught.value))
    assert len(set(texts)) == 1, texts


class NoPickle:
    def __reduce__(self) -> Any:
        raise RuntimeError("this is no pickle")


def test_objects_that_one_rank_cannot_pickle() -> None:
    bad = by_rank(NoPickle(), 1)
    for call in (hvd.allgather_object, hvd.broadcast_object):
        here, words = RuntimeError, "no pickle"
        if hvd.rank() != 0:
            here, words = hvd.HorovodInternalError, "from rank 0.*cannot be pickled"
        with pytest.raises(here, match=words):
            call(bad)


def test_timelines(tmp_path: Path) -> None:
    with pytest.raises(hvd.HorovodInternalError, match="No such file"):
        hvd.start_timeline(str(tmp_path / "nowhere" / "trace"))
    with pytest.raises(hvd.HorovodInternalError, match="no timeline"):
        hvd.stop_timeline()
    hvd.start_timeline(str(tmp_path / "trace"))
    with pytest.raises(hvd.HorovodInternalError):
        hvd.start_timeline(str(tmp_path / "other"))
    hvd.stop_timeline()


def test_a_name_in_flight() -> None:
    """The one rank that uses it twice hears of it; the operation is not disturbed."""
    first = hvd.allreduce_async(Z, name="twice") if hvd.rank() == 0 else None
    if first is not None and hvd.size() > 1:
        with pytest.raises(ValueError, match="twice"):
            hvd.allreduce(Z, name="twice")
    hvd.barrier()
    assert hvd.synchronize(first or hvd.allreduce_async(Z, name="twice")).tolist() == [0.0, 0.0]


def test_replayed_objects_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also within one epoch: by the number that is signed, or by what has come since it."""
    from khorus.torch import functions

    if hvd.size() == 1:
        pytest.skip("nothing is sent")
    packed = functions._packed
    old: list[Any] = []

    def first_header(obj: Any, way: str) -> Any:
        return (old[0][0], *packed(obj, way)[1:])

    def all_of_the_first(obj: Any, way: str) -> Any:
        return old[0]

    def first_bytes(obj: Any, way: str) -> Any:
        return ([old[0][0][0], packed(obj, way)[0][1]], *old[0][1:])

    def recorded(obj: Any, way: str) -> Any:
        old.append(packed(obj, way))
        return old[0]

    def sent(obj: str, by: Any) -> Any:
        monkeypatch.setattr(functions, "_packed", by)
        return hvd.broadcast_object(obj, 0, "replayed")

    assert sent("first", recorded) == "first"
    for attack, words in (
        (first_header, "sent again"),
        (first_bytes, "MAC is wrong"),
        (all_of_the_first, "sent again"),
    ):
        if hvd.rank() == 0:
            sent("first", attack)
        else:
            with pytest.raises(hvd.HorovodInternalError, match=words):
                sent("first", attack)
    assert sent("later", packed) == "later"

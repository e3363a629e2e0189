"""broadcast, send, recv, barrier and join on torch tensors; see mpi_ops.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from khorus import _core
from khorus.process_sets import ProcessSet, global_process_set, id_of
from khorus.reduce_ops import Sum
from khorus.torch._allreduce import allreduce_async
from khorus.torch._device import gpu_among
from khorus.torch._tensors import Handle, checked, in_place_handle, synchronize, tidy, view

Tensor = torch.Tensor
Tensors = Sequence[Tensor]


def broadcast_async(
    tensor: Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Handle:
    """The root's tensor, in a new one. `root_rank` is a rank of the job."""
    tidy()
    source = checked(tensor, "broadcast")
    output = torch.empty_like(source)
    given, taken = view(source), view(output)
    work = _core.broadcast(name or "", given, taken, root_rank, id_of(process_set))
    return Handle([work], (source, output, given, taken), lambda _: output, gpu_among([source]))


def broadcast_async_(
    tensor: Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Handle:
    """The same in place."""
    tidy()
    target = checked(tensor, "broadcast")
    given = view(target)
    work = _core.broadcast(name or "", given, given, root_rank, id_of(process_set))
    return in_place_handle([work], [tensor], [target], [given])


class _Broadcast(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tensor: Tensor, root_rank: int, name: str | None, process_set: ProcessSet
    ) -> Any:
        ctx.root_rank = root_rank
        ctx.process_set = process_set
        return synchronize(broadcast_async(tensor, root_rank, name, process_set))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        total = synchronize(allreduce_async(gradients[0], op=Sum, process_set=ctx.process_set))
        here = _core.place()[0] == ctx.root_rank
        return (total if here else torch.zeros_like(total)), None, None, None


def broadcast(
    tensor: Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Tensor:
    """The root's tensor, on every rank. Differentiable: the gradients add up on the root."""
    return _Broadcast.apply(tensor, root_rank, name, process_set)


def broadcast_(
    tensor: Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Tensor:
    """The same in place, without a gradient."""
    return synchronize(broadcast_async_(tensor, root_rank, name, process_set))


def send_async(
    tensor: Tensor, peer: int, tag: int = 0, process_set: ProcessSet = global_process_set
) -> Handle:
    """Sends to a rank of the job; the k-th send meets the k-th recv of the same tag."""
    tidy()
    source = checked(tensor, "send")
    given = view(source)
    work = _core.send(given, peer, tag, id_of(process_set))
    return Handle([work], (source, given), lambda _: None, gpu_among([source]))


def recv_async(
    tensor: Tensor, peer: int, tag: int = 0, process_set: ProcessSet = global_process_set
) -> Handle:
    """Receives into `tensor`, which has the sender's shape and dtype."""
    tidy()
    target = checked(tensor, "recv")
    given = view(target)
    work = _core.recv(given, peer, tag, id_of(process_set))
    return in_place_handle([work], [tensor], [target], [given])


def send(
    tensor: Tensor, peer: int, tag: int = 0, process_set: ProcessSet = global_process_set
) -> None:
    synchronize(send_async(tensor, peer, tag, process_set))


def recv(
    tensor: Tensor, peer: int, tag: int = 0, process_set: ProcessSet = global_process_set
) -> Tensor:
    return synchronize(recv_async(tensor, peer, tag, process_set))


def barrier(process_set: ProcessSet = global_process_set) -> None:
    """Returns when every rank of the set has called it."""
    _core.barrier("", id_of(process_set)).wait()


def join(device: int = -1) -> int:
    """This rank has no more data: it takes part in the others' operations with zeros until all have
    joined. Returns the last rank that did. `device` is Horovod's, and not used."""
    work = _core.join()
    work.wait()
    return work.last_joined()

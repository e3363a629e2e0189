"""allgather, alltoall and reducescatter on torch tensors; see mpi_ops.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from khorus import _core
from khorus.process_sets import ProcessSet, global_process_set, id_of
from khorus.reduce_ops import Average, ReduceOp, Sum
from khorus.torch._allreduce import allreduce_async
from khorus.torch._device import gpu_among
from khorus.torch._tensors import Handle, checked, member_names, result_of, synchronize, tidy, view
from khorus.torch.compression import Compression, Compressor, compressing

Tensor = torch.Tensor
Tensors = Sequence[Tensor]


def _flat(tensor: Tensor) -> Tensor:
    """Scalars count as shape [1]."""
    return tensor.reshape(1) if tensor.dim() == 0 else tensor


def allgather_async(
    tensor: Tensor, name: str | None = None, process_set: ProcessSet = global_process_set
) -> Handle:
    """Concatenation over the ranks along the first dimension, which may differ by rank."""
    tidy()
    source = _flat(checked(tensor, "allgather"))
    given = view(source)
    work = _core.allgather(name or "", given, id_of(process_set))
    return Handle([work], (source, given), lambda works: result_of(works[0]), gpu_among([source]))


def grouped_allgather_async(
    tensors: Tensors, name: str | None = None, process_set: ProcessSet = global_process_set
) -> Handle:
    tidy()
    sources = [_flat(checked(tensor, "grouped_allgather")) for tensor in tensors]
    given = [view(t) for t in sources]
    works = _core.grouped_allgather(
        name or "", member_names(name, tensors), given, id_of(process_set)
    )
    return Handle(
        works,
        (sources, given),
        lambda done: [result_of(work) for work in done],
        gpu_among(sources),
    )


class _Allgather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: tuple[Any, ...], *tensors: Tensor) -> Any:
        group, name, process_set = options
        handle = (
            grouped_allgather_async(tensors, name, process_set)
            if group
            else allgather_async(tensors[0], name, process_set)
        )
        result = synchronize(handle)
        place = process_set.rank()
        ctx.process_set = process_set
        # Where this rank's rows are, and what shape they had.
        ctx.rows = [
            (sum(work.first_extents()[:place]), work.first_extents()[place])
            for work in handle._works
        ]
        ctx.shapes = [tensor.shape for tensor in tensors]
        return tuple(result) if group else (result,)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        sums = [allreduce_async(g, op=Sum, process_set=ctx.process_set) for g in gradients]
        return None, *(
            synchronize(handle).narrow(0, first, count).reshape(shape)
            for handle, (first, count), shape in zip(sums, ctx.rows, ctx.shapes, strict=True)
        )


def allgather(
    tensor: Tensor, name: str | None = None, process_set: ProcessSet = global_process_set
) -> Tensor:
    """Concatenation over the ranks along the first dimension. Differentiable."""
    (gathered,) = _Allgather.apply((False, name, process_set), tensor)
    return gathered


def grouped_allgather(
    tensors: Tensors, name: str | None = None, process_set: ProcessSet = global_process_set
) -> list[Tensor]:
    return list(_Allgather.apply((True, name, process_set), *tensors))


def alltoall_async(
    tensor: Tensor,
    splits: Any = None,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Handle:
    """Sends splits[i] rows to rank i of the set. The result of synchronize(): the rows received;
    with `splits` also the rows that came from each rank, as an int32 tensor."""
    tidy()
    source = checked(tensor, "alltoall")
    rows = [] if splits is None else [int(n) for n in splits]
    given = view(source)
    work = _core.alltoall(name or "", given, rows, id_of(process_set))

    def finish(works: list[_core.Work]) -> Any:
        received = result_of(works[0])
        if splits is None:
            return received
        return received, torch.tensor(works[0].first_extents(), dtype=torch.int32)

    return Handle([work], (source, given), finish, gpu_among([source]))


class _Alltoall(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, tensor: Tensor, splits: Any, name: str | None, process_set: ProcessSet
    ) -> Any:
        handle = alltoall_async(tensor, splits, name, process_set)
        result = synchronize(handle)
        ctx.received = handle._works[0].first_extents()
        ctx.process_set = process_set
        if splits is not None:
            ctx.mark_non_differentiable(result[1])
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        back = alltoall_async(gradients[0], ctx.received, None, ctx.process_set)
        return synchronize(back)[0], None, None, None


def alltoall(
    tensor: Tensor,
    splits: Any = None,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """As alltoall_async, at once. Differentiable: gradients travel back."""
    return _Alltoall.apply(tensor, splits, name, process_set)


def reducescatter_async(
    tensor: Tensor,
    name: str | None = None,
    op: ReduceOp = Average,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> Handle:
    """This rank's rows of the reduction; the first ranks get one row more if they are uneven."""
    tidy()
    source = checked(tensor, "reducescatter")
    given = view(source)
    work = _core.reducescatter(
        name or "", given, op, prescale_factor, postscale_factor, id_of(process_set)
    )
    return Handle([work], (source, given), lambda works: result_of(works[0]), gpu_among([source]))


def grouped_reducescatter_async(
    tensors: Tensors,
    name: str | None = None,
    op: ReduceOp = Average,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> Handle:
    tidy()
    sources = [checked(tensor, "grouped_reducescatter") for tensor in tensors]
    given = [view(t) for t in sources]
    works = _core.grouped_reducescatter(
        name or "",
        member_names(name, tensors),
        given,
        op,
        prescale_factor,
        postscale_factor,
        id_of(process_set),
    )
    return Handle(
        works,
        (sources, given),
        lambda done: [result_of(work) for work in done],
        gpu_among(sources),
    )


class _Reducescatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: tuple[Any, ...], *tensors: Tensor) -> Any:
        group, name, op, process_set, prescale, postscale = options
        ctx.options = options
        if group:
            return tuple(
                synchronize(
                    grouped_reducescatter_async(tensors, name, op, process_set, prescale, postscale)
                )
            )
        handle = reducescatter_async(tensors[0], name, op, process_set, prescale, postscale)
        return (synchronize(handle),)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        _, _, op, process_set, prescale, postscale = ctx.options
        if op not in (Sum, Average):
            raise NotImplementedError(f"reducescatter has no gradient for {ReduceOp(op).name}")
        factor = prescale * postscale / (process_set.size() if op is Average else 1)
        handles = [allgather_async(g * factor, None, process_set) for g in gradients]
        return None, *(synchronize(handle) for handle in handles)


def reducescatter(
    tensor: Tensor,
    name: str | None = None,
    compression: type[Compressor] = Compression.none,
    op: ReduceOp = Average,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> Tensor:
    """This rank's rows of the reduction. Differentiable for Sum and Average."""
    smaller, context = compressing(compression).compress(tensor)
    options = (False, name, op, process_set, prescale_factor, postscale_factor)
    (part,) = _Reducescatter.apply(options, smaller)
    return compression.decompress(part, context)


def grouped_reducescatter(
    tensors: Tensors,
    name: str | None = None,
    compression: type[Compressor] = Compression.none,
    op: ReduceOp = Average,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> list[Tensor]:
    pairs = [compressing(compression).compress(tensor) for tensor in tensors]
    options = (True, name, op, process_set, prescale_factor, postscale_factor)
    parts = _Reducescatter.apply(options, *(smaller for smaller, _ in pairs))
    return [compression.decompress(t, c) for t, (_, c) in zip(parts, pairs, strict=True)]

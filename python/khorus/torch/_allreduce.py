"""allreduce on torch tensors, in all its forms; see mpi_ops.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from khorus import _core
from khorus.process_sets import ProcessSet, global_process_set, id_of
from khorus.reduce_ops import Adasum, Average, Max, Min, Product, ReduceOp, Sum, chosen_op
from khorus.torch._device import gpu_among
from khorus.torch._tensors import (
    Handle,
    View,
    checked,
    in_place_handle,
    member_names,
    synchronize,
    tidy,
    view,
)
from khorus.torch.compression import Compression, Compressor, compressing

Tensor = torch.Tensor
Tensors = Sequence[Tensor]


def _start(
    tensors: Tensors,
    name: str | None,
    op: ReduceOp,
    scales: tuple[float, float],
    process_set: ProcessSet,
    *,
    in_place: bool = False,
    grouped: bool = False,
) -> Handle:
    """Submits one tensor, or a group; the result is in place or in new tensors."""
    tidy()
    sources = [
        checked(tensor, "grouped_allreduce" if grouped else "allreduce") for tensor in tensors
    ]
    targets = sources if in_place else [torch.empty_like(source) for source in sources]
    inputs = [view(t) for t in sources]
    if grouped and in_place:
        return start_group_in_place(tensors, sources, inputs, name, op, scales, process_set)
    outputs = inputs if in_place else [view(t) for t in targets]
    options = (op, *scales, id_of(process_set))
    if grouped:
        names = member_names(name, tensors)
        works = _core.grouped_allreduce(name or "", names, inputs, outputs, *options)
    else:
        works = [_core.allreduce(name or "", inputs[0], outputs[0], *options)]
    if in_place:
        return in_place_handle(works, tensors, targets, inputs)
    return Handle(
        works,
        (sources, targets, inputs, outputs),
        lambda _: targets if grouped else targets[0],
        gpu_among(sources),
    )


def start_group_in_place(
    tensors: Tensors,
    sources: Tensors,
    views: Sequence[View],
    name: str | None,
    op: ReduceOp,
    scales: tuple[float, float],
    process_set: ProcessSet,
) -> Handle:
    """Submits a group whose members may have become ready in different streams: `views` were made
    there, of `sources`, which are the tensors or contiguous copies of them."""
    options = (op, *scales, id_of(process_set))
    names = member_names(name, tensors)
    works = _core.grouped_allreduce(name or "", names, views, views, *options)
    return in_place_handle(works, tensors, sources, views, grouped=True)


def allreduce_async(
    tensor: Tensor,
    average: bool | None = None,
    name: str | None = None,
    op: ReduceOp | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> Handle:
    """The reduction of `tensor` over the ranks, in a new tensor. Returns a handle."""
    scales = (prescale_factor, postscale_factor)
    return _start([tensor], name, chosen_op(average, op), scales, process_set)


def allreduce_async_(
    tensor: Tensor,
    average: bool | None = None,
    name: str | None = None,
    op: ReduceOp | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> Handle:
    """The same in place."""
    scales = (prescale_factor, postscale_factor)
    return _start([tensor], name, chosen_op(average, op), scales, process_set, in_place=True)


def grouped_allreduce_async(
    tensors: Tensors,
    average: bool | None = None,
    name: str | None = None,
    op: ReduceOp | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> Handle:
    """The reductions of several tensors: all run, or none."""
    scales = (prescale_factor, postscale_factor)
    return _start(tensors, name, chosen_op(average, op), scales, process_set, grouped=True)


def grouped_allreduce_async_(
    tensors: Tensors,
    average: bool | None = None,
    name: str | None = None,
    op: ReduceOp | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> Handle:
    """The same in place."""
    scales = (prescale_factor, postscale_factor)
    return _start(
        tensors, name, chosen_op(average, op), scales, process_set, in_place=True, grouped=True
    )


def _gradient_of_reduction(
    op: ReduceOp, gradient: Tensor, x: Tensor, y: Tensor, scales: tuple[float, float], s: ProcessSet
) -> Tensor:
    """d(sum over ranks of <gradient, y>)/dx for y = postscale * reduction(prescale * x)."""
    prescale, postscale = scales
    if op in (Sum, Average):
        return synchronize(
            allreduce_async(
                gradient,
                op=op,
                prescale_factor=prescale,
                postscale_factor=postscale,
                process_set=s,
            )
        )
    if op is Adasum:
        raise NotImplementedError("Adasum has no gradient; use it on gradients, not in a model")
    total = synchronize(allreduce_async(gradient, op=Sum, process_set=s))
    scaled = x * prescale
    reduced = y / postscale
    if op is Product:
        return total * postscale * prescale * reduced / scaled
    # The element that was taken; shared evenly by those that are equal.
    mine = (scaled == reduced).to(gradient.dtype)
    sharing = synchronize(allreduce_async(mine, op=Sum, process_set=s))
    return total * postscale * prescale * mine / sharing


class _Allreduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: tuple[Any, ...], *tensors: Tensor) -> Any:
        ctx.options = options
        group, name, op, prescale, postscale, process_set = options
        handle = (
            grouped_allreduce_async(tensors, None, name, op, prescale, postscale, process_set)
            if group
            else allreduce_async(tensors[0], None, name, op, prescale, postscale, process_set)
        )
        result = synchronize(handle)
        outputs = tuple(result) if group else (result,)
        if op in (Min, Max, Product):
            ctx.save_for_backward(*tensors, *outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        _, _, op, prescale, postscale, process_set = ctx.options
        saved = ctx.saved_tensors
        n = len(gradients)
        inputs, outputs = (saved[:n], saved[n:]) if saved else (gradients, gradients)
        return None, *(
            _gradient_of_reduction(op, g, x, y, (prescale, postscale), process_set)
            for g, x, y in zip(gradients, inputs, outputs, strict=True)
        )


def allreduce(
    tensor: Tensor,
    average: bool | None = None,
    name: str | None = None,
    compression: type[Compressor] = Compression.none,
    op: ReduceOp | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> Tensor:
    """The elementwise reduction over the ranks of the set: a new tensor, differentiable."""
    smaller, context = compressing(compression).compress(tensor)
    options = (
        False,
        name,
        chosen_op(average, op),
        prescale_factor,
        postscale_factor,
        process_set,
    )
    (reduced,) = _Allreduce.apply(options, smaller)
    return compression.decompress(reduced, context)


def allreduce_(
    tensor: Tensor,
    average: bool | None = None,
    name: str | None = None,
    op: ReduceOp | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> Tensor:
    """The same in place, without a gradient."""
    return synchronize(
        allreduce_async_(tensor, average, name, op, prescale_factor, postscale_factor, process_set)
    )


def grouped_allreduce(
    tensors: Tensors,
    average: bool | None = None,
    name: str | None = None,
    compression: type[Compressor] = Compression.none,
    op: ReduceOp | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> list[Tensor]:
    """The reductions of several tensors: all run, or none. Differentiable."""
    pairs = [compressing(compression).compress(tensor) for tensor in tensors]
    options = (True, name, chosen_op(average, op), prescale_factor, postscale_factor, process_set)
    reduced = _Allreduce.apply(options, *(smaller for smaller, _ in pairs))
    return [compression.decompress(t, c) for t, (_, c) in zip(reduced, pairs, strict=True)]


def grouped_allreduce_(
    tensors: Tensors,
    average: bool | None = None,
    name: str | None = None,
    op: ReduceOp | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> list[Tensor]:
    """The same in place, without a gradient."""
    return synchronize(
        grouped_allreduce_async_(
            tensors, average, name, op, prescale_factor, postscale_factor, process_set
        )
    )

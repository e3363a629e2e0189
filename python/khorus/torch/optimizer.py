"""DistributedOptimizer: a torch optimizer whose gradients are reduced over the ranks.

How gradients are submitted during the backward pass is in _reducer.py; step() waits for them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from khorus.basics import is_initialized
from khorus.process_sets import ProcessSet, global_process_set
from khorus.reduce_ops import Adasum, Average, ReduceOp, Sum
from khorus.torch._reducer import Parameter, Reducer
from khorus.torch.compression import Compression, Compressor

__all__ = ["DistributedOptimizer"]


class _Distributed:
    """The methods that the optimizer's class gets; the rest is the wrapped class."""

    _khorus: Reducer
    _khorus_synchronized: bool
    _khorus_should_synchronize: bool

    def synchronize(self) -> None:
        """Waits until all gradients are reduced. Gradients that this rank did not compute count as
        zeros."""
        self._khorus.synchronize()
        self._khorus_synchronized = True

    @contextmanager
    def skip_synchronize(self) -> Iterator[None]:
        """step() in here does not synchronize: for who called synchronize(), to clip gradients."""
        self._khorus_should_synchronize = False
        try:
            yield
        finally:
            self._khorus_should_synchronize = True

    def set_backward_passes_per_step(self, passes: int) -> None:
        """How many backward passes add up before the gradients are reduced."""
        self._khorus.passes = passes
        for p in self._khorus.delay:
            self._khorus.delay[p] = passes

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Synchronizes, then steps. With a closure: each call of it has its gradients reduced."""
        base: Any = super()
        if closure is None:
            if self._khorus_should_synchronize:
                if self._khorus_synchronized:
                    warnings.warn(
                        "step() after synchronize() reduces the gradients again; call it inside "
                        "`with optimizer.skip_synchronize():`",
                        stacklevel=2,
                    )
                self.synchronize()
            self._khorus_synchronized = False
            return base.step()

        def reduced() -> Any:
            loss = closure()
            self.synchronize()
            return loss

        result = base.step(reduced)
        self._khorus_synchronized = False
        return result

    def _refuse_when_busy(self, what: str) -> None:
        if self._khorus.is_busy:
            raise AssertionError(
                f"{what} between backward() and step() or synchronize(): gradients are on their "
                "way; call it before backward()"
            )

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        self._refuse_when_busy("zero_grad()")
        base: Any = super()
        base.zero_grad(*args, **kwargs)
        if is_initialized():  # the best moment: few gradients have to move
            self._khorus.follow_the_plan(wait=False)
            self._khorus.arena.prepare()

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        is_made = "_khorus" in self.__dict__
        if is_made:
            self._refuse_when_busy("add_param_group()")
        base: Any = super()
        base.add_param_group(param_group)
        if is_made:
            self._khorus.add_hooks()

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Copies and pickles are the wrapped optimizer, as without Khorus."""
        state = {k: v for k, v in self.__dict__.items() if not k.startswith("_khorus")}
        for unwanted in ("step", "zero_grad"):
            state.pop(unwanted, None)
        keys = ("defaults", "state", "param_groups")
        return _plain, (type(self).__mro__[2], {k: state[k] for k in keys})


def _plain(cls: type[torch.optim.Optimizer], state: dict[str, Any]) -> torch.optim.Optimizer:
    optimizer = cls.__new__(cls)
    optimizer.__setstate__(state)
    return optimizer


def _groups_of(
    optimizer: torch.optim.Optimizer, num_groups: int, groups: Any
) -> list[list[Parameter]]:
    trainable = [p for g in optimizer.param_groups for p in g["params"] if p.requires_grad]
    if groups is not None:
        if isinstance(groups, bool) or not isinstance(groups, (int, list, tuple)):
            raise ValueError("groups: expected a number or lists of parameters")
        if isinstance(groups, int):
            num_groups = groups
            groups = None
    if groups is None:
        if num_groups < 0:
            raise ValueError(f"num_groups is {num_groups}; expected 0 or more")
        if num_groups == 0:
            return []
        length = -(-len(trainable) // num_groups)
        return [trainable[i : i + length] for i in range(0, len(trainable), length)]
    listed = [list(group) for group in groups]
    members = [p for group in listed for p in group]
    if len(set(members)) != len(members):
        raise ValueError("groups: a parameter is in two groups")
    if not set(members) <= set(trainable):
        raise ValueError("groups: a member is no trainable parameter of the optimizer")
    return listed


def DistributedOptimizer(
    optimizer: torch.optim.Optimizer,
    named_parameters: Iterable[tuple[str, Parameter]] | None = None,
    compression: type[Compressor] = Compression.none,
    backward_passes_per_step: int = 1,
    op: ReduceOp = Average,
    gradient_predivide_factor: float = 1.0,
    num_groups: int = 0,
    groups: Any = None,
    sparse_as_dense: bool = False,
    process_set: ProcessSet = global_process_set,
    gradient_arena: bool = True,
) -> Any:
    """Wraps a torch optimizer: its gradients are reduced over the ranks before each step.

    Returns an optimizer of a class that is named like the wrapped one's and inherits from it, with
    its state, options and parameters; the wrapped one is not used any more. See docs/api.md for the
    options, which are Horovod's, and gradient_arena: see below.

    gradient_arena: from the second step on, dense gradients live in memory that all ranks reduce
    without packing or copying, in the order in which backward() makes them and in buckets that the
    first step has shown to suit. On the CPU the bits are the same. A bucket that is compressed to
    fp16 or bf16 is cast as one tensor. Not with a compressor of your own, groups or Adasum; sparse
    gradients go one by one. Where parameters are on a GPU so is this memory, and gradients of the
    CPU go one by one. If it is False on some rank, no rank has an arena.

    A rank without a gradient takes part with zeros, or with no rows of one that is sparse on the
    other ranks: they agree on that in the first step, where one that no rank has counts as dense.
    A gradient that is sparse on one rank and dense on another there is a ValueError, after which
    the optimizer is of no use; later ones are converted. Sparse gradients go alone, also those in
    groups.

    Ranks may step several optimizers in different orders while all their parameters have gradients:
    for one without, a rank takes part only in the step() of its own optimizer.

    Of dense gradients on a GPU, step() and synchronize() let the current stream wait, not the host.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"expected a torch optimizer, got {optimizer!r}")
    if op not in (Average, Sum, Adasum):
        raise ValueError(f"op is {op!r}; gradients know Average, Sum, Adasum")
    if gradient_predivide_factor != 1.0 and op != Average:
        raise ValueError("gradient_predivide_factor needs op=Average")
    if backward_passes_per_step < 1:
        raise ValueError(f"backward_passes_per_step is {backward_passes_per_step}; at least 1")
    base = type(optimizer)
    cls: Any = type(base.__name__, (_Distributed, base), {"__module__": base.__module__})
    wrapped: Any = cls.__new__(cls)
    wrapped.__dict__.update(optimizer.__dict__)
    # What a scheduler put around the wrapped optimizer's step() would step without us.
    wrapped.__dict__.pop("step", None)
    wrapped._khorus = Reducer(
        wrapped,
        named_parameters,
        compression,
        backward_passes_per_step,
        ReduceOp(op),
        gradient_predivide_factor,
        _groups_of(optimizer, num_groups, groups),
        sparse_as_dense,
        process_set,
        gradient_arena,
    )
    wrapped._khorus_synchronized = False
    wrapped._khorus_should_synchronize = True
    return wrapped

"""DistributedOptimizer: a torch optimizer whose gradients are reduced over the ranks.

A hook on every parameter fires when its gradient is complete, and submits it at once, so that
communication overlaps the rest of the backward pass; step() waits for all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import torch

from khorus.process_sets import ProcessSet, global_process_set
from khorus.reduce_ops import Adasum, Average, ReduceOp, Sum
from khorus.torch.compression import Compression, Compressor
from khorus.torch.mpi_ops import (
    allreduce_async_,
    grouped_allreduce_async_,
    sparse_allreduce_async,
    synchronize,
)

__all__ = ["DistributedOptimizer"]

Parameter = torch.Tensor


class _Reducer:
    """What DistributedOptimizer adds to an optimizer: which gradients are under way, and how."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        named_parameters: Iterable[tuple[str, Parameter]] | None,
        compression: type[Compressor],
        backward_passes_per_step: int,
        op: ReduceOp,
        gradient_predivide_factor: float,
        groups: list[list[Parameter]],
        sparse_as_dense: bool,
        process_set: ProcessSet,
    ) -> None:
        self.optimizer = optimizer
        self.names = _names_of(optimizer, named_parameters)
        self.compression = compression
        self.passes = backward_passes_per_step
        self.op = op
        self.predivide = gradient_predivide_factor
        self.sparse_as_dense = sparse_as_dense
        self.process_set = process_set
        self.group_of = {p: tuple(group) for group in groups for p in group}
        self.delay: dict[Parameter, int] = {}
        self.ready: dict[tuple[Parameter, ...], set[Parameter]] = {}
        self.pending: dict[Parameter, Callable[[], None]] = {}
        self.hooked: dict[Parameter, Any] = {}
        self.add_hooks()

    def parameters(self) -> Iterator[Parameter]:
        for group in self.optimizer.param_groups:
            for p in group["params"]:
                if p.requires_grad:
                    yield p

    def add_hooks(self) -> None:
        """Also for parameters that came with add_param_group() or were thawed."""
        for p in self.parameters():
            if p in self.hooked:
                continue
            self.delay[p] = self.passes
            if hasattr(p, "register_post_accumulate_grad_hook"):
                self.hooked[p] = p.register_post_accumulate_grad_hook(self.gradient_is_there)
            else:  # before torch 2.1
                node: Any = p.expand_as(p).grad_fn
                node = node.next_functions[0][0]
                node.register_hook(lambda *_, p=p: self.gradient_is_there(p))
                self.hooked[p] = node

    def remove_hooks(self) -> None:
        for hook in self.hooked.values():
            if hasattr(hook, "remove"):
                hook.remove()
        self.hooked.clear()

    def gradient_is_there(self, p: Parameter) -> None:
        if self.process_set.included() is False:
            return
        if p in self.pending or self.delay[p] <= 0:
            raise AssertionError(
                f"the gradient of {self.name_of(p)!r} was computed more than {self.passes} times "
                "before step() or synchronize(); raise backward_passes_per_step if that is meant"
            )
        self.delay[p] -= 1
        if self.delay[p] == 0:
            self.submit(p)

    def name_of(self, p: Parameter) -> str:
        name = self.names.get(p)
        if name is None:
            name = self.names[p] = f"allreduce.added.{len(self.names)}"
        return name

    def submit(self, p: Parameter) -> None:
        group = self.group_of.get(p)
        if group is None:
            self.submit_alone(p)
            return
        ready = self.ready.setdefault(group, set())
        ready.add(p)
        self.pending[p] = lambda: None
        if len(ready) == len(group):
            del self.ready[group]
            self.submit_group(group)

    def gradient_of(self, p: Parameter) -> torch.Tensor:
        if p.grad is None:
            # Another rank may have one, and waits for ours.
            p.grad = torch.zeros_like(p)
        if p.grad.is_sparse and self.sparse_as_dense:
            p.grad = p.grad.to_dense()
        return p.grad

    def options(self) -> dict[str, Any]:
        before, after = 1.0, 1.0
        if self.op == Average:
            before, after = 1.0 / self.predivide, self.predivide
        return {
            "op": self.op,
            "prescale_factor": before,
            "postscale_factor": after,
            "process_set": self.process_set,
        }

    def submit_alone(self, p: Parameter) -> None:
        gradient = self.gradient_of(p)
        if gradient.is_sparse:
            wait = sparse_allreduce_async(gradient, self.name_of(p), self.op, self.process_set)

            def finish_sparse() -> None:
                p.grad = wait()

            self.pending[p] = finish_sparse
            return
        smaller, context = self.compression.compress(gradient)
        handle = allreduce_async_(smaller, name=self.name_of(p), **self.options())

        def finish() -> None:
            self.put_back(p, synchronize(handle), context)

        self.pending[p] = finish

    def submit_group(self, group: Sequence[Parameter]) -> None:
        pairs = [self.compression.compress(self.gradient_of(p)) for p in group]
        handle = grouped_allreduce_async_(
            [smaller for smaller, _ in pairs], name=self.name_of(group[0]), **self.options()
        )

        def finish() -> None:
            for p, reduced, (_, context) in zip(group, synchronize(handle), pairs, strict=True):
                self.put_back(p, reduced, context)

        for p in group[1:]:
            self.pending[p] = lambda: None
        self.pending[group[0]] = finish

    def put_back(self, p: Parameter, reduced: torch.Tensor, context: Any) -> None:
        whole = self.compression.decompress(reduced, context)
        assert p.grad is not None
        if whole.data_ptr() != p.grad.data_ptr():
            with torch.no_grad():
                p.grad.copy_(whole)

    def synchronize(self) -> None:
        if self.process_set.included() is False:
            return
        self.add_hooks()
        for p in self.parameters():
            if p not in self.pending:  # no gradient on this rank, or fewer passes than planned
                self.submit(p)
        for group in list(self.ready):  # of which a member was frozen meanwhile
            del self.ready[group]
            self.submit_group(group)
        error: BaseException | None = None
        for finish in list(self.pending.values()):
            try:
                finish()
            except (RuntimeError, ValueError) as failure:
                error = error or failure
        self.pending.clear()
        for p in self.delay:
            self.delay[p] = self.passes
        if error is not None:
            raise error

    def forget(self) -> None:
        """Drops what is under way after the engine has failed. No memory of it is in use then."""
        for finish in list(self.pending.values()):
            with suppress(RuntimeError, ValueError):
                finish()
        self.pending.clear()
        self.ready.clear()
        for p in self.delay:
            self.delay[p] = self.passes

    @property
    def is_busy(self) -> bool:
        return bool(self.pending)


def _names_of(
    optimizer: torch.optim.Optimizer,
    named_parameters: Iterable[tuple[str, Parameter]] | None,
) -> dict[Parameter, str]:
    every = [p for group in optimizer.param_groups for p in group["params"]]
    if named_parameters is None:
        return {p: f"allreduce.noname.{i}" for i, p in enumerate(every)}
    named = list(named_parameters)
    if any(not isinstance(item, tuple) for item in named):
        raise ValueError(
            "named_parameters: expected pairs of name and parameter, as of model.named_parameters()"
        )
    names = [name for name, _ in named]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"named_parameters: these names are there twice: {', '.join(twice)}")
    known = {p for _, p in named}
    nameless = sum(1 for p in every if p not in known)
    if nameless:
        raise ValueError(
            f"named_parameters: {nameless} parameters of the optimizer are not among them; give "
            "all or none"
        )
    return {p: name for name, p in named}


class _Distributed:
    """The methods that the optimizer's class gets; the rest is the wrapped class."""

    _khorus: _Reducer
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

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        if self._khorus.is_busy:
            raise AssertionError(
                "zero_grad() between backward() and step() or synchronize(): gradients are on "
                "their way; call it before backward()"
            )
        base: Any = super()
        base.zero_grad(*args, **kwargs)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        base: Any = super()
        base.add_param_group(param_group)
        if "_khorus" in self.__dict__:
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
) -> Any:
    """Wraps a torch optimizer: its gradients are reduced over the ranks before each step.

    Returns an optimizer of a class that is named like the wrapped one's and inherits from it, with
    its state, options and parameters; the wrapped one is not used any more. See docs/api.md for the
    options, which are Horovod's.
    """
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
    wrapped._khorus = _Reducer(
        wrapped,
        named_parameters,
        compression,
        backward_passes_per_step,
        ReduceOp(op),
        gradient_predivide_factor,
        _groups_of(optimizer, num_groups, groups),
        sparse_as_dense,
        process_set,
    )
    wrapped._khorus_synchronized = False
    wrapped._khorus_should_synchronize = True
    return wrapped

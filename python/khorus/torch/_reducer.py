"""What DistributedOptimizer adds to an optimizer: which gradients are under way, and how.

A hook on every parameter fires when its gradient is complete, and submits it, or the bucket whose
last gradient it is, so that communication overlaps the rest of the backward pass. Not public.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

import torch

from khorus import _core
from khorus.process_sets import ProcessSet, id_of
from khorus.reduce_ops import Average, ReduceOp, Sum
from khorus.torch._allreduce import start_group_in_place
from khorus.torch._arena import Arena, Bucket
from khorus.torch._kinds import Kinds
from khorus.torch._sparse import no_rows_of
from khorus.torch._tensors import checked, tidy, view
from khorus.torch.compression import Compression, Compressor, compressing
from khorus.torch.mpi_ops import allreduce_async_, sparse_allreduce_async, synchronize

Parameter = torch.Tensor


class Part:
    """A gradient of a group, as it will be sent.

    Made in the hook. So on a GPU it is ready with the stream that has computed the gradient,
    whichever the last gradient of the group comes from."""

    def __init__(self, gradient: torch.Tensor, compression: type[Compressor]) -> None:
        self.smaller, self.context = compression.compress(gradient)
        self.source = checked(self.smaller, "grouped_allreduce")
        self.view = view(self.source)


class Reducer:
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
        gradient_arena: bool,
    ) -> None:
        self.optimizer = optimizer
        self.names = names_of(optimizer, named_parameters)
        self.compression = compressing(compression)
        self.passes = backward_passes_per_step
        self.op = op
        self.predivide = gradient_predivide_factor
        self.sparse_as_dense = sparse_as_dense
        self.process_set = process_set
        self.group_of = {p: tuple(group) for group in groups for p in group}
        self.delay: dict[Parameter, int] = {}
        self.ready: dict[tuple[Parameter, ...], dict[Parameter, Part]] = {}
        self.pending: dict[Parameter, Callable[[], None]] = {}
        self.hooked: dict[Parameter, Any] = {}
        self.kinds = Kinds(matter=not sparse_as_dense)
        self.arena = Arena(gradient_arena)
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
            self.kinds.note_new_parameter()
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
        self.follow_the_plan()
        if p in self.pending or self.delay[p] <= 0:
            raise AssertionError(
                f"the gradient of {self.name_of(p)!r} was computed more than {self.passes} times "
                "before step() or synchronize(); raise backward_passes_per_step if that is meant"
            )
        self.delay[p] -= 1
        if self.delay[p] == 0:
            self.arena.note_arrival(p)
            self.submit(p)
            if not self.kinds.are_known and all(q in self.pending for q in self.parameters()):
                self.say_kinds()

    def name_of(self, p: Parameter) -> str:
        name = self.names.get(p)
        if name is None:
            name = self.names[p] = f"allreduce.added.{len(self.names)}"
        return name

    def follow_the_plan(self, wait: bool = True) -> None:
        if self.arena.generation != _core.generation():
            self.arena.forget()
            self.kinds.forget()
        self.arena.follow_the_plan(self.process_set, wait)

    def may_learn(self) -> bool:
        """Gradients in groups, of Adasum or with a compressor of the user's go as they are told."""
        return (
            not self.arena.is_learnt
            and not self.group_of
            and self.compression in (Compression.none, Compression.fp16, Compression.bf16)
            and self.op in (Average, Sum)
            and _core.place()[1] > 1
        )

    def say_kinds(self) -> None:
        with self.arena.lock:
            named = [(self.name_of(p), p) for p in self.every_parameter()]
            self.kinds.say(named, self.process_set)

    def agree_on_kinds(self) -> None:
        """Before gradients leave that this rank has not made, and before it waits for any."""
        if not self.kinds.are_known:
            self.say_kinds()
            self.kinds.hear(self.process_set.size())

    def every_parameter(self) -> list[Parameter]:
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def submit_in_first_step(self, p: Parameter) -> None:
        """Not in buckets yet, but in memory of the arena."""
        self.gradient_of(p)
        if self.arena.wanted:
            if self.arena.first is None:
                self.arena.lay_out_first_step(self.every_parameter(), id_of(self.process_set))
            self.arena.take_first(p)
        self.submit_alone(p)

    def submit(self, p: Parameter) -> None:
        bucket = self.arena.bucket_of.get(p)
        if bucket is not None:
            with self.arena.lock:
                self.gradient_of(p)
                bucket.take(p)
                self.pending[p] = lambda: None
                if bucket.is_complete:
                    self.submit_bucket(bucket)
            return
        gradient = self.gradient_of(p)
        group = self.group_of.get(p)
        if group is not None and not gradient.is_sparse:
            part = Part(gradient, self.compression)
            with self.arena.lock:
                self.ready.setdefault(group, {})[p] = part
                self.pending[p] = lambda: None
        elif self.may_learn():
            self.submit_in_first_step(p)
        else:
            self.submit_alone(p)
        if group is not None:
            with self.arena.lock:
                if group in self.ready and all(q in self.pending for q in group):
                    self.submit_group(group)

    def gradient_of(self, p: Parameter) -> torch.Tensor:
        """In the form in which it travels."""
        sparse = self.kinds.of(p)
        if p.grad is None:  # another rank may have one, and waits for ours
            p.grad = no_rows_of(p) if sparse else torch.zeros_like(p)
        if p.grad.is_sparse and (self.sparse_as_dense or sparse is False):
            p.grad = p.grad.to_dense()
        elif sparse and not p.grad.is_sparse:
            p.grad = p.grad.to_sparse(1)
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

    def submit_bucket(self, bucket: Bucket) -> None:
        options = self.options()
        handle = bucket.submit(
            int(self.op),
            options["prescale_factor"],
            options["postscale_factor"],
            self.compression,
        )
        self.pending[next(p for p in bucket.places if p not in bucket.missing)] = handle.wait

    def submit_group(self, group: tuple[Parameter, ...]) -> None:
        tidy()
        ready = self.ready.pop(group)
        # Without sparse gradients, which go alone; what is frozen here is still to come.
        members = [p for p in group if p in ready or not (p in self.pending or self.kinds.of(p))]
        parts = [ready.get(p) or Part(self.gradient_of(p), self.compression) for p in members]
        options = self.options()
        handle = start_group_in_place(
            [part.smaller for part in parts],
            [part.source for part in parts],
            [part.view for part in parts],
            self.name_of(group[0]),
            self.op,
            (options["prescale_factor"], options["postscale_factor"]),
            self.process_set,
        )

        def finish() -> None:
            for p, reduced, part in zip(members, synchronize(handle), parts, strict=True):
                self.put_back(p, reduced, part.context)

        for p in members[1:]:
            self.pending[p] = lambda: None
        self.pending[members[0]] = finish

    def put_back(self, p: Parameter, reduced: torch.Tensor, context: Any) -> None:
        whole = self.compression.decompress(reduced, context)
        assert p.grad is not None
        if whole.data_ptr() != p.grad.data_ptr():
            with torch.no_grad():
                p.grad.copy_(whole)

    def synchronize(self) -> None:
        if self.process_set.included() is False:
            return
        self.follow_the_plan()
        self.add_hooks()
        self.agree_on_kinds()
        for p in self.parameters():
            if p not in self.pending:  # no gradient on this rank, or fewer passes than planned
                self.submit(p)
        for group in list(self.ready):  # of which a member was frozen meanwhile
            self.submit_group(group)
        for bucket in self.arena.buckets:  # the same
            if not bucket.submitted and bucket.is_complete and bucket.has_some:
                self.submit_bucket(bucket)
        error: BaseException | None = None
        for finish in list(self.pending.values()):
            try:
                finish()
            except (RuntimeError, ValueError) as failure:
                error = error or failure
        self.pending.clear()
        self.kinds.end_step()
        for bucket in self.arena.buckets:
            bucket.reset()
        for p in self.delay:
            self.delay[p] = self.passes
        if error is not None:
            raise error
        if self.may_learn():
            named = [(self.name_of(p), p) for p in self.every_parameter()]
            self.arena.learn(named, id_of(self.process_set))

    def forget(self) -> None:
        """Drops what is under way after the engine has failed. No memory of it is in use then."""
        for finish in list(self.pending.values()):
            with suppress(RuntimeError, ValueError):
                finish()
        self.pending.clear()
        self.ready.clear()
        self.arena.forget()
        self.kinds.forget()
        for p in self.delay:
            self.delay[p] = self.passes

    @property
    def is_busy(self) -> bool:
        return bool(self.pending)


def names_of(
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

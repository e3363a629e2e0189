"""Which gradients are sparse: what the ranks agree on in their first step. Not public.

A rank without a gradient has to know how the others' travel, or they wait for it. So each rank says
what it has when its last gradient has come, or in synchronize(), which waits for what the others
say. Nobody else waits for that: so ranks may step several optimizers in different orders.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from khorus.process_sets import ProcessSet
from khorus.reduce_ops import Sum
from khorus.torch._allreduce import allreduce_async_
from khorus.torch._tensors import Handle, synchronize

Parameter = torch.Tensor


class Kinds:
    """Of the gradients of one optimizer. `matter`: False, if all are dense on their way."""

    def __init__(self, matter: bool) -> None:
        self.matter = matter
        self.forget()

    def forget(self) -> None:
        """Of another engine: the ranks are not the same."""
        self.are_known = not self.matter
        self.settled: dict[Parameter, bool] = {}  # True: sparse
        self.of_this_step: dict[Parameter, bool] = {}  # while a rank has joined and hears nothing
        self.saying: tuple[list[tuple[str, Parameter]], torch.Tensor, Handle] | None = None

    def note_new_parameter(self) -> None:
        self.are_known = not self.matter

    def end_step(self) -> None:
        self.of_this_step.clear()

    def of(self, p: Parameter) -> bool | None:
        """True: all ranks send sparse gradients; False: dense ones; None: not known yet."""
        return self.settled.get(p, self.of_this_step.get(p))

    def say(self, named: Sequence[tuple[str, Parameter]], process_set: ProcessSet) -> None:
        """Tells the others about the parameters that are not settled, and returns at once."""
        unknown = [(name, p) for name, p in named if p not in self.settled]
        self.are_known = not unknown
        if self.are_known or self.saying is not None:
            return
        # How many ranks take part; how many have a dense gradient of each, and a sparse one.
        counts = [1]
        for _, p in unknown:
            sparse = p.grad is not None and p.grad.is_sparse
            counts += [int(p.grad is not None and not sparse), int(sparse)]
        seen = torch.tensor(counts, dtype=torch.int32)
        name = f"{named[0][0]}.gradient_kinds"
        handle = allreduce_async_(seen, name=name, op=Sum, process_set=process_set)
        self.saying = unknown, seen, handle

    def hear(self, size: int) -> None:
        """Waits for what the others said, if this rank has said something. `size`: of the process
        set. Raises ValueError if a gradient is dense on one rank and sparse on another."""
        if self.saying is None:
            return
        unknown, seen, handle = self.saying
        self.saying = None
        synchronize(handle)
        took_part, *counts = seen.tolist()
        known = self.settled if took_part == size else self.of_this_step
        for (name, p), dense, sparse in zip(unknown, counts[::2], counts[1::2], strict=True):
            if dense and sparse:
                here = "none" if p.grad is None else "sparse" if p.grad.is_sparse else "dense"
                raise ValueError(
                    f"the gradient of {name!r} is sparse on {sparse} and dense on {dense} of "
                    f"{size} ranks (on this one: {here}); give DistributedOptimizer "
                    "sparse_as_dense=True"
                )
            known[p] = sparse > 0

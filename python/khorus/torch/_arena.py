"""The gradient arena: memory in which gradients are reduced where they lie. Not public.

After the first step the ranks tell each other in which order gradients came and how fast they were
reduced, and from the next step on all follow the plan that this makes (khorus/gradient_plan.h):
gradients of a bucket lie side by side and are reduced as one tensor. A gradient that backward() has
made elsewhere is copied to its place, and p.grad with it.
"""

from __future__ import annotations

import threading
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from khorus import _core
from khorus.process_sets import ProcessSet, id_of
from khorus.torch import _device
from khorus.torch._device import gpu_among, is_gpu
from khorus.torch._memory import Memory, allocate, allocated
from khorus.torch._tensors import _NUMBERS, Handle, view
from khorus.torch.compression import Compressor

Parameter = torch.Tensor

_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_UNFIT = (_NUMBERS[torch.float32], 0, -1, False)


def arena_device(parameters: Iterable[Parameter]) -> torch.device:
    """An arena is on one device: a GPU, if some parameter is there."""
    return gpu_among(parameters) or torch.device("cpu")


def may_be_in_an_arena(p: Parameter, device: torch.device) -> bool:
    """A gradient that is sparse now stays out; one that nobody made now may come later."""
    return (
        type(p) in (torch.Tensor, torch.nn.Parameter)
        and p.requires_grad
        and p.device == device
        and p.layout == torch.strided
        and p.dtype in _FLOATS
        and p.numel() > 0
        and p.is_contiguous()
        and not (p.grad is not None and p.grad.is_sparse)
    )


def _nothing() -> object:
    return None


class _Place:
    """Where the gradient of one parameter lies in its bucket.

    A tensor that is given away lies on a part of the memory of its own. While that lives, somebody
    has the tensor, or a view of it.
    """

    def __init__(self, p: Parameter, offset_bytes: int) -> None:
        self.shape, self.dtype = p.shape, p.dtype
        self.offset = offset_bytes
        self.bytes = p.numel() * p.element_size()
        self.given: Callable[[], object] = _nothing
        self.prepared: torch.Tensor | None = None

    def prepare(self, memory: Memory) -> None:
        """What tensor() will give, made before there is a gradient: small objects behind a gradient
        that is freed in the hook would leave a hole in the heap that glibc does not fill."""
        if self.given() is None:
            self.prepared = self.tensor(memory, give=True)

    def forget(self) -> None:
        self.prepared = None
        self.given = _nothing

    def home(self, memory: Memory) -> torch.Tensor:
        """REQUIRES: nobody has it."""
        prepared, self.prepared = self.prepared, None
        return self.tensor(memory, give=True) if prepared is None else prepared

    @property
    def is_taken(self) -> bool:
        return self.prepared is None and self.given() is not None

    def tensor(self, memory: Memory, give: bool) -> torch.Tensor:
        part, tensor = memory.part(self.offset, self.bytes, self.dtype, self.shape)
        if give:
            self.given = weakref.ref(part)
        return tensor

    def has(self, gradient: torch.Tensor, memory: Memory) -> bool:
        return (
            gradient.layout == torch.strided
            and gradient.data_ptr() == memory.address + self.offset
            and gradient.is_contiguous()
        )


class Bucket:
    """Gradients that are reduced together. Of one thread at a time."""

    def __init__(
        self,
        members: Sequence[tuple[str, Parameter]],
        plan: _core.Bucket,
        arena: Memory,
        process_set: int,
    ) -> None:
        self.name = f"{members[0][0]} .. {members[-1][0]} ({len(members)} gradients)"
        self.plan = plan
        self.memory = arena
        self.start = plan.offset_bytes
        self.process_set = process_set
        self.names = {p: name for name, p in members}
        self.places: dict[Parameter, _Place] = {}
        offset = plan.offset_bytes
        for _, p in members:
            self.places[p] = _Place(p, offset)
            offset += self.places[p].bytes
        self.end = offset
        self.missing = set(self.places)
        self.copied_back: list[Parameter] = []
        self.streams: list[Any] = []  # of a GPU: in which gradients were computed
        self.submitted = False

    def settle(self) -> None:
        """What is kept from step to step moves once, and stays the same tensor."""
        with torch.no_grad():
            for p, place in self.places.items():
                gradient = p.grad
                if gradient is None or gradient.is_sparse or gradient.requires_grad:
                    continue
                if gradient.shape == place.shape:
                    gradient.data = place.home(self.memory).copy_(gradient)

    def prepare(self) -> None:
        for place in self.places.values():
            place.prepare(self.memory)

    def take(self, p: Parameter) -> None:
        """The gradient of this step, which there is, goes to its place."""
        place = self.places[p]
        gradient = p.grad
        assert gradient is not None
        if gradient.shape != place.shape:
            raise ValueError(
                f"the gradient of {self.names[p]!r} had shape {list(place.shape)} and has shape "
                f"{list(gradient.shape)}; give parameters that change a DistributedOptimizer with "
                "gradient_arena=False"
            )
        if self.memory.device is not None:
            self.streams.append(_device.gpu.current_stream(self.memory.device))
        with torch.no_grad():
            if not place.has(gradient, self.memory):
                self.free(place)
                if gradient.requires_grad or gradient.is_sparse:  # stays what it is
                    dense = gradient.to_dense() if gradient.is_sparse else gradient
                    place.tensor(self.memory, give=False).copy_(dense)
                    self.copied_back.append(p)
                else:
                    gradient.data = place.home(self.memory).copy_(gradient)
        self.missing.discard(p)

    def free(self, place: _Place) -> None:
        """Who still has a gradient of an earlier step keeps it, and the memory of the bucket."""
        if not place.is_taken:
            return
        size = self.end - self.start
        memory = allocated(size, self.process_set, next(iter(self.places)).device)
        old, shift, self.memory = self.memory, self.start, memory
        self.start, self.end = 0, size
        for p, moved in self.places.items():
            there = p not in self.missing and p.grad is not None and moved.has(p.grad, old)
            now = moved.tensor(old, give=False)
            moved.offset -= shift
            moved.forget()
            if there:
                p.grad = moved.home(memory).copy_(now)
            elif p in self.copied_back:
                moved.tensor(memory, give=False).copy_(now)

    @property
    def is_complete(self) -> bool:
        """A parameter that is frozen here is not waited for."""
        return not any(p.requires_grad for p in self.missing)

    @property
    def has_some(self) -> bool:
        return len(self.missing) < len(self.places)

    def submit(
        self, op: int, prescale: float, postscale: float, compression: type[Compressor]
    ) -> Handle:
        """`compression` treats each element for itself, and so a bucket as its gradients."""
        with torch.no_grad():
            for p in self.missing:  # frozen: its gradient, if it has one, is left alone
                self.free(self.places[p])
                self.places[p].tensor(self.memory, give=False).zero_()
        device = self.memory.device
        if device is not None:
            here = _device.gpu.current_stream(device)
            for stream in self.streams:
                if stream != here:
                    here.wait_event(_device.gpu.record(stream))
        whole = self.whole()
        travels, _ = compression.compress(whole)
        there = view(travels)
        work = _core.allreduce(self.name, there, there, op, prescale, postscale, self.process_set)
        self.submitted = True

        def finish(_: Any) -> None:
            if travels is not whole:
                with torch.no_grad():
                    whole.copy_(travels)
            self.finish()

        return Handle([work], (self.memory, travels, there), finish, device)

    def whole(self) -> torch.Tensor:
        shape = torch.Size([self.plan.elements])
        dtype = next(iter(self.places)).dtype
        return self.memory.part(self.start, self.end - self.start, dtype, shape)[1]

    def finish(self) -> None:
        with torch.no_grad():
            for p, place in self.places.items():
                if p in self.missing:
                    continue
                if p.grad is None or p.grad.is_sparse:
                    p.grad = place.tensor(self.memory, give=False).clone()
                elif not place.has(p.grad, self.memory):  # has a history, or was replaced
                    p.grad.copy_(place.tensor(self.memory, give=False))

    def reset(self) -> None:
        self.missing = set(self.places)
        self.copied_back.clear()
        self.streams.clear()
        self.submitted = False


# By engine and name: the next one of the same name, of another optimizer, comes after it.
_under_way: dict[tuple[int, str], _core.GradientLearning] = {}


class Arena:
    """The buckets of one optimizer, once they are learnt."""

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted
        self.lock = threading.Lock()  # backward() may run in several threads
        self.forget()

    def forget(self) -> None:
        """Of another engine: the ranks are not the same."""
        self.generation = _core.generation()
        self.buckets: list[Bucket] = []
        self.bucket_of: dict[Parameter, Bucket] = {}
        self.is_learnt = False
        self.learning: _core.GradientLearning | None = None
        self.names: list[tuple[str, Parameter]] = []
        self.arrivals_us: dict[Parameter, int] = {}
        self.first_ns = 0
        self.events: dict[Parameter, Any] = {}  # the arrivals of a step on a GPU, in their order
        self.first: Memory | None = None
        self.first_places: dict[Parameter, _Place] = {}

    def note_arrival(self, p: Parameter) -> None:
        if self.is_learnt:
            return
        if is_gpu(p.device):  # the host is far ahead of it
            self.events[p] = _device.gpu.record(_device.gpu.current_stream(p.device), timing=True)
            return
        now = time.monotonic_ns()
        if not self.arrivals_us:
            self.first_ns = now
        self.arrivals_us[p] = (now - self.first_ns) // 1000

    def measure_arrivals(self) -> None:
        """Waits for the GPU, in a step that is learnt from."""
        first: Any = next(iter(self.events.values()), None)
        for p, event in self.events.items():
            event.synchronize()
            self.arrivals_us[p] = max(int(1000 * first.elapsed_time(event)), 0)
        self.events.clear()

    def lay_out_first_step(self, every: Sequence[Parameter], process_set: int) -> None:
        """Before anything is learnt gradients lie in the order in which backward() is likely to
        make them, and go one by one. In memory of their own they would leave holes in the heap when
        they move."""
        device = arena_device(every)
        offset = 0
        for p in reversed(every):
            if may_be_in_an_arena(p, device):
                self.first_places[p] = _Place(p, offset)
                offset += -(-self.first_places[p].bytes // 64) * 64
        if offset > 0:
            self.first = allocate(offset, process_set, device)
        if self.first is not None:
            for place in self.first_places.values():
                place.prepare(self.first)

    def take_first(self, p: Parameter) -> None:
        """Of a step that is learnt from."""
        place, gradient = self.first_places.get(p), p.grad
        if (
            self.first is None
            or place is None
            or gradient is None
            or gradient.is_sparse
            or gradient.requires_grad
            or gradient.shape != place.shape
            or place.is_taken  # it is there, or somebody has an earlier one
        ):
            return
        with torch.no_grad():
            gradient.data = place.home(self.first).copy_(gradient)

    def learn(self, named: list[tuple[str, Parameter]], process_set: int) -> None:
        """At the end of a step. Returns at once. A rank that wants no arena takes part, too:
        nothing of it fits, so no rank has one."""
        self.measure_arrivals()
        device = arena_device(p for _, p in named)
        profiles = [
            (_NUMBERS[p.dtype], p.numel(), self.arrivals_us.get(p, -1), True)
            if self.wanted and may_be_in_an_arena(p, device)
            else _UNFIT
            for _, p in named
        ]
        signature = zlib.crc32(repr([(name, len(named)) for name, _ in named]).encode())
        name = f"{named[0][0]}.gradient_arrivals.{signature:08x}"
        key = self.generation, name
        before = _under_way.pop(key, None)
        if before is not None:
            before.plan()
        self.learning = _under_way[key] = _core.learn_gradients(name, profiles, process_set)
        self.names = named
        self.arrivals_us.clear()

    def follow_the_plan(self, process_set: ProcessSet, wait: bool) -> None:
        """Before the first gradient of a step leaves. All ranks have begun to learn in the step
        before, so this waits for none that has to do something else first. Without `wait`: if the
        plan is there. Who needs one that has failed says so: perhaps this was the last step."""
        if self.learning is None:
            return
        with self.lock:
            if self.learning is None or not (wait or self.learning.is_there()):
                return
            plan = self.learning.plan()
            if plan is not None and plan.buckets:
                self.make_buckets(plan, id_of(process_set))
            self.is_learnt = plan is not None  # else a rank has joined and has not heard it
            if self.is_learnt:
                self.first, self.first_places = None, {}
            self.learning = None

    def prepare(self) -> None:
        """After zero_grad()."""
        for bucket in self.buckets:
            bucket.prepare()

    def make_buckets(self, plan: _core.GradientPlan, process_set: int) -> None:
        # What somebody still has stays there, and so does the memory.
        is_free = not any(place.is_taken for place in self.first_places.values())
        arena = self.first if is_free else None
        if arena is None or arena.bytes < plan.bytes:
            device = arena_device(p for _, p in self.names)
            arena = allocated(plan.bytes, process_set, device)
        for planned in plan.buckets:
            members = [self.names[i] for i in planned.gradients]
            bucket = Bucket(members, planned, arena, process_set)
            self.buckets.append(bucket)
            self.bucket_of.update((p, bucket) for _, p in members)
            bucket.settle()
            bucket.prepare()

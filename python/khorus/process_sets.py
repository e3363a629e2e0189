"""Process sets: some of the ranks, for operations of their own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from khorus import _core

__all__ = ["ProcessSet", "add_process_set", "global_process_set", "remove_process_set"]


class ProcessSet:
    """Some ranks of the job, by their numbers in it.

    A set can be used once it has an id: after init(process_sets=[...]) or add_process_set().
    """

    def __init__(self, ranks: Sequence[int]) -> None:
        self._ranks: list[int] | None = sorted({int(r) for r in ranks})
        self.process_set_id: int | None = None

    @property
    def ranks(self) -> list[int] | None:
        """Ascending; of the global set before init(): None."""
        if self._ranks is None and _core.is_initialized():
            return list(range(_core.place()[1]))
        return self._ranks

    def _known_ranks(self) -> list[int]:
        if self.process_set_id is None:
            raise ValueError(
                f"{self} is not part of the job: give it to init() or add_process_set() first"
            )
        ranks = self.ranks
        if ranks is None:
            _core.place()  # raises: there is no engine
            raise AssertionError
        return ranks

    def included(self) -> bool:
        """Whether this rank is in the set."""
        return _core.place()[0] in self._known_ranks()

    def size(self) -> int:
        return len(self._known_ranks())

    def rank(self) -> int:
        """This rank's number in the set. ValueError if it is not in there."""
        ranks = self._known_ranks()
        rank = _core.place()[0]
        if rank not in ranks:
            raise ValueError(f"rank {rank} is not in {self}")
        return ranks.index(rank)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ProcessSet):
            return NotImplemented
        return self.process_set_id == other.process_set_id and self.ranks == other.ranks

    def __hash__(self) -> int:
        return hash(self.process_set_id)

    def __str__(self) -> str:
        return f"ProcessSet(process_set_id={self.process_set_id}, ranks={self.ranks})"

    __repr__ = __str__


class _Global(ProcessSet):
    def __init__(self) -> None:
        super().__init__([])
        self._ranks = None
        self.process_set_id = 0


global_process_set: ProcessSet = _Global()
_known: dict[int, ProcessSet] = {}


def add_process_set(process_set: ProcessSet | Iterable[int]) -> ProcessSet:
    """Makes a process set of the job; every rank calls it with the same ranks. Blocks until the
    set's ranks are connected. Returns the set, with its id."""
    if not isinstance(process_set, ProcessSet):
        process_set = ProcessSet(list(process_set))
    if process_set.process_set_id is not None:
        raise ValueError(f"{process_set} is a process set of the job already")
    process_set.process_set_id = _core.add_process_set(process_set.ranks or [])
    _known[process_set.process_set_id] = process_set
    return process_set


def remove_process_set(process_set: ProcessSet) -> bool:
    """Takes a process set out of the job; every rank calls it. False: it was not in it."""
    _check(process_set)
    if process_set.process_set_id is None:
        return False
    if process_set.process_set_id == 0:
        raise ValueError("the global process set cannot be removed")
    _core.remove_process_set(process_set.process_set_id)
    _known.pop(process_set.process_set_id, None)
    process_set.process_set_id = None
    return True


def _check(process_set: ProcessSet) -> None:
    if not isinstance(process_set, ProcessSet):
        raise TypeError(f"expected a ProcessSet, got {process_set!r}")


def id_of(process_set: ProcessSet) -> int:
    """What the engine calls it. ValueError if it is not part of the job."""
    _check(process_set)
    if process_set.process_set_id is None:
        raise ValueError(
            f"{process_set} is not part of the job: give it to init() or add_process_set() first"
        )
    return process_set.process_set_id


def start(process_sets: list[ProcessSet]) -> None:
    """Starts the engine with these sets."""
    if _core.is_initialized():
        return
    taken = [s for s in process_sets if s.process_set_id is not None]
    if taken:
        raise ValueError(f"init(): {taken[0]} is a process set of the job already")
    ids = _core.init([s.ranks or [] for s in process_sets])
    for process_set, number in zip(process_sets, ids, strict=True):
        process_set.process_set_id = number
        _known[number] = process_set


def forget_all() -> None:
    """The engine has ended, and its sets with it."""
    for process_set in _known.values():
        process_set.process_set_id = None
    _known.clear()

"""What an elastic training must not lose: kept in memory at each commit, and equal on all ranks
after sync()."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch

from khorus.basics import rank
from khorus.torch.elastic.sampler import ElasticSampler
from khorus.torch.functions import (
    allgather_object,
    broadcast_object,
    broadcast_optimizer_state,
    broadcast_parameters,
)

__all__ = ["ObjectState", "State", "TorchState"]


class State:
    """What run() asks of a state. Subclasses say what save, restore and sync mean."""

    def __init__(self) -> None:
        self._reset_callbacks: list[Callable[[], None]] = []

    def register_reset_callbacks(self, callbacks: Iterable[Callable[[], None]]) -> None:
        """Called after ranks have met again, before sync(): for what depends on the ranks."""
        self._reset_callbacks.extend(callbacks)

    def on_reset(self) -> None:
        self.reset()
        for callback in self._reset_callbacks:
            callback()

    def commit(self) -> None:
        """Keeps the state as it is now: where a loss takes the training back to."""
        self.save()
        self.check_host_updates()

    def check_host_updates(self) -> None:
        """In Horovod raises HostsUpdatedInterrupt when hosts came or went. Here they never do."""

    def save(self) -> None:
        raise NotImplementedError

    def restore(self) -> None:
        raise NotImplementedError

    def sync(self) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        pass


class ObjectState(State):
    """Attributes of any kind that can be copied and pickled: ObjectState(epoch=0, best=None)."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()
        self._names = list(kwargs)
        self._commits = 0
        for name, value in kwargs.items():
            setattr(self, name, value)
        self._saved = self._values()

    def _values(self) -> dict[str, Any]:
        return {name: copy.deepcopy(getattr(self, name)) for name in self._names}

    def _put_back(self, values: dict[str, Any]) -> None:
        for name, value in values.items():
            setattr(self, name, copy.deepcopy(value))

    def save(self) -> None:
        self._saved = self._values()
        self._commits += 1

    def restore(self) -> None:
        self._put_back(self._saved)

    def sync(self) -> None:
        """The state of the rank that has committed most, on every rank. One that was started again
        has committed nothing. All ranks call it."""
        commits = allgather_object(self._commits, name="elastic.commits")
        self._sync_from(commits.index(max(commits)))
        self._commits = max(commits)
        self._saved = self._values()

    def _sync_from(self, root: int) -> None:
        values = self._values() if rank() == root else None
        self._put_back(broadcast_object(values, root_rank=root, name="elastic.values"))


class TorchState(ObjectState):
    """A model, an optimizer, and other attributes: TorchState(model, optimizer, epoch=0).

    Models, optimizers and ElasticSamplers may also be given by name, more than one, and what else
    has state_dict() and load_state_dict(), such as a learning-rate scheduler."""

    def __init__(
        self,
        model: torch.nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        given = {"model": model, "optimizer": optimizer, **kwargs}
        stateful = {
            name: value
            for name, value in given.items()
            if hasattr(value, "state_dict") and hasattr(value, "load_state_dict")
        }
        self._stateful = stateful
        self._saved_states: dict[str, Any] = {}
        plain = {name: value for name, value in kwargs.items() if name not in stateful}
        super().__init__(**plain)
        for name in ("model", "optimizer", *stateful):
            setattr(self, name, given[name])
        self._keep_states()

    def _keep_states(self) -> None:
        self._saved_states = {
            name: copy.deepcopy(value.state_dict()) for name, value in self._stateful.items()
        }

    def save(self) -> None:
        self._keep_states()
        super().save()

    def restore(self) -> None:
        for name, value in self._stateful.items():
            if isinstance(value, torch.optim.Optimizer):
                _forget_gradients(value)
            value.load_state_dict(copy.deepcopy(self._saved_states[name]))
        super().restore()

    def reset(self) -> None:
        for value in self._stateful.values():
            if isinstance(value, ElasticSampler):
                value.reset()

    def sync(self) -> None:
        super().sync()
        self._keep_states()

    def _sync_from(self, root: int) -> None:
        for name, value in self._stateful.items():
            if isinstance(value, torch.nn.Module):
                broadcast_parameters(value.state_dict(), root_rank=root)
            elif isinstance(value, torch.optim.Optimizer):
                broadcast_optimizer_state(value, root_rank=root)
            elif isinstance(value, ElasticSampler):
                _sync_sampler(value, name)
            else:
                state = broadcast_object(value.state_dict(), root, name=f"elastic.{name}")
                value.load_state_dict(state)
        super()._sync_from(root)


def _forget_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Those on their way were of a step that is undone."""
    reducer = getattr(optimizer, "_khorus", None)
    if reducer is not None:
        reducer.forget()
    optimizer.zero_grad()


def _sync_sampler(sampler: ElasticSampler, name: str) -> None:
    """What any rank has processed is processed, as long as all are in the same epoch."""
    states = allgather_object(sampler.state_dict(), name=f"elastic.{name}")
    epoch = max(state["epoch"] for state in states)
    processed: set[int] = set()
    for state in states:
        if state["epoch"] == epoch:
            processed |= set(state["processed_indices"])
    sampler.load_state_dict({"epoch": epoch, "processed_indices": sorted(processed)})

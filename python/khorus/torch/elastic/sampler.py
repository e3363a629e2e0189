"""A sampler whose epoch goes on where it was after the ranks have met again."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sized
from typing import Any

from torch.utils.data import Sampler

from khorus.basics import is_initialized, rank, size

__all__ = ["ElasticSampler"]


class ElasticSampler(Sampler[int]):
    """Each rank's part of the indices of `dataset` that nobody has processed in this epoch.

    Call record_batch() or record_indices() for what was processed, before state.commit(), and
    set_epoch() at the end of every epoch. All ranks get equally many: the last are repeated."""

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int = 0) -> None:
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.processed_indices: set[int] = set()
        self.indices: list[int] = []
        self.reset()

    def set_epoch(self, epoch: int) -> None:
        """Begins an epoch: nothing is processed yet, and the order is another."""
        self.epoch = epoch
        self.processed_indices = set()
        self.reset()

    def record_batch(self, batch_idx: int, batch_size: int) -> None:
        """This rank has processed the batch with this number since the last reset."""
        self.record_indices(self.indices[batch_idx * batch_size : (batch_idx + 1) * batch_size])

    def record_indices(self, indices: Any) -> None:
        self.processed_indices.update(int(i) for i in indices)

    def reset(self) -> None:
        """Shares what is left among the ranks."""
        number, of = (rank(), size()) if is_initialized() else (0, 1)
        left = [i for i in range(len(self.dataset)) if i not in self.processed_indices]
        if self.shuffle:
            random.Random(f"{self.seed}.{self.epoch}").shuffle(left)
        each = -(-len(left) // of)
        repeated = [left[i % len(left)] for i in range(each * of)] if left else []
        self.indices = repeated[number::of]

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "processed_indices": sorted(self.processed_indices)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.epoch = state_dict["epoch"]
        self.processed_indices = set(state_dict["processed_indices"])
        self.reset()

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return len(self.indices)

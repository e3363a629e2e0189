"""What `horovod.common.util` resolves to: those of its functions that scripts use."""

from __future__ import annotations

from typing import Any, TypeVar

_T = TypeVar("_T")


def check_extension(*_: Any, **__: Any) -> None:
    """Nothing is compiled against a framework, so nothing can be missing."""


def gpu_available(*_: Any, **__: Any) -> bool:
    """Whether tensors of a GPU can be communicated."""
    return False


def is_iterable(x: object) -> bool:
    try:
        iter(x)  # type: ignore[call-overload]
    except TypeError:
        return False
    return True


def num_rank_is_power_2(num_rank: int) -> bool:
    return num_rank > 0 and num_rank & (num_rank - 1) == 0


def split_list(values: list[_T], parts: int) -> list[list[_T]]:
    """Into `parts` lists, of which the first ones are longer by one if need be."""
    short, longer = divmod(len(values), parts)
    ends = [(i + 1) * short + min(i + 1, longer) for i in range(parts)]
    return [values[start:end] for start, end in zip([0, *ends], ends, strict=False)]

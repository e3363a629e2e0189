"""The reductions, and the two ways to ask for one."""

from __future__ import annotations

import enum

__all__ = ["Adasum", "Average", "Max", "Min", "Product", "ReduceOp", "Sum", "chosen_op"]


class ReduceOp(enum.IntEnum):
    """How elements of all ranks become one. The numbers are those of khorus/types.h."""

    SUM = 0
    AVERAGE = 1
    MIN = 2
    MAX = 3
    PRODUCT = 4
    ADASUM = 5


Sum = ReduceOp.SUM
Average = ReduceOp.AVERAGE
Min = ReduceOp.MIN
Max = ReduceOp.MAX
Product = ReduceOp.PRODUCT
Adasum = ReduceOp.ADASUM


def chosen_op(average: bool | None, op: ReduceOp | None) -> ReduceOp:
    """`op`, or what the deprecated `average` means; Average if neither is given."""
    from khorus.basics import _warn_average

    if average is None:
        return Average if op is None else ReduceOp(op)
    if op is not None:
        raise ValueError("average= and op= were both given; average= is the old spelling of op=")
    _warn_average()
    return Average if average else Sum

"""allreduce of sparse torch tensors; see mpi_ops.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from khorus.process_sets import ProcessSet, global_process_set
from khorus.reduce_ops import Average, ReduceOp, Sum
from khorus.torch._rows import allgather_async
from khorus.torch._tensors import synchronize

Tensor = torch.Tensor
Tensors = Sequence[Tensor]


def no_rows_of(parameter: Tensor) -> Tensor:
    """The sparse gradient of a parameter that was not used."""
    indices = torch.empty((1, 0), dtype=torch.int64, device=parameter.device)
    values = torch.empty((0, *parameter.shape[1:]), dtype=parameter.dtype, device=parameter.device)
    return torch.sparse_coo_tensor(indices, values, parameter.shape, check_invariants=True)


def sparse_allreduce_async(
    tensor: Tensor,
    name: str,
    op: ReduceOp,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """The sum or average of sparse COO tensors: indices and values are gathered. Returns what, when
    called, waits and returns the sparse result (uncoalesced: equal indices add up)."""
    if op not in (Sum, Average):
        raise ValueError(f"sparse_allreduce_async: op is {op!r}; sparse tensors know Sum, Average")
    if not tensor.is_sparse:
        raise ValueError("sparse_allreduce_async: the tensor is dense; use allreduce_async")
    tensor = tensor.coalesce() if not tensor.is_coalesced() else tensor
    indices = allgather_async(
        tensor.indices().t().contiguous(), name=f"{name}.indices", process_set=process_set
    )
    values = allgather_async(tensor.values(), name=f"{name}.values", process_set=process_set)

    def finish() -> Tensor:
        all_values = synchronize(values)
        all_indices = synchronize(indices).t()
        if op is Average:
            all_values = all_values / process_set.size()
        return torch.sparse_coo_tensor(
            all_indices, all_values, tensor.size(), check_invariants=True
        )

    return finish

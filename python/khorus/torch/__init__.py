"""Khorus for PyTorch, with the names of horovod.torch.

    import khorus.torch as hvd
    hvd.init()
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())

Works with any torch from 2.0 on that is found when this is imported: nothing here is compiled
against torch.
"""

from khorus.basics import *  # noqa: F403  # mypy does not see them through mpi_ops
from khorus.exceptions import HorovodInternalError, HostsUpdatedInterrupt
from khorus.process_sets import add_process_set, remove_process_set
from khorus.torch import elastic, mpi_ops
from khorus.torch.compression import Compressor
from khorus.torch.functions import (
    allgather_object,
    broadcast_object,
    broadcast_optimizer_state,
    broadcast_parameters,
)
from khorus.torch.mpi_ops import *  # noqa: F403
from khorus.torch.optimizer import DistributedOptimizer
from khorus.torch.sync_batch_norm import SyncBatchNorm

__all__ = [
    "Compressor",
    "DistributedOptimizer",
    "HorovodInternalError",
    "HostsUpdatedInterrupt",
    "SyncBatchNorm",
    "add_process_set",
    "allgather_object",
    "broadcast_object",
    "broadcast_optimizer_state",
    "broadcast_parameters",
    "elastic",
    "remove_process_set",
]
__all__ += mpi_ops.__all__

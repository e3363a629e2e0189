"""Khorus: collective communication for data-parallel training.

    import khorus
    khorus.init()
    mean = khorus.allreduce(array)      # NumPy, or anything with the buffer protocol or DLPack

PyTorch users import khorus.torch, which has the names of horovod.torch. Importing khorus needs
neither torch nor NumPy.
"""

from khorus import basics
from khorus._core import __version__
from khorus.arrays import (
    allgather,
    allreduce,
    alltoall,
    barrier,
    broadcast,
    join,
    reducescatter,
)
from khorus.basics import *  # noqa: F403
from khorus.exceptions import HorovodInternalError, HostsUpdatedInterrupt
from khorus.process_sets import (
    ProcessSet,
    add_process_set,
    global_process_set,
    remove_process_set,
)
from khorus.reduce_ops import Adasum, Average, Max, Min, Product, ReduceOp, Sum
from khorus.runner import run

__all__ = [
    "Adasum",
    "Average",
    "HorovodInternalError",
    "HostsUpdatedInterrupt",
    "Max",
    "Min",
    "ProcessSet",
    "Product",
    "ReduceOp",
    "Sum",
    "__version__",
    "add_process_set",
    "allgather",
    "allreduce",
    "alltoall",
    "barrier",
    "broadcast",
    "global_process_set",
    "join",
    "reducescatter",
    "remove_process_set",
    "run",
]
__all__ += basics.__all__

"""Collectives on torch tensors, with Horovod's names and signatures.

Each comes as X (differentiable), X_async (returns a handle for poll() and synchronize()), and where
it makes sense in place as X_ and X_async_, and for several tensors, all or nothing, as grouped_X.
Tensors are on the CPU, of any dtype of docs/api.md; those that are not contiguous are copied.
Thread rule: any thread. Errors: ValueError and TypeError for a wrong argument, before anything is
sent; HorovodInternalError for what other ranks do, with the same text on all of them.
"""

from khorus import basics
from khorus.basics import *  # noqa: F403
from khorus.process_sets import ProcessSet, global_process_set
from khorus.reduce_ops import Adasum, Average, Max, Min, Product, ReduceOp, Sum
from khorus.torch._allreduce import (
    allreduce,
    allreduce_,
    allreduce_async,
    allreduce_async_,
    grouped_allreduce,
    grouped_allreduce_,
    grouped_allreduce_async,
    grouped_allreduce_async_,
)
from khorus.torch._messages import (
    barrier,
    broadcast,
    broadcast_,
    broadcast_async,
    broadcast_async_,
    join,
    recv,
    recv_async,
    send,
    send_async,
)
from khorus.torch._rows import (
    allgather,
    allgather_async,
    alltoall,
    alltoall_async,
    grouped_allgather,
    grouped_allgather_async,
    grouped_reducescatter,
    grouped_reducescatter_async,
    reducescatter,
    reducescatter_async,
)
from khorus.torch._sparse import sparse_allreduce_async
from khorus.torch._tensors import Handle, poll, synchronize
from khorus.torch.compression import Compression

__all__ = [
    "Adasum",
    "Average",
    "Compression",
    "Handle",
    "Max",
    "Min",
    "ProcessSet",
    "Product",
    "ReduceOp",
    "Sum",
    "allgather",
    "allgather_async",
    "allreduce",
    "allreduce_",
    "allreduce_async",
    "allreduce_async_",
    "alltoall",
    "alltoall_async",
    "barrier",
    "broadcast",
    "broadcast_",
    "broadcast_async",
    "broadcast_async_",
    "global_process_set",
    "grouped_allgather",
    "grouped_allgather_async",
    "grouped_allreduce",
    "grouped_allreduce_",
    "grouped_allreduce_async",
    "grouped_allreduce_async_",
    "grouped_reducescatter",
    "grouped_reducescatter_async",
    "join",
    "poll",
    "recv",
    "recv_async",
    "reducescatter",
    "reducescatter_async",
    "send",
    "send_async",
    "sparse_allreduce_async",
    "synchronize",
]
__all__ += basics.__all__

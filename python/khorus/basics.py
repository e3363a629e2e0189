"""Life and place: init, shutdown, rank, size, and what this installation can do.

Every function may be called from any thread, except that init() and shutdown() must not run at the
same time. Before init() all that need the engine raise HorovodInternalError.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

from khorus import _core, process_sets
from khorus.process_sets import ProcessSet

__all__ = [
    "ccl_built",
    "cross_rank",
    "cross_size",
    "cuda_built",
    "ddl_built",
    "gloo_built",
    "gloo_enabled",
    "init",
    "is_homogeneous",
    "is_initialized",
    "local_rank",
    "local_size",
    "mpi_built",
    "mpi_enabled",
    "mpi_threads_supported",
    "nccl_built",
    "rank",
    "rocm_built",
    "shutdown",
    "size",
    "start_timeline",
    "stop_timeline",
]


def init(comm: Any = None, process_sets: str | Sequence[ProcessSet] | None = None) -> None:
    """Finds this process's place in the job and starts the engine. A second call does nothing.

    The place and all knobs are read from the environment now (docs/knobs.md): khorusrun sets it,
    torchrun, mpirun and srun are known, and so are RANK and WORLD_SIZE. `process_sets` are made at
    once, in this order; "dynamic" is accepted, for sets may always be added later. `comm`, an MPI
    communicator or a list of ranks in Horovod, must be None: the job is all of its ranks.
    """
    from khorus import process_sets as registry

    if comm is not None:
        raise ValueError(
            f"init(comm={comm!r}): Khorus has no communicators of MPI; leave comm out, and use "
            "process_sets for operations of some ranks"
        )
    if isinstance(process_sets, str):
        if process_sets != "dynamic":
            raise ValueError(f'process_sets={process_sets!r}: expected "dynamic" or process sets')
        process_sets = None
    registry.start(list(process_sets or []))


def shutdown() -> None:
    """Ends the engine on all ranks; init() may follow."""
    _core.shutdown()
    process_sets.forget_all()


def is_initialized() -> bool:
    return _core.is_initialized()


def rank() -> int:
    return _core.place()[0]


def size() -> int:
    return _core.place()[1]


def local_rank() -> int:
    """This rank's number among the ranks of its host."""
    return _core.place()[2]


def local_size() -> int:
    return _core.place()[3]


def cross_rank() -> int:
    """The number of this rank's host."""
    return _core.place()[4]


def cross_size() -> int:
    return _core.place()[5]


def is_homogeneous() -> bool:
    """Whether every host has as many ranks as this one."""
    return size() == local_size() * cross_size()


def start_timeline(file_path: str, mark_cycles: bool = False) -> None:
    """Starts a Chrome trace: rank 0 writes `file_path`, rank r `file_path`.r."""
    _core.start_timeline(file_path, mark_cycles)


def stop_timeline() -> None:
    _core.stop_timeline()


def _backend_is_there(name: str) -> bool:
    return name in _core.installed_backends()


def mpi_built() -> bool:
    return _backend_is_there("mpi")


def mpi_enabled() -> bool:
    """Whether the data moves over MPI now."""
    return is_initialized() and _core.backend_name() == "mpi"


def mpi_threads_supported() -> bool:
    """Whether a program may use MPI beside Khorus from threads of its own."""
    return mpi_built()


def gloo_built() -> bool:
    return _backend_is_there("gloo")


def gloo_enabled() -> bool:
    return is_initialized() and _core.backend_name() == "gloo"


def nccl_built() -> int:
    """The version of NCCL that the installed backend for GPUs was built for, 22803 for 2.28.3.

    0: there is none. It is that of the headers: NCCL itself is found when the first tensor of a GPU
    comes, or is not (khorusrun --check-build). Loads neither NCCL nor CUDA's driver."""
    version = re.search(r"headers of (\d+)\.(\d+)\.(\d+)", _core.backend_version("nccl"))
    if version is None:
        return 0
    major, minor, patch = (int(part) for part in version.groups())
    return major * 10000 + minor * 100 + patch


def cuda_built() -> bool:
    """Whether the backend for tensors of a GPU is installed, with or without a GPU here."""
    return nccl_built() > 0


def rocm_built() -> bool:
    return False


def ddl_built() -> bool:
    return False


def ccl_built() -> bool:
    return False


def _warn_average() -> None:
    warnings.warn(
        "average= is the old spelling of op=: use op=Average or op=Sum",
        DeprecationWarning,
        stacklevel=4,
    )

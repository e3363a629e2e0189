"""Running the built programs: alone, or under khorusrun.

KHORUS_TEST_BIN is the folder they are in.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from commands import ended, good

__all__ = ["BIN", "MPI", "SOAK", "good", "run"]

BIN = Path(os.environ["KHORUS_TEST_BIN"])
MPI = os.environ["KHORUS_TEST_MPI"] == "1"  # backend mpi was built
SOAK = "KHORUS_TEST_SOAK" in os.environ
TIMEOUT_S = 1200 if SOAK else 150


def run(*command: object, ranks: int = 0, backend: str = "") -> subprocess.CompletedProcess[str]:
    """Runs a program of ours, under khorusrun when `ranks` is not 0; "" is the default backend.

    With "mpi" the ranks are started by mpirun (khorusrun --mpi).
    """
    words = [str(BIN / str(command[0])), *map(str, command[1:])]
    if ranks:
        launcher = [str(BIN / "khorusrun"), *(["--mpi"] if backend == "mpi" else [])]
        words = [*launcher, "-np", str(ranks), *words]
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("KHORUS_") or key == "KHORUS_TEST_SOAK"
    }
    environment |= {"OMP_NUM_THREADS": "1"}
    if backend and backend != "mpi":
        environment["KHORUS_BACKEND"] = backend
    return ended(*words, environment=environment, timeout_s=TIMEOUT_S)

"""Running the example trainers in Python, and those in C++ if there are any.

KHORUS_TEST_KHORUSRUN is the launcher, KHORUS_TEST_BIN the folder of the built programs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from commands import ended, good

__all__ = ["BIN", "EXAMPLES", "KHORUSRUN", "good", "run"]

KHORUSRUN = os.environ["KHORUS_TEST_KHORUSRUN"]
BIN = Path(os.environ.get("KHORUS_TEST_BIN", "/nowhere"))
EXAMPLES = Path(__file__).parents[2] / "examples"
BOUND_S = 180


def run(
    program: str, *flags: object, ranks: int = 0, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs an example: NAME.py with this Python, NAME in C++; without khorusrun if ranks is 0.

    Modules are looked for in `path` first."""
    words = [str(BIN / program)]
    if program.endswith(".py"):
        words = [sys.executable, "-B", str(EXAMPLES / program)]
    if ranks:
        words = [KHORUSRUN, "-np", str(ranks), *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if path is not None:
        environment["PYTHONPATH"] = f"{path}:{environment['PYTHONPATH']}"
    return ended(*words, *flags, environment=environment, timeout_s=BOUND_S)

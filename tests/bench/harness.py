"""Running contestants in turn, and what comes out of it as tables.

Machines are shared and noisy, so a figure is a ratio: the contestants run alternately, A B A B,
and a cell is the median over the pairs with the smallest and the largest.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TIMEOUT_S = 240


@dataclass
class Usage:
    """Of a command and its descendants; see usage.py."""

    cpu_s: float
    peak_mib: float  # of the largest of them


@dataclass
class Bench:
    """Where the programs are, how many ranks and pairs, a scratch folder."""

    binaries: Path
    scratch: Path
    ranks: int
    pairs: int
    smoke: bool
    backend: str
    runs: int = 0

    def fresh(self, suffix: str) -> Path:
        self.runs += 1
        return self.scratch / f"{self.runs}.{suffix}"

    def environment(self) -> dict[str, str]:
        variables = {k: v for k, v in os.environ.items() if not k.startswith("KHORUS_")}
        variables |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.binaries.parent / "python")}
        if self.backend:
            variables["KHORUS_BACKEND"] = self.backend
        return variables

    def start(self, *command: object) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [str(word) for word in command],
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> str:
        try:
            output, _ = process.communicate(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
        if process.returncode != 0:
            raise SystemExit(f"{process.args!r} failed ({process.returncode}):\n{output}")
        return output

    def run(self, *command: object) -> str:
        return self.finish(self.start(*command))

    def launched(self, *command: object, ranks: int = 0) -> list[object]:
        return [self.binaries / "khorusrun", "-np", ranks or self.ranks, *command]

    def measured(self, *command: object) -> Usage:
        """Runs a command under the launcher, and says what it used."""
        # What getrusage() says of children adds up, so a process of its own waits for this one.
        result = self.fresh("usage")
        self.run(sys.executable, HERE / "usage.py", result, *command)
        return Usage(**json.loads(result.read_text()))

    def ours(self, *flags: object, ranks: int = 0) -> Any:
        """khorus-bench; the numbers of its --json."""
        result = self.fresh("json")
        self.run(
            *self.launched(self.binaries / "khorus-bench", "--json", result, *flags, ranks=ranks)
        )
        return json.loads(result.read_text())

    def peer(self, script: str, *flags: object) -> Any:
        """A script of this folder with torch.distributed, under the launcher."""
        result, store = self.fresh("json"), self.fresh("store")
        command = [sys.executable, HERE / script, "--store", store, "--json", result, *flags]
        self.run(*self.launched(*command))
        return json.loads(result.read_text())


def spread(values: Sequence[float], digits: int = 2) -> str:
    """median (smallest .. largest)"""
    return (
        f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} .. "
        f"{max(values):,.{digits}f})"
    )


def table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table in Markdown."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        return "| " + " | ".join(padded) + " |"

    print(f"\n{title}\n")
    print(line(header))
    print("|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|")
    for row in rows:
        print(line(row))
    sys.stdout.flush()


Benchmark = Callable[[Bench], Any]

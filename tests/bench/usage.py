"""Runs a command, and says what it used: usage.py RESULT COMMAND...

The result is a JSON object. "cpu_s": processor seconds of the command and all its descendants that
were waited for. "peak_mib": memory of the largest of them at its largest, sampled: its own pages
and its part of those that it shares (Pss_Anon and Pss_Shmem of proc(5)), so that what two ranks
have mapped counts once; without the pages of files, which other programs have as well.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

PERIOD_S = 0.02


def family(pid: int) -> Iterator[int]:
    """The process and its descendants."""
    yield pid
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            yield from family(int(child))


def own_kib(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {name: int(size) for name, size, *_ in (line.split() for line in lines)}
    return sizes["Pss_Anon:"] + sizes["Pss_Shmem:"]


class Sampler(threading.Thread):
    """Looks at the memory of a process and its descendants until finish()."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid = pid
        self.peak_kib = 0
        self.over = threading.Event()

    def run(self) -> None:
        while not self.over.wait(PERIOD_S):
            try:
                for pid in family(self.pid):
                    self.peak_kib = max(self.peak_kib, own_kib(pid))
            except (FileNotFoundError, ProcessLookupError, KeyError):
                continue  # a process ended meanwhile

    def finish(self) -> int:
        self.over.set()
        self.join()
        return self.peak_kib


def main(result: str, *command: str) -> int:
    process = subprocess.Popen(command)
    sampler = Sampler(process.pid)
    sampler.start()
    code = process.wait()
    peak_mib = sampler.finish() / 1024
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    usage = {"cpu_s": used.ru_utime + used.ru_stime, "peak_mib": peak_mib}
    Path(result).write_text(json.dumps(usage))
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

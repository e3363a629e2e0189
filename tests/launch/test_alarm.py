"""No false alarm: on a machine with far more to do than it has processors, and when the whole job
is stopped and goes on, nobody is taken for dead.

Four ranks work without an end beside eight busy loops. KHORUS_TEST_ALARM_S is for how long: 1,800
seconds with KHORUS_TEST_SOAK=1, else a few.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
import unittest
from collections.abc import Iterable
from pathlib import Path

from launching import LaunchTest, running

WORKER = os.environ["KHORUS_TEST_CRASH_WORKER"]
SOAK = os.environ.get("KHORUS_TEST_SOAK") == "1"
DURATION_S = float(os.environ.get("KHORUS_TEST_ALARM_S", "1800" if SOAK else "6"))
RANKS = 4
BUSY_LOOPS = 8
WORKS_S = 2.0 if DURATION_S < 60 else 20.0  # between two stops
STOPPED_S = 2.0  # twice KHORUS_LIVENESS_TIMEOUT


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def signal_all(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        os.kill(pid, number)


class Alarm(LaunchTest):
    def test_work_beside_others_and_stops_of_the_whole_job(self) -> None:
        for _ in range(BUSY_LOOPS):
            loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            self.addCleanup(loop.wait)
            self.addCleanup(loop.kill)
        script = self.folder / "work.sh"
        script.write_text(
            f"#!/bin/sh\nexec {WORKER} 3 4 7 -1 3</dev/null 4>>/proc/self/fd/$LIFELINE\n"
        )
        script.chmod(0o755)
        with running("-np", str(RANKS), str(script)) as job:
            job.lifeline.wait_for("ready", RANKS)
            ranks = children_of(job.guard())
            self.assertEqual(len(ranks), RANKS)
            ends = [os.pidfd_open(pid) for pid in ranks]
            for end in ends:
                self.addCleanup(os.close, end)
            over = time.monotonic() + DURATION_S
            stops = 0
            # What is waited for is that nothing happens.
            while (left := over - time.monotonic()) > 0:
                ended, _, _ = select.select(ends, [], [], min(left, WORKS_S))
                if ended:
                    self.fail(f"after {stops} stops: {job.wait().err}")
                signal_all(ranks, signal.SIGSTOP)
                ended, _, _ = select.select(ends, [], [], STOPPED_S)
                signal_all(ranks, signal.SIGCONT)
                if ended:
                    self.fail(f"in stop {stops}: {job.wait().err}")
                stops += 1
            ended, _, _ = select.select(ends, [], [], WORKS_S)
            self.assertFalse(ended, "after the last stop")
            job.send(signal.SIGTERM)
            done = job.wait()
        self.assertNotIn("lost", done.err)
        self.assertNotIn("failed", done.err.replace("failed first: killed by signal 15", ""))
        print(f"{DURATION_S:.0f} s and {stops} stops without an alarm")


if __name__ == "__main__":
    unittest.main()

"""--stack-dumps: the stacks of a rank that others wait for, written by itself."""

from __future__ import annotations

import os
import re
import sys
import unittest

from launching import Completed, LaunchTest, khorusrun

WORKER = os.environ["KHORUS_TEST_WORKER"]
PACKAGE = os.environ.get("KHORUS_TEST_PACKAGE", "")
FLAGS = ("--stack-dumps", "--stall-check-warning-time-seconds", "0.5")
# Then the job ends; the first report comes sooner by far.
UNTIL = ("--stall-check-shutdown-time-seconds", "2", "--failure-grace-s", "0.2")

STUCK = """
import threading, time
import numpy as np
import khorus

def stuck_here(seconds):
    time.sleep(seconds)

khorus.init()
khorus.allreduce(np.ones(4), name="first")
if khorus.rank() == 1:
    begin = time.monotonic()
    threading.Thread(target=stuck_here, args=(1.2,), name="other").start()
    stuck_here(1.2)
    assert time.monotonic() - begin >= 1.2, "the dump has cut the sleep short"
khorus.allreduce(np.ones(4), name="second")
"""


def stacks(done: Completed, rank: int) -> list[str]:
    """What rank `rank` wrote of its stacks."""
    begin = re.compile(rf"rank {rank}: \[khorus .*rank {rank} warning\] stacks: ")
    return [begin.sub("", line) for line in done.err.splitlines() if begin.match(line)]


class Stacks(LaunchTest):
    def test_a_loop_that_calls_nothing_is_shown(self) -> None:
        done = khorusrun("-np", "3", *FLAGS, *UNTIL, WORKER, "spinning")
        lines = stacks(done, 1)
        self.assertRegex(lines[0], r"^others wait for this rank \(.*, pid \d+\)")
        text = "\n".join(lines)
        # The loop is on the main thread, and is the innermost frame.
        self.assertRegex(text, r"thread \d+ \(observed_worker, main, 0x\w+\)\n  #0 spin_for_ever")
        self.assertRegex(text, r"thread \d+ \(khorus-\w+, 0x")
        # A thread that blocks every signal, seen from outside.
        self.assertRegex(text, r"thread \d+ \(deaf\)\n  does not answer; state [SR]")
        for rank in (0, 2):
            self.assertEqual(stacks(done, rank), [], "nobody waits for these")

    def test_without_the_flag_there_are_none(self) -> None:
        done = khorusrun("-np", "3", *FLAGS[1:], *UNTIL, WORKER, "spinning")
        self.assertIn("stall: ", done.err)
        self.assertNotIn("stacks: ", done.err)

    @unittest.skipIf(not PACKAGE, "the Python package is not built, or there is no NumPy")
    def test_python_and_native_stacks_and_the_job_goes_on(self) -> None:
        path = self.folder / "stuck.py"
        path.write_text(STUCK)
        done = khorusrun("-np", "2", *FLAGS, sys.executable, str(path), PYTHONPATH=PACKAGE)
        self.assertEqual(done.code, 0, done.err)
        text = "\n".join(stacks(done, 1))
        self.assertRegex(text, r'File ".*stuck.py", line \d+ in stuck_here')
        self.assertRegex(text, r"thread \d+ \(python\S*, main, 0x\w+\)\n  #0 \w*nanosleep")
        # The same thread under the same name in both.
        (main,) = set(re.findall(r"main, 0x(\w+)\)", text))
        self.assertRegex(text, rf"Thread 0x0*{main} \(most recent call first\)")
        self.assertEqual(stacks(done, 0), [])


if __name__ == "__main__":
    unittest.main()

"""Interrupting a job."""

from __future__ import annotations

import os
import signal
import time
import unittest

from launching import LaunchTest, running

OBEDIENT = """
def leave(number, frame):
    print("saved", number)
    sys.exit(0)
signal.signal(signal.SIGINT, leave)
signal.signal(signal.SIGTERM, leave)
signal.signal(signal.SIGHUP, leave)
say("ready")
while True:
    signal.pause()
"""
STUBBORN = """
for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
    signal.signal(number, signal.SIG_IGN)
say("ready")
while True:
    signal.pause()
"""


class Signals(LaunchTest):
    def test_once_ends_gracefully(self) -> None:
        for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
            with running("-np", "3", self.program(OBEDIENT)) as job:
                job.lifeline.wait_for("ready", 3)
                job.send(number)
                done = job.wait()
                job.lifeline.wait_until_all_are_gone()
            self.assertEqual(done.out.count(f"saved {int(number)}"), 3)
            self.assertEqual(done.code, 0, "every rank ended well")

    def test_ranks_that_die_of_it(self) -> None:
        for number in signal.SIGINT, signal.SIGTERM:
            text = "signal.signal(signal.SIGINT, signal.SIG_DFL)\nsay('ready')\ntime.sleep(60)\n"
            with running("-np", "2", self.program(text)) as job:
                job.lifeline.wait_for("ready", 2)
                job.send(number)
                done = job.wait()
            self.assertEqual(done.code, 128 + number)
            self.assertIn(f"interrupted by {number.name}: ranks 0-1 ended", done.err)
            self.assertNotIn("failed first", done.err)

    def test_wrapper_scripts_and_their_programs_get_it(self) -> None:
        inner = self.program(OBEDIENT)
        with running("-np", "2", self.script(f"trap '' INT\n{inner}\nexit 0\n")) as job:
            job.lifeline.wait_for("ready", 2)
            job.send(signal.SIGINT)
            done = job.wait()
            job.lifeline.wait_until_all_are_gone()
        self.assertEqual(done.out.count("saved 2"), 2)

    def test_twice_kills(self) -> None:
        with running("-np", "3", self.program(STUBBORN)) as job:
            job.lifeline.wait_for("ready", 3)
            job.send(signal.SIGINT)
            job.read_error_until("passed on")
            self.assertIsNone(job.process.poll(), "once is a request")
            job.send(signal.SIGINT)
            done = job.wait()
            job.lifeline.wait_until_all_are_gone()
        self.assertEqual(done.code, 130)
        self.assertIn("interrupted by SIGINT: ranks 0-2 killed", done.err)

    def test_one_that_does_not_follow_is_stopped(self) -> None:
        text = f"if rank == 1:\n{indented(OBEDIENT)}\n{STUBBORN}"
        started = time.monotonic()
        with running("-np", "2", "--failure-grace-s", "0.2", self.program(text)) as job:
            job.lifeline.wait_for("ready", 2)
            job.send(signal.SIGTERM)
            done = job.wait()
        self.assertLess(time.monotonic() - started, 15)
        self.assertEqual(done.code, 143)
        self.assertIn("rank 0 killed", done.err)

    def test_ignored_hangup_stays_ignored(self) -> None:
        """As nohup(1) starts it."""
        prog = self.program(
            "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})\n"
            "say(f'ready {os.getpid()}')\n"
            "signal.sigwait({signal.SIGUSR1})\n"
        )
        with running("-np", "1", prog, ignored=signal.SIGHUP) as job:
            pid = int(job.lifeline.wait_for("ready", 1)[0].split()[1])
            job.send(signal.SIGHUP)
            os.kill(pid, signal.SIGUSR1)
            done = job.wait()
        self.assertEqual(done.code, 0)
        self.assertNotIn("passed on", done.err)


def indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())


if __name__ == "__main__":
    unittest.main()

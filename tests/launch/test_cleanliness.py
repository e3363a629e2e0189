"""Nothing is left behind, however a job ends."""

from __future__ import annotations

import os
import signal
import unittest
from pathlib import Path

from launching import LaunchTest, running

# A rank with everything that likes to survive: a child that ignores signals, a child with children
# of its own in a new session whose parent is gone, one in a new process group, a shell.
FAMILY = """
import subprocess

def stay(word):
    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE:
        signal.signal(number, signal.SIG_IGN)
    say(word)
    while True:
        signal.pause()

def daemon():
    os.setsid()
    if os.fork() == 0:
        if os.fork() == 0:
            stay("ready daemon's child")
        stay("ready daemon")
    os._exit(0)

def group():
    os.setpgid(0, 0)
    stay("ready group")

for child in daemon, group, lambda: stay("ready child"):
    if os.fork() == 0:
        child()
os.wait()  # the daemon's first process
subprocess.Popen(
    ["sh", "-c", "trap '' TERM INT HUP; echo ready shell >&$LIFELINE; while :; do read x; done"],
    stdin=subprocess.PIPE,
    close_fds=False,
)
"""
FAMILY_SIZE = 5
WAIT = "say('ready rank')\nwhile True:\n    signal.pause()\n"


class Cleanliness(LaunchTest):
    def test_killed_launcher(self) -> None:
        with running("-np", "3", self.program(FAMILY + WAIT)) as job:
            job.lifeline.wait_for("ready", 3 * (FAMILY_SIZE + 1))
            job.process.kill()
            job.lifeline.wait_until_all_are_gone()

    def test_killed_launcher_of_a_wrapper_script(self) -> None:
        inner = self.program(FAMILY + WAIT)
        with running("-np", "2", self.script(f"{inner} &\nwait\n")) as job:
            job.lifeline.wait_for("ready", 2 * (FAMILY_SIZE + 1))
            job.process.kill()
            job.lifeline.wait_until_all_are_gone()

    def test_killed_guard(self) -> None:
        with running("-np", "3", self.program(FAMILY + WAIT)) as job:
            job.lifeline.wait_for("ready", 3 * (FAMILY_SIZE + 1))
            os.kill(job.guard(), signal.SIGKILL)
            done = job.wait()
            job.lifeline.wait_until_all_are_gone()
        self.assertEqual(done.code, 137)
        self.assertIn("the guard process was killed", done.err)

    def test_normal_end_takes_the_leftovers_along(self) -> None:
        with running("-np", "2", self.program(FAMILY)) as job:
            done = job.wait()
            job.lifeline.wait_until_all_are_gone()
        self.assertEqual(done.code, 0, done.err)

    def test_failure_takes_the_leftovers_along(self) -> None:
        prog = self.program(FAMILY + "if rank == 0:\n    sys.exit(4)\n" + WAIT)
        with running("-np", "2", "--failure-grace-s", "0.1", prog) as job:
            done = job.wait()
            job.lifeline.wait_until_all_are_gone()
        self.assertEqual(done.code, 4, done.err)

    def test_killed_rank_takes_its_children_along(self) -> None:
        text = FAMILY + "say(f'pid {rank} {os.getpid()}')\n" + WAIT
        with running("-np", "2", "--failure-grace-s", "0.1", self.program(text)) as job:
            lines = job.lifeline.wait_for("ready", 2 * (FAMILY_SIZE + 1))
            pid = next(int(line.split()[2]) for line in lines if line.startswith("pid 1"))
            os.kill(pid, signal.SIGKILL)
            done = job.wait()
            job.lifeline.wait_until_all_are_gone()
        self.assertEqual(done.code, 137)
        self.assertIn("rank 1 failed first: killed by signal 9 (SIGKILL)", done.err)

    def test_stopped_ranks_can_be_ended(self) -> None:
        prog = self.program("say(f'ready {os.getpid()}')\nos.kill(os.getpid(), signal.SIGSTOP)\n")
        with running("-np", "2", prog) as job:
            job.lifeline.wait_for("ready", 2)
            job.process.kill()
            job.lifeline.wait_until_all_are_gone()

    def test_launcher_killed_at_any_moment(self) -> None:
        """Also while it starts the ranks: the kill comes after a random amount of work."""
        prog = self.program("say('ready')\nsignal.pause()\n")
        for _ in range(50 if os.environ.get("KHORUS_TEST_SOAK") == "1" else 8):
            with running("-v", "-np", "4", prog) as job:
                assert job.process.stderr is not None
                job.process.stderr.read(os.urandom(1)[0])
                job.process.kill()
                job.lifeline.wait_until_all_are_gone()

    def test_no_files(self) -> None:
        places = [Path("/dev/shm"), self.folder / "tmp"]
        places[1].mkdir()
        before = set(places[0].iterdir())
        with running("-np", "2", self.program("say('ready')\n"), TMPDIR=str(places[1])) as job:
            self.assertEqual(job.wait().code, 0)
        self.assertEqual(set(places[0].iterdir()) - before, set())
        self.assertEqual(list(places[1].iterdir()), [])

    def test_guard_does_not_answer_to_the_programs_name(self) -> None:
        """So that `pkill -9 -f train.py`, which hits the launcher, leaves the guard to clean up."""
        prog = self.program("say('ready')\nsignal.pause()\n", "train.py")
        with running("-np", "1", prog) as job:
            job.lifeline.wait_for("ready", 1)
            line = Path(f"/proc/{job.guard()}/cmdline").read_bytes()
        self.assertNotIn(b"train", line)
        self.assertNotIn(b"khorusrun", line)


if __name__ == "__main__":
    unittest.main()

"""A rank dies while the others wait for it to connect: all say so at once, and which it was.

The rank that dies is start_victim.cc: it announces itself, and kills itself when all others have,
too. Without a word from anybody they would wait for KHORUS_START_TIMEOUT.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
import unittest
from contextlib import suppress

from launching import BOUND_S, Completed, LaunchTest, Lifeline, environment, running
from remote_hosts import RemoteTest

HELLO = os.environ["KHORUS_TEST_HELLO"]
VICTIM = os.environ["KHORUS_TEST_START_VICTIM"]
# The news takes milliseconds; the rest is for a busy machine. The start timeout is far away.
SOON_S = 5.0
START_TIMEOUT_S = "60"


def script(victim: int, lifeline: str, folder: str) -> str:
    """Rank `victim` dies in its first life; the other ranks, and its second life, say hello."""
    return (
        f'if [ "$KHORUS_RANK$RANK" = {victim} ] && mkdir {folder}/died 2>/dev/null; then\n'
        f'  exec {VICTIM} "{lifeline}"\n'
        f"fi\nexec {HELLO}\n"
    )


def expected(victim: int, place: str) -> str:
    """What each of the others says of it."""
    return (
        rf"waited \d+\.\d s for the job's \d ranks: rank {victim} on {re.escape(place)} "
        r"\(pid \d+\) has ended before all had met: "
    )


class OneHost(LaunchTest):
    def job_script(self, victim: int) -> str:
        path = self.folder / "job.sh"
        text = script(victim, "/proc/self/fd/$LIFELINE", str(self.folder))
        path.write_text("#!/bin/sh\n" + text)
        path.chmod(0o755)
        return str(path)


class UnderKhorusrun(OneHost):
    def run_job(self, victim: int, *options: str, connects: bool = False) -> Completed:
        with running(
            *("-np", "4", "--start-timeout", START_TIMEOUT_S, "--failure-grace-s", "20", *options),
            self.job_script(victim),
            KHORUS_CONTROL_FAN_IN="2",
            KHORUS_TEST_CONNECTS="1" if connects else None,
        ) as job:
            job.lifeline.wait_for("dies", 1)
            died = time.monotonic()
            done = job.wait()
        self.assertLess(time.monotonic() - died, SOON_S, done.err)
        return done

    def check_job(self, victim: int, *, connects: bool = False) -> None:
        done = self.run_job(victim, connects=connects)
        self.assertEqual(done.code, 137, done.err)
        killed = "killed by signal 9 (SIGKILL)"
        self.assertIn(f"rank {victim} failed first: {killed}", done.err)
        text = expected(victim, platform.node()) + re.escape(killed)
        self.assertEqual(len(re.findall(text, done.err)), 3, done.err)

    def test_a_leaf_dies(self) -> None:
        self.check_job(2)

    def test_an_inner_rank_dies(self) -> None:
        self.check_job(1)

    def test_rank_0_dies(self) -> None:
        self.check_job(0)

    def test_a_rank_dies_that_had_connected(self) -> None:
        self.check_job(1, connects=True)

    def test_the_ranks_meet_again_when_it_is_started_again(self) -> None:
        for victim in 1, 2:
            with self.subTest(victim=victim):
                done = self.run_job(victim, "--reset-limit", "1")
                self.assertEqual(done.code, 0, done.err)
                self.assertIn("starting it again (1 of 1)", done.err)
                self.assertEqual(done.out.count("the ranks sum to 6"), 4, done.out)
                (self.folder / "died").rmdir()


class WithoutKhorusrun(OneHost):
    """RANK and WORLD_SIZE: the ranks of a host see each other's end by themselves."""

    def run_ranks(self, victim: int, **changes: str) -> list[str]:
        """What the others say before they end."""
        program = self.job_script(victim)
        reading, writing = os.pipe()
        self.addCleanup(os.close, reading)
        job = {
            "WORLD_SIZE": "4",
            "LOCAL_WORLD_SIZE": "4",
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": "1",  # of no meaning on one host
            "KHORUS_JOB_ID": f"start-{os.getpid()}-{time.monotonic_ns()}",
            "KHORUS_CONTROL_FAN_IN": "2",
            "KHORUS_START_TIMEOUT": START_TIMEOUT_S,
            "LIFELINE": str(writing),
        } | changes
        ranks = []
        for rank in range(4):
            process = subprocess.Popen(
                [program],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=[writing],
                env=environment(RANK=str(rank), LOCAL_RANK=str(rank), **job),
                text=True,
            )
            self.addCleanup(process.communicate)
            self.addCleanup(process.kill)
            ranks.append(process)
        os.close(writing)
        Lifeline(reading).wait_for("dies", 1)
        died = time.monotonic()
        said = [process.communicate(timeout=BOUND_S)[1] for process in ranks]
        self.assertLess(time.monotonic() - died, SOON_S, said)
        codes = [process.returncode for process in ranks]
        self.assertEqual(codes.pop(victim), -9, said)
        self.assertEqual(codes, [1, 1, 1], said)
        return said[:victim] + said[victim + 1 :]

    def test_a_neighbour_tells_all(self) -> None:
        for victim, connects in (2, False), (1, False), (1, True):
            with self.subTest(victim=victim, connects=connects):
                changes = {"KHORUS_TEST_CONNECTS": "1"} if connects else {}
                for text in self.run_ranks(victim, **changes):
                    self.assertRegex(text, expected(victim, platform.node()))
                (self.folder / "died").rmdir()

    def test_rank_0_takes_the_store_along(self) -> None:
        for text in self.run_ranks(0):
            self.assertRegex(text, "rank 0 .*has ended before all had met")


class TwoHosts(RemoteTest):
    size = 2

    def run_job(self, victim: int, *options: str) -> Completed:
        died = self.folder / "died"
        with suppress(FileNotFoundError):
            died.rmdir()
        program = self.script(script(victim, "$LIFELINE", str(self.folder)))
        path = self.folder / f"lifeline.{time.monotonic_ns()}"
        os.mkfifo(path)
        reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reading)
        writing = os.open(path, os.O_WRONLY)
        self.addCleanup(os.close, writing)
        job = subprocess.Popen(
            self.command(
                *("-H", self.slots(2), "-x", f"LIFELINE={path}", "--failure-grace-s", "20"),
                *("--start-timeout", START_TIMEOUT_S, *options, program),
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(KHORUS_CONTROL_FAN_IN="2"),
        )
        self.addCleanup(job.communicate)
        self.addCleanup(job.kill)
        Lifeline(reading).wait_for("dies", 1)
        seen = time.monotonic()
        out, err = job.communicate(timeout=BOUND_S)
        self.assertLess(time.monotonic() - seen, SOON_S, err.decode())
        return Completed(job.returncode, out, err)

    def test_the_rank_and_its_host_are_named(self) -> None:
        for victim in 2, 1:  # the parent is on the other host, and on this one
            with self.subTest(victim=victim):
                done = self.run_job(victim)
                self.assertEqual(done.code, 137, done.err)
                place = self.hosts[1].address if victim == 2 else self.hosts[0].name
                self.assertEqual(len(re.findall(expected(victim, place), done.err)), 3, done.err)

    def test_the_ranks_meet_again(self) -> None:
        done = self.run_job(2, "--reset-limit", "1")
        self.assertEqual(done.code, 0, done.err)
        self.assertEqual(done.out.count("the ranks sum to 6"), 4, done.out)


if __name__ == "__main__":
    unittest.main()

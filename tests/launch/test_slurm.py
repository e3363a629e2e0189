"""A real Slurm with two nodes: srun starts the ranks, or khorusrun does on what salloc and sbatch
give.

The nodes are network namespaces; the daemons are the test's own (slurm_cluster.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
import unittest
from pathlib import Path
from typing import ClassVar

import slurm_cluster
from launching import (
    BOUND_S,
    KHORUSRUN,
    Completed,
    Lifeline,
    ended,
    environment,
    key_file,
    started,
)
from remote_hosts import RemoteTest

HELLO = os.environ["KHORUS_TEST_HELLO"]
PLACE = """
names = "RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE"
print(os.uname().nodename, *(os.environ["KHORUS_" + name] for name in names), flush=True)
"""


class Slurm(RemoteTest):
    size = 2
    cluster: ClassVar[slurm_cluster.Cluster]

    @classmethod
    def setUpClass(cls) -> None:
        reason = slurm_cluster.why_not()
        if reason:
            raise unittest.SkipTest(reason)
        super().setUpClass()
        cls.cluster = slurm_cluster.Cluster(cls.network, cls.folder)
        cls.addClassCleanup(cls.cluster.stop)
        cls.cluster.start()

    def start(self, *words: str, **variables: str | None) -> subprocess.Popen[bytes]:
        """A command on the first node."""
        inherited = environment(**(self.cluster.variables() | variables))
        return started(self, self.hosts[0].command(*words), inherited)

    def slurm(self, *words: str, **variables: str | None) -> Completed:
        return ended(self.start(*words, **variables))

    def check_sums(self, done: Completed, ranks: int) -> None:
        self.assertEqual(done.code, 0, done.err)
        total = ranks * (ranks - 1) // 2
        for rank in range(ranks):
            self.assertIn(f"hello from rank {rank} of {ranks} ", done.out)
        self.assertEqual(done.out.count(f"the ranks sum to {total}\n"), ranks, done.out)

    def test_srun_on_one_node(self) -> None:
        for key in None, key_file(self.folder / "key"):
            with self.subTest(key=key):
                done = self.slurm("srun", "-N", "1", "-n", "2", HELLO, KHORUS_KEY_FILE=key)
                self.check_sums(done, 2)

    def test_srun_on_two_nodes(self) -> None:
        key = key_file(self.folder / "key")
        even = ["srun", "-N", "2", "--ntasks-per-node", "2"]
        done = self.slurm(*even, HELLO, KHORUS_KEY_FILE=key)
        self.check_sums(done, 4)
        self.assertIn("rank 3 of 4 (local rank 1 of 2)", done.out)
        # Slurm fills the first node: three tasks there, and one on the second.
        done = self.slurm("srun", "-N", "2", "-n", "4", HELLO, KHORUS_KEY_FILE=key)
        self.check_sums(done, 4)
        self.assertIn("rank 3 of 4 (local rank 0 of 1)", done.out)
        done = self.slurm("srun", "-N", "2", "-n", "2", HELLO)
        self.assertNotEqual(done.code, 0)
        self.assertIn("set KHORUS_KEY_FILE", done.err)

    def test_khorusrun_takes_the_nodes_of_salloc(self) -> None:
        program = self.program(PLACE)
        done = self.slurm("salloc", "-N", "2", "-n", "3", "-Q", KHORUSRUN, program)
        self.assertEqual(done.code, 0, done.err)
        self.assertEqual(
            sorted(done.out.splitlines()),
            [
                "rank 0: khorus-host-0 0 3 0 2 0 2",
                "rank 1: khorus-host-0 1 3 1 2 0 2",
                "rank 2: khorus-host-1 2 3 0 1 1 2",
            ],
        )
        self.check_sums(self.slurm("salloc", "-N", "2", "-n", "4", "-Q", KHORUSRUN, HELLO), 4)

    def test_khorusrun_takes_the_nodes_of_sbatch(self) -> None:
        path = self.folder / "output"
        os.mkfifo(path)
        reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reading)
        writing = os.open(path, os.O_WRONLY)
        script = self.script(
            f"exec >{path} 2>&1\n{KHORUSRUN} -np 4 {HELLO}\necho exit code $?\n", "batch.sh"
        )
        log = self.folder / "sbatch.log"
        done = self.slurm("sbatch", "-N", "2", "-n", "4", "-o", str(log), script)
        self.assertEqual(done.code, 0, done.err)
        output = Lifeline(reading)
        lines = output.wait_for("exit code", 1)
        os.close(writing)
        self.assertIn("exit code 0", lines)
        self.assertEqual("\n".join(lines).count("the ranks sum to 6"), 4, lines)

    def test_more_ranks_than_tasks(self) -> None:
        done = self.slurm("salloc", "-N", "2", "-n", "2", "-Q", KHORUSRUN, "-np", "3", HELLO)
        self.assertEqual(done.code, 2)
        self.assertIn("-np 3 is more than the 2 slots of the hosts", done.err)
        done = self.slurm("salloc", "-N", "1", "-n", "1", "-Q", KHORUSRUN, "-np", "3", HELLO)
        self.check_sums(done, 3)

    def test_nothing_is_left_when_khorusrun_is_killed(self) -> None:
        path = self.folder / f"lifeline.{time.monotonic_ns()}"
        os.mkfifo(path)
        reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reading)
        writing = os.open(path, os.O_WRONLY)
        lifeline = Lifeline(reading)
        program = self.program("say('ready')\nsignal.pause()\n")
        salloc = self.start(
            *["salloc", "-N", "2", "-n", "4", "-Q", KHORUSRUN, "-x", f"LIFELINE={path}", program]
        )
        lifeline.wait_for("ready", 4)
        os.close(writing)
        launchers = [pid for pid in self.hosts[0].find(KHORUSRUN) if is_launcher(pid)]
        self.assertEqual(len(launchers), 1)
        os.kill(launchers[0], signal.SIGKILL)
        lifeline.wait_until_all_are_gone()
        salloc.communicate(timeout=BOUND_S)  # it gives the nodes back


def is_launcher(pid: int) -> bool:
    """khorusrun itself: not its guard, nor an agent, nor salloc."""
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return name == "khorusrun" and b"--agent" not in words


if __name__ == "__main__":
    unittest.main()

"""Hosts without ssh: each runs a khorusrun of its own, and they meet at node 0."""

from __future__ import annotations

import os
import signal
import subprocess
import unittest
from pathlib import Path

from launching import KHORUSRUN, Completed, ended, environment, key_file, started
from remote_hosts import RemoteTest

HELLO = os.environ["KHORUS_TEST_HELLO"]
WORKER = os.environ["KHORUS_TEST_CRASH_WORKER"]
PLACE = """
names = "RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE"
print(os.uname().nodename, *(os.environ["KHORUS_" + name] for name in names), flush=True)
"""


class Nodes(RemoteTest):
    size = 2

    def start(self, host: int, *arguments: str, key: str = "key") -> subprocess.Popen[bytes]:
        endpoint = f"{self.hosts[0].address}:29500"
        own = [KHORUSRUN, "--rdzv-endpoint", endpoint, *arguments]
        variables = environment(KHORUS_KEY_FILE=key and key_file(self.folder / key))
        return started(self, self.hosts[host].command(*own), variables)

    def nodes(self, *arguments: str) -> list[Completed]:
        """A launcher on each host, the last one first."""
        processes = [
            self.start(i, "--nnodes", "2", "--node-rank", str(i), *arguments) for i in (1, 0)
        ]
        done = [ended(process) for process in processes]
        for host in self.hosts:
            host.wait_until_idle()
        return done[::-1]

    def test_every_rank_has_its_place(self) -> None:
        logs = self.folder / "logs"
        first, second = self.nodes("-np", "2", "--log-dir", str(logs), self.program(PLACE))
        self.assertEqual(
            sorted(first.out.splitlines()),
            ["rank 0: khorus-host-0 0 4 0 2 0 2", "rank 1: khorus-host-0 1 4 1 2 0 2"],
        )
        self.assertEqual(
            sorted(second.out.splitlines()),
            ["rank 2: khorus-host-1 2 4 0 2 1 2", "rank 3: khorus-host-1 3 4 1 2 1 2"],
        )
        self.assertTrue((Path(logs) / "rank.3" / "stdout").exists())

    def test_the_ranks_meet(self) -> None:
        first, second = self.nodes("-np", "2", "--log-level", "info", HELLO)
        for done in first, second:
            self.assertEqual(done.code, 0, done.err)
            self.assertEqual(done.out.count("the ranks sum to 6"), 2, done.out)
        self.assertIn("backend gloo", first.err)

    def test_under_tls(self) -> None:
        for done in self.nodes("-np", "1", "--tls", HELLO):
            self.assertEqual(done.code, 0, done.err)
            self.assertEqual(done.out.count("the ranks sum to 1"), 1, done.out)
        self.start(0, "--nnodes", "2", "-np", "1", HELLO)
        arguments = ["--nnodes", "2", "--node-rank", "1", "--tls", "-np", "1"]
        second = ended(self.start(1, *arguments, HELLO))
        self.assertEqual(second.code, 1)
        self.assertIn("a store server, has KHORUS_TLS=0, this process", second.err)

    def test_a_lost_rank_ends_the_job_on_both(self) -> None:
        lifeline = self.folder / "lifeline"
        os.mkfifo(lifeline)
        reading = os.open(lifeline, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reading)
        work = f"exec {WORKER} 3 4 7 -1 3</dev/null 4>>{lifeline}\n"
        program = self.script(work)
        processes = [
            self.start(i, "--nnodes", "2", "--node-rank", str(i), "-np", "1", program)
            for i in (0, 1)
        ]
        with lifeline.open("rb") as stream:  # waits for a writer, as the first reader did not
            while stream.readline() != b"ready\n":
                pass
            os.kill(self.hosts[1].find("crash_worker")[0], signal.SIGKILL)
            first, second = (ended(process) for process in processes)
        self.assertIn("rank 1 failed first: killed by signal 9", second.err)
        self.assertEqual(second.code, 137)
        self.assertIn("rank 0 failed first", first.err)
        self.assertIn("peer lost: rank 1 (khorus-host-1", first.err)

    def test_a_node_that_does_not_come_is_named(self) -> None:
        process = self.start(0, "--nnodes", "2", "--start-timeout", "1", "-np", "1", HELLO)
        done = ended(process)
        self.assertEqual(done.code, 1)
        self.assertIn("node 1 of 2 did not come", done.err)
        process = self.start(
            1, *["--nnodes", "2", "--node-rank", "1", "--start-timeout", "1", "-np", "1"], HELLO
        )
        done = ended(process)
        self.assertEqual(done.code, 1)
        self.assertIn("node 0 did not come within 1000 ms", done.err)

    def test_what_does_not_fit_together(self) -> None:
        processes = [
            self.start(i, "--nnodes", "2", "--node-rank", str(i), "-np", str(1 + i), HELLO)
            for i in (0, 1)
        ]
        done = [ended(process) for process in processes]
        for one in done:
            self.assertEqual(one.code, 1)
        self.assertIn(
            'of 2 nodes with 1 ranks each, and that of node 1 of "2 nodes with 2', done[0].err
        )

    def test_without_the_key(self) -> None:
        done = ended(self.start(0, "--nnodes", "2", "-np", "1", HELLO, key=""))
        self.assertEqual(done.code, 2)
        self.assertIn("KHORUS_KEY_FILE", done.err)
        self.start(0, "--nnodes", "2", "-np", "1", HELLO)
        arguments = ["--nnodes", "2", "--node-rank", "1", "-np", "1"]
        second = ended(self.start(1, *arguments, HELLO, key="other_key"))
        self.assertEqual(second.code, 1)
        self.assertIn("key", second.err)
        self.assertNotIn("did not come", second.err)

    def test_interrupted_while_it_waits(self) -> None:
        process = self.start(0, "-v", "--nnodes", "2", "-np", "1", HELLO)
        assert process.stderr is not None
        self.assertIn(b"node 0 meets the others at", process.stderr.readline())
        process.send_signal(signal.SIGINT)
        self.assertEqual(ended(process).code, -signal.SIGINT)
        self.hosts[0].wait_until_idle()


if __name__ == "__main__":
    unittest.main()

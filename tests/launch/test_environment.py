"""Ranks that no launcher of ours has started: RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT say
where they stand, and a key file lets them in. On one machine, each as if it were a host of its own.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import unittest
from contextlib import suppress

from launching import LaunchTest, ended, environment, key_file, started

HELLO = os.environ["KHORUS_TEST_HELLO"]


def free_port() -> int:
    """One whose successor is free too, of those that the system gives to nobody by itself."""
    while True:
        port = random.randrange(10000, 20000)
        with socket.socket() as first, socket.socket() as second, suppress(OSError):
            first.bind(("127.0.0.1", port))
            second.bind(("127.0.0.1", port + 1))
            return port


class Environment(LaunchTest):
    def setUp(self) -> None:
        super().setUp()
        self.port = free_port()
        self.key = key_file(self.folder / "key")

    def start(self, rank: int, size: int = 2, **variables: str | None) -> subprocess.Popen[bytes]:
        place = {
            "RANK": str(rank),
            "WORLD_SIZE": str(size),
            "MASTER_ADDR": "localhost",
            "MASTER_PORT": str(self.port),
            "KHORUS_KEY_FILE": self.key,
        }
        return started(self, [HELLO], environment(**(place | variables)))

    def test_they_meet_in_any_order(self) -> None:
        processes = [self.start(rank, 3) for rank in (2, 0, 1)]
        for rank, process in zip((2, 0, 1), processes, strict=True):
            done = ended(process)
            self.assertEqual(done.code, 0, done.err)
            self.assertIn(f"rank {rank} of 3 (local rank 0 of 1): the ranks sum to 3", done.out)

    def test_under_tls(self) -> None:
        processes = [self.start(rank, 3, KHORUS_TLS="1") for rank in (2, 0, 1)]
        for process in processes:
            done = ended(process)
            self.assertEqual(done.code, 0, done.err)
            self.assertIn("the ranks sum to 3", done.out)

    def test_who_differs_in_tls_is_told_so_at_once(self) -> None:
        first = self.start(0)
        second = ended(self.start(1, KHORUS_TLS="1"))
        self.assertEqual(second.code, 1)
        self.assertIn(
            "a store server, has KHORUS_TLS=0, this process, rank 1, KHORUS_TLS=1", second.err
        )
        first.kill()

    def test_one_host_needs_no_key(self) -> None:
        processes = [
            self.start(rank, LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2", KHORUS_KEY_FILE=None)
            for rank in (1, 0)
        ]
        for process in processes:
            done = ended(process)
            self.assertEqual(done.code, 0, done.err)
            self.assertIn("of 2 (local rank", done.out)

    def test_one_host_under_tls(self) -> None:
        processes = [
            self.start(
                rank, LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2", KHORUS_KEY_FILE=None,
                KHORUS_TLS="1",
            )
            for rank in (1, 0)
        ]  # fmt: skip
        for process in processes:
            done = ended(process)
            self.assertEqual(done.code, 0, done.err)
            self.assertIn("of 2 (local rank", done.out)

    def test_several_hosts_need_one(self) -> None:
        done = ended(self.start(1, KHORUS_KEY_FILE=None))
        self.assertEqual(done.code, 1)
        self.assertIn("set KHORUS_KEY_FILE", done.err)

    def test_another_key_is_refused(self) -> None:
        self.start(0)
        second = ended(self.start(1, KHORUS_KEY_FILE=key_file(self.folder / "other")))
        self.assertEqual(second.code, 1)
        self.assertIn("the peer does not know this job's key", second.err)

    def test_who_waits_says_for_whom(self) -> None:
        done = ended(self.start(1, KHORUS_START_TIMEOUT="1"))
        self.assertEqual(done.code, 1)
        self.assertIn("for rank 0 to serve the store", done.err)

    def test_a_port_that_is_taken(self) -> None:
        with socket.socket() as other:
            other.bind(("127.0.0.1", self.port + 1))
            other.listen()
            done = ended(self.start(0))
        self.assertEqual(done.code, 1)
        self.assertIn(f"rank 0 cannot serve the store at localhost:{self.port + 1}", done.err)
        self.assertIn("KHORUS_STORE sets another host:port", done.err)

    def test_the_store_can_be_elsewhere(self) -> None:
        store = f"127.0.0.1:{free_port()}"
        processes = [self.start(rank, KHORUS_STORE=store, MASTER_ADDR="gone") for rank in (0, 1)]
        for process in processes:
            self.assertEqual(ended(process).code, 0)


if __name__ == "__main__":
    unittest.main()

"""A crowd without the key at the store of a live job: what it costs the process that serves it.

The cost is the processor time of all its threads (schedstat, in nanoseconds) as a part of the time
from the first connection to the last answer, and the growth of its resident memory meanwhile.
"""

from __future__ import annotations

import os
import resource
import selectors
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import wire
from jobs import SOAK, AttackTest, Job

CROWD = 10_000 if SOAK else 1_000
AT_ONCE = 500
MOST_CPU = 0.02
MOST_MEMORY = 16 << 20
PATIENCE_S = 300.0 if SOAK else 60.0


def cpu_s(pid: int) -> float:
    tasks = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9


def peak_memory(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


class Crowd:
    """Connections that each say these words, and wait for the end."""

    def __init__(self, address: str, words: bytes) -> None:
        self.address = wire.address_of(address)
        self.words = words
        self.selector = selectors.DefaultSelector()
        self.answered = 0
        self.refused = 0  # by the kernel: its queue was full, or it was cut off

    def add(self, count: int) -> None:
        for _ in range(count):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(self.address)
            self.selector.register(connection, selectors.EVENT_WRITE)

    def __len__(self) -> int:
        return len(self.selector.get_map())

    def turn(self, timeout_s: float) -> None:
        """Says and hears what can be said and heard now."""
        for key, events in self.selector.select(timeout_s):
            connection = key.fileobj
            assert isinstance(connection, socket.socket)
            try:
                if events & selectors.EVENT_WRITE:
                    connection.send(self.words)
                    self.selector.modify(connection, selectors.EVENT_READ)
                    continue
                answer = connection.recv(4096)
                self.answered += bool(answer)
                if answer:
                    continue  # its end comes next
            except OSError:
                self.refused += 1
            self.selector.unregister(connection)
            connection.close()

    def close(self) -> None:
        for key in list(self.selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        self.selector.close()


class Flood(AttackTest):
    def setUp(self) -> None:
        super().setUp()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        if hard < CROWD + 200:
            self.skipTest(f"needs {CROWD + 200} open files, and {hard} are allowed (ulimit -Hn)")

    @contextmanager
    def cost_is_bounded(self, job: Job) -> Iterator[None]:
        pid = job.running.process.pid
        memory, cpu, began = peak_memory(pid), cpu_s(pid), time.monotonic()
        yield
        took = time.monotonic() - began
        part = (cpu_s(pid) - cpu) / took
        grown = peak_memory(pid) - memory
        said = f"{CROWD} connections in {took:.1f} s: {100 * part:.2f} % of a core, {grown} bytes"
        print(said, flush=True)
        self.assertLess(part, MOST_CPU, said)
        self.assertLess(grown, MOST_MEMORY, said)

    def test_a_crowd_with_a_wrong_key(self) -> None:
        """As fast as they are let in, half a thousand at any time."""
        with self.job() as job:
            job.wait_until_ready()
            crowd = Crowd(job.store, job.as_client().hello(os.urandom(32)))
            self.addCleanup(crowd.close)
            with self.cost_is_bounded(job):
                end = time.monotonic() + PATIENCE_S
                came = 0
                while (came < CROWD or len(crowd) > 0) and time.monotonic() < end:
                    more = min(AT_ONCE - len(crowd), CROWD - came)
                    crowd.add(more)
                    came += more
                    crowd.turn(0.1)
            self.assertEqual((came, len(crowd)), (CROWD, 0), "not all were answered in time")
            self.assertEqual(crowd.answered, CROWD)
            self.assert_unharmed(job)

    def test_a_silent_crowd_all_at_once(self) -> None:
        """It waits in the kernel's queue, and the job goes on."""
        with self.job() as job:
            job.wait_until_ready()
            crowd = Crowd(job.store, b"\x8f")
            self.addCleanup(crowd.close)
            with self.cost_is_bounded(job):
                crowd.add(CROWD)
                end = time.monotonic() + (60.0 if SOAK else 2.0)
                while time.monotonic() < end:
                    crowd.turn(0.1)
            self.assertGreater(len(crowd), CROWD / 3, "it is not there any more")
            self.assert_unharmed(job)

"""A live job to attack: real ranks under khorusrun that go one step for every byte they are given.

Its ranks are started by a traitor, a program that reads the job's key, tells it to the test, and
becomes the rank (victim.cc) with the same key in a new pipe. So the tests can do what somebody
could who knew the key, and search for it.
"""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from launching import Completed, LaunchTest, RunningJob, environment, running
from wire import (
    CLIENT,
    HELLO_BYTES,
    KEY,
    MAGIC,
    RANK,
    SERVER,
    Identity,
    StoreClient,
    connect,
    read,
)

VICTIM = os.environ["KHORUS_TEST_VICTIM"]
REDIRECT = os.environ.get("KHORUS_TEST_REDIRECT", "")
SOAK = os.environ.get("KHORUS_TEST_SOAK") == "1"

TRAITOR = """
key = os.read(int(os.environ['KHORUS_KEY_FD']), 32)
say(f"key {key.hex()} {os.environ['KHORUS_STORE']} {os.environ['KHORUS_JOB_ID']}")
reading, writing = os.pipe()
os.write(writing, key)
os.set_inheritable(reading, True)
os.environ['KHORUS_KEY_FD'] = str(reading)
if str(rank) in os.environ['HELD'].split():
    os.read(int(os.environ['GATE']), 1)
if str(rank) in os.environ.get('REDIRECTED', '').split():
    os.environ['LD_PRELOAD'] = os.environ['REDIRECT']
os.execv(os.environ['VICTIM'], ['victim'])
"""


@dataclass
class Job:
    """What the test has of a running job, and what only its members should have."""

    running: RunningJob
    ranks: int
    key: bytes
    store: str
    job_id: str
    steps: int  # where a byte makes one rank go one step
    gate: int  # where a byte lets one rank that is held go
    tls: bool = False
    done: int = 0
    clients: list[StoreClient] = field(default_factory=list)

    def wait_until_ready(self) -> dict[int, int]:
        """The pid of every rank."""
        lines = self.running.lifeline.wait_for("ready", self.ranks)
        words = [line.split() for line in lines if line.startswith("ready")]
        return {int(rank): int(pid) for _, rank, pid in words}

    def start_step(self) -> None:
        os.write(self.steps, bytes(self.ranks))

    def step(self) -> None:
        """All ranks go one step, and find the right sums."""
        self.start_step()
        self.done += self.ranks
        self.running.lifeline.wait_for("step", self.done)

    def let_go(self, count: int = 1) -> None:
        os.write(self.gate, bytes(count))

    def failures(self, count: int) -> dict[int, str]:
        """What that many ranks have said when they gave up, by rank."""
        lines = self.running.lifeline.wait_for("failed", count)
        assert not any(line.startswith("wrong") for line in lines), lines
        words = [line.split(" ", 2) for line in lines if line.startswith("failed")]
        return {int(rank): why for _, rank, why in words}

    def client(self) -> StoreClient:
        self.clients.append(StoreClient(self.store, self.key, self.job_id))
        return self.clients[-1]

    def address(self, rank: int) -> str:
        """Where the rank listens, or did."""
        code, value = self.client().get(f"addr/{EPOCH}/{rank}")
        assert code == 0, value
        return value.decode()

    def as_rank(self, rank: int, peer: int = 0, epoch: int | None = None) -> Identity:
        own_epoch = EPOCH if epoch is None else epoch
        return Identity(self.job_id, RANK, RANK, rank, peer, own_epoch, tls=self.tls)

    def as_client(self) -> Identity:
        return Identity(self.job_id, CLIENT, SERVER, tls=self.tls)

    def end(self) -> Completed:
        """All ranks have had enough; or have failed."""
        os.close(self.steps)
        self.steps = -1
        return self.running.wait()


def start_by_hand(
    rank: int, job_id: str, lifeline: int, steps: int, **changes: str
) -> subprocess.Popen[bytes]:
    """One of two ranks of a job without a launcher."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "CROSS_RANK": 0}
    sizes = {"SIZE": 2, "LOCAL_SIZE": 2, "CROSS_SIZE": 1}
    variables = {f"KHORUS_{name}": str(value) for name, value in (place | sizes).items()}
    variables |= {"KHORUS_JOB_ID": job_id, "LIFELINE": str(lifeline), "STEPS": str(steps)}
    return subprocess.Popen(
        [VICTIM], env=environment(**variables, **changes), pass_fds=[lifeline, steps]
    )


EPOCH = 1  # of the first init() of a job


class AttackTest(LaunchTest):
    @contextmanager
    def job(
        self,
        ranks: int = 2,
        *flags: str,
        held: Sequence[int] = (),
        kept: Sequence[int] = (),
        **changes: str | None,
    ) -> Iterator[Job]:
        """A job whose key is known. `held` ranks wait at the gate before they start."""
        with ExitStack() as stack:
            steps, gate = os.pipe(), os.pipe()
            for end in steps[0], gate[0], gate[1]:
                stack.callback(os.close, end)
            started = stack.enter_context(
                running(
                    "-np", str(ranks), *flags, self.program(TRAITOR, "traitor.py"),
                    ignored=None, kept=[steps[0], gate[0], *kept],
                    STEPS=str(steps[0]), GATE=str(gate[0]), HELD=" ".join(map(str, held)),
                    VICTIM=VICTIM, REDIRECT=REDIRECT, **changes,
                )
            )  # fmt: skip
            lines = started.lifeline.wait_for("key", ranks)
            _, key, store, job_id = next(line for line in lines if line.startswith("key")).split()
            tls = changes.get("KHORUS_TLS") == "1"
            secret = bytes.fromhex(key)
            job = Job(started, ranks, secret, store, job_id, steps[1], gate[1], tls)
            try:
                yield job
            finally:
                for client in job.clients:
                    client.socket.close()
                if job.steps >= 0:
                    os.close(job.steps)

    def heard(self, address: str, words: bytes, *, hang_up: bool = False) -> bytes:
        """Everything that is answered to these bytes, up to the end of the connection."""
        with connect(address) as connection:
            try:
                connection.sendall(words)
                if hang_up:
                    connection.shutdown(socket.SHUT_WR)
            except (ConnectionResetError, BrokenPipeError):
                return b""  # it was cut off in the middle of a speech
            return read(connection, 1 << 20)

    def assert_deaf(self, job: Job, address: str, stranger: Identity) -> None:
        """Nothing without the key gets more than one answer, and that tells nothing of the job."""
        good = stranger.hello(job.key)
        self.assertEqual(self.heard(address, b"GET / HTTP/1.0\r\n\r\n" + bytes(300)), b"")
        self.assertEqual(self.heard(address, os.urandom(HELLO_BYTES)), b"")
        self.assertEqual(self.heard(address, good[:191], hang_up=True), b"")
        self.assertEqual(self.heard(address, b"", hang_up=True), b"")
        for other in bytes(32), os.urandom(32):
            answer = self.heard(address, stranger.hello(other) + bytes(32))
            self.assertEqual(answer[:8], MAGIC)
            self.assertEqual(answer[16], KEY)
            self.assertEqual(answer[17:], bytes(HELLO_BYTES - 17), "a stranger learns nothing")
        for at in 20, 40, 105, 191:  # a verified hello with one bit changed
            changed = bytearray(good)
            changed[at] ^= 1
            answer = self.heard(address, bytes(changed))
            self.assertEqual((answer[16], answer[17:]), (KEY, bytes(HELLO_BYTES - 17)))
        # What comes behind a hello is not looked at before the confirmation.
        self.assertLessEqual(len(self.heard(address, good + os.urandom(100_000))), HELLO_BYTES)

    def assert_unharmed(self, job: Job) -> None:
        """It goes on, and ends well."""
        job.step()
        done = job.end()
        self.assertEqual(done.code, 0, done.err)

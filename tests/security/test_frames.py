"""Somebody on the path between two ranks of a live job changes what they send each other."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

import wire
from jobs import SOAK, Job
from relay import DOWN, UP, Attack, Relay, RelayTest


def changed(frame: bytes, at: int) -> bytes:
    return frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]


def forged(frame: bytes, _: list[bytes]) -> bytes:
    """One with the right number and another key."""
    number = struct.unpack("<Q", frame[4:12])[0]
    return wire.Seal(os.urandom(32)).frame(frame[wire.HEADER_BYTES :], number=number)


# What is done, and what the receiver says of it.
MAC, ORDER, BOUND = "does not verify", "replayed, lost or reordered", "over the bound"
ATTACKS: dict[str, tuple[Attack, str]] = {
    "payload altered": (lambda frame, _: changed(frame, len(frame) - 1), MAC),
    "mac altered": (lambda frame, _: changed(frame, 20), MAC),
    "another key": (forged, MAC),
    "number altered": (lambda frame, _: changed(frame, 4), ORDER),
    "an old frame comes again": (lambda frame, before: before[-1] + frame, ORDER),
    "the same frame comes twice": (lambda frame, _: frame + frame, ORDER),
    "bytes injected": (lambda frame, _: bytes(64) + frame, "MAC|" + ORDER),
    "made longer": (lambda frame, _: changed(frame, 0) + bytes(1), MAC),
    "oversized": (lambda frame, _: b"\xff\xff\xff\xff" + frame[4:], BOUND),
    "over the bound by one": (
        lambda frame, _: struct.pack("<I", (64 << 20) + 1) + frame[4:],
        BOUND,
    ),
}


class Frames(RelayTest):
    @contextmanager
    def relayed(self) -> Iterator[tuple[Job, Relay]]:
        """A job of two ranks, whose connection leads through the relay."""
        relay = Relay()
        try:
            with self.job(RELAY_PORT=str(relay.port), REDIRECTED="1") as job:
                relay.lead_to(job.address(0))
                job.wait_until_ready()
                yield job, relay
        finally:
            relay.close()

    def test_a_relay_that_changes_nothing(self) -> None:
        """Shows that the rest is about what it changes."""
        with self.relayed() as (job, relay):
            job.step()
            self.assertGreater(len(relay.frames[UP]), 1)
            self.assertGreater(len(relay.frames[DOWN]), 1)
            self.assert_unharmed(job)

    def test_changes(self) -> None:
        """Each ends the connection, and with it the job: no sum is wrong, and nobody waits."""
        for number, (name, (attack, words)) in enumerate(ATTACKS.items()):
            for direction in (UP, DOWN) if SOAK else (UP, DOWN)[number % 2 :][:1]:
                with self.subTest(name, direction=direction), self.relayed() as (job, relay):
                    self.attack(job, relay, direction, attack, words)

    def test_a_frame_that_is_cut_short(self) -> None:
        """Half a frame, and then no more: an end like any other."""
        with self.relayed() as (job, relay):

            def cut(frame: bytes, _: list[bytes]) -> bytes:
                raise ConnectionAbortedError

            job.step()
            relay.attack(UP, cut)
            job.start_step()
            self.assertIn("lost", job.failures(2)[0])
            self.assertNotEqual(job.end().code, 0)

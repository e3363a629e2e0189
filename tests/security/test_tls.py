"""A job under TLS: what somebody gets who is on the path, or at its ports."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import wire
from jobs import Job
from relay import DOWN, UP, Attack, Relay, RelayTest

NAME = b"x100000"  # of a tensor of the victim
ALTERED: dict[str, Attack] = {
    "a bit is changed": lambda record, _: record[:-1] + bytes([record[-1] ^ 1]),
    "an old record comes again": lambda record, before: before[-1] + record,
    "the same record comes twice": lambda record, _: record + record,
    "a record is injected": lambda record, _: b"\x17\x03\x03\x00\x20" + bytes(32) + record,
    "a record in the clear": lambda record, _: b"\x17\x03\x03\x00\x04\x00\x00\x00\x00",
    "oversized": lambda record, _: b"\x17\x03\x03\xff\xff" + bytes(0xFFFF),
}


class Tls(RelayTest):
    @contextmanager
    def relayed(self, *, tls: bool = True) -> Iterator[tuple[Job, Relay]]:
        """A job of two ranks, whose connection leads through the relay."""
        relay = Relay(tls=tls)
        try:
            with self.job(
                KHORUS_TLS=str(int(tls)), RELAY_PORT=str(relay.port), REDIRECTED="1"
            ) as job:
                lines = job.running.lifeline.wait_for("target", 1)
                target = next(line for line in lines if line.startswith("target"))
                relay.lead_to(target.split()[1])
                job.wait_until_ready()
                yield job, relay
        finally:
            relay.close()

    def test_who_records_reads_the_names_only_without_it(self) -> None:
        for tls in (False, True):
            with self.subTest(tls=tls), self.relayed(tls=tls) as (job, relay):
                job.step()
                self.assert_unharmed(job)
                self.assertEqual(wire.like(relay.hello[: wire.HELLO_BYTES]).tls, tls)
                for frames in relay.frames:
                    self.assertGreater(len(frames), 1)
                said = b"".join(relay.frames[UP] + relay.frames[DOWN])
                self.assertEqual(NAME in said, not tls)

    def test_changes(self) -> None:
        """Each ends the connection, and with it the job: no sum is wrong, and nobody waits."""
        for number, (name, attack) in enumerate(ALTERED.items()):
            direction = (UP, DOWN)[number % 2]
            with self.subTest(name), self.relayed() as (job, relay):
                self.attack(job, relay, direction, attack, "broke its TLS connection")

    def test_strangers_get_no_further_than_without_it(self) -> None:
        with self.job(3, held=[2], KHORUS_TLS="1") as job:
            self.assert_deaf(job, job.store, job.as_client())
            hello_of_tls = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(506)
            self.assertEqual(self.heard(job.store, hello_of_tls), b"")
            job.let_go()
            job.wait_until_ready()
            self.assert_unharmed(job)

    def test_a_member_that_differs_is_told_so(self) -> None:
        for tls in (False, True):
            with self.subTest(tls=tls), self.job(KHORUS_TLS=str(int(tls))) as job:
                job.wait_until_ready()
                claim = replace(job.as_client(), tls=not tls)
                with self.assertRaises(wire.Refused) as refused:
                    wire.Member(job.store, job.key, claim)
                self.assertEqual(refused.exception.verdict, wire.TLS)
                self.assert_unharmed(job)

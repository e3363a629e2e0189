"""Who knows the key, or has recorded somebody who does: claims that do not hold."""

from __future__ import annotations

import os
from dataclasses import replace

import wire
from jobs import EPOCH, AttackTest, Job, start_by_hand
from launching import Lifeline


class Impostors(AttackTest):
    def verdict(self, job: Job, address: str, identity: wire.Identity) -> int:
        try:
            wire.Member(address, job.key, identity).socket.close()
        except wire.Refused as refused:
            return refused.verdict
        return wire.ACCEPTED

    def test_claims_to_a_rank_that_waits(self) -> None:
        """Another epoch, rank, role, job or version gets no further than the first answer."""
        with self.job(2, held=[1]) as job:
            rank_0, good = job.address(0), job.as_rank(1)
            wire_version, library = good.versions
            for expected, claim in (
                (wire.EPOCH, replace(good, epoch=EPOCH - 1)),
                (wire.EPOCH, replace(good, epoch=EPOCH + 1)),
                (wire.EPOCH, replace(good, epoch=2**64 - 1)),
                (wire.JOB, replace(good, job="another")),
                (wire.ROLE, replace(good, role=wire.CLIENT)),
                (wire.ROLE, replace(good, peer_role=wire.SERVER)),
                (wire.WRONG_RANK, replace(good, peer_rank=1)),
                (wire.NOT_ADMITTED, replace(good, rank=0)),
                (wire.NOT_ADMITTED, replace(good, rank=2)),
                (wire.NOT_ADMITTED, replace(good, rank=-1)),
                (2, replace(good, versions=(wire_version + 1, library))),
                (3, replace(good, versions=(wire_version, library + 1))),
            ):
                with self.subTest(claim=claim):
                    self.assertEqual(self.verdict(job, rank_0, claim), expected)
            job.let_go()
            job.wait_until_ready()
            self.assert_unharmed(job)

    def test_a_second_claim_to_a_live_rank(self) -> None:
        """The first one stays; the second hears why not, whoever it is."""
        with self.job(2, held=[1]) as job:
            rank_0, claim = job.address(0), job.as_rank(1)
            first = wire.Member(rank_0, job.key, claim)
            self.assertEqual(self.verdict(job, rank_0, claim), wire.NOT_ADMITTED)
            first.socket.settimeout(0.2)
            self.assertFalse(wire.is_closed(first.socket), "the first claim is gone")
            job.let_go()  # the rank itself now is the second one, and its end that of the start
            why = job.failures(1)[1]
            self.assertIn("does not admit rank 1: it expects no such rank, or has it already", why)
            first.socket.close()
            self.assertNotEqual(job.end().code, 0)

    def test_a_recorded_handshake(self) -> None:
        """All that a member has said, once more: it gets a hello, and that is the end of it."""
        with self.job() as job:
            job.wait_until_ready()
            member = job.client()
            code, value = member.set("kept", b"once")
            self.assertEqual((code, value), (0, b""))
            for kept in len(member.said), wire.HELLO_BYTES + wire.CONFIRM_BYTES:
                with wire.connect(job.store) as again:
                    again.sendall(member.said[:kept])
                    answer = wire.read(again, 1 << 20)
                self.assertEqual(len(answer), wire.HELLO_BYTES, "it was let in")
                self.assertNotEqual(answer[104:136], member.answer[104:136], "the same nonce")
            self.assertEqual(member.get("kept")[1], b"once")
            self.assert_unharmed(job)

    def test_the_pickles_of_a_job_before_with_the_same_key_and_name(self) -> None:
        """Their MACs are under another key, so that a recorded one is worth nothing."""
        file = self.folder / "key"
        file.touch(mode=0o600)
        file.write_text(os.urandom(32).hex())
        keys = []
        for _ in range(2):
            reading, writing = os.pipe()
            steps = os.pipe()
            ranks = [
                start_by_hand(
                    rank, f"same-{os.getpid()}", writing, steps[0],
                    KHORUS_KEY_FILE=str(file), TELL_OBJECT_KEY="1",
                )
                for rank in range(2)
            ]  # fmt: skip
            for end in writing, *steps:
                os.close(end)
            lines = Lifeline(reading).wait_for("objects", 2)
            self.assertEqual([rank.wait(wire.BOUND_S) for rank in ranks], [0, 0])
            os.close(reading)
            told = {line.split()[2] for line in lines if line.startswith("objects")}
            self.assertEqual(len(told), 1, "the ranks of one job differ")
            keys.append(told.pop())
        self.assertNotEqual(keys[0], keys[1])
        self.assertNotIn(bytes(32).hex(), keys)

    def test_the_servers_words_sent_back_to_it(self) -> None:
        with self.job() as job:
            job.wait_until_ready()
            answer = job.client().answer
            with wire.connect(job.store) as mirror:
                mirror.sendall(answer + bytes(wire.CONFIRM_BYTES))
                said = wire.read(mirror, 1 << 20)
            self.assertEqual((len(said), said[16]), (wire.HELLO_BYTES, wire.KEY))
            self.assert_unharmed(job)

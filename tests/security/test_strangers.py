"""Who does not know the key: what it can say to a live job, and what it hears."""

from __future__ import annotations

import os
import select
import time
from dataclasses import replace

import wire
from jobs import AttackTest

STRANGER_TIMEOUT_S = 5.0


class Strangers(AttackTest):
    def test_the_store_of_a_live_job(self) -> None:
        with self.job() as job:
            job.wait_until_ready()
            self.assert_deaf(job, job.store, job.as_client())
            self.assert_unharmed(job)

    def test_a_rank_that_waits_for_its_children(self) -> None:
        with self.job(3, held=[2]) as job:
            self.assert_deaf(job, job.address(0), job.as_rank(2))
            self.assertEqual(
                self.heard(job.address(0), replace(job.as_rank(2), job="x").hello(bytes(32)))[17:],
                bytes(wire.HELLO_BYTES - 17),
            )
            job.let_go()
            job.wait_until_ready()
            self.assert_unharmed(job)

    def test_nobody_listens_once_the_tree_is_connected(self) -> None:
        with self.job() as job:
            job.wait_until_ready()
            for rank in range(2):
                with self.assertRaises(ConnectionRefusedError):
                    wire.connect(job.address(rank))
            self.assert_unharmed(job)

    def test_slow_ones_have_a_deadline_for_all_they_say(self) -> None:
        """Nothing at all; and a byte now and then, which buys no time."""
        with self.job() as job:
            job.wait_until_ready()
            words = iter(job.as_client().hello(os.urandom(32)))
            began = time.monotonic()
            with wire.connect(job.store) as silent, wire.connect(job.store) as slow:
                end, said = began + wire.BOUND_S, 0
                while time.monotonic() < end:
                    if select.select([slow], [], [], 0.05)[0]:  # its pace, and the end of it
                        break
                    slow.send(bytes([next(words)]))
                    said += 1
                took = time.monotonic() - began
                self.assertTrue(wire.is_closed(slow) and wire.is_closed(silent))
            self.assertGreater(said, 10, "it was cut off before it could be slow")
            self.assertLess(said, wire.HELLO_BYTES)
            self.assertGreater(took, STRANGER_TIMEOUT_S - 1)
            self.assertLess(took, STRANGER_TIMEOUT_S + 5)
            self.assert_unharmed(job)

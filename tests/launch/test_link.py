"""Two hosts on a link of 1 Gbit/s that is full of data.

Sums are right and take as long as the link says; the heartbeats that share the link with them come
through, so that nobody is taken for dead; and a cable that is taken out meanwhile is noticed. The
hosts are network namespaces, whose links a token bucket slows down.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import unittest

from launching import BOUND_S
from remote_hosts import RemoteTest, run

WORKER = os.environ["KHORUS_TEST_LINK_WORKER"]
SOAK = os.environ.get("KHORUS_TEST_SOAK") == "1"
RATE_BITS = 1_000_000_000
MIB = 64 if SOAK else 32
LIVENESS_S = 1.0  # the default of KHORUS_LIVENESS_TIMEOUT
BUSY_S = 2.0  # what a machine that does other things, too, may add to that
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class Link(RemoteTest):
    size = 2

    @classmethod
    def setUpClass(cls) -> None:
        if shutil.which("tc", path=PATH) is None:
            raise unittest.SkipTest("there is no tc here (Debian: iproute2)")
        super().setUpClass()
        # A bucket holds what the link carries in 2 ms: with less, its speed depends on how soon the
        # kernel's timer runs.
        for host in cls.network.hosts:
            limited = subprocess.run(
                [
                    *("ip", "netns", "exec", host.namespace, "tc", "qdisc", "add", "dev", "eth0"),
                    *("root", "tbf", "rate", f"{RATE_BITS}bit", "burst", "256kb"),
                    *("latency", "400ms"),
                ],
                capture_output=True,
                text=True,
            )
            if limited.returncode != 0:
                raise unittest.SkipTest(f"links cannot be slowed down here: {limited.stderr}")

    def worker(self, rounds: int) -> str:
        return self.script(f'exec {WORKER} "$LIFELINE" {MIB} {rounds}\n')

    def counts(self, what: str) -> list[int]:
        """Of each host's link: how often it had no room at once (overlimits), or what waits now, in
        bytes (backlog)."""
        counts = []
        for host in self.hosts:
            text = run("ip", "netns", "exec", host.namespace, "tc", "-s", "qdisc", "show")
            found = re.search(rf"qdisc tbf.*?{what} (\d+)(K?)", text, re.DOTALL)
            assert found is not None, text
            counts.append(int(found[1]) * (1024 if found[2] else 1))
        return counts

    def wait_until_full(self) -> None:
        """Data wait before both ends of the link."""
        deadline = time.monotonic() + BOUND_S
        while min(self.counts("backlog")) == 0:
            self.assertLess(time.monotonic(), deadline, "the link is never full")

    def check_full_link(self, ranks_per_host: int, rounds: int) -> None:
        before = self.counts("overlimits")
        with self.running(
            *("-H", self.slots(ranks_per_host)), self.worker(rounds), ready=2 * ranks_per_host
        ) as job:
            job.lifeline.bound_s = BOUND_S + 3.0 * rounds
            lines = job.lifeline.wait_for("done", 2 * ranks_per_host)
            done = job.wait()
        self.assertEqual(done.code, 0, done.err)
        self.assertNotIn("failed", "\n".join(lines))
        seconds = sorted(float(line.split()[1]) for line in lines if line.startswith("round"))
        self.assertEqual(len(seconds), rounds)
        # Whatever the algorithm, every host has to tell the other a whole tensor.
        fastest_s = MIB * 2**20 * 8 / RATE_BITS
        median = seconds[rounds // 2]
        print(f"{2 * ranks_per_host} ranks: {median:.3f} s; the link: {fastest_s:.3f} s")
        self.assertGreater(seconds[0], 0.95 * fastest_s, "the link is faster than it should be")
        self.assertLess(median, 10 * fastest_s)  # processors may be busy with other things
        for was, is_now in zip(before, self.counts("overlimits"), strict=True):
            self.assertGreater(is_now, was, "the limit was not reached")

    @unittest.skipUnless(SOAK, "four ranks fill it as well: soak only")
    def test_two_ranks_fill_it(self) -> None:
        self.check_full_link(1, 60)

    def test_four_ranks_fill_it(self) -> None:
        self.check_full_link(2, 60 if SOAK else 3)

    def test_a_cable_that_is_taken_out_is_noticed(self) -> None:
        for attempt in range(10 if SOAK else 1):
            with (
                self.subTest(attempt=attempt),
                self.running(
                    *("-H", self.slots(2), "--host-silence-s", "3", "--failure-grace-s", "0.5"),
                    self.worker(-1),
                    ready=4,
                ) as job,
            ):
                job.lifeline.wait_for("begins", 1 + attempt % 3)
                self.wait_until_full()
                self.network.set_link(1, "down")
                down = time.monotonic()
                try:
                    lines = job.lifeline.wait_for("failed", 4)
                    job.wait()
                    job.lifeline.wait_until_all_are_gone()
                    for host in self.hosts:
                        host.wait_until_idle()
                finally:
                    self.network.set_link(1, "up")
                failures = [line for line in lines if line.startswith("failed")]
                noticed = [float(line.split()[1]) - down for line in failures]
                print("noticed after", " ".join(f"{seconds:.3f}" for seconds in noticed), "s")
                self.assertLess(max(noticed), LIVENESS_S + BUSY_S, failures)
                for line in failures:
                    self.assertRegex(line, r"peer lost: .*rank \d \(khorus-host-\d")


if __name__ == "__main__":
    unittest.main()

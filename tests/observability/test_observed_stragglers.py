"""The report of stragglers at the end of a job of real processes."""

from __future__ import annotations

import os
import re
import unittest

from launching import Completed, LaunchTest, khorusrun

WORKER = os.environ["KHORUS_TEST_WORKER"]


class Stragglers(LaunchTest):
    def lines(self, done: Completed) -> list[str]:
        self.assertEqual(done.code, 0, done.err)
        return [line for line in done.err.splitlines() if "stragglers:" in line]

    def test_a_slow_rank_is_named_once(self) -> None:
        (line,) = self.lines(khorusrun("-np", "3", WORKER, "slow"))
        self.assertTrue(line.startswith("rank 0: "), line)
        # 120 steps of seven operations, and before each 15 ms in which rank 1 was waited for.
        found = re.search(
            r"in ([\d.]+) s with 840 operations the others waited ([\d.]+) s \(([\d.]+) %\) for "
            r"rank 1 \(.*pid \d+\), the last to submit (\d+) of them$",
            line,
        )
        assert found, line
        lasted, waited, share, last = map(float, found.groups())
        self.assertGreater(waited, 1.0)
        self.assertLessEqual(waited, lasted)
        self.assertAlmostEqual(share, 100 * waited / lasted, delta=5)
        self.assertGreater(last, 420)

    def test_it_is_said_when_wanted(self) -> None:
        never = khorusrun("-np", "2", "--straggler-report", "never", WORKER, "slow")
        self.assertEqual(self.lines(never), [])
        even = khorusrun("-np", "2", WORKER, "10")
        self.assertEqual(self.lines(even), [], "nothing worth a word")
        always = khorusrun("-np", "2", "--straggler-report", "always", WORKER, "10")
        self.assertEqual(len(self.lines(always)), 1, always.err)
        wrong = khorusrun("-np", "2", "--straggler-report", "perhaps", WORKER, "1")
        self.assertNotEqual(wrong.code, 0)
        self.assertIn('KHORUS_STRAGGLER_REPORT="perhaps"', wrong.err)


if __name__ == "__main__":
    unittest.main()

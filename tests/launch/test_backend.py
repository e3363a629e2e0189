"""Which backend carries the ranks of one host, and what is said when it is not shared memory.

unshare(1) puts a rank elsewhere; tests for which it is forbidden here are skipped.
"""

from __future__ import annotations

import os
import subprocess
import unittest

from launching import LaunchTest, khorusrun

HELLO = os.environ["KHORUS_TEST_HELLO"]


class Backend(LaunchTest):
    def choice(self, *elsewhere: str) -> str:
        """The line about the backend of a job whose rank 1 runs under `unshare ELSEWHERE`."""
        prefix = ["unshare", *elsewhere] if elsewhere else []
        tried = subprocess.run([*prefix, "true"], capture_output=True, check=False)
        if tried.returncode != 0:
            self.skipTest(f"{' '.join(prefix)} is forbidden here")
        prog = self.script(f'[ "$KHORUS_RANK" = 1 ] || exec "$@"\nexec {" ".join(prefix)} "$@"\n')
        done = khorusrun("-np", "3", "--log-level", "info", prog, HELLO)
        self.assertEqual(done.code, 0, done.err)
        self.assertEqual(done.out.count("the ranks sum to 3"), 3, done.out)
        lines = [line for line in done.err.splitlines() if "] backend " in line]
        self.assertEqual(len(lines), 1, done.err)  # said once, not by every rank
        return lines[0]

    def test_shared_memory_by_default(self) -> None:
        line = self.choice()
        self.assertIn("backend shm", line)
        self.assertRegex(line, r"not local: .* rank 1 \(.*\) is in another than rank 0 \(")

    def test_file_systems_play_no_part(self) -> None:
        self.assertIn("backend shm", self.choice("--mount"))

    def test_another_user_namespace(self) -> None:
        line = self.choice("--user")
        self.assertNotIn("backend shm", line)
        self.assertRegex(line, r"not shm: .* rank 1 \(.*\) is in another user namespace than")

    def test_asked_for_where_it_cannot_be(self) -> None:
        self.choice("--user")  # or skips
        prog = self.script('[ "$KHORUS_RANK" = 1 ] || exec "$@"\nexec unshare --user "$@"\n')
        done = khorusrun("-np", "2", "--backend", "shm", prog, HELLO)
        self.assertNotEqual(done.code, 0)
        self.assertIn('the backend "shm" that KHORUS_BACKEND asks for cannot be used', done.err)
        self.assertIn("another user namespace", done.err)


if __name__ == "__main__":
    unittest.main()

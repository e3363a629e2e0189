"""Every operation, process sets, join and misuse between real processes: 1 to 8 ranks started by
khorusrun, and with --mpi by mpirun. The tests are those of processes_test (C++); one job each.

The environment names the programs: KHORUS_TEST_KHORUSRUN, KHORUS_TEST_PROGRAM, and what to test:
KHORUS_TEST_BACKEND.
"""

from __future__ import annotations

import os
import subprocess
import unittest

KHORUSRUN = os.environ["KHORUS_TEST_KHORUSRUN"]
PROGRAM = os.environ["KHORUS_TEST_PROGRAM"]
BACKEND = os.environ["KHORUS_TEST_BACKEND"]
SOAK = "KHORUS_TEST_SOAK" in os.environ
SIZES = range(1, 9) if SOAK else (1, 2, 3, 4, 8)


def run_ranks(size: int, *arguments: str, tests: str = "*") -> subprocess.CompletedProcess[str]:
    """A job of the tests that `tests` selects."""
    variables = {
        k: v
        for k, v in os.environ.items()
        if not k.startswith(("KHORUS_", "HOROVOD_")) or k == "KHORUS_TEST_SOAK"
    }
    launcher = ["--mpi"] if BACKEND == "mpi" else ["--backend", BACKEND]
    program = [PROGRAM, "--gtest_color=no", f"--gtest_filter={tests}"]
    return subprocess.run(
        [KHORUSRUN, *launcher, "-np", str(size), *arguments, *program],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=900 if SOAK else 120,
        check=False,
    )


class Processes(unittest.TestCase):
    def test_every_size(self) -> None:
        for size in SIZES:
            with self.subTest(size=size):
                run = run_ranks(size)
                self.assertEqual(run.returncode, 0, run.stdout)
                self.assertRegex(run.stdout, r"\[  PASSED  \] [1-9]\d+ tests")


@unittest.skipUnless(BACKEND == "gloo", "of the backends gloo alone has interfaces")
class Interfaces(unittest.TestCase):
    def test_it_is_the_one_that_is_asked_for(self) -> None:
        for interface in ("lo", "127.0.0.1"):
            run = run_ranks(2, "--network-interfaces", interface, "--log-level", "info",
                            tests="Operations.*")  # fmt: skip
            self.assertEqual(run.returncode, 0, run.stdout)
            self.assertIn(f"gloo: connected over {interface}\n", run.stdout)

    def test_there_is_none_of_that_name(self) -> None:
        run = run_ranks(2, "--network-interfaces", "nosuch0")
        self.assertNotEqual(run.returncode, 0)
        self.assertIn('there is no network interface "nosuch0" with an address; there are: ',
                      run.stdout)  # fmt: skip


if __name__ == "__main__":
    unittest.main()

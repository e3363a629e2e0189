"""Ranks that MPICH's mpiexec has started, on one host and on two. Open MPI may be beside it, so it
goes by the name that only MPICH's has: mpiexec.hydra."""

from __future__ import annotations

import os
import shutil
import subprocess
import unittest
from pathlib import Path

from launching import BOUND_S, Completed, LaunchTest, environment
from remote_hosts import PORT, RemoteTest

HELLO = os.environ["KHORUS_TEST_HELLO"]
MPIEXEC = shutil.which("mpiexec.hydra")


def check_sums(test: unittest.TestCase, done: Completed, ranks: int) -> None:
    test.assertEqual(done.code, 0, done.err)
    for rank in range(ranks):
        test.assertIn(f"hello from rank {rank} of {ranks} ", done.out)
    test.assertEqual(done.out.count(f"the ranks sum to {ranks * (ranks - 1) // 2}\n"), ranks)


@unittest.skipIf(MPIEXEC is None, "there is no mpiexec.hydra here (Debian: mpich)")
class OneHost(LaunchTest):
    def mpiexec(self, *words: str) -> Completed:
        assert MPIEXEC is not None
        done = subprocess.run(
            [MPIEXEC, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=BOUND_S,
            env=environment(KHORUS_LOG_LEVEL="info"),
            check=False,
        )
        return Completed(done.returncode, done.stdout, done.stderr)

    def test_the_ranks_meet_without_a_key(self) -> None:
        done = self.mpiexec("-n", "3", HELLO)
        check_sums(self, done, 3)
        self.assertIn("rank 2 of 3 (local rank 2 of 3)", done.out)
        self.assertIn("rank and size come from mpiexec (MPICH)", done.err)

    def test_two_jobs_at_once_do_not_meet_each_other(self) -> None:
        assert MPIEXEC is not None
        jobs = [
            subprocess.Popen(
                [MPIEXEC, "-n", "2", HELLO],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment(),
            )
            for _ in range(2)
        ]
        for job in jobs:
            self.addCleanup(job.communicate)
            self.addCleanup(job.kill)
        for job in jobs:
            out, err = job.communicate(timeout=BOUND_S)
            check_sums(self, Completed(job.returncode, out, err), 2)


@unittest.skipIf(MPIEXEC is None, "there is no mpiexec.hydra here (Debian: mpich)")
class TwoHosts(RemoteTest):
    size = 2

    def test_the_ranks_meet_at_a_store(self) -> None:
        assert MPIEXEC is not None
        ssh = Path(self.script(f'exec ssh -F {self.folder}/ssh_config -p {PORT} "$@"\n', "ssh.sh"))
        key = self.folder / "key"
        key.touch(mode=0o600)
        key.write_text(os.urandom(32).hex())
        done = subprocess.run(
            self.hosts[0].command(
                *(MPIEXEC, "-launcher", "ssh", "-launcher-exec", str(ssh), "-iface", "eth0"),
                *("-hosts", ",".join(host.address for host in self.hosts), "-ppn", "2"),
                *("-genv", "KHORUS_KEY_FILE", str(key)),
                *("-genv", "KHORUS_STORE", f"{self.hosts[0].address}:29500"),
                *("-n", "4", HELLO),
            ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=BOUND_S,
            env=environment(),
            check=False,
        )
        finished = Completed(done.returncode, done.stdout, done.stderr)
        check_sums(self, finished, 4)
        self.assertIn("rank 3 of 4 (local rank 1 of 2)", finished.out)
        for host in self.hosts:
            host.wait_until_idle()


if __name__ == "__main__":
    unittest.main()

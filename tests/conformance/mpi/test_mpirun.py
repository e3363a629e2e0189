"""Programs under a real mpirun: the engine over MPI and over Gloo, ranks that are killed, and the
tests of faults_test.cc, each in a job of its own.

mpirun's exit code is its own opinion: a process that has abandoned an operation ends without
MPI_Finalize, of which mpirun complains, and now and then Open MPI 4.1's mpirun crashes or hangs
over it. So these tests look at what the ranks say, and end mpirun themselves if it does not.

The environment names the programs: KHORUS_TEST_MPIRUN, KHORUS_TEST_BIN (their folder).
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import threading
import time
import unittest
from pathlib import Path

MPIRUN = os.environ["KHORUS_TEST_MPIRUN"]
BIN = Path(os.environ["KHORUS_TEST_BIN"])
PATIENCE_S = 60


class Job:
    """One mpirun; its output is collected by a thread."""

    def __init__(
        self, ranks: int, *command: str, options: tuple[str, ...] = (), **env: str
    ) -> None:
        names = ("OMPI_ALLOW_RUN_AS_ROOT", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM")
        variables = {
            k: v for k, v in os.environ.items() if not k.startswith(("KHORUS_", "HOROVOD_"))
        }
        self.process = subprocess.Popen(
            [MPIRUN, "--oversubscribe", "--bind-to", "none", *options, "-np", str(ranks), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**variables, **dict.fromkeys(names, "1"), **env},
        )
        self.changed = threading.Condition()
        self.lines: list[str] = []
        self.over = False
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line.rstrip("\n"))
                self.changed.notify_all()
        with self.changed:
            self.over = True
            self.changed.notify_all()

    def text(self) -> str:
        with self.changed:
            return "\n".join(self.lines)

    def wait_for(self, expression: str, count: int = 1) -> list[str]:
        """Until `count` lines match; fails when the output ends before."""
        deadline = time.monotonic() + PATIENCE_S
        with self.changed:
            while True:
                found = [line for line in self.lines if re.search(expression, line)]
                if len(found) >= count:
                    return found
                left = deadline - time.monotonic()
                if self.over or left <= 0 or not self.changed.wait(left):
                    break
        raise AssertionError(f"no {count} lines of {expression!r} in:\n{self.text()}")

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def end(self) -> None:
        """mpirun ends its ranks when it can; they notice when it could not."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            self.process.wait(3)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()


class MpirunTest(unittest.TestCase):
    def job(self, ranks: int, program: str, *arguments: str, options: tuple[str, ...] = (),
            **env: str) -> Job:  # fmt: skip
        job = Job(ranks, str(BIN / program), *arguments, options=options, **env)
        self.addCleanup(job.end)
        return job


class Engine(MpirunTest):
    """The place, the meeting and the data, without khorusrun."""

    def test_hello(self) -> None:
        for backend in ("mpi", "gloo"):
            for ranks in (1, 2, 3, 4):
                with self.subTest(backend=backend, ranks=ranks):
                    job = self.job(ranks, "allreduce_hello", KHORUS_BACKEND=backend)
                    self.assertEqual(job.wait(), 0, job.text())
                    total = ranks * (ranks - 1) // 2
                    for rank in range(ranks):
                        job.wait_for(
                            rf"^hello from rank {rank} of {ranks} "
                            rf"\(local rank {rank} of {ranks}\): "
                            rf"the ranks sum to {total}$"
                        )

    def test_the_log_says_who_gave_the_place(self) -> None:
        job = self.job(2, "allreduce_hello", KHORUS_BACKEND="mpi", KHORUS_LOG_LEVEL="info")
        self.assertEqual(job.wait(), 0, job.text())
        job.wait_for(r"rank 0 info\] rank and size come from mpirun \(Open MPI\)")
        job.wait_for(r"rank 0 info\] backend mpi .*KHORUS_BACKEND asks for it")

    def test_a_key_file_is_used(self) -> None:
        key = Path(f"khorus-test-key-{os.getpid()}")
        self.addCleanup(key.unlink, missing_ok=True)
        key.touch(mode=0o600)
        key.write_text(os.urandom(32).hex())
        job = self.job(2, "allreduce_hello", KHORUS_KEY_FILE=str(key.resolve()))
        self.assertEqual(job.wait(), 0, job.text())
        key.chmod(0o644)
        job = self.job(2, "allreduce_hello", KHORUS_KEY_FILE=str(key.resolve()))
        self.assertNotEqual(job.wait(), 0, job.text())
        job.wait_for(r"is open to others than its owner")

    def test_without_mpirun_the_backend_says_so(self) -> None:
        run = subprocess.run(
            [BIN / "allreduce_hello"],
            env={"KHORUS_BACKEND": "mpi", "PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("was not started by Open MPI's mpirun", run.stderr)

    def test_another_mpis_launcher_is_named(self) -> None:
        places = {"PMI_RANK": "0", "PMI_SIZE": "1", "MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1"}
        run = subprocess.run(
            [BIN / "allreduce_hello"],
            env={"KHORUS_BACKEND": "mpi", "PATH": os.environ["PATH"], **places},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        self.assertNotEqual(run.returncode, 0)
        self.assertIn("started by another MPI's launcher (PMI_RANK is set", run.stderr)


class Killed(MpirunTest):
    """SIGKILL of one rank while all are in collectives; mpirun ends the others soon after, unless
    it is told not to."""

    def kill_one(self, ranks: int, *options: str) -> None:
        # Its data-loader child ends at once: the leash is mpirun's /dev/null.
        arguments = ("0", "1", "7", "-1")
        job = self.job(ranks, "crash_worker", *arguments, options=options, KHORUS_BACKEND="mpi")
        job.wait_for("^ready$", ranks)
        victim = ranks - 1
        pid = self.pid_of(victim, job)
        os.kill(pid, signal.SIGKILL)
        lost = rf"failed 4 {victim} .*rank {victim} \(\S+, pid {pid}\) is lost"
        job.wait_for(lost, ranks - 1)

    def pid_of(self, rank: int, job: Job) -> int:
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                variables = (entry / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            ours = parent == job.process.pid
            if ours and f"OMPI_COMM_WORLD_RANK={rank}".encode() in variables:
                return int(entry.name)
        raise AssertionError(f"rank {rank} is not there:\n{job.text()}")

    def test_the_others_name_the_lost_rank(self) -> None:
        for ranks in (2, 3, 4):
            with self.subTest(ranks=ranks):
                self.kill_one(ranks, "--enable-recovery")

    def test_mpirun_ends_the_job(self) -> None:
        job = self.job(3, "crash_worker", "0", "1", "7", "-1", KHORUS_BACKEND="mpi")
        job.wait_for("^ready$", 3)
        os.kill(self.pid_of(1, job), signal.SIGKILL)
        self.assertNotEqual(job.wait(), 0)


class Faults(MpirunTest):
    """The tests of conformance_mpi_faults, one job each."""

    def run_test(self, name: str, ranks: int) -> None:
        job = self.job(ranks, "conformance_mpi_faults", f"--gtest_filter=Mpi.{name}",
                       KHORUS_TEST_PROCESSES="1")  # fmt: skip
        job.wait_for("^every rank has passed$")

    def test_each(self) -> None:
        listed = subprocess.run(
            [BIN / "conformance_mpi_faults", "--gtest_list_tests"],
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=True,
        )
        names = re.findall(r"^  (\w+)$", listed.stdout, re.MULTILINE)
        self.assertGreaterEqual(len(names), 8)
        for name in names:
            for ranks in (2, 3):
                with self.subTest(name=name, ranks=ranks):
                    self.run_test(name, ranks)


if __name__ == "__main__":
    unittest.main()

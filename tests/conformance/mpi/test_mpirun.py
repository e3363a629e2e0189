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
import select
import signal
import subprocess
import tempfile
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
        self.process = subprocess.Popen(
            [MPIRUN, "--oversubscribe", "--bind-to", "none", *options, "-np", str(ranks), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
            env={**own_environment(), **dict.fromkeys(names, "1"), **env},
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


class Khorusrun(unittest.TestCase):
    """khorusrun --mpi."""

    def run_job(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [BIN / "khorusrun", "--mpi", *arguments],
            env={**own_environment(), **env},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )

    def test_ranks_meet_and_their_lines_have_prefixes(self) -> None:
        for ranks in (1, 2, 4, 8):
            with self.subTest(ranks=ranks):
                run = self.run_job("-np", str(ranks), str(BIN / "allreduce_hello"))
                self.assertEqual(run.returncode, 0, run.stderr)
                total = ranks * (ranks - 1) // 2
                expected = [
                    ("" if ranks == 1 else f"rank {rank}: ")
                    + f"hello from rank {rank} of {ranks} (local rank {rank} of {ranks}): "
                    f"the ranks sum to {total}"
                    for rank in range(ranks)
                ]
                self.assertEqual(sorted(run.stdout.splitlines()), expected)

    def test_the_data_moves_over_mpi_unless_asked_otherwise(self) -> None:
        chosen: tuple[tuple[tuple[str, ...], str], ...] = (
            ((), "mpi"),
            (("--backend", "gloo"), "gloo"),
        )
        for arguments, backend in chosen:
            run = self.run_job(*arguments, "-np", "2", "--log-level", "info",
                               str(BIN / "allreduce_hello"))  # fmt: skip
            self.assertEqual(run.returncode, 0, run.stderr)
            self.assertRegex(run.stderr, rf"rank 0: .*info\] backend {backend}\b")
            self.assertIn("rank and size come from mpirun (Open MPI)", run.stderr)

    def test_exit_code_last_words_and_logs(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            words = 'echo "out $OMPI_COMM_WORLD_RANK"; echo "bad data" >&2; exit 3'
            run = self.run_job("-np", "2", "--output-filename", folder, "sh", "-c", words)
            self.assertEqual(run.returncode, 3, run.stderr)
            self.assertIn("khorusrun: mpirun failed: exit code 3", run.stderr)
            self.assertIn("last words of a rank: bad data", run.stderr)
            logs = Path(folder)
            self.assertEqual((logs / "rank.0" / "stdout").read_text(), "out 0\n")
            self.assertEqual((logs / "rank.1" / "stderr").read_text(), "bad data\n")

    def test_more_arguments_for_mpirun(self) -> None:
        run = self.run_job("--mpi-args", "-x 'WORD=two words'", "-np", "1", "sh", "-c",
                           'echo "$WORD"')  # fmt: skip
        self.assertEqual((run.returncode, run.stdout), (0, "two words\n"), run.stderr)
        run = self.run_job("--mpi-args", "'open", "-np", "1", "true")
        self.assertEqual(run.returncode, 2)
        self.assertIn('--mpi-args "\'open" cannot be split into words', run.stderr)

    def test_another_mpi_or_none_is_named(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            run = self.run_job("-np", "1", "/bin/true", PATH=folder)
            self.assertEqual(run.returncode, 127)
            self.assertIn('cannot run "mpirun": not found in PATH; --mpi starts', run.stderr)
            mpich = Path(folder) / "mpirun"
            mpich.write_text("#!/bin/sh\necho HYDRA build details:\n")
            mpich.chmod(0o755)
            run = self.run_job("-np", "1", "/bin/true", PATH=f"{folder}:/usr/bin:/bin")
            self.assertEqual(run.returncode, 127)
            self.assertIn('is not Open MPI\'s (it says "HYDRA build details:")', run.stderr)

    def test_ranks_end_with_the_launcher(self) -> None:
        for number in (signal.SIGKILL, signal.SIGINT):
            with self.subTest(signal=number):
                reading, writing = os.pipe()
                process = subprocess.Popen(
                    [BIN / "khorusrun", "--mpi", "-np", "2", "cat"],
                    env=own_environment(),
                    stdin=reading,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                self.addCleanup(process.kill)
                assert process.stdout is not None
                self.addCleanup(process.stdout.close)
                os.write(writing, b"ready\n")  # mpirun gives its input to rank 0
                self.assertEqual(process.stdout.readline(), "rank 0: ready\n")
                ranks = ranks_below(process.pid, "cat")
                self.assertGreaterEqual(len(ranks), 1)
                process.send_signal(number)
                code = process.wait(PATIENCE_S)
                self.assertEqual(code, 130 if number == signal.SIGINT else -signal.SIGKILL)
                for rank in ranks:  # readable when the process is over
                    self.assertTrue(select.select([rank], [], [], PATIENCE_S)[0])
                for descriptor in (*ranks, reading, writing):
                    os.close(descriptor)


def own_environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith(("KHORUS_", "HOROVOD_"))}


def ranks_below(launcher: int, name: str) -> list[int]:
    """Descriptors (pidfd_open) of the processes of that name that descend from `launcher`."""
    parents: dict[int, int] = {}
    named = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text()
        except OSError:
            continue
        pid = int(entry.name)
        parents[pid] = int(text.rsplit(")", 1)[1].split()[1])
        if text.split("(", 1)[1].rsplit(")", 1)[0] == name:
            named.append(pid)

    def descends(pid: int) -> bool:
        while pid in parents and pid != launcher:
            pid = parents[pid]
        return pid == launcher

    return [os.pidfd_open(pid) for pid in named if descends(pid)]


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

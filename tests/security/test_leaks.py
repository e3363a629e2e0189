"""Where the key must not be: command lines, environments, output, files, core dumps."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

from jobs import AttackTest, Job

CORE_PATTERN = Path("/proc/sys/kernel/core_pattern").read_text().strip()


def spellings(key: bytes) -> dict[str, bytes]:
    """The key, and what a program might have made of it."""
    text = key.hex()
    return {
        "its bytes": key,
        "its first half": key[:16],
        "its second half": key[16:],
        "hex digits": text.encode(),
        "HEX DIGITS": text.upper().encode(),
        "half of its hex digits": text[:32].encode(),
    }


def family(pid: int) -> list[int]:
    """The process and all its descendants."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        except OSError:
            continue  # it has ended
        parents.setdefault(parent, []).append(int(stat.parent.name))
    found = [pid]
    for one in found:
        found.extend(parents.get(one, []))
    return found


class Leaks(AttackTest):
    def assert_clean(self, key: bytes, where: str, data: bytes) -> None:
        for name, spelling in spellings(key).items():
            self.assertFalse(spelling in data, f"{where} holds the key: {name}")

    def assert_clean_folder(self, key: bytes, folder: Path) -> list[str]:
        names = []
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                names.append(path.name)
                self.assert_clean(key, str(path), path.read_bytes())
        return names

    def assert_clean_processes(self, job: Job, expected: int) -> None:
        pids = family(job.running.process.pid)
        self.assertGreaterEqual(len(pids), expected)
        for pid in pids:
            for what in "cmdline", "environ":
                data = Path(f"/proc/{pid}/{what}").read_bytes()
                self.assert_clean(job.key, f"/proc/{pid}/{what}", data)

    def test_command_lines_environments_output_and_files(self) -> None:
        """Of every process of the job, with everything on that writes."""
        out = self.folder / "out"
        out.mkdir()
        with self.job(
            2, "--verbose", "--log-level", "trace", "--output-filename", str(out / "logs"),
            KHORUS_TIMELINE=str(out / "timeline"),
            KHORUS_FLIGHT_RECORDER_PATH=str(out / "flight"),
            KHORUS_METRICS_FILE=str(out / "metrics"),
        ) as job:  # fmt: skip
            pids = job.wait_until_ready()
            job.step()
            self.assert_clean_processes(job, 4)  # launcher, guard, two ranks
            os.kill(pids[1], signal.SIGKILL)  # so that the other writes its flight recorder
            job.start_step()
            job.failures(1)
            done = job.end()
            self.assertNotEqual(done.code, 0)
            self.assert_clean(job.key, "the output", done.out_bytes + done.err.encode())
            names = self.assert_clean_folder(job.key, out)
            for part in "timeline", "flight", "metrics", "stdout":
                self.assertTrue(any(part in name for name in names), f"no {part} in {names}")

    def core_of(self, job: Job, pid: int) -> bytes:
        """What the kernel writes when the process aborts, in its working directory."""
        cores = [self.folder / name for name in (f"core.{pid}", "core")]
        path = next((core for core in cores if core.exists()), None)
        assert path is not None, f"no core of {pid} in {list(self.folder.iterdir())}"
        data = path.read_bytes()
        path.unlink()
        return data

    def skip_without_cores(self) -> None:
        if CORE_PATTERN.startswith("|") or "/" in CORE_PATTERN:
            self.skipTest(f"core dumps go elsewhere here ({CORE_PATTERN})")
        before = Path.cwd()
        self.addCleanup(os.chdir, before)
        os.chdir(self.folder)
        limits = resource.getrlimit(resource.RLIMIT_CORE)
        self.addCleanup(resource.setrlimit, resource.RLIMIT_CORE, limits)
        if limits[1] == 0:
            self.skipTest("core dumps are forbidden here (ulimit -Hc)")
        resource.setrlimit(resource.RLIMIT_CORE, (limits[1], limits[1]))

    def test_core_dump_of_a_rank(self) -> None:
        self.skip_without_cores()
        with self.job(2) as job:
            pids = job.wait_until_ready()
            job.step()
            os.kill(pids[0], signal.SIGABRT)
            job.start_step()
            job.failures(1)
            done = job.end()
            self.assertEqual(done.code, 128 + signal.SIGABRT)
            core = self.core_of(job, pids[0])
            self.assertTrue(job.job_id.encode() in core, "this is no dump of it")
            self.assert_clean(job.key, "the core dump", core)

    def test_core_dump_of_the_launcher(self) -> None:
        self.skip_without_cores()
        with self.job(2) as job:
            job.wait_until_ready()
            job.client().set("name-in-the-store", b"x")
            job.running.process.send_signal(signal.SIGABRT)
            job.running.wait()
            core = self.core_of(job, job.running.process.pid)
            self.assertTrue(b"name-in-the-store" in core, "this is no dump of it")
            self.assert_clean(job.key, "the core dump", core)

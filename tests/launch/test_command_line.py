"""khorusrun's command line and what a rank is given."""

from __future__ import annotations

import json
import os
import subprocess
import unittest
from pathlib import Path

from launching import KHORUSRUN, LaunchTest, khorusrun

DOCS = Path(__file__).resolve().parents[2] / "docs"

# Reads its key, then looks for it where everybody may look: command lines and environments.
LOOK_FOR_KEY = """
import base64
key = os.read(int(os.environ["KHORUS_KEY_FD"]), 100)
assert len(key) == 32, len(key)
forms = [key, key.hex().encode(), key.hex().upper().encode(), base64.b64encode(key)]
looked_at = 0
for pid in filter(str.isdigit, os.listdir("/proc")):
    for name in ("cmdline", "environ"):
        try:
            text = open(f"/proc/{pid}/{name}", "rb").read()
        except OSError:
            continue
        looked_at += 1
        assert not any(form in text for form in forms), (pid, name)
assert looked_at > 4
print(key.hex())
"""


class CommandLine(LaunchTest):
    def test_arguments_pass_untouched(self) -> None:
        arguments = ["plain", "", "two words", "'\"$HOME`\\", "-np", "--", "é\n", "*", "--help"]
        prog = self.program("import json\nprint(json.dumps(sys.argv[1:]))\n")
        done = khorusrun("-np", "2", "--no-prefix", prog, *arguments)
        self.assertEqual(done.code, 0, done.err)
        for line in done.out.splitlines():
            self.assertEqual(json.loads(line), arguments)
        self.assertEqual(len(done.out.splitlines()), 2)

    def test_place_and_environment(self) -> None:
        names = ["RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE"]
        prog = self.program(
            f"print(*[os.environ['KHORUS_' + name] for name in {names}], os.environ['MINE'])\n"
            "assert os.environ['KHORUS_STORE'].startswith('127.0.0.1:')\n"
            "assert len(os.environ['KHORUS_JOB_ID']) == 16\n"
            "assert 'KHORUS_KEY_FILE' not in os.environ\n"
        )
        # The place of an outer job is not handed down.
        done = khorusrun(
            "-np", "3", "--no-prefix", prog, MINE="x", KHORUS_RANK="7", KHORUS_KEY_FILE="/nowhere"
        )
        self.assertEqual(done.code, 0, done.err)
        expected = [f"{rank} 3 {rank} 3 0 1 x" for rank in range(3)]
        self.assertEqual(sorted(done.out.splitlines()), expected)

    def test_python_file_gets_python(self) -> None:
        path = self.folder / "plain.py"  # not executable, no first line
        path.write_text("import sys; print(sys.argv[1:])")
        done = khorusrun("-np", "2", str(path), "-v")
        self.assertEqual(sorted(done.out.splitlines()), ["rank 0: ['-v']", "rank 1: ['-v']"])

    def test_program_is_looked_up_in_path(self) -> None:
        self.assertEqual(khorusrun("-np", "1", "true").code, 0)
        self.script("exit 0\n", "here.sh")
        done = khorusrun("-np", "1", "here.sh", cwd=str(self.folder))
        self.assertEqual(done.code, 127)
        self.assertIn("./here.sh", done.err)

    def test_program_that_cannot_run(self) -> None:
        for program, why in (
            ("./absent", "No such file"),
            ("/dev/null", "directory"),
            ("absent.py", "No such file"),
        ):
            done = khorusrun("-np", "2", program)
            self.assertEqual(done.code, 127)
            self.assertIn(program, done.err)
            self.assertIn(why, done.err)
            self.assertEqual(len(done.err.splitlines()), 1, "said once, not once per rank")

    def test_wrong_command_lines(self) -> None:
        for arguments, what in (
            (["true"], "-np"),
            (["-np", "2", "-H", "fe80::1", "true"], 'host "fe80::1"'),
            (["-np", "2", "--jsrun", "true"], "--jsrun is not built yet"),
            (["-np", "2", "--min-np", "1", "true"], "--min-np is not built yet"),
            (["--nonsense", "true"], "unknown option --nonsense"),
            (["-np", "1", "--cycle-time-ms", "x", "true"], "--cycle-time-ms"),
        ):
            done = khorusrun(*arguments)
            self.assertEqual(done.code, 2, arguments)
            self.assertIn(what, done.err)
            self.assertEqual(done.out, "")

    def test_environment_that_does_not_parse(self) -> None:
        done = khorusrun("-np", "2", "true", HOROVOD_CYCLE_TIME="fast")
        self.assertEqual(done.code, 2)
        self.assertIn('HOROVOD_CYCLE_TIME="fast"', done.err)

    def test_knobs_reach_the_ranks(self) -> None:
        show = "echo $KHORUS_FUSION_THRESHOLD $KHORUS_CYCLE_TIME $KHORUS_LOG_LEVEL"
        flags = ["--fusion-threshold-mb", "8", "--cycle-time-ms=2", "--log-level", "info"]
        done = khorusrun("-np", "1", *flags, "sh", "-c", show, KHORUS_CYCLE_TIME="9")
        self.assertEqual(done.out, "8MiB 2 info\n")

    def test_options_from_a_file(self) -> None:
        path = self.folder / "job.yaml"
        path.write_text(
            "num-proc: 2\nno-prefix: true\nparams:\n  fusion_threshold_mb: 8\n  cycle_time_ms: 2\n"
        )
        show = "echo $KHORUS_RANK $KHORUS_FUSION_THRESHOLD $KHORUS_CYCLE_TIME"
        flags = ["--config-file", str(path), "--cycle-time-ms", "3"]
        done = khorusrun(*flags, "sh", "-c", show, HOROVOD_FUSION_THRESHOLD="1")
        if "built without yaml-cpp" in done.err:
            self.assertEqual(done.code, 2)
            self.skipTest(done.err)
        self.assertEqual(sorted(done.out.splitlines()), ["0 8MiB 3", "1 8MiB 3"], done.err)
        path.write_text("params:\n  fusion_treshold_mb: 8\n")
        done = khorusrun(*flags, "true")
        self.assertEqual(done.code, 2)
        self.assertIn(f'{path}:2: unknown key "fusion_treshold_mb"', done.err)

    def test_hostfile(self) -> None:
        path = self.folder / "hosts"
        path.write_text("# ours\nlocalhost slots=2\n127.0.0.1:1\n")
        done = khorusrun("--hostfile", str(path), "sh", "-c", "echo $KHORUS_SIZE")
        self.assertEqual(len(done.out.splitlines()), 3)

    def test_threads_are_shared_out_and_said_once(self) -> None:
        cores = len(os.sched_getaffinity(0))
        done = khorusrun("-np", "2", "--no-prefix", "sh", "-c", "echo $OMP_NUM_THREADS")
        self.assertEqual(done.out.split(), [str(max(1, cores // 2))] * 2)
        self.assertEqual(done.err.count("OMP_NUM_THREADS"), 1)
        done = khorusrun(
            "-np", "2", "--no-prefix", "sh", "-c", "echo $OMP_NUM_THREADS", OMP_NUM_THREADS="7"
        )
        self.assertEqual(done.out.split(), ["7", "7"])
        self.assertNotIn("OMP_NUM_THREADS", done.err)

    def test_key_is_nowhere_to_be_seen(self) -> None:
        prog = self.program(LOOK_FOR_KEY)
        done = khorusrun("-v", "-np", "2", "--no-prefix", prog)
        self.assertEqual(done.code, 0, done.err)
        keys = set(done.out.split())
        self.assertEqual(len(keys), 1, "all ranks have the same key")
        self.assertNotIn(keys.pop(), done.err)
        again = khorusrun("-np", "1", prog)
        self.assertNotEqual(again.out.split(), done.out.split()[:1], "every job has its own")

    def test_key_and_status_page_survive_a_wrapper(self) -> None:
        prog = self.program(
            "assert len(os.read(int(os.environ['KHORUS_KEY_FD']), 100)) == 32\n"
            "assert os.fstat(int(os.environ['KHORUS_STATUS_FD'])).st_size == 4096\n"
        )
        inner = self.script(f'exec 3>/dev/null 9</dev/null; "{prog}"; exit $?\n', "inner.sh")
        outer = self.script(f'bash -c "{inner}"\n', "outer.sh")
        done = khorusrun("-np", "2", outer)
        self.assertEqual(done.code, 0, done.err)

    def test_texts(self) -> None:
        self.assertIn("--num-proc", khorusrun("--help").out)
        self.assertRegex(khorusrun("--version").out, r"^khorusrun \d+\.\d+\.\d+\n$")
        build = khorusrun("--check-build")
        self.assertEqual(build.code, 0)
        self.assertIn("Backends", build.out)

    def test_knobs_document_is_up_to_date(self) -> None:
        made = khorusrun("--knobs-markdown").out
        written = (DOCS / "knobs.md").read_text()
        self.assertEqual(made, written, "run: khorusrun --knobs-markdown > docs/knobs.md")

    def test_full_disk_is_noticed(self) -> None:
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run([KHORUSRUN, "--help"], stdout=full, check=False)
        self.assertEqual(done.returncode, 1)


if __name__ == "__main__":
    unittest.main()

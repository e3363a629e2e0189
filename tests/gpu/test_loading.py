"""How the nccl backend finds NCCL and the driver, and what is said when they are missing or do not
fit together: through khorusrun --check-build and small jobs, on the double.

The environment names KHORUSRUN, KHORUS_TEST_DOUBLE (the double's folder), KHORUS_TEST_ANY_LIBRARY
(one that is neither NCCL nor torch) and KHORUS_TEST_PROGRAM (conformance_collectives).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

KHORUSRUN = os.environ["KHORUSRUN"]
DOUBLE = Path(os.environ["KHORUS_TEST_DOUBLE"])
ANY_LIBRARY = Path(os.environ["KHORUS_TEST_ANY_LIBRARY"])
PROGRAM = os.environ["KHORUS_TEST_PROGRAM"]
PATIENCE_S = 100


def run(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("KHORUS_", "LD_"))}
    return subprocess.run(
        [KHORUSRUN, *arguments],
        env={**own, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def check_build(**env: str) -> str:
    """What is said of the nccl backend: its line and those that explain it."""
    out = run("--check-build", **env).stdout
    found = re.search(r"^  \[.\] nccl .*\n(?:      .*\n)*", out, re.MULTILINE)
    assert found, out
    return found.group(0)


class Loading(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)

    def place(self, library: Path, name: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, path)
        return path

    def test_all_is_there(self) -> None:
        text = check_build(LD_LIBRARY_PATH=str(DOUBLE))
        self.assertRegex(
            text, r"^  \[x\] nccl NCCL \(libnccl\.so\.2, built with the headers of 2\."
        )
        self.assertRegex(
            text, rf"NCCL 2\.\d+\.\d+, {DOUBLE}/libnccl\.so\.2, the one that the loader"
        )
        self.assertRegex(
            text,
            r"; a driver for CUDA \d+\.\d+ shows 8 GPUs(; no kernels \(built without nvcc\))?$",
        )
        self.assertNotIn("has no", text)

    def test_no_driver(self) -> None:
        with_driver = subprocess.run(
            ["ldconfig", "-p"], capture_output=True, text=True, check=False
        )
        if "libcuda.so.1" in with_driver.stdout:
            self.skipTest("this machine has a driver")
        text = check_build()
        self.assertTrue(text.startswith("  [ ] nccl"), text)
        self.assertIn("there is no NVIDIA driver on this machine (libcuda.so.1: ", text)

    def test_no_device(self) -> None:
        text = check_build(LD_LIBRARY_PATH=str(DOUBLE), KHORUS_DOUBLE_DEVICES="0")
        self.assertTrue(text.startswith("  [ ] nccl"), text)
        self.assertIn("the NVIDIA driver shows this process no GPU; look at nvidia-smi", text)

    def test_functions_that_are_missing(self) -> None:
        text = check_build(LD_LIBRARY_PATH=f"{DOUBLE / 'old'}:{DOUBLE}")
        self.assertTrue(text.startswith("  [x] nccl"), text)
        self.assertIn(f"{DOUBLE}/old/libnccl.so.2", text)
        self.assertIn("; it has no ncclCommRevoke", text)
        self.place(ANY_LIBRARY, "libnccl.so.2")
        text = check_build(LD_LIBRARY_PATH=f"{self.folder}:{DOUBLE}")
        self.assertTrue(text.startswith("  [ ] nccl"), text)
        self.assertRegex(
            text, r"has no ncclGetVersion, .* and ncclGroupEnd; .* NCCL 2\.14 or later"
        )

    def test_the_one_in_the_process_comes_first(self) -> None:
        self.place(DOUBLE / "libnccl.so.2", "nvidia/nccl/lib/libnccl.so.2")
        torch = self.place(ANY_LIBRARY, "torch/lib/libc10.so")
        loaded = self.place(DOUBLE / "libnccl.so.2", "elsewhere/libnccl.so.2")
        text = check_build(LD_LIBRARY_PATH=str(DOUBLE), LD_PRELOAD=f"{torch} {loaded}")
        self.assertIn(f"{loaded}, which this process had already", text)

    def test_then_the_one_beside_torch(self) -> None:
        beside = self.place(DOUBLE / "libnccl.so.2", "nvidia/nccl/lib/libnccl.so.2")
        torch = self.place(ANY_LIBRARY, "torch/lib/libc10.so")
        text = check_build(LD_LIBRARY_PATH=str(DOUBLE), LD_PRELOAD=str(torch))
        self.assertIn(f"{beside}, the one beside torch", text)

    def test_then_the_one_around_the_plugin(self) -> None:
        plugin = Path(KHORUSRUN).parent.parent / "lib" / "khorus" / "libkhorus_backend_nccl.so"
        self.place(plugin, "khorus/lib/khorus/libkhorus_backend_nccl.so")
        around = self.place(DOUBLE / "libnccl.so.2", "nvidia/nccl/lib/libnccl.so.2")
        own = str(self.folder / "khorus/lib/khorus")
        text = check_build(LD_LIBRARY_PATH=str(DOUBLE), KHORUS_BACKEND_PATH=own)
        self.assertIn(f"{around}, the one of this Python environment", text)


class Meeting(unittest.TestCase):
    """Two ranks that do not fit together: both say why."""

    def meet(self, words: str, **env: str) -> str:
        command = f"{words} exec {PROGRAM} '--gtest_filter=*.MixedSequenceWithoutPause/nccl_2'"
        environment = {
            "LD_LIBRARY_PATH": str(DOUBLE),
            "KHORUS_TEST_GPU": "1",
            "KHORUS_TEST_PROCESSES": "1",
            **env,
        }
        done = run("-np", "2", "sh", "-c", command, **environment)
        text = done.stdout + done.stderr
        self.assertEqual(done.returncode == 0, "PASSED  ] 1 test" in text, text)
        return text

    def test_ranks_that_fit(self) -> None:
        text = self.meet("")
        self.assertEqual(text.count("[  PASSED  ] 1 test"), 2, text)

    def test_versions_that_differ(self) -> None:
        text = self.meet("KHORUS_DOUBLE_NCCL_VERSION=$((23007 - KHORUS_RANK))")
        said = "different versions of NCCL: 2.30.7 on rank 2 (testhost) and 2.30.6 on rank 5"
        self.assertIn(said, text)

    def test_two_ranks_on_one_gpu(self) -> None:
        text = self.meet("", KHORUS_DOUBLE_DEVICES="1")
        self.assertEqual(text.count("[  PASSED  ] 1 test"), 2, text)
        text = self.meet("", KHORUS_DOUBLE_DEVICES="1", KHORUS_DOUBLE_ONE_RANK_PER_GPU="1")
        self.assertIn("rank 2 (testhost) and rank 5 (testhost) both use GPU 0 of that host", text)
        self.assertIn("start at most one rank per GPU", text)


if __name__ == "__main__":
    unittest.main()

"""Device tensors between real processes, one per rank: values, what a process without them loads,
what is said where there is no GPU, a rank that dies while operations are on the device, and one
that has no part in the first operation there.

The environment names KHORUSRUN, KHORUS_TEST_PROGRAM (gpu_engine_ranks) and, unless there is a real
GPU, KHORUS_TEST_DOUBLE (the double's folder).
"""

from __future__ import annotations

import os
import re
import subprocess
import unittest

KHORUSRUN = os.environ["KHORUSRUN"]
PROGRAM = os.environ["KHORUS_TEST_PROGRAM"]
DOUBLE = os.environ.get("KHORUS_TEST_DOUBLE", "")
PATIENCE_S = 100


def run(
    size: int,
    what: str,
    *,
    on_gpu: bool = True,
    variables_too: dict[str, str] | None = None,
    options: tuple[str, ...] = (),
) -> subprocess.CompletedProcess[str]:
    hidden = ("KHORUS_",) if DOUBLE == "" else ("KHORUS_", "LD_")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(hidden)}
    if on_gpu and DOUBLE:
        variables["LD_LIBRARY_PATH"] = DOUBLE
    variables |= variables_too or {}
    return subprocess.run(
        [KHORUSRUN, "-np", str(size), *options, PROGRAM, what],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


class Engine(unittest.TestCase):
    def test_tensors_of_both_kinds(self) -> None:
        for size in (1, 2, 3):
            with self.subTest(size=size):
                job = run(size, "mixed")
                self.assertEqual(job.returncode, 0, job.stdout)

    def test_adasum_where_only_some_ranks_have_kernels(self) -> None:
        job = run(4, "adasum")
        self.assertEqual(job.returncode, 0, job.stdout)

    def test_who_has_no_device_tensor_loads_nothing_of_the_gpu(self) -> None:
        job = run(2, "cpu")
        self.assertEqual(job.returncode, 0, job.stdout)
        self.assertEqual(job.stdout.count("done"), 2, job.stdout)
        self.assertNotRegex(job.stdout, r"libcuda|libnccl")

    @unittest.skipUnless(DOUBLE, "there is a GPU")
    def test_a_gpu_that_runs_no_kernels_is_told_of_once_and_does(self) -> None:
        job = run(2, "mixed", variables_too={"KHORUS_DOUBLE_NO_MODULES": "1"})
        self.assertEqual(job.returncode, 0, job.stdout)
        self.assertEqual(len(re.findall(r"warning\] nccl: no kernels on GPU", job.stdout)), 2)

    @unittest.skipUnless(DOUBLE, "there is a GPU")
    def test_without_a_driver_a_device_tensor_is_refused(self) -> None:
        job = run(2, "refused", on_gpu=False)
        self.assertEqual(job.returncode, 0, job.stdout)
        found = re.findall(
            r'invalid argument: allreduce "g": output is on cuda:0; the backend nccl: '
            r"there is no NVIDIA driver on this machine",
            job.stdout,
        )
        self.assertEqual(len(found), 2, job.stdout)

    def test_a_message_may_be_the_first_operation(self) -> None:
        for size in (2, 3, 4):
            with self.subTest(size=size):
                job = run(size, "message")
                self.assertEqual(job.returncode, 0, job.stdout)

    def test_a_rank_without_a_gpu_is_named_and_nothing_is_broken(self) -> None:
        job = run(3, "blind")
        self.assertEqual(job.returncode, 0, job.stdout)
        found = re.findall(
            r'unavailable: send/recv "rank 0 to 2, tag 0 #0": process set 0 has no communicator on '
            r"GPUs, because all its ranks have to be in it and rank 1 \(.*\) cannot: the backend "
            r"nccl: the NVIDIA driver shows this process no GPU; .*; give it a GPU, or use a "
            r"process set \(add_process_set\)",
            job.stdout,
        )
        self.assertEqual(len(found), 2, job.stdout)

    @unittest.skipUnless(DOUBLE, "there is a GPU")
    def test_ranks_that_share_a_gpu_are_named_where_nccl_refuses_that(self) -> None:
        job = run(
            3,
            "message",
            variables_too={"KHORUS_DOUBLE_DEVICES": "1", "KHORUS_DOUBLE_ONE_RANK_PER_GPU": "1"},
        )
        self.assertNotEqual(job.returncode, 0)
        self.assertRegex(
            job.stdout, r"for send/recv \"rank 0 to 2, tag 0 #0\": rank 0 .*both use GPU 0"
        )

    def test_a_rank_that_stops_before_it_has_met_the_others_is_named(self) -> None:
        job = run(3, "stopped", options=("--failure-grace-s", "3"))
        self.assertNotEqual(job.returncode, 0)
        told = re.findall(r"after (\d+) ms: (.*)", job.stdout)
        self.assertEqual(len(told), 2, job.stdout)
        for took_ms, status in told:
            self.assertLess(int(took_ms), 5000)
            self.assertRegex(status, r"^peer lost: .*rank 1 ")

    def test_a_killed_rank_is_named_by_all_within_the_bound(self) -> None:
        job = run(3, "killed")
        self.assertNotEqual(job.returncode, 0)
        told = re.findall(r"after (\d+) ms: (.*) \| (.*)", job.stdout)
        self.assertEqual(len(told), 2, job.stdout)
        for took_ms, status, after in told:
            self.assertLess(int(took_ms), 5000)
            for text in (status, after):
                self.assertRegex(text, r"^peer lost: .*rank 2 ")


if __name__ == "__main__":
    unittest.main()

"""Life of the engine in Python: init and shutdown again, forks, Ctrl-C, no torch needed.

Not under a launcher: each test starts the jobs it needs. The environment names khorusrun:
KHORUS_TEST_KHORUSRUN.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

KHORUSRUN = os.environ["KHORUS_TEST_KHORUSRUN"]
BOUND_S = 60


@pytest.fixture(scope="session", autouse=True)
def engine() -> None:
    """This process is no rank."""


@pytest.fixture(autouse=True)
def still_usable() -> None:
    """Nor has it an engine."""


def program(folder: Path, text: str) -> str:
    path = folder / "program.py"
    path.write_text(textwrap.dedent(text))
    return str(path)


def run(ranks: int, path: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [KHORUSRUN, "-np", str(ranks), *options, sys.executable, path],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


def test_init_and_shutdown_many_times(tmp_path: Path) -> None:
    done = run(
        2,
        program(
            tmp_path,
            """
            import khorus
            for i in range(5):
                pair = khorus.ProcessSet([0, 1])
                khorus.init(process_sets=[pair])
                khorus.init()
                assert pair.process_set_id == 1 and pair.size() == 2
                assert khorus.allreduce([1.0], op=khorus.Sum, process_set=pair)[0] == 2
                khorus.shutdown()
                assert not khorus.is_initialized() and pair.process_set_id is None
            try:
                khorus.rank()
            except khorus.HorovodInternalError as error:
                assert "init()" in str(error), error
            """,
        ),
    )
    assert done.returncode == 0, done.stderr


def test_init_again_where_rank_0_serves_the_store(tmp_path: Path) -> None:
    """Under RANK and WORLD_SIZE alone: ranks of two hosts, as far as they are told."""
    text = """
        import khorus
        for i in range(4):
            khorus.init()
            assert khorus.cross_size() == 2
            assert khorus.allreduce([1.0], op=khorus.Sum)[0] == 2
            khorus.shutdown()
    """
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text(os.urandom(32).hex())
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "KHORUS_KEY_FILE": str(key)}
    variables["MASTER_PORT"] = str(random.randrange(10000, 20000))
    ranks = [
        subprocess.Popen(
            [sys.executable, program(tmp_path, text)],
            env=os.environ | variables | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        _, said = rank.communicate(timeout=BOUND_S)
        assert rank.returncode == 0, said


def test_without_torch(tmp_path: Path) -> None:
    done = run(
        1,
        program(
            tmp_path,
            """
            import sys
            sys.modules["torch"] = None  # an import of it fails
            import khorus
            khorus.init()
            assert khorus.allreduce([2.0])[0] == 2.0
            assert khorus.gloo_built() and khorus.cuda_built() == bool(khorus.nccl_built())
            assert khorus.is_homogeneous() and khorus.local_size() == khorus.size() == 1
            """,
        ),
    )
    assert done.returncode == 0, done.stderr


def test_the_version_of_nccl_is_that_of_the_headers(tmp_path: Path) -> None:
    found = subprocess.run(
        [KHORUSRUN, "--check-build"], capture_output=True, text=True, timeout=BOUND_S, check=True
    )
    headers = re.search(r"\] nccl .* headers of (\d+)\.(\d+)\.(\d+)\)", found.stdout)
    expected = "0"
    if headers is not None:
        expected = headers[1] + headers[2].zfill(2) + headers[3].zfill(2)
    done = run(
        1,
        program(
            tmp_path,
            """
            import khorus
            print("built", khorus.nccl_built(), khorus.cuda_built())
            with open("/proc/self/maps") as file:
                loaded = file.read()
            assert "libcuda.so" not in loaded and "libnccl.so" not in loaded
            """,
        ),
    )
    assert done.returncode == 0, done.stderr
    assert f"built {expected} {headers is not None}" in done.stdout


def test_a_forked_child_lives_and_may_not_call(tmp_path: Path) -> None:
    done = run(
        2,
        program(
            tmp_path,
            """
            import torch
            from torch.utils.data import DataLoader
            import khorus.torch as hvd

            class Data(torch.utils.data.Dataset):
                def __len__(self):
                    return 4
                def __getitem__(self, i):
                    try:
                        hvd.allreduce(torch.ones(1))
                    except hvd.HorovodInternalError as error:
                        assert "forked" in str(error), error
                        return i
                    raise AssertionError("a forked child may call")

            hvd.init()
            values = [int(x) for x in DataLoader(Data(), num_workers=2)]
            assert values == [0, 1, 2, 3]
            assert hvd.allreduce(torch.ones(1), op=hvd.Sum) == 2
            """,
        ),
    )
    assert done.returncode == 0, done.stderr


def test_interrupt_ends_a_wait(tmp_path: Path) -> None:
    path = program(
        tmp_path,
        """
        import khorus
        khorus.init()
        if khorus.rank() == 0:
            print("waiting", flush=True)
            try:
                khorus.allreduce([1.0], name="of rank 0 alone")
            except KeyboardInterrupt:
                print("interrupted", flush=True)
                raise SystemExit(0)
        import time
        time.sleep(1000)
        """,
    )
    process = subprocess.Popen(
        [KHORUSRUN, "-np", "2", sys.executable, path],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "rank 0: waiting\n"
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=BOUND_S)
    assert "rank 0: interrupted" in output, errors


def test_a_lost_rank_is_named(tmp_path: Path) -> None:
    done = run(
        2,
        program(
            tmp_path,
            """
            import os, signal
            import khorus
            khorus.init()
            if khorus.rank() == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            try:
                while True:
                    khorus.allreduce([1.0], name="x")
            except khorus.HorovodInternalError as error:
                assert error.lost_rank == 1 and error.code == "peer lost", error
                assert "rank 1" in str(error)
                print("named", flush=True)
            """,
        ),
    )
    assert done.returncode == 128 + signal.SIGKILL
    assert "rank 0: named" in done.stdout, done.stderr

"""Scripts that import only horovod.*, run unmodified; and khorus.run.

Not under a launcher: each test starts the jobs it needs. The environment names khorusrun:
KHORUS_TEST_KHORUSRUN.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import khorus
from khorus.runner import read_signed, write_signed
from no_rank import engine, still_usable  # noqa: F401

KHORUSRUN = os.environ["KHORUS_TEST_KHORUSRUN"]
SCRIPTS = Path(__file__).parent / "horovod_scripts"
BOUND_S = 120


def output_of(*command: str, **more: str) -> str:
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1", **more},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def as_horovod(script: str, *arguments: str, ranks: int = 2) -> str:
    launcher = [KHORUSRUN, "--as-horovod", "-np", str(ranks), sys.executable]
    return output_of(*launcher, str(SCRIPTS / script), *arguments)


@pytest.mark.parametrize(
    ("options", "epochs", "accuracy"),
    [([], 3, 0.85), (["--fp16-allreduce", "--use-adasum", "--epochs", "1"], 1, 0.5)],
    ids=str,
)
def test_image_classification(options: list[str], epochs: int, accuracy: float) -> None:
    accuracies = re.findall(
        r"epoch \d accuracy ([\d.]+)", as_horovod("image_classification.py", *options)
    )
    assert len(accuracies) == epochs and float(accuracies[-1]) > accuracy, accuracies


def test_language_model() -> None:
    output = as_horovod("language_model.py")
    found = re.search(r"perplexity ([\d.]+) -> ([\d.]+)", output)
    assert found and float(found[2]) < float(found[1]) / 3, output


def test_synthetic_benchmark() -> None:
    output = as_horovod("synthetic_benchmark.py")
    assert "ranks: 2, a power of two: True" in output and "samples per second" in output


def test_without_the_launcher() -> None:
    """One process, and a script with arguments of its own."""
    output = output_of(
        *(sys.executable, "-m", "khorus.horovod", str(SCRIPTS / "synthetic_benchmark.py")),
        *("--num-iters", "1"),
    )
    assert "ranks: 1, a power of two: True" in output


def test_names(tmp_path: Path) -> None:
    script = tmp_path / "names.py"
    script.write_text("""
import horovod
import horovod.torch as hvd, khorus.torch
import horovod.torch.mpi_ops, khorus.torch.mpi_ops
from horovod.common.exceptions import HorovodInternalError, HostsUpdatedInterrupt
from horovod.common.process_sets import ProcessSet, global_process_set
from horovod.common.util import split_list
from horovod.runner import run
from horovod.torch.compression import Compression
from horovod.torch.functions import broadcast_object

assert hvd is khorus.torch and horovod.torch is hvd
assert hvd.mpi_ops is khorus.torch.mpi_ops and Compression is hvd.Compression
assert hvd.ProcessSet is ProcessSet and run is horovod.run is khorus.run
assert issubclass(HorovodInternalError, RuntimeError)
assert split_list([1, 2, 3, 4, 5], 2) == [[1, 2, 3], [4, 5]]
try:
    import horovod.tensorflow
except ImportError as error:
    assert "PyTorch" in str(error), error
else:
    raise AssertionError
""")
    output_of(sys.executable, "-m", "khorus.horovod", str(script))


def test_no_package_is_an_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [KHORUSRUN, "--as-horovod", "--python-package", str(tmp_path), "-np", "1", "true"],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )
    assert done.returncode != 0 and "pip installed" in done.stderr and str(tmp_path) in done.stderr


def place_and(value: float, *, plus: float) -> tuple[int, int, float]:
    khorus.init()
    total = khorus.allreduce([value + plus], op=khorus.Sum)[0]
    rank, size = khorus.rank(), khorus.size()
    khorus.shutdown()
    return rank, size, float(total)


def fail() -> None:
    raise ValueError("on purpose")


def test_run() -> None:
    results = khorus.run(place_and, args=(1.5,), kwargs={"plus": 2.0}, np=2)
    assert results == [(0, 2, 7.0), (1, 2, 7.0)]
    with pytest.raises(RuntimeError, match="a rank failed"):
        khorus.run(fail, np=1)
    with pytest.raises(ValueError, match="np=0"):
        khorus.run(fail, np=0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"np": 2, "num_proc": 3}, "give one"),
        ({"np": 2, "min_np": 3}, "lies between"),
        ({"num_proc": 2, "max_num_proc": 1}, "lies between"),
        ({"min_np": 1, "min_num_proc": 2}, "give one"),
        ({"hosts": "localhost:1", "hostfile": "hosts"}, "both given"),
        ({"use_gloo": True, "use_mpi": True}, "both given"),
        ({"mpi_args": "-x A"}, "use_mpi=True"),
        ({"slots": 2}, "not discovered"),
    ],
    ids=str,
)
def test_arguments_of_run_that_contradict(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        khorus.run(fail, **arguments)


def fail_at_first(marker: str) -> tuple[str, str]:
    if not Path(marker).exists():
        Path(marker).touch()
        raise ValueError("the first time")
    return os.environ["KHORUS_START_TIMEOUT"], os.environ["KHORUS_NETWORK_INTERFACE"]


def test_arguments_of_run(tmp_path: Path) -> None:
    hostfile = tmp_path / "hosts"
    hostfile.write_text("localhost slots=2\n")
    result = khorus.run(
        fail_at_first,
        (str(tmp_path / "marker"),),
        num_proc=1,
        min_num_proc=1,
        max_np=4,
        reset_limit=1,
        cooldown_range=(1, 2),
        hostfile=hostfile,
        start_timeout=77,
        ssh_port=22,
        disable_cache=True,
        output_filename=tmp_path / "output",
        verbose=2,
        use_gloo=True,
        network_interface=["lo"],
        executable=sys.executable,
    )
    assert [(float(timeout), interface) for timeout, interface in result] == [(77, "lo")]
    assert "the first time" in (tmp_path / "output" / "rank.0" / "stderr").read_text()


def test_run_of_a_function_of_the_script(tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text("""
import khorus

def where():
    khorus.init()
    return khorus.rank(), khorus.size()

if __name__ == "__main__":
    print(khorus.run(where, np=2))
""")
    assert "[(0, 2), (1, 2)]" in output_of(sys.executable, str(script))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return pytest.fail, ("it was unpickled",)


def test_what_has_a_wrong_mac_is_not_unpickled(tmp_path: Path) -> None:
    write_signed(tmp_path / "result.0", b"a" * 32, {"x": 1})
    assert read_signed(tmp_path / "result.0", b"a" * 32) == {"x": 1}
    write_signed(tmp_path / "result.0", b"b" * 32, Bomb())
    with pytest.raises(khorus.HorovodInternalError, match="MAC is wrong"):
        read_signed(tmp_path / "result.0", b"a" * 32)
    (tmp_path / "result.0").rename(tmp_path / "result.1")  # another rank's result
    with pytest.raises(khorus.HorovodInternalError, match="MAC is wrong"):
        read_signed(tmp_path / "result.1", b"b" * 32)


def test_results_written_at_the_same_time(tmp_path: Path) -> None:
    """All ranks end at once and write into one folder; each file is whole or not there."""
    key = b"k" * 32
    with ThreadPoolExecutor(8) as ranks:
        for _ in range(100):
            written = [
                ranks.submit(write_signed, tmp_path / f"result.{rank}", key, rank)
                for rank in range(8)
            ]
            for each in written:
                each.result()
    assert [read_signed(tmp_path / f"result.{rank}", key) for rank in range(8)] == [*range(8)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"result.{n}" for n in range(8)]

"""train_lm.py against train_lm: the same numbers from the same start, checkpoints of either."""

from __future__ import annotations

import argparse
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch

from example import train_lm
from no_rank import engine, still_usable  # noqa: F401
from trainers import BIN, good, run

SHAPE = ["--layers", 2, "--width", 32, "--heads", 2, "--context", 32, "--batch", 4]
PACE = ["--warmup", 3, "--steps", 12, "--learning-rate", 0.02, "--seed", 7]
FLAGS = [*SHAPE, *PACE, "--log-every", 1, "--eval-every", 4, "--eval-windows", 10]

both = pytest.mark.skipif(
    not (BIN / "train_lm").exists(), reason="the trainer in C++ is not built (KHORUS_TORCH=OFF)"
)


@pytest.fixture(name="text", scope="module")
def make_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in an order that bytes and letters see differently, and what is to be left out."""
    folder = tmp_path_factory.mktemp("text")
    for i in range(40):
        inside = folder / ("a" if i % 2 else "a-b")
        inside.mkdir(exist_ok=True)
        body = "".join(f"def f{j}(x):\n    return x + {j % 10}  # \u00e9\n\n" for j in range(i, 60))
        (inside / f"module_{i:02}.py").write_text(body)
    for unwanted in ("tests", ".hidden"):
        (folder / unwanted).mkdir()
        (folder / unwanted / "noise.py").write_text("\x01" * 9999)
    (folder / "a" / "noise.bin").write_text("\x01" * 9999)
    return folder


def metrics(folder: Path) -> dict[tuple[int, str], float]:
    rows = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for key in ("loss", "gradient_norm", "learning_rate", "validation_loss"):
            if key in record:
                rows[record["step"], key] = record[key]
    return rows


def texts_of(lines: list[str]) -> list[str]:
    return [line[line.index("text: ") :] for line in lines if "text: " in line]


@pytest.fixture(name="whole", scope="module")
def train_whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two ranks in Python trained without a stop, in float64."""
    folder = tmp_path_factory.mktemp("whole")
    good(run("train_lm.py", *FLAGS, "--data", text, "--dtype", "float64", "--out", folder, ranks=2))
    return folder


@both
@pytest.mark.parametrize(
    ("first", "other", "dtype"),
    [
        ("train_lm", "train_lm.py", "float32"),
        ("train_lm.py", "train_lm", "float64"),
        ("train_lm", "train_lm.py", "bfloat16"),
    ],
)
def test_either_goes_on_where_the_other_stopped(
    text: Path, tmp_path: Path, first: str, other: str, dtype: str
) -> None:
    """Step 3 is in the checkpoint, with moments; 4 to 12 are trained by both from there."""
    flags = [*FLAGS, "--data", text, "--dtype", dtype, "--accumulate", 2]
    same, changed = tmp_path / "same", tmp_path / "changed"
    begun = good(run(first, *flags, "--out", same, "--stop-after", 3, ranks=2))
    shutil.copytree(same, changed)
    good(run(first, *flags, "--out", same, "--resume", ranks=2))
    resumed = good(run(other, *flags, "--out", changed, "--resume", ranks=2))
    assert any("resumed after step 3" in line for line in resumed)
    assert texts_of(begun) == texts_of(resumed)
    expected, seen = metrics(same), metrics(changed)
    assert len([key for key in expected if key[1] == "loss"]) == 12
    bounds = {"float32": 1e-4, "float64": 1e-10, "bfloat16": 0.02}
    assert seen == pytest.approx(expected, abs=bounds[dtype], rel=0)
    assert expected[12, "loss"] < expected[1, "loss"] - 1


@pytest.mark.parametrize(
    ("size", "parameters"), [("small", 1_846_656), ("10m", 10_774_272), ("124m", 124_356_864)]
)
def test_sizes_have_the_parameters_of_their_names(
    monkeypatch: pytest.MonkeyPatch, size: str, parameters: int
) -> None:
    monkeypatch.setattr(sys, "argv", ["train_lm.py", "--data", "x", "--size", size])
    with torch.device("meta"):
        model = train_lm.TransformerLM(train_lm.parse_flags())
    assert sum(p.numel() for p in model.parameters()) == parameters


@both
def test_a_seed_makes_the_same_weights(text: Path, tmp_path: Path, whole: Path) -> None:
    flags = [*FLAGS, "--data", text, "--dtype", "float64", "--stop-after", 2, "--batch", 8]
    good(run("train_lm", *flags, "--out", tmp_path))
    seen = {key: value for key, value in metrics(tmp_path).items() if key[1] == "loss"}
    assert len(seen) == 2
    assert seen == pytest.approx({key: metrics(whole)[key] for key in seen}, abs=1e-10, rel=0)


@both
def test_either_writes_with_the_weights_of_the_other(whole: Path) -> None:
    generate = ["--generate", "def ", "--checkpoint", whole, "--length", 20, "--temperature", 0]
    written = [run(name, *generate) for name in ("train_lm", "train_lm.py")]
    good(written[0])
    assert written[0].stdout == written[1].stdout
    assert len(written[0].stdout) == 4 + 20 + 1


def test_a_stopped_run_resumes_to_the_same_curve_and_no_other_run_does(
    text: Path, tmp_path: Path, whole: Path
) -> None:
    flags = [*FLAGS, "--data", text, "--dtype", "float64", "--out", tmp_path]
    good(run("train_lm.py", *flags, "--stop-after", 4, ranks=2))
    other = run("train_lm.py", *flags, "--seed", 8, "--resume", ranks=2)
    assert other.returncode == 1
    # Said by both ranks.
    assert other.stderr.count('it has "seed 7" where this run has "seed 8"') >= 2, other.stderr
    good(run("train_lm.py", *flags, "--resume", ranks=2))
    assert metrics(tmp_path) == metrics(whole)


def test_ranks_train_as_one_rank_with_the_whole_batch(
    text: Path, tmp_path: Path, whole: Path
) -> None:
    flags = [*FLAGS, "--data", text, "--dtype", "float64", "--batch", 8]
    good(run("train_lm.py", *flags, "--out", tmp_path))
    assert metrics(tmp_path) == pytest.approx(metrics(whole), abs=1e-9, rel=0)


def test_bfloat16_learns_the_same(text: Path, tmp_path: Path) -> None:
    flags = [*FLAGS, "--data", text, "--vocabulary", 300]
    flags += ["--learning-rate", 0.005]  # high ones are chaotic
    good(run("train_lm.py", *flags, "--out", tmp_path / "wide"))
    good(run("train_lm.py", *flags, "--dtype", "bfloat16", "--out", tmp_path / "narrow"))
    curves = [metrics(tmp_path / name) for name in ("wide", "narrow")]
    wide, narrow = ({k: v for k, v in c.items() if k[1] != "gradient_norm"} for c in curves)
    assert narrow == pytest.approx(wide, abs=0.02, rel=0)
    assert narrow != wide  # it was narrower
    write = ["--generate", "def ", "--checkpoint", tmp_path / "narrow", "--length", 20]
    written = run("train_lm.py", *write)
    good(written)
    assert written.stdout.startswith("def ")


# ---- devices


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_every_rank_says_so(text: Path, tmp_path: Path) -> None:
    flags = [*FLAGS, "--data", text, "--device", "cuda", "--out", tmp_path]
    result = run("train_lm.py", *flags, ranks=2)
    assert result.returncode == 1
    said = r"--device cuda: (torch finds no GPU here|this torch was built without CUDA)"
    for rank in (0, 1):
        assert re.search(rf"rank {rank}: RuntimeError: {said}", result.stderr), result.stderr
    assert not list(tmp_path.iterdir())


def test_a_rank_takes_the_gpu_of_its_local_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    c = argparse.Namespace(device="cuda")
    assert train_lm.open_device(c) == torch.device("cuda", 0)  # to generate, without ranks
    monkeypatch.setattr(train_lm.hvd, "is_initialized", lambda: True)
    monkeypatch.setattr(train_lm.hvd, "local_rank", lambda: 1)
    monkeypatch.setattr(train_lm.hvd, "rank", lambda: 5)
    assert train_lm.open_device(c) == torch.device("cuda", 1)
    assert chosen == [0, 1]
    monkeypatch.setattr(train_lm.hvd, "local_rank", lambda: 2)
    with pytest.raises(RuntimeError, match="rank 5 would use GPU 2, and torch finds 2 here"):
        train_lm.open_device(c)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(RuntimeError, match="torch finds no GPU here, or no driver for it; use"):
        train_lm.open_device(c)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(RuntimeError, match="this torch was built without CUDA; install one with"):
        train_lm.open_device(c)
    assert train_lm.open_device(argparse.Namespace(device="cpu")) == torch.device("cpu")


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--data", "x", "--steps", "0"], 2, "0 is less than 1"),
        (["--data", "x", "--width", "10", "--heads", "3"], 2, "not a multiple of --heads 3"),
        (["--data", "x", "--vocabulary", "255"], 2, "255 is less than 256"),
        (["--data", "x", "--dtype", "int8"], 2, "invalid choice: 'int8' (choose from"),
        (["--data", "x", "--device", "tpu"], 2, "invalid choice: 'tpu' (choose from"),
        (["--data", "/nowhere"], 1, "/nowhere: there is no such file or folder"),
    ],
)
def test_errors_are_explained(flags: list[str], code: int, message: str) -> None:
    result = run("train_lm.py", *flags)
    assert result.returncode == code
    assert message in result.stderr

"""The example trainers, reduced: they learn, resume, and are the same however they are spread."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from programs import MPI, SOAK, good, run

BACKENDS = ["", "gloo", *(["mpi"] if MPI else [])]
EXAMPLES = Path(__file__).parents[2] / "examples"


def numbers(lines: list[str], pattern: str) -> list[float]:
    """What `pattern` catches, in the lines that have it, in order."""
    return [float(match[1]) for line in lines if (match := re.search(pattern, line))]


# ---- train_lstm_lm


@pytest.fixture(name="text", scope="module")
def make_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.py"
    path.write_text("".join(f"def f{i % 10}(x):\n    return x + {i % 10}\n\n" for i in range(300)))
    return path


LSTM = ["train_lstm_lm", "--hidden", 24, "--embedding", 8, "--context", 16, "--epochs", 4]


def test_the_lstm_learns_resumes_and_generates(text: Path, tmp_path: Path) -> None:
    flags = [*LSTM, "--data", text, "--batch", 4]
    losses = numbers(good(run(*flags, "--out", tmp_path / "a", ranks=2)), r" loss (\d+\.\d+)")
    assert len(losses) == 4
    assert losses[-1] < 0.7 * losses[0]
    good(run(*flags, "--out", tmp_path / "b", "--epochs", 2, ranks=2))
    lines = good(run(*flags, "--out", tmp_path / "b", "--resume", ranks=2))
    assert numbers(lines, r" loss (\d+\.\d+)") == losses[2:]
    assert (tmp_path / "a/checkpoint.safetensors").read_bytes() == (
        tmp_path / "b/checkpoint.safetensors"
    ).read_bytes()
    generate = ["train_lstm_lm", "--out", tmp_path / "a", "--generate", "def ", "--length", 50]
    written = run(*generate)
    good(written)
    assert written.stdout.startswith("def ")
    assert len(written.stdout) == 4 + 50 + 1
    assert run(*generate).stdout == written.stdout


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_lstm_on_two_ranks_is_the_lstm_on_one(text: Path, tmp_path: Path, backend: str) -> None:
    flags = [*LSTM, "--data", text, "--out", tmp_path]
    two = numbers(good(run(*flags, "--batch", 4, ranks=2, backend=backend)), r" loss (\d+\.\d+)")
    one = numbers(good(run(*flags, "--batch", 8)), r" loss (\d+\.\d+)")
    assert two == pytest.approx(one, abs=2e-3)


# ---- train_image


@pytest.fixture(name="digits", scope="module")
def export_digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "digits.safetensors"
    subprocess.run([sys.executable, "-B", EXAMPLES / "export_digits.py", path], check=True)
    return path


@pytest.mark.parametrize(
    ("ranks", "backend"), [*((3, name) for name in BACKENDS), *([(8, "shm")] if SOAK else [])]
)
def test_digits_are_recognised_alike_on_one_rank_and_on_several(
    digits: Path, ranks: int, backend: str
) -> None:
    flags = ["train_image", "--data", digits, "--epochs", 2]
    several, one = good(run(*flags, ranks=ranks, backend=backend)), good(run(*flags))
    accuracies = numbers(several, r"accuracy (\d+\.\d+)")
    assert len(accuracies) == 2
    assert accuracies[-1] > 93
    # Uneven batches, too, are one batch; the sums differ in their last bits.
    losses = [numbers(lines, r" loss (\d+\.\d+)") for lines in (several, one)]
    assert losses[0] == pytest.approx(losses[1], abs=5e-3)


# ---- pipeline_lm

PIPELINE = ["pipeline_lm", "--width", 16, "--heads", 2, "--context", 8, "--steps", 20]


def test_the_cut_model_has_the_losses_of_the_uncut_one(text: Path) -> None:
    flags = [*PIPELINE, "--data", text]
    uncut = numbers(good(run(*flags)), r" loss (\d+\.\d+)")
    assert len(uncut) == 2
    assert uncut[1] < uncut[0]
    worlds = [(2, 2, ""), (4, 2, ""), (4, 4, ""), (2, 1, ""), (4, 2, "gloo")]
    worlds += [(4, 2, "mpi")] if MPI else []
    worlds += [(8, stages, name) for stages in (2, 4) for name in ("shm", "gloo")] if SOAK else []
    for ranks, stages, backend in worlds:
        lines = good(run(*flags, "--stages", stages, ranks=ranks, backend=backend))
        cut = numbers(lines, r" loss (\d+\.\d+)")
        assert cut == pytest.approx(uncut, abs=2e-8), (ranks, stages, backend)


def test_a_pipeline_that_cannot_be_cut_is_explained(text: Path) -> None:
    result = run(*PIPELINE, "--data", text, "--stages", 2)
    assert result.returncode == 1
    assert "not a multiple of --stages" in result.stderr


# ---- all


@pytest.mark.parametrize("program", ["train_lstm_lm", "train_image", "pipeline_lm"])
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stepz", "3"], "unknown flag --stepz"),
        (["--seed", "many"], "--seed"),
        (["--seed", "0", "--data", "x"], "at least 1"),
        (["--seed"], "--seed needs a value"),
        ([], "give --data"),
        (["--data", "/nowhere"], "/nowhere"),
    ],
)
def test_errors_are_explained(program: str, flags: list[str], message: str) -> None:
    result = run(program, *flags)
    assert result.returncode == 1
    assert message in result.stderr

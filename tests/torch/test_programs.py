"""Programs under khorusrun: real processes, their backends, the trainer from its command line.

Each test has its own folder and leaves nothing in it that matters.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from programs import MPI, SOAK, good, run

HAS_GPU = Path("/dev/nvidiactl").exists()

CHECKS = 2 * 11 + 11 + 1  # optimizers fresh and used, options, float32

SIZES = range(2, 9 if SOAK else 5)
WORLDS = [(1, "local"), *((ranks, name) for ranks in SIZES for name in ("shm", "gloo"))]
if MPI:
    WORLDS += [(ranks, "mpi") for ranks in (SIZES if SOAK else (2, 3))]


@pytest.mark.parametrize(("ranks", "backend"), WORLDS)
def test_equivalence_between_processes(ranks: int, backend: str) -> None:
    text = "\n".join(good(run("distributed_check", ranks=ranks, backend=backend)))
    assert text.count("(good)") == CHECKS * ranks, text
    assert text.count(f"backend {backend}") == ranks, text


@pytest.mark.parametrize("order", ["torch-first", "khorus-first"])
@pytest.mark.parametrize("ranks", [2, 3])
def test_two_gloos_in_one_process(tmp_path: Path, order: str, ranks: int) -> None:
    lines = good(run("two_gloos", order, tmp_path / "store", ranks=ranks, backend="gloo"))
    assert len([line for line in lines if line.endswith(": good")]) == ranks, lines


@pytest.mark.parametrize("ranks", [0, 1, 3])
def test_hello(ranks: int) -> None:
    lines = good(run("allreduce_hello", ranks=ranks))
    world = max(ranks, 1)
    expected = f"of {world}): the ranks sum to {world * (world - 1) // 2}"
    assert len([line for line in lines if line.endswith(expected)]) == world, lines


# ---- train_lm


@pytest.fixture(name="text", scope="module")
def make_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty small files with structure that a tiny model learns in a few steps."""
    folder = tmp_path_factory.mktemp("text")
    for i in range(40):
        body = "".join(f"def f{j}(x):\n    return x + {j % 10}\n\n" for j in range(i, i + 60))
        (folder / f"module_{i:02}.py").write_text(body)
    (folder / "tests").mkdir()
    (folder / "tests" / "noise.py").write_text("\x01" * 100_000)
    return folder


TINY = ["--layers", 2, "--width", 32, "--heads", 2, "--context", 32, "--batch", 4, "--warmup", 5]
TINY += ["--log-every", 1, "--eval-every", 10, "--eval-windows", 16, "--steps", 30]
TINY += ["--learning-rate", 0.02]


def metrics(folder: Path) -> list[tuple[int, str, float]]:
    """What must be equal in equal runs: not the times."""
    rows = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for key in ("loss", "gradient_norm", "learning_rate", "validation_loss"):
            if key in record:
                rows.append((record["step"], key, record[key]))
    return rows


LAST_LINE = re.compile(
    r"validation loss (\d+\.\d+) nats/byte "
    r"\(unigram (\d+\.\d+), bigram (\d+\.\d+)\), checkpoint (.+)"
)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_stop_and_resume_give_the_same_curve(
    text: Path, tmp_path: Path, ranks: int, dtype: str
) -> None:
    flags = [*TINY, "--data", text, "--dtype", dtype]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    lines = good(run("train_lm", *flags, "--out", whole, ranks=ranks))
    good(run("train_lm", *flags, "--out", parts, "--stop-after", 13, ranks=ranks))
    resumed = good(run("train_lm", *flags, "--out", parts, "--resume", ranks=ranks))

    # The early stop evaluates once more than the whole run does.
    expected = metrics(whole)
    assert [row for row in metrics(parts) if row[:2] != (13, "validation_loss")] == expected
    assert any("resumed after step 13" in line for line in resumed)

    prefix = "rank 0: " if ranks > 1 else ""
    match = LAST_LINE.fullmatch(lines[-1].removeprefix(prefix))
    assert match, lines[-1]
    assert float(match[1]) < float(match[2])
    assert Path(match[4]).is_file()
    assert sorted(path.name for path in whole.iterdir()) == [
        "checkpoint.safetensors",
        "metrics.jsonl",
    ]


@pytest.mark.parametrize("backend", ["", "gloo", *(["mpi"] if MPI else [])])
def test_ranks_train_as_one_rank_with_the_whole_batch(
    text: Path, tmp_path: Path, backend: str
) -> None:
    flags = [*TINY, "--data", text, "--dtype", "float64"]
    good(run("train_lm", *flags, "--out", tmp_path / "two", ranks=2, backend=backend))
    flags[flags.index("--batch") + 1] = 8
    good(run("train_lm", *flags, "--out", tmp_path / "one"))
    good(
        run(
            *["train_lm", *flags, "--out", tmp_path / "passes"],
            *["--batch", 2, "--accumulate", 2],
            ranks=2,
            backend=backend,
        )
    )
    for other in ("two", "passes"):
        for (step, key, one), (_, _, value) in zip(
            metrics(tmp_path / "one"), metrics(tmp_path / other), strict=True
        ):
            assert value == pytest.approx(one, abs=1e-9), (other, step, key)


@pytest.mark.parametrize(
    ("size", "parameters"), [("small", 1_846_656), ("10m", 10_774_272), ("124m", 124_356_864)]
)
def test_sizes_have_the_parameters_of_their_names(
    text: Path, tmp_path: Path, size: str, parameters: int
) -> None:
    """Counted before the first step, which is not made: there is no place for a checkpoint."""
    nowhere = tmp_path / "file"
    nowhere.touch()
    result = run("train_lm", "--data", text, "--size", size, "--out", nowhere)
    assert result.returncode == 1
    (line,) = [line for line in result.stdout.splitlines() if "all parameters" in line]
    assert int(line.split()[-1]) == parameters


@pytest.mark.parametrize("more", [[], ["--vocabulary", 300]])
def test_generate_writes_after_the_prompt(text: Path, tmp_path: Path, more: list[object]) -> None:
    good(run("train_lm", *TINY, *more, "--data", text, "--out", tmp_path))
    generate = ["train_lm", "--generate", "def ", "--checkpoint", tmp_path, "--length", 40]
    first, second = run(*generate), run(*generate)
    good(first)
    assert first.stdout == second.stdout
    assert first.stdout.startswith("def ")
    assert len(first.stdout) == 4 + 40 + 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stepz", "3"], "unknown flag --stepz"),
        (
            ["--data", "x", "--steps", "many"],
            '--steps takes a whole number of at least 1, not "many"',
        ),
        (["--data", "x", "--steps"], "--steps needs a value"),
        (["--data", "x", "--steps", "0"], 'at least 1, not "0"'),
        (["--data", "x", "--clip", "-1"], '--clip takes a number of at least 0, not "-1"'),
        (["--data", "x", "--width", "10", "--heads", "3"], "not a multiple of --heads 3"),
        (["--data", "x", "--size", "huge"], "--size is small, 10m or 124m"),
        (["--data", "x", "--vocabulary", "255"], 'at least 256, not "255"'),
        (["--data", "x", "--dtype", "int8"], "--dtype is float32, float64 or bfloat16, not int8"),
        (["--data", "x", "--device", "tpu"], "--device is cpu or cuda, not tpu"),
        (["--data", "x", "--resume=yes"], "--resume takes no value"),
        ([], "no text to train on"),
    ],
)
def test_wrong_flags_are_explained(flags: list[str], message: str) -> None:
    result = run("train_lm", *flags)
    assert result.returncode == 2
    assert message in result.stderr


def test_bfloat16_learns_the_same(text: Path, tmp_path: Path) -> None:
    flags = [*TINY, "--data", text, "--learning-rate", 0.002]  # high ones are chaotic
    good(run("train_lm", *flags, "--out", tmp_path / "wide"))
    good(run("train_lm", *flags, "--dtype", "bfloat16", "--out", tmp_path / "narrow"))
    wide, narrow = metrics(tmp_path / "wide"), metrics(tmp_path / "narrow")
    differences = []
    for (step, key, one), (_, _, other) in zip(wide, narrow, strict=True):
        if key in ("loss", "validation_loss"):
            assert other == pytest.approx(one, abs=0.02), (step, key)
            differences.append(abs(other - one))
    assert max(differences) > 0  # it was narrower


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
def test_without_a_gpu_that_is_said(text: Path, tmp_path: Path) -> None:
    result = run("train_lm", *TINY, "--data", text, "--device", "cuda", "--out", tmp_path)
    assert result.returncode == 1
    assert re.search(r"--device cuda: (torch finds no GPU|this libtorch was built)", result.stderr)


def test_operating_errors_are_explained(text: Path, tmp_path: Path) -> None:
    missing = run("train_lm", "--data", tmp_path / "nothing")
    assert missing.returncode == 1
    assert "there is no such file or folder" in missing.stderr
    unsaved = run("train_lm", *TINY, "--data", text, "--out", tmp_path, "--resume")
    assert unsaved.returncode == 1
    assert "checkpoint.safetensors: No such file" in unsaved.stderr
    good(run("train_lm", *TINY, "--data", text, "--out", tmp_path, "--stop-after", 2))
    other = run("train_lm", *TINY, "--data", text, "--out", tmp_path, "--resume", "--seed", 2)
    assert other.returncode == 1
    assert 'it has "seed 1" where this run has "seed 2"' in other.stderr

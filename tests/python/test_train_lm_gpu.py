"""train_lm.py on a GPU, which is the tests' own (torch_device.py). Every rank runs all tests."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import khorus.torch as hvd
from example import train_lm
from torch_device import here, library, pytestmark  # noqa: F401

CPU = torch.device("cpu")
SHAPE = ["--layers", "2", "--width", "32", "--heads", "2", "--context", "32", "--batch", "4"]
PACE = ["--warmup", "3", "--steps", "8", "--learning-rate", "0.02", "--accumulate", "2"]
FLAGS = [*SHAPE, *PACE, "--log-every", "1", "--eval-every", "4", "--eval-windows", "10"]
DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(name="train")
def make_train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """train(device, flags): one run of the trainer there; its losses on rank 0."""

    def train(device: torch.device, *flags: str) -> list[float]:
        words = ["train_lm.py", *FLAGS, "--data", str(DOCS), "--out", str(tmp_path), *flags]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setattr(train_lm, "open_device", lambda _: device)
        train_lm.train(train_lm.parse_flags())
        if hvd.rank() > 0:
            return []
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        return [record["loss"] for record in map(json.loads, lines) if "loss" in record]

    return train


def test_either_device_goes_on_where_the_other_stopped(train: Any) -> None:
    expected = train(CPU)
    assert not expected or expected[-1] < expected[0] - 1
    for first, other in ((here(), CPU), (CPU, here())):
        train(first, "--stop-after", "5")
        assert train(other, "--resume") == pytest.approx(expected, abs=1e-4)


def test_random_numbers_go_on_with_the_checkpoint(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of either device; rank 0 says it when the file has none of the one in use."""
    step = train_lm.train_step

    def drawing(model: Any, *arguments: Any) -> Any:  # as dropout does; more on later ranks
        torch.rand(3 + hvd.rank())
        torch.rand(3, device=train_lm.device_of(model))
        return step(model, *arguments)

    def next_numbers(device: torch.device) -> list[float]:
        return [*torch.rand(2).tolist(), *torch.rand(2, device=device).cpu().tolist()]

    monkeypatch.setattr(train_lm, "train_step", drawing)
    for device, other, words in (
        (here(), CPU, "was saved on a GPU, and the model is on the CPU: the state of the GPU's"),
        (CPU, here(), "has no state of a GPU's random numbers (it was saved on the CPU"),
    ):
        train(device, "--stop-after", "2")
        expected = next_numbers(device)
        train(device, "--stop-after", "2", "--resume")
        assert next_numbers(device) == expected
        assert "random numbers" not in capsys.readouterr().out
        train(other, "--stop-after", "2", "--resume")
        said = f"the checkpoint {tmp_path / 'checkpoint.safetensors'} {words}"
        assert capsys.readouterr().out.count(said) == (1 if hvd.rank() == 0 else 0)
        assert torch.rand(2).tolist() == expected[:2]


def test_a_step_does_not_wait_for_the_device(train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []
    step = train_lm.train_step

    def counted(*arguments: Any) -> Any:
        before = library.host_waits()
        result = step(*arguments)
        waits.append(library.host_waits() - before)
        return result

    monkeypatch.setattr(train_lm, "train_step", counted)
    train(here())
    assert waits[2:] == [0] * 6

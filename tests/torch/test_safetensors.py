"""Our safetensors files are those of the Python package, in both directions."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from programs import good, run

DTYPES = [
    *[torch.bool, torch.uint8, torch.int8, torch.uint16, torch.int16, torch.uint32, torch.int32],
    *[torch.uint64, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64],
    *[torch.float8_e4m3fn, torch.float8_e5m2],
]


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.contiguous().view(-1).view(torch.uint8).tolist())


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return dict(file.metadata() or {})


def test_every_dtype_goes_both_ways(tmp_path: Path) -> None:
    tensors = {str(dtype): torch.arange(6).reshape(2, 3).to(dtype) for dtype in DTYPES}
    tensors |= {"scalar": torch.tensor(1.5), "empty": torch.empty(0, 7), "ünï": torch.ones(3)}
    metadata = {"format": "pt", "words": 'ünï "\\\n'}
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    save_file(tensors, theirs, metadata=metadata)
    good(run("safetensors_copy", theirs, ours))
    copied = load_file(ours)
    assert metadata_of(ours) == metadata
    assert copied.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert copied[name].dtype == tensor.dtype
        assert copied[name].shape == tensor.shape
        assert bits(copied[name]) == bits(tensor), name


def test_a_checkpoint_can_be_read_changed_and_resumed(tmp_path: Path) -> None:
    text = tmp_path / "text.py"
    text.write_text("".join(f"def f{i}(x):\n    return x + {i % 10}\n\n" for i in range(200)))
    out = tmp_path / "out"
    flags: list[object] = ["train_lm", "--data", text, "--out", out, "--layers", 1, "--width", 8]
    flags += ["--heads", 1, "--context", 8, "--steps", 4, "--eval-windows", 4]
    good(run(*flags, "--stop-after", 2))
    path = out / "checkpoint.safetensors"
    tensors, metadata = load_file(path), metadata_of(path)
    assert metadata["khorus.step"] == "2"
    assert metadata["note.width"] == "8"
    assert "archive" in json.loads(metadata["khorus.optimizer"])
    weight, moment = "model.blocks.0.up.weight", "optimizer.blocks.0.up.weight.exp_avg_sq"
    assert tensors[weight].shape == tensors[moment].shape == (32, 8)
    assert tensors[moment].min() >= 0
    # Written by Python, resumed by C++.
    save_file(tensors, path, metadata=metadata)
    assert any("resumed after step 2" in line for line in good(run(*flags, "--resume")))
    assert metadata_of(path)["khorus.step"] == "4"
    # A moment of another shape would spoil the optimizer: it is refused.
    tensors[moment] = tensors[moment].T.contiguous()
    save_file(tensors, path, metadata=metadata)
    refused = run(*flags, "--resume")
    assert refused.returncode == 1
    assert "has shape [8,32] and its parameter [32,8]" in refused.stderr


def header(text: str, data: int = 0) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode() + bytes(data)


def entry(dtype: str = "F32", shape: str = "[1]", offsets: str = "[0,4]") -> str:
    return f'{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}'


@pytest.mark.parametrize(
    "content",
    [
        b"",
        struct.pack("<Q", 1 << 63),
        header("{}")[:-1],
        header("[]"),
        header(entry(), 3),
        header(entry(), 5),
        header(entry(offsets="[4,8]"), 8),
        header(entry(shape="[2]"), 4),
        header(entry(dtype="F31"), 4),
        header(entry(shape="[-1]"), 4),
    ],
)
def test_what_the_package_refuses_is_refused_here(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    with pytest.raises((SafetensorError, OSError)):
        load_file(path)
    result = run("safetensors_copy", path, tmp_path / "copy")
    assert result.returncode == 1
    assert f"{path} is not a good safetensors file" in result.stderr
    assert sorted(tmp_path.iterdir()) == [path]


def test_mutated_files_are_read_alike_or_refused(tmp_path: Path) -> None:
    """Of what the package reads we refuse nothing but names that are there twice."""
    good_file, path, copy = tmp_path / "good", tmp_path / "mutated", tmp_path / "copy"
    save_file({"a": torch.arange(4), "b": torch.ones(2, 2)}, good_file, metadata={"k": "v"})
    original = good_file.read_bytes()
    choose = random.Random(5)
    outcomes = set()
    for _ in range(40):
        content = bytearray(original)
        content[choose.randrange(8, len(content) - 24)] = choose.choice(b'0123456789[]{},"FI x')
        path.write_bytes(content)
        try:
            expected = load_file(path)
        except (SafetensorError, OSError):
            expected = None
        result = run("safetensors_copy", path, copy)
        outcomes.add(result.returncode)
        if result.returncode == 1:
            assert expected is None or "twice" in result.stderr, content
        elif expected is not None:
            copied = load_file(copy)
            assert copied.keys() == expected.keys()
            assert all(torch.equal(copied[name], expected[name]) for name in expected)
    assert outcomes == {0, 1}

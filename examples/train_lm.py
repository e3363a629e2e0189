"""Trains a byte-level Transformer language model on one or more processes. One file, read from top
to bottom: configuration, text, model, schedule, checkpoint, evaluation, training.

    python examples/train_lm.py --data ~/src --out out/train_lm                 on one process
    khorusrun -np 2 python examples/train_lm.py --data ~/src --out out/train_lm         on two
    khorusrun -np 2 python examples/train_lm.py --data ~/src --out out/train_lm --resume
    khorusrun -np 8 python examples/train_lm.py --data ~/src --device cuda --dtype bfloat16
    python examples/train_lm.py --generate "def main" --checkpoint out/train_lm  write text
    python examples/train_lm.py --help                                           every flag

It is examples/train_lm.cc in Python: the same flags, model, examples, schedule and numbers, and
either goes on from the other's checkpoint. Needs torch, numpy and safetensors. What Khorus adds to
a single-process trainer is marked [khorus].

The run is a function of the flags and the text: example i of step s is a window of the text whose
place is a hash of (seed, s, i), and rank r takes its own range of i.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import khorus.torch as hvd

T = TypeVar("T")

# ---- configuration

BYTES = 256  # a token is a byte
CHECKPOINT = "checkpoint.safetensors"
# 124m has the shape of GPT-2 small and as many parameters, a third of them in a table of its 50,257
# tokens: to train at its speed, not to learn from bytes, which are 256 of these.
SHAPE = ("layers", "width", "heads", "context", "vocabulary")
SIZES = {
    "small": (4, 192, 6, 128, BYTES),
    "10m": (6, 384, 6, 128, BYTES),
    "124m": (12, 768, 12, 1024, 50257),
}
EXCLUDED = "test,tests,idle_test,idlelib,lib2to3,site-packages,dist-packages,node_modules"


def at_least(least: float, kind: type = int) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if not value >= least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"
    return parse


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Trains a byte-level Transformer language model.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    count, natural, real = at_least(1), at_least(0), at_least(0, float)
    add("--data", action="append", metavar="PATH", help="file, or folder walked for text files")
    add("--exclude", default=EXCLUDED, help="folders that are not walked")
    add("--size", default="small", choices=SIZES, help="sets the next five")
    add("--layers", type=count, help="Transformer blocks")
    add("--width", type=count, help="size of a token's vector")
    add("--heads", type=count, help="attention heads; divides the width")
    add("--context", type=count, help="tokens a prediction can see")
    add("--vocabulary", type=at_least(BYTES), help="rows of the token table; bytes use 256")
    add("--dtype", default="float32", choices=("float32", "float64", "bfloat16"),
        help="of the model; bfloat16: matrix products in that, the rest in float32")  # fmt: skip
    add("--device", default="cpu", choices=("cpu", "cuda"), help="cuda: GPU of the local rank")
    add("--steps", type=count, default=1600, help="optimizer steps of the whole run")
    add("--batch", type=count, default=8, help="windows per rank and backward pass")
    add("--accumulate", type=count, default=1, help="backward passes per step")
    add("--learning-rate", type=real, default=2e-3, help="peak learning rate")
    add("--warmup", type=natural, default=80, help="steps to the peak; then a cosine to a tenth")
    add("--weight-decay", type=real, default=0.1, help="AdamW's decay of matrices")
    add("--clip", type=real, default=1.0, help="bound of the gradient's norm; 0: none")
    add("--seed", type=natural, default=1, help="of the initial weights and the sampler")
    add("--threads", type=natural, default=0, help="torch threads per rank; 0: torch decides")
    add("--out", default="out/train_lm", help=f"folder for {CHECKPOINT} and metrics.jsonl")
    add("--log-every", type=count, default=20, help="steps between progress lines")
    add("--eval-every", type=count, default=200, help="steps between evaluations")
    add("--eval-windows", type=count, default=256, help="held-out windows per evaluation")
    add("--checkpoint-every", type=count, default=400, help="steps between checkpoints")
    add("--stop-after", type=natural, default=0, help="leave after this step; 0: never")
    add("--resume", action="store_true", help="go on from the checkpoint in --out")
    add("--checkpoint", help="checkpoint file, or its folder, for --generate; else --out")
    add("--generate", metavar="PROMPT", help="write text after PROMPT instead of training")
    add("--length", type=count, default=400, help="bytes to generate")
    add("--temperature", type=real, default=0.8, help="0: the likeliest byte only")
    c = parser.parse_args()
    for name, value in zip(SHAPE, SIZES[c.size], strict=True):
        setattr(c, name, getattr(c, name) or value)
    if c.data is None and c.generate is None:
        parser.error("no text to train on: give --data FILE or --data FOLDER")
    if c.width % c.heads != 0:
        parser.error(f"--width {c.width} is not a multiple of --heads {c.heads}")
    return c


def say(words: str) -> None:
    """Only rank 0 talks."""
    if hvd.rank() == 0:
        print(words, flush=True)


def on_rank_0(action: Callable[[], T]) -> T:
    """[khorus] What `action` returns on rank 0, on every rank; if it fails, every rank fails."""
    result: T | None = None
    failure: Exception | None = None
    if hvd.rank() == 0:
        try:
            result = action()
        except Exception as error:  # what it was, all ranks learn below
            failure = error
    outcome: tuple[Any, str | None] = (result, None if failure is None else str(failure))
    result, words = hvd.broadcast_object(outcome, root_rank=0, name="on_rank_0")
    if words is not None:
        raise failure or RuntimeError(f"rank 0: {words}")
    return result


# ---- device


def open_device(c: argparse.Namespace) -> torch.device:
    """What the model is on; a GPU becomes the current one."""
    if c.device == "cpu":
        return torch.device("cpu")
    if torch.version.cuda is None:
        raise RuntimeError(
            "--device cuda: this torch was built without CUDA; install one with it, or use "
            "--device cpu"
        )
    gpus = torch.cuda.device_count()
    if gpus == 0:
        raise RuntimeError(
            "--device cuda: torch finds no GPU here, or no driver for it; use --device cpu"
        )
    number = hvd.local_rank() if hvd.is_initialized() else 0  # [khorus]
    if number >= gpus:
        raise RuntimeError(
            f"--device cuda: rank {hvd.rank()} would use GPU {number}, and torch finds {gpus} "
            "here; start one rank for each GPU"
        )
    torch.cuda.set_device(number)
    return torch.device("cuda", number)


# ---- text

SUFFIXES = {".py", ".pyi", ".txt", ".md", ".rst", ".c", ".h", ".cc", ".cpp", ".js", ".html"}


def walk(folder: Path, excluded: set[str], files: set[Path]) -> None:
    for entry in folder.iterdir():
        hidden = entry.name.startswith(".") or entry.name in excluded
        if entry.is_dir() and not entry.is_symlink() and not hidden:
            walk(entry, excluded, files)
        elif entry.is_file() and entry.suffix in SUFFIXES:
            files.add(entry)


def list_files(c: argparse.Namespace) -> list[Path]:
    files: set[Path] = set()
    for path in map(Path, c.data):
        if path.is_dir():
            walk(path, set(c.exclude.split(",")), files)
        elif path.is_file():
            files.add(path)
        else:
            raise FileNotFoundError(f"--data {path}: there is no such file or folder")
    return sorted(files, key=lambda path: path.parts)  # the same order on every rank


class Corpus:
    """Every twentieth file is held out; of fewer than twenty files, the last tenth of the text."""

    def __init__(self, c: argparse.Namespace) -> None:
        texts = [path.read_bytes() for path in list_files(c)]
        self.files = len(texts)
        self.all_bytes = b"".join(texts)
        many = len(texts) >= 20
        held_out = b"".join(text for i, text in enumerate(texts) if many and i % 20 == 19)
        train = b"".join(text for i, text in enumerate(texts) if not many or i % 20 != 19)
        if not many:
            cut = len(train) // 10 * 9
            train, held_out = train[:cut], train[cut:]
        if min(len(train), len(held_out)) < c.context + 2:
            raise ValueError(
                f"the text is too short: {len(train)} bytes to train on and {len(held_out)} held "
                f"out; each needs more than --context {c.context} bytes"
            )
        self.train = np.frombuffer(train, np.uint8).astype(np.int64)
        self.held_out = np.frombuffer(held_out, np.uint8).astype(np.int64)

    def fingerprint(self) -> int:
        """FNV-1a of all bytes, as the C++ trainer has it. A second or two per 10 MB."""
        value = 0xCBF29CE484222325
        for byte in self.all_bytes:
            value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
        return value

    def entropies(self) -> tuple[float, float]:
        """Nats per byte of the best guess that knows only how frequent each byte is (unigram), and
        that also knows the byte before (bigram). Who has learned anything is below both."""
        parts = (self.train, self.held_out)
        single = np.bincount(np.concatenate(parts), minlength=BYTES)
        pairs = np.concatenate([part[:-1] * BYTES + part[1:] for part in parts])
        pair = np.bincount(pairs, minlength=BYTES**2)
        after = np.repeat(pair.reshape(BYTES, -1).sum(axis=1), BYTES)
        single, after, pair = single[single > 0], after[pair > 0], pair[pair > 0]
        unigram = -np.sum(single / single.sum() * np.log(single / single.sum()))
        bigram = -np.sum(pair / pair.sum() * np.log(pair / after))
        return float(unigram), float(bigram)


def check_same_corpus(corpus: Corpus) -> None:
    """[khorus] Ranks that read different text would train something else than they report."""
    digests = hvd.allgather_object(hashlib.sha256(corpus.all_bytes).digest(), name="corpus")
    if len(set(digests)) > 1:
        raise RuntimeError(
            f"the ranks read different text; give them the same --data ({corpus.files} files here)"
        )


def make_batch(text: Any, starts: Sequence[int], context: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets [windows, context] int64; targets are the inputs one byte later."""
    windows = text[np.array(starts)[:, None] + np.arange(context + 1)]
    return torch.from_numpy(windows[:, :-1]), torch.from_numpy(windows[:, 1:])


def mix(x: int) -> int:
    """splitmix64"""
    bits = 0xFFFFFFFFFFFFFFFF
    x = x + 0x9E3779B97F4A7C15 & bits
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & bits
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & bits
    return x ^ (x >> 31)


def sample(
    corpus: Corpus, c: argparse.Namespace, step: int, backward_pass: int
) -> tuple[Tensor, Tensor]:
    """The examples of one backward pass on this rank. A step's examples are numbered over all ranks
    and passes, so N ranks with batch B train on what one rank with batch N*B would."""
    places = len(corpus.train) - c.context
    key = mix((mix(c.seed) + step) & 0xFFFFFFFFFFFFFFFF)
    first = (backward_pass * hvd.size() + hvd.rank()) * c.batch
    starts = [mix((key + first + i) & 0xFFFFFFFFFFFFFFFF) % places for i in range(c.batch)]
    return make_batch(corpus.train, starts, c.context)


# ---- model


class Block(nn.Module):
    def __init__(self, c: argparse.Namespace) -> None:
        super().__init__()
        self.heads = c.heads
        self.norm1 = nn.LayerNorm(c.width)
        self.norm2 = nn.LayerNorm(c.width)
        self.attend = nn.Linear(c.width, 3 * c.width, bias=False)
        self.project = nn.Linear(c.width, c.width, bias=False)
        self.up = nn.Linear(c.width, 4 * c.width, bias=False)
        self.down = nn.Linear(4 * c.width, c.width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """x: [batch, time, width]"""
        x = x + self.attention(self.norm1(x))
        mlp: Tensor = self.down(functional.gelu(self.up(self.norm2(x))))
        return x + mlp

    def attention(self, x: Tensor) -> Tensor:
        batch, time, width = x.shape
        # [3, batch, heads, time, width / heads]
        parts = self.attend(x).view(batch, time, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        projected: Tensor = self.project(y.transpose(1, 2).reshape(batch, time, width))
        return projected


class TransformerLM(nn.Module):
    def __init__(self, c: argparse.Namespace) -> None:
        super().__init__()
        self.narrow = c.dtype == "bfloat16"
        self.bytes = nn.Embedding(c.vocabulary, c.width)
        self.positions = nn.Embedding(c.context, c.width)
        self.blocks = nn.ModuleList(Block(c) for _ in range(c.layers))
        self.norm = nn.LayerNorm(c.width)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                continue  # norms start as ones and zeros
            # What is added to the residual stream starts smaller, the more layers add to it.
            residual = name.endswith(("project.weight", "down.weight"))
            nn.init.normal_(parameter, 0.0, 0.02 / math.sqrt(2 * c.layers if residual else 1))
        self.to(torch.float64 if c.dtype == "float64" else torch.float32)

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens: [batch, time] int64. Returns logits [batch, time, vocabulary]."""
        embedding: Tensor = self.bytes.weight
        places = torch.arange(tokens.shape[1], device=tokens.device)
        with torch.autocast(tokens.device.type, torch.bfloat16, enabled=self.narrow):
            x = self.bytes(tokens) + self.positions(places)
            for block in self.blocks:
                x = block(x)
            logits: Tensor = self.norm(x) @ embedding.t()  # the embedding is the output layer
        return logits.to(embedding.dtype)


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def loss_of(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
    """The batch goes where the model is; from pinned memory, so that the host need not wait."""
    inputs, targets = batch
    if (device := device_of(model)).type != "cpu":
        inputs = inputs.pin_memory().to(device, non_blocking=True)
        targets = targets.pin_memory().to(device, non_blocking=True)
    return functional.cross_entropy(model(inputs).flatten(0, 1), targets.reshape(-1))


def print_parameters(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        say(f"  {name:<28} {list(parameter.shape)!s:<14} {parameter.numel():>10}")
    say(f"  {'all parameters':<43} {sum(p.numel() for p in model.parameters()):>10}")


# ---- optimizer and schedule


def make_adamw(model: nn.Module, c: argparse.Namespace) -> torch.optim.AdamW:
    """Matrices decay, norms do not."""
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    groups = [
        {"params": matrices, "weight_decay": c.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=c.learning_rate, betas=(0.9, 0.95))


def learning_rate_at(step: int, c: argparse.Namespace) -> float:
    peak: float = c.learning_rate
    if step <= c.warmup:
        return float(peak * step / c.warmup)
    done: float = (step - c.warmup) / max(1, c.steps - c.warmup)
    factor: float = 0.1 + 0.45 * (1 + math.cos(math.pi * done))
    return peak * factor


# ---- checkpoint
#
# A safetensors file with the layout of khorus/torch_checkpoint.h (C++): model.NAME,
# optimizer.NAME.exp_avg and exp_avg_sq, rng.RANK, on a GPU gpu_rng.RANK; in the metadata
# khorus.step, khorus.optimizer (a JSON tree whose nodes are {kind: value}) and the notes that tell
# one run from another.


def describe_run(c: argparse.Namespace, fingerprint: int) -> dict[str, str]:
    """What must be equal for a resumed run to be the same run, and what makes the model again."""
    numbers = {
        "layers": c.layers,
        "width": c.width,
        "heads": c.heads,
        "context": c.context,
        "steps": c.steps,
        "examples per step": c.batch * c.accumulate * hvd.size(),
        "learning rate": c.learning_rate,
        "warmup": c.warmup,
        "weight decay": c.weight_decay,
        "clip": c.clip,
        "seed": c.seed,
    }
    words = {
        f"note.{key}": f"{n:.17g}" if isinstance(n, float) else str(n) for key, n in numbers.items()
    }
    return words | {"note.dtype": c.dtype, "note.text": str(fingerprint)}


MOMENTS = ("exp_avg", "exp_avg_sq")


def tree_of(optimizer: torch.optim.Optimizer, names: dict[Tensor, str]) -> dict[str, Any]:
    """The structure of an AdamW: options and parameters of each group, which tensors are whose."""
    groups: dict[str, Any] = {"param_groups/size": {"count": len(optimizer.param_groups)}}
    for number, group in enumerate(optimizer.param_groups):
        options: dict[str, Any] = {
            "amsgrad": {"bool": False},
            "betas": {"tuple": [{"double": beta} for beta in group["betas"]]},
        }
        options |= {key: {"double": group[key]} for key in ("eps", "lr", "weight_decay")}
        members: dict[str, Any] = {"params/size": {"count": len(group["params"])}}
        members |= {f"params/{i}": {"string": names[p]} for i, p in enumerate(group["params"])}
        members["options"] = {"archive": options}
        groups[f"param_groups/{number}"] = {"archive": members}
    states = {
        names[p]: {
            "archive": {key: {"tensor": f"{names[p]}.{key}"} for key in MOMENTS}
            | {"step": {"int": int(state["step"])}}
        }
        for p, state in optimizer.state.items()
    }
    return {
        "archive": {
            "pytorch_version": {"string": "1.5.0"},  # of the archive, in which C++ reads this
            "param_groups": {"archive": groups},
            "state": {"archive": states},
        }
    }


def random_states(device: torch.device) -> dict[str, Tensor]:
    """Of this rank's random number generators."""
    states = {f"rng.{hvd.rank()}": torch.get_rng_state()}
    if device.type != "cpu":
        of_gpu = torch.get_device_module(device).get_rng_state(device)
        states[f"gpu_rng.{hvd.rank()}"] = of_gpu
    return states


def set_random_states(states: dict[str, Tensor], device: torch.device, path: Path) -> None:
    """What is not among them goes on as it is: of ranks that are new, or of another device."""
    of_cpu, of_gpu = (states.get(f"{kind}.{hvd.rank()}") for kind in ("rng", "gpu_rng"))
    if of_cpu is not None:
        torch.set_rng_state(of_cpu)
    if of_gpu is not None and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(of_gpu, device)
    saved_on_gpu = "gpu_rng.0" in states
    if saved_on_gpu and device.type == "cpu":
        say(f"the checkpoint {path} was saved on a GPU, and the model is on the CPU: the state of "
            "the GPU's random numbers is left out")  # fmt: skip
    elif device.type != "cpu" and not saved_on_gpu:
        say(f"the checkpoint {path} has no state of a GPU's random numbers (it was saved on the "
            f"CPU, or before they were kept): those of {device} go on as they are")  # fmt: skip


def save_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, step: int, notes: dict[str, str]
) -> None:
    states = hvd.allgather_object(random_states(device_of(model)), name="rng")  # [khorus]
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}

    def write() -> None:
        tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
        for p, state in optimizer.state.items():
            tensors |= {f"optimizer.{names[p]}.{key}": state[key] for key in MOMENTS}
        for of_rank in states:
            tensors |= of_rank
        metadata = {"format": "pt", "khorus.step": str(step), **notes}
        metadata["khorus.optimizer"] = json.dumps(tree_of(optimizer, names))
        unfinished = path.with_suffix(".tmp")
        save_file(tensors, unfinished, metadata)
        unfinished.replace(path)  # a reader finds the old file or the new one

    on_rank_0(write)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, notes: dict[str, str]
) -> int:
    """Returns the step. Rank 0 reads, and the others get it from there."""

    def read() -> tuple[int, dict[str, Tensor]]:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            for key, ours in notes.items():
                if metadata.get(key) != ours:
                    raise ValueError(
                        f"the checkpoint {path} is of another run: it has "
                        f'"{key.removeprefix("note.")} {metadata.get(key)}" where this run has '
                        f'"{key.removeprefix("note.")} {ours}"'
                    )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        states = json.loads(metadata["khorus.optimizer"])["archive"]["state"]["archive"]
        model.load_state_dict({name: tensors[f"model.{name}"] for name in model.state_dict()})
        for name, parameter in model.named_parameters():
            if name in states:
                steps = float(states[name]["archive"]["step"]["int"])
                state = {
                    key: tensors[f"optimizer.{name}.{key}"].to(parameter.device) for key in MOMENTS
                }
                optimizer.state[parameter] = {"step": torch.tensor(steps), **state}
        states = {k: v for k, v in tensors.items() if k.startswith(("rng.", "gpu_rng."))}
        return int(metadata["khorus.step"]), states

    step, states = on_rank_0(read)
    set_random_states(states, device_of(model), path)
    return step


# ---- evaluate and generate


@torch.no_grad()
def evaluate(model: nn.Module, corpus: Corpus, c: argparse.Namespace) -> float:
    """Mean loss over evenly spaced held-out windows, each computed by one rank."""
    places = len(corpus.held_out) - c.context
    mine = range(hvd.rank(), c.eval_windows, hvd.size())
    starts = [i * (places - 1) // c.eval_windows for i in mine]
    total = 0.0
    for first in range(0, len(starts), 16):
        part = starts[first : first + 16]
        total += loss_of(model, make_batch(corpus.held_out, part, c.context)).item() * len(part)
    sums = torch.tensor([total, len(starts)], dtype=torch.float64)
    sums = hvd.allreduce(sums, op=hvd.Sum, name="evaluate")  # [khorus]
    return (sums[0] / sums[1]).item()


@torch.no_grad()
def generate(c: argparse.Namespace) -> None:
    path = Path(c.checkpoint or c.out)
    path = path / CHECKPOINT if path.is_dir() else path
    with safe_open(path, "pt") as file:
        notes = file.metadata() or {}
        for key in ("layers", "width", "heads", "context"):
            setattr(c, key, int(notes[f"note.{key}"]))
        c.vocabulary = file.get_slice("model.bytes.weight").get_shape()[0]
        c.dtype = notes["note.dtype"]
        device = open_device(c)
        model = TransformerLM(c).to(device)
        model.load_state_dict({n: file.get_tensor(f"model.{n}") for n in model.state_dict()})
    torch.manual_seed(c.seed)
    prompt = os.fsencode(c.generate)
    text = bytearray(prompt or b"\n")
    sys.stdout.buffer.write(prompt)
    for _ in range(c.length):
        logits = model(torch.tensor([list(text[-c.context :])], device=device))[0, -1, :BYTES]
        if c.temperature == 0:
            text.append(int(logits.argmax()))
        else:
            text.append(int(torch.multinomial(torch.softmax(logits / c.temperature, 0), 1)))
        sys.stdout.buffer.write(text[-1:])
        sys.stdout.flush()
    sys.stdout.buffer.write(b"\n")


# ---- watching


class Progress:
    """A line now and then, and metrics.jsonl."""

    def __init__(self, c: argparse.Namespace, first_step: int) -> None:
        self.c, self.first, self.start = c, first_step, time.monotonic()
        if hvd.rank() == 0:
            self.metrics = (Path(c.out) / "metrics.jsonl").open("a" if c.resume else "w")

    def note(self, **numbers: float) -> None:
        if hvd.rank() == 0:
            print(json.dumps(numbers), file=self.metrics, flush=True)

    def step(self, step: int, loss: float, rate: float, norm: float) -> None:
        seconds = time.monotonic() - self.start
        done, of_step = step - self.first, self.c.batch * self.c.accumulate * hvd.size()
        speed = done * of_step * self.c.context / seconds
        left = int(seconds / done * (self.c.steps - step))
        self.note(step=step, loss=loss, learning_rate=rate, gradient_norm=norm, seconds=seconds,
                  tokens_per_second=speed)  # fmt: skip
        say(f"step {step}/{self.c.steps}  loss {loss:.4f}  {speed:.0f} tokens/s  "
            f"ETA {left // 60}:{left % 60:02}")  # fmt: skip

    def evaluated(self, step: int, loss: float) -> None:
        self.note(step=step, validation_loss=loss)
        say(f"step {step}/{self.c.steps}  validation loss {loss:.4f}")

    def elapsed(self) -> float:
        return time.monotonic() - self.start


# ---- training


def train_step(
    model: nn.Module, optimizer: Any, corpus: Corpus, c: argparse.Namespace, step: int
) -> tuple[Tensor, Tensor]:
    """One optimizer step. Returns the loss on this rank and the norm of the averaged gradient,
    which a GPU may still be computing."""
    loss = torch.zeros((), dtype=torch.float64, device=device_of(model))
    optimizer.zero_grad()
    for backward_pass in range(c.accumulate):
        part = loss_of(model, sample(corpus, c, step, backward_pass)) / c.accumulate
        part.backward()  # [khorus] averaged while this runs
        loss += part.detach()
    optimizer.synchronize()  # [khorus] from here on every rank has the same gradients
    norm = nn.utils.clip_grad_norm_(model.parameters(), c.clip or math.inf)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate_at(step, c)
    with optimizer.skip_synchronize():  # [khorus] the gradients are there
        optimizer.step()
    return loss, norm


def train(c: argparse.Namespace) -> None:
    device = open_device(c)
    corpus = Corpus(c)
    check_same_corpus(corpus)
    unigram, bigram = corpus.entropies()
    say(f"text: {corpus.files} files, {len(corpus.train)} bytes to train on, "
        f"{len(corpus.held_out)} held out; entropy {unigram:.4f} nats/byte (unigram), "
        f"{bigram:.4f} (bigram)")  # fmt: skip
    torch.manual_seed(c.seed)
    model = TransformerLM(c).to(device)  # the same start on every device
    print_parameters(model)
    optimizer: Any = hvd.DistributedOptimizer(  # [khorus]
        make_adamw(model, c), model.named_parameters(), backward_passes_per_step=c.accumulate
    )
    notes = describe_run(c, on_rank_0(corpus.fingerprint))
    on_rank_0(lambda: Path(c.out).mkdir(parents=True, exist_ok=True))
    path = Path(c.out) / CHECKPOINT
    first = load_checkpoint(path, model, optimizer, notes) if c.resume else 0
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)  # [khorus]
    hvd.broadcast_optimizer_state(optimizer, root_rank=0)  # [khorus]
    if first > 0:
        say(f"resumed after step {first}")
    say(f"training: {hvd.size()} ranks x {c.batch * c.accumulate} windows x {c.context} bytes, "
        f"steps {first + 1} to {c.steps}")  # fmt: skip

    progress = Progress(c, first)
    last = min(c.stop_after or c.steps, c.steps)
    validation = math.nan
    for step in range(first + 1, last + 1):
        loss, norm = train_step(model, optimizer, corpus, c, step)
        if step % c.log_every == 0 or step == last:
            mean = hvd.allreduce(loss.cpu(), name="loss")  # [khorus]
            progress.step(step, mean.item(), learning_rate_at(step, c), norm.item())
        if step % c.eval_every == 0 or step == last:
            validation = evaluate(model, corpus, c)
            progress.evaluated(step, validation)
        if step % c.checkpoint_every == 0 or step == last:
            save_checkpoint(path, model, optimizer, step, notes)
    if last <= first:
        validation = evaluate(model, corpus, c)
    say(f"trained {max(0, last - first)} steps in {progress.elapsed():.1f} s")
    say(f"validation loss {validation:.4f} nats/byte (unigram {unigram:.4f}, bigram {bigram:.4f}), "
        f"checkpoint {path}")  # fmt: skip


def main() -> None:
    c = parse_flags()
    if c.threads > 0:
        torch.set_num_threads(c.threads)
    if c.generate is not None:
        generate(c)
        return
    hvd.init()  # [khorus]
    train(c)
    hvd.shutdown()  # [khorus]


if __name__ == "__main__":
    main()

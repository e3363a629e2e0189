"""Fine-tunes a BERT-style encoder to tell from a few lines of Python which package of the standard
library they are from. One file, read from top to bottom: configuration, text, training.

    khorusrun -np 2 python examples/finetune_classifier.py --out out/classifier
    khorusrun -np 2 python examples/finetune_classifier.py --start out/classifier --epochs 1

Needs torch, transformers and tqdm. Nothing is downloaded: the encoder is made from a configuration
(or read from --start, which an earlier run wrote as --out), the text is what every machine with
Python has, and the vocabulary is the words that are frequent in it. What Khorus adds is marked
[khorus].
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"  # before transformers looks

import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from tqdm import tqdm
from transformers import BertConfig, BertForSequenceClassification

import khorus.torch as hvd

# ---- configuration

PACKAGES = "asyncio,email,http,logging,multiprocessing,tkinter,unittest,xml"
PADDING, UNKNOWN, BEGIN = range(3)


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Fine-tunes a BERT-style encoder on the text of Python's standard library.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--packages", default=PACKAGES, help="the classes")
    add("--examples", type=int, default=600, help="at most, of each package")
    add("--lines", type=int, default=4, help="of text in an example")
    add("--words", type=int, default=48, help="of an example that the encoder sees")
    add("--vocabulary", type=int, default=4000, help="words that have a vector of their own")
    add("--width", type=int, default=96, help="of a word's vector")
    add("--layers", type=int, default=2)
    add("--epochs", type=int, default=5)
    add("--batch", type=int, default=16, help="examples per rank and step")
    add("--learning-rate", type=float, default=1e-3)
    add("--seed", type=int, default=1)
    add("--start", metavar="FOLDER", help="go on from this model")
    add("--out", metavar="FOLDER", help="keep the model there")
    c = parser.parse_args()
    numbers = {key: value for key, value in vars(c).items() if isinstance(value, int)}
    if min(numbers.values()) < 1:
        parser.error(f"--{min(numbers, key=lambda key: numbers[key])} is at least 1")
    if c.width % 32 != 0:
        parser.error(f"--width {c.width} is not a multiple of 32, the width of an attention head")
    return c


# ---- text


def words_of(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+|[^\sA-Za-z]", text)


def read_examples(c: argparse.Namespace) -> list[tuple[str, int]]:
    """Pieces of text, each with the number of its package, in the same order on every rank."""
    examples = []
    for number, package in enumerate(c.packages.split(",")):
        folder = Path(os.__file__).parent / package
        files = sorted(folder.rglob("*.py"))
        if not files:
            raise FileNotFoundError(f"--packages: {folder} has no Python files; leave it out")
        lines = [
            line.strip()
            for file in files
            for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
            if len(words_of(line)) > 1
        ]
        pieces = [lines[i : i + c.lines] for i in range(0, len(lines), c.lines)]
        every = max(1, len(pieces) // c.examples)
        examples += [("\n".join(p), number) for p in pieces[::every][: c.examples]]
    return examples


def make_vocabulary(c: argparse.Namespace, examples: list[tuple[str, int]]) -> dict[str, int]:
    counts = Counter(word for text, _ in examples for word in words_of(text))
    likeliest = sorted(counts, key=lambda word: (-counts[word], word))[: c.vocabulary]
    return {word: number for number, word in enumerate(likeliest, start=BEGIN + 1)}


def encode(
    c: argparse.Namespace, examples: list[tuple[str, int]], vocabulary: dict[str, int]
) -> TensorDataset:
    """Words [examples, words] int64 and packages [examples] int64."""
    words = torch.full((len(examples), c.words), PADDING)
    for row, (text, _) in enumerate(examples):
        ids = [BEGIN, *(vocabulary.get(word, UNKNOWN) for word in words_of(text))][: c.words]
        words[row, : len(ids)] = torch.tensor(ids)
    return TensorDataset(words, torch.tensor([package for _, package in examples]))


# ---- training


def make_model(c: argparse.Namespace, vocabulary: dict[str, int]) -> BertForSequenceClassification:
    if c.start is not None:
        return BertForSequenceClassification.from_pretrained(c.start)
    config = BertConfig(
        vocab_size=BEGIN + 1 + len(vocabulary),
        hidden_size=c.width,
        num_hidden_layers=c.layers,
        num_attention_heads=c.width // 32,
        intermediate_size=4 * c.width,
        max_position_embeddings=c.words,
        pad_token_id=PADDING,
    )
    config.num_labels = len(c.packages.split(","))
    return BertForSequenceClassification(config)


def mean_over_ranks(name: str, total: float, count: int) -> float:
    """[khorus] `total` and `count` are this rank's."""
    sums = torch.tensor([total, count], dtype=torch.float64)
    sums = hvd.allreduce(sums, op=hvd.Sum, name=name)
    return (sums[0] / sums[1]).item()


def guess(model: Any, words: Tensor, packages: Tensor) -> tuple[Any, float]:
    """Loss, and how many guesses are right."""
    output = model(input_ids=words, attention_mask=words != PADDING, labels=packages)
    return output.loss, (output.logits.argmax(1) == packages).sum().item()


def train_epoch(
    model: Any, optimizer: Any, schedule: Any, loader: DataLoader[Any], title: str
) -> tuple[float, float]:
    """Loss and accuracy over the epoch and all ranks."""
    model.train()
    losses, right, count = 0.0, 0.0, 0
    with tqdm(loader, desc=title, disable=hvd.rank() != 0, mininterval=1) as bar:
        for words, packages in bar:
            optimizer.zero_grad()
            loss, good = guess(model, words, packages)
            loss.backward()  # [khorus] gradients are averaged over the ranks while this runs
            optimizer.step()
            schedule.step()
            losses, right = losses + loss.item() * len(words), right + good
            count += len(words)
            bar.set_postfix(loss=f"{losses / count:.3f}", refresh=False)
    return mean_over_ranks("loss", losses, count), mean_over_ranks("right", right, count)


@torch.no_grad()
def evaluate(model: Any, held_out: TensorDataset, batch: int) -> float:
    """The accuracy on all held-out examples; every rank looks at its share."""
    model.eval()
    mine = range(hvd.rank(), len(held_out), hvd.size())  # [khorus]
    loader = DataLoader(torch.utils.data.Subset(held_out, mine), batch_size=batch)
    right = sum(guess(model, words, packages)[1] for words, packages in loader)
    return mean_over_ranks("held out", right, len(mine))


def train(c: argparse.Namespace) -> None:
    examples = read_examples(c)
    if c.start is None:
        vocabulary = make_vocabulary(c, examples)
    else:
        vocabulary = json.loads((Path(c.start) / "vocabulary.json").read_text())
    held_out = encode(c, examples[::5], vocabulary)
    training = encode(c, [e for i, e in enumerate(examples) if i % 5 != 0], vocabulary)

    torch.manual_seed(c.seed)
    model: Any = make_model(c, vocabulary)
    torch.manual_seed(c.seed + hvd.rank())  # [khorus] every rank drops out others
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)  # [khorus]
    optimizer: Any = hvd.DistributedOptimizer(  # [khorus]
        torch.optim.AdamW(model.parameters(), lr=c.learning_rate), model.named_parameters()
    )
    sampler: DistributedSampler[Any] = DistributedSampler(  # [khorus] each rank has its examples
        training, num_replicas=hvd.size(), rank=hvd.rank(), seed=c.seed
    )
    loader = DataLoader(training, batch_size=c.batch, sampler=sampler)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=c.learning_rate, total_steps=c.epochs * len(loader)
    )
    for epoch in range(1, c.epochs + 1):
        sampler.set_epoch(epoch)
        title = f"epoch {epoch}/{c.epochs}"
        loss, right = train_epoch(model, optimizer, schedule, loader, title)
        accuracy = evaluate(model, held_out, c.batch)
        if hvd.rank() == 0:
            print(
                f"{title}  loss {loss:.4f}  accuracy {100 * right:.2f}%  held out "
                f"{100 * accuracy:.2f}%",
                flush=True,
            )
    if c.out is not None and hvd.rank() == 0:
        model.save_pretrained(c.out)
        (Path(c.out) / "vocabulary.json").write_text(json.dumps(vocabulary))


def main() -> None:
    c = parse_flags()
    hvd.init()  # [khorus]
    train(c)
    hvd.shutdown()  # [khorus]


if __name__ == "__main__":
    main()

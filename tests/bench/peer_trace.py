"""Replays the gradients of a model without the model, with Khorus, DDP or no communication.

khorusrun -np 2 peer_trace.py --store FILE --json FILE --model resnet50|bert_base|gpt2
                              --contestant khorus|ddp|alone [--steps N]

The parameters have the shapes of the real ones, and their gradients come in the order and at the
pace of a real backward pass: before each there is as much matrix multiplication as its share of the
model's arithmetic says. The JSON holds the seconds of each step on rank 0.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

# A parameter: its shape, and how often a step applies it (tokens, or places of an image).
Shaped = tuple[tuple[int, ...], int]
TOKENS = 64


def resnet50() -> Iterator[Shaped]:
    """He et al., "Deep Residual Learning", 2015; one picture of 224 x 224."""

    def convolution(outputs: int, inputs: int, kernel: int, side: int) -> Iterator[Shaped]:
        yield (outputs, inputs, kernel, kernel), side * side
        yield (outputs,), side * side  # the batch normalisation after it
        yield (outputs,), side * side

    yield from convolution(64, 3, 7, 112)
    inputs = 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        width, side = 64 << stage, 56 >> stage
        for block in range(blocks):
            yield from convolution(width, inputs, 1, side)
            yield from convolution(width, width, 3, side)
            yield from convolution(4 * width, width, 1, side)
            if block == 0:
                yield from convolution(4 * width, inputs, 1, side)
            inputs = 4 * width
    yield (1000, 2048), 1
    yield (1000,), 1


def transformer(layers: int, width: int, embeddings: list[tuple[int, int]]) -> Iterator[Shaped]:
    yield from ((shape, 0) for shape in embeddings)
    for _ in range(layers):
        for outputs, inputs in ((3 * width, width), (width, width), (4 * width, width)):
            yield (outputs, inputs), TOKENS
            yield (outputs,), TOKENS
        yield (width, 4 * width), TOKENS
        yield (width,), TOKENS
        yield from (((width,), TOKENS) for _ in range(4))  # two layer normalisations


def bert_base() -> Iterator[Shaped]:
    """Devlin et al., "BERT", 2018; 64 tokens."""
    return transformer(12, 768, [(30522, 768), (512, 768), (2, 768)])


def gpt2() -> Iterator[Shaped]:
    """Radford et al., "Language Models are Unsupervised Multitask Learners", 2019; 64 tokens."""
    return transformer(12, 768, [(50257, 768), (1024, 768)])


MODELS = {"resnet50": resnet50, "bert_base": bert_base, "gpt2": gpt2}
EDGE = 128  # of the matrices that are multiplied to pass the time as arithmetic does


class Produce(torch.autograd.Function):
    """Hands x on; its backward computes for a while, and then has the gradient of `parameter`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, parameter: Tensor, work: int) -> Tensor:
        ctx.save_for_backward(parameter)
        ctx.work = work
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        (parameter,) = ctx.saved_tensors
        multiply(ctx.work)
        return gradients[0], torch.full_like(parameter, 1e-3), None


MATRIX = torch.full((EDGE, EDGE), 1.0 / EDGE)


def multiply(times: int) -> None:
    product = MATRIX
    for _ in range(times):
        product = product @ MATRIX


class Trace(nn.Module):
    def __init__(self, shapes: list[Shaped]) -> None:
        super().__init__()
        self.parts = nn.ParameterList(torch.zeros(shape) for shape, _ in shapes)
        # A matrix takes part with 2 operations per element and place, twice as many backward.
        self.work = [
            round(4 * math.prod(shape) * places / (2 * EDGE**3)) if len(shape) > 1 else 0
            for shape, places in shapes
        ]

    def forward(self, x: Tensor) -> Tensor:
        for parameter, work in zip(self.parts, self.work, strict=True):
            multiply(work // 2)
            x = Produce.apply(x, parameter, work)
        return x


def replay(options: argparse.Namespace) -> list[float]:
    model = Trace(list(MODELS[options.model]()))
    net: nn.Module = model
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    if options.contestant == "ddp":
        net = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    if options.contestant == "khorus":
        import khorus.torch as hvd

        hvd.init()
        optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
    times = []
    x = torch.ones(1, requires_grad=True)
    for _ in range(options.steps):
        start = time.perf_counter()
        optimizer.zero_grad()
        net(x).sum().backward()
        optimizer.step()
        times.append(time.perf_counter() - start)
    if options.contestant == "khorus":
        hvd.shutdown()
    return times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--json", required=True)
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    parser.add_argument("--contestant", choices=["khorus", "ddp", "alone"], required=True)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rank = int(os.environ["KHORUS_RANK"])
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if options.contestant != "khorus":
        dist.init_process_group(
            "gloo",
            init_method=Path(options.store).absolute().as_uri(),
            rank=rank,
            world_size=int(os.environ["KHORUS_SIZE"]),
        )
    times = replay(options)
    if rank == 0:
        Path(options.json).write_text(json.dumps(times))
    if options.contestant != "khorus":
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

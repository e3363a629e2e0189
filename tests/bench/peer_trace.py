"""Replays the gradients of a model without the model, with Khorus, DDP or no communication.

khorusrun -np 2 peer_trace.py --store FILE --json FILE --model resnet50|bert_base|gpt2
                              [--contestants khorus,ddp,alone] [--steps N] [--pairs N]

The parameters have the shapes of the real ones, and their gradients come in the order and at the
pace of a real backward pass: before each there is as much matrix multiplication as its share of the
model's arithmetic says. The rest is in contest.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import contest
import khorus.torch as hvd

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


def make(name: str, model_name: str) -> Callable[[], None]:
    model = Trace(list(MODELS[model_name]()))
    net: nn.Module = model
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=1e-3)
    if name == "ddp":
        net = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    if name == "khorus":
        optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
    x = torch.ones(1, requires_grad=True)

    def step() -> None:
        optimizer.zero_grad()
        net(x).sum().backward()
        optimizer.step()

    return step


def main() -> None:
    parser = contest.parser()
    parser.add_argument("--model", choices=sorted(MODELS), required=True)
    options = parser.parse_args()
    contest.run(options, lambda name: make(name, options.model))


if __name__ == "__main__":
    main()

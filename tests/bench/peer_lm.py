"""The model of examples/train_lm.cc in Python: with DDP, khorus.torch, or neither.

khorusrun -np 2 peer_lm.py --store FILE --json FILE --contestants ddp,khorus,alone --steps N
                           --layers L --width W --heads H --context C --batch B

Same shapes, same initialisation rule, AdamW, clipping; random bytes instead of text, which costs
the same. DDP has gradients as views of its buckets; the optimizer of khorus is khorus.torch's;
alone every rank trains by itself. The rest is in contest.py.
"""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import contest
import khorus.torch as hvd

VOCABULARY = 256


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        parts = self.attend(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(y.transpose(1, 2).reshape(batch, length, width))
        result: Tensor = x + self.down(F.gelu(self.up(self.norm2(x))))
        return result


class TransformerLM(nn.Module):
    def __init__(self, layers: int, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.bytes = nn.Embedding(VOCABULARY, width)
        self.positions = nn.Embedding(context, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        for name, parameter in self.named_parameters():
            if parameter.dim() >= 2:
                residual = name.endswith(("project.weight", "down.weight"))
                nn.init.normal_(parameter, 0.0, 0.02 / (2 * layers if residual else 1) ** 0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.bytes(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.norm(x) @ self.bytes.weight.t()
        return logits


class Contestant:
    """The model, its optimizer, and who brings the gradients of the ranks together."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.with_khorus = name == "khorus"
        self.options = options
        torch.manual_seed(1)
        self.model = TransformerLM(options.layers, options.width, options.heads, options.context)
        self.net: nn.Module = self.model
        if name == "ddp":
            self.net = nn.parallel.DistributedDataParallel(self.model, gradient_as_bucket_view=True)
        matrices = [p for p in self.model.parameters() if p.dim() >= 2]
        others = [p for p in self.model.parameters() if p.dim() < 2]
        self.optimizer: Any = torch.optim.AdamW(
            [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
            lr=2e-3,
            betas=(0.9, 0.95),
        )
        if self.with_khorus:
            self.optimizer = hvd.DistributedOptimizer(
                self.optimizer, named_parameters=self.model.named_parameters()
            )
            hvd.broadcast_parameters(self.model.state_dict(), root_rank=0)

    def step(self) -> None:
        options = self.options
        tokens = torch.randint(VOCABULARY, (options.batch, options.context + 1))
        self.optimizer.zero_grad()
        logits = self.net(tokens[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))
        loss.backward()  # type: ignore[no-untyped-call]
        if self.with_khorus:
            self.optimizer.synchronize()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        with self.optimizer.skip_synchronize() if self.with_khorus else nullcontext():
            self.optimizer.step()
        loss.item()


def main() -> None:
    parser = contest.parser()
    for name in ("layers", "width", "heads", "context", "batch"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    contest.run(options, lambda name: Contestant(name, options).step)


if __name__ == "__main__":
    main()

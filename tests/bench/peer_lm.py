"""The model of examples/train_lm.cc in Python: with DDP, khorus.torch, or neither.

khorusrun -np 2 peer_lm.py --store FILE --json FILE --layers L --width W --heads H --context C
                           --batch B --steps N [--alone|--khorus]

Same shapes, same initialisation rule, AdamW, clipping; random bytes instead of text, which costs
the same. DDP runs on torch's Gloo with gradients as views of its buckets. With --khorus the
optimizer is khorus.torch's. With --alone every rank trains by itself. The JSON holds the seconds of
each step on rank 0.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

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


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--store", required=True)
    parser.add_argument("--json", required=True)
    for name in ("layers", "width", "heads", "context", "batch", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--alone", action="store_true")
    parser.add_argument("--khorus", action="store_true")
    return parser.parse_args()


def train(options: argparse.Namespace, rank: int) -> list[float]:
    torch.manual_seed(1)
    model = TransformerLM(options.layers, options.width, options.heads, options.context)
    net: nn.Module = model
    if not options.alone and not options.khorus:
        net = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer: Any = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
        lr=2e-3,
        betas=(0.9, 0.95),
    )
    if options.khorus:
        optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
        hvd.broadcast_parameters(model.state_dict(), root_rank=0)
    torch.manual_seed(rank)
    times = []
    for _ in range(options.steps):
        start = time.perf_counter()
        tokens = torch.randint(VOCABULARY, (options.batch, options.context + 1))
        optimizer.zero_grad()
        logits = net(tokens[:, :-1])
        loss = F.cross_entropy(logits.reshape(-1, VOCABULARY), tokens[:, 1:].reshape(-1))
        loss.backward()  # type: ignore[no-untyped-call]
        if options.khorus:
            optimizer.synchronize()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with optimizer.skip_synchronize() if options.khorus else nullcontext():
            optimizer.step()
        loss.item()
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    options = parse()
    torch.set_num_threads(1)
    rank = int(os.environ["KHORUS_RANK"])
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if options.khorus:
        hvd.init()
    else:
        dist.init_process_group(
            "gloo",
            init_method=Path(options.store).absolute().as_uri(),
            rank=rank,
            world_size=int(os.environ["KHORUS_SIZE"]),
        )
    times = train(options, rank)
    if rank == 0:
        Path(options.json).write_text(json.dumps(times))
    if options.khorus:
        hvd.shutdown()
    else:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()

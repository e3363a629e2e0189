"""The speed of training a Transformer of 124 million parameters in bfloat16 on GPUs: with Khorus,
with DDP on NCCL, and without communication.

    python -m torch.distributed.run --standalone --nproc-per-node GPUS training_speed.py MODE

MODE is khorus, ddp or none. Rank 0 prints one line. The three train the same model on the same
random tokens; in `none` every rank goes its own way.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from typing import Any

import torch
from torch import nn

WIDTH, HEADS, LAYERS, VOCABULARY, CONTEXT, WINDOWS = 768, 12, 12, 50257, 1024, 8
WARM_UP, STEPS = 10, 30


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.places = nn.Embedding(CONTEXT, WIDTH)
        block = nn.TransformerEncoderLayer(
            WIDTH,
            HEADS,
            4 * WIDTH,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.blocks = nn.TransformerEncoder(block, LAYERS, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(WIDTH)
        mask = nn.Transformer.generate_square_subsequent_mask(CONTEXT)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.tokens(tokens) + self.places(places)
        x = self.norm(self.blocks(x, mask=self.mask, is_causal=True))
        return torch.matmul(x, self.tokens.weight.t())


def main(mode: str) -> None:
    local_rank, rank = int(os.environ["LOCAL_RANK"]), int(os.environ["RANK"])
    size = int(os.environ["WORLD_SIZE"])
    torch.cuda.set_device(local_rank)
    torch.manual_seed(1)
    model: Any = Transformer().cuda()
    count = sum(p.numel() for p in model.parameters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    if mode == "khorus":
        import khorus.torch as hvd

        hvd.init()
        hvd.broadcast_parameters(model.state_dict(), 0)
        optimizer = hvd.DistributedOptimizer(optimizer, model.named_parameters())
    elif mode == "ddp":
        torch.distributed.init_process_group("nccl")
        model = nn.parallel.DistributedDataParallel(model, [local_rank])
    generator = torch.Generator("cuda").manual_seed(rank)
    times: list[float] = []
    for _ in range(WARM_UP + STEPS):
        begin = time.perf_counter()
        shape = (WINDOWS, CONTEXT + 1)
        tokens = torch.randint(VOCABULARY, shape, device="cuda", generator=generator)
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            logits = model(tokens[:, :-1])
        loss: Any = nn.functional.cross_entropy(
            logits.float().flatten(0, 1), tokens[:, 1:].flatten()
        )
        loss.backward()
        optimizer.step()
        torch.cuda.synchronize()  # for the clock
        times.append(time.perf_counter() - begin)
    median = statistics.median(times[WARM_UP:])
    if rank == 0:
        print(
            f"{mode}: {size * WINDOWS * CONTEXT / median:.0f} tokens/s on {size} GPUs, "
            f"{1e3 * median:.2f} ms a step (median of {STEPS}), {count / 1e6:.0f}M parameters"
        )
    if mode == "khorus":
        hvd.shutdown()
    elif mode == "ddp":
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in ("khorus", "ddp", "none"):
        sys.exit(__doc__)
    main(sys.argv[1])

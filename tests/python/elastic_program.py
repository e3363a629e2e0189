"""What test_elastic.py runs: a training whose ranks end by SIGKILL where the plan says so."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import torch

import khorus.torch as hvd

plan = json.loads(sys.argv[1])
folder = Path(plan["folder"])
hvd.init()
rank = hvd.rank()
life = len(list(folder.glob(f"life.{rank}.*")))
(folder / f"life.{rank}.{life}").touch()
death = plan["deaths"].get(f"{rank}.{life}", -1)
deadly = set(plan["deaths"].values())

torch.manual_seed(rank)  # other weights on every rank: sync() makes them equal
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
optimizer = hvd.DistributedOptimizer(
    torch.optim.Adam(model.parameters(), lr=0.05), model.named_parameters()
)
batches: list[int] = []
resets: list[int] = []


@hvd.elastic.run
def train(state: hvd.elastic.TorchState) -> None:
    if not state.notes:
        state.notes.append("epoch 0 began")
        state.commit()
    while state.batch < plan["batches"]:
        if state.batch in deadly:
            hvd.barrier()  # all have ended the batch before
        if state.batch == death:
            os.kill(os.getpid(), signal.SIGKILL)
        generator = torch.Generator().manual_seed(1000 * state.batch + rank)
        inputs = torch.randn(16, 4, generator=generator, dtype=torch.float64)
        optimizer.zero_grad()
        torch.nn.functional.mse_loss(model(inputs), inputs.sum(1, keepdim=True)).backward()
        optimizer.step()
        batches.append(state.batch)
        state.batch += 1
        if state.batch % 5 == 0:
            state.commit()


state = hvd.elastic.TorchState(model, optimizer, batch=0, notes=[])
state.register_reset_callbacks([lambda: resets.append(hvd.size())])
train(state)
weights = torch.cat([p.detach().flatten() for p in model.parameters()])
result = {
    "weights": weights.tolist(),
    "batches": batches,
    "resets": len(resets),
    "notes": state.notes,
}
(folder / f"result.{rank}").write_text(json.dumps(result))
hvd.shutdown()

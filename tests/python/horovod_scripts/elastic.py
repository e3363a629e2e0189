"""In the manner of Horovod's elastic example: a small network that goes on from the last commit
when a worker is lost. With --kill-file, rank 1 ends by SIGKILL once, in the middle of an epoch."""

import argparse
import os
import signal
from pathlib import Path

import horovod.torch as hvd
import torch
import torch.nn.functional as F
from torch import nn, optim

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--batch-size", type=int, default=8)
parser.add_argument("--batches-per-commit", type=int, default=2)
parser.add_argument("--kill-file", type=Path)
args = parser.parse_args()

hvd.init()
torch.manual_seed(42)
features = torch.randn(160, 12)
labels = (features[:, :6].sum(1) > features[:, 6:].sum(1)).long()
dataset = torch.utils.data.TensorDataset(features, labels)

model = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 2))
lr = 0.02
optimizer = optim.SGD(model.parameters(), lr=lr * hvd.size(), momentum=0.9)
optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())

sampler = hvd.elastic.ElasticSampler(dataset, shuffle=True)
loader = torch.utils.data.DataLoader(dataset, batch_size=args.batch_size, sampler=sampler)


def on_state_reset() -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * hvd.size()
    print(f"reset: {hvd.size()} workers, {len(sampler)} examples left here", flush=True)


def mean(value: float, name: str) -> float:
    return hvd.allreduce(torch.tensor(value), name=name).item()


@hvd.elastic.run
def train(state: hvd.elastic.TorchState) -> None:
    while state.epoch < args.epochs:
        model.train()
        for batch_idx, (data, target) in enumerate(loader):
            is_end = state.epoch == 1 and batch_idx == 5 and hvd.rank() == 1
            if is_end and args.kill_file and not args.kill_file.exists():
                args.kill_file.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(data), target)
            loss.backward()
            optimizer.step()
            state.sampler.record_batch(batch_idx, args.batch_size)
            if (batch_idx + 1) % args.batches_per_commit == 0:
                state.commit()
        with torch.no_grad():
            right = (model(features).argmax(1) == labels).float().mean().item()
        print(f"epoch {state.epoch} accuracy {mean(right, 'accuracy'):.3f}", flush=True)
        state.epoch += 1
        state.sampler.set_epoch(state.epoch)
        state.commit()


state = hvd.elastic.TorchState(model=model, optimizer=optimizer, sampler=sampler, epoch=0)
state.register_reset_callbacks([on_state_reset])
train(state)
hvd.shutdown()

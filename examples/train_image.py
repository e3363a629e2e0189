"""A convolutional network with SyncBatchNorm on 8x8 images of handwritten digits. One file, read
from top to bottom: configuration, images, model, watching, training.

    khorusrun -np 2 python examples/train_image.py                                (some seconds)
    khorusrun -np 2 python examples/train_image.py --tensorboard out/digits
    tensorboard --logdir out/digits                                              to see the curves

It is examples/train_image.cc in Python. Needs torch and scikit-learn, whose
copy of the "Optical Recognition of Handwritten Digits" set it takes: 1797 images, of which every
fifth is kept for the test. --tensorboard needs tensorboardX, or tensorboard.

The batches of the ranks may differ in size (the last one of an epoch does): batch normalisation is
over all of them, and the loss is weighted so that the averaged gradient is that of the whole batch.
What Khorus adds is marked [khorus].
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

import khorus.torch as hvd

# ---- configuration


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Learns to read handwritten digits.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64, help="images per step, of all ranks")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=0.05)
    parser.add_argument("--tensorboard", metavar="FOLDER", help="where to write the curves")
    c = parser.parse_args()
    if min(c.epochs, c.batch, c.seed) < 1:
        parser.error("--epochs, --batch and --seed are at least 1")
    return c


# ---- images

Images = tuple[Tensor, Tensor]  # pixels [images, 1, 8, 8] float32, 0 to 1; labels [images] int64


def read_images() -> tuple[Images, Images]:
    """To train on, and for the test."""
    digits = load_digits()
    pixels = torch.from_numpy(digits.images).float().unsqueeze(1) / 16
    labels = torch.from_numpy(digits.target).long()
    is_test = torch.arange(len(labels)) % 5 == 4
    return (pixels[~is_test], labels[~is_test]), (pixels[is_test], labels[is_test])


def share_of(count: int) -> slice:
    """[khorus] This rank's part of `count` things."""
    return slice(count * hvd.rank() // hvd.size(), count * (hvd.rank() + 1) // hvd.size())


# ---- model


class DigitNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for number, (inputs, outputs) in enumerate(((1, 16), (16, 32), (32, 64))):
            layers += [
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
                hvd.SyncBatchNorm(outputs),  # [khorus]
                nn.ReLU(),
            ]
            if number > 0:
                layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 2 * 2, 10))

    def forward(self, pixels: Tensor) -> Tensor:
        """pixels: [batch, 1, 8, 8]. Returns logits [batch, 10]."""
        logits: Tensor = self.layers(pixels)
        return logits


# ---- watching


def open_tensorboard(folder: str | None) -> Any:
    """A SummaryWriter on rank 0, if there is a folder; None elsewhere."""
    if folder is None or hvd.rank() != 0:
        return None
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            sys.exit("--tensorboard needs a package: pip install tensorboardX (or tensorboard)")
    return SummaryWriter(folder)


# ---- training


def train_epoch(
    model: nn.Module, optimizer: Any, images: Images, c: argparse.Namespace, epoch: int
) -> float:
    """Mean loss of the epoch over all ranks."""
    model.train()
    pixels, labels = images
    order = torch.randperm(
        len(labels), generator=torch.Generator().manual_seed(c.seed * 1000 + epoch)
    )
    total = torch.zeros(1, dtype=torch.float64)
    for of_all_ranks in torch.split(order, c.batch):
        chosen = of_all_ranks[share_of(len(of_all_ranks))]  # [khorus]
        optimizer.zero_grad()
        loss: Any = functional.cross_entropy(model(pixels[chosen]), labels[chosen], reduction="sum")
        # [khorus] The average over the ranks of this is the mean over the whole batch.
        (loss * hvd.size() / len(of_all_ranks)).backward()
        optimizer.step()
        total += loss.item()
    return hvd.allreduce(total, op=hvd.Sum, name="epoch_loss").item() / len(labels)  # [khorus]


@torch.no_grad()
def accuracy(model: nn.Module, images: Images) -> float:
    """The part of the images that is recognised; every rank looks at its share."""
    model.eval()  # SyncBatchNorm talks to nobody now
    mine = share_of(len(images[1]))  # [khorus]
    good = (model(images[0][mine]).argmax(1) == images[1][mine]).sum()
    return hvd.allreduce(good, op=hvd.Sum, name="accuracy").item() / len(images[1])  # [khorus]


def train(c: argparse.Namespace) -> None:
    train_images, test_images = read_images()
    torch.manual_seed(c.seed)
    model = DigitNet()
    hvd.broadcast_parameters(model.state_dict(), root_rank=0)  # [khorus]
    optimizer = hvd.DistributedOptimizer(  # [khorus]
        torch.optim.SGD(model.parameters(), lr=c.learning_rate, momentum=0.9, weight_decay=1e-4),
        model.named_parameters(),
    )
    board = open_tensorboard(c.tensorboard)
    for epoch in range(1, c.epochs + 1):
        loss = train_epoch(model, optimizer, train_images, c, epoch)
        test = accuracy(model, test_images)
        if board is not None:
            board.add_scalar("loss", loss, epoch)
            board.add_scalar("accuracy/test", test, epoch)
        if hvd.rank() == 0:
            print(
                f"epoch {epoch}/{c.epochs}  loss {loss:.4f}  test accuracy {100 * test:.2f}%",
                flush=True,
            )
    if board is not None:
        board.close()


def main() -> None:
    c = parse_flags()
    hvd.init()  # [khorus]
    train(c)
    hvd.shutdown()  # [khorus]


if __name__ == "__main__":
    main()

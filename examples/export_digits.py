"""Writes scikit-learn's handwritten digits for train_image: export_digits.py OUT.safetensors

Tensors (uint8): train.images and test.images [images, 8, 8] with values 0 to 16, train.labels and
test.labels [images]. Every fifth image is for the test.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from sklearn.datasets import load_digits


def export(path: Path) -> None:
    digits = load_digits()
    is_test = np.arange(len(digits.target)) % 5 == 4
    tensors = {}
    for part, chosen in (("train", ~is_test), ("test", is_test)):
        tensors[f"{part}.images"] = digits.images[chosen].astype(np.uint8)
        tensors[f"{part}.labels"] = digits.target[chosen].astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path)
    print(f"{path}: {np.sum(~is_test)} images to train on, {np.sum(is_test)} for the test")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: export_digits.py OUT.safetensors")
    export(Path(sys.argv[1]))

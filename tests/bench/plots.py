"""Draws what run.py has measured: PNG files beside its JSON."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any


def plot_sizes(pairs: list[dict[str, Any]], path: Path) -> None:
    """Time of an all-reduce by size, Khorus and torch's Gloo, with the range over the pairs."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    sizes = [row["bytes"] for row in pairs[0]["khorus"]]
    series = {
        "Khorus": [[p["khorus"][i]["time_us"]["p50"] for p in pairs] for i in range(len(sizes))],
        "torch Gloo": [[p["torch"][i]["p50_us"] for p in pairs] for i in range(len(sizes))],
    }
    for name, values in series.items():
        axes.plot(sizes, [statistics.median(v) for v in values], marker="o", label=name)
        axes.fill_between(sizes, [min(v) for v in values], [max(v) for v in values], alpha=0.2)
    axes.set(xscale="log", yscale="log", xlabel="bytes", ylabel="microseconds")
    axes.set_title("all-reduce of one float32 tensor, public C++ API")
    axes.grid(True, which="major", alpha=0.4)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def plot_training(results: dict[str, list[dict[str, float]]], path: Path) -> None:
    """Steps per second of the language model."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    names = {"khorus": "C++", "python_khorus": "Python", "ddp": "DDP", "alone": "no comm."}
    figure, panels = pyplot.subplots(1, len(results), figsize=(4 * len(results), 4), squeeze=False)
    for axes, (model, pairs) in zip(panels[0], results.items(), strict=True):
        for place, (key, label) in enumerate(names.items()):
            values = [pair[key] for pair in pairs]
            middle = statistics.median(values)
            whiskers = [[middle - min(values)], [max(values) - middle]]
            axes.bar(place, middle, yerr=whiskers, capsize=4, label=label)
        axes.set(title=model, ylabel="steps/s")
        axes.set_xticks(range(len(names)), list(names.values()), fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def draw(results: dict[str, Any], folder: Path) -> list[Path]:
    """The plots for what is in `results`; what is not there is not drawn."""
    drawn = []
    for key, name, plot in (
        ("allreduce", "allreduce.png", plot_sizes),
        ("lm", "training.png", plot_training),
    ):
        if key in results:
            plot(results[key], folder / name)
            drawn.append(folder / name)
    return drawn

"""Curves beside the plain loop that copies, prunes and evaluates: `sweep` and `sensitivity`, in turn.

The plain loop is what one writes oneself: `copy.deepcopy`, `torch.nn.utils.prune`, a DataLoader over a
TensorDataset, 500 images at once. "The same batches" is that loop without its DataLoader: over the
batches that `pv.Accuracy` runs, as tensors. Every line is the median of rounds that took turns, and its
accuracies are compared number by number.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader, TensorDataset

import pruneviz as pv
from pruneviz import lessons

POINTS = [i / 60 for i in range(60)]
LEVELS = [i / 10 for i in range(10)]
LAYERS = (nn.Linear, nn.Conv2d)

Run = Callable[[], list[float]]


def evaluated(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Return the accuracy of a model."""
    right = total = 0
    model.eval()
    with torch.no_grad():
        for x, y in batches:
            right += int((model(x).argmax(1) == y).sum())
            total += len(y)
    return right / total


def pruned(model: nn.Module, sparsity: float, layers: Iterable[str]) -> nn.Module:
    """Return a copy whose smallest weights in each of the layers are 0."""
    new = copy.deepcopy(model)
    for name in layers:
        layer = new.get_submodule(name)
        prune.l1_unstructured(layer, "weight", sparsity)
        prune.remove(layer, "weight")
    return new


def in_turn(runs: dict[str, Run], rounds: int) -> tuple[dict[str, float], dict[str, list[float]]]:
    """Return the median seconds of each run, and what each gave; a round of all before does not count."""
    took: dict[str, list[float]] = {name: [] for name in runs}
    gave: dict[str, list[float]] = {}
    for i in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            gave[name] = run()
            took[name].append(time.perf_counter() - start)
            print(f"  round {i + 1}, {name}: {took[name][-1]:.2f} s", flush=True)
    return {name: statistics.median(t) for name, t in took.items()}, gave


def table(title: str, runs: dict[str, Run], rounds: int, ours: str, same: Iterable[str]) -> None:
    """Print a table: seconds, how much faster `ours` is, whether the numbers are the same."""
    print(f"\n{title}")
    seconds, gave = in_turn(runs, rounds)
    print(f"\n**{title}**, median of {rounds} rounds in turn\n")
    print(f"| | seconds | against {ours} | accuracies |\n|---|---|---|---|")
    for name in runs:
        off = sum(a != b for a, b in zip(gave[name], gave[ours], strict=True))
        equal = (
            ("the same" if not off else f"{off} of {len(gave[ours])} differ")
            if name in same
            else ""
        )
        print(f"| {name} | {seconds[name]:.2f} | {seconds[name] / seconds[ours]:.2f} | {equal} |")


def curve(model: nn.Module, x: Tensor, y: Tensor, rounds: int, example: Tensor) -> None:
    """Measure a curve of 60 points."""
    layers = [n for n, m in model.named_modules() if isinstance(m, LAYERS)]
    loader = DataLoader(TensorDataset(x, y), batch_size=500)
    batches = [(x, y)]
    parts = pv.Accuracy(batches).laid_out(model)

    def plain(data: Any) -> Run:
        return lambda: [evaluated(pruned(model, s, layers), data) for s in POINTS]

    def swept(**options: Any) -> Run:
        def run() -> list[float]:
            judge = pv.Accuracy(batches, **options)
            frame = pv.sweep(model, example, criteria=["magnitude"], sparsities=POINTS,
                             evaluate=judge, progress=False)  # fmt: skip
            return frame["metric"].tolist()

        return run

    runs = {"plain loop": plain(loader), "plain loop, the same batches": plain(parts),
            "sweep": swept(), "sweep, examples=2000": swept(examples=2000)}  # fmt: skip
    table(f"60 points, {len(y):,} images", runs, rounds, "sweep", list(runs)[:3])
    frame = pv.sweep(model, example, criteria=["magnitude"], sparsities=[0.9], progress=False,
                     evaluate=pv.Accuracy(batches, examples=2000))  # fmt: skip
    row = frame.iloc[0]
    print(
        f"\nAt 0.9 by 2,000 images: {row.metric:.3f}, 95 % interval {row.low:.3f} to {row.high:.3f}"
    )


def layers_of(
    name: str, model: nn.Module, x: Tensor, y: Tensor, rounds: int, example: Tensor
) -> None:
    """Measure 10 sparsities a layer."""
    layers = [n for n, m in model.named_modules() if isinstance(m, LAYERS)]
    loader = DataLoader(TensorDataset(x, y), batch_size=500)
    batches = [(x, y)]
    parts = pv.Accuracy(batches).laid_out(model)

    def plain(data: Any) -> Run:
        return lambda: [evaluated(pruned(model, s, [n]), data) for n in layers for s in LEVELS]

    def ours() -> list[float]:
        frame = pv.sensitivity(model, example, sparsities=LEVELS, evaluate=pv.Accuracy(batches),
                               progress=False)  # fmt: skip
        return frame["metric"].tolist()

    runs = {"plain loop": plain(loader), "plain loop, the same batches": plain(parts),
            "sensitivity": ours}  # fmt: skip
    title = f"{name}: 10 sparsities for each of {len(layers)} layers, {len(y):,} images"
    table(title, runs, rounds, "sensitivity", runs)


def main() -> None:
    """Print three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("curve", "lenet-300-100", "batchnorm-cnn"))
    options = parser.parse_args()
    test = lessons.fashion_mnist().test[: options.images]
    x, y = test.x, test.labels
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    lenet = lessons.load("lenet-300-100").eval()
    pv.sensitivity(lenet, x[:1], sparsities=[0.5], evaluate=pv.Accuracy([(x[:100], y[:100])]),
                   progress=False)  # fmt: skip
    if options.only in (None, "curve"):
        curve(lenet, x, y, options.rounds, x[:1])
    if options.only in (None, "lenet-300-100"):
        layers_of("lenet-300-100", lenet, x, y, options.rounds, x[:1])
    if options.only in (None, "batchnorm-cnn"):
        cnn = lessons.load("batchnorm-cnn").eval()
        part = slice(0, options.images // 5)  # or the plain loop would take minutes a round
        layers_of("batchnorm-cnn", cnn, x[part], y[part], options.rounds, x[:1])


if __name__ == "__main__":
    main()

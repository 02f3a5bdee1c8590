"""Single weights without training: masks as they are, re-fitted on dense moments, layer by layer, in rounds."""

from __future__ import annotations

import platform
import time
from typing import Any

import torch
from torch import Tensor, nn

import pruneviz as pv
from pruneviz import lessons
from pruneviz.model.layout import fast_batches

SPARSITIES = (0.9, 0.95, 0.98)
ROUNDS = (0.5, 0.75, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98)  # each ranks what the last one re-fitted
IMAGES = 5000
SEEDS = 3


def in_rounds(model: nn.Module, criterion: str, images: list[Tensor], test: Any) -> list[float]:
    """Rank, mask and re-fit, again and again; the accuracies on the way. Nothing is trained."""
    found = {}
    for sparsity in ROUNDS:
        plan = pv.select(pv.score(model, criterion), sparsity=sparsity, scope="global")
        model = pv.mask(model, plan, repair="lstsq", batches=images)
        found[sparsity] = pv.accuracy(model, test)
    return [found[s] for s in SPARSITIES]


def main() -> None:
    """Print one table for each network."""
    data = lessons.fashion_mnist()
    test = fast_batches(list(data.test.batches(1000)))
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(
        f"| {IMAGES:,} images, {SEEDS} seeds | "
        + " | ".join(f"{s:g}" for s in SPARSITIES)
        + " | seconds |"
    )
    print("|---|" + "---|" * (len(SPARSITIES) + 1))
    for name in ("lenet-300-100", "batchnorm-cnn"):
        model = lessons.load(name)
        for criterion in ("magnitude", "lamp"):
            scores = pv.score(model, criterion)
            plans = [pv.select(scores, sparsity=s, scope="global") for s in SPARSITIES]
            plain = [pv.accuracy(pv.mask(model, p), test) for p in plans]
            print(
                f"| {name}, {criterion}, no repair | "
                + " | ".join(f"{a:.3f}" for a in plain)
                + " | |"
            )
            for way in ("dense moments", "layer by layer", "in rounds"):
                rows, took = [], []
                for seed in range(SEEDS):
                    order = torch.randperm(
                        len(data.train), generator=torch.Generator().manual_seed(seed)
                    )
                    images = [
                        b for b, _ in fast_batches(list(data.train[order[:IMAGES]].batches(100)))
                    ]
                    dense = way == "dense moments"
                    evidence = pv.collect(model, images, progress=False) if dense else None
                    row = []
                    if way == "in rounds":
                        start = time.perf_counter()
                        row = in_rounds(model, criterion, images, test)
                        took.append(time.perf_counter() - start)
                        rows.append(row)
                        continue
                    for plan in plans:
                        start = time.perf_counter()
                        new = pv.mask(model, plan, repair="lstsq", evidence=evidence,
                                      batches=None if dense else images)  # fmt: skip
                        took.append(time.perf_counter() - start)
                        row.append(pv.accuracy(new, test))
                    rows.append(row)
                mean = [sum(c) / len(c) for c in zip(*rows, strict=True)]
                cells = " | ".join(f"{a:.3f}" for a in mean)
                seconds = sorted(took)[len(took) // 2]
                print(
                    f"| {name}, {criterion}, least squares, {way} | {cells} | {seconds:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

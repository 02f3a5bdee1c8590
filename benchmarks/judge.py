"""Curves over seeds, and the clock beside the MACs: what lesson 08 reads. `--record` stores them.

Five small networks, trained with five seeds for a few epochs; each loses neurons by three methods
and nothing is trained afterwards. Accuracy on the 10,000 test images; milliseconds: the fastest
forward of 100 images, one thread, all networks of a seed in turn.
"""

from __future__ import annotations

import argparse
import os
import time
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from record import record
from torch import nn

import pruneviz as pv
from pruneviz import lessons
from pruneviz.lessons.train import train
from pruneviz.metrics.latency import calls_of, time_in_turn
from pruneviz.model.layout import fast_batches

SPARSITIES = (0.0, 0.25, 0.5, 0.65, 0.75, 0.85, 0.9)
METHODS = (("l2", "none"), ("random", "lstsq"), ("obs", "lstsq"))
NETWORK, IMAGES = "lenet-300-100", 2000


def curves(seeds: int, epochs: int) -> pd.DataFrame:
    """Return a row for each seed, method and sparsity."""
    data = lessons.fashion_mnist()
    test = fast_batches(list(data.test.batches(1000)))
    x = torch.cat([b for b, _ in data.test[:100].batches(100)])
    rows: list[dict[str, Any]] = []
    for seed in range(seeds):
        model, _ = train(NETWORK, data, seed=seed, epochs=epochs, progress=False)
        images = [b for b, _ in data.train[:IMAGES].batches(100)]
        evidence = pv.collect(model, images, loss=F.cross_entropy, seed=seed, progress=False)
        groups = pv.find_groups(model, x[:2])
        models: list[nn.Module] = []
        for criterion, repair in METHODS:
            scores = pv.score(model, criterion, groups=groups, evidence=evidence, seed=seed)
            for target in SPARSITIES:
                plan = pv.select(scores, sparsity=target)
                small = pv.shrink(
                    model, plan, example_input=x[:2], repair=repair,
                    evidence=evidence if repair != "none" else None,
                    batches=images if repair != "none" else None,
                )  # fmt: skip
                models.append(small)
                cost = pv.measure(small, x[:1])
                rows.append({
                    "network": NETWORK, "criterion": criterion, "repair": repair, "seed": seed,
                    "target_sparsity": target, "sparsity": plan.sparsity,
                    "metric": pv.accuracy(small, test), "params": cost.params,
                    "nonzero": cost.nonzero, "bytes": cost.bytes, "macs": cost.macs,
                })  # fmt: skip
        for row, ms in zip(rows[-len(models) :], fastest(models, x, seconds=4), strict=True):
            row["latency_ms"] = ms
    return pd.DataFrame(rows)


def fastest(models: list, x: torch.Tensor, seconds: float) -> list[float]:
    """Return the milliseconds of the fastest forward of each model; the models take turns."""
    with calls_of(models, x) as calls:
        return time_in_turn(calls, seconds=seconds).min(0).tolist()


def clock() -> pd.DataFrame:
    """Return what halving the channels of the CNN gives: MACs, and the clock at two batch sizes."""
    model = lessons.load("batchnorm-cnn")
    data = lessons.fashion_mnist()
    images = torch.cat([b for b, _ in data.test[:100].batches(100)])
    small = pv.prune(model, images[:2], sparsity=0.5)
    macs = [pv.measure(m, images[:1]).macs for m in (model, small)]
    rows = []
    for batch in (1, 100):
        before, after = fastest([model, small], images[:batch], seconds=6)
        rows.append({
            "network": "batchnorm-cnn", "batch": batch, "macs_before": macs[0],
            "macs_after": macs[1], "speedup": macs[0] / macs[1], "ms_before": before,
            "ms_after": after, "latency_speedup": before / after,
        })  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    """Print both tables; with `--record` store them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--clock", action="store_true", help="the clock of the CNN only")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start, busy = time.perf_counter(), os.getloadavg()[0]
    tables = {"clock": clock()}
    if not options.clock:
        tables["tradeoff"] = curves(options.seeds, options.epochs)
    for name, frame in tables.items():
        print(frame.to_string(float_format="%.4g"), "\n")
        if options.record:
            what = f"--record --seeds {options.seeds} --epochs {options.epochs}"
            record(
                name, frame, "--record --clock" if name == "clock" else what,
                seconds=round(time.perf_counter() - start), load_before=round(busy, 2),
                latency_ms="the fastest forward, networks in turn",
            )  # fmt: skip


if __name__ == "__main__":
    main()

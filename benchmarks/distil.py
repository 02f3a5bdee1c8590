"""The rung above least squares: a pruned network learns the whole network's answers, without a label.

    python benchmarks/distil.py units lenet-300-100 --images 20000    tables over the share of MACs
    python benchmarks/distil.py weights                               single weights, one mask
    python benchmarks/distil.py han                                   twelve times fewer weights
    python benchmarks/distil.py tasks unet mlp waves nanogpt minilm   other tasks, see tasks.py
    python benchmarks/distil.py tried                                 what is not in, and why
    python benchmarks/distil.py curve --out data/curves               distil.csv: accuracy by steps

Three seeds: each draws its own images from the training set, without their labels. torch-pruning's
choice of units stands beside ours at the same MACs, as it is and with the same distillation after it.
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from han import TWELVE, started
from record import record
from repair import SHARES, area, theirs
from tasks import TASKS, Task
from torch import Tensor, nn
from weights import ROUNDS

import pruneviz as pv
from pruneviz import lessons
from pruneviz.model.layout import fast_batches
from pruneviz.pruning.repair.distil import distil

UNITS = ("lenet-300-100", "batchnorm-cnn", "residual-net", "image-transformer")
RIVAL = "torch-pruning, GroupMagnitude"
SPARSITIES = (0.95, 0.98)
STEPS = (50, 100, 200, 400, 800, 1600)
HOW = pv.Distillation(progress=False)
SHARE = 0.1  # of the MACs, for the curve by steps


def images_of(data: Any, seed: int, n: int) -> list[Tensor]:
    """Return batches of training images, drawn by a seed, without labels."""
    order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
    return [b for b, _ in fast_batches(list(data.train[order[:n]].batches(100)))]


def lines(
    model: nn.Module, images: list[Tensor], seed: int
) -> Iterator[tuple[str, Callable[[float], nn.Module]]]:
    """Yield what removes down to a share of the MACs."""
    x = images[0][:2]
    session = pv.Session(model, x, batches=images, seed=seed)
    for name, repair in (("least squares", "lstsq"), ("distillation", HOW)):
        yield (
            f"second-order, then {name}",
            lambda share, r=repair: pv.prune(model, x, macs=share, session=session, repair=r),
        )
    rival = dict(theirs(model, x, images, seed))[RIVAL]
    yield RIVAL, rival

    def distilled(share: float) -> nn.Module:
        new = rival(share).eval()
        distil(model, new, images, HOW)
        return new

    yield f"{RIVAL}, then the same distillation", distilled


def units(
    names: list[str], seeds: int, n: int, data: Any, test: Any, shares: tuple[float, ...]
) -> None:
    """Print one table for each network: accuracy over the share of MACs."""
    for name in names:
        model = lessons.load(name).eval()
        dense = pv.accuracy(model, test)
        # of the transformer only heads and feed-forward units can go: 16 % stay
        kept = (*shares[:-2], 0.17) if name == "image-transformer" else shares
        rows: dict[str, list[list[float]]] = {}
        took: dict[str, list[float]] = {}
        for seed in range(seeds):
            for line, removed in lines(model, images_of(data, seed, n), seed):
                curve = []
                for share in kept:
                    start = time.process_time()
                    curve.append(pv.accuracy(removed(share), test))
                    took.setdefault(line, []).append(time.process_time() - start)
                rows.setdefault(line, []).append(curve)
        print(f"\n**{name}**, {dense:.3f} dense, {seeds} seeds, {n:,} images\n")
        heads = " | ".join(f"{100 * s:.0f} %" for s in kept)
        print(f"| accuracy at share of MACs kept | {heads} | area | CPU s |")
        print("|---|" + "---|" * (len(kept) + 2))
        for line, curves in rows.items():
            mean = [sum(c) / len(c) for c in zip(*curves, strict=True)]
            cells = " | ".join(f"{v:.3f}" for v in mean)
            seconds = sorted(took[line])
            between = f"{seconds[len(seconds) // 2]:.1f} (most {seconds[-1]:.1f})"
            print(f"| {line} | {cells} | {area(dense, mean, kept):.3f} | {between} |", flush=True)


def weights(names: list[str], seeds: int, n: int, data: Any, test: Any) -> None:
    """Print what single weights lose, with least squares and with distillation after it."""
    print(f"\n| single weights, LAMP, {seeds} seeds, {n:,} images | "
          + " | ".join(f"{s:g}" for s in SPARSITIES) + " | CPU s |")  # fmt: skip
    print("|---|" + "---|" * (len(SPARSITIES) + 1))
    for name in names:
        model = lessons.load(name).eval()
        scores = pv.score(model, "lamp")
        for what, repair in (("least squares", "lstsq"), ("distillation", HOW)):
            rows, took = [], []
            for seed in range(seeds):
                images = images_of(data, seed, n)
                row = []
                for s in SPARSITIES:
                    plan = pv.select(scores, sparsity=s)
                    start = time.process_time()
                    new = pv.mask(model, plan, repair=repair, batches=images)
                    took.append(time.process_time() - start)
                    row.append(pv.accuracy(new, test))
                rows.append(row)
            mean = [sum(c) / len(c) for c in zip(*rows, strict=True)]
            cells = " | ".join(f"{a:.3f}" for a in mean)
            print(f"| {name}, {what} | {cells} | {sorted(took)[len(took) // 2]:.1f} |", flush=True)
        rows, took = [], []
        for seed in range(seeds):
            start = time.process_time()
            rows.append(in_rounds(model, images_of(data, seed, n), test))
            took.append(time.process_time() - start)
        cells = " | ".join(f"{sum(c) / len(c):.3f}" for c in zip(*rows, strict=True))
        print(f"| {name}, distillation in {len(ROUNDS)} rounds | {cells} | {sorted(took)[len(took) // 2]:.1f} |",
              flush=True)  # fmt: skip


def in_rounds(model: nn.Module, images: list[Tensor], test: Any) -> list[float]:
    """Mask more and more weights, each time with a distillation; the accuracies on the way."""
    result = pv.prune_iteratively(
        model, images, schedule=ROUNDS, criterion="lamp", repair=HOW, tune=lambda m: m,
        evaluate=lambda m: pv.accuracy(m, test), progress=False,
    )  # fmt: skip
    found = dict(zip(ROUNDS, result.frame["metric"][1:], strict=True))
    return [found[s] for s in SPARSITIES]


def han(names: list[str], seeds: int, n: int, data: Any, test: Any, folder: Path) -> None:
    """Print what twelve times fewer weights lose, without a label: six rounds."""
    print(
        f"\n| twelve times fewer weights, {n:,} images, no labels | dense | pruned | points lost |"
    )
    print("|---|---|---|---|")
    for name in names:
        rows = []
        for seed in range(seeds):
            model = started(name, seed, data, folder)
            result = pv.prune_iteratively(
                model, images_of(data, seed, n), sparsity=TWELVE, schedule="geometric", rounds=6,
                criterion="lamp", repair=HOW, tune=lambda m: m, progress=False,
            )  # fmt: skip
            rows.append((pv.accuracy(model, test), pv.accuracy(result.model, test)))
            print(f"{name}, seed {seed}: {rows[-1]}", flush=True)
        dense, pruned = (sum(c) / len(c) for c in zip(*rows, strict=True))
        print(f"| {name}, mean of {seeds} seeds | {dense:.4f} | {pruned:.4f} | "
              f"{100 * (dense - pruned):+.2f} |", flush=True)  # fmt: skip


def curve(names: list[str], seeds: int, n: int, data: Any, test: Any, out: str | None) -> None:
    """Print, and keep, the accuracy by the number of gradient steps."""
    rows = []
    for name in names:
        model = lessons.load(name).eval()
        for seed in range(seeds):
            images = images_of(data, seed, n)
            start = time.process_time()
            fitted = pv.prune(model, images[0][:2], macs=SHARE, batches=images, seed=seed)
            before = time.process_time() - start
            for steps in (0, *STEPS):
                new = copy.deepcopy(fitted)
                start = time.process_time()
                if steps:
                    distil(
                        model, new, images, pv.Distillation(steps=steps, seed=seed, progress=False)
                    )
                row = {"network": name, "seed": seed, "steps": steps,
                       "seconds_before": before,
                       "seconds": time.process_time() - start, "metric": pv.accuracy(new, test)}  # fmt: skip
                rows.append(row)
                print(row, flush=True)
    if out is not None:
        record(
            "distil", pd.DataFrame(rows), "curve --out data/curves", folder=Path(out),
            data="fashion-mnist", judged_on="10,000 test images", criterion="obs", macs=SHARE,
            images=n, seeds=seeds,
            seconds_are="of the processor: of the steps with the trials of the learning rate; before: of "
            "the choice of units and least squares",
        )  # fmt: skip


def tasks(names: list[str], seeds: int, seconds: float) -> None:
    """Print what distillation adds to the table of `tasks.py`, with at most so many seconds of steps."""
    heads = "dense | no repair | least squares | distillation | CPU s"
    print(f"\n| network | metric | MACs kept | {heads} |\n|---|---|---|---|---|---|---|---|")
    how = ("none", "lstsq", pv.Distillation(seconds=seconds, progress=False))
    for name in names:
        limit, found = TASKS[name], []
        for seed in range(seeds):
            task = limit.make(seed)
            session = pv.Session(task.model, task.example, batches=task.batches, **task.options)
            row = [task.judge(task.model)]
            for repair in how:
                start = time.process_time()
                new = pv.prune(
                    task.model, task.example, macs=limit.macs, session=session, repair=repair
                )
                took = time.process_time() - start
                row.append(task.judge(new))
                if name == "minilm":
                    print(f"{repair}: mean cosine {_cosine(task, new):.4f}, overlap {row[-1]:.3f}")
            found.append((*row, took))
        cells = [sum(c) / len(c) for c in zip(*found, strict=True)]
        figures = " | ".join(f"{c:.3f}" for c in cells[:-1])
        print(
            f"| {name} | {limit.metric} | {100 * limit.macs:.0f} % | {figures} | {cells[-1]:.0f} |",
            flush=True,
        )


def _cosine(task: Task, new: nn.Module) -> float:
    """Mean cosine between the sentences of two encoders, whose lengths are 1."""
    with pv.evaluating(task.model), pv.evaluating(new):
        pairs = [(task.model(**b) * new(**b)).sum(1) for b in task.judged]
    return float(torch.cat(pairs).mean())


def tried(seed: int, n: int, data: Any, test: Any) -> None:
    """Print what was tried and is not in: parts of the mismatch, and batch norms measured anew."""

    def error(now: Tensor, whole: Tensor) -> Tensor:
        return ((now - whole) ** 2 / whole.var(0)).mean()

    def divergence(now: Tensor, whole: Tensor) -> Tensor:
        logs = now.log_softmax(1), whole.log_softmax(1)
        return F.kl_div(*logs, log_target=True, reduction="batchmean")

    for name in UNITS[:3]:
        model, images = lessons.load(name).eval(), images_of(data, seed, n)
        session = pv.Session(model, images[0][:2], batches=images, seed=seed)
        for share in (0.35, SHARE):
            fitted = pv.prune(model, images[0][:2], macs=share, session=session)
            found = {"least squares": fitted}
            if name != "lenet-300-100":
                found["then batch norms measured anew"] = pv.recalibrate(fitted, images)
            else:
                for line, match in (("both", None), ("divergence", divergence), ("error", error)):
                    found[line] = copy.deepcopy(fitted)
                    how = pv.Distillation(match=match, progress=False)
                    distil(model, found[line], images, how)
            said = ", ".join(f"{k} {pv.accuracy(m, test):.3f}" for k, m in found.items())
            print(f"{name} at {share:g}, seed {seed}: {said}", flush=True)


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("units", "weights", "han", "curve", "tasks", "tried"))
    parser.add_argument("names", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--folder", default="/tmp/pruneviz-networks")
    parser.add_argument("--out")
    parser.add_argument("--shares", type=float, nargs="*", default=list(SHARES))
    parser.add_argument("--seconds", type=float, default=60, help="for tasks")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.what == "tasks":
        print(
            f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}"
        )
        tasks(
            options.names or ["unet", "mlp", "waves", "nanogpt", "minilm"],
            options.seeds,
            options.seconds,
        )
        return
    data = lessons.fashion_mnist()
    test = fast_batches(list(data.test.batches(1000)))
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    how = (options.seeds, options.images, data, test)
    if options.what == "units":
        units(options.names or list(UNITS), *how, tuple(options.shares))
    elif options.what == "weights":
        weights(options.names or ["lenet-300-100", "batchnorm-cnn"], *how)
    elif options.what == "han":
        Path(options.folder).mkdir(parents=True, exist_ok=True)
        han(options.names or ["lenet-300-100", "lenet-5"], *how, Path(options.folder))
    elif options.what == "tried":
        tried(0, options.images, data, test)
    else:
        curve(options.names or list(UNITS[:3]), *how, options.out)


if __name__ == "__main__":
    main()

"""Removal without training: accuracy over the share of MACs kept, beside torch-pruning's importances.

Every line removes units for real, at the same shares of MACs, from the stored networks on
Fashion-MNIST; nothing is trained. Three seeds: each draws its own images, without labels, from the
training set, and its own random numbers. Seconds are those of one removal and its repair.
"""

from __future__ import annotations

import argparse
import copy
import platform
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pruneviz as pv
from pruneviz import lessons
from pruneviz.model.layout import fast_batches
from pruneviz.pruning.shrink import Shrinker

SHARES = (0.75, 0.5, 0.35, 0.25, 0.15, 0.1)
NAMES = ("lenet-300-100", "batchnorm-cnn", "residual-net", "image-transformer")
IMAGES = 5000
STEPS = 10  # of the search for a share of MACs


def ours(
    model: nn.Module, x: Tensor, images: list[Tensor], seed: int
) -> Iterator[tuple[str, Callable[[float], nn.Module]]]:
    """Yield our lines: a name, and what removes down to a share of MACs."""
    groups = pv.find_groups(model, x)
    start = time.perf_counter()
    evidence = pv.collect(model, images, loss=F.cross_entropy, seed=seed, progress=False)
    collected = time.perf_counter() - start
    start = time.perf_counter()
    second = pv.score(model, "obs", groups=groups, evidence=evidence)
    print(f"collect {collected:.1f} s, second-order choice {time.perf_counter() - start:.1f} s")
    shrinker = Shrinker(model, x)
    scores = {
        "second-order": second,
        "L2 norm": pv.score(model, "l2", groups=groups),
        "random": pv.score(model, "random", groups=groups, seed=seed),
    }

    def line(name: str, rung: str, batches: Any) -> Callable[[float], nn.Module]:
        def removed(share: float) -> nn.Module:
            plan = at_share(
                lambda s: shrinker.quick(pv.select(scores[name], sparsity=s)),
                lambda s: pv.select(scores[name], sparsity=s), model, x, share,
            )  # fmt: skip
            new = shrinker.quick(plan)
            if rung != "none":
                shrinker.repair(new, plan, rung, evidence, batches)
            return new

        return removed

    yield "L2 norm", line("L2 norm", "none", None)
    yield "random, then least squares", line("random", "lstsq", images)
    yield "L2 norm, merged into twins", line("L2 norm", "merge", None)
    yield "L2 norm, then least squares", line("L2 norm", "lstsq", images)
    yield "second-order, then least squares", line("second-order", "lstsq", images)


def theirs(
    model: nn.Module, x: Tensor, images: list[Tensor], seed: int
) -> Iterator[tuple[str, Callable[[float], nn.Module]]]:
    """Yield torch-pruning's lines: its importances, ranked over all layers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch_pruning as tp

    heads = {"q": 4, "k": 4, "v": 4}
    last = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
    labels = [pv.predict(model, b) for b in images[:10]]
    for name in ("LAMP", "Magnitude", "GroupMagnitude", "FPGM", "Taylor"):

        def pruned(ratio: float, name: str = name) -> nn.Module:
            torch.manual_seed(seed)
            new = copy.deepcopy(model)
            count = {m: heads[n.rpartition(".")[2]] for n, m in new.named_modules()
                     if n.rpartition(".")[2] in heads}  # fmt: skip
            if name == "Taylor":
                for b, y in zip(images[:10], labels, strict=True):
                    F.cross_entropy(new(b), y).backward()
            kept = dict(new.named_modules())[next(n for n, m in model.named_modules() if m is last)]
            importance = getattr(tp.importance, f"{name}Importance")()
            pruner = tp.pruner.BasePruner(
                new, x, importance, global_pruning=True, pruning_ratio=ratio, ignored_layers=[kept],
                num_heads=count, prune_num_heads=bool(count), head_pruning_ratio=ratio,
            )  # fmt: skip
            pruner.step()
            for block in new.modules():
                if hasattr(block, "heads") and count:
                    block.heads = pruner.num_heads[block.q]
            new(x)
            return new

        yield f"torch-pruning, {name}", lambda share, p=pruned: at_share(p, p, model, x, share)


def at_share(
    make: Callable[[float], nn.Module], take: Callable[[float], Any], model: nn.Module, x: Tensor, share: float
) -> Any:  # fmt: skip
    """Search the smallest sparsity that leaves at most a share of the MACs; return what `take` makes."""
    most = share * pv.measure(model, x).macs
    low, high = 0.0, 1 - 2**-STEPS
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if pv.measure(make(middle), x).macs <= most else (middle, high)
    return take(high)


def area(dense: float, curve: list[float], shares: tuple[float, ...] = SHARES) -> float:
    """Area under accuracy over the share of MACs kept, from 1 down to the last, divided by its width."""
    x, y = (1.0, *shares), (dense, *curve)
    parts = [(x[i] - x[i + 1]) * (y[i] + y[i + 1]) / 2 for i in range(len(shares))]
    return sum(parts) / (x[0] - x[-1])


def main() -> None:
    """Print one table for each network."""
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*", default=NAMES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=IMAGES)
    options = parser.parse_args()
    data = lessons.fashion_mnist()
    test = fast_batches(list(data.test.batches(1000)))
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    for name in options.names:
        model = lessons.load(name).eval()
        dense = pv.accuracy(model, test)
        rows: dict[str, list[list[float]]] = {}
        took: dict[str, list[float]] = {}
        for seed in range(options.seeds):
            order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))
            images = [
                b for b, _ in fast_batches(list(data.train[order[: options.images]].batches(100)))
            ]
            x = images[0][:2]
            for lines in (ours, theirs):
                for line, removed in lines(model, x, images, seed):
                    curve = []
                    for share in SHARES:
                        start = time.perf_counter()
                        try:
                            new = removed(share)
                            took.setdefault(line, []).append(time.perf_counter() - start)
                            curve.append(pv.accuracy(new, test))
                        except Exception as e:  # torch-pruning's broken models raise anything
                            print(f"{line} at {share}: {type(e).__name__}: {str(e)[:90]}")
                            break
                    if len(curve) == len(SHARES):
                        rows.setdefault(line, []).append(curve)
        print(
            f"\n**{name}**, {dense:.3f} dense, {options.seeds} seeds, {options.images:,} images\n"
        )
        heads = " | ".join(f"{100 * s:.0f} %" for s in SHARES)
        print(f"| accuracy at share of MACs kept | {heads} | area | seconds |")
        print("|---|" + "---|" * (len(SHARES) + 2))
        for line, curves in rows.items():
            mean = [sum(c) / len(c) for c in zip(*curves, strict=True)]
            cells = " | ".join(f"{v:.3f}" for v in mean)
            seconds = sorted(took[line])[len(took[line]) // 2]
            print(f"| {line} | {cells} | {area(dense, mean):.3f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()

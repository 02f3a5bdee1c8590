"""Nine prunings of one network, with and without a session: what is prepared once. Ratios in one run."""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

import pruneviz as pv
from pruneviz import lessons

BUDGETS = (0.75, 0.5, 0.25)
RECIPES: tuple[dict[str, Any], ...] = (
    {"criterion": "l2", "repair": "lstsq"},
    {"criterion": "obs", "repair": "lstsq"},
    {"criterion": "wanda", "repair": "merge"},
)


def seconds(run: Callable[[], object]) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def row(name: str, images: list[torch.Tensor]) -> str:
    """Return the row of one network."""
    model, x = lessons.load(name), images[0]
    jobs = [{"macs": macs, **how} for macs in BUDGETS for how in RECIPES]
    pv.prune(model, x, macs=0.5)  # what torch does once only
    one = max(seconds(partial(pv.prune, model, x, macs=0.5, batches=images, **how))
              for how in RECIPES)  # fmt: skip
    session = pv.Session(model, x, batches=images)
    nine = sum(seconds(partial(pv.prune, model, x, session=session, **job)) for job in jobs)
    alone = sum(seconds(partial(pv.prune, model, x, batches=images, **job)) for job in jobs)
    repairs = 0.0
    for job in jobs:
        plan = pv.select(session.scores(job["criterion"]), sparsity=1 - job["macs"])
        small, rung = session.shrinker.compared(plan), job["repair"]
        evidence, data = session.evidence_for(repairs=[rung]), session.batches
        repairs += seconds(partial(session.shrinker.repair, small, plan, rung, evidence, data))
    ratio = nine / (one + repairs)
    return f"| {name} | {one:.2f} | {repairs:.2f} | {nine:.2f} | {alone:.2f} | {ratio:.2f} |"


def main() -> None:
    """Print one row for each network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=["lenet-300-100", "batchnorm-cnn"])
    images = [x for x, _ in lessons.fashion_mnist().train[:1000].batches(100)]
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(
        "| s | one | nine repairs | nine with a session | nine without | with ÷ (one + repairs) |"
    )
    print("|---|---|---|---|---|---|")
    for name in parser.parse_args().names:
        print(row(name, images))


if __name__ == "__main__":
    main()

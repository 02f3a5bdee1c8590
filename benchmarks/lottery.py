"""Lottery tickets: LeNet-300-100 pruned in rounds and rewound, beside both controls, over seeds.

Each seed draws its own start. The start is trained; then in every round the trained network is
pruned, what is left goes back to the start, and is trained again in the same way (the *ticket*). The
controls are trained in the same way too: the same mask over new random weights, and a random mask with
as many weights in each layer over the same start. *Late*: rounds of their own that go back not to the
start but to the weights after one epoch. Accuracy on the 10,000 test images.

`python benchmarks/lottery.py --out data/curves` writes lottery.csv and lottery.json.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from record import record
from torch import nn

import pruneviz as pv
from pruneviz import lessons
from pruneviz.model.hooks import seeded

NAME, CRITERION = "lenet-300-100", "lamp"
SPARSITY, ROUNDS = 0.98, 6
EPOCHS, LR, BATCH = 3, 1.2e-3, 100


def rows(seed: int, data: lessons.Dataset, judge: Callable[[nn.Module], float]) -> pd.DataFrame:
    """Return one row for each network that was trained."""
    with seeded(seed):
        start = lessons.build(NAME)
    batches = data.train.batches(BATCH, shuffle=True)
    train = partial(pv.fit, batches=batches, epochs=EPOCHS, lr=LR, seed=seed, progress=False)
    early = pv.fit(start, batches, epochs=1, lr=LR, seed=seed, progress=False)
    dense = train(start)
    found: list[dict[str, Any]] = [_row(seed, "dense", 0, 0.0, judge(dense))]
    for name, back in (("ticket", start), ("late", early)):
        result = pv.prune_iteratively(
            dense, None, sparsity=SPARSITY, rounds=ROUNDS, criterion=CRITERION, rewind=back,
            tune=train, evaluate=judge, progress=False,
        )  # fmt: skip
        for row in result.frame[1:].itertuples():
            found.append(_row(seed, name, row.round, row.sparsity, row.metric))
        if name == "ticket":
            for i, plan in enumerate(result.plans, 1):
                for control in ("random-weights", "random-mask"):
                    new = train(pv.lottery_ticket(start, plan, control=control, seed=seed))
                    found.append(_row(seed, control, i, plan.sparsity, judge(new)))
        print(pd.DataFrame(found).round(4).tail(2 * ROUNDS).to_string(), flush=True)
    return pd.DataFrame(found)


def _row(seed: int, name: str, i: int, sparsity: float, metric: float) -> dict[str, Any]:
    return {"seed": seed, "start": name, "round": i, "sparsity": sparsity, "metric": metric}


def main() -> None:
    """Print one table; with --out keep it, too."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    data = lessons.fashion_mnist()
    judge = partial(pv.accuracy, batches=list(data.test.batches(500)))
    start = time.perf_counter()
    frame = pd.concat([rows(seed, data, judge) for seed in range(options.seeds)])
    took = time.perf_counter() - start
    if options.out:
        notes = {
            "network": NAME, "data": data.name, "judged_on": "10,000 test images",
            "criterion": CRITERION, "seeds": options.seeds, "epochs": EPOCHS, "lr": LR,
            "batch_size": BATCH, "seconds": round(took),
        }  # fmt: skip
        what = f"--seeds {options.seeds} --out data/curves"
        record("lottery", frame.round(4), what, folder=options.out, **notes)
    means = frame.groupby(["start", "round"])["metric"]
    table = pd.DataFrame({"mean": means.mean(), "low": means.min(), "high": means.max()})
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{options.seeds} seeds, {took:.0f} s\n")
    sparsity = frame.groupby("round")["sparsity"].first()
    for i, s in sparsity.items():
        cells = {n: table.loc[n, i] for n in frame["start"].unique() if (n, i) in table.index}
        text = ", ".join(f"{n} {c['mean']:.4f} ({c.low:.4f} to {c.high:.4f})" for n, c in cells.items())  # fmt: skip
        print(f"| {s:.3f} | {text} |")


if __name__ == "__main__":
    main()

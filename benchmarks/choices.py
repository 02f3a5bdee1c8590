"""Half of the neurons of each layer at once, chosen in many ways: what lesson 06 reads.

LeNet-300-100 as stored, nothing is trained. Seven sets of training images: a criterion and the
repair see 1,000 of them, the loss without each neuron is measured on 2,000 others; by lot with 20
seeds. Accuracy on the 10,000 validation images.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from record import record

import pruneviz as pv
from pruneviz import lessons
from pruneviz.core.plan import Scores
from pruneviz.model.layout import fast_batches

SETS, LOTS = 7, 20
CRITERIA = ("l2", "obs", "fisher", "taylor")


def choices() -> pd.DataFrame:
    """Return a row for each choice, with and without repair by least squares."""
    data = lessons.fashion_mnist()
    model = lessons.load("lenet-300-100")
    x = data.train[:2].x
    jury = fast_batches(list(data.validation.batches(500)))
    groups = pv.find_groups(model, x)
    rows: list[dict[str, Any]] = []

    def judge(name: str, draw: int, scores: Scores, evidence: pv.Evidence) -> None:
        plan = pv.select(scores, sparsity=0.5, scope="layer")
        for repair, seen in (("none", None), ("lstsq", evidence)):
            small = pv.shrink(model, plan, example_input=x, repair=repair, evidence=seen)
            metric = pv.accuracy(small, jury)
            rows.append({"criterion": name, "draw": draw, "repair": repair, "metric": metric})

    for draw in range(SETS):
        start = 7000 * draw  # the first set is the lesson's
        learn = data.train[start : start + 1000].batches(500)
        measured = data.train[start + 5000 : start + 7000].batches(500)
        evidence = pv.collect(model, learn, loss=F.cross_entropy, progress=False)
        for name in CRITERIA:
            judge(name, draw, pv.score(model, name, groups=groups, evidence=evidence), evidence)
        truth = pv.ablate(model, measured, groups=groups, progress=False)
        judge("ablation", draw, truth, evidence)
        if not draw:
            for seed in range(LOTS):
                lot = pv.score(model, "random", groups=groups, seed=seed)
                judge("random", seed, lot, evidence)
    return pd.DataFrame(rows)


def main() -> None:
    """Print the ranges; with `--record` store the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    start = time.perf_counter()
    frame = choices()
    by = frame.groupby(["repair", "criterion"])["metric"]
    print(by.agg(["min", "mean", "max"]).to_string(float_format="%.3f"))
    if options.record:
        record("choices", frame, "--record", seconds=round(time.perf_counter() - start))


if __name__ == "__main__":
    main()

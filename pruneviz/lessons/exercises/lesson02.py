"""Which exercises lesson 02 has, on pruning weights: checks, hints, solutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from pruneviz.core.errors import ArgumentError
from pruneviz.lessons.checkpoints import load
from pruneviz.lessons.data import fashion_mnist
from pruneviz.lessons.exercises.exercise import exercise
from pruneviz.metrics.accuracy import accuracy
from pruneviz.pruning.mask import mask
from pruneviz.selection.score import score
from pruneviz.selection.select import select

BUDGET = 43_050  # a tenth of LeNet-5's weights


@exercise(
    "02-magnitude",
    hints=(
        "a tensor has a method that takes the sign away.",
        "weight.abs() is all there is to it.",
    ),
    solution="""\
def my_score(weight):
    return weight.abs()
""",
)
def magnitude(answer: Any) -> str:
    """Check a function from a weight tensor to scores by magnitude."""
    weight = torch.tensor([[-3.0, 1.0], [0.5, -0.25]])
    got = answer(weight.clone())
    if not isinstance(got, Tensor) or got.shape != weight.shape:
        return "It must return a tensor of the weight's shape: one score a weight."
    if not bool(got[0, 0] > got[0, 1]):
        return (
            "A weight of -3 must score higher than one of 1: "
            "its sign does not matter, its size does."
        )
    order = got.flatten().argsort().tolist()
    return "" if order == [3, 2, 1, 0] else "The larger |w|, the higher the score: for all weights."


@exercise(
    "02-exactly",
    hints=(
        "a threshold keeps too many when several scores are equal: rank the positions instead.",
        "torch.argsort(scores.flatten(), descending=True)[:n] are the positions that stay; "
        "set them to True in a tensor of False.",
    ),
    solution="""\
def keep_exactly(scores, n):
    keep = torch.zeros(scores.numel(), dtype=torch.bool)
    keep[torch.argsort(scores.flatten(), descending=True)[:n]] = True
    return keep.view(scores.shape)
""",
)
def exactly(answer: Callable[[Tensor, int], Any]) -> str:
    """Check a function (scores, n) to a boolean tensor that keeps the n highest."""
    scores = torch.tensor([[3.0, 1.0, 2.0], [2.0, 2.0, 0.5]])
    for n in (1, 3, 6, 0):
        got = answer(scores.clone(), n)
        if not isinstance(got, Tensor) or got.dtype != torch.bool or got.shape != scores.shape:
            return "It must return a boolean tensor of the scores' shape: True = keep."
        if int(got.sum()) != n:
            return f"Asked for {n} of six weights, it keeps {int(got.sum())}. Mind equal scores."
        if 0 < n < 6 and scores[got].min() < scores[~got].max():
            return "It keeps a weight with a lower score than one that it drops."
    return ""


@exercise(
    "02-budget",
    hints=(
        "fc1 holds 400,000 of the 430,500 weights: it must pay nearly all of the bill.",
        "conv1 has only 500 weights, and everything goes through them: hardly touch it. "
        "Then conv2 and fc2 can keep about half.",
    ),
    solution="""\
answer = {"conv1": 0.05, "conv2": 0.53, "fc1": 0.932, "fc2": 0.28}
""",
)
def budget(answer: Any) -> str:
    """Check sparsities of layers: at most a tenth of the weights kept, and the accuracy."""
    if not isinstance(answer, Mapping):
        return 'The answer is a dict: {"conv1": 0.1, "conv2": 0.5, ...}.'
    model = load("lenet-5")
    try:
        plan = select(score(model, "magnitude"), sparsity=answer)
    except ArgumentError as e:
        return str(e)
    if plan.kept > BUDGET:
        return f"It keeps {plan.kept:,} weights; the budget is {BUDGET:,}."
    reached = accuracy(mask(model, plan), fashion_mnist().validation[:2000].batches(500))
    if reached < 0.80:
        return (
            f"Within the budget, but the accuracy is {reached:.0%}. Shift the load to other layers."
        )
    return ""

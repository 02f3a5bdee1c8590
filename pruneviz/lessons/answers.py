"""The exercises of the first lessons, 00 to 03: checks, hints, solutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from pruneviz.drop import drop
from pruneviz.groups import find_groups
from pruneviz.lessons.checkpoints import load
from pruneviz.lessons.data import fashion_mnist
from pruneviz.lessons.exercises import NOTHING, exercise
from pruneviz.mask import mask
from pruneviz.metrics import accuracy
from pruneviz.score import score
from pruneviz.select import select
from pruneviz.shrink import shrink
from pruneviz.types import ArgumentError

BUDGET = 43_050  # a tenth of LeNet-5's weights


@exercise(
    "00-cliff",
    hints=(
        "try sparsities in steps of 0.01 and keep the first whose accuracy is below 0.50.",
        "move the panel from Python: panel.controls['sparsity'].value = 0.80, then look at "
        "panel.result['accuracy']; a for loop does the rest.",
    ),
    solution="""\
for answer in [s / 100 for s in range(100)]:
    panel.controls["sparsity"].value = answer
    if panel.result["accuracy"] < 0.50:
        break
""",
)
def cliff(answer: Any) -> str:
    """Check the first sparsity, in steps of 0.01, at which the accuracy is below 0.50."""
    if isinstance(answer, bool) or not isinstance(answer, (int, float)):
        return "The answer is one number, such as 0.5."
    if not 0 <= answer < 1:
        return "A sparsity is a fraction between 0 and 1, never a percentage."
    truth = _cliff()
    if abs(answer - truth) < 0.015:  # the neighbour counts: another CPU may round elsewhere
        return ""
    if answer < truth:
        return f"At {answer:g} the accuracy is still 0.50 or more."
    return f"At {answer:g} the accuracy is below 0.50, but it is so at a smaller sparsity already."


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
    if got is None or got is ...:
        return NOTHING
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
        if got is None or got is ...:
            return NOTHING
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
    """Check sparsities, layer by layer, that keep at most a tenth of LeNet-5 and its accuracy."""
    if not isinstance(answer, Mapping):
        return 'The answer is a dict: {"conv1": 0.1, "conv2": 0.5, ...}.'
    model = load("lenet-5")
    try:
        plan = select(score(model, "magnitude"), sparsity=answer)
    except ArgumentError as e:
        return str(e)
    if plan.kept > BUDGET:
        return f"It keeps {plan.kept:,} weights; the budget is {BUDGET:,}."
    right = accuracy(mask(model, plan), fashion_mnist().validation[:2000].batches(500))
    if right < 0.80:
        return (
            f"Within the budget, but the accuracy is {right:.0%}. Shift the load to other layers."
        )
    return ""


@exercise(
    "03-by-hand",
    hints=(
        "keep everything but one row of weight, one number of bias, one column of next_weight.",
        "torch.arange(len(bias)) != neuron is True for all that stay; it can index rows, and columns "
        "as next_weight[:, stay].",
    ),
    solution="""\
def cut(weight, bias, next_weight, neuron):
    stay = torch.arange(len(bias)) != neuron
    return weight[stay], bias[stay], next_weight[:, stay]
""",
)
def by_hand(answer: Callable[[Tensor, Tensor, Tensor, int], Any]) -> str:
    """Check a function that cuts a neuron from the three tensors it lives in, against `shrink`."""
    torch_seed = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=torch_seed)
    x = torch.ones(1, 4)
    groups = find_groups(model, x)
    weight, bias, after = (t.detach() for t in list(model.parameters())[:3])
    for neuron in (2, 0, 5):
        got = answer(weight.clone(), bias.clone(), after.clone(), neuron)
        if got is None or got is ...:
            return NOTHING
        if not isinstance(got, (tuple, list)) or len(got) != 3:
            return "It must return three tensors: (weight, bias, next_weight)."
        small = shrink(model, drop(groups, {"0": [neuron]}), example_input=x)
        for name, a, b in zip(
            ("weight", "bias", "next_weight"), got, small.parameters(), strict=False
        ):
            if not isinstance(a, Tensor) or a.shape != b.shape:
                shape = tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__
                return (
                    f"Without one of 6 neurons {name} has the shape {tuple(b.shape)}, not {shape}."
                )
            if not torch.equal(a, b):
                return f"{name} has the right shape, but it has lost another neuron than {neuron}."
    return ""


@exercise(
    "03-columns",
    hints=(
        "channel 0 has the columns 0 to size - 1; where does channel 1 begin?",
        "they are consecutive: list(range(first, first + size)), and first depends on c.",
    ),
    solution="""\
def columns(c, size):
    return list(range(c * size, (c + 1) * size))
""",
)
def columns(answer: Callable[[int, int], Any]) -> str:
    """Check which columns behind a flattened image belong to a channel, against `find_groups`."""
    for channels, side in ((5, 2), (3, 3)):
        model = nn.Sequential(
            nn.Conv2d(1, channels, 1), nn.Flatten(), nn.Linear(channels * side**2, 2)
        )
        (group,) = find_groups(model, torch.zeros(1, 1, side, side)).groups_of("0")
        truth = next(s.index for s in group.slices if s.role == "in").tolist()
        for c in (0, 1, channels - 1):
            got = answer(c, side**2)
            if got is None or got is ...:
                return NOTHING
            got = sorted(int(i) for i in got)
            if len(got) != side**2:
                return f"A channel of {side**2} numbers has {side**2} columns, not {len(got)}."
            if got != truth[c]:
                return (
                    f"With {side**2} numbers a channel, channel {c} has other columns than {got}."
                )
    return ""


@cache
def _cliff() -> float:
    model = load("lenet-300-100")
    scores, batches = score(model, "magnitude"), list(fashion_mnist().validation.batches())
    for step in range(100):
        plan = select(scores, sparsity=step / 100)
        if accuracy(mask(model, plan), batches) < 0.50:
            return step / 100
    return 1.0

"""Which exercises lesson 03 has, on pruning neurons by norm: checks, hints, solutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pruneviz.graph.find_groups import find_groups
from pruneviz.lessons.exercises.exercise import PARTS, exercise, wrong_shapes
from pruneviz.pruning.shrink import shrink
from pruneviz.selection.drop import drop


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
    """Check a function that removes a neuron from its three tensors, against `shrink`."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    x = torch.ones(1, 4)
    groups = find_groups(model, x)
    weight, bias, next_weight = (t.detach() for t in list(model.parameters())[:3])
    for neuron in (2, 0, 5):
        got = answer(weight.clone(), bias.clone(), next_weight.clone(), neuron)
        small = shrink(model, drop(groups, {"0": [neuron]}), example_input=x)
        if message := wrong_shapes(got, small):
            return message
        for name, a, b in zip(PARTS, got, small.parameters(), strict=False):
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
    """Check which columns after a flatten belong to a channel, against `find_groups`."""
    for channels, side in ((5, 2), (3, 3)):
        model = nn.Sequential(
            nn.Conv2d(1, channels, 1), nn.Flatten(), nn.Linear(channels * side**2, 2)
        )
        (group,) = find_groups(model, torch.zeros(1, 1, side, side)).groups_of("0")
        truth = next(s.index for s in group.slices if s.role == "in").tolist()
        for c in (0, 1, channels - 1):
            got = answer(c, side**2)
            got = sorted(int(i) for i in got)
            if len(got) != side**2:
                return f"A channel of {side**2} numbers has {side**2} columns, not {len(got)}."
            if got != truth[c]:
                return (
                    f"With {side**2} numbers a channel, channel {c} has other columns than {got}."
                )
    return ""

"""Which exercises lesson 05 has, on redundant pairs of neurons: checks, hints, solutions."""

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
    "05-merge",
    hints=(
        "how many times the one that stays is the other one? Its row is so many times longer: "
        "weight[removed].norm() / weight[kept].norm().",
        "the next layer's column of the one that stays gains that many times the column of the other; "
        "then cut as in lesson 03. Change a copy: next_weight.clone().",
    ),
    solution="""\
def merge(weight, bias, next_weight, kept, removed):
    scale = weight[removed].norm() / weight[kept].norm()
    next_weight = next_weight.clone()
    next_weight[:, kept] += scale * next_weight[:, removed]
    stay = torch.arange(len(bias)) != removed
    return weight[stay], bias[stay], next_weight[:, stay]
""",
)
def merged(answer: Callable[[Tensor, Tensor, Tensor, int, int], Any]) -> str:
    """Check a function that merges an exact pair, against `shrink` with ``repair="merge"``."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    generator = torch.Generator().manual_seed(5)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    weight, bias, next_weight, _ = (t.detach() for t in model.parameters())
    weight[4], bias[4] = 2.5 * weight[1], 2.5 * bias[1]
    x = torch.ones(1, 4)
    groups = find_groups(model, x)
    for kept, removed in ((4, 1), (1, 4)):
        got = answer(weight.clone(), bias.clone(), next_weight.clone(), kept, removed)
        plan = drop(groups, {"0": [removed]})
        small = shrink(model, plan, example_input=x, repair="merge")
        if message := wrong_shapes(got, small):
            return message
        for name, a, b in zip(PARTS, got, small.parameters(), strict=False):
            if not torch.allclose(a, b, atol=1e-5):
                if name != "next_weight":
                    return f"{name} has the right shape, but not the numbers of those that stay."
                return _wrong_share(a, next_weight, kept, removed)
    return ""


def _wrong_share(got: Tensor, next_weight: Tensor, kept: int, removed: int) -> str:
    """Say what is wrong with the next layer's weights after a merge; their shape is right."""
    columns = [i for i in range(next_weight.shape[1]) if i != removed]
    question = (
        f"Neuron {removed} went, neuron {kept} stays: how many times neuron {kept} was neuron "
        f"{removed}?"
    )
    scale = 2.5 if removed == 4 else 0.4  # neuron 4 is 2.5 times neuron 1

    def added(share: float) -> bool:
        merged = next_weight.clone()
        merged[:, kept] += share * next_weight[:, removed]
        return torch.allclose(got, merged[:, columns], atol=1e-5)

    if added(0):
        return "That is a clean cut, but nobody does the work of the one that went."
    if added(1):
        return f"The column of the one that went is added as it is, without a scale. {question}"
    if added(1 / scale):
        return f"The scale is upside down. {question}"
    return f"next_weight has the right shape, but the output would be another one. {question}"


@exercise(
    "05-offset",
    hints=(
        "put scale · a_kept + offset in the place of a_removed, and multiply out: one part goes "
        "with a_kept, the other depends on no input.",
        "the weights gain scale * next_weight[:, removed], the bias gains "
        "offset * next_weight[:, removed].",
    ),
    solution="""\
def take_over(next_weight, next_bias, kept, removed, scale, offset):
    column = next_weight[:, removed]
    next_weight = next_weight.clone()
    next_weight[:, kept] += scale * column
    stay = torch.arange(next_weight.shape[1]) != removed
    return next_weight[:, stay], next_bias + offset * column
""",
)
def take_over(answer: Callable[[Tensor, Tensor, int, int, float, float], Any]) -> str:
    """Check how the next layer changes if a neuron is a multiple of another plus a constant."""
    generator = torch.Generator().manual_seed(6)
    next_weight, bias = torch.randn(2, 4, generator=generator), torch.randn(2, generator=generator)
    for kept, removed, scale, offset in ((0, 2, 0.5, 0.0), (3, 1, 2.0, -1.5), (1, 0, 0.0, 3.0)):
        got = answer(next_weight.clone(), bias.clone(), kept, removed, scale, offset)
        shapes = [tuple(t.shape) for t in got if isinstance(t, Tensor)]
        if shapes != [(2, 3), (2,)]:
            return "It must return two tensors: next_weight without a column, and next_bias."
        inputs = torch.randn(5, 4, generator=generator)
        inputs[:, removed] = scale * inputs[:, kept] + offset
        columns = [i for i in range(4) if i != removed]
        error = (
            got[0] @ inputs[:, columns].T
            + got[1].unsqueeze(1)
            - next_weight @ inputs.T
            - bias.unsqueeze(1)
        )
        if float(error.abs().max()) > 1e-4:
            weights = next_weight.clone()
            weights[:, kept] += scale * next_weight[:, removed]
            wrong = (
                "The weights are right, the bias is not."
                if torch.allclose(got[0], weights[:, columns], atol=1e-5)
                else "The weights are not right yet."
            )
            return (
                f"With scale {scale:g} and offset {offset:g} the next layer gives something else "
                f"than before. {wrong}"
            )
    return ""

"""The exercises of lesson 06: criteria of one's own."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pruneviz.ablation import ablate
from pruneviz.collect import collect
from pruneviz.criteria import CRITERIA, register
from pruneviz.evidence import Evidence
from pruneviz.group import Groups
from pruneviz.groups import find_groups
from pruneviz.lessons.checkpoints import load
from pruneviz.lessons.data import fashion_mnist
from pruneviz.lessons.exercises import NOTHING, exercise
from pruneviz.score import score
from pruneviz.spread import column, rho
from pruneviz.types import Scores

TRIAL = "an answer that is being checked"


@exercise(
    "06-quiet",
    hints=(
        "one of the two becomes ten times as large, the other a tenth: which operation of the two "
        "numbers gives the same as before?",
        "multiply them.",
    ),
    solution="""\
def quiet(incoming, outgoing):
    return incoming * outgoing
""",
)
def quiet(answer: Callable[[Tensor, Tensor], Any]) -> str:
    """Check a score from two norms that does not notice a rescaling."""
    incoming, outgoing = torch.tensor([3.0, 1.0, 2.0, 0.5]), torch.tensor([1.0, 5.0, 0.5, 0.25])
    got = answer(incoming.clone(), outgoing.clone())
    if got is None or got is ...:
        return NOTHING
    if not isinstance(got, Tensor) or got.shape != incoming.shape:
        return "It must return a tensor with one score a neuron, of the shape of `incoming`."
    for name, a, b in (("incoming", 2.0, 1.0), ("outgoing", 1.0, 2.0)):
        if not bool((answer(a * incoming, b * outgoing) > got).all()):
            return f"The larger the {name} weights, the higher the score: here it does not grow."
    for u in range(4):
        factor = torch.ones(4)
        factor[u] = 10.0
        loud = answer(incoming * factor, outgoing / factor)
        if not torch.allclose(loud, got, rtol=1e-4):
            return (
                f"Neuron {u} becomes ten times as loud and is listened to a tenth as much, and its "
                f"score changes from {float(got[u]):.3g} to {float(loud[u]):.3g}: it should stay."
            )
    return ""


@exercise(
    "06-invent",
    hints=(
        "a large weight that multiplies nothing does nothing: weights and what they multiply belong "
        "together.",
        "(matrix**2 * input_sq).sum(1) is the power that a neuron takes in, or gives out.",
    ),
    solution="""\
def mine(matrix, input_sq):
    return (matrix**2 * input_sq).sum(1)
""",
)
def invent(answer: Callable[[Tensor, Tensor], Any]) -> str:
    """Check a criterion: it beats LAMP at foretelling the loss without each neuron."""
    got = answer(torch.ones(2, 3), torch.ones(2, 3))
    if got is None or got is ...:
        return NOTHING
    if not isinstance(got, Tensor) or got.shape != (2,):
        return "It must return a tensor with one score a row: for 2 rows the shape (2,)."
    groups, evidence, truth = _truth()
    model = load("lenet-300-100")

    def trial(matrix: Tensor, input_sq: Tensor) -> Tensor:
        return answer(matrix, input_sq)

    needs = ("weight", "input_sq")
    try:
        register(TRIAL, source="", formula="", needs=needs, granularity="unit")(trial)
        scores = score(model, TRIAL, groups=groups, evidence=evidence)
    finally:
        CRITERIA.pop(TRIAL, None)
    lamp = score(model, "lamp", groups=groups)
    reached, limit = (rho(column(s), column(truth)) for s in (scores, lamp))
    if reached != reached:
        return "All neurons get the same score: that is no order."
    if reached <= limit:
        return f"Its rank correlation with the truth is {reached:.2f}; lamp has {limit:.2f}."
    return ""


@cache
def _truth() -> tuple[Groups, Evidence, Scores]:
    """Measure what the lesson measures: the loss without each neuron, and what the neurons read."""
    model, train = load("lenet-300-100"), fashion_mnist().train
    groups = find_groups(model, train[:8].x)
    seen = collect(model, [x for x, _ in train[:1000].batches(500)], comoment=False, progress=False)
    truth = ablate(model, train[5000:7000].batches(500), groups=groups, progress=False)
    return groups, seen, truth

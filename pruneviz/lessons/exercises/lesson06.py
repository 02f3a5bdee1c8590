"""Which exercises lesson 06 has, on criteria: checks, hints, solutions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pruneviz.core.groups import Groups
from pruneviz.core.plan import Scores
from pruneviz.evidence.collect import collect
from pruneviz.evidence.evidence import Evidence
from pruneviz.graph.find_groups import find_groups
from pruneviz.lessons.checkpoints import load
from pruneviz.lessons.data import fashion_mnist
from pruneviz.lessons.exercises.exercise import Right, exercise
from pruneviz.selection.criteria.registry import CRITERIA, register
from pruneviz.selection.score import score
from pruneviz.study.ablation import ablate
from pruneviz.study.criterion_card_intervals import rank_correlation, score_column

TRIAL = "an answer that is being checked"
NO_NUMBER = "Some of the scores are no finite numbers: a neuron without a number has no place."
CHANCE = 0.06  # about half the width of an interval of the card


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
    """Check a score from two norms that a rescaling does not change."""
    incoming = torch.tensor([3.0, 1.0, 2.0, 0.5, 4.0, 0.8])
    outgoing = torch.tensor([1.0, 5.0, 0.5, 0.25, 3.0, 0.9])
    got = answer(incoming.clone(), outgoing.clone())
    if not isinstance(got, Tensor) or got.shape != incoming.shape:
        return "It must return a tensor with one score a neuron, of the shape of `incoming`."
    if not bool(got.isfinite().all()):
        return NO_NUMBER
    ranks = _ranks(got)
    for u in range(len(incoming)):
        large = torch.ones_like(incoming)
        large[u] = 1000.0
        for name, a, b in (("incoming", large, 1.0), ("outgoing", 1.0, large)):
            scores = answer(a * incoming, b * outgoing)
            if not bool(scores[u] > scores[torch.arange(len(incoming)) != u].max()):
                return (
                    f"The larger the {name} weights, the higher the score. With {name} weights a "
                    f"thousand times as large neuron {u} should come first, but it does not grow enough."
                )
    for u in range(len(incoming)):
        for times in (10.0, 1000.0):
            factor = torch.ones_like(incoming)
            factor[u] = times
            new_ranks = _ranks(answer(incoming * factor, outgoing / factor))
            if new_ranks != ranks:
                return (
                    f"Neuron {u} becomes {times:g} times as loud and is listened to that much less, and "
                    f"it moves from place {ranks[u] + 1} to {new_ranks[u] + 1}: it should stay."
                )
    return _in_the_network(answer)


def _ranks(scores: Tensor) -> list[int]:
    """Return the rank of each score, the smallest first."""
    return [int(p) for p in scores.argsort(stable=True).argsort()]


def _in_the_network(answer: Callable[[Tensor, Tensor], Any]) -> str:
    """Say how well the score predicts the loss without each neuron."""
    groups, _, truth = _truth()
    model = load("lenet-300-100")
    layers = [model.state_dict()[f"{name}.weight"] for name in ("fc1", "fc2", "fc3")]
    norms = zip([w.norm(dim=1) for w in layers], [w.norm(dim=0) for w in layers[1:]], strict=False)
    scores = torch.cat([answer(incoming, outgoing) for incoming, outgoing in norms])
    l2 = score(model, "l2", groups=groups)
    reached, limit = (
        rank_correlation(c, score_column(truth)) for c in (scores.numpy(), score_column(l2))
    )
    summary = (
        f"In LeNet, over both layers, its rank correlation with the truth is {reached:.2f}; l2 has "
    )
    if reached > limit + CHANCE:
        return Right(f"{summary}{limit:.2f}. It is immune, and it compares the layers better.")
    return Right(f"{summary}{limit:.2f}. It is immune, but it compares the layers no better.")


@exercise(
    "06-invent",
    hints=(
        "a large weight that multiplies nothing does nothing: weights and what they multiply belong "
        "together.",
        "take the power of each product, weight squared times the mean square of what it multiplies, "
        "and make one number of each row.",
    ),
    solution="""\
# wanda of the list, squared: before the mean over incoming and outgoing weights
def mine(matrix, input_sq):
    return (matrix**2 * input_sq).sum(1)
""",
)
def invent(answer: Callable[[Tensor, Tensor], Any]) -> str:
    """Check a criterion: it predicts the loss without each neuron better than LAMP."""
    got = answer(torch.ones(2, 3), torch.ones(2, 3))
    if not isinstance(got, Tensor) or got.shape != (2,):
        return "It must return a tensor with one score a row: for 2 rows the shape (2,)."
    groups, evidence, truth = _truth()
    model = load("lenet-300-100")

    def trial(matrix: Tensor, input_sq: Tensor) -> Tensor:
        return answer(matrix, input_sq)

    if not bool(got.isfinite().all()):
        return NO_NUMBER
    needs = ("weight", "input_sq")
    try:
        register(TRIAL, source="", formula="", needs=needs, granularity="unit")(trial)
        scores = score(model, TRIAL, groups=groups, evidence=evidence)
    finally:
        CRITERIA.pop(TRIAL, None)
    lamp = score(model, "lamp", groups=groups)
    reached, limit = (
        rank_correlation(score_column(s), score_column(truth)) for s in (scores, lamp)
    )
    if not all(bool(v.isfinite().all()) for v in scores.values.values()):
        return NO_NUMBER
    if reached != reached:
        return "All neurons get the same score: that is no order."
    summary = f"Its rank correlation with the truth is {reached:.2f}; lamp has {limit:.2f}."
    if reached <= limit:
        return summary
    close = " So small a lead may be chance: other images could turn it over."
    return Right(summary + (close if reached - limit < CHANCE else ""))


@cache
def _truth() -> tuple[Groups, Evidence, Scores]:
    """Return the groups, the evidence and the loss without each neuron, as in the lesson."""
    model, train = load("lenet-300-100"), fashion_mnist().train
    groups = find_groups(model, train[:8].x)
    evidence = collect(
        model, [x for x, _ in train[:1000].batches(500)], comoment=False, progress=False
    )
    truth = ablate(model, train[5000:7000].batches(500), groups=groups, progress=False)
    return groups, evidence, truth

"""The exercises of the lesson about rounds: checks, hints, solutions."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from typing import Any

from torch import nn

from pruneviz.lessons.checkpoints import load
from pruneviz.lessons.data import fashion_mnist
from pruneviz.lessons.exercises import NOTHING, exercise
from pruneviz.metrics import accuracy
from pruneviz.schedules import schedule
from pruneviz.weights import named_weights

POINT = 0.01


@exercise(
    "07-steps",
    hints=(
        "after each round the share that stays is multiplied by the same number. Which one, if after "
        "all rounds 1 - sparsity stays?",
        "keep = (1 - sparsity) ** (1 / rounds) of what is left stays in each round, so after round i "
        "there is keep ** i.",
    ),
    solution="""\
def equal_cuts(sparsity, rounds):
    keep = (1 - sparsity) ** (1 / rounds)
    return [1 - keep**i for i in range(1, rounds + 1)]
""",
)
def steps(answer: Any) -> str:
    """Check a function (sparsity, rounds) to a geometric schedule."""
    for sparsity, rounds in ((0.75, 2), (0.9, 1), (0.98, 5)):
        got = answer(sparsity, rounds)
        if got is None or got is ...:
            return NOTHING
        got = [float(s) for s in got]
        if len(got) != rounds:
            return f"{rounds} rounds need {rounds} sparsities, not {len(got)}."
        if abs(got[-1] - sparsity) > 1e-6:
            return f"The last of {rounds} must arrive at {sparsity:g}, not at {got[-1]:g}."
        want = schedule("geometric", sparsity, rounds=rounds)
        if max(abs(a - b) for a, b in zip(got, want, strict=True)) > 1e-6:
            left = [1.0, *(1 - s for s in got)]
            shares = ", ".join(f"{1 - b / a:.2f}" for a, b in pairwise(left))
            return f"To {sparsity:g} in {rounds} rounds yours take {shares} of what is left."
    return ""


@exercise(
    "07-twelve",
    hints=(
        'which weights go matters first: the criterion is "magnitude" with the same share for each '
        "layer unless you say otherwise. Lesson 02 knew a better one.",
        'criterion="lamp", and two rounds of two epochs each: schedule=[0.7, 11 / 12], epochs=2.',
    ),
    solution="""\
answer = pv.prune_iteratively(
    model, train, schedule=[0.7, 11 / 12], criterion="lamp", epochs=2, progress=False
)
""",
)
def twelve(answer: Any) -> str:
    """Check a network with a twelfth of LeNet-300-100's weights and nearly its accuracy."""
    model = getattr(answer, "model", answer)
    if not isinstance(model, nn.Module):
        return "The answer is what pv.prune_iteratively returns, or a network."
    dense = {n: w.shape for n, w in named_weights(load("lenet-300-100")).items()}
    weights = named_weights(model)
    if {n: w.shape for n, w in weights.items()} != dense:
        return "That is another network: start from model, LeNet-300-100."
    total = sum(s.numel() for s in dense.values())
    left = sum(int((w != 0).sum()) for w in weights.values())
    if 12 * left > total:
        return f"It keeps {left:,} of {total:,} weights; a twelfth are {total // 12:,}."
    right, whole = accuracy(model, fashion_mnist().validation.batches(500)), _whole()
    if right < whole - POINT:
        return (
            f"Small enough, but it is right on {right:.1%} of the images, the whole network on "
            f"{whole:.1%}: that is more than one point."
        )
    return ""


@cache
def _whole() -> float:
    return accuracy(load("lenet-300-100"), fashion_mnist().validation.batches(500))

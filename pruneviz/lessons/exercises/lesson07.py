"""Which exercises lesson 07 has, on rounds of iterative pruning: checks, hints, solutions."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any

from pruneviz.core import checks
from pruneviz.lessons.checkpoints import load
from pruneviz.lessons.data import fashion_mnist
from pruneviz.lessons.exercises.exercise import Right, exercise
from pruneviz.metrics.accuracy import accuracy
from pruneviz.training.iterative import prune_iteratively
from pruneviz.training.schedules import schedule
from pruneviz.training.targets import targets_of

END, EPOCHS, LOST = 0.98, 5, 0.035


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
    "07-spend",
    hints=(
        "one epoch is not enough to mend a cut of nine tenths. So let the long cuts come early, and keep "
        "epochs for the time after the last one.",
        "the sparsity need not rise in every round: schedule=[0.9, 0.97, 0.98, 0.98, 0.98] has three "
        "cuts, and then two rounds that only tune. The settings: dict(schedule=..., epochs=1).",
    ),
    solution="answer = dict(schedule=[0.9, 0.97, 0.98, 0.98, 0.98], epochs=1)\n",
)
def spend(answer: Any) -> str:
    """Check settings of `prune_iteratively` that end at 98 % after five epochs; run them."""
    if not isinstance(answer, dict):
        return (
            "The answer is a dict of settings, such as dict(schedule=..., rounds=..., epochs=...)."
        )
    answer = {k: v for k, v in answer.items() if v is not ...}
    unknown = [k for k in answer if k not in ("schedule", "rounds", "epochs")]
    if unknown:
        return f"{unknown[0]!r} is given: choose schedule, rounds and epochs only."
    if answer.get("schedule") is None:
        return 'The schedule is missing: a name such as "linear", or a list of sparsities.'
    named = isinstance(answer["schedule"], str)
    targets = targets_of(END if named else None, answer["schedule"], answer.get("rounds"), {})
    sparsities = [s for s in targets if isinstance(s, float)]
    rounds, epochs = len(sparsities), checks.count(answer.get("epochs", 1), "epochs", low=1)
    if abs(sparsities[-1] - END) > 1e-6:
        return f"It ends at sparsity {sparsities[-1]:g}, not at {END:g}."
    if rounds * epochs > EPOCHS:
        return (
            f"{_times(rounds, 'round')} of {_times(epochs, 'epoch')} are {rounds * epochs} epochs."
        )
    model, data = load("lenet-300-100"), fashion_mnist()
    evaluate = partial(accuracy, batches=data.validation.batches(500))
    settings = {**({"sparsity": END} if named else {}), **answer, "criterion": "lamp"}
    result = prune_iteratively(model, data.train.batches(100, shuffle=True), **settings)
    reached, whole = evaluate(result.model), evaluate(model)
    summary = f"{reached:.1%} of the images are right, {whole:.1%} by the whole network"
    if whole - reached > LOST:
        return f"{summary}: that is {100 * (whole - reached):.1f} points less."
    return Right(f"{summary}.")


def _times(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"

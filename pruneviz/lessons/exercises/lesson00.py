"""Which exercises lesson 00 has, on the first steps: checks, hints, solutions."""

from __future__ import annotations

from functools import cache
from typing import Any

from pruneviz.lessons.checkpoints import load
from pruneviz.lessons.data import fashion_mnist
from pruneviz.lessons.exercises.exercise import exercise
from pruneviz.metrics.accuracy import accuracy
from pruneviz.pruning.mask import mask
from pruneviz.selection.score import score
from pruneviz.selection.select import select


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
    if abs(answer - truth) < 0.015:  # one step off is accepted: another CPU may round differently
        return ""
    if answer < truth:
        return f"At {answer:g} the accuracy is still 0.50 or more."
    return f"At {answer:g} the accuracy is below 0.50, but it is so at a smaller sparsity already."


@cache
def _cliff() -> float:
    model = load("lenet-300-100")
    scores, batches = score(model, "magnitude"), list(fashion_mnist().validation.batches())
    for step in range(100):
        plan = select(scores, sparsity=step / 100)
        if accuracy(mask(model, plan), batches) < 0.50:
            return step / 100
    return 1.0

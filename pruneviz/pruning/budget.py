"""Which sparsity meets a budget? Found by bisection: of the cost, or of what is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.plan import Plan, share_text
from pruneviz.metrics.evaluator import Accuracy, columns_of, evaluated
from pruneviz.model.batches import Batch, cut_examples, read_all
from pruneviz.pruning.session import Session

STEPS = 12  # of the bisection of a cost
TRIALS = 7  # of the bisection of a metric: each one cuts, repairs and measures
HELD_OUT = 10  # one example in ten is not learned from
COSTS = {"macs": "MACs", "params": "parameters", "bytes": "bytes"}
METRICS = ("at_least", "at_most")
SHOWN = 3


@dataclass(frozen=True)
class Limits:
    """What the caller set that keeps units from being removed, for the message of a budget."""

    protect: tuple[str, ...] = ()
    min_keep: int = 1


def sparsity_for_cost(
    session: Session, plan: Callable[[float], Plan], name: str, share: float, limits: Limits
) -> float:
    """Return the smallest sparsity at which at most this share of a cost is left; or raise."""
    whole = max(1, getattr(session.dense, name))
    share = share if share <= 1 else share / whole

    def left(sparsity: float) -> float:
        return float(getattr(session.cost(plan(sparsity)), name)) / whole

    if share >= 1:
        return 0.0
    low, high = 0.0, 1 - 2**-STEPS
    least = left(high)
    if least > share:
        raise ArgumentError(
            f"`{name}` must be at least {least:.3f} here, but {share:g} was passed: {least:.3f} of the "
            f"{COSTS[name]} stay even if all removable units are removed.{_what_limits(session, limits)}"
        )
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if left(middle) <= share else (middle, high)
    return high


def _what_limits(session: Session, limits: Limits) -> str:
    """Name what cannot go with its share of the MACs, and what the caller could change."""
    frozen = [(session.share(g), g) for g in session.groups if g.frozen]
    frozen = sorted((f for f in frozen if f[0] >= 0.01), key=lambda f: -f[0])
    named = [f"{share_text(s)} are in {g.name!r}, frozen: {g.frozen}" for s, g in frozen[:SHOWN]]
    advice = [
        "protect fewer layers" * bool(limits.protect),
        "lower `min_keep`" * (limits.min_keep > 1),
        "pass approximate=True" * any("approximate=True" in g.frozen for g in session.groups),
    ]
    wanted = " or ".join(filter(None, advice))
    text = f" {'; '.join(named)}." if named else ""
    return text + (f" {wanted[0].upper()}{wanted[1:]}." if wanted else "")


def smallest_that_holds(
    name: str,
    target: float,
    make: Callable[[float], nn.Module],
    judge: Callable[[nn.Module], float],
) -> nn.Module:
    """Return the smallest model found that reaches a metric; `name`: "at_least" or "at_most".

    What is measured is no smooth function of the sparsity, so there may be smaller ones.
    """

    def reached(value: float) -> bool:
        return value <= target if name == "at_most" else value >= target

    best = make(0.0)
    found = judge(best)
    if not reached(found):
        raise ArgumentError(
            f"`{name}` is {target:g}, but the whole model itself has {found:g} on the examples that "
            "are held out. Pass a value that it reaches."
        )
    low, high = 0.0, 1.0
    for _ in range(TRIALS):
        middle = (low + high) / 2
        new = make(middle)
        if reached(judge(new)):
            low, best = middle, new
        else:
            high = middle
    return best


def held_out(batches: Iterable[Any]) -> tuple[list[Batch], list[Batch]]:
    """Return the batches without every tenth example, and every tenth example.

    >>> learn, judge = held_out([(torch.arange(20.0), torch.arange(20))])
    >>> judge[0].inputs, learn[0].examples
    (tensor([ 0., 10.]), 18)
    """
    learn: list[Batch] = []
    judge: list[Batch] = []
    seen = 0
    for batch in read_all(batches, "learn from"):
        n = batch.examples
        out = (torch.arange(seen, seen + n) % HELD_OUT) == 0
        seen += n
        for part, mark in ((learn, ~out), (judge, out)):
            if bool(mark.any()):
                part.append(batch.with_(*_part(batch, mark, n)))
    if not learn:
        raise ArgumentError(
            f"`batches` hold {seen} example{'s' * (seen != 1)}: too few to hold out one in "
            f"{HELD_OUT}. Pass more."
        )
    return learn, judge


def _part(batch: Batch, mark: Tensor, n: int) -> Any:
    return cut_examples((batch.inputs, batch.targets), mark, n)


def judge_of(evaluate: Any, judge: list[Batch] | None) -> Callable[[nn.Module], float]:
    """Return what measures a model: the caller's `evaluate`, or the accuracy on the held-out part."""
    if evaluate is not None:
        columns_of(evaluate)  # raises unless it can be called
        return lambda model: float(evaluated(evaluate, model)["metric"])
    if judge is None:
        raise ArgumentError(
            "`at_least` and `at_most` need something to measure. Pass batches of (inputs, labels), or "
            "`evaluate`, a function from a model to a number."
        )
    return Accuracy(judge)


def one_budget(given: dict[str, Any]) -> tuple[str, float]:
    """Return the name and the value of the one budget that was passed; or raise."""
    passed = {n: v for n, v in given.items() if v is not None}
    if len(passed) != 1:
        which = " and ".join(f"`{n}`" for n in passed) or "none"
        raise ArgumentError(
            "`prune` takes one budget: `sparsity`, the share of units to remove; `macs`, `params` or "
            "`bytes`, the share to keep; `at_least` or `at_most`, the metric to hold. "
            f"{which[0].upper()}{which[1:]} {'was' if not passed else 'were'} passed."
        )
    ((name, value),) = passed.items()
    if name == "sparsity":
        return name, checks.sparsity(value)
    number = checks.number(value, name, low=0 if name in COSTS else -math.inf)
    if name in COSTS and number > 1 and number != round(number):
        raise ArgumentError(
            f"`{name}` must be a share in (0, 1], or a whole number of {COSTS[name]}, but {value!r} was "
            "passed."
        )
    return name, number

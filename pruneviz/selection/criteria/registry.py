"""Criteria: what makes a weight important. Each is a function of tensors, registered with its source."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError

NEEDS = ("weight", "generator", "grad_sq", "fisher", "input_sq", "reads", "model")
EVIDENCE = ("grad_sq", "fisher", "input_sq", "reads", "model")
GRANULARITIES = ("weight", "unit")
SCOPES = ("layer", "global")


@dataclass(frozen=True)
class Criterion:
    """A criterion and what one must know to use it.

    Parameters
    ----------
    name : str
    fn : callable
        ``fn(weight, ...)`` gives scores of the weight's shape; of units: ``fn(matrix, ...)``, with a
        row of numbers for each unit, gives scores of shape (units,). Higher = more important.
    needs : tuple of str
        What it looks at: ``"weight"``; and what it is called with by name: ``"generator"``, a
        `torch.Generator`; from evidence, tensors of the weight's shape (of the matrix's):
        ``"grad_sq"`` and ``"fisher"``, E[g²] for given and for drawn labels, and ``"input_sq"``, the
        mean square of what each weight multiplies; ``"reads"``, the `Moments` of the units where they
        are read, shape (units, k). ``"model"``: it is called once, with model, groups and evidence,
        and gives the scores of all. One that looks at no weight is called with a tensor of the shape
        of the scores instead.
    scope : str
        Where its scores are compared unless one says otherwise: ``"layer"`` or ``"global"``.
    source : str
        Where it comes from.
    formula : str
        The score in one line.
    granularity : tuple of str
        What it can rank: ``"weight"``, ``"unit"`` (neurons, channels, heads), or both.
    unit : callable or None
        What is called for units instead of `fn`.
    """

    name: str
    fn: Callable[..., Tensor]
    needs: tuple[str, ...]
    scope: str
    source: str
    formula: str
    granularity: tuple[str, ...] = ("weight",)
    unit: Callable[..., Tensor] | None = None

    @property
    def evidence(self) -> tuple[str, ...]:
        """What it needs of evidence."""
        return tuple(n for n in self.needs if n in EVIDENCE)


CRITERIA: dict[str, Criterion] = {}


def register(
    name: str,
    *,
    source: str,
    formula: str,
    needs: Iterable[str] = ("weight",),
    scope: str = "layer",
    granularity: str | Iterable[str] = "weight",
    unit: Callable[..., Tensor] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a criterion under a name: a decorator.

    Parameters
    ----------
    name : str
        How `score` and the drop-downs call it. A name that is taken is refused.
    source : str
        Where the criterion comes from; ``"mine"`` will do.
    formula : str
        The score in one line.
    needs : iterable of str
        ``"weight"``, ``"generator"`` for one that draws random numbers, and what it needs of
        evidence; see `Criterion`.
    scope : str
        ``"layer"`` or ``"global"``: where its scores can be compared.
    granularity : str or iterable of str
        ``"weight"``: the function gets a tensor of weights and gives scores of its shape.
        ``"unit"``: it gets a matrix, shape (units, numbers), and gives one score a unit.
    unit : callable, optional
        What is called for units, if that is another function.

    Raises
    ------
    ArgumentError
        If the name is taken, or `needs`, `scope` or `granularity` is unknown.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> @pv.register("far from one", source="mine", formula="|w - 1|")
    ... def far_from_one(weight):
    ...     return (weight - 1).abs()
    >>> "far from one" in pv.CRITERIA
    True
    >>> del pv.CRITERIA["far from one"]
    """
    needs = tuple(needs)
    for need in needs:
        checks.choice(need, "needs", NEEDS)
    checks.choice(scope, "scope", SCOPES)
    ranks = (granularity,) if isinstance(granularity, str) else tuple(granularity)
    for what in ranks:
        checks.choice(what, "granularity", GRANULARITIES)

    def check() -> None:
        if name in CRITERIA:
            raise ArgumentError(f"criterion {name!r} is registered already. Choose another name.")

    check()

    def add(fn: Callable[..., Any]) -> Callable[..., Any]:
        check()
        CRITERIA[name] = Criterion(name, fn, needs, scope, source, formula, ranks, unit)
        return fn

    return add


def criterion(name: str, granularity: str = "weight") -> Criterion:
    """Return a registered criterion that can rank weights, or units; or raise with the nearest name.

    >>> criterion("magnitude", "unit")
    Traceback (most recent call last):
    ...
    pruneviz.ArgumentError: criterion 'magnitude' scores single weights, not units. For units: activation, apoz, fisher, l1, l2, lamp, obs, random, taylor, wanda.
    """
    fit = sorted(n for n, c in CRITERIA.items() if granularity in c.granularity)
    if isinstance(name, str) and name in CRITERIA and name not in fit:
        does, wanted = (
            ("units", "weights") if granularity == "weight" else ("single weights", "units")
        )
        also = "; for units pass `groups`" if granularity == "weight" else ""
        raise ArgumentError(
            f"criterion {name!r} scores {does}, not {wanted}. For {wanted}: {', '.join(fit)}{also}."
        )
    return CRITERIA[checks.choice(name, "criterion", fit, what="criterion")]

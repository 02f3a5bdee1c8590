"""What makes a weight important? A criterion: a function of tensors, registered with its source."""

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
    """A criterion, and what is needed to use it.

    Parameters
    ----------
    name : str
    fn : callable
        ``fn(weight, ...)`` returns scores of the weight's shape. For units ``fn(matrix, ...)`` gets
        a matrix with one row per unit, and returns scores of shape (units,). Higher = more
        important.
    needs : tuple of str
        What it needs. ``"weight"``: the weights; without it, `fn` gets an empty tensor of the shape
        of the scores instead. All others are passed by name:

        * ``"generator"``: a `torch.Generator`.
        * ``"grad_sq"``, ``"fisher"``: E[g²] for given and for drawn labels; shape of the weight (or
          matrix).
        * ``"input_sq"``: the mean square of what each weight multiplies; the same shape.
        * ``"reads"``: the `Moments` of the units at their consumer, shape (units, k).

        ``"model"``: `fn` is called once, with the model, its groups and the evidence, and returns
        the scores of all groups. The evidence has gradients at the outputs of layers; name
        ``"grad_sq"`` or ``"fisher"``, too, if it must have those of the weights.
    scope : str
        Where its scores are compared by default: ``"layer"`` or ``"global"``.
    source : str
        Where it comes from.
    formula : str
        The score in one line.
    granularity : tuple of str
        What it can rank: ``"weight"``, ``"unit"`` (neurons, channels, heads), or both.
    unit : callable or None
        Called for units instead of `fn`.
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
        """Return those of its needs that come from evidence."""
        return tuple(n for n in self.needs if n in EVIDENCE)

    @property
    def needs_gradients(self) -> bool:
        """Whether its evidence must be collected with a loss."""
        return self.needs_squares or "model" in self.needs

    @property
    def needs_squares(self) -> bool:
        """Whether its evidence must have the squared gradient of each weight."""
        return not {"grad_sq", "fisher"}.isdisjoint(self.needs)


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
        The name for `score` and the drop-downs. A name that is taken is refused.
    source : str
        Where the criterion comes from, such as a paper, or ``"mine"``.
    formula : str
        The score in one line.
    needs : iterable of str
        ``"weight"``; ``"generator"`` for a criterion that draws random numbers; and what it needs
        from evidence: see `Criterion`.
    scope : str
        ``"layer"`` or ``"global"``: where its scores can be compared.
    granularity : str or iterable of str
        ``"weight"``: the function gets a tensor of weights and returns scores of its shape.
        ``"unit"``: it gets a matrix, shape (units, numbers), and returns one score per unit.
    unit : callable, optional
        The function that is called for units, if it is another one.

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
    granularities = (granularity,) if isinstance(granularity, str) else tuple(granularity)
    for one in granularities:
        checks.choice(one, "granularity", GRANULARITIES)

    def check_name_is_new() -> None:
        if name in CRITERIA:
            raise ArgumentError(f"criterion {name!r} is registered already. Choose another name.")

    check_name_is_new()

    def add(fn: Callable[..., Any]) -> Callable[..., Any]:
        check_name_is_new()
        CRITERIA[name] = Criterion(name, fn, needs, scope, source, formula, granularities, unit)
        return fn

    return add


def criterion(name: str, granularity: str = "weight") -> Criterion:
    """Return a registered criterion for weights or units; raise with the nearest name if unknown.

    >>> criterion("magnitude", "unit")
    Traceback (most recent call last):
    ...
    pruneviz.ArgumentError: criterion 'magnitude' scores single weights, not units. For units: activation, apoz, fisher, l1, l2, lamp, obs, random, taylor, wanda.
    """
    usable = sorted(n for n, c in CRITERIA.items() if granularity in c.granularity)
    if isinstance(name, str) and name in CRITERIA and name not in usable:
        scored, wanted = (
            ("units", "weights") if granularity == "weight" else ("single weights", "units")
        )
        also = "; for units pass `groups`" if granularity == "weight" else ""
        raise ArgumentError(
            f"criterion {name!r} scores {scored}, not {wanted}. For {wanted}: {', '.join(usable)}{also}."
        )
    return CRITERIA[checks.choice(name, "criterion", usable, what="criterion")]

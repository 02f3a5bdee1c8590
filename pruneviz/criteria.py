"""Criteria: what makes a weight important. Each is a function of tensors, registered with its source."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pruneviz import _check
from pruneviz.types import ArgumentError

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
        _check.choice(need, "needs", NEEDS)
    _check.choice(scope, "scope", SCOPES)
    ranks = (granularity,) if isinstance(granularity, str) else tuple(granularity)
    for what in ranks:
        _check.choice(what, "granularity", GRANULARITIES)

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
    pruneviz.types.ArgumentError: criterion 'magnitude' scores single weights, not units. For units: activation, apoz, fisher, l1, l2, lamp, obs, random, taylor, wanda.
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
    return CRITERIA[_check.choice(name, "criterion", fit, what="criterion")]


@register(
    "magnitude",
    source="Han et al. 2015, arXiv:1506.02626",
    formula="|w|",
)
def magnitude(weight: Tensor) -> Tensor:
    """Score each weight by its absolute value.

    References
    ----------
    Han, Pool, Tran, Dally 2015, "Learning both Weights and Connections for Efficient Neural
    Networks", arXiv:1506.02626, §3.

    Examples
    --------
    >>> magnitude(torch.tensor([[-3.0, 1.0]]))
    tensor([[3., 1.]])
    """
    return weight.abs()


@register(
    "lamp",
    source="Lee et al. 2021, arXiv:2010.07611, eq. 4",
    formula="w² ÷ Σ v² over the layer's weights v with |v| ≥ |w|",
    scope="global",
    granularity=GRANULARITIES,
    unit=lambda matrix: lamp(torch.linalg.vector_norm(matrix, dim=1)),
)
def lamp(weight: Tensor) -> Tensor:
    """Score each weight by its square relative to what is left of the layer when it goes.

    The scores of all layers can be compared: the last weight of every layer scores 1, so that no
    layer vanishes. Among equal weights the first in the tensor scores lowest. For units the norm of
    all numbers of a unit takes the place of a weight.

    References
    ----------
    Lee, Park, Mo, Ahn, Shin 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning",
    arXiv:2010.07611, eq. 4.

    Examples
    --------
    >>> lamp(torch.tensor([[2.0, -1.0]]))
    tensor([[1.0000, 0.2000]], dtype=torch.float64)
    """
    square = weight.double().reshape(-1) ** 2
    order = torch.argsort(square, stable=True)
    rising = square[order]
    left = rising.flip(0).cumsum(0).flip(0)  # sum over this weight and all larger ones
    ratio = torch.where(left > 0, rising / left, 0.0)  # a layer of zeros scores 0
    return torch.empty_like(square).index_copy_(0, order, ratio).view_as(weight)


@register(
    "l1",
    source="Li et al. 2017, arXiv:1608.08710, §3.1",
    formula="Σ |w| over the unit's weights",
    granularity="unit",
)
def l1(matrix: Tensor) -> Tensor:
    """Score each unit by the sum of the absolute values of its weights.

    References
    ----------
    Li, Kadav, Durdanovic, Samet, Graf 2017, "Pruning Filters for Efficient ConvNets",
    arXiv:1608.08710, §3.1.

    Examples
    --------
    >>> l1(torch.tensor([[3.0, -4.0], [1.0, 0.0]]))
    tensor([7., 1.])
    """
    return matrix.abs().sum(1)


@register(
    "l2",
    source="compared in Li et al. 2017, arXiv:1608.08710",
    formula="√ Σ w² over the unit's weights",
    granularity="unit",
)
def l2(matrix: Tensor) -> Tensor:
    """Score each unit by the Euclidean norm of its weights.

    References
    ----------
    Li, Kadav, Durdanovic, Samet, Graf 2017, "Pruning Filters for Efficient ConvNets",
    arXiv:1608.08710, which finds it no better and no worse than the sum of absolute values.

    Examples
    --------
    >>> l2(torch.tensor([[3.0, -4.0], [1.0, 0.0]]))
    tensor([5., 1.])
    """
    return torch.linalg.vector_norm(matrix, dim=1)


@register(
    "random",
    source="the baseline: Blalock et al. 2020, arXiv:2003.03033",
    formula="uniform in [0, 1)",
    needs=("generator",),
    granularity=GRANULARITIES,
)
def random(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Score each weight, or unit, by a random number: what every criterion must beat.

    References
    ----------
    Blalock, Gonzalez Ortiz, Frankle, Guttag 2020, "What is the State of Neural Network Pruning?",
    arXiv:2003.03033, §6.

    Examples
    --------
    >>> random(torch.zeros(2, 3), torch.Generator().manual_seed(0)).shape
    torch.Size([2, 3])
    """
    return torch.rand(weight.shape, generator=generator).to(weight.device)

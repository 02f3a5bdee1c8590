"""Criteria: what makes a weight important. Each is a function of tensors, registered with its source."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pruneviz import _check
from pruneviz.types import ArgumentError

NEEDS = ("weight", "generator")
SCOPES = ("layer", "global")


@dataclass(frozen=True)
class Criterion:
    """A criterion and what one must know to use it.

    Parameters
    ----------
    name : str
    fn : callable
        ``fn(weight, ...)`` gives scores of the weight's shape; higher = more important.
    needs : tuple of str
        What it is called with: ``"weight"``, first; ``"generator"``, a `torch.Generator`.
    scope : str
        Where its scores are compared unless one says otherwise: ``"layer"`` or ``"global"``.
    source : str
        Where it comes from.
    formula : str
        The score in one line.
    """

    name: str
    fn: Callable[..., Tensor]
    needs: tuple[str, ...]
    scope: str
    source: str
    formula: str


CRITERIA: dict[str, Criterion] = {}


def register(
    name: str,
    *,
    source: str,
    formula: str,
    needs: Iterable[str] = ("weight",),
    scope: str = "layer",
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
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
        ``"weight"``, and ``"generator"`` for one that draws random numbers.
    scope : str
        ``"layer"`` or ``"global"``: where its scores can be compared.

    Raises
    ------
    ArgumentError
        If the name is taken, or `needs` or `scope` is unknown.

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

    def check() -> None:
        if name in CRITERIA:
            raise ArgumentError(f"criterion {name!r} is registered already. Choose another name.")

    check()

    def add(fn: Callable[..., Tensor]) -> Callable[..., Tensor]:
        check()
        CRITERIA[name] = Criterion(name, fn, needs, scope, source, formula)
        return fn

    return add


def criterion(name: str) -> Criterion:
    """Return a registered criterion, or raise with the nearest name."""
    return CRITERIA[_check.choice(name, "criterion", CRITERIA, what="criterion")]


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
)
def lamp(weight: Tensor) -> Tensor:
    """Score each weight by its square relative to what is left of the layer when it goes.

    The scores of all layers can be compared: the last weight of every layer scores 1, so that no
    layer vanishes. Among equal weights the first in the tensor scores lowest.

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
    "random",
    source="the baseline: Blalock et al. 2020, arXiv:2003.03033",
    formula="uniform in [0, 1)",
    needs=("weight", "generator"),
)
def random(weight: Tensor, generator: torch.Generator) -> Tensor:
    """Score each weight by a random number: what every criterion must beat.

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

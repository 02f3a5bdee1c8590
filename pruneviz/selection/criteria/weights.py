"""Which criteria need the weights only? Magnitude, LAMP, norms of units, and random numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from pruneviz.selection.criteria.registry import GRANULARITIES, register


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
    """Score each weight by its square ÷ the sum of squares of this and all larger weights.

    The scores of different layers can be compared: the largest weight of every layer scores 1, so
    that no layer is removed completely. Of equal weights, the first in the tensor scores lowest.
    For units, the norm of a unit's weights replaces the single weight.

    References
    ----------
    Lee, Park, Mo, Ahn, Shin 2021, "Layer-adaptive Sparsity for the Magnitude-based Pruning",
    arXiv:2010.07611, eq. 4.

    Examples
    --------
    >>> lamp(torch.tensor([[2.0, -1.0]]))
    tensor([[1.0000, 0.2000]], dtype=torch.float64)
    """
    square = weight.abs().double().reshape(-1) ** 2
    order = torch.argsort(square, stable=True)
    ascending = square[order]
    remaining = ascending.flip(0).cumsum(0).flip(0)  # sum over this weight and all larger ones
    ratio = torch.where(remaining > 0, ascending / remaining, 0.0)  # a layer of zeros scores 0
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
    arXiv:1608.08710, who find it neither better nor worse than the sum of absolute values.

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
    """Score each weight, or unit, by a random number: the baseline that every criterion must beat.

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

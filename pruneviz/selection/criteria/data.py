"""Which criteria need data? They use the activations of units and the gradients of the loss."""

from __future__ import annotations

from torch import Tensor

from pruneviz.evidence.moments import Moments
from pruneviz.selection.criteria.registry import GRANULARITIES, register


@register(
    "taylor",
    source="Molchanov et al. 2019, arXiv:1906.10771, eq. 8",
    formula="E[g²] w²; of a unit: the sum",
    needs=("weight", "grad_sq"),
    scope="global",
    granularity=GRANULARITIES,
    unit=lambda matrix, grad_sq: taylor(matrix, grad_sq).sum(1),
)
def taylor(weight: Tensor, grad_sq: Tensor) -> Tensor:
    """Score each weight by the mean square of the loss's first-order change when it is removed.

    References
    ----------
    Molchanov, Mallya, Tyree, Frosio, Kautz 2019, "Importance Estimation for Neural Network Pruning",
    arXiv:1906.10771, eq. 8: (g w)², here its mean over single examples.

    Examples
    --------
    >>> import torch
    >>> taylor(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 9.0]))
    tensor([4., 9.])
    """
    return grad_sq * weight.to(grad_sq.dtype) ** 2


@register(
    "fisher",
    source="LeCun et al. 1989, Optimal Brain Damage; Fisher: Theis et al. 2018, arXiv:1801.05787",
    formula="½ F w², F = E[g²] for drawn labels; of a unit: the sum",
    needs=("weight", "fisher"),
    scope="global",
    granularity=GRANULARITIES,
    unit=lambda matrix, fisher: fisher_obd(matrix, fisher).sum(1),
)
def fisher_obd(weight: Tensor, fisher: Tensor) -> Tensor:
    """Score each weight by the loss's second-order change when it is removed; diagonal curvature.

    The diagonal of the Fisher information replaces that of the Hessian. Both are equal where the
    model's predicted probabilities match the data.

    References
    ----------
    LeCun, Denker, Solla 1989, "Optimal Brain Damage", eq. 5: ½ h w².
    Theis, Korshunova, Tejani, Huszár 2018, arXiv:1801.05787, eq. 9: the Fisher information.

    Examples
    --------
    >>> import torch
    >>> fisher_obd(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 9.0]))
    tensor([2.0000, 4.5000])
    """
    return 0.5 * fisher * weight.to(fisher.dtype) ** 2


@register(
    "wanda",
    source="Sun et al. 2023, arXiv:2306.11695, eq. 1",
    formula="|w| √E[a²]; of a unit: √ Σ w² E[a²]",
    needs=("weight", "input_sq"),
    granularity=GRANULARITIES,
    unit=lambda matrix, input_sq: wanda(matrix, input_sq).square().sum(1).sqrt(),
)
def wanda(weight: Tensor, input_sq: Tensor) -> Tensor:
    """Score each weight by its absolute value times the root mean square of its input.

    The paper ranks within each output. Here the ranking is over the layer or over the whole model,
    as for every criterion.

    References
    ----------
    Sun, Liu, Bair, Kolter 2023, "A Simple and Effective Pruning Approach for Large Language Models",
    arXiv:2306.11695, eq. 1: |w| ‖x‖₂.

    Examples
    --------
    >>> import torch
    >>> wanda(torch.tensor([[-2.0, 1.0]]), torch.tensor([[1.0, 16.0]]))
    tensor([[2., 4.]])
    """
    return weight.to(input_sq.dtype).abs() * input_sq.sqrt()


@register(
    "activation",
    source="Molchanov et al. 2017, arXiv:1611.06440, §2.2",
    formula="mean of the unit's activation",
    needs=("reads",),
    granularity="unit",
)
def activation(units: Tensor, reads: Moments) -> Tensor:
    """Score each unit by the mean of its activation, at the input of its consumer.

    Use it for activations that are never negative, such as ReLU's: others can cancel out.

    References
    ----------
    Molchanov, Tyree, Karras, Aila, Kautz 2017, "Pruning Convolutional Neural Networks for Resource
    Efficient Inference", arXiv:1611.06440, §2.2, "Activation".

    Examples
    --------
    >>> import torch
    >>> reads = Moments.of(torch.tensor([[[1.0], [3.0]], [[0.0], [0.0]]]))  # (units, rows, 1)
    >>> activation(torch.empty(2), reads)
    tensor([2., 0.], dtype=torch.float64)
    """
    return reads.mean.mean(1)


@register(
    "apoz",
    source="Hu et al. 2016, arXiv:1607.03250, eq. 1",
    formula="1 − share of zeros (APoZ)",
    needs=("reads",),
    granularity="unit",
)
def apoz(units: Tensor, reads: Moments) -> Tensor:
    """Score each unit by how often it is not 0: one minus the average percentage of zeros.

    References
    ----------
    Hu, Peng, Tai, Tang 2016, "Network Trimming", arXiv:1607.03250, eq. 1.

    Examples
    --------
    >>> import torch
    >>> reads = Moments.of(torch.tensor([[[1.0], [3.0]], [[0.0], [5.0]]]))
    >>> apoz(torch.empty(2), reads)
    tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    return 1 - reads.zero_fraction.mean(1)

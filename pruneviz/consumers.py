"""Layers that multiply what they read with a weight: who they are, and that weight as a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pruneviz._attention import SlimAttention
from pruneviz.hooks import evaluating


def is_consumer(module: nn.Module) -> bool:
    """Whether a layer is a Linear, a convolution (not a transposed one), or GPT-2's Conv1D."""
    if isinstance(module, _ConvNd):
        return not isinstance(module, _ConvTransposeNd)
    return isinstance(module, nn.Linear) or turned(module)


def turned(module: nn.Module) -> bool:
    """Whether it is GPT-2's Conv1D: a Linear whose weight has the shape (inputs, outputs)."""
    if not hasattr(module, "nf"):  # asked first: reading a weight may run a parametrization
        return False
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2


def consumers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of a model that multiply what they read with a weight, by name.

    >>> list(consumers(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))))
    ['0', '2']
    """
    return {name: m for name, m in model.named_modules() if is_consumer(m)}


def weight_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights of those layers, by the layers' names."""
    with evaluating(model):  # reading a weight may run a parametrization
        return {n: tuple(m.weight.shape) for n, m in consumers(model).items()}  # type: ignore[arg-type]


def matrix_of(module: nn.Module) -> Tensor:
    """Return the weight as it multiplies columns: (outputs, n), or (groups, outputs / groups, n).

    >>> matrix_of(nn.Conv2d(4, 6, 3)).shape, matrix_of(nn.Conv2d(4, 6, 3, groups=2)).shape
    (torch.Size([6, 36]), torch.Size([2, 3, 18]))
    """
    weight: Tensor = module.weight.detach()  # type: ignore[operator]
    if turned(module):
        return weight.T
    flat = weight.flatten(1)
    groups = getattr(module, "groups", 1)
    return flat if groups == 1 else flat.unflatten(0, (groups, -1))


def shaped(module: nn.Module, matrix: Tensor) -> Tensor:
    """Return such a matrix in the shape of the layer's weight."""
    weight: Tensor = module.weight  # type: ignore[assignment]
    if turned(module):
        return matrix.T.contiguous().to(weight)
    return matrix.reshape(weight.shape).to(weight)


@contextmanager
def open_attention(model: nn.Module) -> Iterator[None]:
    """Let torch's attention layers call their output projection as the layer that it is.

    torch passes the projection's tensors to one function, past every hook; our own class computes
    the same, layer by layer. Undone afterwards.
    """
    closed = [m for m in model.modules() if type(m) is nn.MultiheadAttention]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for m in closed:
            m.__class__ = SlimAttention
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for m in closed:
            m.__class__ = nn.MultiheadAttention

"""Which layers multiply their input with a weight? The consumers, and their weights as matrices."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pruneviz.model.attention import SlimAttention
from pruneviz.model.hooks import evaluating, no_fast_path


def is_consumer(module: nn.Module) -> bool:
    """Whether a layer is a Linear, a convolution (not a transposed one), or GPT-2's Conv1D."""
    if isinstance(module, _ConvNd):
        return not isinstance(module, _ConvTransposeNd)
    return isinstance(module, nn.Linear) or is_conv1d(module)


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is GPT-2's Conv1D: a Linear whose weight has the shape (inputs, outputs)."""
    if not hasattr(module, "nf"):  # asked first: reading a weight may run a parametrization
        return False
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2


def consumers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of a model that multiply their input with a weight, by name.

    >>> list(consumers(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))))
    ['0', '2']
    """
    return {name: m for name, m in model.named_modules() if is_consumer(m)}


def weight_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights of all consumers, by the layers' names."""
    with evaluating(model):  # reading a weight may run a parametrization
        return {n: tuple(weight_of(m).shape) for n, m in consumers(model).items()}


def weight_of(module: nn.Module) -> Tensor:
    """Return a layer's weight as the forward uses it, detached."""
    return cast(Tensor, module.weight).detach()


def blocks_of(module: nn.Module) -> Tensor:
    """Return the weight as matrices, one per group of a convolution: (groups, outputs / groups, n).

    >>> blocks_of(nn.Conv2d(4, 6, 3)).shape, blocks_of(nn.Conv2d(4, 6, 3, groups=2)).shape
    (torch.Size([1, 6, 36]), torch.Size([2, 3, 18]))
    """
    weight = weight_of(module)
    flat = weight.T if is_conv1d(module) else weight.flatten(1)
    return flat.unflatten(0, (getattr(module, "groups", 1), -1))


def shaped(module: nn.Module, matrix: Tensor) -> Tensor:
    """Return blocks as from `blocks_of`, or one matrix (outputs, n), in the shape of the weight."""
    weight = weight_of(module)
    if is_conv1d(module):
        return matrix.flatten(0, -2).T.contiguous().to(weight)
    return matrix.reshape(weight.shape).to(weight)


def columns_of(index: np.ndarray, taps: int) -> Tensor:
    """Return the columns of the weight matrix, (units, k · taps), for inputs `index`, (units, k).

    >>> columns_of(np.array([[1], [0]]), 2)
    tensor([[2, 3],
            [0, 1]])
    """
    places = torch.from_numpy(index.astype("int64"))
    return (places.unsqueeze(-1) * taps + torch.arange(taps)).flatten(1)


_open_lock = threading.Lock()
_open: dict[nn.Module, int] = {}  # attention layers that are opened now, and how many times


@contextmanager
def open_attention(model: nn.Module) -> Iterator[None]:
    """Let torch's attention layers call their output projection as a layer, so that hooks see it.

    torch passes the projection's tensors to one function, so no hook of the projection runs.
    `SlimAttention` computes the same layer by layer. The last thread that leaves undoes it.
    """
    with _open_lock:
        found = [m for m in model.modules() if type(m) is nn.MultiheadAttention or m in _open]
        for m in found:
            m.__class__ = SlimAttention
            _open[m] = _open.get(m, 0) + 1
    try:
        with no_fast_path():
            yield
    finally:
        with _open_lock:
            for m in found:
                _open[m] -= 1
                if not _open[m]:
                    del _open[m]
                    m.__class__ = nn.MultiheadAttention

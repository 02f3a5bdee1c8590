"""Which layers multiply their input with a weight? The consumers, and their weights as matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pruneviz.core.names import tensor_name
from pruneviz.model.attention import (
    InProjection,
    in_projections,
    is_attention,
    open_attention,
)
from pruneviz.model.hooks import evaluating, hooked_modules


def is_consumer(module: nn.Module) -> bool:
    """Whether a layer is a Linear, a convolution (also transposed), or GPT-2's Conv1D."""
    return isinstance(module, (nn.Linear, _ConvNd, InProjection)) or is_conv1d(module)


def is_convolution(module: nn.Module) -> bool:
    """Whether a layer is a convolution, plain or transposed."""
    return isinstance(module, _ConvNd)


def is_conv1d(module: nn.Module) -> bool:
    """Whether it is GPT-2's Conv1D: a Linear whose weight has the shape (inputs, outputs)."""
    if not hasattr(module, "nf"):  # asked first: reading a weight may run a parametrization
        return False
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and weight.ndim == 2


def consumers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of a model that multiply their input with a weight, by name.

    The in-projection of an `nn.MultiheadAttention` is one, too: ``"attn.in_proj"``.

    >>> list(consumers(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))))
    ['0', '2']
    """
    found: dict[str, nn.Module] = {}
    for name, m in model.named_modules():
        if is_consumer(m):
            found[name] = m
        elif is_attention(m):
            for p in in_projections(cast(nn.MultiheadAttention, m)):
                found[tensor_name(name, p.part)] = p
    return found


@contextmanager
def watched(
    model: nn.Module,
    layers: Iterable[str],
    fn: Callable[[str, tuple[Any, ...], Any], Tensor | None],
) -> Iterator[None]:
    """Call ``fn(name, inputs, output)`` after each run of one of the `consumers`, by name.

    Meanwhile attention is open, so that its projections run as layers.
    """
    with open_attention(model):
        known = {**dict(model.named_modules()), **consumers(model)}
        with hooked_modules({n: known[n] for n in layers}, fn):
            yield


def weight_name(layer: str, module: nn.Module) -> str:
    """Return the name of the weight of one of the `consumers`."""
    return f"{layer}_weight" if isinstance(module, InProjection) else tensor_name(layer)


def bias_name(layer: str, module: nn.Module) -> str:
    """Return the name of the bias of one of the `consumers`; ``""`` if it has only a part of one."""
    if isinstance(module, InProjection):
        return f"{layer}_bias" if module.part == "in_proj" else ""
    return tensor_name(layer, "bias")


def input_dim(module: nn.Module) -> int:
    """Return the dimension of a layer's weight that its inputs are multiplied with."""
    return 0 if is_conv1d(module) or isinstance(module, _ConvTransposeNd) else 1


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
    >>> blocks_of(nn.ConvTranspose2d(4, 6, 3)).shape
    torch.Size([1, 6, 36])
    """
    return blocks_in(module, weight_of(module))


def blocks_in(module: nn.Module, weight: Tensor) -> Tensor:
    """Return a tensor of the shape of a layer's weight as matrices, as `blocks_of` does."""
    groups: int = getattr(module, "groups", 1)
    if isinstance(module, _ConvTransposeNd):  # (inputs, outputs / groups, ...)
        return weight.unflatten(0, (groups, -1)).flatten(3).transpose(1, 2).flatten(2)
    flat = weight.T if is_conv1d(module) else weight.flatten(1)
    return flat.unflatten(0, (groups, -1))


def shaped(module: nn.Module, matrix: Tensor, shape: Iterable[int] | None = None) -> Tensor:
    """Return blocks as from `blocks_of`, or one matrix (outputs, n), in the shape of the weight.

    `shape`: that of a smaller weight.
    """
    size = tuple(weight_of(module).shape if shape is None else shape)
    flat = matrix.flatten(0, -2)
    if is_conv1d(module):
        return flat.T.reshape(size)
    if isinstance(module, _ConvTransposeNd):  # (groups, outputs, inputs, taps)
        blocks = flat.reshape(module.groups, size[1], size[0] // module.groups, -1)
        return blocks.transpose(1, 2).reshape(size)
    return flat.reshape(size)


def columns_of(index: np.ndarray, taps: int) -> Tensor:
    """Return the columns of the weight matrix, (units, k · taps), for inputs `index`, (units, k).

    >>> columns_of(np.array([[1], [0]]), 2)
    tensor([[2, 3],
            [0, 1]])
    """
    places = torch.from_numpy(index.astype("int64"))
    return (places.unsqueeze(-1) * taps + torch.arange(taps)).flatten(1)

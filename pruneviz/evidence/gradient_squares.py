"""What are the squared gradients of single examples? From layer inputs and output gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruneviz.core.names import at_least_float32
from pruneviz.model.patches import patches

MAX_NUMBERS = 1 << 24  # numbers of single examples' gradients in memory at once


def pairs_of(module: nn.Module, x: Tensor, g: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return input and output gradient as (groups, n, positions, columns) and (…, outputs)."""
    x, g = at_least_float32(x), at_least_float32(g)
    if isinstance(module, _ConvNd):
        groups = module.groups
        x, g = patches(module, x, g.shape[2:]), g.flatten(2).transpose(1, 2)
        x, g = (torch.stack(t.chunk(groups, -1)) for t in (x, g))
    else:
        x, g = x.unsqueeze(0), g.unsqueeze(0)
    return x.reshape(x.shape[0], n, -1, x.shape[-1]), g.reshape(g.shape[0], n, -1, g.shape[-1])


def sum_of_squares(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Return Σ over examples of one example's squared gradient; (groups · outputs, columns)."""
    x, g = pairs[0]
    if len(pairs) == 1 and x.shape[2] == 1:  # one position: (g x)² = g² x², so no loop is needed
        x, g = x[:, :, 0].double(), g[:, :, 0].double()
        return ((g * g).mT @ (x * x)).flatten(0, 1)
    total = torch.zeros(x.shape[0], g.shape[-1], x.shape[-1], dtype=torch.float64, device=x.device)
    step = max(1, MAX_NUMBERS // total.numel())
    for i in range(0, x.shape[1], step):
        gradients = sum(b[:, i : i + step].mT @ a[:, i : i + step] for a, b in pairs)
        total += (gradients.double() ** 2).sum(1)  # type: ignore[union-attr]
    return total.flatten(0, 1)


def is_table(module: nn.Module) -> bool:
    """Whether a layer is a table (an embedding) whose rows are looked up."""
    return isinstance(module, nn.Embedding)


def table_squares(
    lookups: list[Any], shape: Sequence[int], n: int, pairs: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """Return Σ over examples of the squared gradient of an embedding's weight.

    If one example looks a row up twice, both gradients are added before squaring. `pairs` are the
    gradients b of layers that share the weight: their b² is counted elsewhere, so this adds
    (a + b)² − b² for the embedding's own gradient a.
    """
    rows, width = shape
    keys, values = [], []
    for module, ids, g in lookups:
        g = g.reshape(-1, width).double()
        if module.padding_idx is not None:  # the padding row gets no gradient
            g = g.masked_fill((ids == module.padding_idx).reshape(-1, 1), 0)
        ids = ids.reshape(n, -1)
        keys.append((ids + rows * torch.arange(n, device=ids.device).unsqueeze(1)).flatten())
        values.append(g)
    key, place = torch.cat(keys).unique(return_inverse=True)
    summed = values[0].new_zeros(len(key), width).index_add(0, place, torch.cat(values))
    squares = summed**2
    for i in range(n) if pairs else ():
        here = (key // rows == i).nonzero()[:, 0]
        other = sum(g[0, i][:, key[here] % rows].mT @ x[0, i] for x, g in pairs)
        squares[here] += 2 * summed[here] * other
    return values[0].new_zeros(rows, width).index_add(0, key % rows, squares)


def channels_last(module: nn.Module, g: Tensor) -> Tensor:
    """Return a gradient with the outputs of its layer in the last dimension."""
    return g.flatten(2).transpose(1, 2) if isinstance(module, _ConvNd) else g

"""What the units of a group are made of: their incoming weights, one row a unit."""

from __future__ import annotations

from typing import TypeGuard

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from pruneviz.core.groups import Group
from pruneviz.core.names import unmasked_name
from pruneviz.core.slices import Slice
from pruneviz.model.tensors import Held, matrix
from pruneviz.redundancy.similarity import norms

Found = dict[tuple[str, int], tuple[Slice, Held]]  # what a layer holds: by attribute, dimension


def parts_of(g: Group, have: dict[str, Held], roles: tuple[str, ...]) -> list[np.ndarray]:
    """Return the units that can stand in for each other: those of one block of grouped convolutions."""
    blocks = [np.zeros((g.size, 1), np.int64)]
    for s in g.slices:
        module, weight = (
            have[unmasked_name(s.tensor)].holders[0][0],
            have[unmasked_name(s.tensor)].tensor,
        )
        if not isinstance(module, _ConvNd) or weight.ndim < 2 or _depthwise(g, s.layer, module):
            continue
        reads = s.dim == (0 if module.transposed else 1)
        if ("in" if reads else "out") in roles:
            channels = module.in_channels if reads else module.out_channels
            blocks.append(s.index // (channels // module.groups))
    label = np.unique(np.concatenate(blocks, 1), axis=0, return_inverse=True)[1].ravel()
    return [np.flatnonzero(label == b) for b in range(label.max() + 1)]


def _depthwise(g: Group, layer: str, module: nn.Module) -> bool:
    """Whether a layer takes each unit of the group by itself, and so produces none."""
    alone = isinstance(module, _ConvNd) and 1 < module.groups == module.in_channels
    return alone and layer != g.producers[0]


def weight_rows(g: Group, have: dict[str, Held]) -> Tensor:
    """Return what the units compute, shape (units, numbers): t times a unit has t times its row.

    Producers, whose results are added, stand side by side. What comes later, such as a depthwise
    convolution, multiplies a unit by some numbers and adds others: multiples of one unit stay so, if
    (size × multiplied, added) are multiples as well. These are appended, and set the size.
    """
    layers: dict[str, Found] = {}
    for s in g.slices:
        h = have[unmasked_name(s.tensor)]
        seen = h.visible
        # of weight_norm the norms stand for the whole weight: they have as many rows
        fits = seen.ndim == h.tensor.ndim and seen.shape[s.dim] == h.tensor.shape[s.dim]
        if s.role == "out" and fits and seen.is_floating_point():
            layers.setdefault(s.layer, {})[h.holders[0][1], s.dim] = s, h
    producers: list[list[Tensor]] = []  # of each its weights, then its bias: (units, k, numbers)
    later: list[tuple[Tensor, Tensor]] = []  # what multiplies, what is added: (units, numbers)
    ready = False  # whether the layer before made the units: a norm is folded into it
    for layer, found in layers.items():
        module = next(iter(found.values()))[1].holders[0][0]
        times, plus = _numbers(module, found)
        if (
            ready
            and _is_affine(module)
            and all(w.shape[1] == times[0].shape[1] for w in producers[-1])
        ):
            *weights, bias = (w * times[0].to(w) for w in producers[-1])
            producers[-1] = [*weights, bias + plus[0].to(bias)]
            ready = False
            continue
        made = any(h.visible.ndim > 1 for _, h in found.values())
        ready = made and not _depthwise(g, layer, module)
        if ready:
            plus = plus or [times[0].new_zeros(*times[0].shape[:2], 1)]
            producers.append(times + plus)
        else:
            later.append((_joined(times), _joined(plus or [times[0][:, :, :0]])))
    rows = _joined([w for ws in producers for w in ws] or [torch.zeros(g.size, 1, 1)])
    for multiplied, added in later:
        size = norms(rows).unsqueeze(1)
        more = torch.cat([size * multiplied, added], 1).where(size > 0, 0)
        rows = rows * (norms(more).unsqueeze(1) / size.where(size > 0, 1)).to(rows)
        rows = torch.cat([rows, more.to(rows)], 1) / 2**0.5
    return rows


def _numbers(module: nn.Module, found: Found) -> tuple[list[Tensor], list[Tensor]]:
    """Return what multiplies a unit in a layer, and what it adds: shapes (units, k, numbers)."""
    if _is_affine(module):
        s = next(iter(found.values()))[0]
        assert module.running_var is not None and module.running_mean is not None
        factor = (module.running_var.double() + module.eps).rsqrt()
        factor = factor if module.weight is None else factor * module.weight
        shift = -factor * module.running_mean
        shift = shift if module.bias is None else shift + module.bias
        return [_numbered(factor, s)], [_numbered(shift, s)]
    times: list[Tensor] = []
    plus: list[Tensor] = []
    for (attribute, _), (s, h) in found.items():
        bias = attribute.endswith("bias") and h.visible.ndim == 1
        (plus if bias else times).append(_numbered(h.visible, s))
    if not times or isinstance(module, nn.PReLU):  # on one side of zero it multiplies by 1
        times.append(torch.ones_like((times + plus)[0]))
    return times, plus


def _is_affine(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether it is a batch norm that multiplies and adds constants, rather than a batch's own."""
    return isinstance(module, _BatchNorm) and module.running_var is not None


def _numbered(tensor: Tensor, s: Slice) -> Tensor:
    return matrix(tensor.detach(), s).unflatten(1, (s.width, -1))


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([w.flatten(1) for w in parts], 1)

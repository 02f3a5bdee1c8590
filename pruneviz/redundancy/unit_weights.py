"""Which numbers define each unit of a group? Its incoming weights, as one row per unit."""

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

Found = dict[tuple[str, int], tuple[Slice, Held]]  # (attribute, dimension) -> a layer's tensor


def parts_of(g: Group, have: dict[str, Held], roles: tuple[str, ...]) -> list[np.ndarray]:
    """Return the sets of units that can replace each other: blocks of grouped convolutions."""
    blocks = [np.zeros((g.size, 1), np.int64)]
    for s in g.slices:
        held = have[unmasked_name(s.tensor)]
        module, weight = held.holders[0][0], held.tensor
        if not isinstance(module, _ConvNd) or weight.ndim < 2 or _depthwise(g, s.layer, module):
            continue
        reads = s.dim == (0 if module.transposed else 1)
        if ("in" if reads else "out") in roles:
            channels = module.in_channels if reads else module.out_channels
            blocks.append(s.index // (channels // module.groups))
    label = np.unique(np.concatenate(blocks, 1), axis=0, return_inverse=True)[1].ravel()
    return [np.flatnonzero(label == b) for b in range(label.max() + 1)]


def _depthwise(g: Group, layer: str, module: nn.Module) -> bool:
    """Whether a layer processes each unit of the group separately, and so produces none of them."""
    is_depthwise = isinstance(module, _ConvNd) and 1 < module.groups == module.in_channels
    return is_depthwise and layer != g.producers[0]


def weight_rows(g: Group, have: dict[str, Held]) -> Tensor:
    """Return the numbers that define the units, shape (units, numbers): t × a unit has t × its row.

    Producers, whose results are added, are concatenated. A later layer, such as a depthwise
    convolution, multiplies each unit by some numbers and adds others. If one unit is a multiple of
    another, it is so after that layer only if (size × multiplied, added) are multiples as well:
    these numbers are appended, and the row is scaled by their norm.
    """
    layers: dict[str, Found] = {}
    for s in g.slices:
        h = have[unmasked_name(s.tensor)]
        weight = h.visible
        # the norms of weight_norm count as the whole weight: they have as many rows
        fits = weight.ndim == h.tensor.ndim and weight.shape[s.dim] == h.tensor.shape[s.dim]
        if s.role == "out" and fits and weight.is_floating_point():
            layers.setdefault(s.layer, {})[h.holders[0][1], s.dim] = s, h
    producers: list[list[Tensor]] = []  # for each its weights, then its bias: (units, k, numbers)
    later: list[tuple[Tensor, Tensor]] = []  # (factors, added numbers): (units, numbers)
    ready = False  # whether the layer before is a producer: then a norm is folded into it
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
        is_matrix = any(h.visible.ndim > 1 for _, h in found.values())
        ready = is_matrix and not _depthwise(g, layer, module)
        if ready:
            plus = plus or [times[0].new_zeros(*times[0].shape[:2], 1)]
            producers.append(times + plus)
        else:
            later.append((_joined(times), _joined(plus or [times[0][:, :, :0]])))
    rows = _joined([w for ws in producers for w in ws] or [torch.zeros(g.size, 1, 1)])
    for multiplied, added in later:
        size = norms(rows).unsqueeze(1)
        appended = torch.cat([size * multiplied, added], 1).where(size > 0, 0)
        rows = rows * (norms(appended).unsqueeze(1) / size.where(size > 0, 1)).to(rows)
        rows = torch.cat([rows, appended.to(rows)], 1) / 2**0.5
    return rows


def _numbers(module: nn.Module, found: Found) -> tuple[list[Tensor], list[Tensor]]:
    """Return the numbers that multiply a unit in a layer, and those added: (units, k, numbers)."""
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
    if not times or isinstance(module, nn.PReLU):  # PReLU multiplies positive numbers by 1
        times.append(torch.ones_like((times + plus)[0]))
    return times, plus


def _is_affine(module: nn.Module) -> TypeGuard[_BatchNorm]:
    """Whether it is a batch norm with running statistics: in eval mode it is a fixed affine map."""
    return isinstance(module, _BatchNorm) and module.running_var is not None


def _numbered(tensor: Tensor, s: Slice) -> Tensor:
    return matrix(tensor.detach(), s).unflatten(1, (s.width, -1))


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat([w.flatten(1) for w in parts], 1)

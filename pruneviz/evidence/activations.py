"""What is each unit's activation on each example? Measured at the input of its first consumer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Group, Groups
from pruneviz.core.slices import Slice
from pruneviz.model.forward import arguments, run_forward
from pruneviz.model.hooks import evaluating, plain_torch
from pruneviz.model.layers import consumers, watched
from pruneviz.model.patches import batched


@plain_torch()
def activations(model: nn.Module, x: Any, *, groups: Groups, group: str) -> Tensor:
    """Return each unit's activation on each example, at the input of the first layer that reads it.

    Parameters
    ----------
    model : nn.Module
        Not changed. It runs in eval mode.
    x : Tensor, tuple or dict
        Arguments of the forward; the first dimension is the examples.
    groups : Groups
        From `find_groups` on the same model.
    group : str
        Name of one of the groups, or of a layer whose units are one group.

    Returns
    -------
    Tensor, shape (units, examples), on the CPU
        The mean over the positions of a unit: over the pixels of a channel, or over tokens.

    Raises
    ------
    ArgumentError
        If there is no such group, no Linear or Conv layer reads it, or the forward raises.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> x = torch.randn(5, 2)
    >>> a = pv.activations(model, x, groups=pv.find_groups(model, x), group="0")
    >>> a.shape, bool(torch.allclose(a, torch.relu(model[0](x)).T))
    (torch.Size([3, 5]), True)
    """
    model = checks.unwrapped(model)
    checks.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
    chosen, known = _group_named(groups, group), consumers(model)
    reader = next((s for s in chosen.reads if s.reader in known), None)
    if reader is None:
        raise ArgumentError(
            f"no Linear or Conv layer of `model` reads group {chosen.name!r} "
            f"({', '.join(chosen.consumers) or 'no layer does'}). Choose another group: "
            f"{', '.join(g.name for g in groups if g.consumers) or 'there is none'}."
        )
    layer, first_input = reader.reader, list[Tensor]()

    def watch(name: str, inputs: tuple[Any, ...], output: Any) -> None:
        if not first_input:  # a layer may run several times
            first_input.append(inputs[0].detach())

    args, kwargs = arguments(x, "`x`")
    with (
        torch.inference_mode(False),
        evaluating(model),
        watched(model, [layer], watch),
    ):
        run_forward(model, args, kwargs, "`x`")
    if not first_input:
        raise ArgumentError(
            f"layer {layer!r} never ran as a layer, so its input is not known. Let the forward "
            "call the layer, or choose another group."
        )
    return _of_units(known[layer], first_input[0], reader)


def activations_of_parts(
    model: nn.Module, parts: Iterable[Tensor], *, groups: Groups, group: str
) -> np.ndarray:
    """Return the activations on examples of several shapes, concatenated; (units, examples).

    >>> import pruneviz as pv
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> groups = pv.find_groups(model, torch.zeros(2, 2))
    >>> activations_of_parts(model, [torch.zeros(2, 2), torch.zeros(5, 2)], groups=groups, group="0").shape
    (3, 7)
    """
    per_part = [activations(model, x, groups=groups, group=group) for x in parts]
    return torch.cat(per_part, 1).float().numpy()


def _group_named(groups: Groups, name: str) -> Group:
    """Return the group of that name, or else the only group of the layer of that name."""
    if name in groups.names:
        return groups[name]
    found = groups.groups_of(name)
    if len(found) > 1:
        raise ArgumentError(
            f"the units of layer {name!r} are in {len(found)} groups. Name one of them: "
            f"{', '.join(repr(g.name) for g in found)}."
        )
    return found[0]


def _of_units(module: nn.Module, x: Tensor, reader: Slice) -> Tensor:
    columns = batched(module, x).flatten(2) if isinstance(module, _ConvNd) else x
    if columns.ndim == 1:
        columns = columns.unsqueeze(0)
    if isinstance(module, _ConvNd):
        means = columns.mean(2)  # (examples, channels)
    else:
        means = columns.flatten(1, -2).mean(1) if columns.ndim > 2 else columns
    at = torch.from_numpy(reader.index.astype("int64")).to(means.device)  # (units, k)
    if int(at.max()) >= means.shape[1]:
        raise ArgumentError(
            f"`groups` are of another model: layer {reader.layer!r} has {means.shape[1]} input "
            f"columns, but they name column {int(at.max())}. Make them: pv.find_groups(model, "
            "example_input)."
        )
    return means[:, at].mean(2).T.contiguous().cpu()

"""Where a removal leaves layers with fewer inputs, and what could take up a constant behind them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pruneviz.core.groups import Groups
from pruneviz.core.names import tensor_name
from pruneviz.graph.state import Walk
from pruneviz.graph.values import name_of, operand
from pruneviz.model.layers import blocks_of, columns_of, consumers, is_conv1d
from pruneviz.model.tensors import holders_of


@dataclass(frozen=True, eq=False)
class Site:
    """A layer that lost inputs.

    Parameters
    ----------
    layer : str
    columns : Tensor of bool, shape (groups, n)
        Which columns of its weight as a matrix stay.
    rows : Tensor of bool, shape (groups, outputs / groups)
        Which of its outputs stay.
    units : dict of str to Tensor
        For each group that it reads: the columns of each unit, shape (units, k).
    sink : tuple of (str, str)
        What takes up a constant: ``("bias", name)``, ``("running_mean", name)`` of the batch norm
        behind it, or ``("", "")``: nothing.
    """

    layer: str
    columns: Tensor
    rows: Tensor
    units: dict[str, Tensor]
    sink: tuple[str, str]


def sites(w: Walk, model: nn.Module, gone: np.ndarray, groups: Groups) -> list[Site]:
    """Return the layers that lose inputs and whose weights can be given new values, in forward order."""
    known = consumers(model)
    shared = {n for n, (_, places) in holders_of(model).items() if len(places) > 1}
    sinks, found = sinks_of(w), {}
    sinks |= {n: ("", "") for n, (_, sink) in sinks.items() if sink in shared}
    keys = {(name, dim): blocks for name, dim, blocks in w.tensors if blocks > 1}
    for layer, module in known.items():
        name = tensor_name(layer)
        if name in shared or name not in sinks:
            continue
        inputs, outputs = (0, 1) if is_conv1d(module) else (1, 0)
        blocks = keys.get((name, inputs), 1)
        parts, made, n = blocks_of(module).shape
        columns = _kept(w, gone, (name, inputs, blocks), parts, n)
        if columns.all() or parts != blocks:
            continue
        taps = n * blocks // w.tensors[name, inputs, blocks].size
        units = {
            g.name: columns_of(s.index, taps)
            for g in groups
            for s in g.slices
            if (s.tensor, s.dim, s.blocks) == (name, inputs, blocks)
        }
        rows = _kept(w, gone, (name, outputs, 1), parts, made)
        found[layer] = Site(layer, columns, rows, units, sinks[name])
    order = {w.traced.sources[e.weight][1]: i for i, e in enumerate(w.ends)
             if e.weight in w.traced.sources}  # fmt: skip
    return sorted(found.values(), key=lambda s: order[tensor_name(s.layer)])


def sinks_of(w: Walk) -> dict[str, tuple[str, str]]:
    """For each weight that sums up units: the tensor that can take up a constant behind it.

    None can where a weight is used in several places with different ones behind, or where the tensor
    serves other weights too.
    """
    source = w.traced.sources
    weights = {e.node: source[e.weight][1] for e in w.ends if e.weight in source}
    found: dict[str, set[tuple[str, str]]] = {}
    for end in w.ends:
        if end.node not in weights:
            continue
        name, kind, sink, behind = weights[end.node], "bias", end.bias, list(end.node.users)
        if sink is None and len(behind) == 1 and name_of(behind[0]) == "batch_norm":
            kind, sink = "running_mean", operand(behind[0], "running_mean")
        takes = found.setdefault(name, set())
        if sink is None or sink not in source:
            takes.add(("", ""))
            continue
        users = w.traced.live & set(sink.users)
        served = [{weights[n] for n in (u, *u.all_input_nodes) if n in weights} for u in users]
        takes.add((kind, source[sink][1]) if all(s == {name} for s in served) else ("", ""))
    return {name: sinks.pop() if len(sinks) == 1 else ("", "") for name, sinks in found.items()}


def _kept(w: Walk, gone: np.ndarray, key: tuple[str, int, int], groups: int, n: int) -> Tensor:
    ids = w.tensors.get(key)
    if ids is None:
        return torch.ones(groups, n, dtype=torch.bool)
    stays = torch.from_numpy(~gone[w.atoms.roots(ids)])
    return stays.repeat_interleave(groups * n // len(stays)).reshape(groups, n)

"""Which layers lose inputs by a removal, and which tensor behind each can absorb a constant."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from pruneviz.core.groups import Groups
from pruneviz.core.names import unmasked_name
from pruneviz.graph.grouping import is_needed
from pruneviz.graph.state import Walk
from pruneviz.graph.values import name_of, operand
from pruneviz.model.layers import blocks_of, columns_of, consumers, input_dim, weight_name
from pruneviz.model.tensors import tensors_by_name


@dataclass(frozen=True, eq=False)
class Site:
    """A layer that lost inputs.

    Parameters
    ----------
    layer : str
    columns : Tensor of bool, shape (groups, n)
        The kept columns of its weight as a matrix.
    rows : Tensor of bool, shape (groups, outputs / groups)
        Its kept outputs.
    units : dict of str to Tensor
        For each group that the layer reads: the columns of each unit, shape (units, k).
    sink : tuple of (str, str)
        Kind and name of the tensor that absorbs a constant: ``("bias", name)``, ``("running_mean",
        name)`` of the batch norm behind the layer, or ``("", "")`` if there is none.
    """

    layer: str
    columns: Tensor
    rows: Tensor
    units: dict[str, Tensor]
    sink: tuple[str, str]


def sites(
    w: Walk, model: nn.Module, removed: np.ndarray, groups: Groups
) -> tuple[list[Site], dict[str, str]]:
    """Return, in forward order, the layers that lose inputs and whose weights can be changed.

    And those that lose inputs and cannot be repaired, with the reason.
    """
    known = consumers(model)
    shared = {n for n, h in tensors_by_name(model).items() if len(h.holders) > 1}
    sinks, found, refused = sinks_of(w), {}, {}
    sinks |= {n: ("", "") for n, (_, sink) in sinks.items() if unmasked_name(sink) in shared}
    keys = {(name, dim): blocks for name, dim, blocks in w.tensors if blocks > 1}
    for layer, module in known.items():
        name, inputs = weight_name(layer, module), input_dim(module)
        blocks = keys.get((name, inputs), 1)
        parts, n_rows, n = blocks_of(module).shape
        columns = _kept(w, removed, (name, inputs, blocks), parts, n)
        # of a grouped transposed convolution the rows are numbered across the groups
        row_blocks = keys.get((name, 1 - inputs), 1) if inputs == 0 else 1
        alone = parts > 1 and parts == getattr(module, "in_channels", 0)
        if columns.all() or alone:  # depthwise: it loses whole channels, and the others stay
            continue
        if not is_needed(w, name):  # no output depends on it: there is nothing to repair
            continue
        if name in shared or name not in sinks or parts not in (blocks, row_blocks):
            refused[layer] = (
                "its weight belongs to another layer, too" if name in shared
                else "its weight is computed in the forward, or multiplies something else, too"
            )  # fmt: skip
            continue
        taps = n * parts // w.tensors[name, inputs, blocks].size
        units = {
            g.name: columns_of(s.index, taps)
            for g in groups
            for s in g.slices
            if (s.tensor, s.dim, s.blocks) == (name, inputs, blocks)
        }
        rows = _kept(w, removed, (name, 1 - inputs, row_blocks), parts, n_rows)
        found[layer] = Site(layer, columns, rows, units, sinks[name])
    order = {w.traced.sources[e.weight][1]: i for i, e in enumerate(w.ends)
             if e.weight in w.traced.sources}  # fmt: skip
    names = {n: weight_name(n, m) for n, m in known.items()}
    return sorted(found.values(), key=lambda s: order[names[s.layer]]), refused


def sinks_of(w: Walk) -> dict[str, tuple[str, str]]:
    """Return, for each weight that sums over units, the tensor that absorbs a constant behind it.

    This is ``("", "")`` where the weight is used in several places with different such tensors, or
    where the tensor also belongs to other weights.
    """
    source = w.traced.sources  # node -> (kind, name of a tensor)
    weights = {e.node: source[e.weight][1] for e in w.ends if e.weight in source}
    found: dict[str, set[tuple[str, str]]] = {}
    for end in w.ends:
        if end.node not in weights:
            continue
        name, kind, sink, users = weights[end.node], "bias", end.bias, list(end.node.users)
        if sink is None and len(users) == 1 and name_of(users[0]) == "batch_norm":
            kind, sink = "running_mean", operand(users[0], "running_mean")
        candidates = found.setdefault(name, set())
        if sink is None or sink not in source:
            candidates.add(("", ""))
            continue
        # weights that meet the sink in one of its operators: all must be this one
        sink_users = w.traced.live & set(sink.users)
        met = [{weights[n] for n in (u, *u.all_input_nodes) if n in weights} for u in sink_users]
        candidates.add((kind, source[sink][1]) if all(s == {name} for s in met) else ("", ""))
    return {name: sinks.pop() if len(sinks) == 1 else ("", "") for name, sinks in found.items()}


def _kept(w: Walk, removed: np.ndarray, key: tuple[str, int, int], groups: int, n: int) -> Tensor:
    """Return what is kept along one dimension of a tensor, (groups, n)."""
    ids = w.tensors.get(key)
    if ids is None:
        return torch.ones(groups, n, dtype=torch.bool)
    kept = torch.from_numpy(~removed[w.atoms.roots(ids)])
    return kept.repeat_interleave(groups * n // len(kept)).reshape(groups, n)

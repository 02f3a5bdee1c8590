"""Does a silenced unit have an effect? It must arrive as 0, or as a constant that can be folded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from pruneviz.core.groups import Groups
from pruneviz.graph.grouping import build_groups, role, tensors_in_use_order
from pruneviz.graph.interpreter import run_graph, silenced
from pruneviz.graph.state import Walk
from pruneviz.graph.trace import layer_of
from pruneviz.graph.values import End
from pruneviz.model.tensors import tensors_of


def freeze_unfoldable(w: Walk) -> None:
    """Silence every second unit, run the graph once, and freeze the groups that fail.

    Where units are summed over, a silenced unit must arrive as 0, or as a constant that can be
    folded into a bias.
    """
    groups = build_groups(w, approximate=True)
    removed = every_second(w, groups)
    if not removed.any():
        return
    reason_of: dict[int, str] = {}

    def bad(end: End, at: np.ndarray, reason: str) -> None:
        reason_of.update(dict.fromkeys(w.atoms.roots(end.ids[at]).tolist(), reason))

    def constant(end: End, at: np.ndarray, c: Tensor, env: Callable[[Node], Any]) -> None:
        w.constants = True

    silent = silenced(w, tensors_of(w.traced.model), removed, roles_of(w))
    run_graph(
        w, silent, w.traced.inputs, removed=removed, watch=ends_watcher(w, removed, bad, constant)
    )
    for group in [g for g in groups if g.unused != "unrun"] if reason_of else ():
        s = group.slices[0]
        ids = w.tensors[s.tensor, s.dim, s.blocks][s.index.ravel()]
        found = [reason_of[r] for r in w.atoms.roots(ids).tolist() if r in reason_of]
        if found:  # all units of a group are produced in the same way, so freeze the whole group
            w.atoms.freeze(ids, found[0])


def roles_of(w: Walk) -> dict[tuple[str, int, int], str]:
    """Return the role of every dimension of every tensor."""
    makers = w.makers()
    return {key: role(w, key, makers) for key in tensors_in_use_order(w)}


def every_second(w: Walk, groups: Groups) -> np.ndarray:
    """Mark, by root, every second unit of each group that can be cut."""
    removed = np.zeros(w.atoms.size, bool)
    for group in groups.cuttable:
        chosen = np.concatenate([part[::2] for part in group.even_parts])
        s = group.slices[0]
        ids = w.tensors[s.tensor, s.dim, s.blocks][s.index[chosen]]
        removed[w.atoms.roots(ids.ravel())] = True
    return removed


def ends_watcher(
    w: Walk,
    removed: np.ndarray,
    bad: Callable[[End, np.ndarray, str], None],
    constant: Callable[[End, np.ndarray, Tensor, Callable[[Node], Any]], None] | None = None,
) -> Callable[[Node, Callable[[Node], Any]], None]:
    """Return a function for `run_graph(watch=)` that looks at the silenced units where they end.

    It calls `bad(end, positions, reason)` for units that arrive as neither 0 nor a constant that
    can be folded, and `constant(end, positions, values, env)` for units that arrive as a constant.
    `values` has one number per position.
    """
    ends: dict[Node, list[End]] = {}
    for end in w.ends:
        ends.setdefault(end.node, []).append(end)

    def watch(node: Node, env: Callable[[Node], Any]) -> None:
        for end in ends.get(node, ()):
            lost = np.flatnonzero(removed[w.atoms.roots(end.ids)])
            if not lost.size:
                continue
            low, high = value_range(env(end.value), end.dim, lost)
            zero = (low == 0) & (high == 0)
            if end.other is not None and not zero.all():
                other_range = value_range(env(end.other), end.weight_dim, lost)
                zero |= (other_range[0] == 0) & (other_range[1] == 0)
            nonzero = ~zero
            if not nonzero.any():
                continue
            scale = np.maximum(np.abs(low), np.abs(high))
            is_constant = high - low <= 1e-5 * scale
            where = layer_of(node) or "the model"
            if not np.isfinite(scale[nonzero]).all():
                bad(end, lost[nonzero], f"silenced, it is infinite or NaN at {where!r}")
            elif end.refuse:
                bad(end, lost[nonzero], f"silenced, it is not 0, and {end.refuse}")
            elif end.other is not None or end.weight is None or not is_constant[nonzero].all():
                bad(end, lost[nonzero], f"silenced, it is neither 0 nor a constant at {where!r}")
            elif end.bias is None:
                bad(
                    end,
                    lost[nonzero],
                    f"silenced, it is not 0, and {where!r} has no bias to fold it into",
                )
            elif constant is not None:
                middle = torch.from_numpy((low + high)[nonzero] / 2)
                constant(end, lost[nonzero], middle, env)

    return watch


def value_range(x: Tensor, dim: int, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest value at each of the places `at` along a dimension."""
    part = x.detach().movedim(dim, 0)[torch.from_numpy(at).to(x.device)].reshape(at.size, -1)
    if part.is_complex():
        part = torch.view_as_real(part).reshape(at.size, -1)
    part = part.double()
    return part.amin(1).cpu().numpy(), part.amax(1).cpu().numpy()

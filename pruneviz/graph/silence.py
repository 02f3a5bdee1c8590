"""What a silenced unit looks like where it ends: nothing, a constant, or trouble."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from pruneviz.core.groups import Groups
from pruneviz.graph.grouping import build, by_use, role
from pruneviz.graph.interpreter import run_graph, silenced
from pruneviz.graph.state import Walk
from pruneviz.graph.trace import layer_of
from pruneviz.graph.values import End
from pruneviz.model.tensors import tensors_of


def settle(w: Walk) -> None:
    """Silence every other unit and run the graph once; freeze groups that leave more than a constant.

    A silenced unit must arrive as 0 where it is summed up, or as a constant where a bias can take it.
    """
    groups = build(w, approximate=True)
    gone = every_other(w, groups)
    if not gone.any():
        return
    why: dict[int, str] = {}

    def bad(end: End, at: np.ndarray, reason: str) -> None:
        why.update(dict.fromkeys(w.atoms.roots(end.ids[at]).tolist(), reason))

    def constant(end: End, at: np.ndarray, c: Tensor, env: Callable[[Node], Any]) -> None:
        w.constants = True

    silent = silenced(w, tensors_of(w.traced.model), gone, roles_of(w))
    run_graph(w, silent, w.traced.inputs, gone=gone, watch=watcher(w, gone, bad, constant))
    for group in groups if why else ():
        s = group.slices[0]
        ids = w.tensors[s.tensor, s.dim, s.blocks][s.index.ravel()]
        found = [why[r] for r in w.atoms.roots(ids).tolist() if r in why]
        if found:  # its other units are made in the same way
            w.atoms.freeze(ids, found[0])


def roles_of(w: Walk) -> dict[tuple[str, int, int], str]:
    """Role of every dimension of every tensor."""
    makers = w.makers()
    return {key: role(w, key, makers) for key in by_use(w)}


def every_other(w: Walk, groups: Groups) -> np.ndarray:
    """Mark, by root, every other unit of each group that can be cut."""
    gone = np.zeros(w.atoms.size, bool)
    for group in groups:
        if group.frozen:
            continue
        part = group.even if group.even is not None else np.zeros(group.size, np.int64)
        order = np.argsort(part, kind="stable")
        starts = np.searchsorted(part[order], part[order])
        chosen = order[(np.arange(group.size) - starts) % 2 == 0]
        s = group.slices[0]
        ids = w.tensors[s.tensor, s.dim, s.blocks][s.index[chosen]]
        gone[w.atoms.roots(ids.ravel())] = True
    return gone


def watcher(
    w: Walk,
    gone: np.ndarray,
    bad: Callable[[End, np.ndarray, str], None],
    constant: Callable[[End, np.ndarray, Tensor, Callable[[Node], Any]], None] | None = None,
) -> Callable[[Node, Callable[[Node], Any]], None]:
    """Return what looks, during a run, at the silenced units wherever units end.

    `bad` is told of units that arrive as neither 0 nor a constant that can be folded; `constant` of
    those that arrive as a constant: (end, positions, values of shape (positions,), env).
    """
    ends: dict[Node, list[End]] = {}
    for end in w.ends:
        ends.setdefault(end.node, []).append(end)

    def watch(node: Node, env: Callable[[Node], Any]) -> None:
        for end in ends.get(node, ()):
            lost = np.flatnonzero(gone[w.atoms.roots(end.ids)])
            if not lost.size:
                continue
            low, high = spread(env(end.value), end.dim, lost)
            quiet = (low == 0) & (high == 0)
            if end.other is not None and not quiet.all():
                there = spread(env(end.other), end.weight_dim, lost)
                quiet |= (there[0] == 0) & (there[1] == 0)
            loud = ~quiet
            if not loud.any():
                continue
            scale = np.maximum(np.abs(low), np.abs(high))
            steady = high - low <= 1e-5 * scale
            where = layer_of(node) or "the model"
            if not np.isfinite(scale[loud]).all():
                bad(end, lost[loud], f"silenced, it is not a number at {where!r}")
            elif end.refuse:
                bad(end, lost[loud], f"silenced, it is not 0, and {end.refuse}")
            elif end.other is not None or end.weight is None or not steady[loud].all():
                bad(end, lost[loud], f"silenced, it is neither 0 nor a constant at {where!r}")
            elif end.bias is None:
                bad(
                    end,
                    lost[loud],
                    f"silenced, it is not 0, and {where!r} has no bias to fold it into",
                )
            elif constant is not None:
                middle = torch.from_numpy((low + high)[loud] / 2)
                constant(end, lost[loud], middle, env)

    return watch


def spread(x: Tensor, dim: int, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and the highest value at each of some places along a dimension."""
    part = x.detach().movedim(dim, 0)[torch.from_numpy(at).to(x.device)].reshape(at.size, -1)
    if part.is_complex():
        part = torch.view_as_real(part).reshape(at.size, -1)
    part = part.double()
    return part.amin(1).cpu().numpy(), part.amax(1).cpu().numpy()

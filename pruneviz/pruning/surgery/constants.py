"""How the constant of a silenced unit, f(0) ≠ 0, is added to the biases of its consumers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node

from pruneviz.core.errors import GraphError
from pruneviz.graph.silence import ends_watcher
from pruneviz.graph.state import Walk
from pruneviz.graph.values import End
from pruneviz.model.tensors import tensors_of

# (name of a bias, name of an operator, dimension it sums over) -> what is added, float64,
# (outputs,)
Folds = dict[tuple[str, str, int], Tensor]


def fold_watcher(
    w: Walk, removed: np.ndarray, folds: Folds
) -> Callable[[Node, Callable[[Node], Any]], None]:
    """Return a watcher for a masked run; it fills `folds` with W c, summed over the kernel."""

    def bad(end: End, at: np.ndarray, why: str) -> None:
        raise GraphError(f"operator {end.node.target} cannot lose these units: {why}.")

    # at: (removed,), places of the removed units; c: (removed,), their constants
    def constant(end: End, at: np.ndarray, c: Tensor, env: Callable[[Node], Any]) -> None:
        assert end.weight is not None and end.bias is not None
        weight = env(end.weight).detach().double()
        c, index = c.to(weight.device), torch.from_numpy(at).to(weight.device)
        if end.blocks > 1:
            each = weight.shape[1]
            # (blocks, out, each)
            rows = weight.reshape(end.blocks, -1, each, weight[0, 0].numel()).sum(-1)
            full = torch.zeros(end.blocks * each, dtype=c.dtype, device=c.device)
            full[index] = c
            extra = torch.einsum("bok,bk->bo", rows, full.reshape(end.blocks, each)).reshape(-1)
        else:
            columns = weight.movedim(end.weight_dim, 0)[index]  # (removed, out, kernel)
            extra = torch.tensordot(c, columns.reshape(*columns.shape[:2], -1).sum(-1), 1)
        folds[w.traced.sources[end.bias][1], end.node.name, end.dim] = extra

    return ends_watcher(w, removed, bad, constant)


def add_folds(w: Walk, new: nn.Module, folds: Folds, removed: np.ndarray) -> None:
    """Add to each bias of a cut model the constants of its removed inputs, in place.

    Raises
    ------
    GraphError
        If a layer is used in several places that receive different constants.
    """
    extra_by_bias: dict[str, dict[str, Tensor]] = {}
    for (name, node, _), extra in folds.items():
        at = extra_by_bias.setdefault(name, {})
        at[node] = at[node] + extra if node in at else extra
    tensors = tensors_of(new) if extra_by_bias else {}
    for name, at in extra_by_bias.items():
        extras = list(at.values())
        ids = w.tensors.get((name, 0, 1))
        kept = slice(None) if ids is None else torch.from_numpy(~removed[w.atoms.roots(ids)])
        first = extras[0][kept]
        if any(not torch.allclose(first, e[kept], rtol=1e-6, atol=1e-12) for e in extras[1:]):
            raise GraphError(
                f"{name!r} is used in several places that receive different constants: one bias "
                "cannot absorb them all. Leave the units that feed it out of the plan."
            )
        tensors[name].data += first.to(tensors[name])

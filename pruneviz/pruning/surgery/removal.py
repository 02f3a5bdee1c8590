"""From a plan to what goes in a walked model: classes of atoms, and what stays of each tensor."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pruneviz.core.errors import ArgumentError, GraphError
from pruneviz.core.groups import Groups
from pruneviz.core.names import layer_name
from pruneviz.core.names import unmasked_name as plain_name
from pruneviz.core.plan import Plan
from pruneviz.graph.grouping import by_use
from pruneviz.graph.state import Walk
from pruneviz.pruning.surgery.cut import Cut


def lost(w: Walk, plan: Plan) -> np.ndarray:
    """Mark, by root, the classes that the plan drops; raise if it is of another model."""
    assert plan.groups is not None
    gone = np.zeros(w.atoms.size, bool)
    counted: dict[tuple[str, int, int], int] = {}
    # a mask moves a weight into its parametrization: the same tensor by another name
    known = {
        (plain_name(name), dim, blocks): (name, dim, blocks) for name, dim, blocks in w.tensors
    }
    for name, keep in plan.keep.items():
        drop = ~keep.cpu().numpy()
        if not drop.any():
            continue
        if drop.all():
            raise GraphError(
                f"group {name!r} would lose all of its {drop.size} units. Leave it at least one."
            )
        for s in plan.groups[name].slices:
            key = known.get((plain_name(s.tensor), s.dim, s.blocks), ("", 0, 0))
            ids = w.tensors.get(key)
            if ids is None or s.index.max() >= ids.size:
                raise _other(f"this one has no such dimension {s.dim} of {s.tensor!r}")
            gone[w.atoms.roots(ids[s.index[drop].ravel()])] = True
            counted[key] = counted.get(key, 0) + s.index[drop].size
    frozen, _, reasons = w.atoms.reasons()
    for key in by_use(w):
        roots = w.atoms.roots(w.tensors[key])
        stuck = gone[roots] & (frozen[roots] > 0)
        if stuck.any():
            layer = layer_name(key[0]) or key[0]
            raise GraphError(
                f"layer {layer!r} cannot be shrunk: {reasons[frozen[roots][stuck][0]]}. "
                "Protect it, or leave it out of the plan."
            )
        if key in counted and int(gone[roots].sum()) != counted[key]:
            raise _other(f"units of {key[0]!r} are coupled otherwise here")
        if gone[roots].all() and key[2] == 1 and roots.size:
            raise GraphError(f"nothing would be left of {key[0]!r}. Leave it at least one unit.")
    return gone


def _other(why: str) -> ArgumentError:
    return ArgumentError(
        f"`plan` is of another model: {why}. Make it with find_groups(model, ...)."
    )


def kept(w: Walk, gone: np.ndarray) -> tuple[tuple[str, int, int, np.ndarray], ...]:
    """Return what stays along each dimension that loses something."""
    keeps = [(*key, ~gone[w.atoms.roots(w.tensors[key])]) for key in by_use(w)]
    return tuple(k for k in keeps if not k[3].all())


def units_of_cut(groups: Groups, cuts: Sequence[Cut]) -> dict[str, np.ndarray]:
    """Mark, for each group of the model before, the units that one cut took out; {} if unknown."""
    if len(cuts) != 1:  # units of a second cut are counted in the model after the first
        return {}
    keeps = {(plain_name(n), dim, blocks): keep for n, dim, blocks, keep in cuts[0].keep}
    found = {}
    for g in groups:
        s = g.slices[0]
        keep = keeps.get((plain_name(s.tensor), s.dim, s.blocks))
        if keep is not None and int(s.index.max()) < keep.size:
            found[g.name] = ~keep[s.index].any(1)
    return found

"""Which classes of atoms, and which places of each tensor, a plan removes from a walked model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pruneviz.core.errors import ArgumentError, GraphError
from pruneviz.core.groups import Groups
from pruneviz.core.names import layer_name, unmasked_name
from pruneviz.core.plan import Plan
from pruneviz.graph.grouping import tensors_in_use_order
from pruneviz.graph.state import Walk
from pruneviz.pruning.surgery.cut import Cut


def removed_classes(w: Walk, plan: Plan) -> np.ndarray:
    """Mark the classes that the plan drops, by root, (atoms,); raise if it is of another model."""
    assert plan.groups is not None
    removed = np.zeros(w.atoms.size, bool)
    counted: dict[tuple[str, int, int], int] = {}
    # in a masked model a weight has another name, because its tensor lies in the parametrization
    known = {
        (unmasked_name(name), dim, blocks): (name, dim, blocks) for name, dim, blocks in w.tensors
    }
    for name, keep in plan.keep.items():
        drop = ~keep.cpu().numpy()
        if not drop.any():
            continue
        if drop.all():
            raise GraphError(
                f"group {name!r} would lose all of its {drop.size} units. Keep at least one."
            )
        for s in plan.groups[name].slices:
            key = known.get((unmasked_name(s.tensor), s.dim, s.blocks), ("", 0, 0))
            ids = w.tensors.get(key)
            if ids is None or s.index.max() >= ids.size:
                raise _other_model(f"this model has no such dimension {s.dim} of {s.tensor!r}")
            removed[w.atoms.roots(ids[s.index[drop].ravel()])] = True
            counted[key] = counted.get(key, 0) + s.index[drop].size
    frozen, _, reasons = w.atoms.reasons()
    for key in tensors_in_use_order(w):
        roots = w.atoms.roots(w.tensors[key])
        stuck = removed[roots] & (frozen[roots] > 0)
        if stuck.any():
            layer = layer_name(key[0]) or key[0]
            raise GraphError(
                f"layer {layer!r} cannot be shrunk: {reasons[frozen[roots][stuck][0]]}. "
                "Protect it, or leave it out of the plan."
            )
        if key in counted and int(removed[roots].sum()) != counted[key]:
            raise _other_model(f"units of {key[0]!r} are coupled differently here")
        if removed[roots].all() and key[2] == 1 and roots.size:
            raise GraphError(f"{key[0]!r} would lose all of its places. Keep at least one unit.")
    return removed


def _other_model(why: str) -> ArgumentError:
    return ArgumentError(
        f"`plan` is of another model: {why}. Make it with find_groups(model, ...)."
    )


def kept_places(w: Walk, removed: np.ndarray) -> tuple[tuple[str, int, int, np.ndarray], ...]:
    """Return what is kept along each dimension that loses places."""
    keeps = [(*key, ~removed[w.atoms.roots(w.tensors[key])]) for key in tensors_in_use_order(w)]
    return tuple(k for k in keeps if not k[3].all())


def units_of_cut(groups: Groups, cuts: Sequence[Cut]) -> dict[str, np.ndarray]:
    """Mark, for each group of the model before, the units that a cut removed; {} if unknown."""
    if len(cuts) != 1:  # the units of a second cut are numbered in the model after the first
        return {}
    keeps = {(unmasked_name(n), dim, blocks): keep for n, dim, blocks, keep in cuts[0].keep}
    found = {}
    for g in groups:
        s = g.slices[0]
        keep = keeps.get((unmasked_name(s.tensor), s.dim, s.blocks))
        if keep is not None and int(s.index.max()) < keep.size:
            found[g.name] = ~keep[s.index].any(1)
    return found

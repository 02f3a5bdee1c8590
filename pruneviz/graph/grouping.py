"""Which classes of atoms form one group? Those that occur in the same tensors as often."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from pruneviz.core.groups import Group, Groups
from pruneviz.core.names import layer_name
from pruneviz.core.slices import Slice
from pruneviz.graph.state import OUTPUT, SINGLE_UNIT, Walk

UNRUN = "it never ran on the example: lossless_plan(model, x, unrun=True) cuts it"
ASK_APPROXIMATE = "{}: cut them with find_groups(..., approximate=True)"


def build_groups(w: Walk, *, approximate: bool) -> Groups:
    """Return the groups that a walk has found.

    A class of atoms is one unit. Classes with the same pattern (they occur in the same tensors, as
    often in each) are the units of one group. Last come the layers that did not run: the graph says
    nothing of their units, so the rows of each layer are a group of their own, and frozen.
    """
    even_out(w)
    keys = tensors_in_use_order(w)
    pattern = patterns(w, keys)
    frozen, approx, reasons = w.atoms.reasons()
    makers = w.makers()
    members: dict[int, list[tuple[int, np.ndarray]]] = {}
    for k, key in enumerate(keys):
        found = pattern[w.atoms.roots(w.tensors[key])]
        for g in found[np.sort(np.unique(found, return_index=True)[1])]:  # by their first place
            members.setdefault(int(g), []).append((k, np.flatnonzero(found == g)))
    groups = []
    for parts in members.values():
        roles = [role(w, keys[k], makers) for k, _ in parts]
        first = next((i for i, (k, _) in enumerate(parts)
                      if roles[i] == "out" and keys[k][0] in w.parameters), None)  # fmt: skip
        if first is None:  # they have no producer: columns that read the input, tables of numbers
            continue
        k, positions = parts[first]
        roots = w.atoms.roots(w.tensors[keys[k]][positions])
        units, at = np.unique(roots, return_index=True)
        units = units[np.argsort(at, kind="stable")]
        rank = np.zeros(w.atoms.size, np.int64)
        rank[units] = np.arange(units.size)
        slices = []
        for (k, positions), part in zip(parts, roles, strict=True):
            name, dim, blocks = keys[k]
            unit = rank[w.atoms.roots(w.tensors[keys[k]][positions])]
            index = positions[np.argsort(unit, kind="stable")].reshape(units.size, -1)
            slices.append(Slice(name, dim, index, part, blocks))
        reason, norm = reasons[frozen[units[0]]], reasons[approx[units[0]]]
        computed = next(filter(None, (w.computed_text(s.layer) for s in slices)), "")
        if reason and computed and reason not in (OUTPUT, SINGLE_UNIT):
            reason = f"it meets {computed}"
        if not reason and norm and not approximate:
            reason = ASK_APPROXIMATE.format(norm)
        if not reason and units.size == 1:
            reason = SINGLE_UNIT
        # the slice of the group's first producer comes first
        slices.insert(0, slices.pop(first))
        even = labels(w, units)
        if not reason and even is not None and np.bincount(even).max() == 1:
            reason = "each of the parts that must stay equal holds a single unit"
        unread = "" if any(is_needed(w, s.tensor) for s in slices if s.role == "out") else "unread"
        groups.append(Group("", units.size, tuple(slices), reason, norm, even, unread))
    return Groups(tuple(named([*groups, *unrun_groups(w)])))


def is_needed(w: Walk, tensor: str) -> bool:
    """Whether an output needs an operator that uses a tensor."""
    nodes = [node for node, (_, name) in w.traced.sources.items() if name == tensor]
    return any(user in w.traced.live for node in nodes for user in node.users)


def unrun_groups(w: Walk) -> list[Group]:
    """Return a group for each layer of whose parameters no operator uses any."""
    layers: dict[str, list[tuple[str, bool]]] = {}
    for node, (kind, name) in w.traced.sources.items():
        if kind == "parameter":
            layers.setdefault(layer_name(name), []).append((name, bool(node.users)))
    groups = []
    for parameters in layers.values():
        sized = [(name, w.shapes[name][0]) for name, _ in parameters if w.shapes[name]]
        if not sized or any(used for _, used in parameters):
            continue
        n = sized[0][1]
        units = np.arange(n)[:, None]
        slices = tuple(Slice(name, 0, units, "out") for name, rows in sized if rows == n)
        groups.append(Group("", n, slices, UNRUN, unused="unrun"))
    return groups


def role(w: Walk, key: tuple[str, int, int], makers: set[int]) -> str:
    """Return "out" for what a mask zeroes to silence a unit, "in" for what is only deleted."""
    owner = w.number[key]
    made = owner in makers and owner not in w.not_zeroed and key[0] in w.zeroable
    return "out" if made else "in"


def tensors_in_use_order(w: Walk) -> list[tuple[str, int, int]]:
    """List the tensors' dimensions in the order in which the forward first uses them."""
    order: dict[str, int] = {}
    place = {node: i for i, node in enumerate(w.traced.nodes)}
    for node, (kind, name) in w.traced.sources.items():
        if kind in ("parameter", "buffer") and node in place:
            use = min((place[u] for u in node.users if u in place), default=len(place))
            order[name] = min(use, order.get(name, use))
    grouped = {name for name, _, blocks in w.tensors if blocks > 1}
    keys = [k for k in w.tensors if k[2] > 1 or k[1] != 1 or k[0] not in grouped]
    number = {name: i for i, name in enumerate(w.shapes)}
    return sorted(keys, key=lambda k: (order.get(k[0], len(place)), number[k[0]], k[1]))


def patterns(w: Walk, keys: list[tuple[str, int, int]]) -> np.ndarray:
    """Return a number for each root: equal for classes that occur in the same tensors as often."""
    rng = np.random.default_rng(0)
    signature = np.zeros(w.atoms.size, np.uint64)
    for key in keys:
        roots = w.atoms.roots(w.tensors[key])
        # the sum of one random number per tensor identifies the tensors and how often each occurs
        np.add.at(signature, roots, rng.integers(1, 2**63, dtype=np.uint64))
    frozen, approx, _ = w.atoms.reasons()
    for marks in (frozen, approx):
        keyed = rng.integers(1, 2**63, int(marks.max(initial=0)) + 1, dtype=np.uint64)
        signature += keyed[marks]
    return np.unique(signature, return_inverse=True)[1]


def even_out(w: Walk) -> None:
    """Meet the demands of `w.even`: as many atoms must be removed from each row (block) of a table.

    A demand is met already if each class has as many atoms in each row. If each class lies in one
    row, and all classes are units of one group, the choice is left free, and `Group.even` holds the
    row of each unit (see `labels`). Otherwise the atoms of each column are tied.
    """
    # A round ties at most one table and starts anew, because ties change the classes. Ties are
    # never undone, and a tied table meets its demand for good, so a table is tied at most once.
    # So there are at most as many rounds as tables.
    for _ in w.even:
        pattern = patterns(w, tensors_in_use_order(w))
        frozen, _, _ = w.atoms.reasons()
        tied = False
        chosen: dict[int, np.ndarray] = {}
        for table in w.even:
            roots = w.atoms.roots(table)
            units, count = counts(roots)
            cuttable = frozen[units] == 0
            units, count = units[cuttable], count[cuttable]
            if (count == count[:, :1]).all():
                continue
            one_row_each = (np.count_nonzero(count, 1) == 1).all() and len(set(count.max(1))) == 1
            balanced = len(set(count.sum(0))) == 1
            if one_row_each and balanced and len(set(pattern[units])) == 1:
                label = np.full(w.atoms.size, -1)
                label[units] = count.argmax(1)
                g = int(pattern[units[0]])
                if g not in chosen or _nested(chosen[g], label, units):
                    chosen[g] = label
                    continue
                if _nested(label, chosen[g], units):
                    continue
            w.atoms.tie(np.broadcast_to(table[:1], table.shape).ravel(), table.ravel())
            tied = True
            break
        if not tied:
            return


def counts(roots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes in a table (blocks, n), and the number of atoms of each in each block."""
    units, inverse = np.unique(roots, return_inverse=True)
    inverse = inverse.reshape(roots.shape)
    count = np.zeros((units.size, roots.shape[0]), np.int64)
    for b in range(roots.shape[0]):
        count[:, b] = np.bincount(inverse[b], minlength=units.size)
    return units, count


def _nested(coarse: np.ndarray, fine: np.ndarray, units: np.ndarray) -> bool:
    """Whether equal counts from all fine parts imply equal counts from all coarse parts."""
    pairs = np.unique(np.stack([coarse[units], fine[units]], 1), axis=0)
    once = len(set(pairs[:, 1])) == len(pairs)
    return bool(once and len(set(np.bincount(pairs[:, 0]))) == 1)


def labels(w: Walk, units: np.ndarray) -> np.ndarray | None:
    """Return the part of each unit if as many must be removed from each part, else None."""
    best = None
    for table in w.even:
        found, count = counts(w.atoms.roots(table))
        if (count == count[:, :1]).all() or not np.isin(units, found).all():
            continue
        label = np.zeros(w.atoms.size, np.int64)
        label[found] = count.argmax(1)
        label = np.unique(label[units], return_inverse=True)[1]
        if label.max() and (best is None or label.max() > best.max()):
            best = label
    return best


def named(groups: list[Group]) -> list[Group]:
    """Name each group after its first producer; add the rows if a layer has several groups."""
    # of each layer: the tensor and dimension of its units, from a cuttable group if there is one
    main: dict[str, Slice] = {}
    for g in sorted(groups, key=lambda g: bool(g.frozen)):
        main.setdefault(g.slices[0].layer, g.slices[0])
    firsts = [_first_name(g.slices[0], main[g.slices[0].layer]) for g in groups]
    often = Counter(firsts)
    names: list[str] = []
    for g, name in zip(groups, firsts, strict=True):
        rows = g.slices[0].index
        if often[name] > 1:
            low, high = int(rows.min()), int(rows.max()) + 1
            name += f"[{low}:{high}]" if high - low == rows.size else f"[{low}, …]"
            while name in names:
                name += "'"
        names.append(name)
    return [replace(g, name=n) for n, g in zip(names, groups, strict=True)]


def _first_name(s: Slice, main: Slice) -> str:
    if s.tensor != main.tensor:
        return s.tensor  # such as the second layer of an LSTM
    if s.dim == main.dim:
        return s.layer or s.tensor
    return f"{s.tensor}, dimension {s.dim}"  # such as the vocabulary of an embedding

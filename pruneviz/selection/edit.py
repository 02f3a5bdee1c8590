"""How is a plan changed by hand? Units are removed, or kept, whatever their scores."""

from __future__ import annotations

from collections.abc import Mapping

from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Groups
from pruneviz.core.plan import Plan
from pruneviz.selection.drop import check_even, place

Edits = Mapping[str, Mapping[int, bool]]


def edited(plan: Plan, units: Edits) -> Plan:
    """Return a plan in which these units are removed, or kept, whatever the given plan does.

    Parameters
    ----------
    plan : Plan
        For units: from `select` or `drop`. Not changed.
    units : mapping of str to mapping of int to bool
        Name of a layer, as for `drop`, to numbers of its units: False = remove, True = keep.

    Raises
    ------
    ArgumentError
        If a layer or a unit is unknown, the same unit is to be removed and kept, or no unit of a
        group would be kept.
    GraphError
        If a unit to remove cannot be cut, or not without others.

    Examples
    --------
    >>> import numpy as np, pruneviz as pv
    >>> rows = pv.Slice("fc1.weight", 0, np.arange(4)[:, None], "out")
    >>> plan = pv.drop(pv.Groups((pv.Group("fc1", 4, (rows,)),)), {"fc1": [0, 1]})
    >>> edited(plan, {"fc1": {0: True, 3: False}}).keep["fc1"]
    tensor([ True, False,  True, False])
    """
    groups = _groups(plan)
    keep = {name: kept.clone() for name, kept in plan.keep.items()}
    edited: dict[tuple[str, int], tuple[str, int, bool]] = {}
    for layer, edits in units.items():
        layer_units = groups.units_of(layer)
        for i, kept in edits.items():
            if not 0 <= i < len(layer_units):
                raise ArgumentError(
                    f"layer {layer!r} has units 0 to {len(layer_units) - 1}, but unit {i} was named."
                )
            group, unit = layer_units[i] if kept else place(layer, layer_units, i)
            other, j, before = edited.setdefault((group.name, unit), (layer, i, kept))
            if before != kept:
                raise ArgumentError(
                    f"unit {i} of layer {layer!r} and unit {j} of layer {other!r} are one unit, "
                    "which cannot be both removed and kept. Leave one out."
                )
            if not group.frozen:
                keep[group.name][unit] = kept
    for name in dict.fromkeys(name for name, _ in edited if name in keep):
        if not keep[name].any():
            raise ArgumentError(
                f"all {keep[name].numel()} units of group {name!r} would be removed: at least one "
                "must be kept. Keep one."
            )
        check_even(groups[name], ~keep[name].cpu().numpy(), "removed")
    return Plan(keep, groups)


def toggled(plan: Plan, units: Edits, layer: str, unit: int) -> dict[str, dict[int, bool]]:
    """Return the edits with one unit toggled: removed if it is kept now, kept if it is removed now.

    If the plan itself does the same with the unit, it gets no edit.

    Examples
    --------
    >>> import numpy as np, pruneviz as pv
    >>> rows = pv.Slice("fc1.weight", 0, np.arange(4)[:, None], "out")
    >>> plan = pv.drop(pv.Groups((pv.Group("fc1", 4, (rows,)),)), {"fc1": [0, 1]})
    >>> toggled(plan, {}, "fc1", 0)
    {'fc1': {0: True}}
    >>> toggled(plan, {"fc1": {0: True}}, "fc1", 0)
    {'fc1': {}}
    """
    groups = _groups(plan)
    group, number = place(layer, groups.units_of(layer), unit)
    rest: dict[str, dict[int, bool]] = {}
    edited = None
    for name, edits in units.items():
        layer_units = groups.units_of(name)
        rest[name] = {}
        for i, kept in edits.items():
            if layer_units[i] == (group, number):
                edited = kept
            else:
                rest[name][i] = kept
    planned = bool(plan.keep[group.name][number])
    if edited is None or edited == planned:
        rest.setdefault(layer, {})[unit] = not planned
    return rest


def changes(before: Plan, after: Plan) -> dict[tuple[str, bool], list[int]]:
    """Return where two plans for the same groups differ: (group, kept afterwards) to units.

    Examples
    --------
    >>> import torch
    >>> one, two = ({"fc1": torch.tensor(keep)} for keep in ([True, True, False], [False, True, True]))
    >>> changes(Plan(one), Plan(two))
    {('fc1', False): [0], ('fc1', True): [2]}
    """
    found: dict[tuple[str, bool], list[int]] = {}
    for name, keep in after.keep.items():
        for unit in (keep != before.keep[name]).nonzero().flatten().tolist():
            found.setdefault((name, bool(keep[unit])), []).append(unit)
    return found


def units_to_drop(plan: Plan) -> dict[str, list[int]]:
    """Return the `units` that make `drop` give this plan: layers to the numbers of removed units.

    Examples
    --------
    >>> import numpy as np, pruneviz as pv
    >>> rows = pv.Slice("fc1.weight", 0, np.arange(4)[:, None], "out")
    >>> groups = pv.Groups((pv.Group("fc1", 4, (rows,)),))
    >>> units_to_drop(pv.drop(groups, {"fc1": [3, 1]}))
    {'fc1': [1, 3]}
    """
    groups = _groups(plan)
    found: dict[str, list[int]] = {}
    for name, keep in plan.keep.items():
        # a layer of that name may hold units of other groups too, and number them all
        numbered = zip(groups.numbers_of(name), groups.units_of(name), strict=True)
        gone = [own for own, (g, unit) in numbered if g.name == name and not keep[unit]]
        removed = [int(n) for own in gone for n in own]
        found.update({name: removed} if removed else {})
    return found


def _groups(plan: Plan) -> Groups:
    if plan.groups is None:
        raise ArgumentError(
            "this plan removes single weights: only a plan for units can be changed unit by unit. "
            "Score units: pv.score(model, 'l2', groups=groups)."
        )
    return plan.groups

"""Change a plan by hand: units that go, or stay, whatever their scores."""

from __future__ import annotations

from collections.abc import Mapping

from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Groups
from pruneviz.core.plan import Plan
from pruneviz.selection.drop import evenly, place

Wishes = Mapping[str, Mapping[int, bool]]


def amend(plan: Plan, units: Wishes) -> Plan:
    """Return a plan in which these units go, or stay, whatever the other plan said of them.

    Parameters
    ----------
    plan : Plan
        For units: from `select` or `drop`. Not changed.
    units : mapping of str to mapping of int to bool
        Name of a layer, as for `drop`, to numbers of its units: False, it goes; True, it stays.

    Raises
    ------
    ArgumentError
        If a layer or a unit is unknown, the same unit is to go and to stay, or none would be left.
    GraphError
        If a unit that is to go cannot be cut, or not without others.

    Examples
    --------
    >>> import numpy as np, pruneviz as pv
    >>> rows = pv.Slice("fc1.weight", 0, np.arange(4)[:, None], "out")
    >>> plan = pv.drop(pv.Groups((pv.Group("fc1", 4, (rows,)),)), {"fc1": [0, 1]})
    >>> amend(plan, {"fc1": {0: True, 3: False}}).keep["fc1"]
    tensor([ True, False,  True, False])
    """
    groups = _groups(plan)
    keep = {name: kept.clone() for name, kept in plan.keep.items()}
    said: dict[tuple[str, int], tuple[str, int, bool]] = {}
    for layer, wishes in units.items():
        there = groups.units_of(layer)
        for i, stays in wishes.items():
            if not 0 <= i < len(there):
                raise ArgumentError(
                    f"layer {layer!r} has units 0 to {len(there) - 1}, but unit {i} was named."
                )
            group, unit = there[i] if stays else place(layer, there, i)
            other, j, before = said.setdefault((group.name, unit), (layer, i, stays))
            if before != stays:
                raise ArgumentError(
                    f"unit {i} of layer {layer!r} and unit {j} of layer {other!r} are one unit, "
                    "which cannot both go and stay. Leave one out."
                )
            if not group.frozen:
                keep[group.name][unit] = stays
    for name in dict.fromkeys(name for name, _ in said if name in keep):
        if not keep[name].any():
            raise ArgumentError(
                f"all {keep[name].numel()} units of group {name!r} would go: at least one must "
                "stay. Let one stay."
            )
        evenly(groups[name], ~keep[name].cpu().numpy(), "gone would be")
    return Plan(keep, groups)


def toggled(plan: Plan, units: Wishes, layer: str, unit: int) -> dict[str, dict[int, bool]]:
    """Return the wishes with one unit turned: to go if it stays by now, to stay if it goes.

    Where the plan itself says so, no wish is left.

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
    wished = None
    for name, wishes in units.items():
        there = groups.units_of(name)
        rest[name] = {}
        for i, stays in wishes.items():
            if there[i] == (group, number):
                wished = stays
            else:
                rest[name][i] = stays
    planned = bool(plan.keep[group.name][number])
    if wished is None or wished == planned:
        rest.setdefault(layer, {})[unit] = not planned
    return rest


def changes(before: Plan, after: Plan) -> dict[tuple[str, bool], list[int]]:
    """Return where two plans for the same groups differ: (group, whether they stay) to units.

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


def named(plan: Plan) -> dict[str, list[int]]:
    """Return what to tell `drop` to get this plan: layers, and the numbers of the units that go.

    Examples
    --------
    >>> import numpy as np, pruneviz as pv
    >>> rows = pv.Slice("fc1.weight", 0, np.arange(4)[:, None], "out")
    >>> groups = pv.Groups((pv.Group("fc1", 4, (rows,)),))
    >>> named(pv.drop(groups, {"fc1": [3, 1]}))
    {'fc1': [1, 3]}
    """
    groups = _groups(plan)
    found: dict[str, list[int]] = {}
    for name, keep in plan.keep.items():
        # a layer of that name may hold units of other groups too, and number them all
        there = enumerate(groups.units_of(name))
        gone = [i for i, (g, unit) in there if g.name == name and not keep[unit]]
        found.update({name: gone} if gone else {})
    return found


def _groups(plan: Plan) -> Groups:
    if plan.groups is None:
        raise ArgumentError(
            "this plan drops single weights: only a plan for units can be changed unit by unit. "
            "Score units: pv.score(model, 'l2', groups=groups)."
        )
    return plan.groups

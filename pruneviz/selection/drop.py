"""Plans by hand: units named one by one, or one of each redundant pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, GraphError
from pruneviz.core.groups import Group, Groups
from pruneviz.core.plan import Plan

if TYPE_CHECKING:
    import pandas as pd


def drop(groups: Groups, units: Mapping[str, Iterable[int]]) -> Plan:
    """Make a plan by hand: name a layer and its units, and all that must go with them goes too.

    Parameters
    ----------
    groups : Groups
        From `find_groups`.
    units : mapping of str to iterable of int
        Name of a layer to the numbers of the output units that go: neurons of a Linear, channels of
        a Conv, heads of an attention layer. The name of a tensor or of a group will do, too. What
        is not named stays.

    Returns
    -------
    Plan
        For `mask` and `shrink`.

    Raises
    ------
    ArgumentError
        If a layer is unknown, a unit is no whole number in range or is named twice, or nothing
        would be left.
    GraphError
        If a unit cannot be cut, or not without others that were not named.

    Examples
    --------
    >>> import numpy as np, pruneviz as pv
    >>> units = np.arange(4)[:, None]
    >>> rows, columns = pv.Slice("fc1.weight", 0, units, "out"), pv.Slice("fc2.weight", 1, units, "in")
    >>> plan = pv.drop(pv.Groups((pv.Group("fc1", 4, (rows, columns)),)), {"fc1": [3]})
    >>> plan
    Plan for 4 units in 1 group: keeps 3, sparsity 0.250
    >>> plan.keep["fc1"]
    tensor([ True,  True,  True, False])
    """
    checks.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
    checks.kind(units, "units", Mapping, "Name layers and units: pv.drop(groups, {'fc1': [3, 5]}).")
    keep = {g.name: np.ones(g.size, bool) for g in groups if not g.frozen}
    for name, numbers in units.items():
        there = groups.units_of(name)
        for i in _numbers(name, numbers, len(there)):
            group, unit = place(name, there, i)
            keep[group.name][unit] = False
    for name, kept in keep.items():
        if not kept.any():
            raise ArgumentError(
                f"all {kept.size} units of group {name!r} are named: at least one must stay. "
                "Leave one out."
            )
        evenly(groups[name], ~kept)
    return Plan({name: torch.from_numpy(kept) for name, kept in keep.items()}, groups)


def place(layer: str, there: list[tuple[Group, int]], i: int) -> tuple[Group, int]:
    """Return the group of a layer's unit and its number there; raise if it cannot go."""
    group, unit = there[i]
    if all(g.frozen for g, _ in there):
        raise GraphError(refusal(layer, group))
    if group.frozen:
        raise GraphError(
            f"unit {i} of layer {layer!r} cannot be cut: {group.frozen}. Leave it out of the plan."
        )
    return group, unit


def refusal(layer: str, group: Group) -> str:
    """Say why no unit of a layer can go."""
    head = f"layer {layer!r} cannot be shrunk: {group.frozen}"
    return f"{head}. Protect it, or leave it out of the plan."


def _numbers(name: str, numbers: Any, size: int) -> list[int]:
    what = f"`units[{name!r}]`"
    if isinstance(numbers, (torch.Tensor, np.ndarray)):
        numbers = numbers.tolist()
    if isinstance(numbers, str) or not isinstance(numbers, Iterable):
        one = isinstance(numbers, Integral) and not isinstance(numbers, bool)
        raise ArgumentError(
            f"{what} must be the numbers of the units that go, such as [3, 5], but {numbers!r} was "
            "passed." + (f" Did you mean [{numbers!r}]?" if one else "")
        )
    found: dict[int, None] = {}
    for n in numbers:
        n = n.item() if isinstance(n, torch.Tensor) and n.ndim == 0 else n
        whole = isinstance(n, Integral) and not isinstance(n, bool)
        if not whole or not 0 <= int(n) < size:
            raise ArgumentError(
                f"{what} must hold whole numbers in [0, {size}): {name!r} has {size} units. "
                f"But {n!r} was passed."
            )
        if int(n) in found:
            raise ArgumentError(f"{what} names unit {n} twice. Name each unit once.")
        found[int(n)] = None
    return list(found)


def evenly(group: Group, gone: np.ndarray, said: str = "named were") -> None:
    """Raise unless as many of the units that go, shape (units,), are in each part of the group."""
    if group.even is None:
        return
    parts = [np.flatnonzero(group.even == label) for label in np.unique(group.even)]
    named = [int(gone[part].sum()) for part in parts]
    if len(set(named)) > 1 or named[0] == min(map(len, parts)):
        raise GraphError(
            f"group {group.name!r} cannot be cut so: name as many units from each of its "
            f"{len(parts)} parts, and leave at least one in each. The parts are units "
            f"{_listed([_span(p) for p in parts])}; {said} {_listed(named)} of them."
        )


def _span(part: np.ndarray) -> str:
    if part.size == 1:
        return f"{part[0]}"
    if (np.diff(part) == 1).all():
        return f"{part[0]}–{part[-1]}"
    return "/".join(map(str, part[:3])) + "/…" * (part.size > 3)


def _listed(items: list[Any], most: int = 4) -> str:
    return ", ".join([*map(str, items[:most]), *["…"] * (len(items) > most)])


def plan_without(groups: Groups, group: str, units: Iterable[int]) -> Plan:
    """Return the plan that drops these units of one group, all but the last if they are all.

    >>> import numpy as np, pruneviz as pv
    >>> rows = pv.Slice("fc.weight", 0, np.arange(3)[:, None], "out")
    >>> plan_without(pv.Groups((pv.Group("fc", 3, (rows,)),)), "fc", [2, 0, 1]).keep["fc"]
    tensor([False,  True, False])
    """
    keep = {g.name: torch.ones(g.size, dtype=torch.bool) for g in groups if not g.frozen}
    gone = list(units)
    keep[group][gone[:-1] if len(gone) == groups[group].size else gone] = False
    return Plan(keep, groups)


SOURCE = "pv.find_redundant(model, groups=groups, threshold=0.8)"


def drop_redundant(twins: pd.DataFrame, groups: Groups) -> Plan:
    """Return the plan in which of each pair the smaller unit goes, if its twin stays.

    The pairs are gone through in their order. A unit goes if the other one of the pair has not gone
    and no unit that went relies on it: so every unit that goes leaves behind a twin that stays.

    Parameters
    ----------
    twins : DataFrame
        From `find_redundant`, the most similar first: columns ``group``, ``kept``, ``removed``.
    groups : Groups
        The same.

    Returns
    -------
    Plan
        For `mask` and `shrink`.

    Raises
    ------
    ArgumentError
        If a column is missing, or a group is unknown.
    GraphError
        If as many units must go from each part of a group, and this is not so.

    Examples
    --------
    >>> import numpy as np, pandas as pd, pruneviz as pv
    >>> units = np.arange(4)[:, None]
    >>> groups = pv.Groups((pv.Group("fc1", 4, (pv.Slice("fc1.weight", 0, units, "out"),)),))
    >>> twins = pd.DataFrame({"group": "fc1", "kept": [0, 1, 3], "removed": [1, 2, 0]})
    >>> pv.drop_redundant(twins, groups).keep["fc1"]  # 2 is like 1, which has gone; 1 relies on 0
    tensor([ True, False,  True,  True])
    """
    checks.columns(twins, dict.fromkeys(("group", "kept", "removed"), SOURCE), "drop_redundant")
    checks.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
    keep = {g.name: torch.ones(g.size, dtype=torch.bool) for g in groups if not g.frozen}
    for name, part in twins.groupby("group", sort=False):
        group = checks.choice(name, "group", keep, what="group")
        keep[group][sorted(spare(zip(part["kept"], part["removed"], strict=True)))] = False
        evenly(groups[group], ~keep[group].numpy())
    return Plan(keep, groups)


def spare(pairs: Iterable[tuple[int, int]], gone: Iterable[int] = ()) -> set[int]:
    """Return the units that can go, of pairs (kept, removed), so that each leaves a twin that stays.

    `gone`: units that have gone already.

    >>> sorted(spare([(0, 1), (1, 2), (3, 0)])), spare([(0, 1)], gone=[0])
    ([1], set())
    """
    before = set(gone)
    found: set[int] = set()
    needed: set[int] = set()
    for kept, removed in pairs:
        if not {kept, removed} & (before | found) and removed not in needed:
            found.add(int(removed))
            needed.add(kept)
    return found

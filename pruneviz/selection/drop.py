"""How is a plan made by hand? Units are named one by one, or one of each redundant pair."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, GraphError
from pruneviz.core.groups import Group, Groups
from pruneviz.core.plan import Plan, keep_all
from pruneviz.model.hooks import plain_torch

if TYPE_CHECKING:
    import pandas as pd


@plain_torch()
def drop(groups: Groups, units: Mapping[str, Iterable[int]]) -> Plan:
    """Make a plan by hand: name layers and units; everything coupled to them is removed with them.

    Parameters
    ----------
    groups : Groups
        From `find_groups`.
    units : mapping of str to iterable of int
        Name of a layer to the numbers of the outputs to remove, as the layer counts them: neurons of
        a Linear, channels of a Conv, heads of an `nn.MultiheadAttention`. The name of a tensor or of
        a group is allowed, too. All other units are kept. Before a pixel shuffle, a chunk or a split
        into heads several outputs of one layer make one unit: the unit that holds the named one goes,
        and a warning says what else is in it, unless all of it is named. The column ``unit`` of frames
        counts units: their outputs are ``groups.numbers_of(layer)[unit]``.

    Returns
    -------
    Plan
        For `mask` and `shrink`.

    Raises
    ------
    ArgumentError
        If a layer is unknown, a unit is not a whole number in range or is named twice, or no unit
        of a group would be kept.
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
    keep = keep_all(groups)
    for name, numbers in units.items():
        units_there, owned = groups.units_of(name), groups.numbers_of(name)
        holder = {int(n): u for u, own in enumerate(owned) for n in own}
        noun = "units" if len(holder) == len(owned) else "outputs"
        named = _numbers(name, numbers, len(holder), noun)
        for u in dict.fromkeys(holder[n] for n in named):
            group, unit = place(name, units_there, u, owned[u])
            keep[group.name][unit] = False
        _say_what_else_goes(name, named, [owned[holder[n]] for n in named])
    for name, kept in keep.items():
        if not kept.any():
            raise ArgumentError(
                f"all {kept.numel()} units of group {name!r} are named: at least one must be kept. "
                "Leave one out."
            )
        check_even(groups[name], ~kept.numpy())
    return Plan(keep, groups)


def _say_what_else_goes(layer: str, named: list[int], units: list[np.ndarray]) -> None:
    """Warn if a unit holds outputs of the layer that were not named."""
    more = [own for own in units if not set(own.tolist()) <= set(named)]
    if more:
        which = "; ".join(dict.fromkeys(_span(own) for own in more[:3])) + "; …" * (len(more) > 3)
        warnings.warn(
            f"more outputs of layer {layer!r} go than were named, because several of them make one "
            f"unit. These go together: {which}. Name all of them to say that you know.",
            stacklevel=4,
        )


def place(
    layer: str, units: list[tuple[Group, int]], i: int, own: np.ndarray | None = None
) -> tuple[Group, int]:
    """Return the group of a layer's unit and its number there; raise if it cannot be cut.

    `own`: the layer's own numbers of the unit, for the error.
    """
    group, unit = units[i]
    if all(g.frozen for g, _ in units):
        raise GraphError(refusal_text(layer, group))
    if group.frozen:
        raise GraphError(
            f"unit {i if own is None else _span(own)} of layer {layer!r} cannot be cut: {group.frozen}. Leave it out of the plan."
        )
    return group, unit


def refusal_text(layer: str, group: Group) -> str:
    """Return the message that says why no unit of a layer can be cut."""
    head = f"layer {layer!r} cannot be shrunk: {group.frozen}"
    return f"{head}. Protect it, or leave it out of the plan."


def _numbers(name: str, numbers: Any, size: int, noun: str) -> list[int]:
    what = f"`units[{name!r}]`"
    if isinstance(numbers, (torch.Tensor, np.ndarray)):
        numbers = numbers.tolist()
    if isinstance(numbers, str) or not isinstance(numbers, Iterable):
        one = isinstance(numbers, Integral) and not isinstance(numbers, bool)
        raise ArgumentError(
            f"{what} must be the numbers of the units to remove, such as [3, 5], but {numbers!r} was "
            "passed." + (f" Did you mean [{numbers!r}]?" if one else "")
        )
    found: dict[int, None] = {}
    for n in numbers:
        n = n.item() if isinstance(n, torch.Tensor) and n.ndim == 0 else n
        whole = isinstance(n, Integral) and not isinstance(n, bool)
        if not whole or not 0 <= int(n) < size:
            raise ArgumentError(
                f"{what} must hold whole numbers in [0, {size}): {name!r} has {size} {noun}. "
                f"But {n!r} was passed."
            )
        if int(n) in found:
            raise ArgumentError(f"{what} names unit {n} twice. Name each unit once.")
        found[int(n)] = None
    return list(found)


def check_even(group: Group, removed: np.ndarray, counted: str = "named") -> None:
    """Raise unless the removed units, shape (units,), are as many in each part of the group."""
    if group.even is None:
        return
    parts = group.even_parts
    counts = [int(removed[part].sum()) for part in parts]
    if len(set(counts)) > 1 or counts[0] == min(map(len, parts)):
        raise GraphError(
            f"group {group.name!r} cannot be cut like this: remove as many units from each of its "
            f"{len(parts)} parts, and keep at least one in each. The parts are units "
            f"{_listed([_span(p) for p in parts])}; units {counted} in each: {_listed(counts)}."
        )


def _span(part: np.ndarray) -> str:
    if part.size == 1:
        return f"{part[0]}"
    if (np.diff(part) == 1).all():
        return f"{part[0]}–{part[-1]}"
    return "/".join(map(str, part[:3])) + "/…" * (part.size > 3)


def _listed(items: list[Any], most: int = 4) -> str:
    return ", ".join([*map(str, items[:most]), *["…"] * (len(items) > most)])


def plan_removing(groups: Groups, group: str, units: Iterable[int]) -> Plan:
    """Return the plan that removes these units of one group; if they are all, the last one is kept.

    >>> import numpy as np, pruneviz as pv
    >>> rows = pv.Slice("fc.weight", 0, np.arange(3)[:, None], "out")
    >>> plan_removing(pv.Groups((pv.Group("fc", 3, (rows,)),)), "fc", [2, 0, 1]).keep["fc"]
    tensor([False,  True, False])
    """
    keep = keep_all(groups)
    removed = list(units)
    keep[group][removed[:-1] if len(removed) == groups[group].size else removed] = False
    return Plan(keep, groups)


PAIRS_FROM = "pv.find_redundant(model, groups=groups, threshold=0.8)"


@plain_torch()
def drop_redundant(pairs: pd.DataFrame, groups: Groups) -> Plan:
    """Return the plan that removes the smaller unit of each redundant pair, if the other is kept.

    The pairs are taken in their order. A unit is removed if the other unit of the pair has not been
    removed, and if no unit removed before relies on it. So each removed unit has a kept substitute.

    Parameters
    ----------
    pairs : DataFrame
        Redundant pairs from `find_redundant`, the most similar first: columns ``group``, ``kept``,
        ``removed``.
    groups : Groups
        The groups that the pairs were found in.

    Returns
    -------
    Plan
        For `mask` and `shrink`.

    Raises
    ------
    ArgumentError
        If a column is missing, or a group is unknown.
    GraphError
        If as many units must be removed from each part of a group, and these are not.

    Examples
    --------
    >>> import numpy as np, pandas as pd, pruneviz as pv
    >>> units = np.arange(4)[:, None]
    >>> groups = pv.Groups((pv.Group("fc1", 4, (pv.Slice("fc1.weight", 0, units, "out"),)),))
    >>> pairs = pd.DataFrame({"group": "fc1", "kept": [0, 1, 3], "removed": [1, 2, 0]})
    >>> pv.drop_redundant(pairs, groups).keep["fc1"]  # 2 is like 1, which is removed; 1 relies on 0
    tensor([ True, False,  True,  True])
    """
    checks.columns(pairs, dict.fromkeys(("group", "kept", "removed"), PAIRS_FROM), "drop_redundant")
    checks.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
    keep = keep_all(groups)
    for name, part in pairs.groupby("group", sort=False):
        group = checks.choice(name, "group", keep, what="group")
        keep[group][sorted(removable_units(zip(part["kept"], part["removed"], strict=True)))] = (
            False
        )
        check_even(groups[group], ~keep[group].numpy())
    return Plan(keep, groups)


def removable_units(pairs: Iterable[tuple[int, int]], already: Iterable[int] = ()) -> set[int]:
    """Return the units of pairs (kept, removed) to remove, so that each has a kept substitute.

    `already`: units that are removed already.

    >>> sorted(removable_units([(0, 1), (1, 2), (3, 0)])), removable_units([(0, 1)], already=[0])
    ([1], set())
    """
    before = set(already)
    found: set[int] = set()
    needed: set[int] = set()
    for kept, removed in pairs:
        if not {kept, removed} & (before | found) and removed not in needed:
            found.add(int(removed))
            needed.add(kept)
    return found

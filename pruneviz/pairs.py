"""Of each pair of twins one goes: from a table of pairs to a plan."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from pruneviz import _check
from pruneviz.drop import evenly
from pruneviz.group import Groups
from pruneviz.types import Plan

if TYPE_CHECKING:
    import pandas as pd

SOURCE = "pv.find_twins(model, groups=groups, threshold=0.8)"


def one_of_each(twins: pd.DataFrame, groups: Groups) -> Plan:
    """Return the plan in which of each pair the smaller unit goes, if its twin stays.

    The pairs are gone through in their order. A unit goes if the other one of the pair has not gone
    and no unit that went relies on it: so every unit that goes leaves behind a twin that stays.

    Parameters
    ----------
    twins : DataFrame
        From `find_twins`, the most similar first: columns ``group``, ``kept``, ``removed``.
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
    >>> pv.one_of_each(twins, groups).keep["fc1"]  # 2 is like 1, which has gone; 1 relies on 0
    tensor([ True, False,  True,  True])
    """
    _check.columns(twins, dict.fromkeys(("group", "kept", "removed"), SOURCE), "one_of_each")
    _check.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
    keep = {g.name: torch.ones(g.size, dtype=torch.bool) for g in groups if not g.frozen}
    for name, part in twins.groupby("group", sort=False):
        group = _check.choice(name, "group", keep, what="group")
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

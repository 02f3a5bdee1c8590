"""Which groups cannot be cut, though the graph says that they could? Each is tried."""

from __future__ import annotations

from collections.abc import Container

import torch

from pruneviz.core.errors import GraphError, IncomparableError, sentence_of
from pruneviz.core.groups import Groups
from pruneviz.core.plan import Plan, keep_all
from pruneviz.pruning.shrink import Shrinker


def refused_groups(
    shrinker: Shrinker, plan: Plan, *, as_program: bool = False
) -> dict[str, GraphError]:
    """Return the error of each group that cannot be cut as a plan says, beside the others.

    All of them are cut at once, and compared. If that fails, the groups are halved until the guilty
    ones are found: a few comparisons for each of them. A size that is written into the user's Python
    code is found in no other way.

    Raises
    ------
    GraphError
        If the model itself cannot be compared with a smaller one.
    """
    refused: dict[str, GraphError] = {}

    def added(names: list[str], good: list[str]) -> list[str]:
        """Return the good groups, and those of `names` that can be cut beside them."""
        error = _attempt(shrinker, plan, [*good, *names], as_program)
        if error is None:
            return [*good, *names]
        if len(names) == 1:
            refused[names[0]] = error
            return good
        middle = len(names) // 2
        return added(names[middle:], added(names[:middle], good))

    names = [n for n, keep in plan.keep.items() if not bool(keep.all())]
    if names:
        added(names, [])
    return refused


def least_plan(groups: Groups) -> Plan:
    """Return the plan that removes as few units as possible of each group, but at least one.

    The numbers of two groups that were equal are different then, so that a size which the code takes
    for both is found.
    """
    keep = keep_all(groups)
    for g in groups.cuttable:
        for part in g.even_parts if min(map(len, g.even_parts)) > 1 else ():
            keep[g.name][part[-1]] = False
    return Plan(keep, groups)


def without(plan: Plan, names: Container[str]) -> Plan:
    """Return a plan that keeps all units of the named groups."""
    kept = {n: torch.ones_like(k) if n in names else k for n, k in plan.keep.items()}
    return Plan(kept, plan.groups, plan.left_out)


def reason_of(error: GraphError) -> str:
    """Return in a few words why a group cannot be cut."""
    return error.reason or sentence_of(error).rstrip(".")


def _attempt(
    shrinker: Shrinker, plan: Plan, names: list[str], as_program: bool
) -> GraphError | None:
    try:
        shrinker.compared(without(plan, plan.keep.keys() - set(names)), as_program=as_program)
    except IncomparableError:
        raise
    except GraphError as e:
        return e
    return None

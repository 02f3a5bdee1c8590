"""Which groups cannot be cut, though the graph says that they could? Each is tried."""

from __future__ import annotations

import torch

from pruneviz.core.errors import GraphError, IncomparableError, sentence_of
from pruneviz.core.groups import Groups
from pruneviz.core.plan import Plan, Scores
from pruneviz.pruning.shrink import Shrinker
from pruneviz.selection.select import select


def refused_groups(shrinker: Shrinker, groups: Groups) -> dict[str, GraphError]:
    """Return the error of each group that cannot be cut together with the others.

    Half of the units of all groups are removed at once, and compared. If that fails, the groups are
    halved until the guilty ones are found: a few comparisons for each of them. A size that is written
    into the user's Python code is found in no other way.

    Raises
    ------
    GraphError
        If the model itself cannot be compared with a smaller one.
    """
    refused: dict[str, GraphError] = {}

    def added(names: list[str], good: list[str]) -> list[str]:
        """Return the good groups, and those of `names` that can be cut beside them."""
        error = _attempt(shrinker, groups, [*good, *names])
        if error is None:
            return [*good, *names]
        if len(names) == 1:
            refused[names[0]] = error
            return good
        middle = len(names) // 2
        return added(names[middle:], added(names[:middle], good))

    names = [g.name for g in groups.cuttable if g.size > 1]
    if names:
        added(names, [])
    return refused


def reason_of(error: GraphError) -> str:
    """Return in a few words why a group cannot be cut."""
    return error.reason or sentence_of(error).rstrip(".")


def _attempt(shrinker: Shrinker, groups: Groups, names: list[str]) -> GraphError | None:
    # any scores will do: what fits does not depend on which units of a group are removed
    values = {n: torch.arange(groups[n].size).float() for n in names}
    plan: Plan = select(Scores(values, "any", groups), sparsity=0.5)
    try:
        shrinker.compared(plan)
    except IncomparableError:
        raise
    except GraphError as e:
        return e
    return None

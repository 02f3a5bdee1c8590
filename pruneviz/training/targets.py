"""Which sparsity each round must reach, and which weights or units it drops."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.plan import Plan, Scores
from pruneviz.model.weights import Mask, masked_attributes, steps, visible_weights, weight_places
from pruneviz.selection.select import select, tensors_of_layers
from pruneviz.training.schedules import schedule as sparsities_of

Target = float | dict[str, float]


def targets_of(
    sparsity: float | Mapping[str, float] | None,
    schedule: str | Sequence[float],
    rounds: int | None,
    have: Mapping[str, Tensor],
) -> list[Target]:
    """Return the target sparsity of each round: one number, or one for each layer.

    `have`: by tensor the weights that masks keep at the start.
    """
    if isinstance(schedule, str):
        if sparsity is None:
            raise ArgumentError(
                "`sparsity` is missing. Pass the sparsity of the last round, such as sparsity=0.9, "
                "or the sparsity of each round, schedule=[0.5, 0.8, 0.9]."
            )
        n = rounds if rounds is not None else 1 if schedule == "one-shot" else 5
        if not isinstance(sparsity, Mapping):
            return [*sparsities_of(schedule, sparsity, rounds=n, start=Plan(have).sparsity)]
        by_layer = {}
        for layer, end in sparsity.items():
            part = {t: have[t] for t in tensors_of_layers([layer], have)} if have else {}
            by_layer[layer] = sparsities_of(schedule, end, rounds=n, start=Plan(part).sparsity)
        each_round = zip(*by_layer.values(), strict=True)
        return [dict(zip(by_layer, values, strict=True)) for values in each_round]
    if sparsity is not None or rounds is not None:
        raise ArgumentError(
            "`schedule` is a list of the sparsity of each round: leave `sparsity` and `rounds` out."
        )
    listed = [checks.sparsity(s, "schedule") for s in schedule]
    if not listed:
        raise ArgumentError("`schedule` is empty: there is no round to run.")
    before = Plan(have).sparsity
    for i, s in enumerate(listed, 1):
        if s < before:
            raise ArgumentError(
                f"`schedule` goes down: {s:g} in round {i}, after {before:g}. What was dropped "
                "does not come back: pass sparsities that rise."
            )
        before = s
    return [*listed]


def round_plan(
    scores: Scores, target: Target, scope: str | None, kept: Mapping[str, Tensor]
) -> Plan:
    """Return the plan of a round; what an earlier round dropped is dropped again."""
    ranked, keep = {}, {}
    for name, values in scores.values.items():
        keep[name] = kept.get(name, torch.ones_like(values, dtype=torch.bool)).to(values.device)
        values = values if values.is_floating_point() else values.double()
        ranked[name] = values.masked_fill(~keep[name], -math.inf)  # the lowest score
    plan = select(replace(scores, values=ranked), sparsity=target, scope=scope)
    return replace(plan, keep={n: k & keep[n] for n, k in plan.keep.items()})


def total_sparsity(target: Target, plan: Plan) -> float:
    """Return the sparsity of all layers together at a target."""
    if not isinstance(target, dict):
        return target
    if not plan.total:
        return 0.0
    share = dict.fromkeys(plan.keep, 0.0)
    for layer, s in target.items():
        names = (
            tensors_of_layers([layer], plan.keep)
            if plan.groups is None
            else [g.name for g in plan.groups.groups_of(layer) if g.name in share]
        )
        share.update(dict.fromkeys(names, s))
    return sum(s * plan.keep[n].numel() for n, s in share.items()) / plan.total


def kept_by_masks(model: nn.Module) -> dict[str, Tensor]:
    """Return by weight tensor what its masks keep: bool, True = keep."""
    found = {n: torch.ones_like(w, dtype=torch.bool) for n, w in visible_weights(model).items()}
    for name, held in weight_places(model).items():
        module, attribute = held.holders[0]
        for step in steps(module, attribute) if attribute in masked_attributes(module) else ():
            if isinstance(step, Mask):
                found[name] &= step.keep
    return found


def dropped_shares(sparsities: Sequence[float]) -> list[float]:
    """Return the share that each round drops of what was kept before it, rounded to six digits.

    >>> dropped_shares([0.0, 0.5, 0.75, 0.75])
    [0.5, 0.5, 0.0]
    """
    return [round(1 - (1 - b) / (1 - a), 6) for a, b in pairwise(sparsities)]

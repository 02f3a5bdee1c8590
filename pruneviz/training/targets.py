"""What each round has to reach, and what goes in it: what has gone before goes first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.plan import Plan, Scores
from pruneviz.model.hooks import evaluating
from pruneviz.model.weights import Mask, masked_attributes, places, steps
from pruneviz.selection.select import select, tensors
from pruneviz.training.schedules import schedule as rising

Target = float | dict[str, float]


def targets_of(
    sparsity: float | Mapping[str, float] | None,
    schedule: str | Sequence[float],
    rounds: int | None,
    have: Mapping[str, Tensor],
) -> list[Target]:
    """Return the sparsity to reach in each round: for all layers, or layer by layer."""
    if isinstance(schedule, str):
        if sparsity is None:
            raise ArgumentError(
                "`sparsity` is missing: where shall the rounds arrive? Such as sparsity=0.9; or name "
                "the sparsity of each round, schedule=[0.5, 0.8, 0.9]."
            )
        n = rounds if rounds is not None else 1 if schedule == "one-shot" else 5
        if not isinstance(sparsity, Mapping):
            return [*rising(schedule, sparsity, rounds=n, start=Plan(have).sparsity)]
        ways = {}
        for layer, end in sparsity.items():
            part = {t: have[t] for t in tensors([layer], have)} if have else {}
            ways[layer] = rising(schedule, end, rounds=n, start=Plan(part).sparsity)
        return [dict(zip(ways, at, strict=True)) for at in zip(*ways.values(), strict=True)]
    if sparsity is not None or rounds is not None:
        raise ArgumentError(
            "`schedule` names the sparsity of each round already: leave `sparsity` and `rounds` out."
        )
    listed = [checks.sparsity(s, "schedule") for s in schedule]
    if not listed:
        raise ArgumentError("`schedule` is empty: there is no round to run.")
    before = Plan(have).sparsity
    for i, s in enumerate(listed, 1):
        if s < before:
            raise ArgumentError(
                f"`schedule` goes down: {s:g} in round {i}, after {before:g}. What has gone does not "
                "come back: let it rise."
            )
        before = s
    return [*listed]


def planned(scores: Scores, target: Target, scope: str | None, kept: Mapping[str, Tensor]) -> Plan:
    """Choose what goes; what has gone before goes first."""
    ranked, stays = {}, {}
    for name, values in scores.values.items():
        stays[name] = kept.get(name, torch.ones_like(values, dtype=torch.bool)).to(values.device)
        values = values if values.is_floating_point() else values.double()
        ranked[name] = values.masked_fill(~stays[name], -math.inf)
    plan = select(Scores(ranked, scores.criterion, scores.groups), sparsity=target, scope=scope)
    return Plan({n: k & stays[n] for n, k in plan.keep.items()}, plan.groups)


def total(target: Target, plan: Plan) -> float:
    """Return the sparsity of the whole that a target asks for."""
    if not isinstance(target, dict):
        return target
    if not plan.total:
        return 0.0
    share = dict.fromkeys(plan.keep, 0.0)
    for layer, s in target.items():
        names = (
            tensors([layer], plan.keep)
            if plan.groups is None
            else [g.name for g in plan.groups.groups_of(layer) if g.name in share]
        )
        share.update(dict.fromkeys(names, s))
    return sum(s * plan.keep[n].numel() for n, s in share.items()) / plan.total


def masks(model: nn.Module) -> dict[str, Tensor]:
    """Return what of each weight tensor is held at zero already: boolean, True = stays."""
    with evaluating(model):  # reading a weight may run other parametrizations
        found = {
            name: torch.ones_like(place.tensor, dtype=torch.bool)
            for name, place in places(model).items()
        }
    for name, place in places(model).items():
        module, attribute = place.holders[0]
        for step in steps(module, attribute) if attribute in masked_attributes(module) else ():
            if isinstance(step, Mask):
                found[name] &= step.keep
    return found


def cuts(sparsities: Sequence[float]) -> list[float]:
    """Return which share of what was left each round takes, rounded to six digits.

    >>> cuts([0.0, 0.5, 0.75, 0.75])
    [0.5, 0.5, 0.0]
    """
    return [round(1 - (1 - b) / (1 - a), 6) for a, b in pairwise(sparsities)]

"""What can go for nothing: units that are dead, constant, unread, or doubles of others."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruneviz.core import checks
from pruneviz.core.groups import Group, Groups
from pruneviz.core.names import unmasked_name
from pruneviz.core.plan import Plan
from pruneviz.evidence.evidence import Evidence, check_evidence
from pruneviz.graph.find_groups import find_groups
from pruneviz.model.forward import arguments
from pruneviz.model.forward import copied_inputs as plain_inputs
from pruneviz.model.hooks import evaluating
from pruneviz.model.layers import weight_shapes
from pruneviz.model.patches import spreads
from pruneviz.model.tensors import Held, held
from pruneviz.pruning.equivalence import difference_of
from pruneviz.pruning.shrink import Shrinker
from pruneviz.redundancy.bounds import FAR, bounds
from pruneviz.redundancy.inactive import kinds
from pruneviz.redundancy.redundant import find_redundant
from pruneviz.selection.drop import spare

EQUAL_WEIGHTS = 1 - 1e-9  # similarity from which on two units are one


def lossless_plan(
    model: nn.Module,
    example_input: Any,
    *,
    evidence: Evidence | None = None,
    low: float | Tensor = -FAR,
    high: float | Tensor = FAR,
) -> Plan:
    """Return the plan of all units that can go for nothing.

    These are units that are 0, or one and the same number, for every input of a box, proved by
    `bounds`; units that nobody reads, because all their consumers' weights are 0; and units that are
    another one's double, or a multiple of it where what lies between keeps multiples. With
    `evidence` also those that were only *observed* to be so.

    ``shrink(model, plan, example_input=x, repair="merge")`` removes them without a trace (with
    ``evidence=evidence``, if that was used here); `certify` says how well that is known. A constant
    that enters a zero-padded convolution is left alone: at the border it is none.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    example_input : Tensor, tuple or dict
        Arguments of the forward, as for `find_groups`.
    evidence : Evidence, optional
        From `collect` on this model.
    low, high : float or Tensor
        The box of inputs, as for `bounds`; for images, say, 0 and 1. By default so large that only
        what holds for any input is proved.

    Returns
    -------
    Plan
        It keeps everything where nothing is free.

    Raises
    ------
    ArgumentError
        If the evidence is of another model, or the example input does not fit.
    GraphError
        If the model cannot be traced.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    >>> with torch.no_grad():
    ...     model[0].weight[1], model[0].bias[1] = 0, 0.5  # constant
    ...     model[0].weight[3], model[0].bias[3] = model[0].weight[0], model[0].bias[0]  # a double
    >>> x = torch.randn(5, 2)
    >>> plan = pv.lossless_plan(model, x)
    >>> small = pv.shrink(model, plan, example_input=x, repair="merge")
    >>> small[0].out_features, bool(torch.allclose(small(x), model(x), atol=1e-6))
    (2, True)
    """
    model = checks.unwrapped(model)
    groups = find_groups(model, example_input)
    if evidence is not None:
        check_evidence(evidence, weight_shapes(model))
    asleep = sleeping(model, example_input, groups, evidence, low, high)
    whole = Plan(
        {g.name: torch.ones(g.size, dtype=torch.bool) for g in groups if not g.frozen}, groups
    )
    twins = find_redundant(model, groups=groups, threshold=EQUAL_WEIGHTS)
    equal = twins[(twins["scale"] - 1).abs() <= 1e-9]
    plan = _without(whole, asleep, equal)
    if len(twins) > len(equal):  # multiples: only where what lies between keeps them
        more = _without(whole, asleep, twins)
        plan = more if _harmless(model, example_input, more) else plan
    if evidence is not None and any(
        m.full for m in (*evidence.inputs.values(), *evidence.patches.values())
    ):
        seen = find_redundant(model, groups=groups, evidence=evidence, threshold=EQUAL_WEIGHTS)
        plan = _without(plan, {}, seen)
    return plan


def sleeping(
    model: nn.Module,
    example_input: Any,
    groups: Groups,
    evidence: Evidence | None,
    low: float | Tensor,
    high: float | Tensor,
    *,
    off_border: bool = False,
) -> dict[str, np.ndarray]:
    """Mark, for each group, the units that do nothing: proved, or with evidence observed.

    `off_border`: also constants that enter a zero-padded convolution.
    """
    with evaluating(model):
        have = held(model)
        padded = {g.name: _padded(g, have) and not off_border for g in groups if not g.frozen}
        marks = {g.name: _unread(g, have) for g in groups if not g.frozen}
    if _floating(example_input):
        frame = bounds(model, example_input, low=low, high=high, groups=groups)
        for name in marks:
            part = frame[frame["group"] == name]
            wanted = ["dead"] if padded[name] else ["dead", "constant"]
            marks[name] |= part["kind"].isin(wanted).to_numpy()
    for g in groups if evidence is not None else ():
        if g.frozen or not any(c in evidence.inputs for c in g.consumers):  # type: ignore[union-attr]
            continue
        kind = kinds(evidence.of_units(g)[1])  # type: ignore[union-attr]
        marks[g.name] |= np.isin(kind, ["dead"] if padded[g.name] else ["dead", "constant"])
    return marks


def _unread(g: Group, have: dict[str, Held]) -> np.ndarray:
    """Units for which all weights of all consumers are 0."""
    unread, read = np.ones(g.size, bool), False
    for s in g.slices:
        if s.role != "in" or s.layer not in g.consumers:
            continue
        weight = have[unmasked_name(s.tensor)].visible
        if s.blocks > 1:
            split = weight.unflatten(0, (s.blocks, -1)).movedim(s.dim + 1, 1).flatten(0, 1)
        else:
            split = weight.movedim(s.dim, 0)  # (n, …)
        used: np.ndarray = (split.flatten(1) != 0).any(1).cpu().numpy()
        read = True
        unread &= ~used[s.index].any(1)
    return unread if read else np.zeros(g.size, bool)


def _padded(g: Group, have: dict[str, Held]) -> bool:
    """Whether a zero-padded convolution reads the group."""
    modules = [
        have[unmasked_name(s.tensor)].holders[0][0] for s in g.slices if s.layer in g.consumers
    ]
    return any(
        isinstance(m, _ConvNd) and spreads(m) and any(m._reversed_padding_repeated_twice)
        for m in modules
    )


def _without(plan: Plan, asleep: dict[str, np.ndarray], twins: Any) -> Plan:
    """Drop the sleepers, and of each pair of twins one whose other stays."""
    keep = {n: k.clone() for n, k in plan.keep.items()}
    for name, mark in asleep.items():
        keep[name] &= ~torch.from_numpy(mark)
    for name, part in twins.groupby("group", sort=False):
        gone = set((~keep[name]).nonzero()[:, 0].tolist())
        keep[name][sorted(spare(zip(part["kept"], part["removed"], strict=True), gone))] = False
    assert plan.groups is not None
    for name, k in keep.items():
        _evened(plan.groups[name], k)
    return Plan(keep, plan.groups)


def _evened(g: Group, keep: Tensor) -> None:
    """Give units back until one stays, and as many go from each part that must stay equal."""
    labels = np.zeros(g.size, int) if g.even is None else g.even
    parts = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    most = min(min(int((~keep[p]).sum()), len(p) - 1) for p in parts)
    for p in parts:
        gone = p[(~keep[p]).numpy()]
        keep[gone[most:]] = True


def _harmless(model: nn.Module, example_input: Any, plan: Plan) -> bool:
    """Whether the model without these units gives the same outputs on varied examples."""
    shrinker = Shrinker(model, example_input)
    small = shrinker.quick(plan)
    shrinker.repair(small, plan, "merge", None, None)
    args, kwargs = plain_inputs(arguments(example_input), model)
    error, scale, _ = difference_of(model, small, [(args, kwargs)])
    return error <= 1e-6 * scale


def _floating(example_input: Any) -> bool:
    leaves = torch.utils._pytree.tree_leaves(arguments(example_input))
    return any(isinstance(t, Tensor) and t.is_floating_point() for t in leaves)

"""Which units can be removed without changing the outputs: dead, constant, unread, redundant, unrun.

Two kinds of knowledge are used. *Proved*: from the weights alone, for every input of a box
(interval bounds, consumers' weights that are all 0, equal incoming weights). *Observed*: true on
the collected batches only, and used only where `evidence` is passed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, GraphError
from pruneviz.core.groups import Group, Groups
from pruneviz.core.names import unmasked_name
from pruneviz.core.plan import Plan, keep_all
from pruneviz.evidence.evidence import Evidence, check_evidence
from pruneviz.graph.find_groups import find_groups
from pruneviz.model.batches import one_example
from pruneviz.model.forward import arguments, copied_inputs, quiet, run_forward
from pruneviz.model.hooks import evaluating, plain_torch
from pruneviz.model.layers import weight_shapes
from pruneviz.model.patches import is_constant_inside, reads_border
from pruneviz.model.tensors import Held, matrix, tensors_by_name
from pruneviz.pruning.equivalence import difference_of
from pruneviz.pruning.shrink import Shrinker
from pruneviz.redundancy.bounds import WIDE_BOX, bounds
from pruneviz.redundancy.inactive import kinds
from pruneviz.redundancy.redundant import find_redundant
from pruneviz.selection.drop import removable_units

EQUAL_WEIGHTS = 1 - 1e-9  # least similarity at which two units count as equal


@plain_torch()
def lossless_plan(
    model: nn.Module,
    example_input: Any,
    *,
    evidence: Evidence | None = None,
    low: float | Tensor = -WIDE_BOX,
    high: float | Tensor = WIDE_BOX,
    unrun: bool = False,
) -> Plan:
    """Return the plan that drops all units whose removal does not change the outputs.

    These units are *proved* to be one of three kinds: the activation is 0 or constant for every
    input of a box (by `bounds`); nobody reads the unit, because all weights that would are 0, or
    because no output needs its branch (an auxiliary head whose result is not returned; one unit of
    each of its layers stays, so that the forward still runs); or the unit equals another one, or a
    multiple of it where the operators between producer and consumer keep multiples. With `evidence`, units are also dropped that were only *observed* to be
    dead, constant or redundant on the collected batches.

    ``shrink(model, plan, example_input=x, repair="merge")`` removes the units and keeps the outputs
    (pass ``evidence=evidence`` there if it was passed here). `certify` says whether this is proved
    or observed. A constant unit that enters a zero-padded convolution is kept: at the border the
    convolution reads 0 in place of the constant, so no bias can replace it.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    example_input : Tensor, tuple or dict
        Arguments of the forward, as for `find_groups`.
    evidence : Evidence, optional
        From `collect` on this model: also drop units that are inactive or redundant on its batches.
    low, high : float or Tensor
        The box of inputs, as for `bounds`; for images, say, 0 and 1. The default is so large that
        the proofs hold for any input.
    unrun : bool
        Also drop all units but one of each layer that does not run on the example, such as a head
        for training only. Where it does run, the smaller model raises an error. `certify` says
        ``"observed"`` then.

    Returns
    -------
    Plan
        It keeps all units if none can be removed.

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
    ...     model[0].weight[3], model[0].bias[3] = model[0].weight[0], model[0].bias[0]  # redundant
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
    inactive = inactive_units(model, example_input, groups, evidence, low, high)
    whole = Plan(keep_all(groups), groups)
    pairs = find_redundant(model, groups=groups, threshold=EQUAL_WEIGHTS)
    equal = pairs[(pairs["scale"] - 1).abs() <= 1e-9]
    plan = _drop_units(whole, inactive, equal)
    if len(pairs) > len(equal):
        # Equal weights give equal activations after any pointwise operator. A multiple of the
        # weights gives a multiple of the activation only after some (ReLU, not GELU), so this is
        # tested by a run.
        with_multiples = _drop_units(whole, inactive, pairs)
        plan = (
            with_multiples if merged_outputs_agree(model, example_input, with_multiples) else plan
        )
    if evidence is not None and any(
        m.full for m in (*evidence.inputs.values(), *evidence.patches.values())
    ):
        observed = find_redundant(model, groups=groups, evidence=evidence, threshold=EQUAL_WEIGHTS)
        plan = _drop_units(plan, {}, observed)
    if unrun:
        idle = {g.name: torch.arange(g.size) < 1 for g in groups if g.unused == "unrun"}
        plan = Plan({**plan.keep, **idle}, groups)
    return plan


def inactive_units(
    model: nn.Module,
    example_input: Any,
    groups: Groups,
    evidence: Evidence | None,
    low: float | Tensor,
    high: float | Tensor,
    *,
    off_border: bool = False,
) -> dict[str, np.ndarray]:
    """Mark, for each group, the units that are dead, constant or unread.

    Without evidence a mark is a proof for every input of the box. With evidence a mark may also be
    an observation on its batches. Frozen groups are left out. With `off_border` constant units that
    enter a zero-padded convolution are marked, too.
    """
    with evaluating(model):
        tensors = tensors_by_name(model)
        cut = groups.cuttable
        padded = {g.name: _read_with_padding(g, tensors) and not off_border for g in cut}
        unread = _unread_branches(model, example_input, groups)
        idle = {layer for g in groups if g.unused == "unread" for layer in g.producers}
        marks = {
            g.name: np.full(g.size, True) if g.name in unread else _unread(g, tensors, idle)
            for g in cut
        }
    if _has_float_input(example_input):
        frame = bounds(model, example_input, low=low, high=high, groups=groups)
        for name in marks:
            part = frame[frame["group"] == name]
            removable = ["dead"] if padded[name] else ["dead", "constant"]
            marks[name] |= part["kind"].isin(removable).to_numpy()  # proved
    if evidence is None:
        return marks
    for g in cut:
        if not any(s.reader in evidence.inputs for s in g.reads):
            continue
        kind = kinds(evidence.of_units(g)[1])
        removable = ["dead"] if padded[g.name] else ["dead", "constant"]
        marks[g.name] |= np.isin(kind, removable)  # observed
    return marks


def _unread_branches(model: nn.Module, example_input: Any, groups: Groups) -> set[str]:
    """Return the groups that no output needs, and whose units can be cut: the forward still runs."""
    unread = [g for g in groups.cuttable if g.unused == "unread"]
    if not unread:
        return set()
    shrinker = Shrinker(model, example_input)

    def can_go(some: list[Group]) -> bool:
        keep = keep_all(groups)
        for g in some:
            keep[g.name][:] = False
            _restore_units(g, keep[g.name])
        try:
            small = shrinker.quick(Plan(keep, groups))
            with quiet(), evaluating(small):  # no output shows a wrong `view(-1, 8)` in the branch
                run_forward(small, *one_example(example_input))
        except (GraphError, ArgumentError):  # its code uses a size that is written there
            return False
        return True

    return {g.name for g in unread} if can_go(unread) else {g.name for g in unread if can_go([g])}


def _unread(g: Group, tensors: dict[str, Held], idle: set[str]) -> np.ndarray:
    """Mark the units for which all weights of all consumers are 0; shape (units,).

    `idle`: layers whose results no output needs; what they read does not matter.
    """
    unread, has_consumer = np.ones(g.size, bool), False
    for s in g.slices:
        if s.role != "in" or s.layer not in g.consumers or s.layer in idle:
            continue
        used = matrix(tensors[unmasked_name(s.tensor)].visible, s) != 0  # (units, numbers)
        has_consumer = True
        unread &= ~used.any(1).cpu().numpy()
    return unread if has_consumer else np.zeros(g.size, bool)


def _read_with_padding(g: Group, tensors: dict[str, Held]) -> bool:
    """Whether a convolution reads the group that a constant does not reach everywhere alike."""
    modules = [
        tensors[unmasked_name(s.tensor)].holders[0][0] for s in g.slices if s.layer in g.consumers
    ]
    return any(
        isinstance(m, _ConvNd) and (reads_border(m) or not is_constant_inside(m)) for m in modules
    )


def _drop_units(plan: Plan, inactive: dict[str, np.ndarray], pairs: Any) -> Plan:
    """Drop the inactive units, and one unit of each redundant pair whose other unit is kept."""
    keep = {n: k.clone() for n, k in plan.keep.items()}
    for name, mark in inactive.items():
        keep[name] &= ~torch.from_numpy(mark)
    for name, part in pairs.groupby("group", sort=False):
        dropped = set((~keep[name]).nonzero()[:, 0].tolist())
        keep[name][
            sorted(removable_units(zip(part["kept"], part["removed"], strict=True), dropped))
        ] = False
    assert plan.groups is not None
    for name, k in keep.items():
        _restore_units(plan.groups[name], k)
    return Plan(keep, plan.groups)


def _restore_units(g: Group, keep: Tensor) -> None:
    """Keep more units, in place: at least one a part, and as many in each part of an even group."""
    most = min(min(int((~keep[p]).sum()), len(p) - 1) for p in g.even_parts)
    for p in g.even_parts:
        dropped = p[(~keep[p]).numpy()]
        keep[dropped[most:]] = True


def merged_outputs_agree(model: nn.Module, example_input: Any, plan: Plan) -> bool:
    """Whether the model without these units gives the same outputs on variations of the example."""
    shrinker = Shrinker(model, example_input)
    small = shrinker.quick(plan)
    shrinker.repair(small, plan, "merge", None, None)
    args, kwargs = copied_inputs(arguments(example_input), model)
    error, scale, _ = difference_of(model, small, [(args, kwargs)])
    return error <= 1e-6 * scale


def _has_float_input(example_input: Any) -> bool:
    leaves = torch.utils._pytree.tree_leaves(arguments(example_input))
    return any(isinstance(t, Tensor) and t.is_floating_point() for t in leaves)

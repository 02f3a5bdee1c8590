"""Set weights to zero, and hold them there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Groups
from pruneviz.core.names import unmasked_name
from pruneviz.core.plan import Plan
from pruneviz.evidence.evidence import Evidence, check_evidence
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import evaluating
from pruneviz.model.layers import weight_shapes
from pruneviz.model.tensors import check_fit, check_keep, held
from pruneviz.model.weights import Mask, masked_attributes, places, steps
from pruneviz.pruning.repair.ladder import RIDGE, check_source
from pruneviz.pruning.repair.weights import refit_weights


@torch.inference_mode(False)  # what is made inside that mode could never be trained
def mask(
    model: nn.Module,
    plan: Plan,
    *,
    repair: str = "none",
    evidence: Evidence | None = None,
    batches: Iterable[Any] | None = None,
    ridge: float = RIDGE,
) -> nn.Module:
    """Return a copy of the model in which what the plan drops is zero, and stays so.

    The shapes stay: a masked model is neither smaller nor faster. It survives `copy.deepcopy`,
    `state_dict` and training, whatever momentum and weight decay do. A mask over a masked model
    drops what either drops.

    A unit is silenced where it is made: the slices of role ``"out"`` (rows, bias, norm affine) are
    zero, the consumers' columns stay. Parameters are held at zero; floating-point buffers, such as a
    running mean, and tensors inside another parametrization, such as the norms of weight_norm, are
    set to zero but not held there: training may fill them.

    Parameters
    ----------
    model : nn.Module
        Not changed. It is taken out of DataParallel or torch.compile.
    plan : Plan
        From `select` or `drop`, for this model; what it does not name stays.
    repair : str
        ``"none"``, or ``"lstsq"`` for single weights: each row's weights that stay are re-fitted by
        least squares to what the whole row gave. Of Linear and Conv layers; where nothing was
        collected, or a weight is shared, they stay as they are.
    evidence : Evidence, optional
        From `collect` on this model, for the repair.
    batches : iterable, optional
        As for `collect`, in the place of `evidence`: the layers are re-fitted one after the other,
        each on what it reads in the masked model.
    ridge : float
        How strongly the old weights are held, as a share of the mean variance of the inputs.

    Returns
    -------
    nn.Module
        A new model; each pruned layer carries a `torch.nn.utils.parametrize` mask. `bake` makes
        the zeros permanent.

    Raises
    ------
    ArgumentError
        If the plan or the evidence is of another model, or a repair is asked for without evidence, or
        for units: `shrink` repairs those.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> layer = torch.nn.Linear(4, 1)
    >>> plan = pv.select(pv.score(layer, "magnitude"), sparsity=0.5)
    >>> int((pv.mask(layer, plan).weight == 0).sum())
    2
    """
    checks.kind(plan, "plan", Plan, "Make it: pv.select(scores, sparsity=0.5).")
    model = checks.unwrapped(model)
    checks.choice(repair, "repair", ("none", "lstsq"))
    ridge = checks.number(ridge, "ridge", low=0)
    if repair != "none":
        if plan.groups is not None:
            raise ArgumentError(
                "`mask` repairs single weights, but this plan drops units. Remove them for real: "
                "pv.shrink(model, plan, example_input=x, repair='lstsq', evidence=evidence)."
            )
        check_source(repair, evidence, batches)
        if evidence is not None:
            check_evidence(evidence, weight_shapes(model))
    if plan.groups is not None:
        return _silence(model, plan.keep, plan.groups)
    with evaluating(model):  # reading a weight may run other parametrizations
        have = {name: place.tensor for name, place in places(model).items()}
    for name, keep in plan.keep.items():
        if name not in have:
            known = ", ".join(list(have)[:6])
            raise ArgumentError(
                f"`plan` is of another model: it names {name!r}, but the weights here are: {known}."
            )
        check_keep(name, keep, tuple(have[name].shape))
    new = copy_of(model)
    for name, place in places(new).items():
        if name in plan.keep:
            keep = plan.keep[name].to(have[name].device)
            for module, attribute in place.holders:
                _hold(module, attribute, keep)
    if repair != "none":
        refit_weights(model, new, plan.keep, evidence, batches, ridge)
    return new


@torch.inference_mode(False)
def bake(model: nn.Module) -> nn.Module:
    """Return a copy of the model without masks: plain weights in which the zeros are values.

    Parameters
    ----------
    model : nn.Module
        From `mask`. Not changed. A model without masks is simply copied.

    Returns
    -------
    nn.Module
        A new model, with the state_dict keys from before `mask`. Nothing holds its zeros any more:
        training would fill them.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> layer = torch.nn.Linear(4, 1)
    >>> masked = pv.mask(layer, pv.select(pv.score(layer, "magnitude"), sparsity=0.5))
    >>> list(pv.bake(masked).state_dict())
    ['weight', 'bias']
    """
    new = copy_of(checks.unwrapped(model))
    for module in list(new.modules()):
        # torch puts them last: put them where they were
        order = _order(module)
        for attribute in masked_attributes(module):
            _remove(module, attribute)
        params = {name: module._parameters[name] for name in order}
        module._parameters.clear()
        module._parameters.update(params)
    return new


def _silence(model: nn.Module, keep: Mapping[str, Tensor], groups: Groups) -> nn.Module:
    """Return a copy of the model in which the units that go are 0 where they are made."""
    for name, kept in keep.items():
        check_keep(name, kept, (groups[name].size,))
    with evaluating(model):
        check_fit(groups, [groups[name] for name in keep], held(model), "plan")
    new = copy_of(model)
    have = held(new)
    gone: dict[int, Tensor] = {}  # by identity of the tensor, which may be in several slices
    for name, kept in keep.items():
        lost = ~kept.cpu().numpy()
        for s in groups[name].slices if lost.any() else ():
            tensor = have[unmasked_name(s.tensor)].tensor
            if s.role == "out":
                mark = torch.from_numpy(s.mark(tuple(tensor.shape), lost).copy())
                gone[id(tensor)] = gone.get(id(tensor), torch.zeros_like(mark)) | mark
    for there in {id(h.tensor): h for h in have.values()}.values():
        if id(there.tensor) not in gone:
            continue
        lost_here = gone[id(there.tensor)].to(there.tensor.device)
        for module, attribute in there.holders:
            ours = there.part == "original" and attribute in masked_attributes(module)
            if isinstance(there.tensor, nn.Parameter) and (ours or not there.part):
                _hold(module, attribute, ~lost_here)
            elif there.tensor.is_floating_point():
                with torch.no_grad():
                    there.tensor.masked_fill_(lost_here, 0)
    return new


def _hold(module: nn.Module, attribute: str, keep: Tensor) -> None:
    if attribute in masked_attributes(module):
        for step in steps(module, attribute):
            if isinstance(step, Mask):
                step.keep = step.keep & keep
    else:
        place = _order(module).index(attribute) if attribute in _order(module) else 0
        held_at_zero = Mask(keep.clone(), place)
        parametrize.register_parametrization(module, attribute, held_at_zero, unsafe=True)


def _order(module: nn.Module) -> list[str]:
    """Names of a module's own parameters, those that carry a mask where they were before."""
    order = list(module._parameters)
    masks = {a: s for a in masked_attributes(module) for s in steps(module, a)}
    for attribute, step in sorted(masks.items(), key=lambda item: getattr(item[1], "place", 0)):
        order.insert(getattr(step, "place", 0), attribute)
    return order


def _remove(module: nn.Module, attribute: str) -> None:
    if (
        len(steps(module, attribute)) > 1
    ):  # another parametrization below ours: it stays, and so must the zeros
        raise ArgumentError(
            f"the weight {attribute!r} of a {type(module).__name__} carries another "
            "parametrization beside its mask. Remove that first: "
            "torch.nn.utils.parametrize.remove_parametrizations(layer, name)."
        )
    parametrize.remove_parametrizations(module, attribute, leave_parametrized=True)

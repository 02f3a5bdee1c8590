"""How weights are set to zero and kept at zero, without a change of shapes."""

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
from pruneviz.model.batches import read_all
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import evaluating, plain_torch
from pruneviz.model.layers import weight_shapes
from pruneviz.model.tensors import check_fit, check_keep, tensors_by_name
from pruneviz.model.weights import (
    Mask,
    check_masks_are_ours,
    maskable_places,
    masked_attributes,
    steps,
)
from pruneviz.pruning.repair.distil import Distillation, distil, rung_of
from pruneviz.pruning.repair.ladder import RIDGE, check_repair_data
from pruneviz.pruning.repair.said import Said
from pruneviz.pruning.repair.weights import refit_weights


@plain_torch()
def mask(
    model: nn.Module,
    plan: Plan,
    *,
    repair: str | Distillation = "none",
    evidence: Evidence | None = None,
    batches: Iterable[Any] | None = None,
    ridge: float = RIDGE,
) -> nn.Module:
    """Return a copy of the model in which the weights that the plan drops are zero and stay zero.

    All shapes stay the same: a masked model is neither smaller nor faster. The mask survives
    `copy.deepcopy`, `state_dict` and training, also with momentum and weight decay. Masking a
    masked model drops the weights that either mask drops.

    A unit is silenced in its producer: the slices of role ``"out"`` (rows, bias, norm affine) are
    zero; the consumers' columns do not change. Parameters are held at zero. Floating-point buffers,
    such as a running mean, and tensors inside another parametrization, such as the norms of
    weight_norm, are set to zero once; training may change them again.

    torch moves a masked weight to the end of its layer's parameters, and its key in the state_dict
    becomes ``"parametrizations.weight.original"``: an optimizer goes on with `carry_optimizer`. A
    masked model cannot be pickled: `torch.save` takes ``pv.bake(masked)``, or the state_dict.

    Parameters
    ----------
    model : nn.Module
        Not changed. It is taken out of DataParallel or torch.compile.
    plan : Plan
        From `select` or `drop`, for this model. Weights and units that it does not name are kept.
    repair : str or Distillation
        ``"none"``, or for single weights ``"lstsq"``: in Linear and Conv layers the kept weights of
        each row are re-fitted by least squares to the output of the whole row. A layer without
        collected data, or with a shared weight, is not repaired, and a warning names it.
        ``"distil"``: after that, all kept weights learn the answers of the whole model by gradient
        steps, without a label; what is zero stays zero. See `Distillation`.
    evidence : Evidence, optional
        From `collect` on this model, for the repair.
    batches : iterable, optional
        As for `collect`; used instead of `evidence`. The layers are re-fitted one after the other,
        each on its inputs in the masked model; every tenth example is held out, as in `shrink`.
    ridge : float
        How strongly the fit is pulled towards the old weights, as a share of the mean variance of
        the inputs.

    Returns
    -------
    nn.Module
        A new model in which each pruned layer has a `torch.nn.utils.parametrize` mask. `bake`
        turns the masks into plain zeros.

    Raises
    ------
    ArgumentError
        If the plan or the evidence is of another model, or a repair is asked for without evidence,
        or for units (`shrink` repairs units).

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
    rung = rung_of(repair, ("none", "lstsq", "distil"))
    ridge = checks.number(ridge, "ridge", low=0)
    if rung != "none":
        _check_single_weights(plan)
        check_repair_data(rung, evidence, batches)
        if evidence is not None:
            check_evidence(evidence, weight_shapes(model))
    if plan.groups is not None:
        return _silence(model, plan.keep, plan.groups)
    with evaluating(model):  # reading a weight may run parametrizations
        places = maskable_places(model)
        for name, keep in plan.keep.items():
            if name not in places:
                known = ", ".join(list(places)[:6])
                raise ArgumentError(
                    f"`plan` is of another model: it names {name!r}, but the weights here are: "
                    f"{known}."
                )
            check_keep(name, keep, tuple(places[name].visible.shape))
    new = copy_of(model)
    for name, held in maskable_places(new).items():
        if name in plan.keep:
            keep = plan.keep[name].to(held.tensor.device)
            for module, attribute in held.holders:
                _add_mask(module, attribute, keep)
    if rung != "none":
        repair_mask(model, new, plan, repair, evidence, batches, ridge)
    return new


def repair_mask(
    model: nn.Module,
    new: nn.Module,
    plan: Plan,
    repair: str | Distillation,
    evidence: Evidence | None,
    batches: Iterable[Any] | None,
    ridge: float = RIDGE,
    *,
    whole: nn.Module | None = None,
) -> None:
    """Give the weights that a mask keeps new values, in place.

    `model`: before the mask; `whole`: from which a distillation learns, if it is another one.
    """
    _check_single_weights(plan)
    distilled = rung_of(repair) == "distil"
    said = Said("lstsq", silent=distilled)
    data = None if batches is None else read_all(batches, "fit to")
    refit_weights(model, new, plan.keep, evidence, data, ridge, said)
    said.tell()
    if distilled:
        assert data is not None
        distil(model if whole is None else whole, new, data, repair)


@plain_torch()
def bake(model: nn.Module) -> nn.Module:
    """Return a copy of the model without masks: plain weights that contain the zeros as values.

    Parameters
    ----------
    model : nn.Module
        From `mask`. Not changed. A model without masks is copied.

    Returns
    -------
    nn.Module
        A new model with the state_dict keys from before `mask`. Its zeros are no longer held:
        training would change them.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> layer = torch.nn.Linear(4, 1)
    >>> masked = pv.mask(layer, pv.select(pv.score(layer, "magnitude"), sparsity=0.5))
    >>> list(pv.bake(masked).state_dict())
    ['weight', 'bias']
    """
    model = checks.unwrapped(model)
    check_masks_are_ours(model)
    new = copy_of(model)
    for module in list(new.modules()):
        # torch registers an unmasked weight last: restore the old order of the parameters
        order = _param_order(module)
        for attribute in masked_attributes(module):
            _remove_mask(module, attribute)
        params = {name: module._parameters[name] for name in order}
        module._parameters.clear()
        module._parameters.update(params)
    return new


def _check_single_weights(plan: Plan) -> None:
    """Raise if a repair of single weights is asked for a plan of units."""
    if plan.groups is not None:
        raise ArgumentError(
            "`mask` repairs single weights, but this plan drops units. Remove the units "
            "instead: pv.shrink(model, plan, example_input=x, repair='lstsq', "
            "evidence=evidence)."
        )


def _silence(model: nn.Module, keep: Mapping[str, Tensor], groups: Groups) -> nn.Module:
    """Return a copy of the model in which the producers give 0 for the dropped units."""
    for name, kept in keep.items():
        check_keep(name, kept, (groups[name].size,))
    with evaluating(model):
        check_fit(groups, [groups[name] for name in keep], tensors_by_name(model), "plan")
    new = copy_of(model)
    tensors = tensors_by_name(new)
    zeros: dict[int, Tensor] = {}  # by id of the tensor, because several slices may name it
    for name, kept in keep.items():
        dropped = ~kept.cpu().numpy()
        for s in groups[name].slices if dropped.any() else ():
            tensor = tensors[unmasked_name(s.tensor)].tensor
            if s.role == "out":
                mark = torch.from_numpy(s.mark(tuple(tensor.shape), dropped).copy())
                zeros[id(tensor)] = zeros.get(id(tensor), torch.zeros_like(mark)) | mark
    for entry in {id(h.tensor): h for h in tensors.values()}.values():
        if id(entry.tensor) not in zeros:
            continue
        zero = zeros[id(entry.tensor)].to(entry.tensor.device)
        for module, attribute in entry.holders:
            # a second mask only extends the first; other parametrizations cannot be held at zero
            masked = entry.part == "original" and attribute in masked_attributes(module)
            if isinstance(entry.tensor, nn.Parameter) and (masked or not entry.part):
                _add_mask(module, attribute, ~zero)
            elif entry.tensor.is_floating_point():
                with torch.no_grad():
                    entry.tensor.masked_fill_(zero, 0)
    return new


def _add_mask(module: nn.Module, attribute: str, keep: Tensor) -> None:
    if attribute in masked_attributes(module):
        for step in steps(module, attribute):
            if isinstance(step, Mask):
                step.keep = step.keep & keep
    else:
        place = _param_order(module).index(attribute) if attribute in _param_order(module) else 0
        held_at_zero = Mask(keep.clone(), place)
        parametrize.register_parametrization(module, attribute, held_at_zero, unsafe=True)
        if isinstance(module, nn.RNNBase):
            _forget_flat_weights_in_copies(module)


def _forget_flat_weights_in_copies(module: nn.RNNBase) -> None:
    """Let `copy.deepcopy` leave out the list in which a recurrent layer keeps its masked weights.

    They are results of a computation, which torch refuses to copy; the next forward makes new ones.
    """
    cls = type(module)  # of this module alone: torch makes a class for each parametrized one
    copied = cls.__deepcopy__  # type: ignore[attr-defined]

    def without_flat_weights(self: nn.RNNBase, memo: dict[int, Any]) -> Any:
        memo[id(self._flat_weights)] = []
        return copied(self, memo)

    if copied.__name__ != without_flat_weights.__name__:
        cls.__deepcopy__ = without_flat_weights  # type: ignore[attr-defined]


def _param_order(module: nn.Module) -> list[str]:
    """Names of a module's own parameters, in the order from before any mask was added."""
    order = list(module._parameters)
    masks = {a: s for a in masked_attributes(module) for s in steps(module, a)}
    for attribute, step in sorted(masks.items(), key=lambda item: getattr(item[1], "place", 0)):
        order.insert(getattr(step, "place", 0), attribute)
    return order


def _remove_mask(module: nn.Module, attribute: str) -> None:
    # the other parametrization stays and would compute a weight without the zeros
    if len(steps(module, attribute)) > 1:
        raise ArgumentError(
            f"the weight {attribute!r} of a {type(module).__name__} carries another "
            "parametrization beside its mask. Remove that first: "
            "torch.nn.utils.parametrize.remove_parametrizations(layer, name)."
        )
    parametrize.remove_parametrizations(module, attribute, leave_parametrized=True)
    if isinstance(module, nn.RNNBase):
        module._apply(lambda t: t)  # its list of weights still holds the masked ones

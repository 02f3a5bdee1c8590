"""Set weights to zero, and hold them there."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruneviz import _check
from pruneviz._copy import copy_of
from pruneviz.hooks import evaluating
from pruneviz.types import ArgumentError, Plan
from pruneviz.weights import Mask, masked_attributes, places, steps


def mask(model: nn.Module, plan: Plan) -> nn.Module:
    """Return a copy of the model in which the weights that the plan drops are zero, and stay so.

    The shapes stay: a masked model is neither smaller nor faster. It survives `copy.deepcopy`,
    `state_dict` and training, whatever momentum and weight decay do. A mask over a masked model
    drops what either drops.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    plan : Plan
        From `select`, for this model; weights that it does not name stay.

    Returns
    -------
    nn.Module
        A new model; each pruned layer carries a `torch.nn.utils.parametrize` mask. `bake` makes
        the zeros permanent.

    Raises
    ------
    ArgumentError
        If the plan is of another model.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> layer = torch.nn.Linear(4, 1)
    >>> plan = pv.select(pv.score(layer, "magnitude"), sparsity=0.5)
    >>> int((pv.mask(layer, plan).weight == 0).sum())
    2
    """
    _check.kind(plan, "plan", Plan, "Make it: pv.select(scores, sparsity=0.5).")
    with evaluating(_check.model(model)):  # reading a weight may run other parametrizations
        have = {name: place.tensor for name, place in places(model).items()}
    for name, keep in plan.keep.items():
        if name not in have:
            known = ", ".join(list(have)[:6])
            raise ArgumentError(
                f"`plan` is of another model: it names {name!r}, but the weights here are: {known}."
            )
        _check.kind(keep, f"plan.keep[{name!r}]", Tensor)
        if keep.shape != have[name].shape or keep.dtype != torch.bool:
            raise ArgumentError(
                f"`plan` is of another model: for {name!r} it has {keep.dtype} of shape "
                f"{tuple(keep.shape)}, but needs torch.bool of {tuple(have[name].shape)}."
            )
    new = copy_of(model)
    for name, place in places(new).items():
        if name in plan.keep:
            keep = plan.keep[name].to(have[name].device)
            for module, attribute in place.holders:
                _hold(module, attribute, keep)
    return new


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
    new = copy_of(_check.model(model))
    for module in list(new.modules()):
        attributes = masked_attributes(module)
        for attribute in attributes:
            _remove(module, attribute)
        # torch puts them last; weights come first in all layers that we mask
        order = dict.fromkeys([*attributes, *module._parameters])
        params = {name: module._parameters[name] for name in order}
        module._parameters.clear()
        module._parameters.update(params)
    return new


def _hold(module: nn.Module, attribute: str, keep: Tensor) -> None:
    if attribute in masked_attributes(module):
        for step in steps(module, attribute):
            if isinstance(step, Mask):
                step.keep = step.keep & keep
    else:
        parametrize.register_parametrization(module, attribute, Mask(keep.clone()), unsafe=True)


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

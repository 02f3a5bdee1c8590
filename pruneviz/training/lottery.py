"""Lottery tickets: an untrained network under the mask of a trained one, and what to compare it with."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.plan import Plan
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import seeded
from pruneviz.pruning.mask import bake, mask

CONTROLS = ("none", "random-mask", "random-weights")
OTHER = 0x9E3779B9  # or the seed that a start was drawn with would draw the same start again


def lottery_ticket(
    model: nn.Module, plan: Plan, *, control: str = "none", seed: int = 0
) -> nn.Module:
    """Return an untrained network under a mask, or one of its two controls.

    A mask was found by training and pruning. Does the network that is left owe its accuracy to
    *these weights at the start*? Train three networks in the same way: the ticket; the same mask over
    new random weights; a random mask over the same weights. If the ticket is no better than both,
    there was nothing to win.

    Parameters
    ----------
    model : nn.Module
        As it was before its training (or early in it). Not changed.
    plan : Plan
        What pruning the *trained* network had left, such as ``prune_iteratively(...).plan``.
    control : str
        ``"none"``: the ticket. ``"random-weights"``: the mask stays, every layer starts anew (its own
        `reset_parameters`). ``"random-mask"``: the weights stay, each layer loses as many, but others,
        drawn at random.
    seed : int
        Of the controls.

    Returns
    -------
    nn.Module
        A new model under a mask, not yet trained: ``pv.fit(pv.lottery_ticket(...), batches)``.

    Raises
    ------
    ArgumentError
        If the control is unknown, the plan is of another model, or a layer cannot be started anew.

    References
    ----------
    Frankle & Carbin 2019, "The Lottery Ticket Hypothesis", arXiv:1803.03635, sections 1 and 2.
    Frankle et al. 2020, "Pruning Neural Networks at Initialization", arXiv:2009.08576 (the controls).

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> start = torch.nn.Linear(50, 2)
    >>> plan = pv.select(pv.score(start, "magnitude"), sparsity=0.5)
    >>> for control in ("none", "random-weights", "random-mask"):
    ...     new = pv.lottery_ticket(start, plan, control=control)
    ...     same = ((new.weight != 0) == plan.keep["weight"]).all()
    ...     print(control, bool(same), int((new.weight != 0).sum()))
    none True 50
    random-weights True 50
    random-mask False 50
    """
    checks.kind(plan, "plan", Plan, "Make it: pv.prune_iteratively(...).plan.")
    checks.choice(control, "control", CONTROLS)
    start = bake(model)
    other = checks.count(seed, "seed") + OTHER
    with seeded(other, {p.device for p in start.parameters()}):
        if control == "random-weights":
            start = _anew(start)
        elif control == "random-mask":
            plan = Plan({n: _shuffled(n, k, plan) for n, k in plan.keep.items()}, plan.groups)
    return mask(start, plan)


def _anew(model: nn.Module) -> nn.Module:
    new = copy_of(model)
    for name, module in new.named_modules():
        own = next(module.parameters(recurse=False), None) is not None
        reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
        if own and reset is None:
            raise ArgumentError(
                f"layer {(name or type(module).__name__)!r} has no `reset_parameters`: nobody knows "
                "how it starts. Build the model anew instead: pv.lottery_ticket(Net(), plan)."
            )
        if own and reset is not None:
            reset()
    return new


def _shuffled(name: str, keep: Tensor, plan: Plan) -> Tensor:
    """Return as many True in other places; among units that must lose the same in each part, there."""
    flat = keep.flatten().clone()
    even = None if plan.groups is None else plan.groups[name].even
    part = torch.zeros(flat.numel()) if even is None else torch.from_numpy(even)
    for label in part.unique():
        there = torch.where(part == label)[0]
        flat[there] = flat[there[torch.randperm(len(there))]]
    return flat.view(keep.shape)

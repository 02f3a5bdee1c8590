"""How a lottery ticket and its controls are made: untrained weights with a trained mask."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.plan import Plan
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import plain_torch, seeded
from pruneviz.pruning.mask import bake, mask

CONTROLS = ("none", "random-mask", "random-weights")
OFFSET = 0x9E3779B9  # added to the seed: a start that was drawn with it must not be drawn again


@plain_torch()
def lottery_ticket(
    model: nn.Module, plan: Plan, *, control: str = "none", seed: int = 0
) -> nn.Module:
    """Return an untrained network with a mask, or one of its two controls.

    A mask was found by training and pruning. Does the pruned network need *these initial weights*
    for its accuracy? Train three networks in the same way: the ticket; the same mask on new random
    weights; a random mask on the same weights. If the ticket is not better than both controls, the
    initial weights do not matter.

    Parameters
    ----------
    model : nn.Module
        The model before its training (or early in it). Not changed.
    plan : Plan
        What was kept of the *trained* network, such as ``prune_iteratively(...).plan``.
    control : str
        ``"none"``: the ticket. ``"random-weights"``: the same mask on weights that are initialised
        again, by each layer's `reset_parameters`. ``"random-mask"``: the same weights with a mask
        that drops as many weights of each layer, drawn at random.
    seed : int
        For the controls.

    Returns
    -------
    nn.Module
        A new model with a mask, not trained. Train it: ``pv.fit(pv.lottery_ticket(...), batches)``.

    Raises
    ------
    ArgumentError
        If the control is unknown, the plan is of another model, or a layer cannot be initialised
        again.

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
    seed = checks.count(seed, "seed") + OFFSET
    with seeded(seed, {p.device for p in start.parameters()}):
        if control == "random-weights":
            start = _initialised_again(start)
        elif control == "random-mask":
            keep = {n: _shuffled(n, k, plan) for n, k in plan.keep.items()}
            plan = replace(plan, keep=keep)
    return mask(start, plan)


def _initialised_again(model: nn.Module) -> nn.Module:
    """Return a copy of the model with newly initialised weights."""
    new = copy_of(model)
    for name, module in new.named_modules():
        own = next(module.parameters(recurse=False), None) is not None
        reset = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
        if own and reset is None:
            raise ArgumentError(
                f"layer {(name or type(module).__name__)!r} has no `reset_parameters`, so it "
                "cannot be initialised again. Build a new model instead: pv.lottery_ticket(Net(), "
                "plan)."
            )
        if own and reset is not None:
            reset()
    return new


def _shuffled(name: str, keep: Tensor, plan: Plan) -> Tensor:
    """Return a mask with as many True in random places, in each part of an even group."""
    flat = keep.flatten().clone()
    whole = [torch.arange(flat.numel())]
    parts = whole if plan.groups is None else map(torch.from_numpy, plan.groups[name].even_parts)
    for places in parts:
        flat[places] = flat[places[torch.randperm(len(places))]]
    return flat.view(keep.shape)

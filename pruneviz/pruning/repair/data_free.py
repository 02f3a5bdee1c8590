"""What the weights alone tell of who could do a unit's work."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from pruneviz.core.errors import ArgumentError
from pruneviz.core.plan import Plan
from pruneviz.model.hooks import evaluating
from pruneviz.model.tensors import held
from pruneviz.pruning.repair.units import Twins
from pruneviz.redundancy.bounds import FAR, bounds
from pruneviz.redundancy.redundant import nearest

EQUAL_WEIGHTS_ROUNDED = 1 - 1e-6  # similarity of the weights of two units that are one


def twins_of(model: nn.Module, plan: Plan, example_input: Any) -> dict[str, Twins]:
    """Return, for each group that loses units, who stands in for them: no data needed.

    A unit that is the same number whatever comes in (by interval bounds) leaves that number; one
    whose incoming weights are a multiple of a kept one's is that multiple of it, if what lies between
    is positively homogeneous, such as ReLU. Nobody stands in for any other: without data a similar
    neuron may do more harm than none, for a unit that never fires has similar ones too.
    """
    assert plan.groups is not None
    constant = constants(model, plan, example_input)
    found = {}
    with evaluating(model):
        have = held(model)
        for name, keep in plan.keep.items():
            twin, scale = nearest(plan.groups[name], have, keep, EQUAL_WEIGHTS_ROUNDED)
            still = constant.get(name, np.full(len(keep), np.nan))
            found[name] = Twins(twin, scale, torch.tensor(still))
    return found


def constants(model: nn.Module, plan: Plan, example_input: Any) -> dict[str, np.ndarray]:
    """Return the values of units that are proved constant, NaN for the others, by group."""
    try:
        frame = bounds(model, example_input, low=-FAR, high=FAR, groups=plan.groups)
    except ArgumentError:  # nothing in the example is a floating-point number: nothing is proved
        return {}
    still = frame["kind"].isin(["dead", "constant"])
    middle = ((frame["low"] + frame["high"]) / 2).where(still)
    return {name: part.to_numpy() for name, part in middle.groupby(frame["group"], sort=False)}

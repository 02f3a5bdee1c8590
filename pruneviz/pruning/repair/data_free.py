"""Which kept unit can replace a removed one, judged by the weights alone, without data."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from pruneviz.core.errors import ArgumentError
from pruneviz.core.plan import Plan
from pruneviz.model.hooks import evaluating
from pruneviz.model.tensors import tensors_by_name
from pruneviz.pruning.repair.units import Twins
from pruneviz.redundancy.bounds import WIDE_BOX, bounds
from pruneviz.redundancy.redundant import nearest_kept

EQUAL_WEIGHTS_ROUNDED = 1 - 1e-6  # least similarity of weights that are equal but for rounding


def twins_of(model: nn.Module, plan: Plan, example_input: Any) -> dict[str, Twins]:
    """Return, for each group of a plan, what replaces its removed units; no data is needed.

    A unit that is constant for every input (by interval bounds) is replaced by that constant. A
    unit whose incoming weights are a multiple of a kept unit's weights is replaced by that multiple
    of the kept unit; this is exact if the operators behind both are positively homogeneous, such as
    ReLU. Other units are not replaced: without data a merely similar unit may do more harm than
    none, because a unit that never fires has similar units, too.
    """
    assert plan.groups is not None
    constant = constant_values(model, plan, example_input)
    found = {}
    with evaluating(model):
        have = tensors_by_name(model)
        for name, keep in plan.keep.items():
            twin, scale = nearest_kept(plan.groups[name], have, keep, EQUAL_WEIGHTS_ROUNDED)
            values = constant.get(name, np.full(len(keep), np.nan))
            found[name] = Twins(twin, scale, torch.tensor(values))
    return found


def constant_values(model: nn.Module, plan: Plan, example_input: Any) -> dict[str, np.ndarray]:
    """Return for each group the values of proved constant units, NaN for others; shape (units,)."""
    try:
        frame = bounds(model, example_input, low=-WIDE_BOX, high=WIDE_BOX, groups=plan.groups)
    except ArgumentError:  # the example has no floating-point tensor: nothing can be proved
        return {}
    constant = frame["kind"].isin(["dead", "constant"])
    middle = ((frame["low"] + frame["high"]) / 2).where(constant)
    return {name: part.to_numpy() for name, part in middle.groupby(frame["group"], sort=False)}

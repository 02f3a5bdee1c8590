"""How far the outputs of two models are from each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from pruneviz.core.errors import ArgumentError
from pruneviz.model.forward import copied_inputs, copy_of, outputs_of, quiet
from pruneviz.model.hooks import evaluating, seeded
from pruneviz.pruning.surgery.proof import (
    at_precision,
    copied,
    difference,
    promoted_all,
    variations,
)


def difference_of(
    before: nn.Module,
    after: nn.Module,
    data: Iterable[Any],
    *,
    varied: bool = True,
) -> tuple[float, float, bool]:
    """Return max|Δ output| and max|output| of two models, and whether they ran in float64.

    Copies of both models run in float64, so that the difference is not just float32 rounding; where
    an operator has no float64 kernel they run in their own type. With `varied` each example is also
    varied, as `variations` does.
    """
    data = list(data)
    try:
        return *_difference(before, after, data, varied, True), True
    except (NotImplementedError, RuntimeError):  # no float64 kernel; others are raised again
        return *_difference(before, after, data, varied, False), False


def _difference(
    before: nn.Module, after: nn.Module, data: list[Any], varied: bool, in_float64: bool
) -> tuple[float, float]:
    a, b = copy_of(before), copy_of(after)
    a, b = (a.double(), b.double()) if in_float64 else (a, b)
    worst, scale = 0.0, 0.0
    with quiet(), evaluating(a), evaluating(b), at_precision(in_float64):
        for example in data:
            for args, kwargs in (
                variations(copied_inputs(example, a)) if varied else [copied_inputs(example, a)]
            ):
                args, kwargs = promoted_all((args, kwargs)) if in_float64 else (args, kwargs)
                with seeded(0):
                    want = outputs_of(a(*copied(args), **copied(kwargs)))
                with seeded(0):
                    got = outputs_of(b(*copied(args), **copied(kwargs)))
                gap = difference(got, want)
                if not np.isfinite(gap):
                    raise ArgumentError(
                        "the outputs of the two models cannot be compared: their shapes differ, or "
                        "they contain NaN or infinity. Pass the model that the smaller one was "
                        "made from."
                    )
                worst = max(worst, gap)
                scale = max([scale, *(float(t.abs().max()) for t in want if t.numel())])
    return worst, scale

"""How far the outputs of two models are from each other."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from pruneviz.core.errors import ArgumentError
from pruneviz.model.forward import copied_inputs, copy_of, quiet
from pruneviz.model.hooks import evaluating, seeded
from pruneviz.model.outputs import Outputs, first_difference, outputs_of, places_not_finite
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
        for number, example in enumerate(data, 1):
            given = copied_inputs(example, a)
            for k, (args, kwargs) in enumerate(variations(given) if varied else [given]):
                args, kwargs = promoted_all((args, kwargs)) if in_float64 else (args, kwargs)
                want, got = (_run(m, args, kwargs) for m in (a, b))
                if k and places_not_finite(want.tensors):
                    continue  # the model has no finite output here, such as the logarithm of < 0
                _check_comparable(want, got, number)
                worst = max(worst, difference([*got.tensors.values()], [*want.tensors.values()]))
                scale = max(
                    [scale, *(float(t.abs().max()) for t in want.tensors.values() if t.numel())]
                )
    return worst, scale


def _run(model: nn.Module, args: Any, kwargs: Any) -> Outputs:
    with seeded(0):
        return outputs_of(model(*copied(args), **copied(kwargs)))


def _check_comparable(want: Outputs, got: Outputs, number: int) -> None:
    """Raise unless every part of two outputs can be compared, and what is no tensor is equal."""
    where = f"the outputs of the two models on batch {number} cannot be compared:"
    for name, found in (("first", want), ("second", got)):
        places = places_not_finite(found.tensors)
        if places:
            raise ArgumentError(
                f"{where} that of the {name} holds NaN or infinity, at {places[0]}. Leave such "
                "examples out; or wrap both to return what they compute before a mask."
            )
    if want.tensors.keys() != got.tensors.keys():
        place = min(want.tensors.keys() ^ got.tensors.keys())
        why = f"{place} is returned by one of them only"
    else:
        pairs = [(p, tuple(t.shape), tuple(got.tensors[p].shape)) for p, t in want.tensors.items()]
        shapes = [f"{p} has shape {b} and not {a}" for p, a, b in pairs if a != b]
        why = shapes[0] if shapes else first_difference(got.others, want.others)
    if why:
        raise ArgumentError(
            f"{where} {why}. Pass the model that the smaller one was made from, and let both return "
            "the same parts."
        )
    if not any(t.numel() for t in want.tensors.values()):
        raise ArgumentError(f"{where} they hold no number. Pass batches of examples.")

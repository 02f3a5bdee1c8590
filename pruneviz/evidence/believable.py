"""Can evidence in a file have been collected? Shapes that fit one another, and possible numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pruneviz.core.names import layer_name
from pruneviz.core.strict_json import whole
from pruneviz.core.tensor_file import TensorFile
from pruneviz.evidence.moments import Moments

MOMENTS = ("inputs", "patches")
GRADIENTS = ("grad_sq", "fisher", "output_grad")
FIELDS = ("mean", "comoment", "zeros", "low", "high")
ROUNDING = 1e-5  # of sums of float32


def parts_of(file: TensorFile) -> dict[str, Any]:
    """Return the fields of the `Evidence` in a file.

    Raises
    ------
    ValueError
        Or similar, if the file does not hold all of it, or numbers that cannot be.
    """
    head = file.head
    shapes = {str(k): tuple(whole(n, 1) for n in v) for k, v in head["shapes"].items()}
    counts = {key: whole(n, 1) for key, n in head["counts"].items()}
    _check_sizes(file.entries, shapes, counts)
    tensors = file.tensors()  # not before their sizes are known to fit
    parts: dict[str, dict[str, Any]] = {p: {} for p in (*MOMENTS, *GRADIENTS)}
    for key, n in counts.items():
        part, _, layer = key.partition("/")
        m = Moments(n, *(tensors.pop(f"{key}/{f}") for f in FIELDS))
        _check_moments(m, layer)
        parts[part][layer] = m
    for key, t in tensors.items():
        part, _, name = key.partition("/")
        _check_squares(t if part != "output_grad" or t.ndim == 1 else t.diagonal(), t, key)
        parts[part][name] = t
    return {**parts, "examples": whole(head["examples"], 1), "shapes": shapes}


def _check_sizes(
    entries: Mapping[str, Any], shapes: Mapping[str, Any], counts: Mapping[str, int]
) -> None:
    """Raise unless every tensor has a size that its layer's weight allows."""
    rest = dict(entries)
    for key in counts:
        part, _, layer = key.partition("/")
        fields = {f: rest.pop(f"{key}/{f}") for f in FIELDS}
        mean = fields["mean"][1]
        if part not in MOMENTS or layer not in shapes or not 1 <= len(mean) <= 2:
            raise ValueError(f"{key!r} belongs to no layer")
        for field, (dtype, shape) in fields.items():
            fits = (mean, (*mean, mean[-1])) if field == "comoment" else (mean,)
            if dtype != torch.float64 or shape not in fits:
                raise ValueError(f"{field} of {key!r} is {dtype}{list(shape)}")
    for key, (dtype, shape) in rest.items():
        part, _, name = key.partition("/")
        if part not in GRADIENTS:
            raise ValueError(f"{key!r} belongs to no layer")
        here = shapes.get(
            layer_name(name), shape
        )  # the projections of attention have no shape there
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ValueError(f"{key!r} is {dtype}")
        if part == "output_grad" and (len(shape) not in (1, 2) or len({*shape}) != 1):
            raise ValueError(f"{key!r} is {list(shape)}")
        if part != "output_grad" and name.endswith("weight") and sorted(shape) != sorted(here):
            raise ValueError(f"{key!r} is {list(shape)}, and the weight {list(here)}")


def _check_moments(m: Moments, layer: str) -> None:
    """Raise unless some stream of numbers has these moments."""
    if not all(bool(torch.isfinite(getattr(m, f)).all()) for f in FIELDS):
        raise ValueError(f"the moments of layer {layer!r} hold NaN or infinity")
    room = ROUNDING * (m.max + torch.finfo(torch.float32).tiny)
    square = m.comoment.diagonal(dim1=-2, dim2=-1) if m.full else m.comoment
    possible = {
        "zeros": (m.zeros >= 0) & (m.zeros <= m.count) & (m.zeros == m.zeros.round()),
        "low, mean and high": (m.low <= m.mean + room) & (m.mean <= m.high + room),
        "comoment": square >= -ROUNDING * m.count * m.max**2,
    }
    for what, fits in possible.items():
        if not bool(fits.all()):
            raise ValueError(f"{what} of layer {layer!r} cannot be")


def _check_squares(diagonal: Tensor, t: Tensor, key: str) -> None:
    if not bool(torch.isfinite(t).all()) or bool((diagonal < 0).any()):
        raise ValueError(f"{key!r} holds NaN, infinity, or a square below 0")

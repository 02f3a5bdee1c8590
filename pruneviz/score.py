"""Score a model by a criterion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pruneviz import _check
from pruneviz.criteria import Criterion
from pruneviz.criteria import criterion as registered
from pruneviz.hooks import evaluating
from pruneviz.types import ArgumentError, Scores
from pruneviz.weights import places


def score(
    model: nn.Module, criterion: str | Callable[[Tensor], Tensor], *, seed: int = 0
) -> Scores:
    """Score every single weight of a model: higher = more important.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    criterion : str or callable
        A name of `CRITERIA`, or a function from a weight tensor to scores of its shape.
    seed : int
        For criteria that draw random numbers; the caller's random state is not touched.

    Returns
    -------
    Scores

    Raises
    ------
    ArgumentError
        If the criterion is unknown or returns something else than scores of the weight's shape, or
        NaN, or if the model has no weights.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> layer = torch.nn.Linear(2, 1)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[-3.0, 1.0]]))
    >>> pv.score(layer, "magnitude").values["weight"]
    tensor([[3., 1.]])
    >>> pv.score(layer, "magnitud")
    Traceback (most recent call last):
    ...
    pruneviz.types.ArgumentError: criterion 'magnitud' is unknown. Did you mean 'magnitude'? Known: lamp, magnitude, random.
    """
    _check.model(model)
    if callable(criterion):
        name = getattr(criterion, "__name__", type(criterion).__name__)
        chosen = Criterion(name, criterion, ("weight",), "layer", "", "")
    else:
        chosen = registered(criterion)
    more: dict[str, Any] = {}
    if "generator" in chosen.needs:
        more["generator"] = torch.Generator().manual_seed(_check.count(seed, "seed"))
    with evaluating(model):
        values = {
            name: _scored(chosen, name, place.tensor, more) for name, place in places(model).items()
        }
    return Scores(values, chosen.name)


def _scored(chosen: Criterion, name: str, weight: Tensor, more: dict[str, Any]) -> Tensor:
    if not torch.isfinite(weight).all():
        raise ArgumentError(
            f"{name!r} contains NaN or infinity: such weights cannot be scored. "
            "Train the model anew, or load a sound checkpoint."
        )
    values = chosen.fn(weight.clone(), **more)  # a copy: a criterion may write into it
    if not isinstance(values, Tensor) or values.shape != weight.shape:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ArgumentError(
            f"criterion {chosen.name!r} must return scores of the weight's shape "
            f"{tuple(weight.shape)} for {name!r}, but it returned {got}."
        )
    if torch.isnan(values).any():
        raise ArgumentError(f"criterion {chosen.name!r} returned NaN for {name!r}.")
    return values

"""How are weights moved along a gradient? The loop that `fit` and the repair by distillation share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError

WARM_UP = 0.3  # share of a cycle in which the learning rate rises
FIRST = 0.04  # of the highest rate


def descend(
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Any],
    value: Callable[[Any], Tensor],
    rates: Iterable[float],
) -> Iterator[float]:
    """Take one step for each batch, and yield the value before the step.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
    batches : iterable
    value : callable
        ``value(batch)``, a checked scalar that is to become small.
    rates : iterable of float
        The learning rate of each step.
    """
    for batch, rate in zip(batches, rates, strict=False):
        for group in optimizer.param_groups:
            group["lr"] = rate
        now = value(batch)
        optimizer.zero_grad()
        now.backward()
        optimizer.step()
        yield float(now.detach())
    optimizer.zero_grad()


def half_cosine(done: float) -> float:
    """Share of the first rate when a share of the work is done: from 1 to 0.

    Loshchilov & Hutter 2017, "SGDR", arXiv:1608.03983, eq. 5.

    >>> [round(half_cosine(done), 2) for done in (0, 0.5, 1)]
    [1.0, 0.5, 0.0]
    """
    return (1 + math.cos(math.pi * min(done, 1))) / 2


def one_cycle(done: float) -> float:
    """Share of the highest rate when a share of the work is done: it rises first, then falls to 0.

    Smith & Topin 2017, "Super-Convergence", arXiv:1708.07120.

    >>> [round(one_cycle(done), 2) for done in (0, 0.15, 0.3, 0.65, 1)]
    [0.04, 0.52, 1.0, 0.5, 0.0]
    """
    if done < WARM_UP:
        return FIRST + (1 - FIRST) * (1 - half_cosine(done / WARM_UP))
    return half_cosine((done - WARM_UP) / (1 - WARM_UP))


def checked_value(value: Any, name: str, where: str, *, graded: bool = True) -> Tensor:
    """Return what a function to minimise returned, if it is one finite number, with a gradient.

    Raises
    ------
    ArgumentError
        `name` is that of the function, `where` says when and for which batch. Without `graded` it
        needs no gradient.
    """
    if not isinstance(value, Tensor):
        raise ArgumentError(
            f"`{name}` must return a tensor, but it returned {checks.described(value)}. Compute it "
            "with torch, from the outputs of the model."
        )
    if value.ndim:
        raise ArgumentError(
            f"`{name}` must return a scalar, but its shape is {tuple(value.shape)}. "
            "Take the mean over the batch."
        )
    if graded and not value.requires_grad:
        raise ArgumentError(
            f"`{name}` has no gradient: the model's forward, or `{name}`, detaches what it computes. "
            "Remove .detach() and torch.no_grad() there."
        )
    if not torch.isfinite(value):
        raise ArgumentError(
            f"the value of `{name}` became {value.item()} {where}. Try a smaller `lr`, and look for NaN in "
            "the data."
        )
    return value

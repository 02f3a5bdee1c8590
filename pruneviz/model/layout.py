"""How does a CPU run batches fastest? In sizes that fit its cache, images in channels_last layout."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruneviz.model.batches import Batch, read_all
from pruneviz.model.forward import run_forward
from pruneviz.model.hooks import evaluating

# examples at once: fit the cache in a convolutional network; large enough for a matrix product
CONVOLVED, PLAIN = 100, 500


def fast_batches(
    batches: Iterable[Any],
    *,
    model: nn.Module | None = None,
    purpose: str = "judge by",
    ignore_index: int | None = None,
) -> list[Batch]:
    """Return batches with targets, in the sizes and the memory layout that a CPU runs fastest.

    The examples are the same. A small convolutional network needs half the time for images in
    channels_last layout, a hundred at once, which fit into the cache. With `model`, the layout is
    used only if the model runs on such images.

    >>> parts = fast_batches([(torch.zeros(150, 3, 4, 4), torch.zeros(150))])
    >>> [(x.shape[0], x.stride()) for x, _ in parts]
    [(100, (48, 1, 12, 3)), (50, (48, 1, 12, 3))]
    """
    given = read_all(batches, purpose, targets=True, ignore_index=ignore_index)
    return split_batches(given, model is None or runs_channels_last(model, given[0].inputs))


def split_batches(batches: Iterable[Batch], images: bool) -> list[Batch]:
    """Return batches of tensors in smaller ones; `images`: of a hundred, in channels_last layout."""
    size, found = CONVOLVED if images else PLAIN, []
    for batch in batches:
        x, y = batch
        tensors = isinstance(x, Tensor) and isinstance(y, Tensor)
        if tensors and y.ndim and len(x) == len(y):
            split = (_laid_out(x) if images else x).split(size), y.split(size)
            found += [batch.with_(*part) for part in zip(*split, strict=True)]
        else:  # other inputs are passed on
            found.append(batch)
    return found


def runs_channels_last(model: nn.Module, x: Any) -> bool:
    """Whether a model convolves, and runs on images in channels_last layout.

    A model that calls ``view`` on the result of a convolution does not.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.Flatten())
    >>> runs_channels_last(model, torch.zeros(1, 2, 3, 3))
    True
    """
    if not isinstance(x, Tensor) or x.ndim != 4:
        return False
    try:
        with evaluating(model):
            run_forward(model, (_laid_out(x[:2]),), {})
    except Exception:
        return False
    return any(isinstance(m, _ConvNd) for m in model.modules())


def _laid_out(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x

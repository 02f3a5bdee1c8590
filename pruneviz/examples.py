"""Single examples out of batches: the first ones, or those that somebody wants to see."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruneviz.costs import examples_in

PART = 100


def few(inputs: Sequence[Any], most: int) -> list[Any]:
    """Return the first examples of batches of inputs; what is not alike, by whole batches.

    >>> [len(x) for x in few([torch.zeros(300, 2), torch.zeros(300, 2)], 250)]
    [100, 100, 50]
    """
    if alike(inputs):
        some, left = [], most
        for x in inputs:
            some.append(x[:left])
            left -= len(some[-1])
            if not left:
                break
        return list(torch.cat(some).split(PART))
    ends = np.cumsum([examples_in(x) for x in inputs])
    return list(inputs[: int(np.searchsorted(ends, most)) + 1])


def alike(inputs: Sequence[Any]) -> bool:
    """Tell whether batches are tensors of one shape, but for the number of examples.

    >>> alike([torch.zeros(3, 2), torch.zeros(1, 2)]), alike([torch.zeros(3, 2), torch.zeros(3, 4)])
    (True, False)
    """
    tensors = all(isinstance(x, Tensor) and x.ndim for x in inputs)
    return tensors and len({x.shape[1:] for x in inputs}) == 1


def images_of(inputs: Sequence[Any], which: np.ndarray) -> np.ndarray | None:
    """Return examples by their numbers as images, (n, 1 or 3, height, width); None if they are none.

    Nor can images of several sizes be shown in a row.

    >>> images_of([torch.zeros(3, 1, 2, 2), torch.ones(3, 1, 2, 2)], np.array([4]))
    array([[[[1., 1.],
             [1., 1.]]]], dtype=float32)
    """
    if not all(isinstance(x, Tensor) and x.ndim == 4 and x.shape[1] in (1, 3) for x in inputs):
        return None
    ends = np.cumsum([len(x) for x in inputs])
    found = []
    for i in which.tolist():
        part = int(np.searchsorted(ends, i, side="right"))
        found.append(inputs[part][i - int(ends[part])].float().cpu().numpy())
    return np.stack(found) if len({image.shape for image in found}) == 1 else None

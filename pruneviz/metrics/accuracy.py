"""How good is a model? The share of examples that it classifies correctly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pruneviz.core.errors import ArgumentError
from pruneviz.model.batches import Batch, read
from pruneviz.model.hooks import evaluating, plain_torch


@plain_torch()
def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Return the class that the model predicts for each example.

    Parameters
    ----------
    model : nn.Module
        Returns logits of shape (n, classes). Not changed.
    x : Tensor
        A batch of n examples.

    Returns
    -------
    Tensor, int64, shape (n,), on the CPU

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> pv.predict(torch.nn.Identity(), torch.eye(3)[[2, 0]])
    tensor([2, 0])
    """
    with evaluating(model):
        return predicted_classes(model, Batch(x))[0]


@plain_torch()
def accuracy(
    model: nn.Module, batches: Iterable[tuple[Any, Tensor]], *, ignore_index: int | None = None
) -> float:
    """Return the share of examples that the model classifies correctly.

    Parameters
    ----------
    model : nn.Module
        Returns logits of shape (n, classes). Not changed.
    batches : iterable of (inputs, labels)
        As for `collect`, with targets: classes, whole numbers of shape (n,).
    ignore_index : int, optional
        Leave out examples of this label, such as -100.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ArgumentError
        If there is no example, the labels have another shape or are no classes of the model, or the
        model returns NaN.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> x = torch.eye(4)
    >>> pv.accuracy(torch.nn.Identity(), [(x, torch.tensor([0, 1, 2, 0]))])
    0.75
    """
    right, total = count_correct(model, batches, ignore_index)
    return right / total


def count_correct(
    model: nn.Module, batches: Iterable[Any], ignore_index: int | None = None
) -> tuple[int, int]:
    """Return the number of examples that the model classifies correctly, and of all examples.

    >>> count_correct(torch.nn.Identity(), [(torch.eye(4), torch.tensor([0, 1, 2, 0]))])
    (3, 4)
    """
    right = total = 0
    with evaluating(model):
        for batch in read(batches, "judge by", targets=True, ignore_index=ignore_index):
            predicted, classes = predicted_classes(model, batch)
            right += int((predicted == batch.classes(predicted.shape, classes)).sum())
            total += len(predicted)
    return right, total


def predicted_classes(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    """Return the class of the largest logit of each example, and the number of classes."""
    logits = batch.run(model)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ArgumentError(
            f"`model` must return logits of shape (examples, classes), but it returned {shape}. "
            "Wrap it in a module that returns its logits."
        )
    if logits.shape[1] < 2:
        raise ArgumentError(
            f"`model` must return a logit for each class, but it returned shape {tuple(logits.shape)}, "
            "one class only. Wrap it in a module that returns torch.cat([-z, z], 1), whose second "
            "class is z > 0. A regression has no accuracy: leave it out."
        )
    largest, predicted = logits.max(1)  # NaN, if there is one
    if not bool(torch.isfinite(largest).all()):
        raise ArgumentError(
            f"`model` returns NaN or infinity for {batch.place}, which is no prediction. Look at the "
            "data and at the weights."
        )
    return predicted.cpu(), logits.shape[1]

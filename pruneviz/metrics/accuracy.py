"""How good is a model? The share of examples that it classifies correctly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pruneviz.core.errors import ArgumentError
from pruneviz.model.batches import Batch, read
from pruneviz.model.hooks import evaluating


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
        return predicted_classes(model, Batch(x))


def accuracy(model: nn.Module, batches: Iterable[tuple[Any, Tensor]]) -> float:
    """Return the share of examples that the model classifies correctly.

    Parameters
    ----------
    model : nn.Module
        Returns logits of shape (n, classes). Not changed.
    batches : iterable of (inputs, labels)
        As for `collect`, with targets: classes, whole numbers of shape (n,).

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ArgumentError
        If there is no example, or the labels have another shape.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> x = torch.eye(4)
    >>> pv.accuracy(torch.nn.Identity(), [(x, torch.tensor([0, 1, 2, 0]))])
    0.75
    """
    right, total = count_correct(model, batches)
    return right / total


def count_correct(model: nn.Module, batches: Iterable[Any]) -> tuple[int, int]:
    """Return the number of examples that the model classifies correctly, and of all examples.

    >>> count_correct(torch.nn.Identity(), [(torch.eye(4), torch.tensor([0, 1, 2, 0]))])
    (3, 4)
    """
    right = total = 0
    with evaluating(model):
        for batch in read(batches, "judge by", targets=True):
            predicted = predicted_classes(model, batch)
            right += int((predicted == batch.classes(predicted.shape)).sum())
            total += len(predicted)
    return right, total


def predicted_classes(model: nn.Module, batch: Batch) -> Tensor:
    """Return the class of the largest logit of each example."""
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
    return torch.argmax(logits, 1).cpu()

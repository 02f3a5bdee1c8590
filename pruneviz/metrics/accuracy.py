"""How good is a model? The share of examples that it classifies correctly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.model.batches import device_of, pairs
from pruneviz.model.forward import arguments
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
        return predicted_classes(model, x)


def accuracy(model: nn.Module, batches: Iterable[tuple[Any, Tensor]]) -> float:
    """Return the share of examples that the model classifies correctly.

    Parameters
    ----------
    model : nn.Module
        Returns logits of shape (n, classes). Not changed.
    batches : iterable of (inputs, labels)
        Labels: int64, shape (n,).

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
    if not total:
        raise ArgumentError(NO_EXAMPLE)
    return right / total


NO_EXAMPLE = (
    "`batches` is empty: there is no example to judge by. "
    "Pass an iterable of (inputs, labels); a generator runs only once."
)


def count_correct(model: nn.Module, batches: Iterable[tuple[Any, Tensor]]) -> tuple[int, int]:
    """Return the number of examples that the model classifies correctly, and of all examples.

    >>> count_correct(torch.nn.Identity(), [(torch.eye(4), torch.tensor([0, 1, 2, 0]))])
    (3, 4)
    """
    right = total = 0
    with evaluating(model):
        for x, labels in pairs(batches):
            predicted = predicted_classes(model, x)
            if not isinstance(labels, Tensor) or labels.shape != predicted.shape:
                got = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
                raise ArgumentError(
                    f"`labels` must be one class per example, shape {tuple(predicted.shape)}, "
                    f"but {got} was passed. {checks.labels_advice(labels, tuple(predicted.shape))}"
                )
            right += int((predicted == labels.cpu()).sum())
            total += len(labels)
    return right, total


def predicted_classes(model: nn.Module, x: Any) -> Tensor:
    """Return the class of the largest logit of each example."""
    if hasattr(x, "to"):
        logits = model(x.to(device_of(model, x)))
    else:  # several inputs: a tuple of arguments, or a dict of keyword arguments
        args, kwargs = arguments(x)
        device = device_of(model, next(v for v in tree_leaves(x) if isinstance(v, Tensor)))
        args, kwargs = tree_map(
            lambda v: v.to(device) if isinstance(v, Tensor) else v, (args, kwargs)
        )
        logits = model(*args, **kwargs)
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

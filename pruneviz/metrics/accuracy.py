"""How good is a model? The share of examples, or positions, that it classifies correctly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruneviz.core.errors import ArgumentError
from pruneviz.model.batches import Batch, class_dimension, read
from pruneviz.model.hooks import evaluating, plain_torch
from pruneviz.model.outputs import logits_of


@plain_torch()
def predict(model: nn.Module, x: Any, *, dim: int | None = None) -> Tensor:
    """Return the class that the model predicts for each example, or for each of its positions.

    Parameters
    ----------
    model : nn.Module
        Returns logits; see `accuracy`. Not changed.
    x : Tensor
        A batch of n examples; also a tuple of arguments, or a dict of keyword arguments.
    dim : int, optional
        Dimension of the classes. Default: the second, but logits of three dimensions are read in
        two ways: pass 1 for (n, classes, positions), -1 for (n, positions, classes).

    Returns
    -------
    Tensor, int64, on the CPU
        Of shape (n,), or of the shape of the logits without the classes.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> pv.predict(torch.nn.Identity(), torch.eye(3)[[2, 0]])
    tensor([2, 0])
    >>> pv.predict(torch.nn.Identity(), torch.eye(3)[None, [2, 0]], dim=-1)
    tensor([[2, 0]])
    """
    with evaluating(model):
        batch = Batch(x)
        logits = _checked_logits(model, batch)
        if dim is None and logits.ndim == 3:
            raise ArgumentError(
                f"`model` returns logits of shape {tuple(logits.shape)}: which dimension are the classes? "
                "Pass dim=-1 for (examples, positions, classes), dim=1 for (examples, classes, positions)."
            )
        dims = range(-logits.ndim, logits.ndim)
        if dim is not None and (isinstance(dim, bool) or dim not in dims):
            raise ArgumentError(
                f"`dim` must be a dimension of the logits, whose shape is {tuple(logits.shape)}, but "
                f"{dim!r} was passed. The last one is -1."
            )
        return _largest(logits, 1 if dim is None else int(dim), batch)


@plain_torch()
def accuracy(
    model: nn.Module, batches: Iterable[tuple[Any, Tensor]], *, ignore_index: int | None = None
) -> float:
    """Return the share of examples that the model classifies correctly.

    If an example has several labels, such as one for each pixel or token, the share of the labels.

    Parameters
    ----------
    model : nn.Module
        Returns logits: a tensor, a mapping or object with ``logits`` (or ``out``), or a tuple whose
        first they are. Not changed.
    batches : iterable of (inputs, labels)
        As for `collect`, with targets: classes, whole numbers. Their shape decides where the classes
        are in the logits: labels (n,) for (n, classes), labels (n, ...) for (n, classes, ...), as for
        `cross_entropy`, or for (n, ..., classes).
    ignore_index : int, optional
        Leave out labels of this value, such as -100 for padding.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ArgumentError
        If there is no example, the labels have another shape, fit in two ways, or are no classes of
        the model, or the model returns NaN.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> x = torch.eye(4)
    >>> pv.accuracy(torch.nn.Identity(), [(x, torch.tensor([0, 1, 2, 0]))])
    0.75
    >>> pv.accuracy(torch.nn.Identity(), [(x[None, :3], torch.tensor([[0, 0, -100]]))], ignore_index=-100)
    0.5
    """
    right, labels = count_correct(model, batches, ignore_index)
    return int(right.sum()) / int(labels.sum())


def count_correct(
    model: nn.Module, batches: Iterable[Any], ignore_index: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return for each example how many labels the model predicts correctly, and how many it has.

    >>> count_correct(torch.nn.Identity(), [(torch.eye(4)[:3], torch.tensor([0, 1, 0]))])
    (array([1, 1, 0]), array([1, 1, 1]))
    """
    found = []
    with evaluating(model):
        for batch in read(batches, "judge by", targets=True, ignore_index=ignore_index):
            said, labels, example = classified(model, batch, ignore_index)
            right = np.bincount(example[said == labels], minlength=batch.examples)
            found.append((right, np.bincount(example, minlength=len(right))))
    right, total = map(np.concatenate, zip(*found, strict=True))
    return right, total


def classified(
    model: nn.Module, batch: Batch, ignore_index: int | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return for each label of a batch the predicted class, itself, and the number of its example.

    The model is in eval mode; labels of `ignore_index` are left out.

    >>> classified(torch.nn.Identity(), Batch(torch.eye(4)[None, :3], torch.tensor([[0, 2, -1]])), -1)
    (array([0, 1]), array([0, 2]), array([0, 0]))
    """
    logits = _checked_logits(model, batch)
    dim = class_dimension(tuple(logits.shape), batch.targets, batch.place)
    said = _largest(logits, dim, batch)
    labels = batch.classes(tuple(said.shape), logits.shape[dim], ignore_index)
    # logits may come as (examples · positions, classes): the rows of one example stand together
    positions, rest = divmod(said.numel(), batch.examples)
    example = np.arange(said.numel()) // (1 if rest else positions)
    kept = np.full(len(example), True) if ignore_index is None else labels.flatten() != ignore_index
    kept = np.asarray(kept)
    return said.flatten().numpy()[kept], labels.flatten().numpy()[kept], example[kept]


def _checked_logits(model: nn.Module, batch: Batch) -> Tensor:
    logits = logits_of(batch.run(model))
    if not isinstance(logits, Tensor) or logits.ndim < 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ArgumentError(
            f"`model` must return logits of shape (examples, classes), but it returned {shape}. "
            "Wrap it in a module that returns its logits."
        )
    return logits


def _largest(logits: Tensor, dim: int, batch: Batch) -> Tensor:
    """Return the class of the largest logit."""
    if logits.shape[dim] < 2:
        raise ArgumentError(
            f"`model` must return a logit for each class, but it returned shape {tuple(logits.shape)}, "
            "one class only. Wrap it in a module that returns torch.cat([-z, z], 1), whose second "
            "class is z > 0. A regression has no accuracy: leave it out."
        )
    largest, predicted = logits.max(dim)  # NaN, if there is one
    if not bool(torch.isfinite(largest).all()):
        raise ArgumentError(
            f"`model` returns NaN or infinity for {batch.place}, which is no prediction. Look at the "
            "data and at the weights."
        )
    return predicted.cpu()

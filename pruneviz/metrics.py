"""How good a model is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset, IterableDataset

from pruneviz import _check
from pruneviz._inputs import arguments
from pruneviz.hooks import evaluating
from pruneviz.types import ArgumentError


def predict(model: nn.Module, x: Tensor) -> Tensor:
    """Return the class that the model gives to each example.

    Parameters
    ----------
    model : nn.Module
        Gives logits of shape (n, classes). Not changed.
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
        return _classes(model, x)


def accuracy(model: nn.Module, batches: Iterable[tuple[Any, Tensor]]) -> float:
    """Return the share of examples that the model puts into the right class.

    Parameters
    ----------
    model : nn.Module
        Gives logits of shape (n, classes). Not changed.
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
    right, total = counted(model, batches)
    if not total:
        raise ArgumentError(NO_EXAMPLE)
    return right / total


NO_EXAMPLE = (
    "`batches` is empty: there is no example to judge by. "
    "Pass an iterable of (inputs, labels); a generator runs only once."
)


def pairs(batches: Iterable[tuple[Any, Tensor]]) -> Iterator[tuple[Any, Tensor]]:
    """Yield inputs and labels of each batch; say in words what is none.

    >>> [labels.tolist() for _, labels in pairs([(torch.zeros(2, 3), torch.tensor([0, 1]))])]
    [[0, 1]]
    """
    tell = "Pass an iterable of pairs (inputs, labels): a DataLoader, or [(x, labels)]"
    single = isinstance(batches, (Tensor, Dataset)) and not isinstance(batches, IterableDataset)
    if single or (not hasattr(batches, "__iter__") and not hasattr(batches, "__getitem__")):
        raise ArgumentError(
            f"`batches` must be batches of examples, but {_check._kind(batches)} was passed. {tell}."
        )
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            many = f" of {len(batch)}" * isinstance(batch, (tuple, list))
            raise ArgumentError(
                "a batch must be a pair (inputs, labels), but "
                f"{_check._kind(batch)}{many} was passed. {tell}."
            )
        yield batch[0], batch[1]


def counted(model: nn.Module, batches: Iterable[tuple[Any, Tensor]]) -> tuple[int, int]:
    """Return how many examples the model puts into the right class, and how many there are.

    >>> counted(torch.nn.Identity(), [(torch.eye(4), torch.tensor([0, 1, 2, 0]))])
    (3, 4)
    """
    right = total = 0
    with evaluating(model):
        for x, labels in pairs(batches):
            said = _classes(model, x)
            if not isinstance(labels, Tensor) or labels.shape != said.shape:
                got = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
                raise ArgumentError(
                    f"`labels` must be one class an example, shape {tuple(said.shape)}, "
                    f"but {got} was passed. {_check.advice(labels, tuple(said.shape))}"
                )
            right += int((said == labels.cpu()).sum())
            total += len(labels)
    return right, total


def ready(
    batches: Iterable[tuple[Any, Tensor]], size: int = 100, *, model: nn.Module | None = None
) -> list[tuple[Any, Tensor]]:
    """Return batches as a list, in parts and in a layout that a CPU gets through fastest.

    The examples are the same. A small convolutional network takes half the time for images whose
    channels lie side by side, a hundred at once, which the cache can hold; `model` is asked whether it
    runs on such images.

    >>> parts = ready([(torch.zeros(150, 3, 4, 4), torch.zeros(150))])
    >>> [(x.shape[0], x.stride()) for x, _ in parts]
    [(100, (48, 1, 12, 3)), (50, (48, 1, 12, 3))]
    """
    parts: list[tuple[Any, Tensor]] = []
    known: bool | None = True if model is None else None
    for x, labels in pairs(batches):
        tensors = isinstance(x, Tensor) and isinstance(labels, Tensor)
        if tensors and x.ndim and labels.ndim and len(x) == len(labels):
            if known is None and model is not None and x.ndim == 4:
                known = takes(model, x)
            laid_out = _laid_out(x) if known else x
            parts += zip(laid_out.split(size), labels.split(size), strict=True)
        else:  # other inputs as they are; what is wrong with them `accuracy` will say
            parts.append((x, labels))
    return parts


def takes(model: nn.Module, x: Tensor) -> bool:
    """Tell whether a model runs on images whose channels lie side by side.

    One that calls ``view`` on what it has convolved does not.

    >>> seen = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.Flatten())
    >>> takes(seen, torch.zeros(1, 2, 3, 3))
    True
    """
    try:
        with evaluating(model):
            model(_laid_out(x[:2]).to(device_of(model, x)))
    except Exception:
        return False
    return True


def _laid_out(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last) if x.ndim == 4 else x


def device_of(model: nn.Module, x: Tensor) -> torch.device:
    """Return where a model is; that of `x` if it has no tensors."""
    return next((t.device for t in (*model.parameters(), *model.buffers())), x.device)


def _classes(model: nn.Module, x: Any) -> Tensor:
    if hasattr(x, "to"):
        logits = model(x.to(device_of(model, x)))
    else:  # several inputs: a tuple of arguments, or a dict of keyword arguments
        args, kwargs = arguments(x)
        there = device_of(model, next(v for v in tree_leaves(x) if isinstance(v, Tensor)))
        args, kwargs = tree_map(
            lambda v: v.to(there) if isinstance(v, Tensor) else v, (args, kwargs)
        )
        logits = model(*args, **kwargs)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ArgumentError(
            f"`model` must give logits of shape (examples, classes), but it gave {shape}. "
            "Wrap it in a module that returns its logits."
        )
    if logits.shape[1] < 2:
        raise ArgumentError(
            f"`model` must give a logit for each class, but it gave {tuple(logits.shape)}: the largest "
            "of one is always the first. Wrap it in a module that returns torch.cat([-z, z], 1), whose "
            "second class is z > 0. A regression has no accuracy: leave it out."
        )
    return torch.argmax(logits, 1).cpu()

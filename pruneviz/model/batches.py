"""Batches of examples: read them, count them, take a few out of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset, IterableDataset

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.model.forward import arguments
from pruneviz.model.hooks import evaluating

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


Labelled = Iterable[tuple[Any, Tensor]]


def by_class(batches: Labelled) -> dict[int, list[tuple[Tensor, Tensor]]]:
    """Return the batches of each class by itself; raise if there is none.

    >>> x, y = torch.arange(4.0), torch.tensor([1, 0, 1, 1])
    >>> {c: [x.tolist() for x, _ in parts] for c, parts in by_class([(x, y)]).items()}
    {0: [[1.0]], 1: [[0.0, 2.0, 3.0]]}
    """
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for x, labels in batches:
        fit = isinstance(x, Tensor) and isinstance(labels, Tensor) and labels.ndim == 1
        if not fit or not x.ndim or len(x) != len(labels):
            raise ArgumentError(
                "a batch must be a pair of tensors, inputs and labels, with one class an example. "
                f"{_what(x, labels)}"
            )
        if len(labels) and int(labels.min()) < 0:
            raise ArgumentError(
                f"a label is {int(labels.min())}, but classes are counted from 0. Leave out examples "
                "that have no class: x[labels >= 0], labels[labels >= 0]."
            )
        for c in labels.unique().tolist():
            found.setdefault(c, []).append((x[labels == c], labels[labels == c]))
    if not found:
        raise ArgumentError(
            "`batches` is empty: there is nothing to look at. "
            "Pass an iterable of (inputs, labels); a generator runs only once."
        )
    return {c: found[c] for c in sorted(found)}


def _what(x: Any, labels: Any) -> str:
    if not isinstance(x, Tensor) or not x.ndim:
        return "These inputs are no tensor whose first dimension is that of the examples."
    return checks.advice(labels, (len(x),))


def some_of_each(
    classes: dict[int, list[tuple[Tensor, Tensor]]], most: int
) -> tuple[list[Tensor], list[int]]:
    """Return about `most` examples and their labels, as many of each class, class after class.

    Those of one shape are one tensor; if there are several, so are the tensors.

    >>> x, labels = some_of_each(by_class([(torch.arange(4.0), torch.tensor([1, 0, 1, 1]))]), 4)
    >>> [part.tolist() for part in x], labels
    ([[1.0, 0.0, 2.0]], [0, 1, 1])
    """
    each = max(1, most // max(1, len(classes)))
    parts: list[Tensor] = []
    labels: list[int] = []
    for c, batches in classes.items():
        left = each
        for x, _ in batches:
            parts += [x[:left]] if left else []
            left -= len(x[:left])
        labels += [c] * (each - left)
    return [torch.cat(parts)] if len({x.shape[1:] for x in parts}) == 1 else parts, labels


def parts(batches: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Yield (inputs, targets or None) of each batch.

    >>> import torch
    >>> [(x.shape, y) for x, y in parts(torch.zeros(150, 2))]
    [(torch.Size([100, 2]), None), (torch.Size([50, 2]), None)]
    """
    if isinstance(batches, Tensor):
        batches = batches.split(PART) if batches.ndim else [batches]
    elif isinstance(batches, Mapping):
        batches = [batches]
    if not isinstance(batches, Iterable) or isinstance(batches, str):
        raise ArgumentError(
            "`batches` must be an iterable of batches, such as a list of tensors or a DataLoader, but "
            f"{checks._kind(batches)} was passed."
        )
    for batch in batches:
        if isinstance(batch, (tuple, list)):
            if len(batch) not in (1, 2):
                raise ArgumentError(
                    f"a batch must be inputs, or a pair (inputs, targets), but has {len(batch)} parts. "
                    "Put several inputs into one tuple: ((a, b), targets)."
                )
            yield batch[0], (batch[1] if len(batch) == 2 else None)
        else:
            yield batch, None


def listed(batches: Iterable[Any], purpose: str) -> list[Any]:
    """Return the inputs of all batches, to be read several times; raise if there are none.

    `purpose` ends the sentence "there is nothing to …".
    """
    data = [inputs for inputs, _ in parts(batches)]
    if not data:
        raise nothing_to(purpose)
    return data


def nothing_to(purpose: str, name: str = "batches") -> ArgumentError:
    """Say that there is no batch."""
    return ArgumentError(
        f"`{name}` is empty: there is nothing to {purpose}. Pass an iterable of batches; a generator "
        "runs only once."
    )


def count_examples(args: Any, kwargs: Any) -> int:
    """Return the first dimension of the first tensor among the arguments of a forward."""
    first = next(v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor))
    if first.ndim == 0:
        raise ArgumentError("a batch must have a first dimension, that of the examples.")
    return first.shape[0]


def examples_in(example_input: Any) -> int:
    """Return the number of examples of an example input.

    >>> examples_in((torch.zeros(5, 2), 3))
    5
    """
    return count_examples(*arguments(example_input))


def first(example_input: Any, n: int) -> Any:
    """Return the first n examples of an example input.

    >>> first(torch.zeros(5, 2), 3).shape
    torch.Size([3, 2])
    """
    total = examples_in(example_input)
    return tree_map(
        lambda v: v[:n] if isinstance(v, Tensor) and v.ndim and len(v) == total else v,
        example_input,
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
            f"`batches` must be batches of examples, but {checks._kind(batches)} was passed. {tell}."
        )
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            many = f" of {len(batch)}" * isinstance(batch, (tuple, list))
            raise ArgumentError(
                "a batch must be a pair (inputs, labels), but "
                f"{checks._kind(batch)}{many} was passed. {tell}."
            )
        yield batch[0], batch[1]


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

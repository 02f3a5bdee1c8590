"""How are batches of examples read, counted, and cut to a few examples? In any form."""

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


def first_examples(inputs: Sequence[Any], most: int) -> list[Any]:
    """Return the first `most` examples of batches; if the batches differ in shape, whole batches.

    >>> [len(x) for x in first_examples([torch.zeros(300, 2), torch.zeros(300, 2)], 250)]
    [100, 100, 50]
    """
    if same_shape(inputs):
        taken, left = [], most
        for x in inputs:
            taken.append(x[:left])
            left -= len(taken[-1])
            if not left:
                break
        return list(torch.cat(taken).split(PART))
    ends = np.cumsum([examples_in(x) for x in inputs])
    return list(inputs[: int(np.searchsorted(ends, most)) + 1])


def same_shape(inputs: Sequence[Any]) -> bool:
    """Whether all batches are tensors of the same shape, except for the number of examples.

    >>> same_shape([torch.zeros(3, 2), torch.zeros(1, 2)]), same_shape([torch.zeros(3, 2), torch.zeros(3, 4)])
    (True, False)
    """
    tensors = all(isinstance(x, Tensor) and x.ndim for x in inputs)
    return tensors and len({x.shape[1:] for x in inputs}) == 1


def images_of(inputs: Sequence[Any], which: np.ndarray) -> np.ndarray | None:
    """Return examples by their numbers as images, (n, 1 or 3, height, width).

    None if the examples are not images, or have different sizes: they cannot be shown in a row.

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
    """Return the batches separated by class; raise if there are none.

    >>> x, y = torch.arange(4.0), torch.tensor([1, 0, 1, 1])
    >>> {c: [x.tolist() for x, _ in parts] for c, parts in by_class([(x, y)]).items()}
    {0: [[1.0]], 1: [[0.0, 2.0, 3.0]]}
    """
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for x, labels in batches:
        is_pair = isinstance(x, Tensor) and isinstance(labels, Tensor) and labels.ndim == 1
        if not is_pair or not x.ndim or len(x) != len(labels):
            raise ArgumentError(
                "a batch must be a pair of tensors, inputs and labels, with one class per example. "
                f"{_wrong_pair(x, labels)}"
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


def _wrong_pair(x: Any, labels: Any) -> str:
    if not isinstance(x, Tensor) or not x.ndim:
        return "These inputs are not a tensor whose first dimension is the examples."
    return checks.labels_advice(labels, (len(x),))


def examples_of_each_class(
    classes: dict[int, list[tuple[Tensor, Tensor]]], most: int
) -> tuple[list[Tensor], list[int]]:
    """Return about `most` examples and their labels, as many from each class, class after class.

    Examples of one shape are joined into one tensor; if the shapes differ, a list of tensors is
    returned.

    >>> x, labels = examples_of_each_class(by_class([(torch.arange(4.0), torch.tensor([1, 0, 1, 1]))]), 4)
    >>> [part.tolist() for part in x], labels
    ([[1.0, 0.0, 2.0]], [0, 1, 1])
    """
    per_class = max(1, most // max(1, len(classes)))
    parts: list[Tensor] = []
    labels: list[int] = []
    for c, batches in classes.items():
        left = per_class
        for x, _ in batches:
            parts += [x[:left]] if left else []
            left -= len(x[:left])
        labels += [c] * (per_class - left)
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
            f"{checks.described(batches)} was passed."
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
    """Return the error that says that there is no batch."""
    return ArgumentError(
        f"`{name}` is empty: there is nothing to {purpose}. Pass an iterable of batches; a generator "
        "runs only once."
    )


def count_examples(args: Any, kwargs: Any) -> int:
    """Return the first dimension of the first tensor among the arguments of a forward."""
    first = next(v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor))
    if first.ndim == 0:
        raise ArgumentError("a batch must have a first dimension, which is the examples.")
    return first.shape[0]


def examples_in(example_input: Any) -> int:
    """Return the number of examples of an example input.

    >>> examples_in((torch.zeros(5, 2), 3))
    5
    """
    return count_examples(*arguments(example_input))


def first_n(example_input: Any, n: int) -> Any:
    """Return the first n examples of an example input.

    >>> first_n(torch.zeros(5, 2), 3).shape
    torch.Size([3, 2])
    """
    total = examples_in(example_input)
    return tree_map(
        lambda v: v[:n] if isinstance(v, Tensor) and v.ndim and len(v) == total else v,
        example_input,
    )


def pairs(batches: Iterable[tuple[Any, Tensor]]) -> Iterator[tuple[Any, Tensor]]:
    """Yield the inputs and labels of each batch; raise if a batch is not such a pair.

    >>> [labels.tolist() for _, labels in pairs([(torch.zeros(2, 3), torch.tensor([0, 1]))])]
    [[0, 1]]
    """
    advice = "Pass an iterable of pairs (inputs, labels): a DataLoader, or [(x, labels)]"
    single = isinstance(batches, (Tensor, Dataset)) and not isinstance(batches, IterableDataset)
    if single or (not hasattr(batches, "__iter__") and not hasattr(batches, "__getitem__")):
        raise ArgumentError(
            f"`batches` must be batches of examples, but {checks.described(batches)} was passed. {advice}."
        )
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            many = f" of {len(batch)}" * isinstance(batch, (tuple, list))
            raise ArgumentError(
                "a batch must be a pair (inputs, labels), but "
                f"{checks.described(batch)}{many} was passed. {advice}."
            )
        yield batch[0], batch[1]


def fast_batches(
    batches: Iterable[tuple[Any, Tensor]], size: int = 100, *, model: nn.Module | None = None
) -> list[tuple[Any, Tensor]]:
    """Return batches as a list, in the sizes and the memory layout that a CPU runs fastest.

    The examples are the same. A small convolutional network needs half the time for images in
    channels_last layout, a hundred at once, which fit into the cache. With `model`, the layout is
    used only if the model runs on such images.

    >>> parts = fast_batches([(torch.zeros(150, 3, 4, 4), torch.zeros(150))])
    >>> [(x.shape[0], x.stride()) for x, _ in parts]
    [(100, (48, 1, 12, 3)), (50, (48, 1, 12, 3))]
    """
    parts: list[tuple[Any, Tensor]] = []
    use_layout: bool | None = True if model is None else None
    for x, labels in pairs(batches):
        tensors = isinstance(x, Tensor) and isinstance(labels, Tensor)
        if tensors and x.ndim and labels.ndim and len(x) == len(labels):
            if use_layout is None and model is not None and x.ndim == 4:
                use_layout = runs_channels_last(model, x)
            laid_out = _laid_out(x) if use_layout else x
            parts += zip(laid_out.split(size), labels.split(size), strict=True)
        else:  # other inputs are passed on: `accuracy` raises if they are wrong
            parts.append((x, labels))
    return parts


def runs_channels_last(model: nn.Module, x: Tensor) -> bool:
    """Whether a model runs on images in channels_last layout.

    A model that calls ``view`` on the result of a convolution does not.

    >>> model = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 1), torch.nn.Flatten())
    >>> runs_channels_last(model, torch.zeros(1, 2, 3, 3))
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
    """Return the device of a model; that of `x` if the model has no tensors."""
    return next((t.device for t in (*model.parameters(), *model.buffers())), x.device)

"""How are batches of examples read? One grammar, for every argument `batches` and `learn`.

=====================================  ===========================================================
batches                                a DataLoader, list, tuple, generator or other iterable of
                                       batches; or one tensor, which is split; or one mapping, which
                                       is one batch
batch                                  inputs, ``(inputs,)``, or a pair ``(inputs, targets)``; also
                                       as lists, as a DataLoader makes them. A tuple of two is
                                       always such a pair, so two inputs are ``((a, b), targets)``
                                       or ``((a, b), None)``
inputs                                 a tensor; a tuple or list of arguments of the forward; a
                                       mapping of its keyword arguments, such as a dict or a
                                       BatchEncoding of `transformers`
targets                                anything that the loss takes; None: there are none. A key
                                       "labels" of a mapping is an argument of the forward, not a
                                       target
labels                                 targets that are classes: a tensor of whole numbers from 0,
                                       (n,) for logits (n, classes), or one for each position of an
                                       example: (n, ...) for logits (n, classes, ...), as torch has
                                       it, or (n, ..., classes). With ``ignore_index`` examples, or
                                       positions, of that label are left out, wherever they count
example                                an index of the first dimension of the first tensor of the
                                       inputs; a batch of no examples is left out
=====================================  ===========================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.data import Dataset

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.model.forward import arguments, run_forward, shape_text, wrong_input
from pruneviz.model.hooks import seeded

PART = 100  # examples of a batch that is cut from a tensor


class _Pair(NamedTuple):
    inputs: Any
    targets: Any = None


class Batch(_Pair):
    """One batch as every verb reads it: inputs are a tensor, a tuple or a dict.

    It is the pair (inputs, targets), so that it is read again as the same batch.
    """

    place = "`x`"  # for errors: where the batch comes from

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments for the model's forward."""
        return arguments(self.inputs, self.place)

    @property
    def examples(self) -> int:
        """Number of examples."""
        return examples_in(self.inputs)

    def run(self, model: nn.Module) -> Any:
        """Return the model's outputs; an error names the batch."""
        return run_forward(model, *self.arguments, self.place)

    def with_(self, inputs: Any, targets: Any = None) -> Batch:
        """Return a part of this batch, or the batch in another form."""
        return _batch(inputs, targets, self.place)

    def classes(
        self,
        shape: tuple[int, ...] | None = None,
        count: int | None = None,
        ignored: int | None = None,
    ) -> Tensor:
        """Return the labels, int64, on the CPU; raise unless they are classes of this shape.

        `count`: the number of classes that the model knows; `ignored`: a label that is no class.
        """
        labels = self.targets
        is_tensor = isinstance(labels, Tensor)
        whole = (
            is_tensor and labels.ndim and not (labels.is_floating_point() or labels.is_complex())
        )
        if not whole or shape not in (None, labels.shape):
            shape = (self.examples,) if shape is None else tuple(shape)
            got = shape_text(labels) if is_tensor else checks.described(labels)
            of_each = "one class per example" if len(shape) == 1 else "one class per position"
            raise ArgumentError(
                f"the labels of {self.place} must be {of_each}, whole numbers of shape {shape}, but "
                f"{got} was passed. {checks.labels_advice(labels, shape)}"
            )
        classes: Tensor = labels.cpu().long()
        check_labels(classes, self.place, count, ignored)
        return classes

    def without(self, label: int) -> Batch:
        """Return the batch without the examples all of whose labels are this one."""
        labels = self.targets
        if not isinstance(labels, Tensor) or not labels.ndim or len(labels) != self.examples:
            return self
        kept = (labels != label).flatten(1).any(1) if labels.ndim > 1 else labels != label
        if bool(kept.all()):
            return self
        return self.with_(*cut_examples((self.inputs, labels), kept, len(labels)))


def class_dimension(logits: tuple[int, ...], labels: Any, place: str) -> int:
    """Return the dimension of the classes in logits of this shape, from the shape of the labels.

    Raises
    ------
    ArgumentError
        If no dimension fits, or two do.

    Examples
    --------
    >>> class_dimension((8, 3, 16, 16), torch.zeros(8, 16, 16), "x")  # an image
    1
    >>> class_dimension((8, 20, 65), torch.zeros(8, 20), "x")  # a text
    2
    """
    last = len(logits) - 1
    if last < 2:
        return last
    shapes = {d: logits[:d] + logits[d + 1 :] for d in (1, last)}
    fits = [d for d, shape in shapes.items() if shape == tuple(getattr(labels, "shape", ()))]
    if len(fits) == 2 and last == 2:
        raise ArgumentError(
            f"the labels of {place}, {shape_text(labels)}, fit logits of shape {logits} in two ways: "
            "the second or the last dimension may be the classes. Leave out one position: x[:, 1:], "
            "labels[:, 1:]."
        )
    if not fits:
        wanted = " or ".join(dict.fromkeys(map(str, shapes.values())))
        raise ArgumentError(
            f"the labels of {place} must be one class per position, whole numbers of shape {wanted} "
            f"for logits of shape {logits}, but {shape_text(labels)} was passed. Pass labels of that "
            "shape, or wrap the model in a module that returns logits of shape (examples, classes)."
        )
    return fits[0]  # of images as large as there are classes, torch's way is the usual one


def check_labels(
    labels: Tensor, place: str, count: int | None = None, ignored: int | None = None
) -> None:
    """Raise if a label is below 0, or not below the number of classes, `count`; but for `ignored`.

    On a GPU the loss itself would abort the process.
    """
    wrong = labels[((labels < 0) | (labels >= (math.inf if count is None else count)))]
    wrong = wrong if ignored is None else wrong[wrong != ignored]
    if len(wrong):
        label = int(wrong[0])
        known = "are counted from 0" if count is None else f"of the model go from 0 to {count - 1}"
        raise ArgumentError(
            f"a label of {place} is {label}, but classes {known}. "
            + ("Pass the data that the model was made for." if label >= 0 else
               "Leave out examples that have no class: x[labels >= 0], labels[labels >= 0].")
        )  # fmt: skip


def _batch(inputs: Any, targets: Any, place: str) -> Batch:
    batch = Batch(inputs, targets)
    batch.place = place
    return batch


def read(
    batches: Iterable[Any],
    purpose: str,
    *,
    targets: bool = False,
    name: str = "batches",
    ignore_index: int | None = None,
) -> Iterator[Batch]:
    """Yield each batch that holds an example; raise if there is none.

    Parameters
    ----------
    batches : iterable
        See the grammar above.
    purpose : str
        Ends the sentence "there is nothing to …".
    targets : bool
        Whether each batch must have targets.
    name : str
        Name of the argument.
    ignore_index : int, optional
        Leave out examples of this label.

    Examples
    --------
    >>> [(b.examples, b.targets) for b in read(torch.zeros(150, 2), "count")]
    [(100, None), (50, None)]
    >>> [b.inputs for b in read([([3, torch.ones(1)], None)], "count")]
    [(3, tensor([1.]))]
    """
    if isinstance(batches, Tensor):
        batches = batches.split(PART) if batches.ndim else [batches]
    elif isinstance(batches, Mapping):
        batches = [batches]
    by_number = hasattr(batches, "__getitem__") and not isinstance(batches, Dataset)  # of examples
    if isinstance(batches, (str, bytes, type)) or not (hasattr(batches, "__iter__") or by_number):
        raise ArgumentError(
            f"`{name}` must be an iterable of batches, such as a list of tensors or a DataLoader, but "
            f"{checks.described(batches)} was passed."
        )
    if not (ignore_index is None or isinstance(ignore_index, Integral)):
        raise ArgumentError(
            "`ignore_index` must be a label, a whole number such as -100, but "
            f"{checks.described(ignore_index)} was passed."
        )
    found = ignored = False
    for number, batch in enumerate(batches, 1):
        if not isinstance(batch, Batch):
            batch = _checked(batch, f"batch {number} of `{name}`")
        if targets and batch.targets is None:
            raise ArgumentError(
                f"{batch.place} must be a pair (inputs, targets), but has no targets. Pass a "
                "DataLoader of pairs, or [(inputs, targets)]."
            )
        if ignore_index is not None:
            some = batch.examples > 0
            batch = batch.without(ignore_index)
            ignored |= some and not batch.examples
        if batch.examples:
            found = True
            yield batch
    if not found and ignored:
        raise ArgumentError(
            f"all labels of `{name}` are {ignore_index}, which is ignored: there is nothing to "
            f"{purpose}. Pass examples with other labels."
        )
    if not found:
        raise ArgumentError(
            f"`{name}` is empty: there is nothing to {purpose}. Pass an iterable of batches; a "
            "generator runs only once."
        )


def _checked(batch: Any, place: str) -> Batch:
    parts = batch if isinstance(batch, (tuple, list)) else (batch,)
    if len(parts) not in (1, 2):
        raise ArgumentError(
            f"{place} must be inputs, or a pair (inputs, targets), but has {len(parts)} parts. "
            "Put several inputs into one tuple: ((a, b), targets)."
        )
    examples_in(parts[0], f"the inputs of {place}")  # raises if there is no tensor
    if any(isinstance(v, Tensor) and v.is_meta for v in tree_leaves([_plain(p) for p in parts])):
        raise ArgumentError(
            f"{place} holds a tensor on the device 'meta': it has a shape, but no numbers. Make it "
            "on another device, such as torch.zeros(2, 3, device='cpu')."
        )
    return _batch(_plain(parts[0]), parts[1] if len(parts) == 2 else None, place)


def _plain(inputs: Any) -> Any:
    """Return a mapping as a dict, and a list as a tuple."""
    if isinstance(inputs, Mapping):
        return dict(inputs)
    return tuple(inputs) if isinstance(inputs, list) else inputs


def read_all(batches: Iterable[Any], purpose: str, **options: Any) -> list[Batch]:
    """Return all batches, to be read several times; `options` as for `read`.

    A DataLoader draws the order of the examples; the caller's random numbers go on as if it had not.
    """
    with seeded(None):
        return list(read(batches, purpose, **options))


def listed(batches: Iterable[Any], purpose: str) -> list[Batch]:
    """Return all batches without their targets, to be read several times; raise if there are none."""
    return [b.with_(b.inputs) for b in read_all(batches, purpose)]


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


def by_class(batches: Iterable[Any]) -> dict[int, list[Batch]]:
    """Return the batches separated by class; raise if there are none.

    >>> x, y = torch.arange(4.0), torch.tensor([1, 0, 1, 1])
    >>> {c: [x.tolist() for x, _ in parts] for c, parts in by_class([(x, y)]).items()}
    {0: [[1.0]], 1: [[0.0, 2.0, 3.0]]}
    """
    found: dict[int, list[Batch]] = {}
    for batch in read_all(batches, "look at", targets=True):
        y = batch.targets
        if (
            isinstance(y, Tensor) and y.ndim > 1 and y.numel() > len(y) and bool((y > 1).any())
        ):  # else they may be one-hot
            raise ArgumentError(
                f"examples are looked at class by class here, but those of {batch.place} have several "
                f"labels each, {shape_text(y)}. Pass one class per example; or look at all of "
                "them at once: pv.find_inactive(pv.collect(model, batches))."
            )
        x, labels = batch.inputs, batch.classes((batch.examples,))
        if not isinstance(x, Tensor):
            raise ArgumentError(
                f"the inputs of {batch.place} must be one tensor here, but {checks.described(x)} was "
                "passed."
            )
        for c in labels.unique().tolist():
            found.setdefault(c, []).append(batch.with_(x[labels == c], labels[labels == c]))
    return {c: found[c] for c in sorted(found)}


def examples_of_each_class(
    classes: dict[int, list[Batch]], most: int
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


def examples_in(example_input: Any, name: str = "`example_input`", *, low: int = 0) -> int:
    """Return the number of examples of an example input, or raise if there are fewer than `low`.

    >>> examples_in((torch.zeros(5, 2), 3))
    5
    """
    first = example_input
    if not isinstance(first, Tensor):
        first = next(v for v in tree_leaves(arguments(first, name)) if isinstance(v, Tensor))
    if not first.ndim or len(first) < low:
        got = f"the first tensor has shape {tuple(first.shape)}, and so holds no example"
        raise wrong_input(got, name)
    return len(first)


def first_n(example_input: Any, n: int) -> Any:
    """Return the first n examples of an example input.

    >>> first_n(torch.zeros(5, 2), 3).shape
    torch.Size([3, 2])
    """
    return cut_examples(_plain(example_input), slice(n), examples_in(example_input))


def cut_examples(values: Any, part: slice | Tensor, total: int) -> Any:
    """Return a part of each tensor whose first dimension is the examples, `total` of them."""
    return tree_map(
        lambda v: v[part] if isinstance(v, Tensor) and v.ndim and len(v) == total else v, values
    )


def one_example(example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments cut to the first example; the first dimension must be the examples.

    >>> one_example(torch.zeros(2, 3))[0][0].shape
    torch.Size([1, 3])
    """
    examples_in(example_input, low=1)
    return arguments(first_n(example_input, 1))

"""Is an argument valid? The checks that many files share, so that their errors are worded alike."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Integral, Real
from typing import Any

from torch import Tensor, nn

from pruneviz.core.errors import ArgumentError

WRAPPERS = ("module.", "_orig_mod.")  # before the names of layers in DataParallel, torch.compile


def sparsity(value: Any, name: str = "sparsity") -> float:
    """Return `value` as a fraction in [0, 1), or raise.

    >>> sparsity(0.5)
    0.5
    >>> sparsity(50)
    Traceback (most recent call last):
    ...
    pruneviz.ArgumentError: `sparsity` must be a fraction in [0, 1), but 50 was passed. Did you mean 0.5? Fractions, never percentages.
    """
    message = f"`{name}` must be a fraction in [0, 1), but {value!r} was passed."
    if isinstance(value, bool) or not isinstance(value, Real):
        raise ArgumentError(message)
    share = float(value)
    if 0 <= share < 1:
        return share
    if 1 < share < 99.999:
        mean = f"{share / 100:g}"
        raise ArgumentError(f"{message} Did you mean {mean}? Fractions, never percentages.")
    if share == 1:
        raise ArgumentError(
            f"{message} Nothing would be left; pass a number below 1, such as 0.99."
        )
    raise ArgumentError(message)


def number(value: Any, name: str, *, low: float = -math.inf, high: float = math.inf) -> float:
    """Return `value` as a finite float in [low, high], or raise."""
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and low <= value <= high:
        return float(value)
    raise ArgumentError(f"`{name}` must be a number{_range(low, high)}, but {value!r} was passed.")


def count(value: Any, name: str, *, low: int = 0) -> int:
    """Return `value` as a whole number ≥ low, or raise."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < low:
        raise ArgumentError(f"`{name}` must be a whole number ≥ {low}, but {value!r} was passed.")
    return int(value)


def choice(value: Any, name: str, options: Iterable[str], *, what: str = "") -> str:
    """Return `value` if it is one of `options`, or raise with the nearest ones.

    >>> choice("magnitud", "criterion", ["magnitude", "lamp"])
    Traceback (most recent call last):
    ...
    pruneviz.ArgumentError: `criterion` 'magnitud' is unknown. Did you mean 'magnitude'? Known: lamp, magnitude.
    """
    options = sorted(options)
    if isinstance(value, str) and value in options:
        return value
    near = difflib.get_close_matches(str(value), options, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    known = ", ".join(options[:12]) + (", …" if len(options) > 12 else "")
    raise ArgumentError(
        f"{what or f'`{name}`'} {value!r} is unknown.{hint} Known: {known or 'none yet'}."
    )


def layer(value: Any, known: Iterable[str]) -> str:
    """Return the name of a known layer, or raise; names inside DataParallel or torch.compile, too.

    >>> layer("module.fc1", ["fc1"]), layer("_orig_mod.module.fc1", ["fc1"])
    ('fc1', 'fc1')
    """
    names, plain = set(known), value
    while isinstance(plain, str) and plain not in names and plain.startswith(WRAPPERS):
        plain = plain.partition(".")[2]
    return choice(plain if plain in names else value, "layer", names, what="layer")


def model(value: Any) -> nn.Module:
    """Return `value` if it is an `nn.Module`, or raise."""
    if isinstance(value, nn.Module):
        return value
    hint = " Pass an instance: Net(), not Net." if isinstance(value, type) else ""
    raise ArgumentError(
        f"`model` must be a torch.nn.Module, but {described(value)} was passed.{hint}"
    )


def unwrapped(value: Any) -> nn.Module:
    """Return the model inside DataParallel or torch.compile; or raise."""
    inner = model(value)
    while isinstance(inner, (nn.DataParallel, nn.parallel.DistributedDataParallel)) or hasattr(
        inner, "_orig_mod"
    ):
        inner = inner._orig_mod if hasattr(inner, "_orig_mod") else inner.module  # type: ignore[assignment]
    return inner


def names(value: Any, name: str) -> list[Any]:
    """Return one name, or several, as a list; or raise.

    >>> names("fc1", "layers"), names(("fc1", "fc2"), "layers")
    (['fc1'], ['fc1', 'fc2'])
    """
    if isinstance(value, str):
        return [value]
    if isinstance(value, (bytes, type)) or not isinstance(value, Iterable):
        raise ArgumentError(
            f"`{name}` must be a name or a list of names, but {described(value)} was passed."
        )
    return list(value)


def function(value: Any, name: str, call: str) -> Callable[..., Any]:
    """Return `value` if it can be called, or raise; `call` says how it is called."""
    if callable(value):
        return value
    raise ArgumentError(f"`{name}` must be a function, {call}, but {described(value)} was passed.")


def kind(value: Any, name: str, cls: type, hint: str = "") -> Any:
    """Return `value` if it is of class `cls`, or raise."""
    if isinstance(value, cls):
        return value
    text = f"`{name}` must be {_article(cls.__name__)}, but {described(value)} was passed."
    raise ArgumentError(f"{text} {hint}".rstrip())


def classes(value: Any) -> list[str] | None:
    """Return the names of the classes as text, None if there are none, or raise.

    >>> classes(["cat", 7])
    ['cat', '7']
    """
    if value is None:
        return None
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise ArgumentError(
            "`classes` must be a list of names, one per class in order, such as ['cat', 'dog'], but "
            f"{described(value)} was passed."
        )
    return [str(name) for name in value]


def labels_advice(labels: Any, shape: tuple[int, ...]) -> str:
    """Return how to convert these labels into whole numbers of that shape.

    >>> import torch
    >>> labels_advice(torch.zeros(3, 2), (3,)), labels_advice(torch.zeros(3, 1), (3,))
    ('One-hot labels: labels.argmax(1).', 'Flatten them: labels.flatten().')
    """
    if not isinstance(labels, Tensor):
        return "Convert them to a tensor: torch.as_tensor(labels)."
    if labels.ndim == 2 and labels.shape[1] > 1:
        return "One-hot labels: labels.argmax(1)."
    if labels.numel() == math.prod(shape) and tuple(labels.shape) != shape:
        return "Flatten them: labels.flatten()."
    if tuple(labels.shape) == shape:
        return "Convert them to whole numbers: labels.long()."
    return "There must be as many labels as examples in every batch."


BETTER = ("higher", "lower")
COSTS = ("params", "nonzero", "bytes", "macs", "latency_ms", "sparsity", "target_sparsity")


def not_left_out(frame: Any) -> Any:
    """Return the rows of a table whose column ``left_out``, if it has one, gives no reason."""
    if "left_out" not in frame:
        return frame
    return frame[frame["left_out"].fillna("") == ""]


def lower_is_better(frame: Any, column: str = "metric", better: Any = None) -> bool:
    """Whether lower numbers of a column are better: as `better` says, or the frame's own column.

    >>> import pandas as pd
    >>> lower_is_better(pd.DataFrame({"metric": [3.1], "better": "lower"}))
    True
    """
    if better is None and "better" in frame and column not in COSTS:
        found = list(dict.fromkeys(frame["better"]))
        if len(found) > 1:
            raise ArgumentError(
                "the frame holds metrics of which higher and such of which lower numbers are better. "
                "Take the rows of one kind: frame[frame['better'] == 'lower']."
            )
        better = found[0] if found else None
    return better is not None and choice(better, "better", BETTER) == "lower"


def images_and_labels(x: Any, labels: Any) -> None:
    """Raise unless `x` is a tensor and `labels` has one dimension; lengths are not checked."""
    kind(x, "x", Tensor, "A few examples: torch.as_tensor(images).")
    if not isinstance(labels, Tensor) or labels.ndim != 1:
        got = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ArgumentError(
            f"`labels` must be one class per example, shape ({len(x)},), but {got} was passed. "
            f"{labels_advice(labels, (len(x),))}"
        )


def columns(frame: Any, needed: Mapping[str, str], plot: str) -> None:
    """Raise unless the frame has the columns; `needed` maps a column to the code that makes it."""
    if not hasattr(frame, "columns"):
        raise ArgumentError(f"{plot} needs a DataFrame, but {described(frame)} was passed.")
    for column, source in needed.items():
        if column not in frame.columns:
            have = ", ".join(map(str, frame.columns)) or "none"
            raise ArgumentError(
                f"{plot} needs a column {column!r}, but the frame has: {have}. Make it with {source}."
            )


def described(value: Any) -> str:
    """Return the type of a value in words, for an error message.

    >>> described([1]), described(int)
    ('a list', 'the class int')
    """
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return _article(type(value).__name__)


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def _range(low: float, high: float) -> str:
    if math.isfinite(low) and math.isfinite(high):
        return f" in [{low:g}, {high:g}]"
    if math.isfinite(low):
        return f" ≥ {low:g}"
    return ""

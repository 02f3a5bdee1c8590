"""How accurate are many models on the same examples? `Accuracy`, with its interval."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.metrics.accuracy import count_correct
from pruneviz.metrics.intervals import clustered_interval
from pruneviz.model.batches import Batch, read_all, same_shape
from pruneviz.model.hooks import plain_torch
from pruneviz.model.layout import runs_channels_last, split_batches


@dataclass(frozen=True, eq=False, repr=False)
class Accuracy:
    """The share of examples, or positions, that a model classifies correctly: for `sweep`.

    Call it with a model, like any other ``evaluate``. The batches are read once and kept in the
    layout that a CPU runs fastest; all models are judged on the same examples. A table made with it
    has three more columns: ``low`` and ``high``, Wilson's interval, which contains the accuracy
    over all such examples in 95 of 100 cases, and ``examples``. Where an example has several labels
    (pixels, tokens), the metric is a share of the labels, and the interval is that of examples whose
    labels are right or wrong together; see `clustered_interval` in ``metrics/intervals.py``.

    Parameters
    ----------
    batches : iterable of (inputs, labels)
        As for `accuracy`. Batches of tensors are split into smaller ones, never joined.
    examples : int, optional
        Judge on this number of examples, drawn once without replacement: faster, but less certain.
        Needs batches of tensors.
    seed : int
        For drawing. The caller's random state is not changed.
    ignore_index : int, optional
        Leave out examples, or positions, of this label, such as -100.

    Raises
    ------
    ArgumentError
        If there is no example, or fewer than `examples`.

    References
    ----------
    Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> judge = pv.Accuracy([(torch.eye(4), torch.tensor([0, 1, 2, 0]))])
    >>> judge
    Accuracy on 4 examples
    >>> judge(torch.nn.Identity())
    0.75
    >>> {k: round(v, 2) for k, v in judge.columns(torch.nn.Identity()).items()}
    {'metric': 0.75, 'low': 0.3, 'high': 0.95, 'examples': 4}
    """

    batches: Iterable[Any]
    examples: int | None = None
    seed: int = 0
    ignore_index: int | None = None

    @plain_torch()
    def __post_init__(self) -> None:
        given = read_all(self.batches, "judge by", targets=True, ignore_index=self.ignore_index)
        for batch in given:
            batch.classes(ignored=self.ignore_index)  # raises if they are not whole numbers
        if self.examples is not None:
            n = checks.count(self.examples, "examples", low=1)
            given = _drawn(given, n, checks.count(self.seed, "seed"))
        object.__setattr__(self, "batches", given)

    def __getstate__(self) -> dict[str, Any]:
        # the cached layouts are not stored: they are computed again when needed
        return {
            name: getattr(self, name) for name in ("batches", "examples", "seed", "ignore_index")
        }

    def __repr__(self) -> str:
        positions = f"{self.positions:,} positions of " * (self.positions != self.total)
        return f"Accuracy on {positions}{self.total:,} examples"

    def __call__(self, model: nn.Module) -> float:
        """Return the accuracy of a model, in [0, 1]; the model is not changed."""
        return float(self.columns(model)["metric"])

    def columns(self, model: nn.Module) -> dict[str, float]:
        """Return ``metric``, ``low``, ``high`` and ``examples`` for a model."""
        return self.of(self.right(model))

    def of(self, counts: tuple[np.ndarray, np.ndarray]) -> dict[str, float]:
        """Return the same from the number of right labels, and of all labels, of each example."""
        right, labels = counts
        low, high = clustered_interval(right, labels)
        share = int(right.sum()) / int(labels.sum())
        return {"metric": share, "low": low, "high": high, "examples": len(labels)}

    @plain_torch()
    def right(
        self, model: nn.Module, batches: list[Batch] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Count for each example the labels that a model predicts, and all labels."""
        given = self.laid_out(model) if batches is None else batches
        return count_correct(model, given, self.ignore_index)

    def laid_out(self, model: nn.Module) -> list[Batch]:
        """Return the batches in the layout that this model runs fastest."""
        use_images = runs_channels_last(model, next(iter(self.batches)).inputs)
        return self._images if use_images else self._rows

    @cached_property
    def total(self) -> int:
        """Number of examples."""
        return sum(b.examples for b in self.batches)

    @cached_property
    def positions(self) -> int:
        """Number of labels."""
        ignored = self.ignore_index
        every = (b.targets for b in self.batches)
        return sum(y.numel() if ignored is None else int((y != ignored).sum()) for y in every)

    @cached_property
    def _images(self) -> list[Batch]:
        return split_batches(self.batches, True)

    @cached_property
    def _rows(self) -> list[Batch]:
        # without convolutions the given memory layout is as good as any: only split the batches
        return split_batches(self.batches, False)


def checked_better(better: Any, evaluate: Any) -> str:
    """Return which numbers of an `evaluate` are better; raise if it is of accuracies."""
    if checks.choice(better, "better", checks.BETTER) == "lower" and (
        evaluate is None or isinstance(evaluate, Accuracy)
    ):
        raise ArgumentError(
            "better='lower' is said of what `evaluate` returns, but of accuracies higher is better. "
            "Pass a function such as a loss as `evaluate`, or leave `better` out."
        )
    return str(better)


def columns_of(evaluate: Any) -> dict[str, type]:
    """Return the columns that an `evaluate` fills, and their types; or raise.

    >>> columns_of(len)
    {'metric': <class 'float'>}
    """
    if not callable(evaluate):
        raise ArgumentError(
            "`evaluate` must be a function of a model, or pv.Accuracy(batches), but "
            f"{checks.described(evaluate)} was passed."
        )
    interval_columns = {"low": float, "high": float, "examples": int}
    return {"metric": float} | (interval_columns if isinstance(evaluate, Accuracy) else {})


def evaluated(evaluate: Callable[[nn.Module], Any], model: nn.Module) -> dict[str, Any]:
    """Return the columns that an `evaluate` fills for a model; or raise."""
    try:
        if isinstance(evaluate, Accuracy):
            return evaluate.columns(model)
        value = evaluate(model)
    except ArgumentError:
        raise
    except Exception as e:
        raise ArgumentError(f"`evaluate` raised {type(e).__name__}: {e}") from e
    return {"metric": metric(value)}


def metric(value: Any) -> float:
    """Return the result of an `evaluate` as a finite number; or raise.

    >>> metric(torch.tensor([0.5]))
    0.5
    """
    try:
        if isinstance(value, str):
            raise TypeError
        number = float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentError(
            f"`evaluate` must return a finite number, or a tensor of one, but it returned {value!r}. "
            "Try pv.Accuracy(batches)."
        )
    return number


def _drawn(batches: list[Batch], n: int, seed: int) -> list[Batch]:
    """Return n random examples, in their original order."""
    fits = all(isinstance(x, Tensor) and len(x) == len(y) for x, y in batches)
    if not fits or not all(map(same_shape, zip(*batches, strict=True))):
        raise ArgumentError(
            "`examples` draws from batches of tensors, (inputs, labels) of one length, but these "
            "batches are different. Leave it out to judge on all examples."
        )
    x, y = (torch.cat(parts) for parts in zip(*batches, strict=True))
    if n > len(y):
        raise ArgumentError(
            f"`examples` must be at most {len(y):,}, the number of examples, but {n:,} was passed."
        )
    chosen = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))[:n].sort().values
    return [batches[0].with_(x[chosen], y[chosen])]

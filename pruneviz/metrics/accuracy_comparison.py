"""Is one model worse than another on the same examples, and on which? A paired comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.imports import imported
from pruneviz.metrics.accuracy import classified
from pruneviz.metrics.intervals import (
    checked_level,
    clustered_difference,
    clustered_interval,
    swap_p_value,
)
from pruneviz.model.batches import read
from pruneviz.model.hooks import evaluating, plain_torch

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """The predictions of two models for the same examples, and everything that follows from them.

    Where an example has several labels (pixels, tokens), accuracies are shares of the labels, and
    intervals and p those of examples whose labels are right or wrong together. Examples that both
    models classify correctly, or both wrongly, do not show which model is better: only examples
    that flipped count.

    Parameters
    ----------
    labels, said_before, said_after : ndarray of int, shape (labels,)
        The right class of each example, or each of its positions, and the class that each model
        predicts, in the order of the batches.
    level : float
        Confidence level of all intervals, a fraction in (0, 1).
    names : tuple of str, optional
        Name of each class.
    example : ndarray of int, shape (labels,), optional
        The number of the example that each label belongs to; default: each has one label.

    Examples
    --------
    >>> import numpy as np
    >>> from pruneviz.metrics.accuracy_comparison import Comparison
    >>> labels = np.zeros(100, dtype=int)
    >>> Comparison(labels, labels, np.array([1, 1] + [0] * 98))
    Comparison on 100 examples, intervals at level 0.95
      accuracy before  1.000 (0.963 to 1.000)
      accuracy after   0.980 (0.930 to 0.994)
      difference       -0.020 (-0.058 to 0.019)
      2 got worse, 0 got better, 0 wrong in another way; McNemar's exact p = 0.5
      The difference lies inside the noise: of two equally good models, chance alone makes as much in 50 of 100 comparisons.
    """

    labels: np.ndarray
    said_before: np.ndarray
    said_after: np.ndarray
    level: float = 0.95
    names: tuple[str, ...] | None = None
    example: np.ndarray | None = None

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len(self._of_examples(self.labels == self.labels)[1])

    @property
    def accuracy_before(self) -> float:
        """Share of correctly classified examples, before."""
        return float((self.said_before == self.labels).mean())

    @property
    def accuracy_after(self) -> float:
        """Share of correctly classified examples, after."""
        return float((self.said_after == self.labels).mean())

    @property
    def interval_before(self) -> tuple[float, float]:
        """Wilson's interval of the accuracy before."""
        right = self._of_examples(self.said_before == self.labels)
        return clustered_interval(*right, level=self.level)

    @property
    def interval_after(self) -> tuple[float, float]:
        """Wilson's interval of the accuracy after."""
        right = self._of_examples(self.said_after == self.labels)
        return clustered_interval(*right, level=self.level)

    @property
    def difference(self) -> float:
        """Accuracy after − accuracy before."""
        return float(len(self.better) - len(self.worse)) / len(self.labels)

    @property
    def interval(self) -> tuple[float, float]:
        """Bonett and Price's interval of the difference, for paired examples."""
        return clustered_difference(*self._of_examples(self._change), self.level)

    @property
    def p_value(self) -> float:
        """McNemar's exact p, two-sided: how often equally good models differ at least as much."""
        return swap_p_value(self._of_examples(self._change)[0])

    @property
    def _change(self) -> np.ndarray:
        right = (said == self.labels for said in (self.said_after, self.said_before))
        after, before = (r.astype(int) for r in right)
        return after - before

    def _of_examples(
        self, values: np.ndarray, chosen: Any = slice(None)
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return for each example the sum of these values of its labels, and their number."""
        values = values[chosen].astype(int)
        if self.example is None:
            return values, np.ones(len(values), int)
        _, place = np.unique(self.example[chosen], return_inverse=True)
        return np.bincount(place, values).round().astype(int), np.bincount(place)

    @property
    def inside_noise(self) -> bool:
        """Whether, by the test or by the interval, both models may be equally good."""
        low, high = self.interval
        return self.p_value > 1 - self.level or low <= 0 <= high

    @property
    def worse(self) -> np.ndarray:
        """Indices of the examples that are right before and wrong after."""
        return np.flatnonzero((self.said_before == self.labels) & (self.said_after != self.labels))

    @property
    def better(self) -> np.ndarray:
        """Indices of the examples that are wrong before and right after."""
        return np.flatnonzero((self.said_before != self.labels) & (self.said_after == self.labels))

    @property
    def otherwise(self) -> np.ndarray:
        """Indices of the examples that both models classify wrongly, but differently."""
        wrong = (self.said_before != self.labels) & (self.said_after != self.labels)
        return np.flatnonzero(wrong & (self.said_before != self.said_after))

    def to_frame(self) -> pd.DataFrame:
        """Return the damage, one row per class.

        Returns
        -------
        DataFrame
            ``class``, ``examples`` (labels of the class, if an example has several), ``before`` and ``after`` (accuracies), ``lost`` (before − after)
            with its interval ``low``, ``high``. Classes without an example are left out.

        Examples
        --------
        >>> import numpy as np
        >>> from pruneviz.metrics.accuracy_comparison import Comparison
        >>> said = np.array([0, 0, 1, 1])
        >>> frame = Comparison(said, said, np.array([0, 0, 1, 0]), names=("a", "b")).to_frame()
        >>> frame[["class", "examples", "before", "after", "lost"]]
          class  examples  before  after  lost
        0     a         2     1.0    1.0   0.0
        1     b         2     1.0    0.5   0.5
        """
        pd = imported("pandas")

        rows = []
        for c in np.unique(self.labels):
            in_class = self.labels == c
            n = int(in_class.sum())
            before, after = (said[in_class] == c for said in (self.said_before, self.said_after))
            lost = -self._change
            low, high = clustered_difference(*self._of_examples(lost, in_class), self.level)
            name = int(c) if self.names is None else self.names[c]
            rows.append((name, n, before.mean(), after.mean(), lost[in_class].mean(), low, high))
        columns = ["class", "examples", "before", "after", "lost", "low", "high"]
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        def line(name: str, value: float, interval: tuple[float, float]) -> str:
            low, high = (round(v, 3) + 0.0 for v in interval)  # + 0.0: no "-0.000"
            return f"  {name:15}  {round(value, 3) + 0.0:.3f} ({low:.3f} to {high:.3f})"

        p, several = self.p_value, self.examples < len(self.labels)
        test = "p of swapped examples" if several else "McNemar's exact p"
        on = f"{len(self.labels):,} labels of " * several
        return "\n".join([
            f"Comparison on {on}{self.examples:,} examples, intervals at level {self.level:g}",
            line("accuracy before", self.accuracy_before, self.interval_before),
            line("accuracy after", self.accuracy_after, self.interval_after),
            line("difference", self.difference, self.interval),
            f"  {len(self.worse):,} got worse, {len(self.better):,} got better, "
            f"{len(self.otherwise):,} wrong in another way; {test} = {p:.2g}",
            f"  {self._verdict(p)}",
        ])  # fmt: skip

    def _verdict(self, p: float) -> str:
        if not len(self.worse) and not len(self.better):
            return "There is no difference: no example flipped from right to wrong, or back."
        chance = "of two equally good models, chance alone makes as much in"
        often = f"{100 * p:.0f} of 100" if p >= 0.095 else f"{1000 * p:.0f} of 1,000"
        if self.inside_noise:
            return f"The difference lies inside the noise: {chance} {often} comparisons."
        often = often if p >= 5e-4 else "less than 1 of 1,000"
        return f"The difference is more than noise: {chance} {often} comparisons."


@plain_torch()
def compare_accuracy(
    before: nn.Module,
    after: nn.Module,
    batches: Iterable[Any],
    *,
    level: float = 0.95,
    names: Sequence[str] | None = None,
    ignore_index: int | None = None,
) -> Comparison:
    """Compare the accuracy of two models on the same examples, example by example.

    Parameters
    ----------
    before, after : nn.Module
        Return logits, as for `accuracy`. Not changed. Each runs once over the batches.
    batches : iterable of (inputs, labels)
        As for `accuracy`. They are read once, so a generator is allowed.
    level : float
        Confidence level of the intervals, a fraction in (0, 1).
    names : sequence of str, optional
        Name of each class; default: its number.
    ignore_index : int, optional
        Leave out examples, or positions, of this label, such as -100.

    Returns
    -------
    Comparison
        Its repr says the result in words. ``accuracy_before``, ``interval_before``, and the same
        ``after``; ``difference`` and its ``interval``; McNemar's ``p_value``; ``inside_noise``;
        ``to_frame()``, the damage per class, for `plot_damage`; ``worse``, ``better`` and
        ``otherwise``, the indices of the examples that flipped. Where an example has several labels,
        these are indices of ``labels``, and ``example`` says to which example each belongs.

    Raises
    ------
    ArgumentError
        If there is no example, the labels have another shape or are no classes of the models, a label
        has no name, a model returns NaN, or `level` is not a fraction.

    References
    ----------
    McNemar 1947, "Note on the sampling error of the difference between correlated proportions",
    Psychometrika 12; exact: of n = b + c flipped examples, b ~ Binomial(n, ½) if both are equally good.
    Dietterich 1998, "Approximate Statistical Tests for Comparing Supervised Classification Learning
    Algorithms", Neural Computation 10: the recommended test if each model runs only once.
    The interval: see `paired_interval`.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> x, labels = torch.eye(3), torch.tensor([0, 1, 2])
    >>> worse = torch.nn.Linear(3, 3, bias=False)
    >>> with torch.no_grad():
    ...     _ = worse.weight.copy_(torch.diag(torch.tensor([1.0, 1.0, -1.0])))
    >>> comparison = pv.compare_accuracy(torch.nn.Identity(), worse, [(x, labels)])
    >>> comparison.worse, comparison.inside_noise
    (array([2]), True)
    """
    before, after = checks.unwrapped(before), checks.unwrapped(after)
    level = checked_level(level)
    found: list[tuple[np.ndarray, ...]] = []
    examples = 0
    with evaluating(before), evaluating(after):
        for batch in read(batches, "compare by", targets=True, ignore_index=ignore_index):
            (said, labels, example), (new, _, _) = (
                classified(m, batch, ignore_index) for m in (before, after)
            )
            found.append((labels, said, new, examples + example))
            examples += batch.examples
    truth, said_before, said_after, owner = map(np.concatenate, zip(*found, strict=True))
    named = None if names is None else tuple(map(str, checks.names(names, "names")))
    if named is not None and truth.max() >= len(named):
        raise ArgumentError(
            f"`names` must have a name for each class, but it has {len(named)}, and {truth.max()} is among "
            "the labels."
        )
    several = owner if len(owner) > len(np.unique(owner)) else None
    return Comparison(truth, said_before, said_after, level, named, several)

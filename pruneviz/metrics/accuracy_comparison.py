"""Two models on the same examples: is the one worse than the other, and on which of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.metrics.accuracy import predicted_classes
from pruneviz.metrics.intervals import accuracy_interval, checked_level, paired_interval
from pruneviz.model.hooks import evaluating

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Comparison:
    """What two models said of the same examples; all else follows from it.

    Examples that both get right, or both get wrong, say nothing about which is better: only those
    count that flipped.

    Parameters
    ----------
    labels, said_before, said_after : ndarray of int, shape (examples,)
        The right class of each example, and the class that each model gives to it, in the order of
        the batches.
    level : float
        Of all intervals, a fraction in (0, 1).
    names : tuple of str, optional
        Name of each class.

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

    @property
    def examples(self) -> int:
        """Number of examples."""
        return len(self.labels)

    @property
    def accuracy_before(self) -> float:
        """Share of examples in the right class, before."""
        return float((self.said_before == self.labels).mean())

    @property
    def accuracy_after(self) -> float:
        """Share of examples in the right class, after."""
        return float((self.said_after == self.labels).mean())

    @property
    def interval_before(self) -> tuple[float, float]:
        """Wilson's interval of the accuracy before."""
        right = int((self.said_before == self.labels).sum())
        return accuracy_interval(right, self.examples, level=self.level)

    @property
    def interval_after(self) -> tuple[float, float]:
        """Wilson's interval of the accuracy after."""
        right = int((self.said_after == self.labels).sum())
        return accuracy_interval(right, self.examples, level=self.level)

    @property
    def difference(self) -> float:
        """Accuracy after − accuracy before."""
        return float(len(self.better) - len(self.worse)) / self.examples

    @property
    def interval(self) -> tuple[float, float]:
        """Bonett and Price's interval of the difference, for pairs."""
        return paired_interval(len(self.worse), len(self.better), self.examples, self.level)

    @property
    def p_value(self) -> float:
        """McNemar's exact p, two-sided: how often two equally good models differ as much."""
        from scipy.stats import binomtest

        flipped = len(self.worse) + len(self.better)
        return float(binomtest(len(self.worse), flipped).pvalue) if flipped else 1.0

    @property
    def inside_noise(self) -> bool:
        """Whether the test or the interval allows that the two are equally good."""
        low, high = self.interval
        return self.p_value > 1 - self.level or low <= 0 <= high

    @property
    def worse(self) -> np.ndarray:
        """Indices of the examples that were right, and are wrong after."""
        return np.flatnonzero((self.said_before == self.labels) & (self.said_after != self.labels))

    @property
    def better(self) -> np.ndarray:
        """Indices of the examples that were wrong, and are right after."""
        return np.flatnonzero((self.said_before != self.labels) & (self.said_after == self.labels))

    @property
    def otherwise(self) -> np.ndarray:
        """Indices of the examples that are wrong in both, each time in another way."""
        wrong = (self.said_before != self.labels) & (self.said_after != self.labels)
        return np.flatnonzero(wrong & (self.said_before != self.said_after))

    def to_frame(self) -> pd.DataFrame:
        """Return the damage, one row a class.

        Returns
        -------
        DataFrame
            ``class``, ``examples``, ``before`` and ``after`` (accuracies), ``lost`` (before − after)
            with its interval ``low``, ``high``. Classes of which there is no example are left out.

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
        import pandas as pd

        rows = []
        for c in np.unique(self.labels):
            of = self.labels == c
            n = int(of.sum())
            was, is_ = self.said_before[of] == c, self.said_after[of] == c
            worse, better = int((was & ~is_).sum()), int((is_ & ~was).sum())
            low, high = paired_interval(better, worse, n, self.level)
            name = int(c) if self.names is None else self.names[c]
            rows.append((name, n, was.mean(), is_.mean(), (worse - better) / n, low, high))
        columns = ["class", "examples", "before", "after", "lost", "low", "high"]
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        def line(what: str, value: float, between: tuple[float, float]) -> str:
            low, high = (round(v, 3) + 0.0 for v in between)  # + 0.0: no "-0.000"
            return f"  {what:15}  {round(value, 3) + 0.0:.3f} ({low:.3f} to {high:.3f})"

        p = self.p_value
        return "\n".join([
            f"Comparison on {self.examples:,} examples, intervals at level {self.level:g}",
            line("accuracy before", self.accuracy_before, self.interval_before),
            line("accuracy after", self.accuracy_after, self.interval_after),
            line("difference", self.difference, self.interval),
            f"  {len(self.worse):,} got worse, {len(self.better):,} got better, "
            f"{len(self.otherwise):,} wrong in another way; McNemar's exact p = {p:.2g}",
            f"  {self._words(p)}",
        ])  # fmt: skip

    def _words(self, p: float) -> str:
        if not len(self.worse) and not len(self.better):
            return "There is no difference: no example flipped from right to wrong, or back."
        chance = "of two equally good models, chance alone makes as much in"
        often = f"{100 * p:.0f} of 100" if p >= 0.095 else f"{1000 * p:.0f} of 1,000"
        if self.inside_noise:
            return f"The difference lies inside the noise: {chance} {often} comparisons."
        often = often if p >= 5e-4 else "less than 1 of 1,000"
        return f"The difference is more than noise: {chance} {often} comparisons."


def compare_accuracy(
    before: nn.Module,
    after: nn.Module,
    batches: Iterable[tuple[Any, Tensor]],
    *,
    level: float = 0.95,
    names: Sequence[str] | None = None,
) -> Comparison:
    """Compare the accuracy of two models on the same examples, pair by pair.

    Parameters
    ----------
    before, after : nn.Module
        Give logits of shape (n, classes). Not changed. Each runs once over the batches.
    batches : iterable of (inputs, labels)
        As for `accuracy`; read once, so that a generator will do.
    level : float
        Of the intervals, a fraction in (0, 1).
    names : sequence of str, optional
        Name of each class; default: its number.

    Returns
    -------
    Comparison
        Prints itself in words. ``accuracy_before``, ``interval_before``, and the same ``after``;
        ``difference`` and its ``interval``; McNemar's ``p_value``; ``inside_noise``; ``to_frame()``,
        the damage class by class, for `plot_damage`; ``worse``, ``better`` and ``otherwise``, the
        indices of the examples that flipped.

    Raises
    ------
    ArgumentError
        If there is no example, the labels have another shape or are no whole numbers, a label has no
        name, or `level` is no fraction.

    References
    ----------
    McNemar 1947, "Note on the sampling error of the difference between correlated proportions",
    Psychometrika 12; exact: of n = b + c flipped examples, b ~ Binomial(n, ½) if both are equally good.
    Dietterich 1998, "Approximate Statistical Tests for Comparing Supervised Classification Learning
    Algorithms", Neural Computation 10: of the tests that run each model once, this one is to be used.
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
    given, first, second = [], [], []
    with evaluating(before), evaluating(after):
        for batch in batches:
            x, labels = _pair(batch)
            first.append(predicted_classes(before, x).numpy())
            second.append(predicted_classes(after, x).numpy())
            given.append(label_numbers(labels, first[-1].shape))
    if not sum(map(len, given)):
        raise ArgumentError(
            "`batches` is empty: there is no example to compare by. Pass an iterable of (inputs, "
            "labels); a generator runs only once."
        )
    labels, said, said_after = (np.concatenate(parts) for parts in (given, first, second))
    named = None if names is None else tuple(map(str, names))
    if named is not None and not 0 <= labels.min() <= labels.max() < len(named):
        odd = labels.min() if labels.min() < 0 else labels.max()
        raise ArgumentError(
            f"`names` must have a name for each class, but it has {len(named)}, and {odd} is among "
            "the labels."
        )
    return Comparison(labels, said, said_after, level, named)


def _pair(batch: Any) -> tuple[Any, Any]:
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        got = f"{len(batch)} parts" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise ArgumentError(f"a batch must be a pair (inputs, labels), but {got} was passed.")
    return batch[0], batch[1]


def label_numbers(labels: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return labels as an array, or raise unless they are one whole number an example."""
    whole = isinstance(labels, Tensor) and not (labels.is_floating_point() or labels.is_complex())
    if not whole or tuple(labels.shape) != shape:
        kind = (
            f"{labels.dtype} of shape {tuple(labels.shape)}"
            if isinstance(labels, Tensor)
            else type(labels).__name__
        )
        raise ArgumentError(
            f"`labels` must be one class an example, whole numbers of shape {shape}, but {kind} was "
            f"passed. {checks.advice(labels, shape)}"
        )
    array: np.ndarray = labels.cpu().long().numpy()
    return array

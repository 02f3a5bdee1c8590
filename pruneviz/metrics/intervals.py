"""How certain is an accuracy, or a difference of two? Confidence intervals, from counts."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.imports import imported


def accuracy_interval(correct: int, examples: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the confidence interval of an accuracy.

    Parameters
    ----------
    correct : int
        Number of correctly classified examples.
    examples : int
        Number of examples, drawn at random and independently.
    level : float
        Share of cases in which the interval contains the true accuracy, a fraction in (0, 1).

    Returns
    -------
    (low, high) : tuple of float
        Wilson's interval. Unlike ± 1.96 standard errors it never leaves [0, 1], and its width is
        not 0 if all examples, or none, are correct.

    Raises
    ------
    ArgumentError
        If `correct` or `examples` is not a count, `correct` is larger than `examples`, or `level`
        is not a fraction.

    References
    ----------
    Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22:
    (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) ÷ (1 + z²/n), with p = correct ÷ n and z the normal
    quantile of (1 + level) ÷ 2.

    Examples
    --------
    >>> import pruneviz as pv
    >>> low, high = pv.accuracy_interval(900, 1000)
    >>> f"{low:.3f} to {high:.3f}"
    '0.880 to 0.917'
    """
    binomtest = imported("scipy.stats").binomtest

    examples = checks.count(examples, "examples", low=1)
    correct = checks.count(correct, "correct")
    if correct > examples:
        raise ArgumentError(
            f"`correct` must be at most `examples`, {examples:,}, but {correct:,} was passed. Counts, "
            "not shares: pv.accuracy_interval(900, 1000)."
        )
    found = binomtest(correct, examples).proportion_ci(checked_level(level), method="wilson")
    return float(found.low), float(found.high)


def clustered_interval(
    right: np.ndarray, labels: np.ndarray, *, level: float = 0.95
) -> tuple[float, float]:
    """Return the interval of an accuracy over examples that have several labels each.

    The pixels of an image, or the tokens of a text, are right or wrong together: as if they were
    independent, the interval would be too narrow. So it is Wilson's for as many independent labels
    as have the variance that was observed between examples.

    Parameters
    ----------
    right, labels : ndarray of int, shape (examples,)
        How many labels of each example are predicted correctly, and how many it has. With one label
        each, it is `accuracy_interval`.
    level : float

    References
    ----------
    Dean & Pagano 2015, "Evaluating confidence interval methods for binomial proportions in clustered
    surveys", J. Survey Statistics and Methodology 3: Wilson's interval with the effective sample size
    of Korn & Graubard 1998, (p(1 − p) ÷ v) (z ÷ t)², where v = m ÷ (m − 1) Σ(rᵢ − p nᵢ)² ÷ (Σnᵢ)² over m examples.
    If all labels are right, or none, the number of examples.

    Examples
    --------
    >>> import numpy as np
    >>> ten = np.full(20, 10)  # 20 texts of 10 tokens, of which half are right
    >>> [round(v, 2) for v in clustered_interval(np.array([0, 10] * 10), ten)]  # all or none of a text
    [0.28, 0.72]
    >>> [round(v, 2) for v in accuracy_interval(100, 200)]
    [0.43, 0.57]
    """
    n, total, hits = len(labels), int(labels.sum()), int(right.sum())
    if n == total:
        return accuracy_interval(hits, total, level=level)
    stats = imported("scipy.stats")
    p, z = hits / total, float(stats.norm.ppf((1 + checked_level(level)) / 2))
    size = float(n)
    if n > 1 and 0 < hits < total:
        variance = n / (n - 1) * float(((right - p * labels) ** 2).sum()) / total**2
        t = float(stats.t.ppf((1 + level) / 2, n - 1))
        size = min(float(total), p * (1 - p) / variance if variance else total) * (z / t) ** 2
    middle, scale = p + z**2 / (2 * size), 1 + z**2 / size
    half = z * (p * (1 - p) / size + z**2 / (4 * size**2)) ** 0.5
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def clustered_difference(
    change: np.ndarray, labels: np.ndarray, level: float = 0.95
) -> tuple[float, float]:
    """Return the interval of Σchange ÷ Σlabels, over examples that have several labels each.

    `change`: for each example the labels that got right − those that got wrong. With one label each
    it is `paired_interval`; else D ± t √v, with D = Σdᵢ ÷ Σnᵢ and v = m ÷ (m − 1) Σ(dᵢ − D nᵢ)² ÷ (Σnᵢ)².

    >>> import numpy as np
    >>> low, high = clustered_difference(np.array([-9, 0, 1, 0, 0, 0]), np.full(6, 10))
    >>> f"{low:.3f} to {high:.3f}"
    '-0.530 to 0.263'
    """
    n, total = len(labels), int(labels.sum())
    if n == total or not change.any():  # where nothing changed: as if there were one label each
        return paired_interval(int((change < 0).sum()), int((change > 0).sum()), n, level)
    if n == 1:
        return -1.0, 1.0
    mean = float(change.sum()) / total
    variance = n / (n - 1) * float(((change - mean * labels) ** 2).sum()) / total**2
    half = float(imported("scipy.stats").t.ppf((1 + level) / 2, n - 1)) * variance**0.5
    return max(-1.0, mean - half), min(1.0, mean + half)


MOST_SUMS = 10**8  # steps in which the exact distribution of a sum is computed


def swap_p_value(change: np.ndarray) -> float:
    """Return how often equally good models differ in sum at least as much, two-sided.

    If they are equally good, their answers to an example can be swapped: each change has either sign
    with probability ½. For changes of one label an example this is McNemar's exact test.

    >>> import numpy as np
    >>> swap_p_value(np.array([-1, -1, 1])), swap_p_value(np.array([-5, -5, 2]))
    (1.0, 0.5)
    """
    sizes = np.abs(change[change != 0]).astype(int)
    if not len(sizes):
        return 1.0
    stats, most, total = imported("scipy.stats"), int(sizes.sum()), abs(int(change.sum()))
    if len(set(sizes.tolist())) == 1:
        n = len(sizes)
        return float(stats.binomtest((n + total // int(sizes[0])) // 2, n).pvalue)
    if len(sizes) * most > MOST_SUMS:  # so many that the sum is normal
        z = total / float((sizes.astype(float) ** 2).sum()) ** 0.5
        return float(2 * stats.norm.sf(z))
    chance = np.zeros(most + 1)  # of each sum of the positive changes
    chance[0] = 1.0
    for size in sizes:
        chance[size:] = (chance[size:] + chance[:-size]) / 2
        chance[:size] /= 2
    far = np.abs(2 * np.arange(most + 1) - most) >= total
    return min(1.0, float(chance[far].sum()))


def paired_interval(lost: int, won: int, examples: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of (won − lost) ÷ examples, for two models on the same examples.

    With p = (lost + 1) ÷ (examples + 2) and q = (won + 1) ÷ (examples + 2):
    q − p ± z √((p + q − (q − p)²) ÷ (examples + 2)).

    References
    ----------
    Bonett & Price 2012, "Adjusted Wald confidence interval for a difference of binomial proportions
    based on paired data", J. Educational and Behavioral Statistics 37; recommended by Fagerland,
    Lydersen, Laake 2014, Statistics in Medicine 33.

    Examples
    --------
    >>> low, high = paired_interval(lost=10, won=2, examples=100)
    >>> f"{low:.3f} to {high:.3f}"
    '-0.149 to -0.008'
    """
    norm = imported("scipy.stats").norm

    p, q = (lost + 1) / (examples + 2), (won + 1) / (examples + 2)
    half = float(norm.ppf((1 + level) / 2)) * ((p + q - (q - p) ** 2) / (examples + 2)) ** 0.5
    return max(-1.0, q - p - half), min(1.0, q - p + half)


def checked_level(level: Any) -> float:
    """Return the confidence level as a fraction in (0, 1), or raise.

    >>> checked_level(95)
    Traceback (most recent call last):
    ...
    pruneviz.ArgumentError: `level` must be a fraction in (0, 1), but 95 was passed. Did you mean 0.95? Fractions, never percentages.
    """
    number = float(level) if isinstance(level, Real) and not isinstance(level, bool) else 0.0
    if 0 < number < 1:
        return number
    hint = ""
    if 1 < number < 100:
        hint = f" Did you mean {number / 100:g}? Fractions, never percentages."
    raise ArgumentError(f"`level` must be a fraction in (0, 1), but {level!r} was passed.{hint}")

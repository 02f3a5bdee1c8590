"""How certain is an accuracy, or a difference of two? Confidence intervals, from counts."""

from __future__ import annotations

from numbers import Real
from typing import Any

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

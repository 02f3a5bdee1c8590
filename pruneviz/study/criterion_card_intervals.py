"""How certain the rank correlations of a criterion card are: their intervals and ceiling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from pruneviz.core.imports import imported
from pruneviz.core.plan import Scores
from pruneviz.study.ablation import Ablation

if TYPE_CHECKING:
    import pandas as pd


WHOLE_NETWORK = "whole network"
BAND = (2.5, 97.5)  # per cent: level 0.95
NORMAL = 1.96  # standard errors: level 0.95


def correlation(
    truth: Ablation,
    scores: Mapping[str, Scores],
    draws: list[dict[str, Scores]],
    seeds: list[int],
) -> pd.DataFrame:
    """Correlate each criterion with the truth, in the network and in each group; see `Card`.

    `draws` are the scores of the criteria that draw random numbers, one mapping for each seed.
    """
    pd = imported("pandas")

    rise, rises = truth.rise(), [truth.rise(_counts(truth, seed)) for seed in seeds]
    rows = []
    for name_of_group in (WHOLE_NETWORK, *rise):
        group = None if name_of_group == WHOLE_NETWORK else name_of_group
        columns = np.column_stack([score_column(s, group) for s in scores.values()])
        found = _correlations_with(_flat(rise, group), columns)
        resampled = np.array([_correlations_with(_flat(r, group), columns) for r in rises])
        single = len(truth.dense) < 2  # one loss cannot be resampled
        for j, name in enumerate(scores):
            if name in draws[0]:
                each = [
                    rank_correlation(_flat(rise, group), score_column(d[name], group))
                    for d in draws
                ]
                value, (low, high) = float(np.mean(each)), np.percentile(each, BAND)
            else:
                value = float(found[j])
                half = np.nan if single else NORMAL * resampled[:, j].std(ddof=1)
                low, high = np.clip([value - half, value + half], -1, 1)
            rows.append((name, name_of_group, len(columns), value, float(low), float(high)))
    return pd.DataFrame(rows, columns=["criterion", "group", "units", "spearman", "low", "high"])


def ceiling(truth: Ablation, seeds: list[int]) -> float:
    """Return the rank correlation that a perfect criterion could reach; see `Card`."""
    n = len(truth.dense)
    if n < 2:
        return float("nan")
    halves = []
    for seed in seeds:
        half = np.random.default_rng(seed).permutation(n) < n // 2
        halves.append(rank_correlation(*(_flat(truth.rise(part), None) for part in (half, ~half))))
    r = max(0.0, float(np.mean(halves)))
    return (2 * r / (1 + r)) ** 0.5


def _counts(truth: Ablation, seed: int) -> np.ndarray:
    """Return how often each part is drawn with replacement, (parts,)."""
    n = len(truth.dense)
    return np.bincount(np.random.default_rng(seed).integers(n, size=n), minlength=n)


def score_column(scores: Scores, group: str | None = None) -> np.ndarray:
    """Return the scores of one group's units, or of all units, in one array."""
    return _flat({g: v.double().cpu().numpy() for g, v in scores.values.items()}, group)


def _flat(values: Mapping[str, np.ndarray], group: str | None) -> np.ndarray:
    """Return the values of one group, or of all groups in one array."""
    return np.concatenate(list(values.values())) if group is None else values[group]


def _correlations_with(truth: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the rank correlation of each column with the truth, (columns,)."""
    return rank_correlations(np.column_stack([truth, columns]))[0, 1:]


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Return the rank correlation of two columns."""
    return float(_correlations_with(a, b[:, None])[0])


def rank_correlations(columns: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation of every column with every other.

    Parameters
    ----------
    columns : ndarray, shape (n, k)

    Returns
    -------
    ndarray, shape (k, k)
        In [-1, 1]; ties share their mean rank. NaN for a column whose values are all the same.

    References
    ----------
    Spearman 1904, "The Proof and Measurement of Association between Two Things": the correlation of
    the ranks.

    Examples
    --------
    >>> rank_correlations(np.array([[1.0, 10, 3], [2, 100, 2], [3, 1000, 1]])).tolist()
    [[1.0, 1.0, -1.0], [1.0, 1.0, -1.0], [-1.0, -1.0, 1.0]]
    """
    pd = imported("pandas")

    return pd.DataFrame(columns).corr("spearman").to_numpy()

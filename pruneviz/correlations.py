"""Rank correlations: do two ways of judging agree on the order."""

from __future__ import annotations

import numpy as np


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
    from scipy.stats import rankdata, spearmanr

    found = np.full((columns.shape[1],) * 2, np.nan)
    varied = np.flatnonzero((columns != columns[:1]).any(0))
    if len(varied) == 1:
        found[varied, varied] = 1.0
    elif len(columns) == 2:  # its p-value would divide by zero
        up = np.sign(np.diff(rankdata(columns[:, varied], axis=0), axis=0))
        found[np.ix_(varied, varied)] = up.T * up
    elif len(varied):
        rho = spearmanr(columns[:, varied]).statistic  # of two columns: one number
        square = np.array([[1.0, rho], [rho, 1.0]]) if np.ndim(rho) == 0 else rho
        found[np.ix_(varied, varied)] = square
    return found

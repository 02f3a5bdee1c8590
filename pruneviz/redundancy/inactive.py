"""Which units are inactive on the data? Those that are never, rarely, or always equally active."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Groups
from pruneviz.core.imports import imported
from pruneviz.evidence.evidence import Evidence
from pruneviz.evidence.moments import Moments
from pruneviz.model.hooks import plain_torch

if TYPE_CHECKING:
    import pandas as pd


RARE = 0.01  # a unit is rarely active if at most this share of its values is not 0
CONSTANT = 1e-6  # a unit is constant if it varies by at most this share of its largest value
UNREAD = "`evidence` has no layer that reads them"
KINDS = ("dead", "constant", "rare")


@plain_torch()
def find_inactive(
    evidence: Evidence,
    *,
    groups: Groups | None = None,
    rare: float = RARE,
    strict: bool = False,
) -> pd.DataFrame:
    """List the units that were never active, constant, or rarely active at their consumer's input.

    This is *observed*: on other data a unit may be active. `bounds` gives proofs.

    Parameters
    ----------
    evidence : Evidence
        From `collect`.
    groups : Groups, optional
        From `find_groups` on the same model. Units of groups that can be cut are judged at the
        first layer that reads them. Default: every input of every layer, whatever its producer.
    rare : float
        A unit is rarely active if the share of its values that are not 0 is at most this, in [0, 1).
    strict : bool
        Raise if the evidence has no layer that reads a group. Otherwise such groups are left out, and
        named in a warning.

    Returns
    -------
    DataFrame
        One row per inactive unit: ``layer`` that reads it, ``group`` (only with `groups`), ``unit``
        (its number in the group; without groups the number of the input), ``kind``; ``active``, the
        share of values that are not 0; ``mean``, ``std``, ``low``, ``high``. Kinds: ``"dead"``
        (always 0), ``"constant"`` (always the same, not 0), ``"rare"``. To count them:
        ``frame.groupby(["layer", "kind"]).size()``. ``frame.attrs["left_out"]``: name of each group
        that was left out, to the reason.

    Raises
    ------
    ArgumentError
        If `rare` is out of range, or the evidence has no layer that reads any of the groups.

    References
    ----------
    Hu, Peng, Tai, Tang 2016, "Network Trimming", arXiv:1607.03250, eq. 1: the share of zeros.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> with torch.no_grad():
    ...     _ = model[0].weight.zero_()
    ...     _ = model[0].bias.copy_(torch.tensor([-1.0, 0.5, 2.0]))
    >>> evidence = pv.collect(model, [torch.randn(8, 2)], layers=["2"])
    >>> pv.find_inactive(evidence)[["layer", "unit", "kind", "mean"]]
      layer  unit      kind  mean
    0     2     0      dead   0.0
    1     2     1  constant   0.5
    2     2     2  constant   2.0
    """
    pd = imported("pandas")

    hint = "Collect it: pv.collect(model, batches)."
    checks.kind(evidence, "evidence", Evidence, hint)
    rare = checks.sparsity(rare, "rare")
    rows: list[tuple[Any, ...]] = []
    left_out: dict[str, str] = {}
    if groups is None:
        for layer, m in evidence.inputs.items():
            rows += _rows((layer,), _column_units(m), rare)
    else:
        checks.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
        unread: dict[str, ArgumentError] = {}
        asked = [g for g in groups.cuttable if g.unused != "unread"]  # no output needs the others
        for g in asked:
            try:
                layer, m = evidence.of_units(g)
            except ArgumentError as e:
                unread[g.name] = e
                continue
            rows += _rows((layer, g.name), m, rare)
        if unread and (strict or len(unread) == len(asked)):
            raise next(iter(unread.values()))
        if unread:
            warnings.warn(f"left out: {', '.join(unread)} ({UNREAD})", stacklevel=2)
            left_out = dict.fromkeys(unread, UNREAD)
    first = ["layer"] if groups is None else ["layer", "group"]
    columns = [*first, "unit", "kind", "active", "mean", "std", "low", "high"]
    frame = pd.DataFrame(rows, columns=columns)
    frame.attrs["left_out"] = left_out  # no rows: each row is an inactive unit
    return frame


def kinds(m: Moments, rare: float = RARE) -> np.ndarray:
    """Return the kind of each unit, ``""`` if it is active, from moments of shape (units, k).

    >>> import torch
    >>> kinds(Moments.of(torch.tensor([[[0.0], [0.0]], [[2.0], [2.0]], [[1.0], [0.0]]])))
    array(['dead', 'constant', ''], dtype='<U8')
    """
    top = m.max
    constant = (m.high - m.low <= CONSTANT * top).all(1).numpy()
    dead = (top == 0).all(1).numpy()
    rarely_active = (_active(m) <= rare).numpy()
    return np.select([dead, constant, rarely_active], ["dead", "constant", "rare"], "").astype(
        "<U8"
    )


def _rows(head: tuple[str, ...], m: Moments, rare: float) -> list[tuple[Any, ...]]:
    kind = kinds(m, rare)
    mean = m.mean.mean(1)
    std = (m.square.mean(1) - mean**2).clamp(min=0).sqrt()  # over all positions of a unit
    std[(m.high.amax(1) == m.low.amin(1))] = 0
    columns = (_active(m), mean, std, m.low.amin(1), m.high.amax(1))
    at = np.flatnonzero(kind != "")
    values = [at.tolist(), kind[at].tolist(), *(c[at].tolist() for c in columns)]
    return [(*head, *row) for row in zip(*values, strict=True)]


def _active(m: Moments) -> torch.Tensor:
    """Return the share of all values of a unit that are not 0: a quotient of exact counts."""
    return (m.count - m.zeros).sum(1) / (m.count * m.zeros.shape[1])


def _column_units(m: Moments) -> Moments:
    """Return the moments with each column as a unit: shape (n, 1)."""
    return m.diagonal().each(lambda t: t.reshape(-1, 1))

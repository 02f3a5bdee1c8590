"""How much to prune of each layer, for a budget."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Groups
from pruneviz.core.plan import Scores
from pruneviz.metrics.work import effective_macs
from pruneviz.model.hooks import plain_torch
from pruneviz.model.weights import visible_weights
from pruneviz.pruning.session import Session
from pruneviz.selection.select import select, tensors_of_layers
from pruneviz.storage.packing import ENCODINGS, size_of

if TYPE_CHECKING:
    import pandas as pd


Sparsities = Mapping[str, float]
STEPS = 16  # bisections inside one segment of a hull: a resolution of 1 ÷ 65,536 of it


@plain_torch()
def allocate(
    model: nn.Module,
    frame: pd.DataFrame,
    *,
    params: float | None = None,
    bytes: float | None = None,
    macs: float | None = None,
    example_input: Any = None,
    groups: Groups | None = None,
    as_program: bool = False,
    encoding: str = "bitmap",
) -> dict[str, float]:
    """Divide a budget among the layers: prune where it costs least until the budget is met.

    For each layer the loss of the metric is a function of what is saved. Its lower convex hull
    consists of segments; the slope of a segment is the loss for each saved parameter, byte or MAC.
    The segments of all layers are taken in the order of their slopes until the budget is met, the
    last one in part. If the losses of the layers add up, this is optimal; they nearly do while they
    are small.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    frame : DataFrame
        From `sensitivity` on this model, with one criterion. Higher metrics are better, unless
        its column ``better`` says ``"lower"``.
    params, bytes, macs : float
        The budget; pass one of them. The model keeps at most so much. Up to 1: a share of what the
        model has; above 1: a count. For units it is counted as by `measure`. For weights,
        ``params`` are the kept ones, ``macs`` those of the kept weights (see `effective_macs`), and
        ``bytes`` those in `encoding`.
    example_input : Tensor, tuple or dict, optional
        Needed for units, and for ``macs``.
    groups : Groups, optional
        For units; default: they are found.
    as_program : bool
        As for `sensitivity`, where the frame was made so.
    encoding : str
        For weights and ``bytes``; see `encodings`. A tensor that is smaller dense is counted dense.

    Returns
    -------
    dict of str to float
        The sparsity of each layer, or group, for ``select(scores, sparsity=…)``.

    Raises
    ------
    ArgumentError
        If the budget cannot be met (the message names the smallest possible one), not exactly one
        budget is passed, or the frame is of another model.

    References
    ----------
    Shoham & Gersho 1988, "Efficient bit allocation for an arbitrary set of quantizers", IEEE Trans.
    ASSP 36, §III: equal slopes on the convex hulls.

    Examples
    --------
    >>> import pandas as pd, torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(10, 10, bias=False), torch.nn.Linear(10, 10, bias=False))
    >>> frame = pd.DataFrame({"layer": ["0", "1"], "criterion": "magnitude", "granularity": "weight",
    ...                       "target_sparsity": 0.8, "metric": [0.9, 0.5], "dense": 0.91})
    >>> {n: round(s, 1) for n, s in pv.allocate(model, frame, params=100).items()}
    {'0': 0.8, '1': 0.2}
    """
    needed = ("layer", "criterion", "granularity", "target_sparsity", "metric", "dense")
    checks.columns(frame, dict.fromkeys(needed, "pv.sensitivity(model, …)"), "allocate")
    frame = checks.not_left_out(frame)
    model = checks.unwrapped(model)
    name, value = _one_budget({"params": params, "bytes": bytes, "macs": macs})
    if frame[["criterion", "granularity"]].drop_duplicates().shape[0] != 1:
        raise ArgumentError(
            "`frame` must be of one criterion and one granularity, and not empty. Take its rows: "
            "frame[frame['criterion'] == 'magnitude']."
        )
    units = frame["granularity"].iloc[0] == "unit"
    if example_input is None and (units or name == "macs"):
        raise ArgumentError(
            f"`allocate` needs `example_input` {'to cut units' if units else 'to count MACs'}."
        )
    if units:
        session = Session(model, example_input, groups=groups, as_program=as_program)
        kept = _kept_of_units(session, name)
    else:
        kept = _kept_of_weights(
            model, example_input, name, checks.choice(encoding, "encoding", ENCODINGS)
        )
    layers = list(dict.fromkeys(frame["layer"]))
    total = kept({})
    budget = _budget(value, name, total)
    segments = _Segments(
        layers, [s for n in layers for s in lower_hull(n, _points(frame, n, kept, total))]
    )
    least = kept(segments.at(len(segments.ordered)))
    if least > budget:
        raise ArgumentError(
            f"`{name}` must be at least {least:,} here ({least / total:.3f} of {total:,}), but "
            f"{value:g} was passed: so much is kept with each layer at its highest sparsity in the frame. "
            "Measure higher sparsities, or more layers."
        )
    k = bisect_left(
        range(len(segments.ordered)), True, key=lambda i: kept(segments.at(i)) <= budget
    )
    low, high = float(max(0, k - 1)), float(k)
    for _ in range(STEPS if k else 0):
        middle = (low + high) / 2
        low, high = (low, middle) if kept(segments.at(middle)) <= budget else (middle, high)
    return segments.at(high)


class _Segments:
    """The segments (slope, layer, start sparsity, end sparsity) of all layers, cheapest first."""

    def __init__(self, layers: list[str], steps: list[tuple[float, str, float, float]]) -> None:
        self.layers = layers
        self.ordered = sorted(steps, key=lambda step: step[0])

    def at(self, place: float) -> dict[str, float]:
        """Return the sparsities after so many segments, of which the last may be taken in part."""
        found = dict.fromkeys(self.layers, 0.0)
        for i, (_, layer, start, end) in enumerate(self.ordered[: int(place) + 1]):
            found[layer] = start + min(1.0, place - i) * (end - start) if place > i else start
        return found


def lower_hull(
    layer: str, points: list[tuple[float, float, float]]
) -> list[tuple[float, str, float, float]]:
    """Return the lower convex hull of points (saved, loss, sparsity), as segments.

    >>> lower_hull("fc", [(0, 0.0, 0.0), (10, 5.0, 0.1), (20, 2.0, 0.2), (30, 9.0, 0.3)])
    [(0.1, 'fc', 0.0, 0.2), (0.7, 'fc', 0.2, 0.3)]
    """
    hull: list[tuple[float, float, float]] = []
    for point in points:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-1], point):
            hull.pop()
        hull.append(point)
    return [(_slope(a, b), layer, a[2], b[2]) for a, b in pairwise(hull)]


def _slope(a: tuple[float, float, float], b: tuple[float, float, float]) -> float:
    return (b[1] - a[1]) / (b[0] - a[0])


def _points(
    frame: pd.DataFrame, layer: str, kept: Callable[[Sparsities], int], total: int
) -> list[tuple[float, float, float]]:
    """Return the points (saved, loss, sparsity) of a layer, with increasing savings from 0 on."""
    rows = frame[frame["layer"] == layer].sort_values("target_sparsity")
    points, sign = [(0.0, 0.0, 0.0)], -1 if checks.lower_is_better(frame) else 1
    for s, metric, dense in zip(
        rows["target_sparsity"], rows["metric"], rows["dense"], strict=True
    ):
        saved = total - kept({layer: float(s)})
        if saved > points[-1][0]:
            points.append((saved, float(sign * (dense - metric)), float(s)))
    return points


def _one_budget(budgets: Mapping[str, float | None]) -> tuple[str, float]:
    given = {n: v for n, v in budgets.items() if v is not None}
    if len(given) != 1:
        passed = "none was" if not given else f"{' and '.join(given)} were"
        raise ArgumentError(
            f"`allocate` takes one budget, `params`, `bytes` or `macs`, but {passed} passed."
        )
    return next(iter(given.items()))


def _budget(value: Any, name: str, total: int) -> float:
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else 0.0
    if not number > 0:
        raise ArgumentError(
            f"`{name}` must be a share in (0, 1] of what the model has, or a count above 1, but "
            f"{value!r} was passed."
        )
    return number * total if number <= 1 else number


def _kept_of_units(session: Session, name: str) -> Callable[[Sparsities], int]:
    """Return a function: what the model keeps (params, bytes or MACs) at sparsities of groups."""
    groups = session.groups
    # any scores will do: the cost does not depend on which units of a group are removed
    values = {g.name: torch.arange(g.size).float() for g in groups.cuttable}
    scores = Scores(values, "any", groups)

    def kept(sparsities: Sparsities) -> int:
        if not sparsities:
            return int(getattr(session.dense, name))
        return int(getattr(session.cost(select(scores, sparsity=sparsities)), name))

    return kept


def _kept_of_weights(
    model: nn.Module, example_input: Any, name: str, encoding: str
) -> Callable[[Sparsities], int]:
    """Return a function: what the model keeps, at sparsities of layers."""
    weights = visible_weights(model)
    sizes = {n: t.numel() for n, t in weights.items()}
    uses, macs = _uses(model, example_input) if name == "macs" else ({}, 0)
    numbers = sum(p.numel() for p in model.parameters())
    stored = sum(t.nbytes for t in (*model.parameters(), *model.buffers()))

    def kept(sparsities: Sparsities) -> int:
        share = {t: s for n, s in sparsities.items() for t in tensors_of_layers([n], sizes)}
        dropped = {t: min(round(s * sizes[t]), sizes[t] - 1) for t, s in share.items()}
        if name == "params":
            return numbers - sum(dropped.values())
        if name == "macs":
            return macs - sum(n * uses[t] for t, n in dropped.items())
        saved = 0
        for t, n in dropped.items():
            packed = size_of(encoding, tuple(weights[t].shape), sizes[t] - n)
            saved += max(0, weights[t].nbytes - packed) if packed is not None else 0
        return stored - saved

    return kept


def _uses(model: nn.Module, example_input: Any) -> tuple[dict[str, int], int]:
    """Return by tensor how often one example uses each weight, and the MACs of the model."""
    frame = effective_macs(model, [(example_input, None)])
    rows = list(zip(frame["tensor"], frame["macs"], frame["weights"], strict=True))
    uses = {t: int(macs) // max(1, n) for t, macs, n in rows}
    return uses, int(rows[-1][1])  # the last row is the whole model

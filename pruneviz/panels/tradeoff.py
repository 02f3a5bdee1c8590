"""Curves to read, and a budget to drag."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz import _check
from pruneviz.panels.base import Panel
from pruneviz.plots import tradeoff as plot
from pruneviz.plots.style import figure
from pruneviz.tradeoff import choose, curve_columns, pareto
from pruneviz.types import ArgumentError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

COSTS = {
    "macs": "MACs",
    "bytes": "bytes",
    "params": "parameters",
    "nonzero": "weights that are not 0",
    "latency_ms": "milliseconds",
}
ALL = "all curves"


def panel_tradeoff(
    data: pd.DataFrame,
    *,
    x: str | None = None,
    y: str = "metric",
    by: str | Sequence[str] | None = None,
    budget: float = 1.0,
) -> Panel:
    """Show what a sweep lost against what it saved, with a budget to drag.

    Each curve is a mean over seeds with its band; the grey staircase joins the points that no other
    point beats. The ring marks the best point within the budget.

    Parameters
    ----------
    data : DataFrame
        From `sweep`. Not changed; nothing is run.
    x : str, optional
        Cost that is shown first; default: the first of macs, bytes, params, nonzero, latency_ms that
        the frame has and that varies.
    y : str
        Column of the quality: more is better.
    by : str or sequence of str, optional
        Columns that name a curve, as for `pareto`.
    budget : float
        Where the slider stands at first: a share of the highest cost, in (0, 1].

    Returns
    -------
    Panel
        ``controls``: ``"x"``, ``"curve"`` (one of them, or ``"all curves"``), ``"budget"`` (share of
        the highest cost), ``"log"``. ``result``: ``x``, ``budget`` (share), ``limit`` (in the units
        of `x`), ``point`` (dict: the row of `pareto`; None if nothing is that cheap), ``each`` (curve
        to its best `y` within the budget, or None), ``not_beaten`` (number of points on the front).

    Raises
    ------
    ArgumentError
        If a column is missing or no cost varies.

    Examples
    --------
    >>> import pandas as pd, pruneviz as pv
    >>> data = pd.DataFrame({"criterion": ["a", "a"], "target_sparsity": [0.0, 0.9],
    ...                      "macs": [100, 10], "metric": [0.9, 0.7]})
    >>> panel = pv.panel_tradeoff(data)
    >>> panel.controls["budget"].value = 0.5
    >>> panel.result["point"]["metric"], panel.result["limit"]
    (0.7, 50.0)
    >>> panel.close()
    """
    return TradeoffPanel(data, x, y, by, budget)


class TradeoffPanel(Panel):
    """The panel behind `panel_tradeoff`."""

    def __init__(
        self,
        data: pd.DataFrame,
        x: str | None,
        y: str,
        by: str | Sequence[str] | None,
        budget: float,
    ) -> None:
        budget = _check.number(budget, "budget", low=0, high=1)
        _check.columns(data, dict.fromkeys((y, "target_sparsity"), "pv.sweep(model, …)"),
                       "panel_tradeoff")  # fmt: skip
        costs = [c for c in COSTS if c in data and len(set(data[c].dropna())) > 1]
        if x is not None and x not in costs:
            _check.columns(data, {x: "pv.sweep(model, …)"}, "panel_tradeoff")
            costs.append(x)
        if not costs:
            raise ArgumentError(
                "`data` has no cost that varies. It needs one of "
                f"{', '.join(COSTS)}; make it with pv.sweep(model, …)."
            )
        by = by or curve_columns(data)
        self._y = y
        self._points = {c: pareto(data, x=c, y=y, by=by) for c in costs}
        super().__init__()
        curves = list(dict.fromkeys(self._points[costs[0]]["curve"]))
        row, slider = self.slider("budget", budget, 0.01, 1.0, 0.01)
        cost = widgets.Dropdown(
            options=[(COSTS.get(c, c), c) for c in costs], value=x or costs[0], description="cost"
        )
        curve = widgets.Dropdown(options=[ALL, *curves], value=ALL, description="curve")
        log = widgets.Checkbox(False, description="logarithmic", indent=False)
        self.start(
            {"what": widgets.HBox([cost, curve, log]), "budget": row},
            {"x": cost, "curve": curve, "budget": slider, "log": log},
        )

    def answer(self, moved: str) -> tuple[dict[str, Any], str, str]:
        x, curve, share, log = (self.controls[n].value for n in ("x", "curve", "budget", "log"))
        points = self._points[x]
        log = log and points[x].min() > 0
        limit = share * points[x].max()
        each = {
            name: self._best(part, x, limit) for name, part in points.groupby("curve", sort=False)
        }
        best = self._best(points if curve == ALL else points[points["curve"] == curve], x, limit)
        result = {
            "x": x,
            "budget": share,
            "limit": float(limit),
            "point": None if best is None else best.to_dict(),
            "each": {n: None if p is None else float(p[self._y]) for n, p in each.items()},
            "not_beaten": int(points["pareto"].sum()),
        }
        self._drawn = (points, x, float(limit), log, best)
        sentence = self._say(result)
        picture = plot.svg(
            points, x=x, y=self._y, budget=float(limit), log=log, chosen=best, label=sentence
        )
        return result, picture, sentence

    def figure(self) -> Figure:
        points, x, limit, log, best = self._drawn
        with figure(7.6, 3.8) as (fig, ax):
            plot.plot_pareto(points, x=x, y=self._y, budget=limit, log=log, ax=ax)
            if best is not None:
                plot.ring(ax, best[x], best[self._y])
        return fig

    def _best(self, points: Any, x: str, limit: float) -> Any:
        cheap = points[points[x] <= limit * (1 + 1e-12)]
        return None if cheap.empty else choose(cheap, best=self._y)

    def _say(self, result: dict[str, Any]) -> str:
        cost, point = COSTS.get(result["x"], result["x"]), result["point"]
        limit = result["limit"]
        most = f"{limit:,.0f}" if limit >= 100 else f"{limit:.3g}"
        start = f"At most {result['budget']:.0%} of the {cost} ({most}): "
        if point is None:
            return f"{start}no point is that cheap."
        return (
            f"{start}{point['curve']} at target sparsity {point['target_sparsity']:.3g}, "
            f"{self._y} {point[self._y]:.3f} ({point['low']:.3f} to {point['high']:.3f}), "
            f"{'not beaten' if point['pareto'] else 'beaten by another'}."
        )

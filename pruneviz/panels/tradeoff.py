"""Which point of a sweep is the best within a budget."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.model.hooks import plain_torch
from pruneviz.panels.kit.panel import Panel
from pruneviz.plots import tradeoff as plot
from pruneviz.plots.style import figure
from pruneviz.study.pareto import choose, curve_columns, pareto

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


@plain_torch()
def panel_tradeoff(
    data: pd.DataFrame,
    *,
    x: str | None = None,
    y: str = "metric",
    by: str | Sequence[str] | None = None,
    budget: float = 1.0,
    better: str | None = None,
) -> Panel:
    """Show the quality over the cost of the models of a sweep, with a budget to drag.

    Each curve is a mean over seeds with its band; the grey staircase joins the points that no other
    point beats. The ring marks the best point within the budget.

    Parameters
    ----------
    data : DataFrame
        From `sweep`. Not changed; nothing is run.
    x : str, optional
        Cost that is shown first; default: the first of macs, bytes, params, nonzero, latency_ms that
        is in the frame and varies.
    y : str
        Column with the quality that is shown first. The drop-down also offers the columns whose names
        begin with ``metric``, such as ``metric_untuned``.
    by : str or sequence of str, optional
        Columns that name a curve, as for `pareto`.
    budget : float
        First value of the slider: a share of the highest cost, in (0, 1].
    better : str, optional
        As for `pareto`: ``"lower"`` for losses.

    Returns
    -------
    Panel
        ``controls``: ``"x"``, ``"y"``, ``"curve"`` (one of them, or ``"all curves"``), ``"budget"``
        (share of the highest cost), ``"log"``. ``result``: ``x``, ``y``, ``budget`` (share), ``limit``
        (in the units of `x`), ``point`` (dict: the row of `pareto`; None if no point is within it),
        ``each`` (curve to its best `y` within the budget, or None), ``not_beaten`` (number of points
        on the front).

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
    return TradeoffPanel(data, x, y, by, budget, better)


class TradeoffPanel(Panel):
    """The panel behind `panel_tradeoff`."""

    def __init__(
        self,
        data: pd.DataFrame,
        x: str | None,
        y: str,
        by: str | Sequence[str] | None,
        budget: float,
        better: str | None,
    ) -> None:
        budget = checks.number(budget, "budget", low=0, high=1)
        checks.columns(data, dict.fromkeys((y, "target_sparsity"), "pv.sweep(model, …)"),
                       "panel_tradeoff")  # fmt: skip
        costs = [c for c in COSTS if c in data and len(set(data[c].dropna())) > 1]
        if x is not None and x not in costs:
            checks.columns(data, {x: "pv.sweep(model, …)"}, "panel_tradeoff")
            costs.append(x)
        if not costs:
            raise ArgumentError(
                "`data` has no cost that varies. It needs one of "
                f"{', '.join(COSTS)}; make it with pv.sweep(model, …)."
            )
        by = by or curve_columns(data)
        self._by = by if isinstance(by, str) else list(by)
        self._data, self._better = data.copy(), better
        self._averaged: dict[tuple[str, str], pd.DataFrame] = {}  # by cost and quality
        curves = dict.fromkeys(name for c in costs for name in self._points(c, y)["curve"])
        qualities = [y, *(c for c in data if c != y and _is_quality(data, c, costs))]
        super().__init__()
        row, slider = self.slider("budget", budget, 0.01, 1.0, 0.01)
        cost = widgets.Dropdown(
            options=[(COSTS.get(c, c), c) for c in costs], value=x or costs[0], description="cost"
        )
        quality = widgets.Dropdown(options=qualities, value=y, description="quality")
        curve = widgets.Dropdown(options=[ALL, *curves], value=ALL, description="curve")
        log = widgets.Checkbox(
            False,
            description="logarithmic",
            indent=False,
            layout={"width": "auto", "margin": "2px 2px 2px 16px"},
        )
        self.start(
            {"what": self.row(cost, quality, curve, log), "budget": row},
            {"x": cost, "y": quality, "curve": curve, "budget": slider, "log": log},
            hint="The budget can be dragged in the picture, too; the ring, the operating point, follows.",
        )

    def answer(self, moved: str) -> dict[str, Any]:
        x, y, curve = (self.controls[n].value for n in ("x", "y", "curve"))
        share, points = self.controls["budget"].rounded, self._points(x, y)
        limit = self._limit()
        each = {
            name: _best(part, x, y, limit) for name, part in points.groupby("curve", sort=False)
        }
        best = _best(points, x, y, limit) if curve == ALL else each.get(curve)
        return {
            "x": x,
            "y": y,
            "budget": share,
            "limit": limit,
            "point": None if best is None else best.to_dict(),
            "each": {n: None if p is None else float(p[y]) for n, p in each.items()},
            "not_beaten": int(points["pareto"].sum()),
        }

    def show(self, result: dict[str, Any]) -> tuple[str, str]:
        sentence = self._say(result)
        options, chosen = self._options(), result["point"]
        points = self._points(options["x"], options["y"])
        return plot.svg(points, **options, chosen=chosen, label=sentence), sentence

    def pointed(self, x: float, y: float, press: bool) -> dict[str, Any]:
        if press and not plot.in_plot(x, y):
            return {}
        options = self._options()
        points = self._points(options["x"], options["y"])
        cost = plot.cost_at(points, x, x=options["x"], log=options["log"])
        return {"budget": cost / points[options["x"]].max()}

    def draw(self, result: dict[str, Any]) -> Figure:
        options, best = self._options(), result.get("point")
        with figure(7.6, 3.8) as (fig, ax):
            plot.plot_pareto(self._points(options["x"], options["y"]), **options, ax=ax)
            if best is not None:
                plot.ring(ax, best[options["x"]], best[options["y"]])
        return fig

    def to_python(self) -> str:
        options, curve = self._options(), self.controls["curve"].value
        x, y, limit, log = options["x"], options["y"], options["budget"], options["log"]
        points, among = self._points(x, y), "points"
        if curve != ALL:
            points, among = (
                points[points["curve"] == curve],
                f'points[points["curve"] == {curve!r}]',
            )
        best = _best(points, x, y, limit)
        if best is None:
            chosen = "point = None  # nothing is that cheap"
        else:
            name = " ".join(best["curve"].split())  # without line breaks, for a comment
            chosen = (
                f"point = pv.choose({among}, at_most={{{x!r}: {limit!r}}}, best={y!r})\n"
                f"# {name}, target sparsity {best['target_sparsity']:.3g}: {y} {best[y]:.3f}"
            )
        better = "" if self._better is None else f", better={self._better!r}"
        return (
            "import pruneviz as pv\n\n"
            f"points = pv.pareto(data, x={x!r}, y={y!r}, by={self._by!r}{better})\n"
            f"{chosen}\n"
            f"ax = pv.plot_pareto(points, x={x!r}, y={y!r}, budget={limit!r}, log={log})\n"
        )

    def _points(self, x: str, y: str) -> pd.DataFrame:
        """Return the points for a cost and a quality; each pair is averaged once."""
        if (x, y) not in self._averaged:
            self._averaged[x, y] = pareto(self._data, x=x, y=y, by=self._by, better=self._better)
        return self._averaged[x, y]

    def _options(self) -> dict[str, Any]:
        """Return the options of the picture."""
        x, y, log = (self.controls[n].value for n in ("x", "y", "log"))
        positive = bool(self._points(x, y)[x].min() > 0)
        return {"x": x, "y": y, "budget": self._limit(), "log": log and positive}

    def _limit(self) -> float:
        """Return the budget in the units of the cost.

        A point exactly at the budget is within it, whatever the rounding of the product.
        """
        x = self.controls["x"].value
        costs = self._points(x, self.controls["y"].value)[x]
        limit = self.controls["budget"].rounded * costs.max()
        return float(max(limit, costs[costs <= limit * (1 + 1e-12)].max()))

    def _say(self, result: dict[str, Any]) -> str:
        cost, y, point = COSTS.get(result["x"], result["x"]), result["y"], result["point"]
        limit = result["limit"]
        shown = f"{limit:,.0f}" if limit >= 100 else f"{limit:.3g}"
        start = f"At most {result['budget']:.0%} of the {cost} ({shown}): "
        if point is None:
            return f"{start}no point is that cheap."
        lower = ", lower is better" * (point.get("better") == "lower")
        return (
            f"{start}{point['curve']} at target sparsity {point['target_sparsity']:.3g}, "
            f"{y} {point[y]:.3f} ({point['low']:.3f} to {point['high']:.3f}){lower}, "
            f"{'not beaten' if point['pareto'] else 'beaten by another'}."
        )


def _best(points: Any, x: str, y: str, limit: float) -> Any:
    cheap = points[points[x] <= limit]
    return None if cheap.empty else choose(cheap, best=y)


def _is_quality(data: pd.DataFrame, column: Any, costs: list[str]) -> bool:
    """Tell whether a column holds a metric with at least one value for each of the costs."""
    if not str(column).startswith("metric") or data[column].dtype.kind not in "fiu":
        return False
    return all(len(data[[cost, column]].dropna()) for cost in costs)

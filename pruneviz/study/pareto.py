"""What quality each cost buys: curves over seeds, the Pareto front, an operating point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.imports import imported

if TYPE_CHECKING:
    import pandas as pd


SETTINGS = ("network", "criterion", "granularity", "scope", "repair", "tune")
MAKER = "pv.sweep(model, …)"


def pareto(
    data: pd.DataFrame,
    *,
    x: str = "macs",
    y: str = "metric",
    by: str | Sequence[str] | None = None,
    better: str | None = None,
) -> pd.DataFrame:
    """Average a sweep over its seeds, and mark the points that no other point beats.

    A point beats another one if its cost is not higher, its quality not lower, and one of the two
    better.

    Parameters
    ----------
    data : DataFrame
        From `sweep`: a row for each setting, target sparsity and seed. Not changed.
    x : str
        Column of the cost; lower is better.
    y : str
        Column of the quality.
    by : str or sequence of str, optional
        Columns whose values name a curve. Default: those of network, criterion, granularity, scope,
        repair and tune that vary; if none varies, the criterion.
    better : str, optional
        Whether ``"higher"`` or ``"lower"`` numbers of `y` are better. Default: what the column
        ``better`` of the frame says, or else higher.

    Returns
    -------
    DataFrame
        One row for each curve and target sparsity, cheapest last: ``curve``, `by`,
        ``target_sparsity``, ``seeds`` (their number), `x` and `y` (means), ``low`` and ``high`` (of
        `y`: the lowest and highest seed; with one seed its interval, if the sweep has one),
        ``pareto`` (bool: no other point beats it), and ``better`` if lower is better.

    Raises
    ------
    ArgumentError
        If a column is missing, or there is no row.

    Examples
    --------
    >>> import pandas as pd, pruneviz as pv
    >>> data = pd.DataFrame({"criterion": ["a", "a", "b"], "target_sparsity": [0.5, 0.9, 0.5],
    ...                      "macs": [50, 10, 60], "metric": [0.8, 0.7, 0.75]})
    >>> pv.pareto(data)[["curve", "macs", "pareto"]].values.tolist()
    [['a', 50.0, True], ['a', 10.0, True], ['b', 60.0, False]]
    """
    checks.columns(data, {}, "pareto")  # raises unless it is a frame
    for name, column in (("x", x), ("y", y)):
        checks.kind(column, name, str, "Name a column, such as 'macs'.")
    names = curve_columns(data) if by is None else checks.names(by, "by")
    if not names:
        raise ArgumentError("`by` is empty. Name at least one column, such as 'criterion'.")
    needed = dict.fromkeys((*names, "target_sparsity", x, y), MAKER)
    checks.columns(data, needed, "pareto")
    if data.empty:
        raise ArgumentError(f"`data` has no rows. Make it with {MAKER}.")
    lower = checks.lower_is_better(data, y, better)
    valid = data.dropna(subset=[x, y])
    if valid.empty:
        raise ArgumentError(f"columns {x!r} and {y!r} have no row in which both are numbers.")
    rows = []
    for key, part in valid.groupby([*names, "target_sparsity"], sort=False):
        low, high = part[y].min(), part[y].max()
        if len(part) == 1 and y == "metric" and {"low", "high"} <= set(part):
            low, high = part["low"].iloc[0], part["high"].iloc[0]
        rows.append(
            {
                "curve": ", ".join(str(k) for k in key[:-1]),
                **dict(zip((*names, "target_sparsity"), key, strict=True)),
                "seeds": len(part),
                x: float(part[x].mean()),
                y: float(part[y].mean()),
                "low": float(low),
                "high": float(high),
            }
        )
    pd = imported("pandas")

    points = pd.DataFrame(rows)
    order = {curve: i for i, curve in enumerate(dict.fromkeys(points["curve"]))}
    points = points.sort_values(
        ["curve", x], ascending=[True, False], kind="stable",
        key=lambda c: c.map(order) if c.name == "curve" else c, ignore_index=True,
    )  # fmt: skip
    qualities = (-points[y] if lower else points[y]).tolist()
    points["pareto"] = _on_front(points[x].tolist(), qualities)
    if lower:
        points["better"] = "lower"
    return points


def curve_columns(data: pd.DataFrame) -> list[str]:
    """Return the columns that distinguish the curves of a sweep.

    Examples
    --------
    >>> import pandas as pd
    >>> curve_columns(pd.DataFrame({"criterion": ["l2", "l2"], "repair": ["none", "lstsq"]}))
    ['repair']
    """
    present = [n for n in SETTINGS if n in data]
    return [n for n in present if len(set(data[n])) > 1] or ["criterion"]


def choose(
    data: pd.DataFrame,
    *,
    at_most: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
    best: str = "metric",
) -> pd.Series[Any]:
    """Choose an operating point: the row with the best quality of all rows within the limits.

    Parameters
    ----------
    data : DataFrame
        From `sweep` or `pareto`.
    at_most, at_least : mapping of str to float, optional
        Column to limit, such as ``at_most={"bytes": 100_000}, at_least={"metric": 0.85}``.
    best : str
        The column that is compared; higher is better, unless the column ``better`` of the frame says
        ``"lower"``. ``"-macs"``: lower is better.

    Returns
    -------
    Series
        The best row; the first one if several are equal.

    Raises
    ------
    ArgumentError
        If a column is missing, or no row is within all limits; the message names the nearest row.

    Examples
    --------
    >>> import pandas as pd, pruneviz as pv
    >>> data = pd.DataFrame({"macs": [90, 50, 10], "metric": [0.9, 0.88, 0.6]})
    >>> int(pv.choose(data, at_most={"macs": 60})["macs"])
    50
    >>> int(pv.choose(data, at_least={"metric": 0.5}, best="-macs")["macs"])
    10
    """
    most, least = dict(at_most or {}), dict(at_least or {})
    column = best.removeprefix("-")
    checks.columns(data, dict.fromkeys((*most, *least, column), MAKER), "choose")
    limits = [(n, checks.number(v, n), 1) for n, v in most.items()]
    limits += [(n, checks.number(v, n), -1) for n, v in least.items()]
    if data.empty:
        raise ArgumentError(f"`data` has no rows. Make it with {MAKER}.")
    fits = data[[all(sign * row[n] <= sign * v for n, v, sign in limits)
                 for _, row in data.iterrows()]]  # fmt: skip
    if fits.empty:
        raise ArgumentError(f"no row is within all limits. {_nearest(data, limits)}")
    values = fits[column].astype(float)
    lower = best.startswith("-") or checks.lower_is_better(data, column)
    position = values.argmin() if lower else values.argmax()
    return fits.iloc[int(position)]


def _nearest(data: pd.DataFrame, limits: list[tuple[str, float, int]]) -> str:
    """Describe the row that misses the limits by the least, relative to each limit."""

    def missed(row: Any) -> float:
        return sum(max(0.0, sign * (row[n] - v)) / (abs(v) or 1.0) for n, v, sign in limits)

    row = min((r for _, r in data.iterrows()), key=missed)
    has = ", ".join(f"{n} {row[n]:,.6g} ({_limit(sign)} {v:,.6g})" for n, v, sign in limits)
    return f"The nearest row has {has}."


def _limit(sign: int) -> str:
    return "limit: at most" if sign > 0 else "limit: at least"


def _on_front(xs: list[float], ys: list[float]) -> list[bool]:
    points = list(zip(xs, ys, strict=True))
    return [not any(a <= x and b >= y and (a < x or b > y) for a, b in points) for x, y in points]

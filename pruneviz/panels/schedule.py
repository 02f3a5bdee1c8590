"""How schedules of iterative pruning differ, in recorded runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.core import checks
from pruneviz.model.hooks import plain_torch
from pruneviz.panels.kit.html import static_image
from pruneviz.panels.kit.panel import Panel
from pruneviz.plots.schedule import SOURCE, plot_schedule
from pruneviz.plots.style import figure, plain
from pruneviz.training.targets import dropped_shares

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


@plain_torch()
def panel_schedule(runs: pd.DataFrame, *, name: str = "metric") -> Panel:
    """Show recorded runs of iterative pruning, by schedule and final sparsity.

    Above: the density on a logarithmic axis, where cuts that remove the same share of the remaining
    weights are equally long. Below: the metric, which falls at each cut and rises with tuning.

    Parameters
    ----------
    runs : DataFrame
        Frames of `prune_iteratively`, concatenated, with the added columns ``schedule`` (its name),
        ``end`` (its final sparsity) and, if there are several seeds, ``seed``. Nothing is run.
    name : str
        Name of the metric in the picture and in the sentence, such as ``"accuracy"``.

    Returns
    -------
    Panel
        ``controls``: ``"schedule"``, ``"end"``. ``result``: ``schedule``, ``end``, ``sparsities``
        (one a round), ``cuts`` (share of the remaining weights that each round removed),
        ``metric`` (at the end, mean over seeds), ``low``, ``high`` (over seeds), ``before`` (the
        metric before the first round).

    Raises
    ------
    ArgumentError
        If a column is missing.

    Examples
    --------
    >>> import pandas as pd, pruneviz as pv
    >>> runs = pd.DataFrame({"schedule": "cubic", "end": 0.9, "round": [0, 1, 2],
    ...     "sparsity": [0, 0.8, 0.9], "metric_untuned": [0.9, 0.7, 0.8], "metric": [0.9, 0.9, 0.88]})
    >>> panel = pv.panel_schedule(runs)
    >>> panel.result["cuts"], panel.result["metric"]
    ([0.8, 0.5], 0.88)
    >>> panel.close()
    """
    return SchedulePanel(runs, name)


class SchedulePanel(Panel):
    """The panel behind `panel_schedule`."""

    def __init__(self, runs: pd.DataFrame, name: str) -> None:
        needed = ("schedule", "end", "round", "sparsity", "metric_untuned", "metric")
        checks.columns(runs, dict.fromkeys(needed, SOURCE), "panel_schedule")
        self._runs, self._name = runs, name
        super().__init__()
        kinds = list(dict.fromkeys(runs["schedule"]))
        ends = [(f"{e:.3g}", float(e)) for e in sorted(set(runs["end"]))]
        schedule = widgets.Dropdown(options=kinds, description="schedule")
        end = widgets.Dropdown(options=ends, value=ends[-1][1], description="sparsity")
        self.start({"what": self.row(schedule, end)}, {"schedule": schedule, "end": end})

    def answer(self, moved: str) -> dict[str, Any]:
        kind, end = self._chosen()
        shown = self._shown()
        rows = shown[shown["schedule"] == kind].groupby("round")
        if not len(rows):
            return {"schedule": kind, "end": end}
        sparsities, metric = rows["sparsity"].mean(), rows["metric"]
        last = sparsities.index[-1]
        return {
            "schedule": kind,
            "end": end,
            "sparsities": sparsities.tolist()[1:],
            "cuts": dropped_shares(sparsities.tolist()),
            "metric": float(metric.mean()[last]),
            "low": float(metric.min()[last]),
            "high": float(metric.max()[last]),
            "before": float(metric.mean().iloc[0]),
        }

    def show(self, result: dict[str, Any]) -> tuple[str, str]:
        sentence = _say(result, self._name)
        return static_image(self.draw(result), sentence), sentence

    def draw(self, result: dict[str, Any]) -> Figure:
        shown, kind = self._shown(), self._chosen()[0]
        chosen = kind if kind in set(shown["schedule"]) else None
        with figure(7.2, 5.0, rows=(2, 3)) as (fig, axs):
            for ax, y in zip(axs, ("density", "metric"), strict=True):
                plot_schedule(shown, y=y, chosen=chosen, ax=ax)
            axs[1].get_legend().remove()  # the upper axes have the same one
            axs[0].set_xlabel("")
            axs[1].set_ylabel(plain(self._name))
        return fig

    def to_python(self) -> str:
        kind, end = self._chosen()
        shown = self._shown()
        recorded = kind in set(shown["schedule"])
        return (
            "import pruneviz as pv\n\n"
            f'shown = runs[runs["end"] == {end!r}]\n'
            f'chosen = shown[shown["schedule"] == {kind!r}]\n'
            'print(chosen.groupby("round")[["sparsity", "metric_untuned", "metric"]].mean())\n'
            f'ax = pv.plot_schedule(shown, y="metric"{f", chosen={kind!r}" * recorded})\n'
        )

    def _chosen(self) -> tuple[str, float]:
        return self.controls["schedule"].value, self.controls["end"].value

    def _shown(self) -> pd.DataFrame:
        return self._runs[self._runs["end"] == self.controls["end"].value]


def _say(result: dict[str, Any], name: str) -> str:
    start = f"{result['schedule']} to sparsity {result['end']:.3g}"
    if "cuts" not in result:
        return f"No run of {start} was recorded."
    n = len(result["cuts"])
    cut = "the only cut" if n == 1 else f"the last of {n} cuts"
    return (
        f"{start}: {cut} took {result['cuts'][-1]:.0%} of what was left; "
        f"{name} {result['before']:.3f} before, {result['metric']:.3f} in the end "
        f"({result['low']:.3f} to {result['high']:.3f})."
    )

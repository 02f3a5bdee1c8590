"""What a model costs when the same number of weights is removed in several ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.core import checks
from pruneviz.core.errors import calling_it
from pruneviz.core.imports import imported
from pruneviz.metrics.latency import differs
from pruneviz.model.batches import examples_in, first_n
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import plain_torch
from pruneviz.panels.kit.panel import Panel, Work
from pruneviz.panels.kit.worker import CancelToken
from pruneviz.plots import costs as bars
from pruneviz.plots import crossover as curves
from pruneviz.plots.bytes import bytes_text
from pruneviz.plots.crossover import LABELS
from pruneviz.plots.style import figure
from pruneviz.study.costs import ReductionWays, count_costs, time_models
from pruneviz.study.crossover import nearest_measured, speed_break_evens

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import nn


BATCHES = (1, 8, 64)
CLOCK = ("ms", "ms_low", "ms_high", "latency_speedup", "low", "high")
# one line for each way, so that nothing below moves when the measured times are added
LINES = "<style>.pv-costs .widget-html-content p { white-space: pre-line }</style>"


@plain_torch()
def panel_costs(
    model: nn.Module,
    x: Any,
    *,
    crossover: pd.DataFrame | None = None,
    sparsity: float = 0.9,
    batch: int | None = None,
    seconds: float = 0.2,
    threads: int | None = None,
) -> Panel:
    """Show what a model costs with the same sparsity as zeros, in CSR, or by removing units.

    At every move the pruned networks are made and their costs counted; when the control is idle,
    they are timed in turn on this machine. Nothing is trained.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    x : Tensor, tuple or dict
        Example input: as many examples as the largest batch.
    crossover : DataFrame, optional
        From `crossover`, measured on this machine: the panel also shows its curves for the nearest
        width and batch, and the sparsity where CSR breaks even.
    sparsity : float
        First value of the slider, in [0, 0.99].
    batch : int, optional
        Batch size that is timed first: 1, 8, 64, or all of `x`; default: the largest.
    seconds : float
        About how long to measure when the control is idle.
    threads : int, optional
        Number of torch threads; default: as many as torch uses now.

    Returns
    -------
    Panel
        ``controls``: ``"sparsity"``, ``"batch"``, ``"again"`` (every change measures again).
        ``result``: ``sparsity``, ``batch``, ``ways`` (name to ``bytes``, ``macs``, ``ms``, ``ms_low``,
        ``ms_high``, ``speedup``, ``latency_speedup``, ``low``, ``high``; None for what is not
        measured yet),
        ``break_even`` (sparse way to its break-even sparsity, None if there is none; empty without
        `crossover`).

    Raises
    ------
    ArgumentError, GraphError
        As `compare_costs` does.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 8))
    >>> panel = pv.panel_costs(model, torch.randn(8, 64), seconds=0)
    >>> panel.controls["sparsity"].value = 0.5
    >>> {way: cost["macs"] for way, cost in panel.result["ways"].items()}["csr_mm"]
    4608
    >>> panel.close()
    """
    with calling_it("x"):
        return CostsPanel(model, x, crossover, sparsity, batch, seconds, threads)


class CostsPanel(Panel):
    """The panel behind `panel_costs`."""

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        crossover: pd.DataFrame | None,
        sparsity: float,
        batch: int | None,
        seconds: float,
        threads: int | None,
    ) -> None:
        sparsity = checks.number(sparsity, "sparsity", low=0, high=0.99)
        examples = examples_in(x)
        sizes = sorted({b for b in BATCHES if b < examples} | {examples})
        if batch is not None:
            checks.choice(str(batch), "batch", map(str, sizes))
        self._ways = ReductionWays(copy_of(model), x)
        self._made: tuple[float | None, dict[str, Any], Any] = (None, {}, None)
        self._dense = copy_of(self._ways.model)  # timed in another thread, so it needs a copy
        self._width = self._ways.width
        self._x, self._seconds, self._threads = x, seconds, threads
        self._record = crossover
        self._breaks = None if crossover is None else speed_break_evens(crossover)
        super().__init__()
        self.add_class("pv-costs")
        row, slider = self.slider("sparsity", sparsity, 0.0, 0.99, 0.01)
        which = widgets.Dropdown(options=sizes, value=batch or examples, description="batch")
        again = widgets.ToggleButton(False, description="measure again")
        self.start(
            {"sparsity": row, "how": self.row(which, again)},
            {"sparsity": slider, "batch": which, "again": again},
        )

    def answer(self, moved: str) -> dict[str, Any]:
        sparsity, batch = self._chosen()
        if sparsity != self._made[0]:
            ways = self._ways.at(sparsity)
            self._made = sparsity, ways, count_costs(ways, first_n(self._x, 1)).set_index("way")
        counts = self._made[2].to_dict("index")
        return {
            "sparsity": sparsity,
            "batch": batch,
            "ways": {way: {**count, **dict.fromkeys(CLOCK)} for way, count in counts.items()},
            "break_even": self._break_even(batch),
        }

    def later(self, result: dict[str, Any]) -> Work:
        ways = {n: self._dense if m is self._ways.model else m for n, m in self._made[1].items()}
        counts, x = result["ways"], first_n(self._x, result["batch"])

        def work(token: CancelToken) -> dict[str, Any]:
            times = time_models(
                ways, x, seconds=self._seconds, threads=self._threads, between=token
            ).set_index("way")
            clock = times[list(CLOCK)].to_dict("index")
            return {"ways": {way: {**counts[way], **clock[way]} for way in counts}}

        return work

    def show(self, result: dict[str, Any]) -> tuple[str, str]:
        sentence = self._say(result)
        picture = LINES + bars.svg(_table(result), label=sentence, uid=self.uid)
        if self._record is not None:
            label = self._wins(result) or "The record has no sparse way."
            picture += curves.svg(self._record, **self._nearest(result), label=label)
        return picture, sentence

    def draw(self, result: dict[str, Any]) -> Figure:
        height = 0.6 + 0.7 * len(result.get("ways", ()))
        rows = (height,) if self._record is None else (height, 3.2)
        with figure(8.2, sum(rows) + 0.4, rows=rows) as (fig, axs):
            bars_ax = axs if self._record is None else axs[0]
            if not result:  # after an error
                return fig
            bars.plot_costs(_table(result), ax=bars_ax)
            if self._record is not None:
                curves.plot_crossover(self._record, **self._nearest(result), ax=axs[1])
        return fig

    def to_python(self) -> str:
        sparsity, batch = self._chosen()
        inputs, imports = "x", ""
        if batch != examples_in(self._x):
            tensor = hasattr(self._x, "shape")
            inputs = f"x[:{batch}]" if tensor else f"first_n(x, {batch})"
            imports = "" if tensor else "from pruneviz.model.batches import first_n\n"
        threads = "" if self._threads is None else f", threads={self._threads!r}"
        code = (
            f"import pruneviz as pv\n{imports}\n"
            f"table = pv.compare_costs(model, {inputs}, sparsity={sparsity!r}, seconds={self._seconds!r}{threads})\n"
            "print(table)\nax = pv.plot_costs(table)\n"
        )
        if self._record is not None:
            width, size = nearest_measured(self._record, self._width, batch)
            code += (
                "print(pv.speed_break_evens(crossover))\n"
                f"ax = pv.plot_crossover(crossover, width={width}, batch={size}, at={sparsity!r})\n"
            )
        return code

    def _chosen(self) -> tuple[float, int]:
        return self.controls["sparsity"].rounded, self.controls["batch"].value

    def _nearest(self, result: dict[str, Any]) -> dict[str, Any]:
        """Return which curves of the record are drawn."""
        assert self._record is not None
        width, batch = nearest_measured(self._record, self._width, result["batch"])
        return {"width": width, "batch": batch, "at": result["sparsity"]}

    def _break_even(self, batch: int) -> dict[str, float | None]:
        if self._breaks is None:
            return {}
        width, batch = nearest_measured(self._breaks, self._width, batch)
        rows = self._breaks[(self._breaks["width"] == width) & (self._breaks["batch"] == batch)]
        sparsities = rows.set_index("way")["break_even"]  # NaN where there is no break-even
        return {str(way): (None if s != s else float(s)) for way, s in sparsities.items()}

    def _say(self, result: dict[str, Any]) -> str:
        wins = self._wins(result)
        lines = [
            f"Sparsity {result['sparsity']:.2f}, batch of {result['batch']}.{wins and ' '}{wins}"
        ]
        for way, cost in result["ways"].items():
            name, words = LABELS[way].replace("dense", "Dense"), bytes_text(cost["bytes"])
            measured = cost["ms"] is not None
            if way == "dense":
                clock = "… ms"
                if measured:
                    clock = f"{cost['ms']:.3g} ms ({cost['ms_low']:.3g} to {cost['ms_high']:.3g})"
                lines.append(f"{name}: {words}, {clock}.")
                continue
            clock, interval = "… times as fast", ""
            if measured:
                clock = f"{cost['latency_speedup']:.3g} times as fast"
                if not differs(cost["low"], cost["high"]):
                    clock = "no difference measured"
                interval = f"{cost['low']:.3g} to {cost['high']:.3g}; "
            promise = f"by MACs {cost['speedup']:.3g}"
            lines.append(f"{name}: {words}, {clock} ({interval}{promise}).")
        return "\n".join(lines)

    def _wins(self, result: dict[str, Any]) -> str:
        if not result["break_even"]:
            return ""
        width = self._nearest(result)["width"]
        wins = "; ".join(
            f"{LABELS[way]} {'at no sparsity measured' if s is None else f'from {s:.2f} on'}"
            for way, s in result["break_even"].items()
        )
        return f"Recorded, in a {width} × {width} layer, faster than dense: {wins}."


def _table(result: dict[str, Any]) -> pd.DataFrame:
    """Return the frame that the plots draw; NaN for times that are not measured yet."""
    pd = imported("pandas")

    rows = pd.DataFrame([{"way": way, **cost} for way, cost in result["ways"].items()])
    return rows.astype(dict.fromkeys(CLOCK, float))

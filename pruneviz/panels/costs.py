"""The same number of weights gone, in several ways: bytes, MACs and the clock, while one drags."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz import _check
from pruneviz.costs import Ways, compared, examples_in, first
from pruneviz.crossover import break_evens, nearest
from pruneviz.panels.base import Panel, png
from pruneviz.plots import plot_costs, plot_crossover
from pruneviz.plots.bytes import size
from pruneviz.plots.crossover import LABELS
from pruneviz.plots.style import figure
from pruneviz.timing import told_apart

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import nn

BATCHES = (1, 8, 64)


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
    """Show what a model costs when as many weights are gone as zeros, in CSR, or with their units.

    At every move the networks are made for real, and timed in turn, here and now. Nothing is trained.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    x : Tensor, tuple or dict
        Example input: as many examples as the largest batch.
    crossover : DataFrame, optional
        From `crossover`, of this machine: the panel also shows its curves for the width and batch that
        are nearest, and says where CSR breaks even.
    sparsity : float
        Where the slider stands at first, in [0, 0.99].
    batch : int, optional
        Which batch is timed first: 1, 8, 64, or all of `x`; default: the largest.
    seconds : float
        About how long to measure at every move.
    threads : int, optional
        Of torch; default: as many as it uses now.

    Returns
    -------
    Panel
        ``controls``: ``"sparsity"``, ``"batch"``, ``"again"`` (measure anew at every change).
        ``result``: ``sparsity``, ``batch``, ``ways`` (name to ``bytes``, ``macs``, ``ms``,
        ``speedup``, ``latency_speedup``, ``low``, ``high``), ``break_even`` (sparse way to the
        sparsity, None if there is none; empty without `crossover`).

    Raises
    ------
    ArgumentError, GraphError
        As `costs` does.

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
        sparsity = _check.number(sparsity, "sparsity", low=0, high=0.99)
        most = examples_in(x)
        sizes = sorted({b for b in BATCHES if b < most} | {most})
        if batch is not None:
            _check.choice(str(batch), "batch", map(str, sizes))
        self._ways = Ways(model, x)
        self._width = self._ways.width
        self._x, self._seconds, self._threads = x, seconds, threads
        self._record = crossover
        self._breaks = None if crossover is None else break_evens(crossover)
        super().__init__()
        row, slider = self.slider("sparsity", sparsity, 0.0, 0.99, 0.01)
        which = widgets.Dropdown(options=sizes, value=batch or most, description="batch")
        again = widgets.ToggleButton(False, description="measure again")
        self.start(
            {"sparsity": row, "how": widgets.HBox([which, again])},
            {"sparsity": slider, "batch": which, "again": again},
        )

    def answer(self, moved: str) -> tuple[dict[str, Any], str, str]:
        sparsity, batch = (self.controls[n].value for n in ("sparsity", "batch"))
        x = first(self._x, batch)
        self._table = compared(
            self._ways.at(sparsity), x, seconds=self._seconds, threads=self._threads
        )
        rows = self._table.drop(columns=["batch", "threads"]).set_index("way")
        result = {
            "sparsity": sparsity,
            "batch": batch,
            "ways": rows.to_dict("index"),
            "break_even": self._break_even(batch),
        }
        sentence = self._say(result)
        self._at = sparsity, batch
        picture = (
            f'<img src="data:image/png;base64,{png(self.figure())}" alt="{escape(sentence)}" '
            'style="max-width: 100%">'
        )
        return result, picture, sentence

    def figure(self) -> Figure:
        tall = 0.6 + 0.7 * len(self._table)
        rows = (tall,) if self._record is None else (tall, 3.2)
        with figure(8.2, sum(rows) + 0.4, rows=rows) as (fig, axs):
            plot_costs(self._table, ax=axs if self._record is None else axs[0])
            if self._record is not None:
                sparsity, batch = self._at
                width, batch = nearest(self._record, self._width, batch)
                plot_crossover(self._record, width=width, batch=batch, at=sparsity, ax=axs[1])
        return fig

    def _break_even(self, batch: int) -> dict[str, float | None]:
        if self._breaks is None:
            return {}
        width, batch = nearest(self._breaks, self._width, batch)
        rows = self._breaks[(self._breaks["width"] == width) & (self._breaks["batch"] == batch)]
        known = rows.set_index("way")["break_even"]
        return {str(way): (None if at != at else float(at)) for way, at in known.items()}

    def _say(self, result: dict[str, Any]) -> str:
        parts = []
        for way, cost in result["ways"].items():
            if way != "dense":
                low, high = cost["low"], cost["high"]
                fast = (f"{cost['latency_speedup']:.2f} times as fast" if told_apart(low, high)
                        else "as fast as dense, for all that the clock can tell")  # fmt: skip
                parts.append(f"{LABELS[way].replace('dense', 'Dense')}: {size(cost['bytes'])}, {fast} "
                             f"(MACs promise {cost['speedup']:.2f})")  # fmt: skip
        dense = result["ways"]["dense"]
        text = (
            f"Sparsity {result['sparsity']:.2f}, batch of {result['batch']}. Dense: "
            f"{size(dense['bytes'])}, {dense['ms']:.3g} ms. {'. '.join(parts)}."
        )
        wins = [
            f"{LABELS[way]} {'at no sparsity measured' if at is None else f'from {at:.2f} on'}"
            for way, at in result["break_even"].items()
        ]
        return text + (
            f" In a single layer of that size, recorded: {'; '.join(wins)}." if wins else ""
        )

"""A histogram of the weights with a threshold to drag."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.mask import mask
from pruneviz.metrics import accuracy
from pruneviz.panels.base import Panel
from pruneviz.plots import plot_layers, plot_weights, svg
from pruneviz.plots.style import figure
from pruneviz.plots.weights import pruned_bins
from pruneviz.score import score
from pruneviz.select import lowest_kept, select
from pruneviz.weights import weight_histogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

ALL = "all layers"


def panel_weights(
    model: nn.Module,
    *,
    batches: Iterable[tuple[Any, Tensor]] | None = None,
    bins: int = 120,
) -> Panel:
    """Show how the weights are distributed, with a threshold to drag through all layers.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    batches : iterable of (inputs, labels), optional
        If given, the accuracy is measured on them at every move; read once.
    bins : int
        Number of bars.

    Returns
    -------
    Panel
        ``controls``: ``"threshold"`` (weights with a smaller |w| go), ``"sparsity"`` (follows the
        threshold, and the threshold follows it), ``"layer"`` (whose histogram is shown).
        ``result``: ``threshold``, ``sparsity``, ``layers`` (name to density), ``accuracy`` (None
        without batches), ``plan``.

    Raises
    ------
    ArgumentError
        If the model has no weights, or one is NaN or infinite.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> panel = pv.panel_weights(torch.nn.Linear(10, 10))
    >>> panel.controls["sparsity"].value = 0.25
    >>> panel.result["plan"]
    Plan for 100 weights in 1 layer: keeps 75, sparsity 0.250
    >>> panel.close()
    """
    return WeightsPanel(model, batches, bins)


class WeightsPanel(Panel):
    """The panel behind `panel_weights`."""

    def __init__(
        self, model: nn.Module, batches: Iterable[tuple[Any, Tensor]] | None, bins: int
    ) -> None:
        self._model = model
        self._batches = None if batches is None else list(batches)
        self._scores = score(model, "magnitude")
        self._frame = weight_histogram(model, bins=bins)
        top = float(self._frame["right"].max())
        self._by = ""
        super().__init__()
        above, threshold = self.slider("threshold", 0.0, 0.0, top, top / 1000, digits=4)
        below, sparsity = self.slider("sparsity", 0.0, 0.0, 0.999, 0.001, digits=3)
        names = list(dict.fromkeys(self._frame["layer"]))
        layer = widgets.Dropdown(
            options=[(ALL, ALL), *((n or "(model)", n) for n in names)], description="layer"
        )
        self.start(
            {"threshold": above, "sparsity": below, "layer": layer},
            {"threshold": threshold, "sparsity": sparsity, "layer": layer},
        )

    def answer(self, moved: str) -> tuple[dict[str, Any], str, str]:
        if moved != "layer":
            self._by = moved  # which of the two linked sliders decides
        keep = moved == "layer" and self.result
        result = self.result if keep else self._pruned(self._by)
        shown = self._shown()
        left, right = shown["left"].to_numpy(), shown["right"].to_numpy()
        sentence = self._say(result)
        layers = result["plan"].to_frame()
        picture = svg.histogram(
            left,
            right,
            shown["count"].to_numpy(),
            pruned_bins(left, right, result["threshold"]),
            label=sentence,
            threshold=result["threshold"],
            uid=self.uid,
        ) + svg.layers(
            layers["layer"].tolist(),
            layers["kept"].tolist(),
            layers["total"].tolist(),
            label=f"Kept of each layer: {_each(result)}.",
            uid=f"{self.uid}l",
        )
        return result, picture, sentence

    def figure(self) -> Figure:
        if not self.result:  # after an error: the weights as they are
            with figure(6.4, 3.2) as (fig, ax):
                plot_weights(self._shown(), ax=ax)
            return fig
        layers = self.result["plan"].to_frame()
        tall = 0.6 + 0.3 * len(layers)
        with figure(6.4, 3.3 + tall, rows=(3, tall)) as (fig, axs):
            plot_weights(self._shown(), threshold=self.result["threshold"], ax=axs[0])
            axs[0].set_title(self._title(), fontsize=10)
            plot_layers(layers, ax=axs[1])
            axs[1].legend_ = None  # the upper axes have the same one
        return fig

    def _pruned(self, moved: str) -> dict[str, Any]:
        controls = self.controls
        if moved == "sparsity":
            plan = select(self._scores, sparsity=controls["sparsity"].value, scope="global")
            threshold = lowest_kept(self._scores, plan)
            self.put("threshold", threshold)
        else:
            threshold = controls["threshold"].value
            plan = select(self._scores, threshold=threshold)
            self.put("sparsity", plan.sparsity)
        right = None if self._batches is None else accuracy(mask(self._model, plan), self._batches)
        frame = plan.to_frame()
        layers = dict(zip(frame["layer"], (frame["kept"] / frame["total"]).tolist(), strict=True))
        return {
            "threshold": threshold,
            "sparsity": plan.sparsity,
            "layers": layers,
            "accuracy": right,
            "plan": plan,
        }

    def _shown(self) -> Any:
        layer = self.controls["layer"].value
        if layer != ALL:
            return self._frame[self._frame["layer"] == layer].reset_index(drop=True)
        return self._frame.groupby(["left", "right"], as_index=False)["count"].sum()

    def _title(self) -> str:
        layer = self.controls["layer"].value
        return f"{layer or '(model)'}: sparsity {self.result['sparsity']:.3f}"

    def _say(self, result: dict[str, Any]) -> str:
        plan = result["plan"]
        text = (
            f"Threshold {result['threshold']:.4f}: {plan.kept:,} of {plan.total:,} weights stay, "
            f"sparsity {plan.sparsity:.3f}"
        )
        if result["accuracy"] is not None:
            text += f", accuracy {result['accuracy']:.0%}"
        return text + "."


def _each(result: dict[str, Any]) -> str:
    return ", ".join(f"{n or '(model)'} {d:.3f}" for n, d in result["layers"].items())

"""How the weights are distributed, and which ones a threshold prunes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from pruneviz.core.plan import all_numbers, left_out_text, of_all_text
from pruneviz.metrics.accuracy import accuracy
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import plain_torch
from pruneviz.model.layout import fast_batches
from pruneviz.panels.kit.controls import Check, Choice, Range
from pruneviz.panels.kit.panel import Panel, Work
from pruneviz.panels.kit.script import batches_line
from pruneviz.panels.kit.web_panel import WebPanel
from pruneviz.panels.kit.worker import CancelToken
from pruneviz.plots.style import figure, plain
from pruneviz.plots.weights import plot_layers, plot_weights
from pruneviz.pruning.mask import mask
from pruneviz.study.weight_cuts import WeightCuts

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn


ALL = "all layers"
LINKED = {"sparsity": "threshold", "threshold": "sparsity"}


@plain_torch()
def panel_weights(
    model: nn.Module,
    *,
    batches: Iterable[tuple[Any, Tensor]] | None = None,
    bins: int = 120,
    absolute: bool = False,
    log: bool = False,
) -> Panel:
    """Show a histogram of the weights, with a threshold for all layers to drag.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    batches : iterable of (inputs, labels), optional
        If given, the accuracy is measured on them; read once.
    bins : int
        Number of bars.
    absolute, log : bool
        First values of the two checkboxes.

    Returns
    -------
    Panel
        ``controls``: ``"threshold"`` (weights with a smaller |w| are removed), ``"sparsity"``
        (follows the threshold, and the threshold follows it), ``"layer"`` (whose histogram is
        shown), ``"absolute"`` (|w| instead of w), ``"log"`` (logarithmic scale of the counts).
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
    Plan for 100 weights in 1 layer: keeps 75, sparsity 0.250 (0.227 of all 110 numbers)
    >>> panel.close()
    """
    return WeightsPanel(model, batches, bins, absolute, log)


class WeightsPanel(WebPanel):
    """The panel behind `panel_weights`."""

    kind = "weights"

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[tuple[Any, Tensor]] | None,
        bins: int,
        absolute: bool,
        log: bool,
    ) -> None:
        self._cuts = cuts = WeightCuts(model, bins)
        self.batches = None if batches is None else fast_batches(batches, model=model)
        self._batches_line = batches_line(batches)
        if batches is not None:
            # a copy, because another thread runs it while the user works with the original
            self._model = copy_of(model).eval()
        self._exact: tuple[str, float] | None = None
        super().__init__()
        self.lazy = batches is None  # a plan of many weights is slow: it is made on request
        self.memory = {"by": "threshold"}  # which of the two linked sliders decides
        threshold = Range("threshold", 0.0, cuts.top, cuts.top / 1000, digits=4)
        sparsity = Range("sparsity", 0.0, 0.999, 0.001, digits=3)
        left_out = self._cuts.scores.left_out
        self.begin(
            {
                "threshold": threshold,
                "sparsity": sparsity,
                "layer": Choice("layer", {ALL: ALL, **{n or "(model)": n for n in cuts.layers}}),
                "absolute": Check("sizes |w| only", absolute),
                "log": Check("logarithmic", log),
            },
            data={
                "edges": cuts.edges.tolist(),
                "layers": cuts.layers,
                "total": list(cuts.total.values()),
                "every": cuts.every,
                "numbers": all_numbers(cuts.numbers, left_out),
                "left_out": left_out_text(left_out),
            },
            table=cuts.table(threshold.steps(), sparsity.steps()),
        )

    def answer(self, moved: str) -> dict[str, Any]:
        if moved in LINKED:
            self.memory = {"by": moved}
        by, value = self._decided()
        result = self._result
        if not result or self._exact != (by, value):
            cut = self._cuts.at(by, value)
            total = self._cuts.total
            result = {
                "threshold": cut.threshold,
                "sparsity": cut.sparsity,
                "layers": {n: k / total[n] if total[n] else 1.0 for n, k in cut.kept.items()},
                "accuracy": None,
                "plan": None,
            }
            self._exact = by, value
        self.set_silently(LINKED[by], result[LINKED[by]])
        return result

    def later(self, result: dict[str, Any]) -> Work | None:
        if result["plan"] is not None:  # only the picture has changed
            return None
        by, value = self._decided()

        def work(token: CancelToken) -> dict[str, Any]:
            plan = self._cuts.plan(by, value)
            if self.batches is None:
                return {"plan": plan}
            right = accuracy(mask(self._model, plan), token.through(self.batches))
            return {"plan": plan, "accuracy": right}

        return work

    def show(self, result: dict[str, Any]) -> tuple[dict[str, Any], str]:
        kept = self._cuts.at(*self._decided()).kept
        drawn = {n: result[n] for n in ("threshold", "sparsity", "accuracy")}
        return {**drawn, "kept": list(kept.values())}, self._say(result, sum(kept.values()))

    def draw(self, result: dict[str, Any]) -> Figure:
        layer = self.controls["layer"].value
        how = {n: self.controls[n].value for n in ("absolute", "log")}
        kept = self._cuts.at(*self._decided()).kept
        bins, layers = self._cuts.frames(None if layer == ALL else layer, kept)
        if not result:  # after an error: the weights as they are
            with figure(6.4, 3.2) as (fig, ax):
                plot_weights(bins, **how, ax=ax)
            return fig
        height = 0.6 + 0.3 * len(layers)
        with figure(6.4, 3.3 + height, rows=(3, height)) as (fig, axs):
            plot_weights(bins, threshold=result["threshold"], **how, ax=axs[0])
            title = f"{layer or '(model)'}: sparsity {result['sparsity']:.3f}"
            axs[0].set_title(plain(title), fontsize=10)
            plot_layers(layers, ax=axs[1])
            axs[1].legend_ = None  # the upper axes have the same one
        return fig

    def to_python(self) -> str:
        by, value = self._decided()
        how = f'{by}={value!r}, scope="global"' if by == "sparsity" else f"{by}={value!r}"
        judge = "" if self.batches is None else "print(pv.accuracy(pruned, batches))\n"
        return (
            f"import pruneviz as pv\n\n{self._batches_line}"
            'scores = pv.score(model, "magnitude")\n'
            f"plan = pv.select(scores, {how})\n"
            f"pruned = pv.mask(model, plan)\n{judge}"
        )

    def _decided(self) -> tuple[str, float]:
        by = self.memory["by"]
        return by, self.controls[by].rounded

    def _say(self, result: dict[str, Any], kept: int) -> str:
        total, left_out = self._cuts.numbers, self._cuts.scores.left_out
        text = (
            f"Threshold {result['threshold']:.4f}: {kept:,} of {total:,} weights stay, "
            f"sparsity {_below_one(result['sparsity'])} over all layers"
            f"{of_all_text(kept, total, left_out)}"
        )
        if result["accuracy"] is not None:
            text += f", accuracy {result['accuracy']:.0%}"
        rest = left_out_text(left_out)
        return f"{text}. Left out: {rest}." if rest else f"{text}."


def _below_one(sparsity: float) -> str:
    """Write a sparsity with enough digits: a value below 1 does not read as 1.

    >>> _below_one(0.5), _below_one(0.99968)
    ('0.500', '0.9997')
    """
    digits = next(d for d in (3, 4, 5, 9) if d == 9 or float(f"{sparsity:.{d}f}") < 1)
    return f"{sparsity:.{digits}f}"

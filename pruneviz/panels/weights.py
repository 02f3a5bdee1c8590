"""How the weights are distributed, and which ones a threshold prunes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.core.errors import ArgumentError
from pruneviz.core.imports import imported
from pruneviz.core.names import layer_name
from pruneviz.core.plan import left_out_text, of_all_text
from pruneviz.metrics.accuracy import accuracy
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import plain_torch
from pruneviz.model.layout import fast_batches
from pruneviz.model.weights import bins_of
from pruneviz.panels.kit.panel import Panel, Work
from pruneviz.panels.kit.script import batches_line
from pruneviz.panels.kit.worker import CancelToken
from pruneviz.plots import svg
from pruneviz.plots.style import figure, plain
from pruneviz.plots.weights import folded, plot_layers, plot_weights, pruned_bins
from pruneviz.pruning.mask import mask
from pruneviz.selection.ranking import Ranking
from pruneviz.selection.score import score
from pruneviz.selection.select import lowest_kept, select

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from pruneviz.core.plan import Plan


ALL = "all layers"
BOX = {"width": "auto", "margin": "2px 2px 2px 16px"}


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


class WeightsPanel(Panel):
    """The panel behind `panel_weights`."""

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[tuple[Any, Tensor]] | None,
        bins: int,
        absolute: bool,
        log: bool,
    ) -> None:
        self._edges, self._counts = bins_of(model, bins)
        self.batches = None if batches is None else fast_batches(batches, model=model)
        self._batches_line = batches_line(batches)
        if batches is not None:
            # a copy, because another thread runs it while the user works with the original
            self._model = copy_of(model).eval()
        self._scores = score(model, "magnitude")
        self._ranked = Ranking(
            {n: _wide(v).numpy().ravel() for n, v in self._scores.values.items()}
        )
        if not self._ranked.total:
            raise ArgumentError(
                "all layers of `model` are empty: there is no weight to show. Pass a model with "
                "weights."
            )
        self._drawn: tuple[Any, Any] = (None, None)
        self._exact: tuple[Any, dict[str, Any]] = (None, {})
        top = float(self._edges[-1])
        super().__init__()
        self.lazy = batches is None  # a plan of many weights is slow: it is made on request
        self.memory = {"by": "threshold"}  # which of the two linked sliders decides
        above, threshold = self.slider("threshold", 0.0, 0.0, top, top / 1000, digits=4)
        below, sparsity = self.slider("sparsity", 0.0, 0.0, 0.999, 0.001, digits=3)
        layer = widgets.Dropdown(
            options=[(ALL, ALL), *((n or "(model)", n) for n in self._counts)], description="layer"
        )
        size, scale = (
            widgets.Checkbox(value, description=text, indent=False, layout=BOX)
            for value, text in ((absolute, "sizes |w| only"), (log, "logarithmic"))
        )
        self.start(
            {"threshold": above, "sparsity": below, "how": self.row(layer, size, scale)},
            {
                "threshold": threshold,
                "sparsity": sparsity,
                "layer": layer,
                "absolute": size,
                "log": scale,
            },
            hint="The threshold can be dragged in the histogram, too.",
        )

    def answer(self, moved: str) -> dict[str, Any]:
        if moved in ("threshold", "sparsity"):
            self.memory = {"by": moved}
        how = self._decided()
        if how == self._exact[0]:  # the plan is the same; only the picture changes
            self._follow(self._exact[1])
            return self._exact[1]
        by, value = how
        if by == "sparsity":
            threshold, pruned = self._ranked.cut(value)
        else:
            threshold, pruned = value, self._ranked.below(value)
        total = {n: v.numel() for n, v in self._scores.values.items()}
        kept = {
            n: max(total[n] - pruned[n], min(total[n], 1)) for n in total
        }  # `select` keeps at least one
        self._kept, self._total = _by_layer(kept), _by_layer(total)
        result = {
            "threshold": threshold,
            "sparsity": 1 - sum(kept.values()) / sum(total.values()),
            "layers": _density(self._kept, self._total),
            "accuracy": None,
            "plan": None,
        }
        self._follow(result)
        return result

    def later(self, result: dict[str, Any]) -> Work | None:
        how = self._decided()
        if how == self._exact[0]:
            return None
        self._measuring = how

        def work(token: CancelToken) -> dict[str, Any]:
            by, value = how
            if by == "sparsity":
                plan = select(self._scores, sparsity=value, scope="global")
                threshold = lowest_kept(self._scores, plan)
            else:
                plan, threshold = select(self._scores, threshold=value), value
            right = None
            if self.batches is not None:
                right = accuracy(mask(self._model, plan), token.through(self.batches))
            return {
                "threshold": threshold,
                "sparsity": plan.sparsity,
                "layers": _density(*_counts_of(plan)),
                "accuracy": right,
                "plan": plan,
            }

        return work

    def show(self, result: dict[str, Any]) -> tuple[str, str]:
        if result["plan"] is not None and self._exact[1] is not result:
            self._kept, _ = _counts_of(result["plan"])
            self._exact = self._measuring, result
        absolute, log = self.controls["absolute"].value, self.controls["log"].value
        left, right, count = self._bars()
        sentence = self._say(result)
        picture = svg.histogram(
            left,
            right,
            count,
            pruned_bins(left, right, result["threshold"]),
            label=sentence,
            threshold=result["threshold"],
            log=log,
            xlabel="|weight|" if absolute else "weight",
            uid=self.uid,
        ) + svg.layers(
            list(self._kept),
            list(self._kept.values()),
            list(self._total.values()),
            label=f"Kept of each layer: {_densities(result)}.",
            uid=f"{self.uid}l",
        )
        return picture, sentence

    def pointed(self, x: float, y: float, press: bool) -> dict[str, Any]:
        if press and not svg.in_histogram(x, y):
            return {}
        left, right, _ = self._bars()
        return {"threshold": abs(svg.weight_at(x, left, right))}

    def draw(self, result: dict[str, Any]) -> Figure:
        pd = imported("pandas")  # slow to import, and not needed for dragging

        how = {n: self.controls[n].value for n in ("absolute", "log")}
        ends = {"left": self._edges[:-1], "right": self._edges[1:]}
        bins = pd.DataFrame({**ends, "count": self._bin_counts()})
        if not result:  # after an error: the weights as they are
            with figure(6.4, 3.2) as (fig, ax):
                plot_weights(bins, **how, ax=ax)
            return fig
        counts = {
            "layer": list(self._kept),
            "kept": self._kept.values(),
            "total": self._total.values(),
        }
        layers = pd.DataFrame(counts)
        height = 0.6 + 0.3 * len(layers)
        with figure(6.4, 3.3 + height, rows=(3, height)) as (fig, axs):
            plot_weights(bins, threshold=result["threshold"], **how, ax=axs[0])
            axs[0].set_title(plain(self._title(result)), fontsize=10)
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

    def _follow(self, result: dict[str, Any]) -> None:
        """Set the other of the two linked sliders to the result."""
        other = {"sparsity": "threshold", "threshold": "sparsity"}[self.memory["by"]]
        self.set_silently(other, result[other])

    def _bin_counts(self) -> Any:
        """Return the number of weights in each bin, for the layers that are shown."""
        layer = self.controls["layer"].value
        return sum(self._counts.values()) if layer == ALL else self._counts[layer]

    def _bars(self) -> Any:
        """Return left, right and height of the bars; computed once for all thresholds."""
        how = self.controls["layer"].value, self.controls["absolute"].value
        if self._drawn[0] != how:
            bars = self._edges[:-1], self._edges[1:], self._bin_counts()
            self._drawn = how, folded(*bars) if how[1] else bars
        return self._drawn[1]

    def _title(self, result: dict[str, Any]) -> str:
        layer = self.controls["layer"].value
        return f"{layer or '(model)'}: sparsity {result['sparsity']:.3f}"

    def _say(self, result: dict[str, Any]) -> str:
        kept, total = sum(self._kept.values()), sum(self._total.values())
        text = (
            f"Threshold {result['threshold']:.4f}: {kept:,} of {total:,} weights stay, "
            f"sparsity {_below_one(result['sparsity'])} over all layers"
            f"{of_all_text(kept, total, self._scores.left_out)}"
        )
        if result["accuracy"] is not None:
            text += f", accuracy {result['accuracy']:.0%}"
        rest = left_out_text(self._scores.left_out)
        return f"{text}. Left out: {rest}." if rest else f"{text}."


def _wide(values: Tensor) -> Tensor:
    """Convert half precision to single, because numpy has no bfloat16."""
    return (values.float() if values.dtype.itemsize < 4 else values).cpu()


def _by_layer(counts: dict[str, int]) -> dict[str, int]:
    layers: dict[str, int] = {}
    for tensor, count in counts.items():
        layer = layer_name(tensor)
        layers[layer] = layers.get(layer, 0) + count
    return layers


def _counts_of(plan: Plan) -> tuple[dict[str, int], dict[str, int]]:
    """Return how many weights of each layer a plan keeps, and how many there are."""
    kept = _by_layer({n: int(k.sum()) for n, k in plan.keep.items()})
    return kept, _by_layer({n: k.numel() for n, k in plan.keep.items()})


def _density(kept: dict[str, int], total: dict[str, int]) -> dict[str, float]:
    return {n: k / total[n] if total[n] else 1.0 for n, k in kept.items()}


def _densities(result: dict[str, Any]) -> str:
    return ", ".join(f"{n or '(model)'} {d:.3f}" for n, d in result["layers"].items())


def _below_one(sparsity: float) -> str:
    """Write a sparsity with enough digits: a value below 1 does not read as 1.

    >>> _below_one(0.5), _below_one(0.99968)
    ('0.500', '0.9997')
    """
    digits = next(d for d in (3, 4, 5, 9) if d == 9 or float(f"{sparsity:.{d}f}") < 1)
    return f"{sparsity:.{digits}f}"

"""The network, unit by unit: where one lives, and what is left when the lowest scores go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz import _check
from pruneviz.criteria import CRITERIA
from pruneviz.groups import find_groups
from pruneviz.latency import latencies
from pruneviz.measure import measure
from pruneviz.metrics import accuracy, ready
from pruneviz.panels.base import Panel
from pruneviz.plots import network
from pruneviz.plots.groups import row_label, rows
from pruneviz.plots.style import figure
from pruneviz.score import score
from pruneviz.select import select
from pruneviz.shrink import cutter
from pruneviz.types import ArgumentError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from pruneviz.group import Group
    from pruneviz.types import Plan

    Units = list[tuple[Group, int]]

SECONDS = 0.03  # for the clock, at every move
KNOWN = {"weight", "generator"}  # what a criterion may need here: no data
WORDS = {"Conv": "Channel", "Linear": "Neuron"}


def panel_neurons(
    model: nn.Module,
    x: Any,
    *,
    batches: Iterable[tuple[Any, Tensor]] | None = None,
    criterion: str = "l2",
    sparsity: float = 0.0,
    layer: str | None = None,
    unit: int = 0,
) -> Panel:
    """Show a network unit by unit: pick one and see everything that goes with it; prune, and measure.

    A row a layer: left what it reads, right what it makes. The picked unit lights up in every layer
    in which it lives. Drag the sparsity, and the units with the lowest scores go: the smaller
    network is made for real at every move (only `shrink` also compares it with the masked one), and
    its accuracy, its multiply-accumulates and its time beside that of the whole one are measured.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    x : Tensor, tuple or dict
        Example input. The time is that of one forward with all of it at once: a few examples.
    batches : iterable of (inputs, labels), optional
        If given, the accuracy is measured on them at every move; read once.
    criterion : str
        Where the drop-down stands at first.
    sparsity : float
        Where the slider stands at first, in [0, 0.95].
    layer, unit : str and int
        Which unit is picked at first; default: the first one.

    Returns
    -------
    Panel
        ``controls``: ``"layer"``, ``"unit"``, ``"sparsity"``, ``"criterion"``, ``"scope"``.
        ``result``: of the picked unit ``layer``, ``unit``, ``group``, ``frozen`` (why it cannot go,
        or ``""``), ``gone``, ``producers``, ``consumers``, ``tensors``; of the smaller network
        ``plan``, ``sparsity`` (of units), ``accuracy`` (None without batches), ``macs``, ``speedup``
        (of MACs: whole ÷ smaller), ``latency_ms`` (whole, smaller) and ``latency_speedup``,
        both measured just now.

    Raises
    ------
    ArgumentError, GraphError
        As `find_groups`, `score` and `accuracy` do.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> panel = pv.panel_neurons(model, torch.zeros(1, 4))
    >>> panel.controls["unit"].value = 5
    >>> panel.sentence
    'Neuron 5 of 0 lives in 3 tensors of 2 layers: made by 0, read by 2. All 8 units stay.'
    >>> panel.controls["sparsity"].value = 0.5
    >>> panel.result["macs"], panel.result["speedup"]
    (24, 2.0)
    >>> panel.close()
    """
    return NeuronsPanel(model, x, batches, criterion, sparsity, layer, unit)


class NeuronsPanel(Panel):
    """The panel behind `panel_neurons`."""

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        batches: Iterable[tuple[Any, Tensor]] | None,
        criterion: str,
        sparsity: float,
        layer: str | None,
        unit: int,
    ) -> None:
        fit = [n for n, c in CRITERIA.items() if "unit" in c.granularity and set(c.needs) <= KNOWN]
        _check.choice(criterion, "criterion", fit, what="criterion")
        sparsity = _check.number(sparsity, "sparsity", low=0, high=0.95)
        self._model, self._x = model, x
        self._groups = find_groups(model, x)
        self._cut = cutter(model, x)
        self._macs = measure(model, x).macs
        self._batches = None if batches is None else ready(batches)
        self._kinds = {n: type(m).__name__ for n, m in model.named_modules()}
        self._labels = {names[0]: row_label(names) for names in rows(self._groups.to_frame())}
        made = {n for group in self._groups for n in group.producers}
        self._makes = {n: self._groups.units_of(n) if n in made else [] for n in self._labels}
        self._reads = {n: self._groups.read_by(n) for n in self._labels}
        self._cost: dict[str, Any] = {}
        known = [n for n in self._labels if self._makes[n]]
        if not known:
            raise ArgumentError("`model` has no units to show: none of its layers has weights.")
        layer = known[0] if layer is None else _check.choice(layer, "layer", known, what="layer")
        unit = _check.count(unit, "unit")
        last = len(self._makes[layer]) - 1
        super().__init__()
        picked, self._unit = self.slider("unit", min(unit, last), 0, max(last, 1), 1, digits=0)
        self._field = picked.children[0]
        below, share = self.slider("sparsity", sparsity, 0.0, 0.95, 0.01)
        which = widgets.Dropdown(
            options=[(n or "(model)", n) for n in known], value=layer, description="layer"
        )
        by = widgets.Dropdown(options=fit, value=criterion, description="criterion")
        scope = widgets.Dropdown(
            options=[("within each layer", "layer"), ("over all layers", "global")],
            description="compared",
        )
        self.start(
            {"layer": which, "unit": picked, "sparsity": below, "how": widgets.HBox([by, scope])},
            {
                "layer": which,
                "unit": self._unit,
                "sparsity": share,
                "criterion": by,
                "scope": scope,
            },
        )

    def answer(self, moved: str) -> tuple[dict[str, Any], str, str]:
        if moved == "layer":
            self._bound()
        if moved not in ("layer", "unit") or not self._cost:
            self._cost = {}  # nothing old is left, should what follows fail
            self._cost = self._smaller()
        result = {**self._picked(self._cost["plan"]), **self._cost}
        sentence = self._say(result)
        picture = network.svg(self._rows(result), label=sentence)
        return result, f"{picture}<p>{escape(self._clock(result))}</p>", sentence

    def figure(self) -> Figure:
        shown = self._rows(self.result)
        width, height = network.size(shown)
        with figure(width, height) as (fig, ax):
            network.draw(shown, ax)
        return fig

    def _bound(self) -> None:
        """Let the slider of the unit end where the layer does."""
        last = len(self._makes[self.controls["layer"].value]) - 1
        before, self._busy = self._busy, True
        try:
            for control in (self._field, self._unit):
                control.value = min(control.value, last)
                control.max = max(last, 1)  # a slider needs two ends
        finally:
            self._busy = before

    def _smaller(self) -> dict[str, Any]:
        """Choose, cut, and measure."""
        controls = {name: control.value for name, control in self.controls.items()}
        scores = score(self._model, controls["criterion"], groups=self._groups)
        plan = select(scores, sparsity=controls["sparsity"], scope=controls["scope"])
        small = self._cut(plan)
        macs = measure(small, self._x).macs
        whole, left = latencies([self._model, small], self._x, seconds=SECONDS, least=5)
        return {
            "plan": plan,
            "criterion": controls["criterion"],
            "scope": controls["scope"],
            "sparsity": plan.sparsity,
            "accuracy": None if self._batches is None else accuracy(small, self._batches),
            "macs": macs,
            "speedup": self._macs / macs,
            "latency_ms": (whole, left),
            "latency_speedup": whole / left,
        }

    def _picked(self, plan: Plan) -> dict[str, Any]:
        layer = self.controls["layer"].value
        units = self._makes[layer]
        unit = min(round(self._unit.value), len(units) - 1)
        group, number = units[unit]
        return {
            "layer": layer,
            "unit": unit,
            "group": group.name,
            "frozen": group.frozen,
            "gone": not group.frozen and not bool(plan.keep[group.name][number]),
            "producers": group.producers,
            "consumers": group.consumers,
            "tensors": tuple(dict.fromkeys(s.tensor for s in group.slices)),
        }

    def _rows(self, result: dict[str, Any]) -> list[network.Row]:
        """Return what there is to draw; after an error the whole network, and nothing picked."""
        keep = {n: k.tolist() for n, k in result["plan"].keep.items()} if result else {}
        picked = self._makes[result["layer"]][result["unit"]] if result else None

        def side(units: Units) -> network.Side:
            return network.Side(
                len(units),
                gone=frozenset(
                    i for i, (g, u) in enumerate(units) if g.name in keep and not keep[g.name][u]
                ),
                frozen=frozenset(i for i, (g, _) in enumerate(units) if g.frozen),
                lit=frozenset(i for i, unit in enumerate(units) if unit == picked),
            )

        return [
            network.Row(n, label, side(self._reads[n]), side(self._makes[n]))
            for n, label in self._labels.items()
        ]

    def _say(self, result: dict[str, Any]) -> str:
        made, read = result["producers"], result["consumers"]
        kind = self._kinds.get(result["layer"], "")
        word = next((w for part, w in WORDS.items() if part in kind), "Unit")
        text = f"{word} {result['unit']} of {result['layer'] or 'the model'}"
        if result["frozen"]:
            text += f" cannot go: {result['frozen']}."
        else:
            layers = len({*made, *read})
            text += (
                f" lives in {len(result['tensors'])} tensors of {layers} "
                f"layer{'s' * (layers > 1)}: made by {_listed(made)}"
            )
            text += f", read by {_listed(read)}." if read else "."
            text += " It goes." * result["gone"]
        plan = result["plan"]
        if plan.kept == plan.total:
            text += f" All {plan.total:,} units stay"
        else:
            text += f" Sparsity {plan.sparsity:.2f}: {plan.kept:,} of {plan.total:,} units stay"
        if result["accuracy"] is not None:
            text += f", accuracy {result['accuracy']:.0%}"
        if plan.kept < plan.total:
            text += f", {1 / result['speedup']:.0%} of the MACs"
        return text + "."

    def _clock(self, result: dict[str, Any]) -> str:
        """Say what changes from machine to machine, and is no part of the sentence."""
        whole, left = result["latency_ms"]
        return (
            f"Measured just now on this machine, in turn: the whole network {whole:.2f} ms, "
            f"this one {left:.2f} ms: {result['latency_speedup']:.1f} times as fast."
        )


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(n or "the model" for n in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown

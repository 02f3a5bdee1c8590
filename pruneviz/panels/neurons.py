"""The network, unit by unit: where one lives, and what is left when some of them go."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import some_can_go
from pruneviz.graph.find_groups import find_groups
from pruneviz.metrics.accuracy import accuracy
from pruneviz.metrics.cost import measure
from pruneviz.metrics.latency import latencies
from pruneviz.model.batches import ready
from pruneviz.model.forward import copy_of
from pruneviz.panels.kit.origin import hand
from pruneviz.panels.kit.panel import Panel, Work
from pruneviz.panels.kit.script import again
from pruneviz.panels.kit.worker import GoOn
from pruneviz.panels.neurons_text import clock, code, key, network_rows, picked, sentence
from pruneviz.plots import network
from pruneviz.plots.groups import row_label, rows
from pruneviz.plots.style import figure
from pruneviz.pruning.shrink import Shrinker
from pruneviz.selection.criteria.registry import CRITERIA
from pruneviz.selection.edit import amend, changes, toggled
from pruneviz.selection.notation import read, write
from pruneviz.selection.score import score
from pruneviz.selection.select import select

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from pruneviz.core.plan import Plan, Scores


SECONDS = 0.03  # for the clock, at every move
KNOWN = {"weight", "generator"}  # what a criterion may need here: no data
SLOW = ("accuracy", "macs", "speedup", "latency_ms", "latency_speedup")


def panel_neurons(
    model: nn.Module,
    x: Any,
    *,
    batches: Iterable[tuple[Any, Tensor]] | None = None,
    criterion: str = "l2",
    sparsity: float = 0.0,
    layer: str | None = None,
    unit: int = 0,
    approximate: bool = False,
) -> Panel:
    """Show a network unit by unit: pick one and see everything that goes with it; prune, and measure.

    A row a layer: left what it reads, right what it makes. The picked unit lights up in every layer
    in which it lives. Drag the sparsity, and the units with the lowest scores go; the button lets
    the picked one go or stay whatever its score. When the hand rests, the smaller network is made for
    real and compared with the masked one, and its accuracy, its
    multiply-accumulates and its time beside that of the whole one are measured.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    x : Tensor, tuple or dict
        Example input. The time is that of one forward with all of it at once: a few examples.
    batches : iterable of (inputs, labels), optional
        If given, the accuracy is measured on them; read once.
    criterion : str
        Where the drop-down stands at first.
    sparsity : float
        Where the slider stands at first, in [0, 0.95].
    layer, unit : str and int
        Which unit is picked at first; default: the first one.
    approximate : bool
        As for `find_groups`: whether units can go over which a norm runs.

    Returns
    -------
    Panel
        ``controls``: ``"layer"``, ``"unit"``, ``"sparsity"``, ``"by_hand"`` (what goes or stays
        whatever its score: ``"conv1: 3, 5-7; fc1: -12"``, with a minus it stays), ``"criterion"``,
        ``"scope"``. ``button`` lets the picked unit go, or stay: it writes that into ``"by_hand"``.
        ``result``: of the picked unit ``layer``, ``unit``, ``group``, ``frozen`` (why it cannot go,
        or ``""``), ``gone``, ``producers``, ``consumers``, ``tensors``; of the smaller network
        ``plan``, ``by_hand`` (layer to number of the unit to whether it stays), ``sparsity`` (of
        units), ``accuracy`` (None without batches), ``macs``, ``speedup`` (of MACs: whole ÷
        smaller), ``latency_ms`` (whole, smaller) and ``latency_speedup``, both measured just now.

    Raises
    ------
    ArgumentError, GraphError
        As `find_groups`, `score` and `accuracy` do; if ``"by_hand"`` names what is not there, or
        cannot go, or leaves nothing.

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
    >>> panel.controls["by_hand"].value = "0: 0-3, -4-7"
    >>> panel.result["plan"].keep["0"].tolist()
    [False, False, False, False, True, True, True, True]
    >>> panel.close()
    """
    return NeuronsPanel(model, x, batches, criterion, sparsity, layer, unit, approximate)


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
        approximate: bool,
    ) -> None:
        fit = [n for n, c in CRITERIA.items() if "unit" in c.granularity and set(c.needs) <= KNOWN]
        if criterion in CRITERIA and criterion not in fit:
            raise ArgumentError(
                f"criterion {criterion!r} needs data, or is for single weights: this panel takes "
                f"{', '.join(sorted(fit))}. With data: pv.panel_whatif(model, batches)."
            )
        checks.choice(criterion, "criterion", fit, what="criterion")
        sparsity = checks.number(sparsity, "sparsity", low=0, high=0.95)
        # one to answer with, and one for the other thread
        self._model, self._whole = (copy_of(checks.unwrapped(model)).eval() for _ in range(2))
        self._x, self._approximate = x, approximate
        self._groups = find_groups(self._model, x, approximate=approximate)
        self._cut = Shrinker(self._whole, x).proved
        self._macs = measure(self._whole, x).macs
        self.batches = None if batches is None else ready(batches, model=self._model)
        self._again = again(batches)
        self._kinds = {n: type(m).__name__ for n, m in model.named_modules()}
        self._labels = {names[0]: row_label(names) for names in rows(self._groups.to_frame())}
        made = {n for group in self._groups for n in group.producers}
        self._makes = {n: self._groups.units_of(n) if n in made else [] for n in self._labels}
        self._reads = {n: self._groups.read_by(n) for n in self._labels}
        self._scores: dict[str, Scores] = {}
        self._cost: tuple[Any, dict[str, Any]] = (None, {})
        known = [n for n in self._labels if self._makes[n]]
        if not known:
            raise ArgumentError("`model` has no units to show: none of its layers has weights.")
        some_can_go(self._groups)
        free = [n for n in known if not all(g.frozen for g, _ in self._makes[n])]
        layer = (
            [*free, *known][0]
            if layer is None
            else checks.choice(layer, "layer", known, what="layer")
        )
        unit = checks.count(unit, "unit")
        last = len(self._makes[layer]) - 1
        super().__init__()
        row, self._unit = self.slider("unit", min(unit, last), 0, max(last, 1), 1, digits=0)
        self._field = row.children[0]
        self.button = widgets.Button(description="remove", layout={"width": "90px"})
        self.button.on_click(lambda _: self._pressed())
        below, share = self.slider("sparsity", sparsity, 0.0, 0.95, 0.01)
        which = widgets.Dropdown(
            options=[(n or "(model)", n) for n in known], value=layer, description="layer"
        )
        line = widgets.Text(
            description="by hand",
            continuous_update=False,
            placeholder=f"{known[0] or '(model)'}: 3, 5-7, -12 (with a minus: stays)",
            layout={"width": "604px", "max_width": "98%"},
        )
        by = widgets.Dropdown(options=fit, value=criterion, description="criterion")
        scope = widgets.Dropdown(
            options=[("within each layer", "layer"), ("over all layers", "global")],
            description="compared",
        )
        self.start(
            {
                "layer": self.row(which, self.button),
                "unit": row,
                "sparsity": below,
                "by_hand": line,
                "how": self.row(by, scope),
            },
            {
                "layer": which,
                "unit": self._unit,
                "sparsity": share,
                "by_hand": line,
                "criterion": by,
                "scope": scope,
            },
            hint="Click a unit to pick it; click it once more to remove it, or to restore it.",
        )

    def answer(self, moved: str) -> dict[str, Any]:
        self._bound(self.controls["layer"].value)
        self._planned = self._by_score()
        units = read(self.controls["by_hand"].value)
        plan = amend(self._planned, units)
        known, found = self._cost
        return {
            **picked(self._makes, self.controls["layer"].value, round(self._unit.value), plan),
            "plan": plan,
            "by_hand": units,
            "criterion": self.controls["criterion"].value,
            "scope": self.controls["scope"].value,
            "sparsity": plan.sparsity,
            **(found if known == key(plan) else dict.fromkeys(SLOW)),
        }

    def later(self, result: dict[str, Any]) -> Work | None:
        if result["macs"] is not None:
            return None
        plan = result["plan"]

        def work(go_on: GoOn) -> dict[str, Any]:
            small = self._cut(plan)
            go_on()
            macs = measure(small, self._x).macs
            right = None
            if self.batches is not None:
                right = accuracy(small, go_on.through(self.batches))
            go_on()
            whole, left = latencies([self._whole, small], self._x, seconds=SECONDS, least=5)
            found = {
                "accuracy": right,
                "macs": macs,
                "speedup": self._macs / macs,
                "latency_ms": (whole, left),
                "latency_speedup": whole / left,
            }
            self._cost = key(plan), found
            return found

        return work

    def show(self, result: dict[str, Any]) -> tuple[str, str]:
        self.button.disabled = bool(result["frozen"])
        self.button.description = "restore" if result["gone"] else "remove"
        said = sentence(result, self._kinds)
        picture = network.svg(self._rows(result), label=said)
        return f"{picture}<p>{escape(clock(result))}</p>", said

    def touched(self, x: float, y: float, press: bool) -> dict[str, Any]:
        here = self._result
        found = network.unit_at(self._rows(here), x, y)
        if found is None:
            return {}
        layer, side, number = found
        unit = (self._makes if side == "makes" else self._reads)[layer][number]
        picked = self._makes[here["layer"]][here["unit"]]
        if unit == picked:
            return {} if here["frozen"] else {"by_hand": self._turned()}
        # a unit that is read is picked where it is made
        layer = layer if side == "makes" else next(n for n, u in self._makes.items() if unit in u)
        self._bound(layer)
        return {"layer": layer, "unit": self._makes[layer].index(unit)}

    def draw(self, result: dict[str, Any]) -> Figure:
        drawn = self._rows(result)
        with figure(*network.size(drawn)) as (fig, ax):
            network.draw(drawn, ax)
        return fig

    def to_python(self) -> str:
        criterion, scope = (self.controls[n].value for n in ("criterion", "scope"))
        try:
            hands = changes(
                self._planned, amend(self._planned, read(self.controls["by_hand"].value))
            )
        except ValueError:
            hands = {}  # the panel says already what is wrong with it
        return code(
            hands,
            criterion=criterion,
            sparsity=self.controls["sparsity"].at,
            scope=scope,
            judged=self.batches is not None,
            approximate=self._approximate,
            again=self._again,
        )

    def _by_score(self) -> Plan:
        criterion = self.controls["criterion"].value
        if criterion not in self._scores:
            self._scores[criterion] = score(self._model, criterion, groups=self._groups)
        return select(
            self._scores[criterion],
            sparsity=self.controls["sparsity"].at,
            scope=self.controls["scope"].value,
        )

    def _bound(self, layer: str) -> None:
        """Let the slider of the unit end where the layer does."""
        last = len(self._makes[layer]) - 1
        before, self._busy = self._busy, True
        try:
            for control in (self._field, self._unit):
                control.value = min(control.value, last)
                control.max = max(last, 1)  # a slider needs two ends
        finally:
            self._busy = before

    def _pressed(self) -> None:
        """Let the picked unit go, or stay, by hand."""
        with self._lock, hand():
            if self._result:  # else what is written by hand has to be mended first
                self.controls["by_hand"].value = self._turned()

    def _turned(self) -> str:
        """Return what is to be written by hand so that the picked unit goes, or stays."""
        here = self._result
        return write(toggled(self._planned, here["by_hand"], here["layer"], here["unit"]))

    def _rows(self, result: dict[str, Any]) -> list[network.Row]:
        return network_rows(self._labels, self._reads, self._makes, result)

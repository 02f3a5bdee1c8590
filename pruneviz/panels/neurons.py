"""Which layers share a unit, and what is left when some units are removed."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, calling_it
from pruneviz.core.groups import check_some_cuttable
from pruneviz.metrics.accuracy import accuracy
from pruneviz.metrics.cost import measure
from pruneviz.metrics.latency_comparison import compare_latency
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import plain_torch
from pruneviz.model.layout import fast_batches
from pruneviz.panels.kit.origin import user_move
from pruneviz.panels.kit.panel import Panel, Work
from pruneviz.panels.kit.script import batches_line
from pruneviz.panels.kit.worker import CancelToken
from pruneviz.panels.neurons_text import (
    code,
    network_rows,
    plan_key,
    sentence,
    timing_sentence,
    unit_facts,
)
from pruneviz.plots import network
from pruneviz.plots.groups import layer_rows, row_label
from pruneviz.plots.style import figure
from pruneviz.pruning.session import Session
from pruneviz.selection.criteria.registry import CRITERIA
from pruneviz.selection.edit import changes, edited, toggled
from pruneviz.selection.notation import read_units, write_units
from pruneviz.selection.score import score
from pruneviz.selection.select import select

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from pruneviz.core.plan import Plan, Scores


SECONDS = 0.03  # for measuring the time, after every move
AVAILABLE = {"weight", "generator"}  # what a criterion can use here, without data
MEASURED = ("accuracy", "macs", "speedup", "timing")


@plain_torch()
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
    """Show a network unit by unit: pick a unit, see what is cut with it, prune, and measure.

    Each row is a layer: left the units that it reads, right the units that it makes. The picked
    unit is marked in every layer that makes or reads it. The sparsity slider removes the units
    with the lowest scores; the button removes or restores the picked unit, whatever its score.
    When the control is idle, the smaller network is made and compared with the masked one; then
    its accuracy, its multiply-accumulates and its time, next to the time of the whole network, are
    measured.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    x : Tensor, tuple or dict
        Example input. The time is that of one forward with all of it at once: a few examples.
    batches : iterable of (inputs, labels), optional
        If given, the accuracy is measured on them; read once.
    criterion : str
        First value of the drop-down.
    sparsity : float
        First value of the slider, in [0, 0.95].
    layer, unit : str and int
        Which unit is picked at first; default: the first one.
    approximate : bool
        As for `find_groups`: whether units can be removed over which a norm runs.

    Returns
    -------
    Panel
        ``controls``: ``"layer"``, ``"unit"``, ``"sparsity"``, ``"by_hand"`` (units that are
        removed or, with a minus, kept, whatever their scores: ``"conv1: 3, 5-7; fc1: -12"``),
        ``"criterion"``, ``"scope"``. ``button`` removes or restores the picked unit: it writes
        that into ``"by_hand"``. ``result``: of the picked unit ``layer``, ``unit``, ``group``,
        ``frozen`` (why it cannot be removed, or ``""``), ``gone`` (whether it is removed),
        ``producers``, ``consumers``, ``tensors``; of the smaller network ``plan``, ``by_hand``
        (layer to unit number to whether the unit is kept), ``sparsity`` (of units), ``accuracy``
        (None without batches), ``macs``, ``speedup`` (of MACs: whole ÷ smaller), ``timing`` (a
        `Timing`, just measured; None while all units stay).

    Raises
    ------
    ArgumentError, GraphError
        As `find_groups`, `score` and `accuracy` do; if ``"by_hand"`` names a unit that does not
        exist or cannot be removed, or removes every unit of a group.

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
    with calling_it("x"):
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
        usable = [
            n for n, c in CRITERIA.items() if "unit" in c.granularity and set(c.needs) <= AVAILABLE
        ]
        if criterion in CRITERIA and criterion not in usable:
            raise ArgumentError(
                f"criterion {criterion!r} needs data, or is for single weights: this panel takes "
                f"{', '.join(sorted(usable))}. With data: pv.panel_whatif(model, batches)."
            )
        checks.choice(criterion, "criterion", usable, what="criterion")
        sparsity = checks.number(sparsity, "sparsity", low=0, high=0.95)
        # one copy for the quick answers, and one for the other thread
        self._model, self._whole = (copy_of(checks.unwrapped(model)).eval() for _ in range(2))
        self._x, self._approximate = x, approximate
        session = Session(self._whole, x, approximate=approximate)
        self._groups, self._macs = session.groups, session.dense.macs
        self._shrink = session.shrinker.compared
        self.batches = None if batches is None else fast_batches(batches, model=self._model)
        self._batches_line = batches_line(batches)
        self._kinds = {n: type(m).__name__ for n, m in model.named_modules()}
        self._labels = {names[0]: row_label(names) for names in layer_rows(self._groups.to_frame())}
        made = {n for group in self._groups for n in group.producers}
        self._makes = {n: self._groups.units_of(n) if n in made else [] for n in self._labels}
        self._reads = {n: self._groups.read_by(n) for n in self._labels}
        self._scores: dict[str, Scores] = {}
        self._measured: tuple[Any, dict[str, Any]] = (None, {})
        layers = [n for n in self._labels if self._makes[n]]
        if not layers:
            raise ArgumentError("`model` has no units to show: none of its layers has weights.")
        check_some_cuttable(self._groups)
        cuttable = [n for n in layers if not all(g.frozen for g, _ in self._makes[n])]
        first = [*cuttable, *layers][0] if layer is None else layer
        layer = checks.layer(first, layers)
        unit = checks.count(unit, "unit")
        super().__init__()
        self._lay_out(layers, layer, unit, usable, criterion, sparsity)

    def _lay_out(
        self, layers: list[str], layer: str, unit: int, usable: list[str], criterion: str,
        sparsity: float,
    ) -> None:  # fmt: skip
        """Make the controls and start."""
        last = len(self._makes[layer]) - 1
        row, self._unit = self.slider("unit", min(unit, last), 0, max(last, 1), 1, digits=0)
        self._field = row.children[0]
        self.button = widgets.Button(description="remove", layout={"width": "90px"})
        self.button.on_click(lambda _: self._on_button())
        sparsity_row, share = self.slider("sparsity", sparsity, 0.0, 0.95, 0.01)
        which = widgets.Dropdown(
            options=[(n or "(model)", n) for n in layers], value=layer, description="layer"
        )
        line = widgets.Text(
            description="by hand",
            continuous_update=False,
            placeholder=f"{layers[0] or '(model)'}: 3, 5-7, -12 (with a minus: stays)",
            layout={"width": "604px", "max_width": "98%"},
        )
        by = widgets.Dropdown(options=usable, value=criterion, description="criterion")
        scope = widgets.Dropdown(
            options=[("within each layer", "layer"), ("over all layers", "global")],
            description="compared",
        )
        self.start(
            {
                "layer": self.row(which, self.button),
                "unit": row,
                "sparsity": sparsity_row,
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
        self._limit_unit_slider(self.controls["layer"].value)
        self._selected = self._by_score()
        units = read_units(self.controls["by_hand"].value)
        plan = edited(self._selected, units)
        measured_plan, measured = self._measured
        return {
            **unit_facts(self._makes, self.controls["layer"].value, round(self._unit.value), plan),
            "plan": plan,
            "by_hand": units,
            "criterion": self.controls["criterion"].value,
            "scope": self.controls["scope"].value,
            "sparsity": plan.sparsity,
            **(measured if measured_plan == plan_key(plan) else dict.fromkeys(MEASURED)),
        }

    def later(self, result: dict[str, Any]) -> Work | None:
        if result["macs"] is not None:
            return None
        plan = result["plan"]

        def work(token: CancelToken) -> dict[str, Any]:
            small = self._shrink(plan)
            token()
            macs = measure(small, self._x).macs
            share_right = None
            if self.batches is not None:
                share_right = accuracy(small, token.through(self.batches))
            token()
            timing = None  # with all units in place there is nothing to compare
            if plan.kept < plan.total:
                timing = compare_latency(self._whole, small, self._x, seconds=SECONDS)
            measured = {
                "accuracy": share_right,
                "macs": macs,
                "speedup": self._macs / macs,
                "timing": timing,
            }
            self._measured = plan_key(plan), measured
            return measured

        return work

    def show(self, result: dict[str, Any]) -> tuple[str, str]:
        self.button.disabled = bool(result["frozen"])
        self.button.description = "restore" if result["gone"] else "remove"
        text = sentence(result, self._kinds)
        picture = network.svg(self._rows(result), label=text)
        return f"{picture}<p>{escape(timing_sentence(result))}</p>", text

    def pointed(self, x: float, y: float, press: bool) -> dict[str, Any]:
        result = self._result
        place = network.unit_at(self._rows(result), x, y)
        if place is None:
            return {}
        layer, side, number = place
        unit = (self._makes if side == "makes" else self._reads)[layer][number]
        picked = self._makes[result["layer"]][result["unit"]]
        if unit == picked:
            return {} if result["frozen"] else {"by_hand": self._with_unit_toggled()}
        # a unit is picked in the layer that makes it, also when the click was where it is read
        layer = layer if side == "makes" else next(n for n, u in self._makes.items() if unit in u)
        self._limit_unit_slider(layer)
        return {"layer": layer, "unit": self._makes[layer].index(unit)}

    def draw(self, result: dict[str, Any]) -> Figure:
        drawn = self._rows(result)
        with figure(*network.size(drawn)) as (fig, ax):
            network.draw(drawn, ax)
        return fig

    def to_python(self) -> str:
        criterion, scope = (self.controls[n].value for n in ("criterion", "scope"))
        try:
            edits = changes(
                self._selected, edited(self._selected, read_units(self.controls["by_hand"].value))
            )
        except ValueError:
            edits = {}  # the panel shows the error already
        return code(
            edits,
            criterion=criterion,
            sparsity=self.controls["sparsity"].rounded,
            scope=scope,
            with_accuracy=self.batches is not None,
            approximate=self._approximate,
            batches_line=self._batches_line,
        )

    def _by_score(self) -> Plan:
        criterion = self.controls["criterion"].value
        if criterion not in self._scores:
            self._scores[criterion] = score(self._model, criterion, groups=self._groups)
        return select(
            self._scores[criterion],
            sparsity=self.controls["sparsity"].rounded,
            scope=self.controls["scope"].value,
        )

    def _limit_unit_slider(self, layer: str) -> None:
        """Set the maximum of the unit slider to the last unit of the layer."""
        last = len(self._makes[layer]) - 1
        before, self._busy = self._busy, True
        try:
            for control in (self._field, self._unit):
                control.value = min(control.value, last)
                control.max = max(last, 1)  # a slider needs max > min
        finally:
            self._busy = before

    def _on_button(self) -> None:
        """Remove the picked unit, or restore it."""
        with self._lock, user_move():
            if self._result:  # empty while the text field "by_hand" has an error
                self.controls["by_hand"].value = self._with_unit_toggled()

    def _with_unit_toggled(self) -> str:
        """Return the text for "by_hand" that removes the picked unit, or restores it."""
        r = self._result
        return write_units(toggled(self._selected, r["by_hand"], r["layer"], r["unit"]))

    def _rows(self, result: dict[str, Any]) -> list[network.Row]:
        return network_rows(self._labels, self._reads, self._makes, result)

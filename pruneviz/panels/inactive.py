"""Which units are inactive, on which examples, and what removing them costs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Groups
from pruneviz.evidence.activations import activations_of_parts
from pruneviz.evidence.collect import collect
from pruneviz.evidence.evidence import Evidence
from pruneviz.metrics.accuracy import accuracy
from pruneviz.model.batches import by_class, examples_of_each_class
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import plain_torch
from pruneviz.model.layout import fast_batches
from pruneviz.panels.inactive_text import ALL_EXAMPLES, code, sentence
from pruneviz.panels.kit.panel import Panel, Work
from pruneviz.panels.kit.script import batches_line
from pruneviz.panels.kit.worker import CancelToken
from pruneviz.plots import activation_map
from pruneviz.plots import inactive as plot
from pruneviz.plots.style import figure
from pruneviz.pruning.session import Session
from pruneviz.redundancy.inactive import KINDS, RARE, find_inactive
from pruneviz.selection.drop import plan_removing
from pruneviz.selection.edit import units_to_drop

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn


EVERY_CLASS = -1  # examples of every class
MAX_EXAMPLES = 100  # examples in the picture
ORDERS = {"how often awake": "active", "how strong": "mean", "number": "unit"}
REPAIRS = {
    "nothing": "nothing: all stay",
    "remove": "remove them",
    "fold": "remove and fold the mean",
}
ACCURACIES = ("accuracy_before", "accuracy", "accuracy_seen_before", "accuracy_seen")


@plain_torch()
def panel_inactive(
    model: nn.Module,
    batches: Iterable[tuple[Any, Tensor]],
    *,
    classes: Sequence[str] | None = None,
    layer: str | None = None,
    rare: float = RARE,
    order: str = "active",
    repair: str = "nothing",
) -> Panel:
    """Show which units of a layer are inactive on these examples, and what removing them costs.

    Each row is a unit and each column an example, blue where the unit is active. Marked are the
    units that were never active (dead), had always the same value (constant), or were active at
    most as often as the slider says (rare), on all examples or on those of one class. When they
    are removed and the control is idle, the smaller network is made and its accuracy measured.

    Parameters
    ----------
    model : nn.Module
        Gives logits of shape (n, classes). Not changed.
    batches : iterable of (inputs, labels)
        Read once: the activations are collected from them, and the accuracy is measured on them.
    classes : sequence of str, optional
        Name of each class; default: its number.
    layer : str, optional
        Name of the group that is shown first; default: the one with the most dead units.
    rare : float
        First value of the slider, in [0, 0.5].
    order : str
        ``"active"``, ``"mean"`` or ``"unit"``, as for `plot_inactive`.
    repair : str
        ``"nothing"``: all units are kept; ``"remove"``: the inactive units are removed; ``"fold"``:
        they are removed, and their means are added to the biases of the layers that read them.

    Returns
    -------
    Panel
        ``controls``: ``"layer"``, ``"seen"`` (a class, or -1 for all examples), ``"rare"``,
        ``"order"``, ``"repair"``.
        ``result``: ``layer``, ``seen`` (name of a class, or ``"all examples"``), ``units``, ``dead``,
        ``constant``, ``rare`` (numbers of units), ``counts``, ``repair``, ``plan``,
        ``accuracy_before``, ``accuracy``, and the same on the examples of ``seen``:
        ``accuracy_seen_before``, ``accuracy_seen``.

    Raises
    ------
    ArgumentError, GraphError
        As `find_groups`, `collect` and `accuracy` do; if no group can be cut.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> with torch.no_grad():
    ...     model[0].weight[3], model[0].bias[3] = 0, -1.0
    >>> panel = pv.panel_inactive(model, [(torch.randn(20, 4), torch.arange(20) % 2)])
    >>> panel.result["dead"]
    [3]
    >>> panel.controls["repair"].value = "remove"
    >>> panel.result["accuracy"] == panel.result["accuracy_before"]
    True
    >>> panel.close()
    """
    return SleepersPanel(model, batches, classes, layer, rare, order, repair)


class SleepersPanel(Panel):
    """The panel behind `panel_inactive`."""

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[tuple[Any, Tensor]],
        classes: Sequence[str] | None,
        layer: str | None,
        rare: float,
        order: str,
        repair: str,
    ) -> None:
        rare = checks.number(rare, "rare", low=0, high=0.5)
        checks.choice(order, "order", activation_map.ORDERS)
        checks.choice(repair, "repair", REPAIRS)
        # one copy for the quick answers, and one for the other thread
        self._model, self._background_model = (
            copy_of(checks.unwrapped(model)).eval() for _ in range(2)
        )
        self.batches = fast_batches(batches, model=self._model)
        self._batches_line = batches_line(batches)
        self._classes = checks.classes(classes)
        self._collect()
        x = self._shown[0][0] if len(self._shown[0]) == 1 else self.batches[0][0]
        session = Session(self._background_model, x)
        self._shrinker, self._groups = session.shrinker, session.groups
        # A group with `even` must lose the same number of units in each of its parts, so removing
        # only its inactive units may be impossible: such groups are left out.
        inputs = self._evidence[EVERY_CLASS].inputs
        self._cuttable = {
            g.name: Groups((g,))
            for g in self._groups.cuttable
            if g.even is None and any(c in inputs for c in g.consumers)
        }
        if not self._cuttable:
            raise ArgumentError("`model` has no group that a Linear or Conv layer reads.")
        first = self._most_dead() if layer is None else layer
        first = checks.layer(first, self._cuttable)
        self._activations: dict[str, Any] = {}
        self._drawn: tuple[Any, Any] = (None, None)  # settings of the picture, and the picture
        # by (units removed and how, class of the examples)
        self._accuracies: dict[Any, float] = {
            ((), EVERY_CLASS): accuracy(self._background_model, self.batches)
        }
        super().__init__()
        rare_row, slider = self.slider("rare", rare, 0.0, 0.5, 0.005, digits=3)
        which = widgets.Dropdown(
            options=[(n or "(model)", n) for n in self._cuttable], value=first, description="layer"
        )
        seen = widgets.Dropdown(
            options=[(self._name(c), c) for c in self._evidence],
            value=EVERY_CLASS,
            description="seen on",
        )
        by = widgets.Dropdown(options=list(ORDERS.items()), value=order, description="order")
        what = widgets.Dropdown(
            options=[(text, value) for value, text in REPAIRS.items()],
            value=repair,
            description="inactive",
        )
        self.start(
            {"where": self.row(which, seen), "rare": rare_row, "how": self.row(what, by)},
            {"layer": which, "seen": seen, "rare": slider, "order": by, "repair": what},
            hint="Click a class in the picture to look at its examples only; click it again to look at all.",
        )

    def answer(self, moved: str) -> dict[str, Any]:
        layer, seen, order, repair = (
            self.controls[n].value for n in ("layer", "seen", "order", "repair")
        )
        rare = self.controls["rare"].rounded
        frame = self._inactive(layer, seen, rare)
        units = {kind: frame["unit"][frame["kind"] == kind].tolist() for kind in KINDS}
        plan = plan_removing(self._groups, layer, [u for kind in KINDS for u in units[kind]])
        self._settings = (layer, seen, rare, order), self._accuracy_keys(plan, repair, seen), plan
        return {
            "layer": layer,
            "seen": self._name(seen),
            "units": self._groups[layer].size,
            **units,
            "counts": {kind: len(numbers) for kind, numbers in units.items()},
            "threshold": rare,
            "repair": repair,
            "plan": plan,
            **{name: self._accuracies.get(key) for name, key in self._settings[1].items()},
        }

    def later(self, result: dict[str, Any]) -> Work | None:
        (_, seen, _, _), keys, plan = self._settings
        repair = result["repair"]
        known = {k: self._accuracies[k] for k in keys.values() if k in self._accuracies}
        missing = {k for k in keys.values() if k not in known}
        if not missing:
            return None

        def work(token: CancelToken) -> dict[str, Any]:
            nets = {
                removed: self._smaller(plan, repair, seen) if removed else self._background_model
                for removed in {removed for removed, _ in missing}
            }
            measured = {
                (removed, where): accuracy(nets[removed], token.through(self._parts[where]))
                for removed, where in missing
            }
            before = self._accuracies if len(self._accuracies) < 1000 else {}
            self._accuracies = {**before, **measured}
            return {name: {**known, **measured}[key] for name, key in keys.items()}

        return work

    def show(self, result: dict[str, Any]) -> tuple[str, str]:
        text, settings = sentence(result), self._settings[0]
        if self._drawn[0] != settings:
            self._drawn = settings, self._picture(*settings)
        return plot.svg(self._drawn[1], label=text), text

    def pointed(self, x: float, y: float, press: bool) -> dict[str, Any]:
        block = self._drawn[1].block_at(x, y)
        if block is None:
            return {}
        seen = sorted(set(self._shown[1]))[block]
        return {"seen": EVERY_CLASS if seen == self.controls["seen"].value else seen}

    def draw(self, result: dict[str, Any]) -> Figure:
        p = self._drawn[1]  # after an error: the last picture
        with figure(*plot.size(p)) as (fig, ax):
            plot.draw(p, ax)
        return fig

    def to_python(self) -> str:
        (layer, seen, rare, _), _, plan = self._settings
        where = None if seen == EVERY_CLASS else seen
        repair = self.controls["repair"].value
        return code(
            units_to_drop(plan),
            group=layer,
            seen=where,
            rare=rare,
            repair=repair,
            batches_line=self._batches_line,
        )

    def _collect(self) -> None:
        """Collect the activations, for each class and for all examples together."""
        batches_of = by_class(self.batches)
        self._parts = {EVERY_CLASS: self.batches, **batches_of}
        self._shown = examples_of_each_class(batches_of, MAX_EXAMPLES)
        evidence = {
            c: collect(self._model, part, comoment=False, progress=False)
            for c, part in batches_of.items()
        }
        self._evidence = {EVERY_CLASS: reduce(Evidence.merge, evidence.values()), **evidence}

    def _most_dead(self) -> str:
        dead = {
            n: self._inactive(n, EVERY_CLASS, 0.0)["kind"].eq("dead").sum() for n in self._cuttable
        }
        return max(dead, key=lambda n: dead[n])

    def _inactive(self, layer: str, seen: int, rare: float) -> Any:
        return find_inactive(self._evidence[seen], groups=self._cuttable[layer], rare=rare)

    def _accuracy_keys(self, plan: Any, repair: str, seen: int) -> dict[str, tuple[Any, int]]:
        """Return the key of each accuracy: units removed and how, and the class of the examples."""
        unchanged = repair == "nothing" or plan.kept == plan.total
        keep = () if unchanged else tuple(tuple(k.tolist()) for k in plan.keep.values())
        # the means that are folded in are those on the examples of `seen`
        key = (keep, repair, seen if repair == "fold" else EVERY_CLASS) if keep else ()
        keys = (((), EVERY_CLASS), (key, EVERY_CLASS), ((), seen), (key, seen))
        return dict(zip(ACCURACIES, keys, strict=True))

    def _smaller(self, plan: Any, repair: str, seen: int) -> nn.Module:
        small = self._shrinker.compared(plan)
        if repair == "fold":
            self._shrinker.repair(small, plan, "fold", self._evidence[seen], None)
        return small

    def _picture(self, layer: str, seen: int, rare: float, order: str) -> activation_map.Picture:
        x, labels = self._shown
        if layer not in self._activations:
            self._activations[layer] = activations_of_parts(
                self._model, x, groups=self._groups, group=layer
            )
        return activation_map.picture(
            self._activations[layer],
            inactive=self._inactive(layer, seen, rare),
            labels=labels,
            classes=self._classes,
            order=order,
            picked=seen,
        )

    def _name(self, c: int) -> str:
        if c == EVERY_CLASS:
            return ALL_EXAMPLES
        named = self._classes is not None and 0 <= c < len(self._classes)
        return self._classes[c] if named and self._classes else f"class {c}"

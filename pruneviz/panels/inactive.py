"""Units that sleep: who never fires, on which examples, and what it costs to let them go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Groups
from pruneviz.evidence.activations import of_all
from pruneviz.evidence.collect import collect
from pruneviz.evidence.evidence import Evidence
from pruneviz.graph.find_groups import find_groups
from pruneviz.metrics.accuracy import accuracy
from pruneviz.model.batches import by_class, ready, some_of_each
from pruneviz.model.forward import copy_of
from pruneviz.panels.inactive_text import EVERY, code, sentence
from pruneviz.panels.kit.panel import Panel, Work
from pruneviz.panels.kit.script import again
from pruneviz.panels.kit.worker import GoOn
from pruneviz.plots import activation_map
from pruneviz.plots import inactive as plot
from pruneviz.plots.style import figure
from pruneviz.pruning.shrink import Shrinker
from pruneviz.redundancy.inactive import KINDS, RARE, find_inactive
from pruneviz.selection.drop import plan_without
from pruneviz.selection.edit import named

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn


ALL = -1  # examples of every class
MAX_EXAMPLES = 100  # examples in the picture
ORDERS = {"how often awake": "active", "how strong": "mean", "number": "unit"}
REPAIRS = {
    "nothing": "nothing: all stay",
    "remove": "remove them",
    "fold": "remove and fold the mean",
}
FOUND = ("accuracy_before", "accuracy", "accuracy_seen_before", "accuracy_seen")


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
    """Show which units of a layer sleep on these examples, and what happens when they go.

    A row is a unit, a column an example, blue where the unit is active. Marked are the units that
    were never active (dead), always the same (constant), or active at most as often as the slider
    says (rare): on all examples, or on those of one class. Let them go, and when the hand rests the
    smaller network is made for real, and its accuracy measured.

    Parameters
    ----------
    model : nn.Module
        Gives logits of shape (n, classes). Not changed.
    batches : iterable of (inputs, labels)
        Read once: what the units do is collected from them, and the accuracy measured on them.
    classes : sequence of str, optional
        Name of each class; default: its number.
    layer : str, optional
        Which group is shown first, by its name; default: the one with the most dead units.
    rare : float
        Where the slider stands at first, in [0, 0.5].
    order : str
        ``"active"``, ``"mean"`` or ``"unit"``, as for `plot_inactive`.
    repair : str
        ``"nothing"``: all units stay; ``"remove"``: the sleepers go; ``"fold"``: they go, and their
        means go into the biases of the layers that read them.

    Returns
    -------
    Panel
        ``controls``: ``"layer"``, ``"seen"`` (a class, or -1 for all examples), ``"rare"``,
        ``"order"``, ``"repair"``.
        ``result``: ``layer``, ``seen`` (name of a class, or ``"all examples"``), ``units``, ``dead``,
        ``constant``, ``rare`` (numbers of units), ``counts``, ``repair``, ``plan``,
        ``accuracy_before``, ``accuracy``, and the same on the examples on which was looked:
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
        # one to answer with, and one for the other thread
        self._model, self._whole = (copy_of(checks.unwrapped(model)).eval() for _ in range(2))
        self.batches = ready(batches, model=self._model)
        self._again = again(batches)
        self._classes = checks.classes(classes)
        self._look()
        x = self._shown[0][0] if len(self._shown[0]) == 1 else self.batches[0][0]
        self._shrinker = Shrinker(self._whole, x)
        self._groups = find_groups(self._model, x)
        # where as many units must go from each part, sleepers alone cannot
        self._known = {g.name: Groups((g,)) for g in self._groups if not g.frozen and g.even is None
                       and any(c in self._evidence[ALL].inputs for c in g.consumers)}  # fmt: skip
        if not self._known:
            raise ArgumentError("`model` has no group that a Linear or Conv layer reads.")
        first = self._sleepiest() if layer is None else layer
        checks.choice(first, "layer", self._known, what="layer")
        self._heat: dict[str, Any] = {}
        self._drawn: tuple[Any, Any] = (None, None)
        self._shares: dict[Any, float] = {((), ALL): accuracy(self._whole, self.batches)}
        super().__init__()
        seldom, slider = self.slider("rare", rare, 0.0, 0.5, 0.005, digits=3)
        which = widgets.Dropdown(
            options=[(n or "(model)", n) for n in self._known], value=first, description="layer"
        )
        seen = widgets.Dropdown(
            options=[(self._name(c), c) for c in self._evidence], value=ALL, description="seen on"
        )
        by = widgets.Dropdown(options=list(ORDERS.items()), value=order, description="order")
        what = widgets.Dropdown(
            options=[(text, value) for value, text in REPAIRS.items()],
            value=repair,
            description="sleepers",
        )
        self.start(
            {"where": self.row(which, seen), "rare": seldom, "how": self.row(what, by)},
            {"layer": which, "seen": seen, "rare": slider, "order": by, "repair": what},
            hint="Click a class in the picture to look at its examples only; click it again to look at all.",
        )

    def answer(self, moved: str) -> dict[str, Any]:
        layer, seen, order, repair = (
            self.controls[n].value for n in ("layer", "seen", "order", "repair")
        )
        rare = self.controls["rare"].at
        frame = self._sleepers(layer, seen, rare)
        units = {kind: frame["unit"][frame["kind"] == kind].tolist() for kind in KINDS}
        plan = plan_without(self._groups, layer, [u for kind in KINDS for u in units[kind]])
        self._asked = (layer, seen, rare, order), self._shares_of(plan, repair, seen), plan
        return {
            "layer": layer,
            "seen": self._name(seen),
            "units": self._groups[layer].size,
            **units,
            "counts": {kind: len(numbers) for kind, numbers in units.items()},
            "threshold": rare,
            "repair": repair,
            "plan": plan,
            **{name: self._shares.get(share) for name, share in self._asked[1].items()},
        }

    def later(self, result: dict[str, Any]) -> Work | None:
        (_, seen, _, _), shares, plan = self._asked
        repair = result["repair"]
        known = {s: self._shares[s] for s in shares.values() if s in self._shares}
        missing = {s for s in shares.values() if s not in known}
        if not missing:
            return None

        def work(go_on: GoOn) -> dict[str, Any]:
            nets = {
                gone: self._smaller(plan, repair, seen) if gone else self._whole
                for gone in {gone for gone, _ in missing}
            }
            found = {
                (gone, where): accuracy(nets[gone], go_on.through(self._parts[where]))
                for gone, where in missing
            }
            before = self._shares if len(self._shares) < 1000 else {}
            self._shares = {**before, **found}
            return {name: {**known, **found}[share] for name, share in shares.items()}

        return work

    def show(self, result: dict[str, Any]) -> tuple[str, str]:
        said, what = sentence(result), self._asked[0]
        if self._drawn[0] != what:
            self._drawn = what, self._picture(*what)
        return plot.svg(self._drawn[1], label=said), said

    def touched(self, x: float, y: float, press: bool) -> dict[str, Any]:
        block = self._drawn[1].block_at(x, y)
        if block is None:
            return {}
        seen = sorted(set(self._shown[1]))[block]
        return {"seen": ALL if seen == self.controls["seen"].value else seen}

    def draw(self, result: dict[str, Any]) -> Figure:
        p = self._drawn[1]  # after an error what was drawn last
        with figure(*plot.size(p)) as (fig, ax):
            plot.draw(p, ax)
        return fig

    def to_python(self) -> str:
        (layer, seen, rare, _), _, plan = self._asked
        where = None if seen == ALL else seen
        repair = self.controls["repair"].value
        return code(
            named(plan), group=layer, seen=where, rare=rare, repair=repair, again=self._again
        )

    def _look(self) -> None:
        """Collect what the units do: class by class, and of all together."""
        each = by_class(self.batches)
        self._parts = {ALL: self.batches, **each}
        self._shown = some_of_each(each, MAX_EXAMPLES)
        found = {
            c: collect(self._model, part, comoment=False, progress=False)
            for c, part in each.items()
        }
        self._evidence = {ALL: reduce(Evidence.merge, found.values()), **found}

    def _sleepiest(self) -> str:
        dead = {n: self._sleepers(n, ALL, 0.0)["kind"].eq("dead").sum() for n in self._known}
        return max(dead, key=lambda n: dead[n])

    def _sleepers(self, layer: str, seen: int, rare: float) -> Any:
        return find_inactive(self._evidence[seen], groups=self._known[layer], rare=rare)

    def _shares_of(self, plan: Any, repair: str, seen: int) -> dict[str, tuple[Any, int]]:
        """Return what each accuracy is of: which units go and how, and on which examples."""
        idle = repair == "nothing" or plan.kept == plan.total
        gone = () if idle else tuple(tuple(k.tolist()) for k in plan.keep.values())
        # what is folded in depends on where was looked
        key = (gone, repair, seen if repair == "fold" else ALL) if gone else ()
        what = (((), ALL), (key, ALL), ((), seen), (key, seen))
        return dict(zip(FOUND, what, strict=True))

    def _smaller(self, plan: Any, repair: str, seen: int) -> nn.Module:
        small = self._shrinker.proved(plan)
        if repair == "fold":
            self._shrinker.repair(small, plan, "fold", self._evidence[seen], None)
        return small

    def _picture(self, layer: str, seen: int, rare: float, order: str) -> activation_map.Picture:
        x, labels = self._shown
        if layer not in self._heat:
            self._heat[layer] = of_all(self._model, x, groups=self._groups, group=layer)
        return activation_map.picture(
            self._heat[layer],
            sleepers=self._sleepers(layer, seen, rare),
            labels=labels,
            classes=self._classes,
            order=order,
            picked=seen,
        )

    def _name(self, c: int) -> str:
        if c == ALL:
            return EVERY
        named = self._classes is not None and 0 <= c < len(self._classes)
        return self._classes[c] if named and self._classes else f"class {c}"

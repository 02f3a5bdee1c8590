"""Twins: which units do nearly the same, and who does the work of one that goes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.core import checks
from pruneviz.core.groups import some_can_go
from pruneviz.core.plan import Plan
from pruneviz.evidence.collect import collect
from pruneviz.evidence.evidence import Evidence
from pruneviz.graph.find_groups import find_groups
from pruneviz.metrics.accuracy import accuracy
from pruneviz.metrics.cost import measure
from pruneviz.model.batches import ready
from pruneviz.model.forward import copy_of
from pruneviz.panels.inactive_text import LISTED
from pruneviz.panels.kit.panel import Panel, Work
from pruneviz.panels.kit.script import again
from pruneviz.panels.kit.worker import GoOn
from pruneviz.panels.redundant_text import Reading, told
from pruneviz.plots import redundant_pair as plots
from pruneviz.pruning.shrink import Shrinker
from pruneviz.redundancy.redundant import find_redundant
from pruneviz.selection.drop import drop_redundant

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor, nn


MAX_PAIRS = 100_000  # pairs that are looked at
RUNGS = {"delete": "none", "fold": "fold", "merge": "merge", "least squares": "lstsq"}
BY = {"what they do": "activations", "their weights": "weights"}
ALL = "all layers"


def panel_redundant(
    model: nn.Module,
    x: Any,
    *,
    batches: Iterable[tuple[Any, Tensor]],
    evidence: Evidence | None = None,
    by: str = "activations",
    layer: str | None = None,
    threshold: float = 0.8,
    pair: int = 0,
) -> Panel:
    """Show which units repeat each other; drop one of each pair, and let others do its work.

    Each unit is a point: how similar it is to the larger unit that is most like it, and how large
    beside that one. Drag the threshold: of each pair that reaches it one goes, if its twin stays (see
    `drop_redundant`). The smaller network is made for real; when the hand rests, it is repaired by each
    rung of the ladder (see `shrink`), and the four accuracies stand side by side. Pick a pair, and
    see the weights with which its two units read.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    x : Tensor, tuple or dict
        Example input: a few examples.
    batches : iterable of (inputs, labels)
        What the accuracy is measured on, four times for every plan; read once.
    evidence : Evidence, optional
        From `collect` on this model: what the repairs learn from, and who is alike. Default: it is
        collected from `batches`, without their labels.
    by : str
        Where the drop-down stands at first: ``"activations"``, or ``"weights"``, which needs no data.
    layer : str, optional
        The same: name of a group, or ``"all layers"``. Default: the first group that can be cut.
    threshold : float
        Where the slider stands at first, in [0, 1].
    pair : int
        Which pair is picked at first; 0: the most similar.

    Returns
    -------
    Panel
        ``controls``: ``"threshold"``, ``"pair"``, ``"layer"``, ``"by"``. ``result``: ``plan``;
        ``gone`` and ``total`` (units of the layer), ``accuracy`` (a dict: ``"whole"``,
        ``"delete"``, ``"fold"``, ``"merge"``, ``"least squares"``; None while it is measured),
        ``macs`` and ``speedup`` (of MACs: whole ÷ smaller) of the smaller network; ``pairs`` (how
        many points there are); of the picked pair ``group``, ``kept``, ``removed``, ``similarity``,
        ``scale`` and ``goes`` (None if there is no pair).

    Raises
    ------
    ArgumentError, GraphError
        As `find_groups`, `collect`, `find_redundant` and `accuracy` do.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> with torch.no_grad():
    ...     _ = model[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 0.0], [2.0, 4.0]]))
    ...     _ = model[0].bias.zero_()
    >>> x = torch.rand(50, 2)
    >>> panel = pv.panel_redundant(model, x, batches=[(x, pv.predict(model, x))], threshold=0.99)
    >>> panel.result["kept"], panel.result["removed"], panel.result["accuracy"]["merge"]
    (2, 0, 1.0)
    >>> panel.close()
    """
    return TwinsPanel(model, x, batches, evidence, by, layer, threshold, pair)


class TwinsPanel(Panel):
    """The panel behind `panel_redundant`."""

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        batches: Iterable[tuple[Any, Tensor]],
        evidence: Evidence | None,
        by: str,
        layer: str | None,
        threshold: float,
        pair: int,
    ) -> None:
        checks.choice(by, "by", BY.values())
        threshold = checks.number(threshold, "threshold", low=0, high=1)
        pair = checks.count(pair, "pair")
        # another thread runs it while the user goes on with theirs
        self._model, self._x = copy_of(model).eval(), x
        self._groups = find_groups(self._model, x)
        names = [g.name for g in self._groups if not g.frozen]
        some_can_go(self._groups)
        names += [ALL] * (len(names) > 1)
        layer = names[0] if layer is None else checks.choice(layer, "layer", names, what="layer")
        self._shrinker = Shrinker(self._model, x)
        self.batches = ready(batches, model=self._model)
        self._again = again(batches)
        self._given = evidence is not None
        if evidence is None:
            evidence = collect(self._model, [inputs for inputs, _ in self.batches], progress=False)
        self._evidence = checks.kind(evidence, "evidence", Evidence, "Make it: pv.collect(…).")
        self._macs = measure(self._model, x).macs
        self._whole = accuracy(self._model, self.batches)
        self._judged = sum(len(labels) for _, labels in self.batches)
        self._reading = Reading(self._model, self._groups, x)
        self._frames: dict[str, pd.DataFrame] = {}
        self._plan: Choice | None = None
        self._dragged = False  # whether the hand that is in the picture has the threshold
        super().__init__()
        limit, self._threshold = self.slider("threshold", threshold, 0.0, 1.0, 0.01)
        picked, self._pair = self.slider("pair", pair, 0, max(pair, 1), 1, digits=0)
        self._field = picked.children[0]
        which = widgets.Dropdown(options=names, value=layer, description="layer")
        alike = widgets.Dropdown(options=list(BY.items()), value=by, description="alike by")
        self.start(
            {"threshold": limit, "pair": picked, "which": self.row(which, alike)},
            {"threshold": self._threshold, "pair": self._pair, "layer": which, "by": alike},
            hint="Click a point to pick its pair; beside the points, drag the threshold.",
        )

    def answer(self, moved: str) -> dict[str, Any]:
        how = self._how()
        if self._plan is None or self._plan.how != how:
            self._plan = None  # nothing old is left, should what follows fail
            self._plan = self._cut(how)
            self._bound(len(self._plan.points) - 1)
        cut = self._plan
        return {
            "plan": cut.plan,
            "threshold": how[0],
            "by": how[2],
            "layer": how[1],
            "gone": cut.plan.total - cut.plan.kept,
            "total": cut.plan.total if how[1] == ALL else self._groups[how[1]].size,
            "accuracy": self._accuracy(cut.right),
            "macs": cut.macs,
            "speedup": self._macs / cut.macs,
            "pairs": len(cut.points),
            **told(cut.points, round(self._pair.value)),
        }

    def later(self, result: dict[str, Any]) -> Work | None:
        cut = self._plan
        if cut is None or result["accuracy"] is not None:
            return None

        def work(go_on: GoOn) -> dict[str, Any]:
            proved = self._shrinker.proved(cut.plan)
            for name, rung in RUNGS.items():
                if name not in cut.right:  # else an earlier try, dropped since, came so far
                    small = copy_of(proved)
                    if rung != "none":
                        self._shrinker.repair(small, cut.plan, rung, self._evidence, None)
                    cut.right[name] = accuracy(small, go_on.through(self.batches))
            return {"accuracy": self._accuracy(cut.right)}

        return work

    def show(self, result: dict[str, Any]) -> tuple[str, str]:
        sentence = self._say(result)
        return plots.svg(self._view_of(result), label=sentence, uid=self.uid), sentence

    def touched(self, x: float, y: float, press: bool) -> dict[str, Any]:
        if press:
            view = self._view_of(self._result)
            line = (
                abs(plots.similarity_at(x) - view.threshold) < plots.GRIP
            )  # it goes before points
            pair = None if line else plots.pair_at(view, x, y)
            self._dragged = pair is None and plots.in_scatter(x, y)
            if pair is not None:
                return {"pair": pair}
        return {"threshold": plots.similarity_at(x)} if self._dragged else {}

    def draw(self, result: dict[str, Any]) -> Figure:
        if result:
            return plots.static(self._view_of(result))
        none = next(iter(self._frames.values()))[:0].assign(goes=False)
        return plots.static(plots.View(none, self._threshold.at, None, [], [], ""))

    def to_python(self) -> str:
        threshold, layer, by = self._how()
        collected = "evidence = pv.collect(model, [inputs for inputs, _ in batches])\n"
        seen = "evidence=evidence, " * (by == "activations")
        some = "" if layer == ALL else f'[pairs["group"] == {layer!r}]'
        return (
            "import pruneviz as pv\n\n"
            f"{self._again or LISTED}{'' if self._given else collected}"
            "groups = pv.find_groups(model, x)\n"
            f"pairs = pv.find_redundant(model, groups=groups, {seen}threshold={threshold!r}, top={MAX_PAIRS})\n"
            f"plan = pv.drop_redundant(pairs{some}, groups)\n"
            f"for repair in {tuple(RUNGS.values())}:\n"
            "    small = pv.shrink(model, plan, example_input=x, repair=repair, evidence=evidence)\n"
            "    print(repair, pv.accuracy(small, batches))\n"
        )

    def _how(self) -> tuple[float, str, str]:
        """Return all that the plan depends on."""
        return self._threshold.at, self.controls["layer"].value, self.controls["by"].value

    def _cut(self, how: tuple[float, str, str]) -> Choice:
        """Choose, and cut."""
        threshold, layer, by = how
        if by not in self._frames:  # found once for each way to compare
            seen = self._evidence if by == "activations" else None
            self._frames[by] = find_redundant(
                self._model, groups=self._groups, evidence=seen, top=MAX_PAIRS, threshold=0
            )
        frame = self._frames[by]
        frame = frame if layer == ALL else frame[frame["group"] == layer]
        plan = drop_redundant(frame[frame["similarity"] >= threshold], self._groups)
        keep = {n: k.tolist() for n, k in plan.keep.items()}
        # of each unit the larger one that is most like it
        best = frame.drop_duplicates(["group", "removed"]).reset_index(drop=True)
        pairs = zip(best["group"], best["removed"], strict=True)
        points = best.assign(goes=[not keep[g][u] for g, u in pairs])
        macs = measure(self._shrinker.quick(plan), self._x).macs
        return Choice(how, plan, points, macs)

    def _accuracy(self, right: dict[str, float]) -> dict[str, float] | None:
        """Return all accuracies in their order; None if one is missing."""
        if len(right) < len(RUNGS):
            return None
        return {"whole": self._whole, **{name: right[name] for name in RUNGS}}

    def _bound(self, last: int) -> None:
        """Let the slider of the pair end where the pairs do."""
        before, self._busy = self._busy, True
        try:
            for control in (self._field, self._pair):
                control.value = max(min(control.value, last), 0)
                control.max = max(last, 1)  # a slider needs two ends
        finally:
            self._busy = before

    def _view_of(self, result: dict[str, Any]) -> plots.View:
        assert self._plan is not None
        pair: tuple[list[Any], list[str], str] = [], [], ""
        if result["pair"] is not None:
            group = self._groups[result["group"]]
            units = result["kept"], result["removed"]
            pair = self._reading.images(group, units, result["plan"].keep[group.name])
        right = result["accuracy"] or {}
        bars = {n: right.get(n) for n in RUNGS}
        points, at = self._plan.points, result["threshold"]
        return plots.View(points, at, result["pair"], *pair, bars, self._whole)

    def _say(self, result: dict[str, Any]) -> str:
        layer = result["layer"]
        what = "units" if layer == ALL else f"{self._reading.word(self._groups[layer])}s"
        text = f"Threshold {result['threshold']:.2f}: "
        text += f"{result['gone']:,} of {result['total']:,} {what} of {layer or 'the model'} go, "
        text += f"{1 / result['speedup']:.0%} of the MACs stay. Accuracy "
        text += f"(on {self._judged:,} example{'s' * (self._judged != 1)}): "
        right = result["accuracy"] or {"whole": self._whole}
        text += ", ".join(f"{n} {a:.1%}" for n, a in right.items()) + "."
        if result["pair"] is None:
            return f"{text} No two units are alike."
        word = self._reading.word(self._groups[result["group"]])
        where = f" of {result['group']}" * (layer == ALL)
        return (
            f"{text} Pair {result['pair']}: {word} {result['removed']}{where} is like {word} "
            f"{result['kept']}, similarity {result['similarity']:.2f}, scale {result['scale']:.2f}."
        )


@dataclass(frozen=True, eq=False)
class Choice:
    """What follows from the threshold, the layer and the comparison."""

    how: tuple[float, str, str]
    plan: Plan
    points: pd.DataFrame  # of each unit the larger one that is most like it
    macs: int
    right: dict[str, float] = field(default_factory=dict)  # filled as it is measured

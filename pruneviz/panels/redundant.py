"""Which pairs of units are redundant, and which kept unit can replace a removed one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.core import checks
from pruneviz.core.errors import calling_it
from pruneviz.core.groups import check_some_cuttable
from pruneviz.core.plan import Plan
from pruneviz.evidence.collect import collect
from pruneviz.evidence.evidence import Evidence
from pruneviz.metrics.accuracy import accuracy
from pruneviz.metrics.cost import measure
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import plain_torch
from pruneviz.model.layout import fast_batches
from pruneviz.panels.inactive_text import LISTED
from pruneviz.panels.kit.panel import Panel, Work
from pruneviz.panels.kit.script import batches_line
from pruneviz.panels.kit.worker import CancelToken
from pruneviz.panels.redundant_text import UnitWeights, pair_facts
from pruneviz.plots import redundant_pair as plots
from pruneviz.pruning.session import Session
from pruneviz.redundancy.redundant import find_redundant
from pruneviz.selection.drop import drop_redundant

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor, nn


MAX_PAIRS = 100_000  # pairs that are compared
RUNGS = {"delete": "none", "fold": "fold", "merge": "merge", "least squares": "lstsq"}
BY = {"what they do": "activations", "their weights": "weights"}
ALL = "all layers"


@plain_torch()
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
    """Show which units are redundant; remove one of each pair, and let the kept ones replace it.

    Each unit is a point: its similarity to the most similar larger unit, and its size relative to
    that unit. Drag the threshold: of each pair with at least this similarity the smaller unit is
    removed, if the other is kept (see `drop_redundant`). The smaller network is made; when the
    control is idle, it is repaired by each rung of the ladder (see `shrink`), and the four
    accuracies are shown side by side. Pick a pair to see the input weights of its two units.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    x : Tensor, tuple or dict
        Example input: a few examples.
    batches : iterable of (inputs, labels)
        Data for the accuracy, which is measured four times for every plan; read once.
    evidence : Evidence, optional
        From `collect` on this model: data for the repairs and for the similarity of activations.
        Default: it is collected from `batches`, without their labels.
    by : str
        First value of the drop-down: ``"activations"``, or ``"weights"``, which needs no data.
    layer : str, optional
        First value of its drop-down: name of a group, or ``"all layers"``. Default: the first group
        that can be cut.
    threshold : float
        First value of the slider, in [0, 1].
    pair : int
        Number of the pair that is picked first; 0: the most similar.

    Returns
    -------
    Panel
        ``controls``: ``"threshold"``, ``"pair"``, ``"layer"``, ``"by"``. ``result``: ``plan``;
        ``gone`` (units removed) and ``total`` (units of the layer), ``accuracy`` (a dict:
        ``"whole"``, ``"delete"``, ``"fold"``, ``"merge"``, ``"least squares"``; None while it is
        measured), ``macs`` and ``speedup`` (of MACs: whole ÷ smaller) of the smaller network;
        ``pairs`` (number of points); of the picked pair ``group``, ``kept``, ``removed``,
        ``similarity``, ``scale`` and ``goes`` (whether its smaller unit is removed); None if there
        is no pair.

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
    with calling_it("x"):
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
        # a copy, because another thread runs it while the user works with the original
        self._model, self._x = copy_of(model).eval(), x
        session = Session(self._model, x)
        self._groups = session.groups
        names = [g.name for g in self._groups.cuttable]
        check_some_cuttable(self._groups)
        names += [ALL] * (len(names) > 1)
        layer = names[0] if layer is None else checks.layer(layer, names)
        self._shrinker = session.shrinker
        self.batches = fast_batches(batches, model=self._model)
        self._batches_line = batches_line(batches)
        self._evidence_given = evidence is not None
        if evidence is None:
            evidence = collect(self._model, [inputs for inputs, _ in self.batches], progress=False)
        self._evidence = checks.kind(evidence, "evidence", Evidence, "Make it: pv.collect(…).")
        self._macs = session.dense.macs
        self._whole = accuracy(self._model, self.batches)
        self._examples = sum(len(labels) for _, labels in self.batches)
        self._unit_weights = UnitWeights(self._model, self._groups, x)
        self._frames: dict[str, pd.DataFrame] = {}
        self._choice: Choice | None = None
        self._drags_threshold = False  # whether the pointer drags the threshold now
        super().__init__()
        threshold_row, self._threshold = self.slider("threshold", threshold, 0.0, 1.0, 0.01)
        pair_row, self._pair = self.slider("pair", pair, 0, max(pair, 1), 1, digits=0)
        self._field = pair_row.children[0]
        which = widgets.Dropdown(options=names, value=layer, description="layer")
        alike = widgets.Dropdown(options=list(BY.items()), value=by, description="alike by")
        self.start(
            {"threshold": threshold_row, "pair": pair_row, "which": self.row(which, alike)},
            {"threshold": self._threshold, "pair": self._pair, "layer": which, "by": alike},
            hint="Click a point to pick its pair; beside the points, drag the threshold.",
        )

    def answer(self, moved: str) -> dict[str, Any]:
        settings = self._settings()
        if self._choice is None or self._choice.settings != settings:
            self._choice = None  # so that no old choice is left if the next line fails
            self._choice = self._choose(settings)
            self._limit_pair_slider(len(self._choice.points) - 1)
        choice = self._choice
        return {
            "plan": choice.plan,
            "threshold": settings[0],
            "by": settings[2],
            "layer": settings[1],
            "gone": choice.plan.total - choice.plan.kept,
            "total": choice.plan.total if settings[1] == ALL else self._groups[settings[1]].size,
            "accuracy": self._accuracy(choice.accuracies),
            "macs": choice.macs,
            "speedup": self._macs / choice.macs,
            "pairs": len(choice.points),
            **pair_facts(choice.points, round(self._pair.value)),
        }

    def later(self, result: dict[str, Any]) -> Work | None:
        choice = self._choice
        if choice is None or result["accuracy"] is not None:
            return None

        def work(token: CancelToken) -> dict[str, Any]:
            compared = self._shrinker.compared(choice.plan)
            for name, rung in RUNGS.items():
                # a cancelled earlier try may have measured some rungs already
                if name not in choice.accuracies:
                    small = copy_of(compared)
                    if rung != "none":
                        self._shrinker.repair(small, choice.plan, rung, self._evidence, None)
                    choice.accuracies[name] = accuracy(small, token.through(self.batches))
            return {"accuracy": self._accuracy(choice.accuracies)}

        return work

    def show(self, result: dict[str, Any]) -> tuple[str, str]:
        sentence = self._say(result)
        return plots.svg(self._view_of(result), label=sentence, uid=self.uid), sentence

    def pointed(self, x: float, y: float, press: bool) -> dict[str, Any]:
        if press:
            view = self._view_of(self._result)
            # near the line of the threshold a press drags it, also where it is on a point
            on_line = abs(plots.similarity_at(x) - view.threshold) < plots.DRAG_DISTANCE
            pair = None if on_line else plots.pair_at(view, x, y)
            self._drags_threshold = pair is None and plots.in_scatter(x, y)
            if pair is not None:
                return {"pair": pair}
        return {"threshold": plots.similarity_at(x)} if self._drags_threshold else {}

    def draw(self, result: dict[str, Any]) -> Figure:
        if result:
            return plots.static_figure(self._view_of(result))
        no_points = next(iter(self._frames.values()))[:0].assign(goes=False)
        return plots.static_figure(plots.View(no_points, self._threshold.rounded, None, [], [], ""))

    def to_python(self) -> str:
        threshold, layer, by = self._settings()
        collect_line = "evidence = pv.collect(model, [inputs for inputs, _ in batches])\n"
        argument = "evidence=evidence, " * (by == "activations")
        rows = "" if layer == ALL else f'[pairs["group"] == {layer!r}]'
        return (
            "import pruneviz as pv\n\n"
            f"{self._batches_line or LISTED}{'' if self._evidence_given else collect_line}"
            "groups = pv.find_groups(model, x)\n"
            f"pairs = pv.find_redundant(model, groups=groups, {argument}threshold={threshold!r}, top={MAX_PAIRS})\n"
            f"plan = pv.drop_redundant(pairs{rows}, groups)\n"
            f"for repair in {tuple(RUNGS.values())}:\n"
            "    small = pv.shrink(model, plan, example_input=x, repair=repair, evidence=evidence)\n"
            "    print(repair, pv.accuracy(small, batches))\n"
        )

    def _settings(self) -> tuple[float, str, str]:
        """Return threshold, layer and comparison: everything on which the plan depends."""
        return self._threshold.rounded, self.controls["layer"].value, self.controls["by"].value

    def _choose(self, settings: tuple[float, str, str]) -> Choice:
        """Choose the units to remove, and count the MACs without them."""
        threshold, layer, by = settings
        if by not in self._frames:  # the pairs of each comparison are found once
            evidence = self._evidence if by == "activations" else None
            self._frames[by] = find_redundant(
                self._model, groups=self._groups, evidence=evidence, top=MAX_PAIRS, threshold=0
            )
        frame = self._frames[by]
        frame = frame if layer == ALL else frame[frame["group"] == layer]
        plan = drop_redundant(frame[frame["similarity"] >= threshold], self._groups)
        keep = {n: k.tolist() for n, k in plan.keep.items()}
        # for each unit its pair with the most similar larger unit
        best = frame.drop_duplicates(["group", "removed"]).reset_index(drop=True)
        pairs = zip(best["group"], best["removed"], strict=True)
        points = best.assign(goes=[not keep[g][u] for g, u in pairs])
        macs = measure(self._shrinker.quick(plan), self._x).macs
        return Choice(settings, plan, points, macs)

    def _accuracy(self, accuracies: dict[str, float]) -> dict[str, float] | None:
        """Return all accuracies in their order; None if one is missing."""
        if len(accuracies) < len(RUNGS):
            return None
        return {"whole": self._whole, **{name: accuracies[name] for name in RUNGS}}

    def _limit_pair_slider(self, last: int) -> None:
        """Set the maximum of the pair slider to the last pair."""
        before, self._busy = self._busy, True
        try:
            for control in (self._field, self._pair):
                control.value = max(min(control.value, last), 0)
                control.max = max(last, 1)  # a slider needs max > min
        finally:
            self._busy = before

    def _view_of(self, result: dict[str, Any]) -> plots.View:
        assert self._choice is not None
        pair: tuple[list[Any], list[str], str] = [], [], ""
        if result["pair"] is not None:
            group = self._groups[result["group"]]
            units = result["kept"], result["removed"]
            pair = self._unit_weights.images(group, units, result["plan"].keep[group.name])
        accuracies = result["accuracy"] or {}
        bars = {n: accuracies.get(n) for n in RUNGS}
        points, at = self._choice.points, result["threshold"]
        return plots.View(points, at, result["pair"], *pair, bars, self._whole)

    def _say(self, result: dict[str, Any]) -> str:
        layer = result["layer"]
        what = "units" if layer == ALL else f"{self._unit_weights.word(self._groups[layer])}s"
        text = f"Threshold {result['threshold']:.2f}: "
        text += f"{result['gone']:,} of {result['total']:,} {what} of {layer or 'the model'} go, "
        text += f"{1 / result['speedup']:.0%} of the MACs stay. Accuracy "
        text += f"(on {self._examples:,} example{'s' * (self._examples != 1)}): "
        accuracies = result["accuracy"] or {"whole": self._whole}
        text += ", ".join(f"{n} {a:.1%}" for n, a in accuracies.items()) + "."
        if result["pair"] is None:
            return f"{text} No two units are alike."
        word = self._unit_weights.word(self._groups[result["group"]])
        where = f" of {result['group']}" * (layer == ALL)
        return (
            f"{text} Pair {result['pair']}: {word} {result['removed']}{where} is like {word} "
            f"{result['kept']}, similarity {result['similarity']:.2f}, scale {result['scale']:.2f}."
        )


@dataclass(frozen=True, eq=False)
class Choice:
    """The plan for a threshold, a layer and a comparison, and its results."""

    settings: tuple[float, str, str]
    plan: Plan
    points: pd.DataFrame  # for each unit its pair with the most similar larger unit
    macs: int
    # by rung; filled while they are measured
    accuracies: dict[str, float] = field(default_factory=dict)

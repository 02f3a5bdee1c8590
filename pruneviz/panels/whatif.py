"""What a model gains and loses when it is pruned in one way or another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.model.batches import images_of
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import plain_torch
from pruneviz.panels.kit.panel import Panel, Work
from pruneviz.panels.kit.script import read_only_once
from pruneviz.panels.kit.worker import CancelToken
from pruneviz.panels.whatif_text import (
    Choice,
    bars,
    checked_choice,
    choice_in_words,
    code,
    hint,
    layer_bars,
    producers_of,
    sentence,
    timing_sentence,
)
from pruneviz.plots import svg
from pruneviz.plots import whatif as plot
from pruneviz.plots.images import plot_strip
from pruneviz.plots.style import figure, plain
from pruneviz.plots.tradeoff import RUNGS
from pruneviz.selection.criteria.registry import CRITERIA
from pruneviz.study.whatif import WhatIf

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from pruneviz.core.plan import Plan


OWN = "its own"
FLIPS = 8  # flipped examples that are shown
SECONDS = 0.3  # for measuring the time


@plain_torch()
def panel_whatif(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    example_input: Any = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    better: str = "higher",
    ignore_index: int | None = None,
    learn: Iterable[Any] | None = None,
    loss: Callable[..., Any] | None = None,
    classes: Sequence[str] | None = None,
    criterion: str | None = None,
    scope: str | None = None,
    sparsity: float = 0.0,
    repair: str | None = None,
    approximate: bool = False,
    as_program: bool = False,
) -> Panel:
    """Prune your own model with a few controls, see what it costs, and use the smaller model.

    Units are removed, and the smaller model is compared with the masked one; single weights are
    set to zero. The layers are redrawn while the slider moves; when the control is idle, accuracy,
    flipped examples and time are measured, in this order.

    Parameters
    ----------
    model : nn.Module
        Not changed. If its units cannot be found, its weights can still be pruned.
    batches : iterable of (inputs, labels)
        Data for the metric; read once, and evaluated at every move: a few hundred or a few thousand
        examples.
    example_input : Tensor, tuple or dict, optional
        Arguments of the forward; default: the first inputs of the first batch.
    evaluate : callable, optional
        ``evaluate(model)`` returns a number. Then `batches` need no labels, and flipped examples are
        not shown. Default: the accuracy of a model that returns logits.
    better : str
        Whether ``"higher"`` or ``"lower"`` numbers of `evaluate` are better.
    ignore_index : int, optional
        As for `accuracy`.
    learn : iterable, optional
        As the `batches` of `collect`: data for criteria and repairs. Default: the inputs of the
        first 500 examples of `batches`, without their labels (with them if each position of an example
        has one). The metric of a repaired model is too
        good on the data of its repair, so pass examples of the training set for a fair metric.
    loss : callable, optional
        ``loss(outputs, targets)`` for the criteria that need gradients; then `learn` has targets.
        Default: cross-entropy of a model that returns logits; with `evaluate` there is no default,
        and these criteria are not offered.
    classes : sequence of str, optional
        Name of each class; default: its number.
    criterion, scope, sparsity, repair
        First values of the controls. Default: units by the second-order criterion, or by their L2
        norm where no gradients can be had, and least squares; if no unit can be removed, weights by
        their magnitude, not repaired. The data are collected with the first move.
    approximate : bool
        As for `find_groups`: whether units can be removed over which a norm runs, such as the
        features of a transformer. Then the norm of the kept units differs.
    as_program : bool
        As for `shrink`: for models with sizes in their Python code.

    Returns
    -------
    Panel
        ``controls``: ``"criterion"`` (granularity and name, such as ``"unit l2"``), ``"scope"``,
        ``"sparsity"``, ``"repair"``, ``"protect"`` (layers of which nothing is removed).
        ``result``: ``plan``, ``sparsity``, ``model`` (the smaller one, a new model), ``metric``,
        ``metric_before``, ``comparison`` (a `Comparison`; None with `evaluate`), ``worse`` and
        ``better`` (indices of flipped examples, or labels, see `compare_accuracy`), ``params``, ``bytes``, ``macs``, each also
        ``…_before``, ``encoding`` (of the bytes), ``speedup`` (of MACs), ``timing`` (a `Timing`),
        ``frozen`` (group name to the reason).

    Raises
    ------
    ArgumentError, GraphError
        As `find_groups`, `score`, `select`, `shrink` and `accuracy` do.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> panel = pv.panel_whatif(model, [(torch.randn(20, 4), torch.arange(20) % 2)])
    >>> panel.controls["sparsity"].value = 0.5
    >>> panel.result["model"][0], panel.result["speedup"]
    (Linear(in_features=4, out_features=4, bias=True), 2.0)
    >>> panel.close()
    """
    what = WhatIf(
        model,
        batches,
        example_input=example_input,
        evaluate=evaluate,
        better=better,
        ignore_index=ignore_index,
        learn=learn,
        loss=loss,
        approximate=approximate,
        as_program=as_program,
    )
    passed = {"example_input": example_input, "learn": learn, "loss": loss}
    given = {name for name, value in passed.items() if value is not None}
    from_panel = ["batches"] if what.dropped or read_only_once(batches) else []
    from_panel += ["learn"] if learn is not None and read_only_once(learn) else []
    return WhatIfPanel(what, given, from_panel, classes, criterion, scope, sparsity, repair)


class WhatIfPanel(Panel):
    """The panel behind `panel_whatif`."""

    def __init__(
        self,
        what: WhatIf,
        given: set[str],
        from_panel: Sequence[str],
        classes: Sequence[str] | None,
        criterion: str | None,
        scope: str | None,
        sparsity: float,
        repair: str | None,
    ) -> None:
        sparsity = checks.number(sparsity, "sparsity", low=0, high=0.99)
        if scope is not None:
            checks.choice(scope, "scope", ("layer", "global"))
        self._what, self._arguments_given, self._from_panel = what, given, from_panel
        self.batches, self.learn = what.given, what.gradient_batches
        names = {f"{g} {c}": f"{g}s by {c}" for g, c in what.criteria}
        if criterion is None:
            criterion = " ".join(what.best)
        matches = [n for n in names if criterion in (n, n.split(" ", 1)[1])]
        if not matches and what.refusal and criterion.removeprefix("unit ") in CRITERIA:
            raise ArgumentError(
                f"criterion {criterion!r} is for units, but {what.refusal.rstrip('.')}. Choose one for "
                f"weights: {', '.join(names)}."
            )
        if not matches:
            checks.choice(criterion, "criterion", names, what="criterion")
        if repair is None:  # as `prune` does; nothing of the kind is measured for weights
            repair = "lstsq" if matches[0].startswith("unit ") else "none"
        checks.choice(repair, "repair", RUNGS)
        self._classes = checks.classes(classes)
        super().__init__()
        row, slider = self.slider("sparsity", sparsity, 0.0, 0.99, 0.01)
        by = widgets.Dropdown(
            options=[(text, n) for n, text in names.items()], value=matches[0], description="prune"
        )
        within = widgets.Dropdown(
            options=[("as the criterion wants", OWN), ("within each layer", "layer"),
                     ("over all layers", "global")],
            value=scope or OWN, description="compared",
        )  # fmt: skip
        repair_menu = widgets.Dropdown(
            options=[(text, r) for r, text in RUNGS.items()], value=repair, description="repair"
        )
        protect = widgets.SelectMultiple(
            options=[(n or "(model)", n) for n in what.layers],
            rows=min(len(what.layers), 4),
            description="protect",
        )
        self.start(
            {"how": self.row(by, within), "more": self.row(repair_menu, protect), "sparsity": row},
            {
                "criterion": by,
                "scope": within,
                "sparsity": slider,
                "repair": repair_menu,
                "protect": protect,
            },
            hint=hint(what, learn_given="learn" in given),
        )

    def answer(self, moved: str) -> dict[str, Any]:
        choice = checked_choice(self._choice())
        ready = self._what.ready(choice.granularity, choice.criterion, choice.sparsity)
        plan = self._plan(choice) if ready else None
        result: dict[str, Any] = {
            "plan": plan,
            "sparsity": None if plan is None else plan.sparsity,
            "model": None,
            "metric": None,
            "metric_before": self._what.before,
            "comparison": None,
            "worse": None,
            "better": None,
            "timing": None,
            "frozen": self._what.frozen,
        }
        return result | ((None if plan is None else self._what.glance(plan)) or {})

    def later(self, result: dict[str, Any]) -> Work:
        what, choice, plan = self._what, self._choice(), result["plan"]

        def work(token: CancelToken) -> dict[str, Any]:
            chosen = self._plan(choice) if plan is None else plan
            token.report({"plan": chosen, "sparsity": chosen.sparsity})
            new = what.pruned(chosen, choice.repair)
            found: dict[str, Any] = {"plan": chosen, "sparsity": chosen.sparsity}
            found |= what.costs(new, chosen)
            token.report(found)
            found |= what.judged(new, token.through)
            if found["comparison"] is not None:
                found |= {side: getattr(found["comparison"], side) for side in ("worse", "better")}
            token.report(found)
            timing = what.timed(new, seconds=SECONDS)
            # a copy, because the user may train the model while this one is still in use
            return {**found, "timing": timing, "model": copy_of(new)}

        return work

    def show(self, result: dict[str, Any]) -> tuple[str, str]:
        main_text = sentence(self._choice(), self._what, result)
        picture = plot.bars(bars(self._what, result), label=main_text)
        layers = self._layers(result["plan"])
        if layers:
            stay = ", ".join(f"{r.name or '(model)'} {r.kept} of {r.total}" for r in layers)
            picture += plot.layers(layers, label=f"Stay: {stay}.", uid=self.uid)
        flipped = self._flipped(result)
        if flipped is not None:
            shown, labels, predictions, names = flipped
            n = len(labels)
            text = f"The first {n} that were right and are wrong now: what they are taken for, and are:"
            picture += f"<p>{text}</p>" + svg.strip(
                svg.image_uris(shown),
                labels=labels,
                predictions=predictions,
                classes=names,
                label=text,
                truth=True,
            )
        return picture, main_text + timing_sentence(result["timing"])

    def pointed(self, x: float, y: float, press: bool) -> dict[str, Any]:
        plan = self._result["plan"]
        layer = plot.layer_at(self._layers(plan), y)
        if layer is None or layer.frozen:
            return {}
        protected, producers = set(self.controls["protect"].value), producers_of(layer.name, plan)
        first = [n for n in self._what.layers if n in producers][:1]
        protected = protected - set(producers) if layer.protected else protected | set(first)
        return {"protect": tuple(n for n in self._what.layers if n in protected)}

    def draw(self, result: dict[str, Any]) -> Figure:
        layers = self._layers(result.get("plan"))
        flipped = self._flipped(result) if result else None
        height = 0.3 + 0.26 * min(len(layers), plot.MAX_LAYERS)
        rows = [1.5, *([height] if layers else []), *([1.5] if flipped else [])]
        with figure(7.6, sum(rows) + 0.3, rows=tuple(rows)) as (fig, axs):
            free_axes = list(axs) if len(rows) > 1 else [axs]
            plot.draw_bars(bars(self._what, result) if result else [], free_axes[0])
            if result:
                free_axes[0].set_title(plain(choice_in_words(self._choice())), fontsize=9)
            free_axes.pop(0)
            if layers:
                plot.draw_layers(layers, free_axes.pop(0))
            if flipped is not None:
                shown, labels, predictions, names = flipped
                ax = plot_strip(
                    shown,
                    labels=labels,
                    predictions=predictions,
                    classes=names,
                    ax=free_axes.pop(0),
                )
                ax.set_title("right before; now taken for", fontsize=8)
        return fig

    def to_python(self) -> str:
        encoding = self._result.get("encoding", "dense")
        options = {
            "given": self._arguments_given,
            "from_panel": self._from_panel,
            "encoding": encoding,
        }
        return code(self._choice(), self._what, **options)

    def _choice(self) -> Choice:
        granularity, criterion = self.controls["criterion"].value.split(" ", 1)
        scope, sparsity = self.controls["scope"].value, self.controls["sparsity"].rounded
        return Choice(
            granularity,
            criterion,
            sparsity,
            None if scope == OWN else scope,
            tuple(self.controls["protect"].value),
            self.controls["repair"].value,
        )

    def _plan(self, choice: Choice) -> Plan:
        return self._what.plan(
            choice.granularity,
            choice.criterion,
            choice.sparsity,
            scope=choice.scope,
            protect=choice.protect,
        )

    def _layers(self, plan: Plan | None) -> list[plot.LayerBar]:
        return [] if plan is None else layer_bars(plan, self.controls["protect"].value)

    def _flipped(self, result: dict[str, Any]) -> Any:
        """Return images that are now wrong, their classes, the new predictions, and class names."""
        worse = result["worse"]
        if worse is None or not len(worse) or result["comparison"].example is not None:
            return None
        shown = images_of([x for x, _ in self._what.batches], worse[:FLIPS])
        if shown is None:
            return None
        labels = self._what.labels[worse[:FLIPS]].tolist()
        predictions = result["comparison"].said_after[worse[:FLIPS]].tolist()
        given = self._classes or []
        names = [
            given[c] if c < len(given) else str(c) for c in range(max(labels + predictions) + 1)
        ]
        return shown, labels, predictions, names

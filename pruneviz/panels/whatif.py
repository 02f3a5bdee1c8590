"""What if: any model, pruned this way and that, and the smaller one to take home."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.model.batches import images_of
from pruneviz.model.forward import copy_of
from pruneviz.panels.kit.panel import Panel, Work
from pruneviz.panels.kit.script import once
from pruneviz.panels.kit.worker import GoOn
from pruneviz.panels.whatif_text import (
    LADDER,
    Choice,
    bars,
    checked,
    chosen,
    clock,
    code,
    layers,
    makers,
    notes,
    say,
)
from pruneviz.plots import svg
from pruneviz.plots import whatif as plot
from pruneviz.plots.images import plot_strip
from pruneviz.plots.style import figure
from pruneviz.pruning.repair.ladder import RUNGS
from pruneviz.selection.criteria.registry import CRITERIA
from pruneviz.study.whatif import WhatIf

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import nn

    from pruneviz.core.plan import Plan


OWN = "its own"
FLIPS = 8  # flipped examples that are shown
SECONDS = 0.3  # for the clock


def panel_whatif(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    example_input: Any = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    learn: Iterable[Any] | None = None,
    loss: Callable[..., Any] | None = None,
    classes: Sequence[str] | None = None,
    criterion: str | None = None,
    scope: str | None = None,
    sparsity: float = 0.0,
    repair: str = "none",
    approximate: bool = False,
) -> Panel:
    """Play with your own model: what can go, at what price; then take the smaller one home.

    Units are removed for real, and the smaller model is compared with the masked one; single weights
    are set to zero. While the slider moves, the layers follow; when it rests, accuracy, flipped
    examples and the clock are measured, one after the other.

    Parameters
    ----------
    model : nn.Module
        Not changed. If its units cannot be found, its weights can be pruned all the same.
    batches : iterable of (inputs, labels)
        What it is judged on; read once, and run through at every move: a few hundred examples, or
        a few thousand.
    example_input : Tensor, tuple or dict, optional
        Arguments of the forward; default: the first inputs of the first batch.
    evaluate : callable, optional
        ``evaluate(model)`` gives a number, more is better. Then `batches` need no labels, and no
        example can flip. Default: the accuracy of a model that gives logits.
    learn : iterable, optional
        As the `batches` of `collect`: what criteria and repairs learn from. Default: the inputs of
        the first 500 examples of `batches`, without their labels; on these a repaired model looks
        better than it is, so pass others, of the training set, to judge it fairly.
    loss : callable, optional
        ``loss(outputs, targets)`` for the criteria that need gradients; then `learn` has targets.
        Default: cross-entropy of a model that gives logits; with `evaluate` none, and these criteria
        are left out.
    classes : sequence of str, optional
        Name of each class; default: its number.
    criterion, scope, sparsity, repair
        Where the controls stand at first. Default: units by their L2 norm, or if no unit can go,
        weights by their magnitude.
    approximate : bool
        As for `find_groups`: whether units can go over which a norm runs, as the features that pass
        through a transformer. Then the norm of those that stay is another one.

    Returns
    -------
    Panel
        ``controls``: ``"criterion"`` (granularity and name, such as ``"unit l2"``), ``"scope"``,
        ``"sparsity"``, ``"repair"``, ``"protect"`` (layers that stay whole).
        ``result``: ``plan``, ``sparsity``, ``model`` (the smaller one; a new one), ``metric``,
        ``metric_before``, ``comparison`` (a `Comparison`; None with `evaluate`), ``worse`` and
        ``better`` (indices of flipped examples), ``params``, ``bytes``, ``macs``, each also
        ``…_before``, ``encoding`` (of the bytes), ``speedup`` (of MACs), ``timing`` (a `Timing`),
        ``frozen`` (group to why it cannot be cut).

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
        learn=learn,
        loss=loss,
        approximate=approximate,
    )
    passed = {"example_input": example_input, "learn": learn, "loss": loss}
    given = {name for name, value in passed.items() if value is not None}
    taken = ["batches"] if what.dropped or once(batches) else []
    taken += ["learn"] if learn is not None and once(learn) else []
    return WhatIfPanel(what, given, taken, classes, criterion, scope, sparsity, repair)


class WhatIfPanel(Panel):
    """The panel behind `panel_whatif`."""

    def __init__(
        self,
        what: WhatIf,
        given: set[str],
        once: Sequence[str],
        classes: Sequence[str] | None,
        criterion: str | None,
        scope: str | None,
        sparsity: float,
        repair: str,
    ) -> None:
        sparsity = checks.number(sparsity, "sparsity", low=0, high=0.99)
        checks.choice(repair, "repair", RUNGS)
        if scope is not None:
            checks.choice(scope, "scope", ("layer", "global"))
        self._what, self._given, self._once = what, given, once
        self.batches, self.learn = what.given, what.lessons
        names = {f"{g} {c}": f"{g}s by {c}" for g, c in what.criteria}
        if criterion is None:
            criterion = "unit l2" if "unit l2" in names else "weight magnitude"
        found = [n for n in names if criterion in (n, n.split(" ", 1)[1])]
        if not found and what.refusal and criterion.removeprefix("unit ") in CRITERIA:
            raise ArgumentError(
                f"criterion {criterion!r} is for units, but {what.refusal.rstrip('.')}. Choose one for "
                f"weights: {', '.join(names)}."
            )
        if not found:
            checks.choice(criterion, "criterion", names, what="criterion")
        self._classes = checks.classes(classes)
        super().__init__()
        row, slider = self.slider("sparsity", sparsity, 0.0, 0.99, 0.01)
        by = widgets.Dropdown(
            options=[(text, n) for n, text in names.items()], value=found[0], description="prune"
        )
        within = widgets.Dropdown(
            options=[("as the criterion wants", OWN), ("within each layer", "layer"),
                     ("over all layers", "global")],
            value=scope or OWN, description="compared",
        )  # fmt: skip
        mend = widgets.Dropdown(
            options=[(LADDER[r], r) for r in RUNGS], value=repair, description="repair"
        )
        protect = widgets.SelectMultiple(
            options=[(n or "(model)", n) for n in what.layers],
            rows=min(len(what.layers), 4),
            description="protect",
        )
        self.start(
            {"how": self.row(by, within), "more": self.row(mend, protect), "sparsity": row},
            {
                "criterion": by,
                "scope": within,
                "sparsity": slider,
                "repair": mend,
                "protect": protect,
            },
            hint=notes(what, taught="learn" in given),
        )

    def answer(self, moved: str) -> dict[str, Any]:
        choice = checked(self._choice())
        ready = self._what.ready(choice.granularity, choice.criterion)
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

        def work(go_on: GoOn) -> dict[str, Any]:
            chosen = self._plan(choice) if plan is None else plan
            go_on.tell({"plan": chosen, "sparsity": chosen.sparsity})
            new = what.pruned(chosen, choice.repair)
            found: dict[str, Any] = {"plan": chosen, "sparsity": chosen.sparsity}
            found |= what.costs(new, chosen)
            go_on.tell(found)
            found |= what.judged(new, go_on.through)
            if found["comparison"] is not None:
                found |= {side: getattr(found["comparison"], side) for side in ("worse", "better")}
            go_on.tell(found)
            timing = what.timed(new, seconds=SECONDS)
            # whoever takes the model home may train it: what is measured next is another one
            return {**found, "timing": timing, "model": copy_of(new)}

        return work

    def show(self, result: dict[str, Any]) -> tuple[str, str]:
        sentence = say(self._choice(), self._what, result)
        picture = plot.bars(bars(self._what, result), label=sentence)
        layers = self._layers(result["plan"])
        if layers:
            stay = ", ".join(f"{r.name or '(model)'} {r.kept} of {r.total}" for r in layers)
            picture += plot.layers(layers, label=f"Stay: {stay}.", uid=self.uid)
        flips = self._flips(result)
        if flips is not None:
            shown, labels, said, names = flips
            n = len(labels)
            text = f"The first {n} that were right and are wrong now: what they are taken for, and are:"
            picture += f"<p>{text}</p>" + svg.strip(
                svg.image_uris(shown),
                labels=labels,
                predictions=said,
                classes=names,
                label=text,
                truth=True,
            )
        return picture, sentence + clock(result["timing"])

    def touched(self, x: float, y: float, press: bool) -> dict[str, Any]:
        plan = self._result["plan"]
        layer = plot.layer_at(self._layers(plan), y)
        if layer is None or layer.frozen:
            return {}
        whole, made_by = set(self.controls["protect"].value), makers(layer.name, plan)
        known = [n for n in self._what.layers if n in made_by]
        whole = whole - set(made_by) if layer.protected else whole | set(known[:1])
        return {"protect": tuple(n for n in self._what.layers if n in whole)}

    def draw(self, result: dict[str, Any]) -> Figure:
        layers = self._layers(result.get("plan"))
        flips = self._flips(result) if result else None
        tall = 0.3 + 0.26 * min(len(layers), plot.MAX_LAYERS)
        rows = [1.5, *([tall] if layers else []), *([1.5] if flips else [])]
        with figure(7.6, sum(rows) + 0.3, rows=tuple(rows)) as (fig, axs):
            each = list(axs) if len(rows) > 1 else [axs]
            plot.draw_bars(bars(self._what, result) if result else [], each[0])
            if result:
                each[0].set_title(chosen(self._choice()), fontsize=9)
            each.pop(0)
            if layers:
                plot.draw_layers(layers, each.pop(0))
            if flips is not None:
                shown, labels, said, names = flips
                ax = plot_strip(
                    shown, labels=labels, predictions=said, classes=names, ax=each.pop(0)
                )
                ax.set_title("right before; now taken for", fontsize=8)
        return fig

    def to_python(self) -> str:
        encoding = self._result.get("encoding", "dense")
        how = {"given": self._given, "once": self._once, "encoding": encoding}
        return code(self._choice(), self._what, **how)

    def _choice(self) -> Choice:
        granularity, criterion = self.controls["criterion"].value.split(" ", 1)
        scope, sparsity = self.controls["scope"].value, self.controls["sparsity"].at
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
        return [] if plan is None else layers(plan, self.controls["protect"].value)

    def _flips(self, result: dict[str, Any]) -> Any:
        """Return images that were right and are wrong, their classes, what is said now, and names."""
        worse = result["worse"]
        if worse is None or not len(worse):
            return None
        shown = images_of([x for x, _ in self._what.batches], worse[:FLIPS])
        if shown is None:
            return None
        labels = self._what.labels[worse[:FLIPS]].tolist()
        said = result["comparison"].said_after[worse[:FLIPS]].tolist()
        known = self._classes or []
        names = [known[c] if c < len(known) else str(c) for c in range(max(labels + said) + 1)]
        return shown, labels, said, names

"""What the what-if panel says of a choice, in bars, in words and in code."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from pruneviz.core.errors import ArgumentError
from pruneviz.core.plan import Plan, left_out_text, of_all_text
from pruneviz.metrics.accuracy_comparison import Comparison
from pruneviz.metrics.latency import speed_text
from pruneviz.metrics.latency_comparison import Timing
from pruneviz.panels.kit.script import FROM_PANEL, groups_line
from pruneviz.plots.bytes import bytes_text
from pruneviz.plots.tradeoff import RUNGS
from pruneviz.plots.whatif import Bar, LayerBar
from pruneviz.study.whatif import WhatIf

SCOPES = {None: "", "layer": "within each layer, ", "global": "over all layers, "}


@dataclass(frozen=True)
class Choice:
    """The values of the controls."""

    granularity: str
    criterion: str
    sparsity: float
    scope: str | None = None
    protect: tuple[str, ...] = ()
    repair: str = "none"


def checked_choice(choice: Choice) -> Choice:
    """Return the choice; raise if it cannot be carried out."""
    if choice.granularity == "weight" and choice.repair in ("fold", "merge"):
        raise ArgumentError(
            f"single weights cannot be repaired by {RUNGS[choice.repair]!r}: that is for units. "
            f"Choose {RUNGS['lstsq']!r}, {RUNGS['distil']!r} or {RUNGS['none']!r}."
        )
    return choice


def bars(what: WhatIf, result: dict[str, Any]) -> list[Bar]:
    """Return bars of accuracy, MACs, bytes and time, as far as measured, and the whole model's."""
    metric, before = result["metric"], result["metric_before"]
    is_accuracy = what.evaluate is None
    name, lower = "accuracy" if is_accuracy else "metric", "; lower is better" * is_lower(what)
    known = before if metric is None else metric
    share, mark = (known, before) if is_accuracy else metric_shares(known, before)
    rows = [Bar(name, f"… (before: {before:.3f}{lower})", None, mark)]
    if metric is not None:
        interval = result["comparison"].interval_after if is_accuracy else (None, None)
        text = f"{metric:.3f} (before: {before:.3f}{lower})"
        rows = [Bar(name, text, share, mark, *interval)]
    for key, unit in (("macs", "MACs"), ("bytes", "bytes")):
        if key not in result:
            rows.append(Bar(unit, "…"))
            continue
        now, whole = result[key], result[f"{key}_before"]
        text = (
            f"{now:,} of {whole:,}"
            if key == "macs"
            else f"{bytes_text(now)} of {bytes_text(whole)}"
        )
        if key == "bytes" and result["encoding"] != "dense":
            text += f" ({result['encoding']})"
        rows.append(Bar(unit, text, now / whole if whole else 0.0))
    timing = result["timing"]
    if timing is None:
        return [*rows, Bar("time", "…")]
    # without milliseconds: their quotient differs from the median of the quotients, which is shown
    text = speed_text(timing.latency_speedup, timing.low, timing.high)
    share, low, high = (1 / v for v in (timing.latency_speedup, timing.high, timing.low))
    return [*rows, Bar("time", text, share, 1.0, low, high)]


def is_lower(what: WhatIf) -> bool:
    """Whether lower metrics are better."""
    return what.better == "lower"


def metric_shares(metric: float, before: float) -> tuple[float, float]:
    """Return the length of a metric's bar, and the place of the mark of the whole model.

    The mark of a metric that is no share stands in the middle, and a bar of twice the metric is full.

    >>> metric_shares(0.75, 0.9), metric_shares(30.0, 20.0), metric_shares(-30.0, -20.0)
    ((0.75, 0.9), (0.75, 0.5), (0.25, 0.5))
    """
    if 0 <= before <= 1 and 0 <= metric <= 1:
        return metric, before
    return min(1.0, max(0.0, 0.5 + 0.5 * (metric - before) / (abs(before) or 1.0))), 0.5


def layer_bars(plan: Plan, protected: Collection[str]) -> list[LayerBar]:
    """Return how many units or weights of each layer are kept; `protected`: names of layers."""
    if plan.groups is None:
        frame = plan.to_frame().groupby("layer", sort=False, as_index=False).sum(numeric_only=True)
        counts = zip(frame["layer"], frame["kept"].tolist(), frame["total"].tolist(), strict=True)
        rows = [LayerBar(n, k, t) for n, k, t in counts]
    else:
        rows = [
            LayerBar(g.name, g.size, g.size, g.frozen)
            if g.frozen
            else LayerBar(
                g.name,
                int(plan.keep[g.name].sum()),
                g.size,
                coupled=g.producers[1:],
                note=g.approximate,
            )
            for g in plan.groups
        ]
    return [
        r
        if r.frozen
        else replace(r, protected=any(n in protected for n in producers_of(r.name, plan)))
        for r in rows
    ]


def producers_of(name: str, plan: Plan) -> tuple[str, ...]:
    """Return the producers of the units of a row: if one of them is protected, all are."""
    return (name,) if plan.groups is None else plan.groups[name].producers


def choice_in_words(choice: Choice) -> str:
    """Say what the controls chose.

    >>> choice_in_words(Choice("unit", "l2", 0.5))
    'Units by l2, target sparsity 0.50, repair: nothing'
    """
    return (
        f"{choice.granularity.capitalize()}s by {choice.criterion}, {SCOPES[choice.scope]}"
        f"target sparsity {choice.sparsity:.2f}, repair: {RUNGS[choice.repair]}"
    )


def sentence(choice: Choice, what: WhatIf, result: dict[str, Any]) -> str:
    """Say what the controls chose, and the results as far as they are measured."""
    plan, text = result["plan"], choice_in_words(choice)
    if choice.protect:
        text += f", protected: {', '.join(n or '(model)' for n in choice.protect)}"
    if plan is None:
        return f"{text}."
    text += f": {plan.kept:,} of {plan.total:,} {choice.granularity}s stay"
    if plan.left_out:
        text += f", sparsity {plan.sparsity:.3f}"
        text += of_all_text(plan.kept, plan.total, plan.left_out)
    text += "."
    if rest := left_out_text(plan.left_out):
        text += f" Left out: {rest}."
    if result["metric"] is not None:
        name = "Accuracy" if what.evaluate is None else "Metric"
        text += f" {name} {result['metric']:.3f} (before: {result['metric_before']:.3f}"
        text += f"{'; lower is better' * is_lower(what)})"
        if result["comparison"] is not None:
            several = result["comparison"].example is not None
            text += (
                f", {len(result['worse']):,} {'positions' if several else 'examples'} got worse, {len(result['better']):,} better"
                f": {_verdict(result['comparison'])}"
            )
        text += "."
    if "macs" in result:
        macs, size = (result[k] / max(result[f"{k}_before"], 1) for k in ("macs", "bytes"))
        text += f" {_share(macs)} of the MACs, {_share(size)} of the bytes."
    return text


def hint(what: WhatIf, *, learn_given: bool) -> str:
    """Return notes that do not change with the controls; `learn_given`: `learn` was passed."""
    text = (
        "Dashed: before; thin line: 95 % interval. Click a layer's bar to protect it. "
        'The smaller model to take home is in this panel\'s .result["model"]. '
        f"Criteria and repairs learn from {what.learn_text}."
    )
    if not what.has_targets and what.loss is not None:
        text += " Without labels, taylor and fisher rank alike."
    if not learn_given:
        text += (
            " On what it learned from, a repaired model looks better than it is: "
            "pass other examples as learn=… to judge it fairly."
        )
    if what.refusal:
        text += f" Units cannot be removed here: {what.refusal}"
    return text


def _share(value: float) -> str:
    """Write a share in per cent; a small share other than 0 does not read as 0%.

    >>> _share(0.5), _share(0.002), _share(0.0)
    ('50%', 'under 1%', '0%')
    """
    return "under 1%" if 0 < value < 0.005 else f"{value:.0%}"


def timing_sentence(timing: Timing | None) -> str:
    """Say how long the whole model took."""
    if timing is None:
        return ""
    examples = f"{timing.examples:,} example{'s' * (timing.examples != 1)}"
    took = f"{timing.before_ms:.3g} ms (spread {timing.before_iqr_ms:.2g})"
    return f" Before, {examples} at once took {took}."


def _verdict(comparison: Comparison) -> str:
    """Say whether the changes to worse and to better differ by more than chance."""
    if not len(comparison.worse) + len(comparison.better):
        return "no difference"
    p = comparison.p_value
    p_text = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{'inside the' if comparison.inside_noise else 'more than'} noise ({p_text})"


def code(
    choice: Choice,
    what: WhatIf,
    *,
    given: Collection[str],
    from_panel: Collection[str] = (),
    encoding: str = "dense",
) -> str:
    """Return code that makes the same model.

    Parameters
    ----------
    given : collection of str
        Which of ``"example_input"``, ``"learn"``, ``"loss"`` the caller passed.
    from_panel : collection of str
        Which of ``"batches"`` and ``"learn"`` the code takes from the panel, because they cannot be
        read a second time.
    encoding : str
        The encoding in which `save` writes the smallest file.
    """
    encoding_argument = "" if encoding == "dense" else f", encoding={encoding!r}"
    learn_given = "learn" in given
    needs = what.needs(choice.granularity, choice.criterion, choice.repair)
    repairs, units = choice.repair != "none", choice.granularity == "unit"
    evidence = ", evidence=evidence" if needs else ""
    lines = ["import torch"] if (needs or repairs) and not learn_given else []
    loss = ""
    if needs == "gradients":
        loss = ", loss=loss" if "loss" in given else ", loss=torch.nn.functional.cross_entropy"
        lines = ["import torch"]
    lines += ["import pruneviz as pv", ""]
    lines += [f"{name} = panel.{name}{FROM_PANEL}" for name in from_panel]
    lines += ["batches = list(batches)"] * ("batches" not in from_panel)
    lines += [f"x = {'example_input' if 'example_input' in given else what.how_to_trace}"]
    if (needs or repairs) and not learn_given:
        lines += [f"learn = {what.how_to_learn}"]
    if needs:
        lines += [f"evidence = pv.collect(model, learn{loss})"]
    if units:
        lines += [groups_line(what.approximate)]
    for_scores = evidence if what.needs(choice.granularity, choice.criterion, "none") else ""
    groups = ", groups=groups" if units else ""
    lines += [f"scores = pv.score(model, {choice.criterion!r}{groups}{for_scores})"]
    arguments = [f"sparsity={choice.sparsity!r}"]
    arguments += [f"scope={choice.scope!r}"] if choice.scope else []
    arguments += [f"protect={list(choice.protect)!r}"] if choice.protect else []
    lines += [f"plan = pv.select(scores, {', '.join(arguments)})"]
    if units:
        repair_argument = f", repair={choice.repair!r}, batches=learn" if repairs else ""
        repair_argument += ", as_program=True" * what.as_program
        lines += [f"small = pv.shrink(model, plan, example_input=x{repair_argument})"]
    else:
        data = ", batches=learn" if choice.repair == "distil" else evidence
        repair_argument = f", repair={choice.repair!r}{data}" if repairs else ""
        lines += [f"small = pv.bake(pv.mask(model, plan{repair_argument}))"]
    return "\n".join([*lines, f'pv.save(small, "small.safetensors"{encoding_argument})', ""])

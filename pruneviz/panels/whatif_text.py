"""What the panel of the what-if says of a choice: in bars, in words, and in code."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from pruneviz.core.errors import ArgumentError
from pruneviz.core.plan import Plan
from pruneviz.metrics.accuracy_comparison import Comparison
from pruneviz.metrics.latency_comparison import Timing, told_apart
from pruneviz.panels.kit.script import AGAIN, found
from pruneviz.plots.bytes import size as bytes_in_words
from pruneviz.plots.whatif import Bar, LayerBar
from pruneviz.study.whatif import WhatIf

LADDER = {"none": "nothing", "fold": "fold the mean", "merge": "merge into a twin",
          "lstsq": "least squares"}  # fmt: skip
SCOPES = {None: "", "layer": "within each layer, ", "global": "over all layers, "}


@dataclass(frozen=True)
class Choice:
    """Where the controls stand."""

    granularity: str
    criterion: str
    sparsity: float
    scope: str | None = None
    protect: tuple[str, ...] = ()
    repair: str = "none"


def checked(choice: Choice) -> Choice:
    """Return a choice that can be carried out; raise for one that cannot."""
    if choice.granularity == "weight" and choice.repair in ("fold", "merge"):
        raise ArgumentError(
            f"single weights cannot be repaired by {LADDER[choice.repair]!r}: that is for units. "
            f"Choose {LADDER['lstsq']!r} or {LADDER['none']!r}."
        )
    return choice


def bars(what: WhatIf, result: dict[str, Any]) -> list[Bar]:
    """Return accuracy, MACs, bytes and time beside those of the whole model, as far as measured."""
    metric, before = result["metric"], result["metric_before"]
    right = what.evaluate is None
    name, mark = ("accuracy", before) if right else ("metric", None)
    rows = [Bar(name, f"… (before: {before:.3f})", None, mark)]
    if metric is not None:
        between = result["comparison"].interval_after if right else (None, None)
        text = f"{metric:.3f} (before: {before:.3f})"
        rows = [Bar(name, text, metric if right else None, mark, *between)]
    for key, unit in (("macs", "MACs"), ("bytes", "bytes")):
        if key not in result:
            rows.append(Bar(unit, "…"))
            continue
        now, whole = result[key], result[f"{key}_before"]
        text = (
            f"{now:,} of {whole:,}"
            if key == "macs"
            else f"{bytes_in_words(now)} of {bytes_in_words(whole)}"
        )
        if key == "bytes" and result["encoding"] != "dense":
            text += f" ({result['encoding']})"
        rows.append(Bar(unit, text, now / whole if whole else 0.0))
    timing = result["timing"]
    if timing is None:
        return [*rows, Bar("time", "…")]
    # not its milliseconds, too: their quotient is another number than the median of the quotients
    text = f"{timing.latency_speedup:.2f} times as fast ({timing.low:.2f} to {timing.high:.2f})"
    if not told_apart(timing.low, timing.high):
        text = "the clock cannot tell them apart"
    share, low, high = (1 / v for v in (timing.latency_speedup, timing.high, timing.low))
    return [*rows, Bar("time", text, share, 1.0, low, high)]


def layers(plan: Plan, protected: Collection[str]) -> list[LayerBar]:
    """Return what of each layer stays; `protected`: names of layers that somebody wants whole."""
    if plan.groups is None:
        frame = plan.to_frame()
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
                also=g.producers[1:],
                note=g.approximate,
            )
            for g in plan.groups
        ]
    return [
        r if r.frozen else replace(r, protected=any(n in protected for n in makers(r.name, plan)))
        for r in rows
    ]


def makers(name: str, plan: Plan) -> tuple[str, ...]:
    """Return the layers that make the units of a row: if one of them is protected, all are."""
    return (name,) if plan.groups is None else plan.groups[name].producers


def chosen(choice: Choice) -> str:
    """Say what was chosen.

    >>> chosen(Choice("unit", "l2", 0.5))
    'Units by l2, target sparsity 0.50, repair: nothing'
    """
    return (
        f"{choice.granularity.capitalize()}s by {choice.criterion}, {SCOPES[choice.scope]}"
        f"target sparsity {choice.sparsity:.2f}, repair: {LADDER[choice.repair]}"
    )


def say(choice: Choice, what: WhatIf, result: dict[str, Any]) -> str:
    """Say what was chosen, and what came of it, as far as measured."""
    plan, text = result["plan"], chosen(choice)
    if choice.protect:
        text += f", protected: {', '.join(n or '(model)' for n in choice.protect)}"
    if plan is None:
        return f"{text}."
    text += f": {plan.kept:,} of {plan.total:,} {choice.granularity}s stay."
    if result["metric"] is not None:
        name = "Accuracy" if what.evaluate is None else "Metric"
        text += f" {name} {result['metric']:.3f} (before: {result['metric_before']:.3f})"
        if result["comparison"] is not None:
            text += (
                f", {len(result['worse']):,} examples got worse, {len(result['better']):,} better"
                f": {_verdict(result['comparison'])}"
            )
        text += "."
    if "macs" in result:
        macs, size = (result[k] / max(result[f"{k}_before"], 1) for k in ("macs", "bytes"))
        text += f" {_share(macs)} of the MACs, {_share(size)} of the bytes."
    return text


def notes(what: WhatIf, *, taught: bool) -> str:
    """Say what does not change with the controls; `taught`: it was told what to learn from."""
    text = (
        "Dashed: before; thin line: 95 % interval. Click a layer's bar to protect it. "
        'The smaller model to take home is in this panel\'s .result["model"]. '
        f"Criteria and repairs learn from {what.learned}."
    )
    if not what.taught and what.loss is not None:
        text += " Without labels, taylor and fisher rank alike."
    if not taught:
        text += (
            " On what it learned from, a repaired model looks better than it is: "
            "pass other examples as learn=… to judge it fairly."
        )
    if what.refusal:
        text += f" Units cannot be removed here: {what.refusal}"
    return text


def _share(value: float) -> str:
    """Write a share in per cent; what is not nothing does not read as nothing.

    >>> _share(0.5), _share(0.002), _share(0.0)
    ('50%', 'under 1%', '0%')
    """
    return "under 1%" if 0 < value < 0.005 else f"{value:.0%}"


def clock(timing: Timing | None) -> str:
    """Say what the whole model took."""
    if timing is None:
        return ""
    return f" Before, {timing.examples:,} example{'s' * (timing.examples != 1)} at once took {timing.before_ms:.3g} ms."


def _verdict(comparison: Comparison) -> str:
    """Say whether so many flips, so unevenly, are more than luck."""
    if not len(comparison.worse) + len(comparison.better):
        return "no difference"
    p = comparison.p_value
    sure = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{'inside the' if comparison.inside_noise else 'more than'} noise ({sure})"


def code(
    choice: Choice,
    what: WhatIf,
    *,
    given: Collection[str],
    once: Collection[str] = (),
    encoding: str = "dense",
) -> str:
    """Return code that makes the same model.

    Parameters
    ----------
    given : collection of str
        Which of ``"example_input"``, ``"learn"``, ``"loss"`` the caller passed.
    once : collection of str
        Which of ``"batches"`` and ``"learn"`` may be others when they are read again.
    encoding : str
        In which `save` writes the model smallest.
    """
    size = "" if encoding == "dense" else f", encoding={encoding!r}"
    learn = "learn" in given
    needs = what.needs(choice.granularity, choice.criterion, choice.repair)
    mends, units = choice.repair != "none", choice.granularity == "unit"
    evidence = ", evidence=evidence" if needs else ""
    lines = ["import torch"] if (needs or mends) and not learn else []
    loss = ""
    if needs == "gradients":
        loss = ", loss=loss" if "loss" in given else ", loss=torch.nn.functional.cross_entropy"
        lines = ["import torch"]
    lines += ["import pruneviz as pv", ""]
    lines += [f"{name} = panel.{name}{AGAIN}" for name in once]
    lines += ["batches = list(batches)"] * ("batches" not in once)
    lines += [f"x = {'example_input' if 'example_input' in given else what.how_to_trace}"]
    if (needs or mends) and not learn:
        lines += [f"learn = {what.how_to_learn}"]
    if needs:
        lines += [f"evidence = pv.collect(model, learn{loss})"]
    if units:
        lines += [found(what.approximate)]
    seen = evidence if what.needs(choice.granularity, choice.criterion, "none") else ""
    groups = ", groups=groups" if units else ""
    lines += [f"scores = pv.score(model, {choice.criterion!r}{groups}{seen})"]
    how = [f"sparsity={choice.sparsity!r}"]
    how += [f"scope={choice.scope!r}"] if choice.scope else []
    how += [f"protect={list(choice.protect)!r}"] if choice.protect else []
    lines += [f"plan = pv.select(scores, {', '.join(how)})"]
    if units:
        mend = f", repair={choice.repair!r}, batches=learn" if mends else ""
        lines += [f"small = pv.shrink(model, plan, example_input=x{mend})"]
    else:
        mend = f", repair={choice.repair!r}{evidence}" if mends else ""
        lines += [f"small = pv.bake(pv.mask(model, plan{mend}))"]
    return "\n".join([*lines, f'pv.save(small, "small.safetensors"{size})', ""])

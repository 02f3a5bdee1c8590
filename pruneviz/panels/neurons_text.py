"""What the panel of neurons says of a unit: as a drawing, in words and in code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pprint import pformat
from typing import TYPE_CHECKING, Any

from pruneviz.metrics.latency import speed_text
from pruneviz.panels.kit.script import groups_line
from pruneviz.plots.network import Row, Side

if TYPE_CHECKING:
    from pruneviz.core.groups import Group
    from pruneviz.core.plan import Plan

    Units = list[tuple[Group, int]]

WORDS = {"Attention": "Head", "Conv": "Channel", "Linear": "Neuron"}


def unit_facts(makes: Mapping[str, Units], layer: str, unit: int, plan: Plan) -> dict[str, Any]:
    """Return facts about a unit of a layer; about the last unit if `unit` is too large."""
    unit = min(unit, len(makes[layer]) - 1)
    group, number = makes[layer][unit]
    # a unit of a Linear can be several neurons: an attention head, or a pair that is cut together
    widths = [s.width for s in group.slices if s.layer == layer and s.role == "out"]
    return {
        "layer": layer,
        "unit": unit,
        "group": group.name,
        "frozen": group.frozen,
        "gone": not group.frozen and not bool(plan.keep[group.name][number]),
        "producers": group.producers,
        "consumers": group.consumers,
        "tensors": tuple(dict.fromkeys(s.tensor for s in group.slices)),
        "width": min(widths, default=1),
    }


def network_rows(
    labels: Mapping[str, str],
    reads: Mapping[str, Units],
    makes: Mapping[str, Units],
    result: dict[str, Any],
) -> list[Row]:
    """Return the rows to draw; for an empty result all units are kept and none is picked."""
    picked = makes[result["layer"]][result["unit"]] if result else None
    keep = {n: k.tolist() for n, k in result["plan"].keep.items()} if result else {}

    def side(units: Units) -> Side:
        numbered = list(enumerate(units))
        return Side(
            len(units),
            removed=frozenset(
                i for i, (g, u) in numbered if g.name in keep and not keep[g.name][u]
            ),
            frozen=frozenset(i for i, (g, _) in numbered if g.frozen),
            picked=frozenset(i for i, unit in numbered if unit == picked),
        )

    return [Row(n, label, side(reads[n]), side(makes[n])) for n, label in labels.items()]


def sentence(result: dict[str, Any], kinds: Mapping[str, str]) -> str:
    """Say in which layers the picked unit is, whether it is removed, and how much is kept."""
    producers, consumers = result["producers"], result["consumers"]
    kind = kinds.get(result["layer"], "")
    word = next((w for part, w in WORDS.items() if part in kind), "Unit")
    if result["width"] > 1 and word != "Head":
        word = "Unit"
    text = f"{word} {result['unit']} of {result['layer'] or 'the model'}"
    if result["frozen"]:
        text += f" cannot go: {result['frozen']}."
    else:
        layers = len({*producers, *consumers})
        text += (
            f" lives in {len(result['tensors'])} tensors of {layers} "
            f"layer{'s' * (layers > 1)}: made by {_listed(producers)}"
        )
        text += f", read by {_listed(consumers)}." if consumers else "."
        text += " It goes." * result["gone"]
    plan, edits = result["plan"], sum(map(len, result["by_hand"].values()))
    if plan.kept == plan.total:
        text += f" All {plan.total:,} units stay"
    else:
        text += f" Sparsity {plan.sparsity:.2f}: {plan.kept:,} of {plan.total:,} units stay"
    text += f" ({edits:,} chosen by hand)" if edits else ""
    if result["accuracy"] is not None:
        text += f", accuracy {result['accuracy']:.0%}"
    if result["speedup"] is not None and plan.kept < plan.total:
        text += f", {1 / result['speedup']:.0%} of the MACs"
    return text + "."


def timing_sentence(result: dict[str, Any]) -> str:
    """Say the measured times: they differ from run to run, so `sentence` leaves them out."""
    if result["macs"] is None:
        return "When the hand rests, the smaller network is made, and its work and time measured."
    timing = result["timing"]
    if timing is None:
        return "All units stay: there is no smaller network to time."
    speed = speed_text(timing.latency_speedup, timing.low, timing.high)
    return f"Measured just now on this machine, in turn with the whole network: {speed}."


def code(
    edits: Mapping[tuple[str, bool], list[int]],
    *,
    criterion: str,
    sparsity: float,
    scope: str,
    with_accuracy: bool,
    approximate: bool,
    batches_line: str,
) -> str:
    """Write the code that makes the smaller network.

    `edits`: (group name, whether the units are kept) to the unit numbers changed by hand.
    """
    changed_lines = "".join(
        f"plan.keep[{name!r}][{pformat(numbers, width=60, compact=True)}] = {keep}  # by hand\n"
        for (name, keep), numbers in edits.items()
    )
    accuracy_line = "print(pv.accuracy(small, batches))\n" if with_accuracy else ""
    return (
        f"import pruneviz as pv\n\n{batches_line}"
        f"{groups_line(approximate)}\n"
        f"scores = pv.score(model, {criterion!r}, groups=groups)\n"
        f"plan = pv.select(scores, sparsity={sparsity!r}, scope={scope!r})\n"
        f"{changed_lines}"
        "small = pv.shrink(model, plan, example_input=x)\n"
        f"print(pv.measure(small, x).macs, pv.compare_latency(model, small, x))\n{accuracy_line}"
    )


def plan_key(plan: Plan) -> list[tuple[str, list[bool]]]:
    """Return a key that is equal for plans that drop the same units."""
    return [(name, keep.tolist()) for name, keep in plan.keep.items()]


def _listed(names: Sequence[str], limit: int = 8) -> str:
    text = ", ".join(n or "the model" for n in names[:limit])
    return f"{text} and {len(names) - limit} more" if len(names) > limit else text

"""One unit of a network: where it lives, drawn, in words and in code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pprint import pformat
from typing import TYPE_CHECKING, Any

from pruneviz.panels.kit.script import found
from pruneviz.plots.network import Row, Side

if TYPE_CHECKING:
    from pruneviz.core.groups import Group
    from pruneviz.core.plan import Plan

    Units = list[tuple[Group, int]]

WORDS = {"Attention": "Head", "Conv": "Channel", "Linear": "Neuron"}


def picked(makes: Mapping[str, Units], layer: str, unit: int, plan: Plan) -> dict[str, Any]:
    """Return what there is to know of a unit, the last one if there are not so many."""
    unit = min(unit, len(makes[layer]) - 1)
    group, number = makes[layer][unit]
    # a head of a Linear, or a pair that only goes together, is several of its neurons
    own = [s.width for s in group.slices if s.layer == layer and s.role == "out"]
    return {
        "layer": layer,
        "unit": unit,
        "group": group.name,
        "frozen": group.frozen,
        "gone": not group.frozen and not bool(plan.keep[group.name][number]),
        "producers": group.producers,
        "consumers": group.consumers,
        "tensors": tuple(dict.fromkeys(s.tensor for s in group.slices)),
        "width": min(own, default=1),
    }


def network_rows(
    labels: Mapping[str, str],
    reads: Mapping[str, Units],
    makes: Mapping[str, Units],
    result: dict[str, Any],
) -> list[Row]:
    """Return what there is to draw; of an empty result the whole network, and nothing picked."""
    lit = makes[result["layer"]][result["unit"]] if result else None
    keep = {n: k.tolist() for n, k in result["plan"].keep.items()} if result else {}

    def side(units: Units) -> Side:
        numbered = list(enumerate(units))
        return Side(
            len(units),
            gone=frozenset(i for i, (g, u) in numbered if g.name in keep and not keep[g.name][u]),
            frozen=frozenset(i for i, (g, _) in numbered if g.frozen),
            lit=frozenset(i for i, unit in numbered if unit == lit),
        )

    return [Row(n, label, side(reads[n]), side(makes[n])) for n, label in labels.items()]


def sentence(result: dict[str, Any], kinds: Mapping[str, str]) -> str:
    """Say where the picked unit lives, whether it goes, and what is left of the network."""
    made, read = result["producers"], result["consumers"]
    kind = kinds.get(result["layer"], "")
    word = next((w for part, w in WORDS.items() if part in kind), "Unit")
    if result["width"] > 1 and word != "Head":
        word = "Unit"
    text = f"{word} {result['unit']} of {result['layer'] or 'the model'}"
    if result["frozen"]:
        text += f" cannot go: {result['frozen']}."
    else:
        layers = len({*made, *read})
        text += (
            f" lives in {len(result['tensors'])} tensors of {layers} "
            f"layer{'s' * (layers > 1)}: made by {_listed(made)}"
        )
        text += f", read by {_listed(read)}." if read else "."
        text += " It goes." * result["gone"]
    plan, hands = result["plan"], sum(map(len, result["by_hand"].values()))
    if plan.kept == plan.total:
        text += f" All {plan.total:,} units stay"
    else:
        text += f" Sparsity {plan.sparsity:.2f}: {plan.kept:,} of {plan.total:,} units stay"
    text += f" ({hands:,} chosen by hand)" if hands else ""
    if result["accuracy"] is not None:
        text += f", accuracy {result['accuracy']:.0%}"
    if result["speedup"] is not None and plan.kept < plan.total:
        text += f", {1 / result['speedup']:.0%} of the MACs"
    return text + "."


def clock(result: dict[str, Any]) -> str:
    """Say what changes from machine to machine, and is no part of the sentence."""
    if result["latency_ms"] is None:
        return "When the hand rests, the smaller network is made, and its work and time measured."
    whole, left = result["latency_ms"]
    return (
        f"Measured just now on this machine, in turn: the whole network {whole:.2f} ms, "
        f"this one {left:.2f} ms: {result['latency_speedup']:.1f} times as fast."
    )


def code(
    hands: Mapping[tuple[str, bool], list[int]],
    *,
    criterion: str,
    sparsity: float,
    scope: str,
    judged: bool,
    approximate: bool,
    again: str,
) -> str:
    """Write the code that makes the smaller network; `hands`: group, whether they stay, to units."""
    changed = "".join(
        f"plan.keep[{name!r}][{pformat(numbers, width=60, compact=True)}] = {stays}  # by hand\n"
        for (name, stays), numbers in hands.items()
    )
    judge = "print(pv.accuracy(small, batches))\n" if judged else ""
    return (
        f"import pruneviz as pv\n\n{again}"
        f"{found(approximate)}\n"
        f"scores = pv.score(model, {criterion!r}, groups=groups)\n"
        f"plan = pv.select(scores, sparsity={sparsity!r}, scope={scope!r})\n"
        f"{changed}"
        "small = pv.shrink(model, plan, example_input=x)\n"
        f"print(pv.measure(small, x).macs, pv.compare_latency(model, small, x))\n{judge}"
    )


def key(plan: Plan) -> list[tuple[str, list[bool]]]:
    """Return what two plans have in common that drop the same units."""
    return [(name, keep.tolist()) for name, keep in plan.keep.items()]


def _listed(names: Sequence[str], most: int = 8) -> str:
    some = ", ".join(n or "the model" for n in names[:most])
    return f"{some} and {len(names) - most} more" if len(names) > most else some

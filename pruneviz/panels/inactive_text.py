"""What the panel of the sleepers says in words, and in code."""

from __future__ import annotations

from pprint import pformat
from typing import Any

EVERY = "all examples"
LISTED = "batches = list(batches)\n"
DONE = {"remove": "Removed", "fold": "Removed, their means folded in"}


def sentence(result: dict[str, Any]) -> str:
    """Say who sleeps, and what came of letting them go, as far as it is measured."""
    counts = ", ".join(f"{n:,} {kind}" for kind, n in result["counts"].items())
    some = result["seen"]
    text = (
        f"Rare {result['threshold']:.3f}: of the {result['units']:,} units of "
        f"{result['layer'] or 'the model'}, seen on {some}, {counts}. "
    )
    after, before = result["accuracy"], result["accuracy_before"]
    if result["repair"] == "nothing" or not any(result["counts"].values()):
        return f"{text}All stay: accuracy {before:.1%}."
    text += DONE[result["repair"]]
    here, was = result["accuracy_seen"], result["accuracy_seen_before"]
    if None not in (after, here, was):
        text += f": accuracy {after:.1%} (before: {before:.1%})"
        if some != EVERY:
            text += f", on {some} {here:.1%} (before: {was:.1%})"
    return f"{text}."


def code(
    units: dict[str, list[int]],
    *,
    group: str,
    seen: int | None,
    rare: float,
    repair: str,
    again: str,
) -> str:
    """Write the code that finds these units in a group, on one class or on all, and lets them go."""
    some = "batches" if seen is None else "seen"
    only = f"seen = [(x[y == {seen}], y[y == {seen}]) for x, y in batches if (y == {seen}).any()]\n"
    text = (
        "import pruneviz as pv\n\n"
        f"{again or LISTED}"
        "x = batches[0][0]\n"
        "groups = pv.find_groups(model, x)\n"
        f"{'' if seen is None else only}"
        f"evidence = pv.collect(model, {some}, comoment=False, progress=False)\n"
        f"part = pv.Groups((groups[{group!r}],))\n"
        f"sleepers = pv.find_inactive(evidence, groups=part, rare={rare!r})\n"
        f"units = {pformat(units, width=68, compact=True)}\n"
        "plan = pv.drop(groups, units)\n"
    )
    models = ["model"]
    if repair != "nothing":
        text += "small = pv.shrink(model, plan, example_input=x"
        text += ',\n                  repair="fold", evidence=evidence' * (repair == "fold") + ")\n"
        models.append("small")
    for on in dict.fromkeys(("batches", some)):
        text += f"print({', '.join(f'pv.accuracy({m}, {on})' for m in models)})\n"
    return text

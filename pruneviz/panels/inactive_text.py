"""What the panel of inactive units says, in words and in code."""

from __future__ import annotations

from pprint import pformat
from typing import Any

ALL_EXAMPLES = "all examples"
LISTED = "batches = list(batches)\n"
DONE = {"remove": "Removed", "fold": "Removed, their means folded in"}


def sentence(result: dict[str, Any]) -> str:
    """Say which units are inactive, and the accuracy without them as far as it is measured."""
    counts = ", ".join(f"{n:,} {kind}" for kind, n in result["counts"].items())
    seen = result["seen"]
    text = (
        f"Rare {result['threshold']:.3f}: of the {result['units']:,} units of "
        f"{result['layer'] or 'the model'}, seen on {seen}, {counts}. "
    )
    after, before = result["accuracy"], result["accuracy_before"]
    if result["repair"] == "nothing" or not any(result["counts"].values()):
        return f"{text}All stay: accuracy {before:.1%}."
    text += DONE[result["repair"]]
    after_seen, before_seen = result["accuracy_seen"], result["accuracy_seen_before"]
    if None not in (after, after_seen, before_seen):
        text += f": accuracy {after:.1%} (before: {before:.1%})"
        if seen != ALL_EXAMPLES:
            text += f", on {seen} {after_seen:.1%} (before: {before_seen:.1%})"
    return f"{text}."


def code(
    units: dict[str, list[int]],
    *,
    group: str,
    seen: int | None,
    rare: float,
    repair: str,
    batches_line: str,
) -> str:
    """Write the code that finds and removes these units of a group, on one class or on all."""
    looked_at = "batches" if seen is None else "seen"
    seen_line = (
        f"seen = [(x[y == {seen}], y[y == {seen}]) for x, y in batches if (y == {seen}).any()]\n"
    )
    text = (
        "import pruneviz as pv\n\n"
        f"{batches_line or LISTED}"
        "x = batches[0][0]\n"
        "groups = pv.find_groups(model, x)\n"
        f"{'' if seen is None else seen_line}"
        f"evidence = pv.collect(model, {looked_at}, comoment=False, progress=False)\n"
        f"part = pv.Groups((groups[{group!r}],))\n"
        f"inactive = pv.find_inactive(evidence, groups=part, rare={rare!r})\n"
        f"units = {pformat(units, width=68, compact=True)}\n"
        "plan = pv.drop(groups, units)\n"
    )
    models = ["model"]
    if repair != "nothing":
        text += "small = pv.shrink(model, plan, example_input=x"
        text += ',\n                  repair="fold", evidence=evidence' * (repair == "fold") + ")\n"
        models.append("small")
    for data in dict.fromkeys(("batches", looked_at)):
        text += f"print({', '.join(f'pv.accuracy({m}, {data})' for m in models)})\n"
    return text

"""Which units does a line of text name, to remove or to keep? `read_units` and `write_units` such lines."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from pruneviz.core.errors import ArgumentError

Units = dict[str, dict[int, bool]]  # layer -> number of the unit -> whether it is kept

MODEL_ITSELF = "(model)"  # written for the layer name "", which is the model itself
MAX_RANGE = 100_000  # units in one range
HOW = "Write a layer, a colon and numbers: conv1: 3, 5-7; fc1: -12 (with a minus the unit is kept)."
_ITEM = re.compile(r"([-−]?)\s*(\d{1,9})(?:\s*[-–]\s*(\d{1,9}))?")


def read_units(text: str) -> Units:
    """Read which units to remove (False) or to keep (True) from ``conv1: 3, 5-7; fc1: -12``.

    Raises
    ------
    ArgumentError
        If a part of the line is not a list of units, or if a unit is to be removed and kept.

    Examples
    --------
    >>> read_units("conv1: 3, 5-7; fc1: -12")
    {'conv1': {3: False, 5: False, 6: False, 7: False}, 'fc1': {12: True}}
    >>> read_units(" ")
    {}
    >>> read_units("conv1 3")
    Traceback (most recent call last):
    ...
    pruneviz.ArgumentError: 'conv1 3' names no units. Write a layer, a colon and numbers: conv1: 3, 5-7; fc1: -12 (with a minus the unit is kept).
    """
    units: Units = {}
    for part in filter(str.strip, text.split(";")):
        name, colon, numbers = part.rpartition(":")
        name = name.strip()
        if not colon or not name or not numbers.strip():
            raise ArgumentError(f"{part.strip()!r} names no units. {HOW}")
        layer_units = units.setdefault("" if name == MODEL_ITSELF else name, {})
        for item in numbers.split(","):
            kept, span = _item(item.strip(), name)
            for unit in span:
                if layer_units.setdefault(unit, kept) != kept:
                    raise ArgumentError(
                        f"unit {unit} of {name!r} is named twice, once to remove and once to keep. "
                        "Leave one out."
                    )
    return units


def write_units(units: Mapping[str, Mapping[int, bool]]) -> str:
    """Write the line that `read_units` reads.

    Examples
    --------
    >>> write_units({"conv1": {3: False, 7: False, 6: False, 5: False}, "fc1": {12: True}, "fc2": {}})
    'conv1: 3, 5-7; fc1: -12'
    """
    parts = []
    for name, layer_units in units.items():
        if ";" in name or name != name.strip():
            raise ArgumentError(
                f"layer {name!r} cannot be written by hand: its name has a semicolon, or ends in a "
                "space. Rename it, or pass its units to pv.drop."
            )
        removed = _spans((u for u, kept in layer_units.items() if not kept), "")
        items = removed + _spans((u for u, kept in layer_units.items() if kept), "-")
        if items:
            parts.append(f"{name or MODEL_ITSELF}: {', '.join(items)}")
    return "; ".join(parts)


def _item(text: str, layer: str) -> tuple[bool, range]:
    found = _ITEM.fullmatch(text)
    if not found:
        raise ArgumentError(f"{text!r}, after {layer!r}, is not the number of a unit. {HOW}")
    first, last = int(found[2]), int(found[3] or found[2])
    if not 0 <= last - first < MAX_RANGE:
        raise ArgumentError(
            f"{text!r}, after {layer!r}, must run from a number to a larger one, and name at most "
            f"{MAX_RANGE:,} units."
        )
    return bool(found[1]), range(first, last + 1)


def _spans(numbers: Iterable[int], sign: str) -> list[str]:
    """Write numbers; three or more consecutive ones as a range.

    >>> _spans([9, 4, 1, 2, 3, 8], "-")
    ['-1-4', '-8', '-9']
    """
    runs: list[list[int]] = []
    for n in sorted(numbers):
        if runs and runs[-1][-1] == n - 1:
            runs[-1].append(n)
        else:
            runs.append([n])
    return [
        text
        for run in runs
        for text in ([f"{sign}{run[0]}-{run[-1]}"] if len(run) > 2 else [f"{sign}{n}" for n in run])
    ]

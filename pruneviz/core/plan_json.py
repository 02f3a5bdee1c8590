"""How is a plan written as text? Its arrays are packed, deflated and in base64."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruneviz.core.groups import Group, Groups
from pruneviz.core.slices import ROLES, Slice
from pruneviz.core.strict_json import whole


def pack_bits(keep: Tensor) -> dict[str, Any]:
    """Return a boolean tensor as a dict of its shape and its bits.

    >>> unpack_bits(pack_bits(torch.tensor([[True, False]])))
    tensor([[ True, False]])
    """
    bits = np.packbits(keep.cpu().numpy().reshape(-1))
    return {"shape": list(keep.shape), "bits": deflated(bits)}


def unpack_bits(entry: Mapping[str, Any]) -> Tensor:
    """Return the tensor that :func:`pack_bits` packed; raise a ValueError or similar if damaged."""
    shape = tuple(whole(s) for s in entry["shape"])
    n = math.prod(shape)
    bits = np.frombuffer(inflated(entry["bits"], (n + 7) // 8), dtype=np.uint8)
    return torch.from_numpy(np.unpackbits(bits, count=n).astype(bool).reshape(shape))


def pack_groups(groups: Groups) -> list[dict[str, Any]]:
    """Return the groups as lists, dicts and strings, for JSON."""
    return [
        {
            "name": g.name,
            "size": g.size,
            "frozen": g.frozen,
            "approximate": g.approximate,
            "unused": g.unused,
            "even": None if g.even is None else _pack(g.even),
            "slices": [
                {"tensor": s.tensor, "dim": s.dim, "role": s.role, "blocks": s.blocks}
                | {"index": _pack(s.index)}
                for s in g.slices
            ],
        }
        for g in groups
    ]


def unpack_groups(entries: list[dict[str, Any]]) -> Groups:
    """Return the groups that :func:`pack_groups` packed; raise ValueError or similar if damaged."""
    return Groups(tuple(_group(e) for e in entries))


def _group(e: dict[str, Any]) -> Group:
    name, size = str(e["name"]), whole(e["size"], 1)
    even = None if e["even"] is None else _unpack(e["even"], size).reshape(-1)
    if even is not None and len(even) != size:
        raise ValueError(f"{len(even)} labels for {size} units of group {name!r}")
    slices = tuple(_slice(s, size) for s in e["slices"])
    _check_order(name, slices)
    reasons = (str(e["frozen"]), str(e["approximate"]))
    return Group(name, size, slices, *reasons, even, str(e.get("unused", "")))


def _slice(e: dict[str, Any], size: int) -> Slice:
    index = _unpack(e["index"], size)
    if not index.size or (index < 0).any() or np.unique(index).size != index.size:
        raise ValueError(f"the units of {e['tensor']!r} have no, negative or equal places")
    if e["role"] not in ROLES:
        raise ValueError(f"{str(e['role'])[:40]!r} is no role of a slice")
    return Slice(str(e["tensor"]), whole(e["dim"]), index, e["role"], whole(e["blocks"], 1))


def _check_order(name: str, slices: tuple[Slice, ...]) -> None:
    """Raise unless units stand in the order in which `find_groups` counts them.

    The units that fill their first producer are counted along it; and a row, its bias and its norm
    belong to one unit.
    """
    rows = [s for s in slices if s.role == "out" and s.blocks == 1]
    starts = rows[0].index[:, 0] if rows else np.arange(0)
    fills = bool(rows) and int(rows[0].index.max()) + 1 == rows[0].index.size
    if fills and (np.diff(starts) <= 0).any():
        raise ValueError(f"the units of group {name!r} are out of order in {rows[0].tensor!r}")
    first: dict[tuple[str, int], Slice] = {}
    for s in rows:
        other = first.setdefault((s.layer, s.width), s)
        if not np.array_equal(s.index, other.index):
            raise ValueError(
                f"the units of group {name!r} are others in {s.tensor!r} than in {other.tensor!r}"
            )


def _pack(array: np.ndarray) -> str:
    # store differences: those of 0, 1, 2, … are all 1 and compress very well
    return deflated(np.diff(array.reshape(-1).astype("<i4"), prepend=np.int32(0)).astype("<i4"))


def _unpack(text: str, size: int) -> np.ndarray:
    # a unit has any number of places; zlib inflates a text at most a thousand times
    data = zlib.decompress(base64.b64decode(text, validate=True))
    if len(data) % (4 * size):
        raise ValueError(f"{len(data)} bytes of places for {size} units")
    flat = np.cumsum(np.frombuffer(data, dtype="<i4"), dtype=np.int64)
    return flat.reshape(size, -1)  # (units, k)


def deflated(array: np.ndarray) -> str:
    """Return the bytes of an array as text: deflated, in base64."""
    return base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()


def inflated(text: str, size: int) -> bytes:
    """Return the bytes that :func:`deflated` packed; raise ValueError unless there are `size`.

    No more is inflated: two thousand characters could else become a gigabyte, packed twice.
    """
    reader = zlib.decompressobj()
    data = reader.decompress(base64.b64decode(text, validate=True), size + 1)
    if len(data) != size or not reader.eof or reader.unused_data:
        raise ValueError(f"other than {size:,} bytes are packed")
    return data


def checksum(data: Mapping[str, Any]) -> str:
    """Return the checksum of a plan's JSON values."""
    return hashlib.blake2b(json.dumps(data, sort_keys=True).encode(), digest_size=8).hexdigest()

"""How is a plan written as text? Its arrays are packed, deflated and in base64."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pruneviz.core.groups import Group, Groups
from pruneviz.core.slices import ROLES, Slice


def pack_bits(keep: Tensor) -> dict[str, Any]:
    """Return a boolean tensor as a dict of its shape and its bits.

    >>> unpack_bits(pack_bits(torch.tensor([[True, False]])))
    tensor([[ True, False]])
    """
    bits = np.packbits(keep.cpu().numpy().reshape(-1))
    return {"shape": list(keep.shape), "bits": deflated(bits)}


def unpack_bits(entry: Mapping[str, Any]) -> Tensor:
    """Return the tensor that :func:`pack_bits` packed; raise a ValueError or similar if damaged."""
    shape = tuple(int(s) for s in entry["shape"])
    n = int(np.prod(shape, dtype=np.int64))
    bits = np.frombuffer(inflated(entry["bits"]), dtype=np.uint8)
    if len(bits) != (n + 7) // 8:
        raise ValueError(f"{len(bits)} bytes of bits for shape {shape}")
    return torch.from_numpy(np.unpackbits(bits, count=n).astype(bool).reshape(shape))


def pack_groups(groups: Groups) -> list[dict[str, Any]]:
    """Return the groups as lists, dicts and strings, for JSON."""
    return [
        {
            "name": g.name,
            "size": g.size,
            "frozen": g.frozen,
            "approximate": g.approximate,
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
    size = int(e["size"])
    even = None if e["even"] is None else _unpack(e["even"], size).reshape(-1)
    if even is not None and len(even) != size:
        raise ValueError(f"{len(even)} labels for {size} units of group {e['name']!r}")
    slices = tuple(_slice(s, size) for s in e["slices"])
    return Group(str(e["name"]), size, slices, str(e["frozen"]), str(e["approximate"]), even)


def _slice(e: dict[str, Any], size: int) -> Slice:
    index = _unpack(e["index"], size)
    dim, blocks = int(e["dim"]), int(e["blocks"])
    is_distinct = np.unique(index).size == index.size
    if e["role"] not in ROLES or dim < 0 or blocks < 1 or not is_distinct or (index < 0).any():
        raise ValueError(f"the slice of {e['tensor']!r} is not valid")
    return Slice(str(e["tensor"]), dim, index, e["role"], blocks)


def _pack(array: np.ndarray) -> str:
    # store differences: those of 0, 1, 2, … are all 1 and compress very well
    return deflated(np.diff(array.reshape(-1).astype("<i4"), prepend=np.int32(0)).astype("<i4"))


def _unpack(text: str, size: int) -> np.ndarray:
    flat = np.cumsum(np.frombuffer(inflated(text), dtype="<i4"), dtype=np.int64)
    return flat.reshape(size, -1) if flat.size else flat.reshape(size, 0)  # (units, k)


def deflated(array: np.ndarray) -> str:
    """Return the bytes of an array as text: deflated, in base64."""
    return base64.b64encode(zlib.compress(array.tobytes(), 9)).decode()


def inflated(text: str) -> bytes:
    """Return the bytes that :func:`deflated` packed."""
    return zlib.decompress(base64.b64decode(text, validate=True))

"""What do indexing operators do to atoms? Rules for cat, split, select, pooling and padding."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from torch.fx import Node

from pruneviz.graph.rules.pointwise import meet
from pruneviz.graph.state import Walk, rule
from pruneviz.graph.values import Args, Ids, Shape, Value, name_of, untied


@rule("cat", "concat", "concatenate")
def _cat(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    parts = [v for v in a["tensors"] if len(v.shape) == len(shape)]
    d = a["dim"] % len(shape)
    flat = [Value([None if i == d else ids for i, ids in enumerate(v.dims)],
                  tuple(1 if i == d else n for i, n in enumerate(v.shape)), v.why, v.static)
            for v in parts]  # fmt: skip
    out = meet(w, flat, tuple(1 if i == d else n for i, n in enumerate(shape)))
    dims = list(out.dims)
    if any(v.dims[d] is not None for v in parts) or sum(v.shape[d] > 1 for v in parts) > 1:
        pieces = [_atoms_or_frozen(w, v, d) for v in parts]
        if any(v.dims[d] is not None for v in parts):
            dims[d] = np.concatenate(pieces)
    return Value(dims, shape, next((v.why for v in parts if v.dims[d] is None), parts[0].why))


def _atoms_or_frozen(w: Walk, v: Value, d: int) -> Ids:
    """Return the atoms of a dimension; if it has none, new frozen ones."""
    ids = v.dims[d]
    if ids is None:
        ids = w.atoms.new(v.shape[d])
        w.atoms.freeze(ids, f"it is joined from {v.why or 'a tensor without units'}")
    return ids


@rule("stack")
def _stack(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    d = a["dim"] % len(shape)
    inner = meet(w, a["tensors"], tuple(n for i, n in enumerate(shape) if i != d))
    return Value([*inner.dims[:d], None, *inner.dims[d:]], shape, inner.why)


@rule("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk",
      "tensor_split", "unbind", "hsplit", "vsplit")  # fmt: skip
def _split(w: Walk, node: Node, a: Args, shape: Shape) -> Any:
    x = a["self"]
    parts = untied(node, x.why)
    if name_of(node) in ("hsplit", "vsplit"):
        w.freeze(x, f"operator {node.target} has no rule")
        return parts
    d = a["dim"] % len(x.shape)
    if name_of(node) == "unbind":
        w.freeze(x, "its indices are used one by one", [d])
        for part in parts:
            part.dims = [ids for i, ids in enumerate(x.dims) if i != d]
        return parts
    widths = [p.shape[d] for p in parts]
    if x.dims[d] is not None and len(set(widths)) == 1 and len(widths) > 1:
        w.even.append(x.dims[d].reshape(len(widths), -1))
    for part, start in zip(parts, itertools.accumulate([0, *widths[:-1]]), strict=True):
        part.dims = list(x.dims)
        if x.dims[d] is not None:
            part.dims[d] = x.dims[d][start : start + part.shape[d]] if part.shape[d] > 1 else None
            if part.shape[d] == 1:
                w.freeze(x, "its indices are used one by one", [d])
    return parts


@rule("slice", "narrow", "select", "index_select", "gather", "index", "take_along_dim", "diagonal")
def _pick(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    x, name = a["self"], name_of(node)
    dims = list(x.dims)
    if name == "index":
        return _index(w, x, a["indices"], shape)
    if name == "diagonal":
        w.freeze(x, "its diagonal is taken")
        return Value([None] * len(shape), shape, "a diagonal")
    d = a["dim"] % len(x.shape)
    if name == "select":
        w.freeze(x, "one index of it is picked", [d])
        return Value([ids for i, ids in enumerate(dims) if i != d], shape, x.why)
    if name in ("gather", "take_along_dim"):
        w.freeze(x, "its units are looked up by number", [d])
        return Value([None if i == d or x.shape[i] != n else dims[i] for i, n in enumerate(shape)],
                     shape, x.why)  # fmt: skip
    if dims[d] is not None and shape[d] != x.shape[d]:
        if name == "index_select" or a.get("step", 1) != 1:
            w.freeze(x, "its units are looked up by number", [d])
            dims[d] = None
        else:
            n, m = x.shape[d], shape[d]
            start = a["start"] or 0
            start = min(start + n if start < 0 else start, n)
            if m and n % m == 0 and start % m == 0:  # one of several equal parts: keep them equal
                w.even.append(dims[d].reshape(-1, m))
            dims[d] = dims[d][start : start + m] if m > 1 else None
            if m <= 1:
                w.freeze(x, "one index of it is picked", [d])
    elif dims[d] is not None and name == "index_select":
        w.freeze(x, "its units are looked up by number", [d])
        dims[d] = None
    return Value(dims, shape, x.why)


def _index(w: Walk, x: Value, indices: list[Any], shape: Shape) -> Value:
    used = [i for i, index in enumerate(indices) if isinstance(index, Value)]
    for index in indices:
        w.freeze(index, "it is used as an index")
    w.freeze(x, "its units are looked up by number", used)
    if any(isinstance(v, Value) and len(v.shape) > 1 and v.why == "" for v in indices):
        w.freeze(x, "its units are looked up by number")
    rest = [d for d in range(len(x.shape)) if d not in used]
    picked = len(shape) - len(rest)
    joined = used == list(range(used[0], used[-1] + 1)) if used else True
    at = used[0] if joined and used else 0
    if picked < 0:
        w.freeze(x, "its units are looked up by number")
        return Value([None] * len(shape), shape, x.why)
    dims = [x.dims[d] for d in rest]
    dims = [*dims[:at], *[None] * picked, *dims[at:]]
    if tuple(n for i, n in enumerate(shape) if not at <= i < at + picked) != tuple(
        x.shape[d] for d in rest
    ):
        w.freeze(x, "its units are looked up by number")
        dims = [None] * len(shape)
    return Value(dims, shape, x.why)


@rule("flip", "fliplr", "flipud")
def _flip(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    x = a["self"]
    flipped = {"fliplr": [1], "flipud": [0]}.get(name_of(node)) or [
        d % len(shape) for d in a["dims"]
    ]
    dims = [ids[::-1] if ids is not None and d in flipped else ids for d, ids in enumerate(x.dims)]
    return Value(dims, shape, x.why)


@rule("tril", "triu")
def _triangle(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    x = a["self"]
    w.freeze(x, "a triangle of it is taken", [len(shape) - 2, len(shape) - 1])
    return Value([*x.dims[:-2], None, None], shape, x.why)


@rule("max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d",
      "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d",
      "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool2d_with_indices", "lp_pool2d",
      "max_pool1d_with_indices", "max_pool3d_with_indices", "_adaptive_avg_pool2d",
      "_adaptive_avg_pool3d",
      "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_linear1d",
      "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "grid_sampler",
      "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "grid_sampler_2d",
      "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa",
      "constant_pad_nd", "pad", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
      "replication_pad1d", "replication_pad2d", "replication_pad3d")  # fmt: skip
def _spatial(w: Walk, node: Node, a: Args, shape: Shape) -> Any:
    """Freeze the dimensions that are pooled or padded with values; the others keep their atoms."""
    x: Value = a["self"] if "self" in a else a["input"]
    name = name_of(node)
    pads = a.get("pad", [])
    n = len(x.shape)
    if "pad" in name and pads is not None and len(pads):
        touched = [n - 1 - i for i in range(len(pads) // 2) if any(pads[2 * i : 2 * i + 2])]
        constant = name == "constant_pad_nd" or a.get("mode") == "constant"
        dims = list(x.dims)
        for d in touched:
            before, after = pads[2 * (n - 1 - d)], pads[2 * (n - 1 - d) + 1]
            if dims[d] is None:
                continue
            if not constant or before < 0 or after < 0:
                w.freeze(x, "it is padded with its own values", [d])
                dims[d] = None
                continue
            edges = [w.atoms.new(before), w.atoms.new(after)]
            w.atoms.freeze(np.concatenate(edges), "it is padding")
            dims[d] = np.concatenate([edges[0], dims[d], edges[1]])
        return Value(dims, shape, x.why)
    space = (
        next(k for k in (3, 2, 1) if str(k) + "d" in name or k == 1)
        if "grid" not in name
        else n - 2
    )
    w.freeze(x, f"{name} runs over it", range(n - space, n))
    w.freeze(a.get("grid"), "it holds sampling positions")
    dims = [None if d >= n - space else ids for d, ids in enumerate(x.dims)]
    if shape:
        return Value(dims, shape, x.why)
    return [Value(list(dims), v.shape, x.why) for v in untied(node, "")]


@rule("glu")
def _glu(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    x = a["self"]
    d = a["dim"] % len(shape)
    dims = list(x.dims)
    if dims[d] is not None:
        first, second = np.split(dims[d], 2)
        w.atoms.tie(first, second)
        dims[d] = first if shape[d] > 1 else None
    return Value(dims, shape, x.why)


@rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "im2col")
def _shuffle(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    x, name = a["self"], name_of(node)
    n = len(shape)
    at = 1 if "channel" in name or name == "im2col" else n - 3
    w.freeze(x, f"{name} moves it", range(at + 1, len(x.shape)))
    ids = x.dims[at]
    dims = [None if d >= at else i for d, i in enumerate(x.dims)][:n]
    if ids is None:
        return Value(dims, shape, x.why)
    if name == "pixel_shuffle":
        neighbours = ids.reshape(shape[at], -1)
        w.atoms.tie(neighbours, np.broadcast_to(neighbours[:, :1], neighbours.shape))
        dims[at] = neighbours[:, 0] if shape[at] > 1 else None
    elif name == "pixel_unshuffle" or name == "im2col":
        dims[at] = np.repeat(ids, shape[at] // ids.size)
    else:
        table = ids.reshape(a["groups"], -1)
        w.atoms.tie(table, np.broadcast_to(table[:1], table.shape))
        dims[at] = table.T.reshape(-1)
    return Value(dims, shape, x.why)


@rule("slice_scatter")
def _slice_scatter(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    x, src, d = a["self"], a["src"], a["dim"] % len(shape)
    start = a["start"] or 0
    start = start + x.shape[d] if start < 0 else start
    part = x.dims[d][start : start + src.shape[d]] if x.dims[d] is not None else None
    view = Value([part if i == d else ids for i, ids in enumerate(x.dims)], src.shape, x.why)
    meet(w, [view, src], src.shape)
    return Value(list(x.dims), shape, x.why)

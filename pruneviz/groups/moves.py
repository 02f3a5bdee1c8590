"""What operators that only move numbers do to atoms: reshape, permute, cat, split, pad, pool."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from torch.fx import Node

from pruneviz.groups.fate import fate
from pruneviz.groups.rules import meet, name_of, rule
from pruneviz.groups.walk import Ids, Value, Walk, flatten, free

Shape = tuple[int, ...]


@rule("view", "reshape", "_unsafe_view", "_reshape_alias", "flatten", "unflatten", "squeeze",
      "unsqueeze", "view_as", "reshape_as", "ravel")  # fmt: skip
def _reshape(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Value:
    x = a["self"]
    dims: list[Ids | None] = [None] * len(shape)
    for olds, news in segments(x.shape, shape):
        live = [d for d in olds if x.dims[d] is not None]
        if len(live) > 1:  # fill is the same everywhere: it may be cut with anything
            live = [d for d in live if not w.atoms.uniform(x.dims[d])] or live[-1:]  # type: ignore[arg-type]
        for d in live[:-1]:
            w.freeze(x, "it is flattened together with other units", [d])
        if not live:
            continue
        d = live[-1]
        old = tuple(x.shape[i] for i in olds)
        where = [1] * len(olds)
        where[olds.index(d)] = x.shape[d]
        ids = np.broadcast_to(x.dims[d].reshape(where), old).reshape([shape[i] for i in news])  # type: ignore[union-attr]
        axis = _axis(w, node, ids, news)
        index: list[Any] = [0] * ids.ndim
        index[axis] = slice(None)
        dims[news[axis]] = ids[tuple(index)].copy()
    return Value(dims, shape, x.why)


def segments(old: Shape, new: Shape) -> list[tuple[list[int], list[int]]]:
    """Cut a reshape into smallest parts: dimensions of the old shape that become those of the new.

    >>> segments((2, 6, 5), (2, 3, 2, 5))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    if 0 in old:
        return []
    parts, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        olds, news, p, q = [], [], 1, 1
        while True:
            if p <= q and i < len(old) and not (olds and p == q):
                olds.append(i)
                p *= old[i]
                i += 1
            elif j < len(new) and (q < p or not news):
                news.append(j)
                q *= new[j]
                j += 1
            else:
                break
        parts.append((olds, news))
    return [(o, n) for o, n in parts if o and n]


def _axis(w: Walk, node: Node, ids: np.ndarray, news: list[int]) -> int:
    """Choose the one new dimension along which units can still be told apart; tie the others."""
    roots = w.atoms.roots(ids)
    vary = [k for k in range(ids.ndim) if (roots != roots.take([0], k)).any()]
    if not vary:
        return int(np.argmax(ids.shape))
    if len(vary) == 1:
        return vary[0]
    best = max(vary, key=lambda k: (fate(node, news[k]), ids.shape[k]))
    first: list[Any] = [slice(0, 1)] * ids.ndim
    first[best] = slice(None)
    w.atoms.tie(ids.ravel(), np.broadcast_to(ids[tuple(first)], ids.shape).ravel())
    return best


@rule("permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "swapdims", "numpy_T", "mT",
      "matrix_H", "mH", "adjoint")  # fmt: skip
def _permute(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Value:
    x = a["self"]
    order = permutation(name_of(node), a, len(x.shape))
    return Value([x.dims[d] for d in order], shape, x.why)


def permutation(name: str, a: dict[str, Any], n: int) -> list[int]:
    """Which old dimension stands at each new place."""
    order = list(range(n))
    if name == "permute":
        return [d % n for d in a["dims"]]
    if name in ("movedim", "moveaxis"):
        sources, targets = (
            [d % n for d in np.atleast_1d(a[k])] for k in ("source", "destination")
        )
        rest = iter([d for d in order if d not in sources])
        moved = dict(zip(targets, sources, strict=True))
        return [moved[d] if d in moved else next(rest) for d in order]
    if name == "numpy_T":
        return order[::-1]
    if n < 2:
        return order
    dims = [a.get("dim0", a.get("axis0")), a.get("dim1", a.get("axis1"))]
    i, j = (d % n for d in (dims if dims[0] is not None else (-2, -1)))
    order[i], order[j] = order[j], order[i]
    return order


@rule("expand", "expand_as", "broadcast_to", "repeat", "tile")
def _repeat(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Value:
    x = a["self"]
    lead = len(shape) - len(x.shape)
    dims: list[Ids | None] = []
    for d, n in enumerate(shape):
        old = x.shape[d - lead] if d >= lead else 1
        ids = x.dims[d - lead] if d >= lead else None
        if old == 1 and n > 1:
            dims.append(w.atoms.new(n, uniform=True))
        else:
            dims.append(ids if ids is None or n == old else np.tile(ids, n // old))
    return Value(dims, shape, x.why)


@rule("repeat_interleave")
def _interleave(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Value:
    x = a.get("self", a.get("input"))
    times, dim = a["repeats"], a.get("dim")
    if not isinstance(times, int) or dim is None:
        w.freeze(x, "it is repeated by a tensor of numbers")
        return Value([None] * len(shape), shape, "a repetition")
    dims = list(x.dims)
    d = dim % len(dims)
    if x.shape[d] == 1:
        dims[d] = w.atoms.new(times, uniform=True)
    elif dims[d] is not None:
        dims[d] = np.repeat(dims[d], times)
    return Value(dims, shape, x.why)


@rule("cat", "concat", "concatenate")
def _cat(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Value:
    parts = [v for v in a["tensors"] if len(v.shape) == len(shape)]
    d = a["dim"] % len(shape)
    flat = [Value([None if i == d else ids for i, ids in enumerate(v.dims)],
                  tuple(1 if i == d else n for i, n in enumerate(v.shape)), v.why, v.static)
            for v in parts]  # fmt: skip
    out = meet(w, flat, tuple(1 if i == d else n for i, n in enumerate(shape)))
    dims = list(out.dims)
    if any(v.dims[d] is not None for v in parts) or sum(v.shape[d] > 1 for v in parts) > 1:
        pieces = [_solid(w, v, d) for v in parts]
        if any(v.dims[d] is not None for v in parts):
            dims[d] = np.concatenate(pieces)
    return Value(dims, shape, next((v.why for v in parts if v.dims[d] is None), parts[0].why))


def _solid(w: Walk, v: Value, d: int) -> Ids:
    """Atoms of a dimension; where it has none, new ones that cannot go."""
    ids = v.dims[d]
    if ids is None:
        ids = w.atoms.new(v.shape[d])
        w.atoms.freeze(ids, f"it is joined from {v.why or 'a tensor without units'}")
    return ids


@rule("stack")
def _stack(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Value:
    d = a["dim"] % len(shape)
    inner = meet(w, a["tensors"], tuple(n for i, n in enumerate(shape) if i != d))
    return Value([*inner.dims[:d], None, *inner.dims[d:]], shape, inner.why)


@rule("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk",
      "tensor_split", "unbind", "hsplit", "vsplit")  # fmt: skip
def _split(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Any:
    x = a["self"]
    parts = free(node, x.why)
    if name_of(node) in ("hsplit", "vsplit"):
        w.freeze(x, f"operator {node.target} has no rule")
        return parts
    d = a["dim"] % len(x.shape)
    if name_of(node) == "unbind":
        w.freeze(x, "it is taken apart index by index", [d])
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
                w.freeze(x, "it is taken apart index by index", [d])
    return parts


@rule("slice", "narrow", "select", "index_select", "gather", "index", "take_along_dim", "diagonal")
def _pick(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Value:
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
            if m and n % m == 0 and start % m == 0:  # one of equal parts: they stay equal
                w.even.append(dims[d].reshape(-1, m))  # type: ignore[union-attr]
            dims[d] = dims[d][start : start + m] if m > 1 else None  # type: ignore[index]
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
    if tuple(n for i, n in enumerate(shape) if not at <= i < at + picked) != tuple(x.shape[d] for d in rest):
        w.freeze(x, "its units are looked up by number")
        dims = [None] * len(shape)
    return Value(dims, shape, x.why)


@rule("flip", "fliplr", "flipud")
def _flip(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Value:
    x = a["self"]
    turned = {"fliplr": [1], "flipud": [0]}.get(name_of(node)) or [d % len(shape) for d in a["dims"]]
    dims = [ids[::-1] if ids is not None and d in turned else ids for d, ids in enumerate(x.dims)]
    return Value(dims, shape, x.why)


@rule("tril", "triu")
def _triangle(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Value:
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
def _spatial(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Any:
    """Dimensions that keep their size keep their atoms; those that are pooled or padded freeze."""
    x = a.get("self", a.get("input"))
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
            dims[d] = np.concatenate([edges[0], dims[d], edges[1]])  # type: ignore[list-item]
        return Value(dims, shape, x.why)
    space = next(k for k in (3, 2, 1) if str(k) + "d" in name or k == 1) if "grid" not in name else n - 2
    w.freeze(x, f"{name} runs over it", range(n - space, n))
    w.freeze(a.get("grid"), "it says where to look")
    dims = [None if d >= n - space else ids for d, ids in enumerate(x.dims)]
    if shape:
        return Value(dims, shape, x.why)
    return [Value(list(dims), v.shape, x.why) for v in free(node, "")]


@rule("glu")
def _glu(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Value:
    x = a["self"]
    d = a["dim"] % len(shape)
    dims = list(x.dims)
    if dims[d] is not None:
        first, second = np.split(dims[d], 2)
        w.atoms.tie(first, second)
        dims[d] = first if shape[d] > 1 else None
    return Value(dims, shape, x.why)


@rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "im2col")
def _shuffle(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Value:
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


@rule("prelu", "_prelu_kernel")
def _prelu(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Value:
    x, slope = a["self"], a["weight"]
    if slope.shape and slope.shape[0] > 1 and len(slope.shape) == 1 and len(shape) > 1:
        slope = Value([slope.dims[0], *[None] * (len(shape) - 2)],
                      (slope.shape[0], *[1] * (len(shape) - 2)), slope.why, slope.static)  # fmt: skip
    return meet(w, [x, slope], shape)


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "scalar_tensor")
def _fill(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Value:
    dims = [w.atoms.new(n, uniform=True) if n > 1 else None for n in shape]
    return Value(dims, shape, "a constant tensor of the forward")


@rule("arange", "linspace", "eye", "meshgrid", "one_hot", "tril_indices", "triu_indices")
def _numbers(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Any:
    w.freeze(list(a.values()), f"{node.target} counts it")
    return free(node, "a constant tensor of the forward")


@rule("slice_scatter")
def _slice_scatter(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Value:
    x, src, d = a["self"], a["src"], a["dim"] % len(shape)
    start = a["start"] or 0
    start = start + x.shape[d] if start < 0 else start
    part = x.dims[d][start : start + src.shape[d]] if x.dims[d] is not None else None
    view = Value([part if i == d else ids for i, ids in enumerate(x.dims)], src.shape, x.why)
    meet(w, [view, src], src.shape)
    return Value(list(x.dims), shape, x.why)


@rule("_weight_norm_interface", "_weight_norm")
def _weight_norm(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Any:
    v, g, d = a["v"], a["g"], a["dim"]
    why = "weight_norm runs over it"
    if d < 0 or d >= len(v.shape):
        w.freeze([v, g], why)
        return free(node, why) if not shape else Value([None] * len(shape), shape, why)
    w.freeze(v, why, [i for i in v.live if i != d])
    w.mark(v.dims[d], w.kept)  # of a row of zeros the norm is 0: zero g only
    w.tie(g.dims[d], v.dims[d], why)
    out = Value([g.dims[d] if i == d else None for i in range(len(v.shape))], v.shape, why)
    return out if shape else [out, None]


@rule("view_as_real", "view_as_complex")
def _complex(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Value:
    x = a["self"]
    if name_of(node) == "view_as_real":
        return Value([*x.dims, None], shape, x.why)
    w.freeze(x, "it holds real and imaginary parts", [len(x.shape) - 1])
    return Value(list(x.dims[:-1]), shape, x.why)


@rule("size", "sym_size", "sym_numel", "stride", "sym_stride", "numel", "dim", "is_floating_point",
      "_assert_tensor_metadata", "_assert_scalar", "_assert_async", "_check", "is_nonzero")  # fmt: skip
def _nothing(w: Walk, node: Node, a: dict[str, Any], shape: Shape) -> Any:
    if name_of(node) == "is_nonzero":
        w.freeze(flatten(list(a.values())), "Python asks for its value")
    return None

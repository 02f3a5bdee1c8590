"""What do changes of shape do to atoms? Rules for reshape, permute, expand and repeat."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.fx import Node

from pruneviz.graph.rules.lookahead import lookahead_score
from pruneviz.graph.rules.reshaping import permutation, segments
from pruneviz.graph.state import Walk, rule
from pruneviz.graph.values import Args, Ids, Shape, Value, name_of


@rule("view", "reshape", "_unsafe_view", "_reshape_alias", "flatten", "unflatten", "squeeze",
      "unsqueeze", "view_as", "reshape_as", "ravel")  # fmt: skip
def _reshape(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    x = a["self"]
    dims: list[Ids | None] = [None] * len(shape)
    for olds, news in segments(x.shape, shape):
        live = [d for d in olds if x.dims[d] is not None]
        if len(live) > 1:  # a uniform fill has the same value everywhere: it can be cut anywhere
            live = [d for d in live if not w.atoms.uniform(x.dims[d])] or live[-1:]
        for d in live[:-1]:
            w.freeze(x, "it is flattened together with other units", [d])
        if not live:
            continue
        d = live[-1]
        old = tuple(x.shape[i] for i in olds)
        where = [1] * len(olds)
        where[olds.index(d)] = x.shape[d]
        ids = np.broadcast_to(x.dims[d].reshape(where), old).reshape([shape[i] for i in news])
        axis = _axis(w, node, ids, news)
        index: list[Any] = [0] * ids.ndim
        index[axis] = slice(None)
        dims[news[axis]] = ids[tuple(index)].copy()
    return Value(dims, shape, x.why)


def _axis(w: Walk, node: Node, ids: np.ndarray, news: list[int]) -> int:
    """Choose the one new dimension that holds the units; tie the atoms along the others."""
    roots = w.atoms.roots(ids)
    vary = [k for k in range(ids.ndim) if (roots != roots.take([0], k)).any()]
    if not vary:
        return int(np.argmax(ids.shape))
    if len(vary) == 1:
        return vary[0]
    best = max(vary, key=lambda k: (lookahead_score(node, news[k]), ids.shape[k]))
    first: list[Any] = [slice(0, 1)] * ids.ndim
    first[best] = slice(None)
    w.atoms.tie(ids.ravel(), np.broadcast_to(ids[tuple(first)], ids.shape).ravel())
    return best


@rule("permute", "transpose", "t", "movedim", "moveaxis", "swapaxes", "swapdims", "numpy_T", "mT",
      "matrix_H", "mH", "adjoint")  # fmt: skip
def _permute(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    x = a["self"]
    order = permutation(name_of(node), a, len(x.shape))
    return Value([x.dims[d] for d in order], shape, x.why)


@rule("expand", "expand_as", "broadcast_to", "repeat", "tile")
def _repeat(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
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
def _interleave(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    x: Value = a["self"] if "self" in a else a["input"]
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

"""Which of several new dimensions should hold the units? The next operators decide.

A reshape may split one dimension into several, and only one of them can hold the units: see
`shapes._axis`. Each is scored by the operators that follow:

=====  ==========================================================================================
score  what an operator does with the dimension
=====  ==========================================================================================
 1     reads it as units: the width of a linear layer, the channels of a convolution or norm, the
       heads of attention (a batch dimension of a product)
 0     nothing known, or the search ended
-1     takes it as the rows or columns of a product of activations, such as the tokens of attention
-2     sums over it in a product of activations
-3     runs over it: softmax, mean, LayerNorm, the width of attention, the space of a convolution
-4     picks from it or splits it: units would be frozen or separated
=====  ==========================================================================================

The scores of a node's users are added up, and the sum is limited to -9 … 2 before it counts for the
node's own input: so good uses further on weigh at most 2, and bad uses up to 9.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node

from pruneviz.graph.rules.reshaping import permutation, segments
from pruneviz.graph.values import POINTWISE, args_of, name_of, schema_of, shape_of

PICKING = {"select", "unbind", "split", "chunk", "split_with_sizes", "slice", "index", "gather",
         "index_select", "tensor_split", "narrow"}  # fmt: skip
RUNS_OVER = {
    "softmax",
    "log_softmax",
    "mean",
    "layer_norm",
    "rms_norm",
    "amax",
    "var",
    "std",
    "max",
}


def lookahead_score(node: Node, dim: int, depth: int = 12) -> int:
    """Score a dimension by the next `depth` operators; below 0, units there would likely freeze."""
    if depth == 0:
        return 0
    return max(-9, min(2, sum(_user_score(user, node, dim, depth) for user in node.users)))


def _user_score(user: Node, node: Node, dim: int, depth: int) -> int:
    name, n, out = name_of(user), len(shape_of(node)), shape_of(user)
    first = bool(args_of(user)) and args_of(user)[0] is node

    def named(*keys: str) -> dict[str, Any]:
        schema = schema_of(user).arguments
        full = {a.name: args_of(user)[i] if i < len(args_of(user)) else user.kwargs.get(
            a.name, a.default_value if a.has_default_value() else None)
            for i, a in enumerate(schema)}  # fmt: skip
        return {k: full.get(k) for k in keys}

    if name in PICKING:
        d = named("dim")["dim"]
        if name == "index":
            picked = [i for i, x in enumerate(args_of(user)[1]) if x is not None]
            return -4 if dim in picked else 0
        d = 0 if d is None else d % n
        if d == dim:
            return -4
        if name in ("split", "chunk", "split_with_sizes", "tensor_split"):
            return max((lookahead_score(u, dim, depth - 1) for u in user.users), default=0)
        if name == "unbind":
            return max(
                (lookahead_score(u, dim - (dim > d), depth - 1) for u in user.users), default=0
            )
        return lookahead_score(user, dim - (name == "select" and dim > d), depth - 1)
    if name in ("permute", "transpose", "t", "movedim", "swapaxes", "numpy_T", "mT", "adjoint"):
        a = named("dims", "dim0", "dim1", "source", "destination", "axis0", "axis1")
        order = permutation(name, {k: v for k, v in a.items() if v is not None}, n)
        return lookahead_score(user, order.index(dim), depth - 1)
    if name == "squeeze" or name == "unsqueeze":
        new = _after_squeeze(shape_of(node), out, dim)
        return lookahead_score(user, new, depth - 1) if new is not None else 0
    if name in ("view", "reshape", "_unsafe_view", "flatten", "unflatten"):
        for olds, news in segments(shape_of(node), out):
            # of dimensions that are joined, follow the outer one: it is repeated in the new one
            if dim in olds and (len(olds) == 1 or olds[0] == dim) and len(news) == 1:
                return lookahead_score(user, news[0], depth - 1)
        return 0
    if name in ("cat", "repeat_interleave", "roll", "flip", "expand", "stack", "repeat"):
        shift = (
            len(out) - n
            if name in ("expand", "repeat")
            else int(name == "stack" and named("dim")["dim"] == 0)
        )
        return lookahead_score(user, dim + shift, depth - 1)
    if name in ("matmul", "bmm"):
        contracted = n - 1 if first or n == 1 else n - 2
        if dim == contracted:
            return -2
        return 1 if dim < n - 2 else -1
    if name == "scaled_dot_product_attention":
        return 1 if dim < n - 2 else (-3 if dim == n - 1 else -1)
    if name == "einsum":
        return _einsum(user, node, dim)
    if name in RUNS_OVER:
        d = named("dim", "normalized_shape")
        if d["normalized_shape"] is not None:
            over = list(range(n - len(d["normalized_shape"]), n))
        else:
            given = d["dim"]
            given = given if isinstance(given, (list, tuple)) else [given]
            over = [x % n for x in given if x is not None] or list(range(n))
        if dim in over:
            return -3
        return lookahead_score(user, dim, depth - 1) if len(out) == n else 0
    if name == "linear":
        return 1 if dim == n - 1 else lookahead_score(user, dim, depth - 1)
    if name.startswith("conv"):
        return 1 if dim == n - len(shape_of(args_of(user)[1])) + 1 else -3
    if name in ("batch_norm", "group_norm", "instance_norm"):
        return 1 if dim == 1 else 0
    if len(out) >= n and out[len(out) - n + dim] == shape_of(node)[dim] and _pointwise(user):
        return lookahead_score(user, len(out) - n + dim, depth - 1)
    return 0


def _after_squeeze(old: tuple[int, ...], new: tuple[int, ...], dim: int) -> int | None:
    """Return the new place of a dimension after dimensions of size 1 were added or removed."""
    rank = sum(n > 1 for n in old[:dim])
    places = [i for i, n in enumerate(new) if n > 1]
    return places[rank] if old[dim] > 1 and rank < len(places) else None


def _einsum(user: Node, node: Node, dim: int) -> int:
    equation, operands = args_of(user)[0], args_of(user)[1]
    left, _, out = str(equation).replace(" ", "").partition("->")
    term = left.split(",")[list(operands).index(node)]
    if "..." in term or dim >= len(term):
        return 0
    letter = term[dim]
    return 1 if letter in out and left.count(letter) > 1 else (-1 if letter in out else -2)


def _pointwise(user: Node) -> bool:
    tags = getattr(user.target, "tags", ())
    return torch.Tag.pointwise in tags or name_of(user) in POINTWISE

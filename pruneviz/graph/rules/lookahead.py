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

import torch
from torch.fx import Node

from pruneviz.graph.rules.reshaping import permutation, segments
from pruneviz.graph.values import POINTWISE, args_of, arguments_of, name_of, shape_of

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
    if name_of(user) in PICKING:
        return _picked_score(user, node, dim, depth)
    score = _read_score(user, node, dim)
    if score is not None:
        return score
    new = _passed_on(user, node, dim)
    return 0 if new is None else lookahead_score(user, new, depth - 1)


def _picked_score(user: Node, node: Node, dim: int, depth: int) -> int:
    """Score a dimension of a node by an operator that picks from a tensor, or splits it."""
    name, d = name_of(user), arguments_of(user).get("dim")
    if name == "index":
        picked = [i for i, x in enumerate(args_of(user)[1]) if x is not None]
        return -4 if dim in picked else 0
    d = 0 if d is None else d % len(shape_of(node))
    if d == dim:
        return -4
    dim -= name in ("select", "unbind") and dim > d
    if name in ("split", "chunk", "split_with_sizes", "tensor_split", "unbind"):
        return max((lookahead_score(u, dim, depth - 1) for u in user.users), default=0)
    return lookahead_score(user, dim, depth - 1)


def _read_score(user: Node, node: Node, dim: int) -> int | None:
    """Score a dimension of a node by an operator that computes with it; None if it is passed on."""
    name, n = name_of(user), len(shape_of(node))
    if name in ("matmul", "bmm"):
        first = args_of(user)[:1] == (node,)
        if dim == (n - 1 if first or n == 1 else n - 2):
            return -2
        return 1 if dim < n - 2 else -1
    if name == "scaled_dot_product_attention":
        return 1 if dim < n - 2 else (-3 if dim == n - 1 else -1)
    if name == "einsum":
        return _einsum(user, node, dim)
    if name in RUNS_OVER:
        a = arguments_of(user)
        given = a.get("dim")
        dims = given if isinstance(given, (list, tuple)) else [given]
        over = range(-len(a.get("normalized_shape", ())), 0) or dims
        if dim in ([x % n for x in over if x is not None] or range(n)):
            return -3
        return None if len(shape_of(user)) == n else 0
    if name == "linear":
        return 1 if dim == n - 1 else None
    if name.startswith("conv"):
        return 1 if dim == n - len(shape_of(args_of(user)[1])) + 1 else -3
    if name in ("batch_norm", "group_norm", "instance_norm"):
        return 1 if dim == 1 else 0
    return None


def _passed_on(user: Node, node: Node, dim: int) -> int | None:
    """Return the dimension of the result that a dimension of a node becomes; None if unknown."""
    name, old, new = name_of(user), shape_of(node), shape_of(user)
    lead = len(new) - len(old)
    if name in ("permute", "transpose", "t", "movedim", "swapaxes", "numpy_T", "mT", "adjoint"):
        return permutation(name, arguments_of(user), len(old)).index(dim)
    if name in ("squeeze", "unsqueeze"):
        return _after_squeeze(old, new, dim)
    if name in ("view", "reshape", "_unsafe_view", "flatten", "unflatten"):
        for olds, news in segments(old, new):
            # of dimensions that are joined, follow the outer one: it is repeated in the new one
            if dim in olds and (len(olds) == 1 or olds[0] == dim) and len(news) == 1:
                return news[0]
        return None
    if name in ("expand", "repeat"):
        return dim + lead
    if name == "stack":
        return dim + (arguments_of(user)["dim"] == 0)
    if name in ("cat", "repeat_interleave", "roll", "flip", "linear", *RUNS_OVER):
        return dim
    same = lead >= 0 and new[lead + dim] == old[dim]
    return lead + dim if same and _pointwise(user) else None


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

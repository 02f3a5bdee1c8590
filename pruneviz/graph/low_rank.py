"""Which units are the rank of a low-rank adapter? Those between A and B, where W x + B A x is computed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch.fx import Node

from pruneviz.core.groups import Groups
from pruneviz.graph.state import Walk
from pruneviz.graph.values import Ids, Value, name_of, shape_of

SUMS = frozenset(["linear", "matmul", "mm"])  # over the last dimension of what they read
CONVOLUTIONS = frozenset(["conv1d", "conv2d", "conv3d", "convolution"])  # over dimension 1
# these change numbers, or where they lie in memory, and not which unit is which
SAME_UNITS = frozenset("mul div dropout to _to_copy clone contiguous detach alias".split())


def adapter_groups(w: Walk, groups: Groups) -> list[str]:
    """Return the names of the groups that are the rank of a low-rank adapter.

    An adapter is known by what it computes, whatever its layers are called: two linear maps, with
    nothing but a scale or a dropout between them, whose result is added to that of one linear map of
    the same input; and fewer units between the two than at either end. Or a sum of weights, W + B A.
    """
    ranks = {int(r) for ids in _ranks(w) for r in w.atoms.roots(ids)}
    names = []
    for g in groups.cuttable if ranks else ():
        s = g.slices[0]
        ids = w.tensors.get((s.tensor, s.dim, s.blocks))
        if ids is not None and ranks.issuperset(w.atoms.roots(ids[s.index.ravel()]).tolist()):
            names.append(g.name)
    return names


def _ranks(w: Walk) -> Iterator[Ids]:
    """Yield the atoms of the rank of each adapter."""

    def is_weight(node: Any) -> bool:
        value = w.values.get(node) if isinstance(node, Node) else None
        return isinstance(value, Value) and value.static

    def read_by(node: Node) -> Node | None:
        """Return what a linear map reads; None if the operator is none."""
        linear = name_of(node) in SUMS | CONVOLUTIONS and is_weight(node.args[1])
        return _bare(node.args[0]) if linear else None

    for terms in _sums(w.traced.nodes):
        inputs = {read_by(t) for t in terms} - {None}
        for up in terms:
            inner = read_by(up)
            if inner is None:
                continue
            dim = 1 if name_of(up) in CONVOLUTIONS else -1
            outer = read_by(inner)
            if is_weight(inner):  # W + B A: the sum itself is the weight
                outer, found = inner, any(is_weight(t) for t in terms if t is not up)
                ends = shape_of(up)
            else:
                found = outer in inputs
                ends = (shape_of(outer)[dim], shape_of(up)[dim]) if outer is not None else ()
            value = w.values.get(inner)
            rank = value.dims[dim] if found and isinstance(value, Value) else None
            if rank is not None and len(rank) < min(ends):
                yield rank


def _sums(nodes: list[Node]) -> Iterator[list[Node]]:
    """Yield the terms of each sum that is no term of a larger one."""

    def terms(node: Node) -> list[Node]:
        node = _bare(node)
        if name_of(node) != "add":
            return [node]
        return [t for a in node.args[:2] if isinstance(a, Node) for t in terms(a)]

    sums = [n for n in nodes if name_of(n) == "add"]
    inside = {_bare(a) for n in sums for a in n.args[:2] if isinstance(a, Node)}
    for node in sums:
        if node not in inside:
            yield terms(node)


def _bare(node: Any) -> Any:
    """Return what a scale, a dropout or a copy was applied to."""
    while isinstance(node, Node) and name_of(node) in SAME_UNITS:
        tensors = [a for a in node.args[:2] if isinstance(a, Node) and math.prod(shape_of(a)) > 1]
        if len(tensors) != 1:  # a product of two tensors is no scale
            break
        node = tensors[0]
    return node

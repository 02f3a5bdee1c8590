"""Walk a graph once: which atoms stand at each place of each tensor."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node

from pruneviz.groups.atoms import Atoms
from pruneviz.groups.trace import Traced
from pruneviz.groups.values import (
    Args,
    End,
    Ids,
    Shape,
    Value,
    args_of,
    flatten,
    free,
    schema_of,
    shape_of,
    size,
)

OUTPUT = "its units are the model's output"
LONE = "it is a single unit: all that it holds goes together"


@dataclass(eq=False)
class Walk:
    """All that one walk over a graph finds out."""

    traced: Traced
    atoms: Atoms = field(default_factory=Atoms)
    values: dict[Node, Any] = field(default_factory=dict)  # Node -> Value, or a list of them
    tensors: dict[tuple[str, int, int], Ids] = field(default_factory=dict)  # (name, dim, blocks)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: set[str] = field(default_factory=set)  # floating point, and no buffer
    zeroable: set[str] = field(default_factory=set)  # floating point: a mask can silence it
    made: set[int] = field(default_factory=set)  # owners that make units
    read: set[int] = field(default_factory=set)  # owners that read them
    kept: set[int] = field(default_factory=set)  # owners that a mask must not zero
    ends: list[End] = field(default_factory=list)
    norms: dict[Node, list[int]] = field(default_factory=dict)  # dims of its input it runs over
    even: list[np.ndarray] = field(default_factory=list)  # (blocks, n): as many from each row
    owner: list[tuple[str, int, int]] = field(default_factory=list)
    number: dict[tuple[str, int, int], int] = field(default_factory=dict)  # of each owner
    starts: list[int] = field(default_factory=list)  # first atom of each owner
    kin: dict[int, set[int]] = field(default_factory=dict)  # owners combined into one tensor
    constants: bool = False  # a silenced unit leaves one somewhere
    dead: bool = False  # at an operator that no output needs: it ties, and can forbid nothing

    def tie(self, a: Ids | None, b: Ids | None, why: str) -> Ids | None:
        """Two dimensions meet, index by index: their atoms go together, or not at all."""
        if a is None or b is None:
            found = b if a is None else a
            if found is not None and not self.dead:
                self.atoms.freeze(found, why)
            return found
        self.atoms.tie(a, b)
        return a

    def freeze(self, value: Any, why: str, dims: Iterable[int] | None = None) -> None:
        """Freeze what stands in a value, in all its dimensions or some."""
        for v in flatten(value) if not self.dead else ():
            for d in v.live if dims is None else dims:
                ids = v.dims[d]
                if ids is not None:
                    self.atoms.freeze(ids, why)

    def mark(self, ids: Ids | None, where: set[int]) -> None:
        """Note what the parameters behind these atoms do."""
        where.update(self.owners(ids))

    def owners(self, ids: Ids | None) -> list[int]:
        """Numbers of the (tensor, dimension, blocks) that these atoms come from."""
        if ids is None or not self.starts:
            return []
        found = np.unique(np.searchsorted(self.starts, ids, side="right") - 1)
        first = {
            n: int(ids[np.searchsorted(self.starts, ids, side="right") - 1 == n][0]) for n in found
        }
        return [
            n
            for n, i in first.items()
            if n >= 0 and i < self.starts[n] + self.tensors[self.owner[n]].size
        ]

    def relate(self, a: Ids | None, b: Ids | None) -> None:
        """Two parameters are combined before they meet the data: what one does the other does."""
        both = {*self.owners(a), *self.owners(b)}
        for n in both:
            self.kin.setdefault(n, set()).update(both)

    def makers(self) -> set[int]:
        """Owners that make units, and those that were combined with one before."""
        todo, found = list(self.made), set(self.made)
        while todo:
            for n in self.kin.get(todo.pop(), ()):
                if n not in found:
                    found.add(n)
                    todo.append(n)
        return found

    def source(self, name: str, tensor: Tensor, kind: str) -> Value:
        """Give a parameter or buffer its atoms; a tied one has them already."""
        shape = tuple(tensor.shape)
        dims: list[Ids | None] = []
        for d, n in enumerate(shape):
            dims.append(self.columns(name, d, 1, n) if n > 1 else None)
        self.shapes[name] = shape
        if tensor.is_floating_point() or tensor.is_complex():
            self.zeroable.add(name)
            if kind == "parameter":
                self.parameters.add(name)
        return Value(dims, shape, f"a dimension of size 1 of {name!r}", static=True)

    def lone(self, source: Node | None, dim: int = 0) -> None:
        """Note a layer with a single unit, which stands nowhere else: its dimension is free."""
        kind, name = self.traced.sources.get(source, ("", "")) if source else ("", "")
        if kind == "parameter" and self.shapes[name][dim] == 1:
            ids = self.columns(name, dim, 1, 1)
            self.atoms.freeze(ids, LONE)
            self.mark(ids, self.made)

    def columns(self, name: str, dim: int, blocks: int, n: int) -> Ids:
        """Atoms of n places along a dimension of a tensor (of n/blocks places, block by block)."""
        key = (name, dim, blocks)
        if key not in self.tensors:
            ids = self.atoms.new(n)
            # owners are told apart by where their atoms begin
            self.starts.append(int(ids[0]))
            self.number[key] = len(self.owner)
            self.owner.append(key)
            self.tensors[key] = ids
        return self.tensors[key]


Rule = Callable[[Walk, Node, Args, Shape], Any]


def walk(traced: Traced) -> Walk:
    """Walk the graph of a model."""
    from pruneviz.groups.rulebook import rule_of  # the rules know the words above

    w = Walk(traced)
    spectral = _spectral(traced)
    twin = tensors_of(traced.model)
    for node in traced.nodes:
        if node.op == "placeholder":
            kind, name = traced.sources[node]
            if kind in ("parameter", "buffer"):
                w.values[node] = w.source(name, twin[name], kind)
                if name in spectral:
                    w.freeze(
                        w.values[node], "spectral_norm divides by what all of its weight gives"
                    )
            else:
                what = (
                    "the model's input" if kind == "input" else "a constant tensor of the forward"
                )
                w.values[node] = free(node, what, static=kind == "constant")
        elif node.op == "output":
            w.freeze([w.values.get(n) for n in node.all_input_nodes], OUTPUT)
        elif node.op == "get_attr":
            w.values[node] = free(node, "a constant tensor of the forward", static=True)
        elif node.target is operator.getitem:
            found = w.values.get(args_of(node)[0])
            w.values[node] = found[args_of(node)[1]] if isinstance(found, list) else free(node, "")
        else:
            operands = [w.values.get(n) for n in node.all_input_nodes]
            w.dead = node not in traced.live
            rule = rule_of(node)
            if rule is None:
                w.freeze(operands, f"operator {node.target} has no rule")
                w.values[node] = free(node, f"the result of {node.target}")
            else:
                w.values[node] = rule(w, node, bound(w, node), shape_of(node))
            static = all(v.static for v in flatten(operands)) and bool(operands)
            for v in flatten(w.values[node]):
                v.static = static
    return w


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers, detached, by each of their names."""
    params = model.named_parameters(remove_duplicate=False)
    return {n: t.detach() for n, t in (*params, *model.named_buffers(remove_duplicate=False))}


def _spectral(traced: Traced) -> set[str]:
    """Names of the weights under spectral normalisation, old style or new."""
    names = set(traced.model.state_dict())
    found = {n for n in names if n.endswith("_orig") and n.removesuffix("_orig") + "_u" in names}
    for name, module in traced.model.named_modules():
        if type(module).__name__ == "_SpectralNorm":
            found.add(name.rpartition(".")[0] + ".original")
    return found


def bound(w: Walk, node: Node) -> dict[str, Any]:
    """Arguments of a node by the names in its operator's schema, with values in place of nodes."""

    def valued(a: Any) -> Any:
        if isinstance(a, Node):
            val = a.meta.get("val")
            return size(val) if isinstance(val, (int, torch.SymInt)) else w.values.get(a)
        if isinstance(a, (list, tuple)):
            return [valued(x) for x in a]
        return a

    named = {}
    for i, arg in enumerate(schema_of(node).arguments):
        if i < len(node.args):
            named[arg.name] = valued(node.args[i])
        elif arg.name in node.kwargs:
            named[arg.name] = valued(node.kwargs[arg.name])
        else:
            named[arg.name] = arg.default_value if arg.has_default_value() else None
    return named

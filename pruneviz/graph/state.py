"""What one walk over a graph finds out, and the table of rules that it follows."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor
from torch.fx import Node

from pruneviz.graph.atoms import Atoms
from pruneviz.graph.trace import Traced
from pruneviz.graph.values import Args, End, Ids, Shape, Value, flatten

RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of some ATen operators."""

    def add(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, fn))
        return fn

    return add


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

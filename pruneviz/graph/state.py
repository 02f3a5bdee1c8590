"""What does one walk over a graph know? The state of a walk, and the table of rules."""

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


OUTPUT = "its units are the model's output"
SINGLE_UNIT = "it is a single unit, and a layer must keep one"


@dataclass(eq=False)
class Walk:
    """Everything that one walk over a graph finds.

    An *owner* is a dimension of a parameter or buffer, as (name, dim, blocks); it is referred to by
    its number. `blocks` is 1, except for a grouped convolution: its weight has separate columns
    for each of its groups.
    """

    traced: Traced
    atoms: Atoms = field(default_factory=Atoms)
    values: dict[Node, Any] = field(default_factory=dict)  # Node -> Value, or a list of them
    tensors: dict[tuple[str, int, int], Ids] = field(default_factory=dict)  # owner -> its atoms
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    parameters: set[str] = field(default_factory=set)  # floating-point parameters, no buffers
    zeroable: set[str] = field(default_factory=set)  # floating point: a mask can silence it
    made: set[int] = field(default_factory=set)  # owners that produce units
    read: set[int] = field(default_factory=set)  # owners that consume units
    not_zeroed: set[int] = field(default_factory=set)  # owners that a mask must not zero
    ends: list[End] = field(default_factory=list)
    norms: dict[Node, list[int]] = field(default_factory=dict)  # dims of its input it runs over
    even: list[np.ndarray] = field(default_factory=list)  # tables (blocks, n): see `even_out`
    owner: list[tuple[str, int, int]] = field(default_factory=list)  # number -> owner
    number: dict[tuple[str, int, int], int] = field(default_factory=dict)  # owner -> number
    starts: list[int] = field(default_factory=list)  # first atom of each owner
    combined: dict[int, set[int]] = field(default_factory=dict)  # owners combined into one tensor
    computed: dict[str, tuple[str, str]] = field(default_factory=dict)  # see `computed_weights`
    constants: bool = False  # some silenced unit arrives as a constant
    dead: bool = False  # the current operator is needed by no output: it ties, but freezes nothing

    def tie(self, a: Ids | None, b: Ids | None, why: str) -> Ids | None:
        """Tie the atoms of two dimensions that meet, index by index; return the atoms.

        If only one of them has atoms, these are frozen: `why` is the reason.
        """
        if a is None or b is None:
            found = b if a is None else a
            if found is not None and not self.dead:
                self.atoms.freeze(found, why)
            return found
        self.atoms.tie(a, b)
        return a

    def freeze(self, value: Any, why: str, dims: Iterable[int] | None = None) -> None:
        """Freeze the atoms of a value, in all of its dimensions or in those of `dims`."""
        for v in flatten(value) if not self.dead else ():
            for d in v.live if dims is None else dims:
                ids = v.dims[d]
                if ids is not None:
                    self.atoms.freeze(ids, why)

    def computed_text(self, layer: str) -> str:
        """Say by what the weight of a layer is computed, and what has to go first."""
        if layer not in self.computed:
            return ""
        kind, remove = self.computed[layer]
        return f"the weight of {layer or 'the model'!r}: take {kind} off first: {remove}"

    def mark(self, ids: Ids | None, where: set[int]) -> None:
        """Add the owners of these atoms to one of the sets `made`, `read` and `not_zeroed`."""
        where.update(self.owners(ids))

    def owners(self, ids: Ids | None) -> list[int]:
        """Return the numbers of the owners of these atoms."""
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
        """Note that two parameters are combined before they meet the data: they share a role."""
        both = {*self.owners(a), *self.owners(b)}
        for n in both:
            self.combined.setdefault(n, set()).update(both)

    def makers(self) -> set[int]:
        """Return the owners that produce units, and all that were combined with one of them."""
        todo, found = list(self.made), set(self.made)
        while todo:
            for n in self.combined.get(todo.pop(), ()):
                if n not in found:
                    found.add(n)
                    todo.append(n)
        return found

    def source(self, name: str, tensor: Tensor, kind: str) -> Value:
        """Give a parameter or buffer its atoms; a tied tensor has them already."""
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

    def note_single_unit(self, source: Node | None, dim: int = 0) -> None:
        """Give a layer with a single unit a frozen atom: a dimension of size 1 has none so far."""
        kind, name = self.traced.sources.get(source, ("", "")) if source else ("", "")
        if kind == "parameter" and self.shapes[name][dim] == 1:
            ids = self.columns(name, dim, 1, 1)
            self.atoms.freeze(ids, SINGLE_UNIT)
            self.mark(ids, self.made)

    def columns(self, name: str, dim: int, blocks: int, n: int) -> Ids:
        """Return the atoms of n places along a dimension: n/blocks places in each block."""
        key = (name, dim, blocks)
        if key not in self.tensors:
            ids = self.atoms.new(n)
            # `owners` finds the owner of an atom by these first atoms
            self.starts.append(int(ids[0]))
            self.number[key] = len(self.owner)
            self.owner.append(key)
            self.tensors[key] = ids
        return self.tensors[key]


Rule = Callable[[Walk, Node, Args, Shape], Any]

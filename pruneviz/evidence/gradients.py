"""What are the gradients of single examples? Mean squares per weight, outer products per output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from pruneviz.core.errors import ArgumentError
from pruneviz.core.names import at_least_float32
from pruneviz.evidence.evidence import Evidence
from pruneviz.evidence.gradient_squares import (
    channels_last,
    is_table,
    pairs_of,
    sum_of_squares,
    table_squares,
)
from pruneviz.evidence.losses import Losses, first_of
from pruneviz.model.batches import Batch
from pruneviz.model.forward import run_forward
from pruneviz.model.layers import consumers, shaped, watched, weight_name
from pruneviz.model.patches import batched
from pruneviz.model.weights import weight_places

WIDE = 4096  # outputs; for more, only the diagonal of E[g gᵀ] is kept

Call = tuple[
    str, Tensor, Tensor
]  # a layer's name, its input, and its output (or the gradient there)


class Gradients:
    """Adds up gradients of single examples, batch by batch.

    Parameters
    ----------
    model : nn.Module
        In eval mode when `add` is called.
    layers : iterable of str
        E[g gᵀ] is collected at their outputs.
    loss, draw : callable
        As for `collect`.
    seed : int
    squares : bool
        False: only E[g gᵀ] at the outputs of layers, for drawn labels, and nothing of the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[str],
        loss: Callable[[Any, Any], Tensor],
        draw: Callable[[Any, torch.Generator], Any] | None,
        seed: int,
        squares: bool = True,
    ) -> None:
        self.model, self.losses = model, Losses(loss, draw, seed)
        self.layers, self.squares = set(layers), squares
        readers = consumers(model)
        self.modules = {**dict(model.named_modules()), **readers}
        self.watched = [
            n for n, m in self.modules.items() if n in self.layers or (squares and is_table(m))
        ]
        self.weights: dict[str, str] = {}  # a layer's name to the name of its weight
        self.unhooked: list[str] = []  # weights that are used outside of every watched layer
        watched = {id(self.modules[n]): n for n in self.watched}
        hooked = {weight_name(n, m): n for n, m in readers.items() if n in self.layers}
        for name, held in weight_places(model).items():
            if name in hooked and len(held.holders) == 1:
                self.weights[hooked[name]] = name
            elif all(id(m) in watched and a == "weight" for m, a in held.holders):
                self.weights |= {watched[id(m)]: name for m, _ in held.holders}
            elif squares and all(
                id(m) not in {id(c) for c in readers.values()} for m, _ in held.holders
            ):
                self.unhooked.append(name)
        self.examples = 0
        self.labelled: bool | None = None
        self.known_shapes: set[Any] = (
            set()
        )  # those for which `_sorted` has tested the order of rows
        self.mixed: set[str] = set()  # weights whose gradients are computed example by example
        self.given: dict[str, Tensor] = {}
        self.drawn: dict[str, Tensor] = {}
        self.outer: dict[str, Tensor] = {}

    def add(self, batch: Batch, watch: Callable[..., None]) -> None:
        """Run one batch forward, then backward for the given and for drawn labels."""
        if self.labelled not in (None, batch.targets is not None):
            raise ArgumentError(
                f"{batch.place} has {'no ' * self.labelled}targets, unlike the batches before it. Pass "
                "targets with all, or with none."
            )
        self.labelled = batch.targets is not None
        n = batch.examples
        args, kwargs, targets = pytree.tree_map(_usable, (*batch.arguments, batch.targets))
        calls: list[Call] = []
        versions: list[int] = []

        def note(name: str, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            if name in self.layers:
                watch(name, inputs, output)
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            calls.append((name, inputs[0].detach(), output))
            versions.append(inputs[0]._version)
            return output.clone()  # a later operator may write into it

        leaves = {name: self._leaf(name) for name in self.unhooked}
        with torch.enable_grad(), watched(self.model, self.watched, note):
            call = _Replaced(self.model, leaves) if leaves else self.model
            outputs = run_forward(call, args, kwargs, batch.place)
            for (name, x, _), version in zip(calls, versions, strict=True):
                if x._version != version:
                    raise ArgumentError(
                        f"the input of layer {name!r} was overwritten afterwards, so its gradient is "
                        "lost. Use an operation that is not in place, or collect without `loss`."
                    )
            if len(first_of(outputs)) != n:
                raise ArgumentError(
                    f"`model` returns {len(first_of(outputs))} rows for {n} examples: the first dimension "
                    "of what it returns must be the examples. Collect without `loss`."
                )
            self.examples += n
            sides = [(self.losses.drawn(outputs, targets), self.drawn, True)]
            if targets is not None and self.squares:
                sides.append((targets, self.given, False))
            for labels, squares, fisher in sides:
                losses = self.losses.of_each(outputs, batch, labels)
                fast, slow = self._sorted(calls, losses, n)
                self._backward(losses.sum(), fast, {}, n, squares, fisher)
                for one in losses if slow or leaves else ():
                    self._backward(one, slow, leaves, 1, squares, fisher)

    def _backward(
        self,
        loss: Tensor,
        calls: list[Call],
        leaves: dict[str, Tensor],
        n: int,
        squares: dict[str, Tensor],
        fisher: bool,
    ) -> None:
        """Run backward from the loss of n examples, and add up the squares of their gradients."""
        wanted = [*(z for _, _, z in calls), *leaves.values()]
        if not wanted:
            return
        found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
        records = [
            (name, *_batched(self.modules[name], x, g))
            for (name, x, _), g in zip(calls, found, strict=False)
            if g is not None
        ]
        if self.squares:
            self._squares(records, squares, n)
        if fisher:
            self._outer(records)
        for name, g in zip(leaves, found[len(calls) :], strict=True):
            if g is not None:
                _plus(squares, name, g.double() ** 2)

    def _sorted(self, calls: list[Call], losses: Tensor, n: int) -> tuple[list[Call], list[Call]]:
        """Separate calls whose rows are one example after the other (fast) from all others (slow).

        Others are, for instance, a table of positions that all examples share, or inputs with time
        before examples. Two backward runs tell them apart: in the second, the losses of the
        examples have different weights, and the rows of fast calls must have the same weights.
        """
        key = (n, *((name, z.shape[:1]) for name, _, z in calls))
        if n > 1 and calls and key not in self.known_shapes:
            self.known_shapes.add(key)
            weights = 2.0 ** (torch.arange(n, device=losses.device) % 3).to(losses)
            wanted = [z for _, _, z in calls]
            found = [
                torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
                for loss in (losses.sum(), (losses * weights).sum())
            ]
            for call, plain, weighed in zip(calls, *found, strict=True):
                if plain is not None and not _in_order(plain, weighed, weights):
                    self.mixed.add(self._weight(call))
        fast = [c for c in calls if self._weight(c) not in self.mixed]
        return fast, [c for c in calls if self._weight(c) in self.mixed]

    def _weight(self, call: Call) -> str:
        return self.weights.get(call[0], f"{call[0]}.weight")

    def join(self, evidence: Evidence) -> Evidence:
        """Return the evidence with the gradients added."""

        def mean(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
            return {k: (v / self.examples).cpu() for k, v in sums.items()}

        drawn = mean(self.drawn)
        return replace(
            evidence,
            grad_sq=mean(self.given) if self.given else drawn,
            fisher=drawn,
            output_grad=mean(self.outer),
        )

    def _leaf(self, name: str) -> Tensor:
        layer, _, attribute = name.rpartition(".")
        weight: Tensor = getattr(self.modules[layer], attribute)
        return weight.detach().clone().requires_grad_()

    def _squares(self, records: list[Any], sums: dict[str, Tensor], n: int) -> None:
        by_weight: dict[str, list[Call]] = {}
        for name, x, g in records:
            if name in self.weights:
                by_weight.setdefault(self.weights[name], []).append((name, x, g))
        for weight, used in by_weight.items():
            shape: Any = self.modules[used[0][0]].weight.shape
            rows = [(self.modules[c[0]], *c[1:]) for c in used if is_table(self.modules[c[0]])]
            dense = [(self.modules[c[0]], *c[1:]) for c in used if not is_table(self.modules[c[0]])]
            pairs = [pairs_of(*c, n) for c in dense]
            if pairs:
                total = sum_of_squares(pairs)
                _plus(sums, weight, shaped(dense[0][0], total, shape).contiguous())
            if rows:
                _plus(sums, weight, table_squares(rows, shape, n, pairs))

    def _outer(self, records: list[Any]) -> None:
        for name, _, g in records:
            if name in self.layers:
                rows = at_least_float32(channels_last(self.modules[name], g)).flatten(
                    0, -2
                )  # (rows, outputs)
                wide = rows.shape[1] > WIDE
                _plus(self.outer, name, ((rows * rows).sum(0) if wide else rows.T @ rows).double())


def _in_order(plain: Tensor, weighed: Tensor, weights: Tensor) -> bool:
    """Whether the rows of a gradient are one example after the other."""
    if not plain.ndim or len(plain) % len(weights):
        return False
    row_weights = weights.repeat_interleave(len(plain) // len(weights)).reshape(
        -1, *[1] * (plain.ndim - 1)
    )
    small = 1e-3 * float(plain.abs().max()) if plain.numel() else 0.0
    return torch.allclose(weighed, plain * row_weights.to(plain), rtol=1e-2, atol=small)


def _batched(module: nn.Module, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    return (batched(module, x), batched(module, g)) if isinstance(module, _ConvNd) else (x, g)


def _plus(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value


def _usable(v: Any) -> Any:
    """Return a tensor that autograd accepts: a tensor made in inference mode is copied."""
    return v.clone() if isinstance(v, Tensor) and v.is_inference() else v


class _Replaced(nn.Module):
    """A model that is called with some of its weights replaced by other tensors."""

    def __init__(self, model: nn.Module, leaves: dict[str, Tensor]) -> None:
        super().__init__()
        self.__dict__["call"] = lambda *a, **k: torch.func.functional_call(model, leaves, a, k)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the model with the replaced weights."""
        return self.__dict__["call"](*args, **kwargs)

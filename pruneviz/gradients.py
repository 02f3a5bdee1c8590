"""Gradients of single examples: mean squares for every weight, mean outer products for every output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from pruneviz._inputs import run
from pruneviz.consumers import consumers, turned
from pruneviz.evidence import Evidence
from pruneviz.hooks import hooked
from pruneviz.streams import patches
from pruneviz.types import ArgumentError
from pruneviz.weights import places

MOST = 1 << 24  # numbers in the gradients of single examples that are held at once
WIDE = 4096  # outputs: beyond, only the diagonal of E[g gᵀ] is kept


class Gradients:
    """Adds up gradients of single examples, batch by batch.

    Parameters
    ----------
    model : nn.Module
        In eval mode when `add` is called.
    layers : iterable of str
        For E[g gᵀ] at their outputs.
    loss, draw : callable
        As for `collect`.
    seed : int
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Iterable[str],
        loss: Callable[[Any, Any], Tensor],
        draw: Callable[[Any, torch.Generator], Any] | None,
        seed: int,
    ) -> None:
        self.model, self.loss, self.draw = model, loss, draw
        self.layers = set(layers)
        self.generator = torch.Generator().manual_seed(seed)
        self.modules = dict(model.named_modules())
        self.seen = [n for n, m in self.modules.items() if n in self.layers or _table(m)]
        self.weights, self.alone = {}, []  # layer -> name of its weight; weights no hook sees
        watched = {id(self.modules[n]): n for n in self.seen}
        for name, place in places(model).items():
            if all(id(m) in watched and a == "weight" for m, a in place.holders):
                self.weights |= {watched[id(m)]: name for m, _ in place.holders}
            elif all(
                id(m) not in {id(c) for c in consumers(model).values()} for m, _ in place.holders
            ):
                self.alone.append(name)
        self.examples = 0
        self.given: dict[str, Tensor] = {}
        self.drawn: dict[str, Tensor] = {}
        self.outer: dict[str, Tensor] = {}

    def add(self, args: Any, kwargs: Any, targets: Any, watch: Callable[..., None]) -> None:
        """Run one batch forward, and back for the labels given and for drawn ones."""
        calls: list[tuple[str, Tensor, Tensor]] = []  # layer, what it read, what it gave

        def note(name: str, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            if name in self.layers:
                watch(name, inputs, output)
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            calls.append((name, inputs[0].detach(), output))
            return output.clone()  # what follows may write into it

        leaves = {n: self._leaf(n) for n in self.alone}
        with torch.enable_grad(), hooked(self.model, self.seen, note):
            call = _with(self.model, leaves) if leaves else self.model
            outputs = run(call, args, kwargs)
            n = _first(outputs).shape[0]
            self.examples += n
            drawn = self._drawn(outputs, targets)
            sides = [(drawn, self.drawn, True)]
            if targets is not None:
                sides.append((targets, self.given, False))
            for k, (labels, squares, fisher) in enumerate(sides):
                losses = self._losses(outputs, labels, n)
                wanted = [z for _, _, z in calls]
                found = torch.autograd.grad(
                    losses.sum(), wanted, retain_graph=True, allow_unused=True
                )
                records = [
                    (name, x, g)
                    for (name, x, _), g in zip(calls, found, strict=True)
                    if g is not None
                ]
                self._squares(records, squares, n)
                if fisher:
                    self._outer(records)
                for i in range(n) if leaves else ():  # no hook sees these: example by example
                    grads = torch.autograd.grad(
                        losses[i], list(leaves.values()), retain_graph=True, allow_unused=True
                    )
                    for name, g in zip(leaves, grads, strict=True):
                        if g is not None:
                            _plus(squares, name, g.detach().double() ** 2)

    def join(self, evidence: Evidence) -> Evidence:
        """Return the evidence with the gradients."""

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

    def _losses(self, outputs: Any, labels: Any, n: int) -> Tensor:
        """Return the loss of each example, whatever the loss does over a batch; shape (n,)."""
        if self.loss is F.cross_entropy and isinstance(outputs, Tensor) and outputs.ndim == 2:
            losses = F.cross_entropy(outputs, labels.to(outputs.device), reduction="none")
        else:
            losses = torch.stack([
                self._scalar(self.loss(_one(outputs, i, n), _one(labels, i, n))) for i in range(n)])  # fmt: skip
        if not torch.isfinite(losses).all():
            raise ArgumentError(
                "`loss` gave NaN or infinity for an example. Look at the data, the labels, and the weights."
            )
        return losses

    def _scalar(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ArgumentError(f"`loss` must return one number, but it returned {got}.")
        return value.reshape(())

    def _drawn(self, outputs: Any, targets: Any) -> Any:
        """Draw targets from what the model predicts."""
        logits = getattr(outputs, "logits", outputs)
        with torch.no_grad():
            if self.draw is not None:
                return self.draw(outputs, self.generator)
            if getattr(self.loss, "__name__", "") == "mse_loss" or isinstance(
                self.loss, nn.MSELoss
            ):
                noise = torch.randn(logits.shape, generator=self.generator)
                return logits + noise.to(logits)
            if isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] > 1:
                p = logits.double().softmax(1).cpu()
                if not torch.isfinite(p).all():
                    raise ArgumentError("`model` gives NaN or infinity: no label can be drawn.")
                return torch.multinomial(p, 1, generator=self.generator)[:, 0].to(logits.device)
        if targets is None:
            raise ArgumentError(
                "there are no targets, and none can be drawn from these outputs, which are not of shape "
                "(n, classes). Pass draw=..., or batches of (inputs, targets)."
            )
        return targets

    def _squares(self, records: list[Any], sums: dict[str, Tensor], n: int) -> None:
        by_weight: dict[str, list[tuple[str, Tensor, Tensor]]] = {}
        for name, x, g in records:
            if name in self.weights:
                by_weight.setdefault(self.weights[name], []).append((name, x, g))
        for weight, used in by_weight.items():
            module = self.modules[used[0][0]]
            if _table(module):
                _plus(sums, weight, _table_squares(module, used, n))
                continue
            pairs = [_pairs(self.modules[name], x, g, n) for name, x, g in used]
            total = _sum_of_squares(pairs)
            shape = module.weight.shape  # type: ignore[union-attr]
            _plus(sums, weight, total.T.contiguous() if turned(module) else total.reshape(shape))

    def _outer(self, records: list[Any]) -> None:
        for name, _, g in records:
            if name in self.layers:
                rows = _channels_last(self.modules[name], g).flatten(0, -2)  # (rows, outputs)
                wide = rows.shape[1] > WIDE
                _plus(self.outer, name, ((rows * rows).sum(0) if wide else rows.T @ rows).double())


def _pairs(module: nn.Module, x: Tensor, g: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return what was read and the gradient, (groups, n, positions, columns) and (…, outputs)."""
    if isinstance(module, _ConvNd):
        groups = module.groups
        x, g = patches(module, x), g.flatten(2).transpose(1, 2)
        x, g = (torch.stack(t.chunk(groups, -1)) for t in (x, g))
    else:
        x, g = x.unsqueeze(0), g.unsqueeze(0)
    if x.shape[1] % n:
        raise ArgumentError(
            "the gradients of single examples need the examples in the first dimension of what each "
            f"layer reads, but one of {n} examples has {x.shape[1]} there. Collect without `loss`."
        )
    return x.reshape(x.shape[0], n, -1, x.shape[-1]), g.reshape(g.shape[0], n, -1, g.shape[-1])


def _sum_of_squares(pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Σ over examples of the square of one example's gradient; shape (groups · outputs, columns)."""
    x, g = pairs[0]
    if (
        len(pairs) == 1 and x.shape[2] == 1
    ):  # one position: the square of the product is that of both
        x, g = x[:, :, 0].double(), g[:, :, 0].double()
        return ((g * g).mT @ (x * x)).flatten(0, 1)
    total = torch.zeros(x.shape[0], g.shape[-1], x.shape[-1], dtype=torch.float64, device=x.device)
    step = max(1, MOST // total.numel())
    for i in range(0, x.shape[1], step):
        each = sum(b[:, i : i + step].mT @ a[:, i : i + step] for a, b in pairs)
        total += (each.double() ** 2).sum(1)  # type: ignore[union-attr]
    return total.flatten(0, 1)


def _table(module: nn.Module) -> bool:
    return isinstance(module, nn.Embedding)


def _table_squares(module: nn.Module, used: list[Any], n: int) -> Tensor:
    """Sum, over examples, of the squares of an embedding's gradient: rows that one example used twice add up."""
    rows, width = module.weight.shape  # type: ignore[misc]
    keys, values = [], []
    for _, ids, g in used:
        ids = ids.reshape(n, -1)
        keys.append((ids + rows * torch.arange(n, device=ids.device).unsqueeze(1)).flatten())
        values.append(g.reshape(-1, width).double())
    key, place = torch.cat(keys).unique(return_inverse=True)
    each = values[0].new_zeros(len(key), width).index_add(0, place, torch.cat(values))
    return values[0].new_zeros(rows, width).index_add(0, key % rows, each**2)


def _channels_last(module: nn.Module, g: Tensor) -> Tensor:
    return g.flatten(2).transpose(1, 2) if isinstance(module, _ConvNd) else g


def _plus(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value


def _first(outputs: Any) -> Tensor:
    found = [t for t in pytree.tree_leaves(outputs) if isinstance(t, Tensor) and t.ndim]
    if not found:
        raise ArgumentError(
            "`model` returns no tensor whose first dimension is that of the examples."
        )
    return found[0]


def _one(values: Any, i: int, n: int) -> Any:
    """Return one example of a batch."""

    def cut(v: Any) -> Any:
        return v[i : i + 1] if isinstance(v, Tensor) and v.ndim and v.shape[0] == n else v

    return pytree.tree_map(cut, values)


class _with(nn.Module):
    """A model called with other tensors in the place of some weights."""

    def __init__(self, model: nn.Module, leaves: dict[str, Tensor]) -> None:
        super().__init__()
        self.__dict__["call"] = lambda *a, **k: torch.func.functional_call(model, leaves, a, k)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        return self.__dict__["call"](*args, **kwargs)

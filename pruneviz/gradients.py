"""Gradients of single examples: mean squares for every weight, mean outer products for every output."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as pytree

from pruneviz._inputs import _shape, run
from pruneviz.consumers import consumers, turned
from pruneviz.evidence import Evidence
from pruneviz.hooks import hooked
from pruneviz.moments import single
from pruneviz.streams import batched, patches
from pruneviz.types import ArgumentError
from pruneviz.weights import places

MOST = 1 << 24  # numbers in the gradients of single examples that are held at once
WIDE = 4096  # outputs: beyond, only the diagonal of E[g gᵀ] is kept
CLASSES = ("cross_entropy", "CrossEntropyLoss")

Call = tuple[str, Tensor, Tensor]  # a layer, what it read, and what it gave or the gradient there


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
        inner = loss.func if isinstance(loss, partial) else loss
        self.name = getattr(inner, "__name__", type(inner).__name__)
        self.layers = set(layers)
        self.generator = torch.Generator().manual_seed(seed)
        self.modules = dict(model.named_modules())
        self.seen = [n for n, m in self.modules.items() if n in self.layers or _table(m)]
        self.weights: dict[str, str] = {}  # a layer to the name of its weight
        self.alone: list[str] = []  # weights that no hook sees
        watched = {id(self.modules[n]): n for n in self.seen}
        for name, place in places(model).items():
            if all(id(m) in watched and a == "weight" for m, a in place.holders):
                self.weights |= {watched[id(m)]: name for m, _ in place.holders}
            elif all(
                id(m) not in {id(c) for c in consumers(model).values()} for m, _ in place.holders
            ):
                self.alone.append(name)
        for name in self.seen:  # GPT-2's Conv1D, which `places` does not count
            if turned(self.modules[name]):
                self.weights[name] = f"{name}.weight"
        self.examples = 0
        self.labelled: bool | None = None
        self.known: set[Any] = set()  # the shapes that were looked at
        self.mixed: set[str] = set()  # weights whose gradients are taken example by example
        self.given: dict[str, Tensor] = {}
        self.drawn: dict[str, Tensor] = {}
        self.outer: dict[str, Tensor] = {}

    def add(self, args: Any, kwargs: Any, targets: Any, n: int, watch: Callable[..., None]) -> None:
        """Run one batch of n examples forward, and back for the labels given and for drawn ones."""
        if self.labelled not in (None, targets is not None):
            raise ArgumentError(
                "some batches have targets and others have none. Pass targets with all, or with none."
            )
        self.labelled = targets is not None
        args, kwargs, targets = pytree.tree_map(_usable, (args, kwargs, targets))
        calls: list[Call] = []
        versions: list[int] = []

        def note(name: str, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
            if name in self.layers:
                watch(name, inputs, output)
            if not output.requires_grad:
                output = output.detach().requires_grad_()
            calls.append((name, inputs[0].detach(), output))
            versions.append(inputs[0]._version)
            return output.clone()  # what follows may write into it

        leaves = {name: self._leaf(name) for name in self.alone}
        with torch.enable_grad(), hooked(self.model, self.seen, note):
            call = _with(self.model, leaves) if leaves else self.model
            outputs = run(call, args, kwargs)
            for (name, x, _), version in zip(calls, versions, strict=True):
                if x._version != version:
                    raise ArgumentError(
                        f"what layer {name!r} read was written over afterwards, so that its gradient is "
                        "lost. Take that operation out of place, or collect without `loss`."
                    )
            if len(_first(outputs)) != n:
                raise ArgumentError(
                    f"`model` returns {len(_first(outputs))} rows for {n} examples: the first dimension "
                    "of what it returns must be that of the examples. Collect without `loss`."
                )
            self.examples += n
            sides = [(self._drawn(outputs, targets), self.drawn, True)]
            if targets is not None:
                sides.append((targets, self.given, False))
            for labels, squares, fisher in sides:
                losses = self._losses(outputs, labels, n)
                fast, slow = self._sorted(calls, losses, n)
                self._back(losses.sum(), fast, {}, n, squares, fisher)
                for one in losses if slow or leaves else ():
                    self._back(one, slow, leaves, 1, squares, fisher)

    def _back(
        self,
        loss: Tensor,
        calls: list[Call],
        leaves: dict[str, Tensor],
        n: int,
        squares: dict[str, Tensor],
        fisher: bool,
    ) -> None:
        """Run back from the loss of n examples, and add up the squares of their gradients."""
        wanted = [*(z for _, _, z in calls), *leaves.values()]
        if not wanted:
            return
        found = torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True)
        records = [
            (name, *_batched(self.modules[name], x, g))
            for (name, x, _), g in zip(calls, found, strict=False)
            if g is not None
        ]
        self._squares(records, squares, n)
        if fisher:
            self._outer(records)
        for name, g in zip(leaves, found[len(calls) :], strict=True):
            if g is not None:
                _plus(squares, name, g.double() ** 2)

    def _sorted(self, calls: list[Call], losses: Tensor, n: int) -> tuple[list[Call], list[Call]]:
        """Part the calls of layers that read example after example from the others.

        Others: what all examples share, such as a table of positions; time before examples. Two runs
        back tell, in the second of which the examples weigh differently: so must their rows.
        """
        key = (n, *((name, z.shape[:1]) for name, _, z in calls))
        if n > 1 and calls and key not in self.known:
            self.known.add(key)
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
        if self.name in CLASSES and isinstance(outputs, Tensor) and outputs.ndim == 2:
            _known_classes(labels, outputs.shape[1], getattr(self.loss, "ignore_index", -100))
        labels = pytree.tree_map(lambda v: _beside(v, outputs), labels)
        try:
            if self.loss is F.cross_entropy and isinstance(outputs, Tensor) and outputs.ndim == 2:
                losses = F.cross_entropy(outputs, labels, reduction="none")
            else:
                losses = torch.stack([
                    self._scalar(self.loss(_one(outputs, i, n), _one(labels, i, n)))
                    for i in range(n)])  # fmt: skip
        except ArgumentError:
            raise
        except Exception as e:
            raise ArgumentError(
                f"`loss` could not be computed from outputs {_shape(outputs)} and targets "
                f"{_shape(labels)}: {type(e).__name__}: {(str(e).strip().splitlines() or [''])[0][:200]}"
            ) from e
        if not torch.isfinite(losses).all():
            raise ArgumentError(
                "`loss` gave NaN or infinity for an example. Look at the data, the labels, and the weights."
            )
        if not losses.requires_grad:
            raise ArgumentError(
                "`loss` has no gradient: the model's forward, or the loss, detaches what it computes. "
                "Collect without `loss`."
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
        numbers = isinstance(targets, Tensor) and targets.is_floating_point()
        with torch.no_grad():
            if self.draw is not None:
                return self.draw(outputs, self.generator)
            if not isinstance(logits, Tensor):
                pass
            elif self.name in ("mse_loss", "MSELoss"):
                return logits + torch.special.ndtri(self._uniform(logits.shape)).to(logits)
            # numbers are no classes, unless cross-entropy reads them as probabilities of classes
            elif logits.ndim == 2 and logits.shape[1] > 1 and (
                not numbers or self.name in CLASSES
            ):  # fmt: skip
                p = logits.double().softmax(1).cpu()
                if not torch.isfinite(p).all():
                    raise ArgumentError("`model` gives NaN or infinity: no label can be drawn.")
                p = p.cumsum(1)
                drawn = torch.searchsorted(p, self._uniform((len(p), 1)) * p[:, -1:], right=True)
                return drawn[:, 0].clamp(max=p.shape[1] - 1).to(logits.device)
        if targets is None:
            raise ArgumentError(
                "there are no targets, and none can be drawn from these outputs, which are not of shape "
                "(n, classes). Pass draw=..., or batches of (inputs, targets)."
            )
        return targets

    def _uniform(self, shape: Iterable[int]) -> Tensor:
        """Numbers in (0, 1), drawn one by one: the same however the examples are split into batches."""
        u = torch.rand(tuple(shape), generator=self.generator, dtype=torch.float64)
        return u.clamp(min=2**-54)

    def _squares(self, records: list[Any], sums: dict[str, Tensor], n: int) -> None:
        by_weight: dict[str, list[Call]] = {}
        for name, x, g in records:
            if name in self.weights:
                by_weight.setdefault(self.weights[name], []).append((name, x, g))
        for weight, used in by_weight.items():
            shape: Any = self.modules[used[0][0]].weight.shape
            rows = [(self.modules[c[0]], *c[1:]) for c in used if _table(self.modules[c[0]])]
            dense = [(self.modules[c[0]], *c[1:]) for c in used if not _table(self.modules[c[0]])]
            pairs = [_pairs(*c, n) for c in dense]
            if pairs:
                total = _sum_of_squares(pairs)
                back = turned(dense[0][0])
                _plus(sums, weight, total.T.contiguous() if back else total.reshape(shape))
            if rows:
                _plus(sums, weight, _table_squares(rows, shape, n, pairs))

    def _outer(self, records: list[Any]) -> None:
        for name, _, g in records:
            if name in self.layers:
                rows = single(_channels_last(self.modules[name], g)).flatten(
                    0, -2
                )  # (rows, outputs)
                wide = rows.shape[1] > WIDE
                _plus(self.outer, name, ((rows * rows).sum(0) if wide else rows.T @ rows).double())


def _in_order(plain: Tensor, weighed: Tensor, weights: Tensor) -> bool:
    """Whether the rows of a gradient belong to one example after the other."""
    if not plain.ndim or len(plain) % len(weights):
        return False
    each = weights.repeat_interleave(len(plain) // len(weights)).reshape(
        -1, *[1] * (plain.ndim - 1)
    )
    small = 1e-3 * float(plain.abs().max()) if plain.numel() else 0.0
    return torch.allclose(weighed, plain * each.to(plain), rtol=1e-2, atol=small)


def _batched(module: nn.Module, x: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    return (batched(module, x), batched(module, g)) if isinstance(module, _ConvNd) else (x, g)


def _pairs(module: nn.Module, x: Tensor, g: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return what was read and the gradient, (groups, n, positions, columns) and (…, outputs)."""
    x, g = single(x), single(g)
    if isinstance(module, _ConvNd):
        groups = module.groups
        x, g = patches(module, x), g.flatten(2).transpose(1, 2)
        x, g = (torch.stack(t.chunk(groups, -1)) for t in (x, g))
    else:
        x, g = x.unsqueeze(0), g.unsqueeze(0)
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


def _table_squares(
    used: list[Any], shape: Sequence[int], n: int, pairs: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """Sum, over examples, of the squares of an embedding's gradient: rows that one example used twice add up.

    Where layers with the same weight gave the gradients of `pairs`, what these add to the square of
    the sum: (a + b)² − b².
    """
    rows, width = shape
    keys, values = [], []
    for module, ids, g in used:
        g = g.reshape(-1, width).double()
        if module.padding_idx is not None:  # this row is not trained
            g = g.masked_fill((ids == module.padding_idx).reshape(-1, 1), 0)
        ids = ids.reshape(n, -1)
        keys.append((ids + rows * torch.arange(n, device=ids.device).unsqueeze(1)).flatten())
        values.append(g)
    key, place = torch.cat(keys).unique(return_inverse=True)
    each = values[0].new_zeros(len(key), width).index_add(0, place, torch.cat(values))
    squares = each**2
    for i in range(n) if pairs else ():
        at = (key // rows == i).nonzero()[:, 0]
        other = sum(g[0, i][:, key[at] % rows].mT @ x[0, i] for x, g in pairs)
        squares[at] += 2 * each[at] * other
    return values[0].new_zeros(rows, width).index_add(0, key % rows, squares)


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


def _known_classes(labels: Any, classes: int, ignored: int) -> None:
    """Raise if a label is no class. On a GPU the loss itself would abort the process."""
    if isinstance(labels, Tensor) and labels.numel() and not labels.is_floating_point():
        wrong = labels[(labels != ignored) & ((labels < 0) | (labels >= classes))]
        if len(wrong):
            raise ArgumentError(
                f"targets must be classes from 0 to {classes - 1}, as many as the model has outputs, but "
                f"{int(wrong[0])} is among them."
            )


def _usable(v: Any) -> Any:
    """Return a tensor that autograd accepts: one made in inference mode is copied."""
    return v.clone() if isinstance(v, Tensor) and v.is_inference() else v


def _beside(v: Any, outputs: Any) -> Any:
    """Return a tensor on the device of the outputs."""
    return v.to(_first(outputs).device) if isinstance(v, Tensor) else v


class _with(nn.Module):
    """A model called with other tensors in the place of some weights."""

    def __init__(self, model: nn.Module, leaves: dict[str, Tensor]) -> None:
        super().__init__()
        self.__dict__["call"] = lambda *a, **k: torch.func.functional_call(model, leaves, a, k)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run it."""
        return self.__dict__["call"](*args, **kwargs)

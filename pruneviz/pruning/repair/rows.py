"""What does a layer read in the small model, and what does it give in the dense one? Row by row."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruneviz.model.batches import Batch, cut_examples
from pruneviz.model.hooks import evaluating
from pruneviz.model.layers import consumers, is_convolution, watched
from pruneviz.model.padding import real_rows, real_tokens
from pruneviz.model.patches import batched, patches
from pruneviz.pruning.repair.pairing import Choices, Tracking, chosen_alike

TENTH = 10
AT_ONCE = 1 << 25  # numbers of patches in memory at once


class NotPaired(Exception):
    """The rows that a layer reads in the two models do not belong together; says why."""


def held_out(batches: list[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Return the examples to fit to, and every tenth one, which no fit sees.

    Of fewer than ten examples none is held out.

    >>> fit, rest = held_out([Batch(torch.arange(8.0)), Batch(torch.arange(8.0, 12.0))])
    >>> [b.inputs.tolist() for b in rest], sum(b.examples for b in fit)
    ([[9.0]], 11)
    """
    fit, rest, before = list[Batch](), list[Batch](), 0
    for batch in batches:
        n = batch.examples
        chosen = torch.arange(before, before + n) % TENTH == TENTH - 1
        before += n
        for part, marked in ((fit, ~chosen), (rest, chosen)):
            if marked.all():
                part.append(batch)
            elif marked.any():
                part.append(batch.with_(cut_examples(batch.inputs, marked, n)))
    return fit, rest


@dataclass
class Call:
    """One run of a layer: its input, its output, and what has chosen their rows."""

    x: Tensor
    z: Tensor
    choices: Choices = ()


@dataclass
class Survey:
    """What one run over all batches says of a layer: rows, and whether something chooses them."""

    rows: int = 0
    routed: bool = False
    calls: list[int] = field(default_factory=list)


def surveys(model: nn.Module, layers: Iterable[str], batches: list[Batch]) -> dict[str, Survey]:
    """Return, in forward order, what the dense model says of its layers on some batches."""
    known, found, wanted = consumers(model), dict[str, Survey](), list(layers)
    for number, batch in enumerate(batches):
        masks, tracking = real_tokens(batch), Tracking(batch.inputs)

        def record(
            name: str, inputs: tuple[Any, ...], output: Tensor,
            masks: list[Tensor] = masks, tracking: Tracking = tracking, number: int = number,
        ) -> None:  # fmt: skip
            one = found.setdefault(name, Survey())
            one.routed |= bool(tracking.choices(inputs[0]))
            one.rows += _count(known[name], output, masks)
            one.calls += [0] * (number + 1 - len(one.calls))
            one.calls[number] += 1

        with evaluating(model), watched(model, wanted, record), tracking:
            batch.run(model)
    return found


def pairs(
    model: nn.Module, new: nn.Module, layer: str, batches: list[Batch], survey: Survey, every: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield what a layer reads in the new model, and what it gives in the dense one.

    Shapes (groups, rows, n) and (groups, rows, outputs). Inputs of a convolution are its patches;
    outputs are without the bias. Padding is left out. Only `every` so many rows are taken.

    Raises
    ------
    NotPaired
        If the rows do not belong together.
    """
    dense, pruned = consumers(model)[layer], consumers(new)[layer]
    row = 0
    for batch in batches:
        before = calls_of(model, layer, batch, survey)
        now = calls_of(new, layer, batch, survey)
        masks = real_tokens(batch)
        if len(before) != len(now):
            raise NotPaired("it runs another number of times in the smaller model")
        for a, b in zip(before, now, strict=True):
            if _places(dense, a.z) != _places(pruned, b.z):
                raise NotPaired("other rows are sent to it in the smaller model")
            if not chosen_alike(a.choices, b.choices):
                raise NotPaired("other rows are sent to it in the smaller model")
            for x, z in _rows(dense, pruned, a.z, b, masks):
                first = -row % every
                row += x.shape[1]
                yield x[:, first::every], z[:, first::every]


def calls_of(
    model: nn.Module, layer: str, batch: Batch, survey: Survey | None = None
) -> list[Call]:
    """Run a model; return the calls of a layer. The forward stops after the last one, if known."""
    found: list[Call] = []
    tracking = Tracking(batch.inputs) if survey is not None and survey.routed else None
    # where rows are routed, the number of calls may differ from that in the dense model
    last = 0 if survey is None or survey.routed or not survey.calls else max(survey.calls)

    def record(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        x = inputs[0]
        choices = () if tracking is None else tracking.choices(x)
        found.append(Call(x.detach(), output.detach(), choices))
        if len(found) == last:
            raise _StopForward

    with (
        suppress(_StopForward),
        evaluating(model),
        watched(model, [layer], record),
        nullcontext() if tracking is None else tracking,
    ):
        batch.run(model)
    return found


def _rows(
    dense: nn.Module, pruned: nn.Module, z: Tensor, now: Call, masks: list[Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the rows of one call, (groups, rows, ...), of not too many examples at once."""
    groups, bias = getattr(dense, "groups", 1), getattr(dense, "bias", None)
    shape = (-1,) + (1,) * (z.ndim - 2) if is_convolution(dense) and z.ndim > 2 else (-1,)
    if not isinstance(dense, _ConvNd) or not isinstance(pruned, _ConvNd):
        z = z if bias is None else z - bias
        real = real_rows(masks, dense, z)
        x, z = (t if real is None else t[real] for t in (now.x, z))
        yield x.reshape(1, -1, x.shape[-1]), z.reshape(1, -1, z.shape[-1])
        return
    x, z = batched(pruned, now.x), batched(dense, z)
    shape = (-1,) + (1,) * (z.ndim - 2)
    z = z if bias is None else z - bias.reshape(shape)
    size = z.shape[2:]
    each = max(1, x.shape[1] * size.numel() * torch.Size(pruned.kernel_size).numel())
    step = max(1, AT_ONCE // each)
    for i in range(0, len(x), step):
        read = patches(pruned, x[i : i + step], size).flatten(0, 1)
        gives = z[i : i + step].flatten(2).transpose(1, 2).flatten(0, 1)
        yield tuple(torch.stack(t.chunk(groups, -1)) for t in (read, gives))  # type: ignore[misc]


def _places(module: nn.Module, z: Tensor) -> tuple[int, ...]:
    """Return the shape of an output without its columns."""
    if isinstance(module, _ConvNd):
        z = batched(module, z)
        return (z.shape[0], *z.shape[2:])
    return tuple(z.shape[:-1])


def _count(module: nn.Module, z: Tensor, masks: list[Tensor]) -> int:
    """Return the number of rows of an output, padding left out."""
    real = real_rows(masks, module, z)
    return torch.Size(_places(module, z)).numel() if real is None else int(real.sum())


def too_few(rows: Mapping[str, int], columns: Mapping[str, int]) -> str:
    """Return a sentence on layers that have fewer rows than columns; "" if none has.

    >>> too_few({"a": 9, "b": 0}, {"a": 8, "b": 8})
    ''
    """
    few = {n: (rows[n], c) for n, c in columns.items() if 0 < rows.get(n, 0) < c}
    if not few:
        return ""
    named = ", ".join(f"{n!r} ({r:,} for {c:,})" for n, (r, c) in list(few.items())[:4])
    more = max(-(-c // max(1, r)) for r, c in few.values())
    return (
        f"repair 'lstsq' has fewer rows than columns to fit in {len(few)} "
        f"layer{'s' * (len(few) > 1)}: {named}{', …' * (len(few) > 4)}. "
        f"Pass {more} times as many examples."
    )


class _StopForward(BaseException):
    """Ends a forward early; as a BaseException it passes every `except Exception` of a model."""

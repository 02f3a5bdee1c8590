"""How are moments added up batch by batch? In few passes over the numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruneviz.evidence.moments import BLOCK, Moments
from pruneviz.model.patches import batched, patches


class Stream:
    """Adds up moments of columns along dimension 1: (rows, n), or (examples, n, positions).

    The sums are over deviations from the first batch's mean, so that none of them grows large. They
    are kept in float64; within a batch the precision of the numbers is used.

    Parameters
    ----------
    comoment : bool
        Whether to keep the whole co-moment, or only its diagonal.
    """

    def __init__(self, comoment: bool) -> None:
        self.comoment = comoment
        self.count = 0
        self.shift: Tensor | None = None

    def add(self, x: Tensor) -> None:
        """Add a batch, shape (rows, n) or (examples, n, positions)."""
        if self.shift is None:
            self._start(x)
        self.count += x.numel() // x.shape[1]
        over = (0,) if x.ndim == 2 else (0, 2)
        assert self.shift is not None
        shift = self.shift if x.ndim == 2 else self.shift.unsqueeze(1)
        step = max(1, BLOCK // max(1, x[0].numel()))
        # blocks that fit into the cache, so that several passes cost little
        for part in (x,) if step >= len(x) else x.split(step):
            d = torch.sub(part, shift)
            self.first += d.sum(over)
            if self.comoment:
                rows = d if d.ndim == 2 else d.transpose(1, 2).flatten(0, 1)  # (rows, n)
                self.second += rows.T @ rows
            else:
                self.second += torch.mul(d, d, out=d).sum(over)
            # compare into a float buffer: sums of booleans are slow
            self.zeros += torch.eq(part, 0, out=d).sum(over)
            torch.minimum(self.low, part.amin(over), out=self.low)
            torch.maximum(self.high, part.amax(over), out=self.high)

    def _start(self, x: Tensor) -> None:
        n = x.shape[1]
        over = (0,) if x.ndim == 2 else (0, 2)
        self.shift = x.mean(over)
        self.first, self.zeros = (x.new_zeros(n, dtype=torch.float64) for _ in range(2))
        self.second = x.new_zeros((n, n) if self.comoment else (n,), dtype=torch.float64)
        self.low, self.high = x.new_full((n,), torch.inf), x.new_full((n,), -torch.inf)

    def result(self) -> Moments:
        """Return the moments of all batches."""
        assert self.shift is not None
        offset = self.first / self.count
        outer = offset.unsqueeze(-1) * offset if self.comoment else offset * offset
        parts = (self.shift.double() + offset, self.second - self.count * outer, self.zeros)
        return Moments(self.count, *(t.double().cpu() for t in (*parts, self.low, self.high)))


class Patches:
    """Adds up moments of the patches that a convolution reads, for each of its groups.

    Parameters
    ----------
    conv : nn.Conv1d, nn.Conv2d or nn.Conv3d, or transposed
    comoment : bool
    """

    def __init__(self, conv: _ConvNd, comoment: bool) -> None:
        self.conv = conv
        self.streams = [Stream(comoment) for _ in range(conv.groups)]

    def add(self, x: Tensor, size: Sequence[int] | None = None) -> None:
        """Add a batch, (examples, channels, ...), or one example without that dimension.

        `size`: that of the output of a transposed convolution, (height, width).
        """
        # (examples, positions, channels * taps)
        columns = patches(self.conv, batched(self.conv, x), size)
        for stream, part in zip(self.streams, columns.chunk(self.conv.groups, 2), strict=True):
            stream.add(part.flatten(0, 1))

    def result(self) -> Moments:
        """Return the moments of all batches; of a grouped convolution, dimension 0 is its groups."""
        parts = [s.result() for s in self.streams]
        if len(parts) == 1:
            return parts[0]
        fields = ("mean", "comoment", "zeros", "low", "high")
        return Moments(
            parts[0].count, *(torch.stack([getattr(m, f) for m in parts]) for f in fields)
        )


def input_rows(module: nn.Module, x: Tensor, real: Tensor | None = None) -> Tensor:
    """Return a layer's input, columns in dimension 1: (rows, n) or (examples, n, positions).

    `real`: which tokens of an input (examples, tokens, n) are no padding.
    """
    if isinstance(module, _ConvNd):
        return batched(module, x).flatten(2)
    if real is not None:
        return x[real]
    return x.reshape(-1, x.shape[-1])

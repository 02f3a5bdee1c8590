"""What a convolution reads: its input cut into patches, one row for each place it looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd


def patches(conv: _ConvNd, x: Tensor) -> Tensor:
    """Return the patches that a convolution multiplies with its filters, padding included.

    Parameters
    ----------
    conv : nn.Conv1d, nn.Conv2d or nn.Conv3d
    x : Tensor, shape (n, channels, ...)

    Returns
    -------
    Tensor, shape (n, positions, channels * taps)
        In the order of ``weight.flatten(1)``; of a grouped convolution, group after group.

    Examples
    --------
    >>> import torch
    >>> conv = torch.nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False)
    >>> x = torch.randn(4, 2, 5, 5)
    >>> y = patches(conv, x) @ conv.weight.flatten(1).T  # (n, positions, outputs)
    >>> bool(torch.allclose(y.transpose(1, 2), conv(x).flatten(2), atol=1e-6))
    True
    """
    x = padded(conv, x)
    space = x.ndim - 2
    kernel, dilation = _each(conv.kernel_size, space), _each(conv.dilation, space)
    for d in range(space):
        size = (kernel[d] - 1) * dilation[d] + 1
        x = x.unfold(2 + d, size, _each(conv.stride, space)[d])[..., :: dilation[d]]
    taps = range(2 + space, 2 + 2 * space)
    return x.permute(0, *range(2, 2 + space), 1, *taps).flatten(1, space).flatten(2)


def padded(conv: _ConvNd, x: Tensor) -> Tensor:
    """Return the input of a convolution with its padding written out."""
    if conv.padding == "valid":
        return x
    pad = conv._reversed_padding_repeated_twice
    if not any(pad):
        return x
    mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
    return F.pad(x, list(pad), mode=mode)


def batched(conv: _ConvNd, x: Tensor) -> Tensor:
    """Return what a convolution reads or gives with the dimension of the examples, should it lack it."""
    return x if x.ndim > len(conv.kernel_size) + 1 else x.unsqueeze(0)


def spreads(conv: _ConvNd) -> bool:
    """Whether a convolution reads anything else than each position once, by itself."""
    taps = any(k > 1 for k in conv.kernel_size)
    return taps or any(s > 1 for s in conv.stride) or any(conv._reversed_padding_repeated_twice)


def _each(value: Any, n: int) -> Sequence[int]:
    return value if isinstance(value, (tuple, list)) else (value,) * n

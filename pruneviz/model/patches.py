"""What does a convolution multiply with its filters? Its input as patches, one row per position."""

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
        Columns in the order of ``weight.flatten(1)``; for a grouped convolution group after group.

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
    space_dims = x.ndim - 2
    kernel, dilation = _each(conv.kernel_size, space_dims), _each(conv.dilation, space_dims)
    for d in range(space_dims):
        size = (kernel[d] - 1) * dilation[d] + 1
        x = x.unfold(2 + d, size, _each(conv.stride, space_dims)[d])[..., :: dilation[d]]
    taps = range(2 + space_dims, 2 + 2 * space_dims)
    return x.permute(0, *range(2, 2 + space_dims), 1, *taps).flatten(1, space_dims).flatten(2)


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
    """Return an input or output of a convolution; the dimension of examples is added if missing."""
    return x if x.ndim > len(conv.kernel_size) + 1 else x.unsqueeze(0)


def reads_neighbours(conv: _ConvNd) -> bool:
    """Whether a convolution does more than read each position once (as a 1 × 1 kernel does)."""
    taps = any(k > 1 for k in conv.kernel_size)
    return taps or any(s > 1 for s in conv.stride) or any(conv._reversed_padding_repeated_twice)


def _each(value: Any, n: int) -> Sequence[int]:
    return value if isinstance(value, (tuple, list)) else (value,) * n

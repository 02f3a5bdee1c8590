"""What does a convolution multiply with its filters? Its input as patches, one row per position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def patches(conv: _ConvNd, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
    """Return the patches that a convolution multiplies with its filters, padding included.

    There is one row for each position of the output. A transposed convolution with stride s is a
    plain one over its input with s − 1 zeros between any two positions: a row holds the input where
    its tap reads one, else 0.

    Parameters
    ----------
    conv : nn.Conv1d, nn.Conv2d or nn.Conv3d, or transposed
    x : Tensor, shape (n, channels, ...)
    size : sequence of int, optional
        Size of the output of a transposed convolution; default: that which it gives by itself.

    Returns
    -------
    Tensor, shape (n, positions, channels * taps)
        Columns in the order of `blocks_of`: channel after channel, for a grouped convolution group
        after group.

    Examples
    --------
    >>> import torch
    >>> conv = torch.nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False)
    >>> x = torch.randn(4, 2, 5, 5)
    >>> y = patches(conv, x) @ conv.weight.flatten(1).T  # (n, positions, outputs)
    >>> bool(torch.allclose(y.transpose(1, 2), conv(x).flatten(2), atol=1e-6))
    True
    """
    space_dims = x.ndim - 2
    kernel, dilation = _each(conv.kernel_size, space_dims), _each(conv.dilation, space_dims)
    stride = _each(conv.stride, space_dims)
    taps = range(2 + space_dims, 2 + 2 * space_dims)
    if isinstance(conv, _ConvTransposeNd):
        x, stride = _spread(conv, x, size), (1,) * space_dims
    else:
        x = padded(conv, x)
    for d in range(space_dims):
        width = (kernel[d] - 1) * dilation[d] + 1
        x = x.unfold(2 + d, width, stride[d])[..., :: dilation[d]]
    if isinstance(conv, _ConvTransposeNd):  # its first tap reads the last position of the window
        x = x.flip(*taps)
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


def _spread(conv: _ConvTransposeNd, x: Tensor, size: Sequence[int] | None) -> Tensor:
    """Return the input of a transposed convolution with zeros between, and around, its positions."""
    own = zip(x.shape[2:], conv.stride, conv.padding, conv.dilation, conv.kernel_size,
              conv.output_padding, strict=True)  # fmt: skip
    at: list[Any] = [slice(None)] * 2
    shape, pad = list(x.shape[:2]), list[int]()
    for d, (n, stride, padding, dilation, kernel, extra) in enumerate(own):
        reach = dilation * (kernel - 1)
        inside = (n - 1) * stride + 1  # positions with the zeros between them
        wanted = inside - 2 * padding + reach + extra if size is None else size[d]
        at.append(slice(None, None, stride))
        shape.append(inside)
        pad = [reach - padding, wanted + padding - inside, *pad]  # F.pad takes the last one first
    spread = x.new_zeros(shape)
    spread[tuple(at)] = x
    return F.pad(spread, pad)


def batched(conv: _ConvNd, x: Tensor) -> Tensor:
    """Return an input or output of a convolution; the dimension of examples is added if missing."""
    return x if x.ndim > len(conv.kernel_size) + 1 else x.unsqueeze(0)


def reads_neighbours(conv: _ConvNd) -> bool:
    """Whether a convolution does more than read each position once (as a 1 × 1 kernel does)."""
    taps = any(k > 1 for k in conv.kernel_size)
    return taps or any(s > 1 for s in conv.stride) or any(conv._reversed_padding_repeated_twice)


def is_constant_inside(conv: _ConvNd) -> bool:
    """Whether a constant input adds the same everywhere but at the border.

    A transposed convolution with a stride does not: each output position is reached by other taps.
    """
    return not isinstance(conv, _ConvTransposeNd) or all(s == 1 for s in conv.stride)


def reads_border(conv: _ConvNd) -> bool:
    """Whether a constant input adds less at the border, where the kernel reads zeros.

    >>> from torch import nn
    >>> reads_border(nn.Conv1d(1, 1, 3)), reads_border(nn.Conv1d(1, 1, 3, padding=1))
    (False, True)
    >>> reads_border(nn.ConvTranspose1d(1, 1, 3)), reads_border(nn.ConvTranspose1d(1, 1, 1))
    (True, False)
    """
    if isinstance(conv, _ConvTransposeNd):  # cut off so far that every window is full
        own: Any = zip(
            conv.kernel_size, conv.dilation, conv.padding, conv.output_padding, strict=True
        )
        return any(d * (k - 1) + extra > p for k, d, p, extra in own)
    pads = conv.padding_mode == "zeros" and conv.padding != "valid"
    return pads and any(conv._reversed_padding_repeated_twice)


def _each(value: Any, n: int) -> Sequence[int]:
    return value if isinstance(value, (tuple, list)) else (value,) * n

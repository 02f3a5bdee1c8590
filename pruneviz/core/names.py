"""What are layers and tensors called? As in `named_modules` and `named_parameters`."""

from __future__ import annotations

import re

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Return the numbers in at least single precision: half precision is too coarse for sums."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


_ORIGINAL = re.compile(r"(^|\.)parametrizations\.([^.]+)\.original$")


def unmasked_name(name: str) -> str:
    """Return the name of a tensor as it is without a mask.

    >>> unmasked_name("fc1.parametrizations.weight.original"), unmasked_name("fc1.weight")
    ('fc1.weight', 'fc1.weight')
    """
    return _ORIGINAL.sub(r"\1\2", name)


# tensors of a parametrization: "fc.parametrizations.weight.original", "….weight.0.keep"
_PARAMETRIZED = re.compile(r"(^|\.)parametrizations\.[^.]+\.(original\d*|\d+\..+)$")


def layer_name(tensor: str) -> str:
    """Return the name of the layer that holds a tensor; ``""`` if that is the model itself.

    >>> layer_name("block.0.conv.weight"), layer_name("attn.in_proj_weight"), layer_name("weight")
    ('block.0.conv', 'attn', '')
    >>> layer_name("fc.parametrizations.weight.original"), layer_name("parametrizations.weight.0.keep")
    ('fc', '')
    """
    inside = _PARAMETRIZED.search(tensor)
    return tensor[: inside.start()] if inside else tensor.rpartition(".")[0]


def tensor_name(layer: str, attribute: str = "weight") -> str:
    """Return the name of a tensor of a layer; the layer ``""`` is the model itself.

    >>> tensor_name("fc1"), tensor_name("", "bias")
    ('fc1.weight', 'bias')
    """
    return f"{layer}.{attribute}" if layer else attribute


# attention multiplies its input with tensors of its own, where other layers have one "weight"
_PROJECTED = re.compile(r"(.*(?:^|\.)(?:in|q|k|v)_proj)_weight")


def reader_name(tensor: str) -> str:
    """Return the name under which evidence has what multiplies a tensor; mostly that of its layer.

    >>> reader_name("fc.weight"), reader_name("attn.in_proj_weight")
    ('fc', 'attn.in_proj')
    """
    inside = _PROJECTED.fullmatch(unmasked_name(tensor))
    return inside[1] if inside else layer_name(tensor)

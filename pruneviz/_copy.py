"""Copies of models: what every writer begins with."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn.utils import parametrize

from pruneviz import _check
from pruneviz.types import ArgumentError


def copy_of(model: nn.Module) -> nn.Module:
    """Return a copy of the model that shares nothing with it, parametrizations included.

    Raises
    ------
    ArgumentError
        If the model cannot be copied.

    Examples
    --------
    >>> a = nn.Linear(2, 1)
    >>> b = copy_of(a)
    >>> b.weight is a.weight, bool((b.weight == a.weight).all())
    (False, True)
    """
    _check.model(model)
    try:
        with torch.inference_mode(False):  # a copy made inside that mode could never be trained
            new = copy.deepcopy(model)
            # what a forward has computed from the weights and kept (timm's tables of attention
            # biases) is not true of a copy whose weights change; such modules forget it here
            new._apply(_same)
    except (RuntimeError, TypeError) as e:
        raise ArgumentError(
            f"`model` cannot be copied ({e}). A model keeps only parameters and buffers as tensors: "
            "move what forward computed out of its attributes, or detach it. Masks of torch.nn.utils.prune "
            "have to be made permanent first: torch.nn.utils.prune.remove(layer, 'weight')."
        ) from e
    for module in new.modules():
        if parametrize.is_parametrized(module):
            # torch gives each parametrized module a class of its own, but a deep copy shares it:
            # removing a parametrization from the copy would take the property off the original
            cls = type(module)
            module.__class__ = type(cls.__name__, cls.__bases__, dict(cls.__dict__))
    return new


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor

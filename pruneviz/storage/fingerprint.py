"""How the arguments of a long run are identified: a short hash of their content."""

from __future__ import annotations

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def fingerprint(value: Any) -> str:
    """Return twelve letters that are equal for equal values and differ for others.

    Tensors, arrays, models and dataclasses are compared by content, functions by their code, other
    objects only by the name of their class. So global variables of a function, and attributes of
    other objects, are not compared.

    Examples
    --------
    >>> import torch
    >>> fingerprint([torch.zeros(2), "a"]) == fingerprint([torch.zeros(2), "a"])
    True
    >>> fingerprint(torch.zeros(2)) == fingerprint(torch.zeros(2, 1))
    False
    >>> fingerprint(lambda m: m + 1) == fingerprint(lambda m: m + 2)
    False
    """
    import joblib

    return str(joblib.hash(_plain(value)))[:12]


def _plain(value: Any) -> Any:
    """Return the value as nested tuples of numbers, strings and arrays."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
        return value
    if isinstance(value, Tensor):
        t = value.detach().cpu().contiguous().flatten()
        return str(value.dtype), tuple(value.shape), t.view(torch.uint8).numpy()
    if isinstance(value, (np.ndarray, np.generic)):
        return np.asarray(value)
    if isinstance(value, nn.Module):
        state = {n: t for n, t in value.state_dict().items() if isinstance(t, Tensor)}
        return _class_name(value), str(value), _plain(state)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return _class_name(value), _plain(fields)
    if isinstance(value, Mapping):
        return "mapping", tuple((_plain(k), _plain(v)) for k, v in value.items())
    if isinstance(value, (tuple, list)):
        return tuple(_plain(v) for v in value)
    if isinstance(value, functools.partial):
        return "partial", _plain((value.func, value.args, value.keywords))
    if isinstance(value, types.MethodType):
        return "method", _plain((value.__func__, value.__self__))
    if isinstance(value, types.FunctionType):
        return "function", value.__name__, _plain(value.__code__), _plain(value.__defaults__)
    if isinstance(value, types.CodeType):
        return "code", value.co_code, value.co_names, _plain(value.co_consts)
    return _class_name(value if isinstance(value, type) else type(value))


def _class_name(value: Any) -> str:
    cls = value if isinstance(value, type) else type(value)
    return f"{cls.__module__}.{cls.__qualname__}"

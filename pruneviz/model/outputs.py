"""What does a model return? Tensors, which are compared, and other values, which must be equal."""

from __future__ import annotations

import copyreg
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError

PLAIN = (
    type(None),
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    np.generic,
    type,
    torch.dtype,
    torch.device,
)
WRAP = "Wrap it in a module that returns only what should be compared."


@dataclass(frozen=True, eq=False)
class Outputs:
    """The parts of a model's output by their place, such as ``output['logits']``.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Arrays of NumPy, and numbers that are not whole, are tensors here.
    others : mapping of str to object
        None, whole numbers, text, types and the like.
    """

    tensors: Mapping[str, Tensor]
    others: Mapping[str, Any]


def logits_of(output: Any) -> Any:
    """Return the logits of a model's output: of a mapping or tuple its `logits`, `out` or first.

    So name transformers, torchvision's segmentation, and models that also return a loss or a state.
    Anything else is returned as it is.

    Examples
    --------
    >>> logits_of({"logits": torch.zeros(2)}), logits_of((torch.ones(1), None))
    (tensor([0., 0.]), tensor([1.]))
    """
    named = getattr(output, "logits", None)
    if named is None and isinstance(output, Mapping):
        named = output.get("logits", output.get("out"))
    if named is None and isinstance(output, (tuple, list)) and output:
        named = output[0]
    return named if isinstance(named, Tensor) else output


def outputs_of(output: Any, *, traced: bool = False) -> Outputs:
    """Separate a model's output, of any containers, into its tensors and its other values.

    Parameters
    ----------
    output : object
        Tensors in tuples, lists, mappings, dataclasses and other objects.
    traced : bool
        Whether the model runs under `torch.export`, which does not see what leaves torch: arrays of
        NumPy, and numbers that are computed from tensors.

    Raises
    ------
    ArgumentError
        If it holds no tensor, or something that may hide one, such as a generator.

    Examples
    --------
    >>> found = outputs_of({"a": torch.zeros(2), "b": [torch.ones(1), None]})
    >>> found.tensors
    {"output['a']": tensor([0., 0.]), "output['b'][0]": tensor([1.])}
    >>> found.others
    {"output['b'][1]": None}
    """
    tensors: dict[str, Tensor] = {}
    others: dict[str, Any] = {}
    for place, value in _leaves(output, "output", ()):
        number = isinstance(value, (float, complex, np.ndarray, np.inexact))
        symbol = isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool))
        if isinstance(value, Tensor):
            tensors[place] = value if traced else _strided(value)
        elif traced and (symbol or isinstance(value, (np.ndarray, np.generic))):
            raise _unknown(value, place, "which torch.export cannot follow")
        elif number and not traced:
            tensors[place] = torch.as_tensor(value).clone()
        else:
            others[place] = value
    if not tensors:
        raise ArgumentError(
            f"`model` returns {checks.described(output)}, without a tensor: there is nothing to "
            "compare. Wrap it in a module that returns what it computes."
        )
    return Outputs(tensors, others)


def _strided(t: Tensor) -> Tensor:
    t = t.dequantize() if t.is_quantized else t
    return t if t.layout == torch.strided else t.to_dense()


def _leaves(value: Any, place: str, inside: tuple[int, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSUV":
        value = value.tolist()
    if isinstance(value, Tensor) and value.is_nested:
        value = value.unbind()
    numbers = (Tensor, np.ndarray, torch.SymInt, torch.SymFloat, torch.SymBool)
    if isinstance(value, (*numbers, *PLAIN)) or _is_function(value):
        yield place, value
        return
    if id(value) in inside:
        raise _unknown(value, place, "which contains itself")
    if isinstance(value, Mapping):
        parts = [(f"{place}[{k!r}]", v) for k, v in value.items()]
    elif isinstance(value, Sequence):
        parts = [(f"{place}[{i}]", v) for i, v in enumerate(value)]
    elif isinstance(value, Set) and all(isinstance(v, PLAIN) for v in value):
        yield place, value
        return
    else:
        attributes = _attributes(value)
        if attributes is None:
            raise _unknown(value, place, "which cannot be compared")
        parts = [(f"{place}.{name}", v) for name, v in attributes.items()]
    for where, part in parts:
        yield from _leaves(part, where, (*inside, id(value)))


def _is_function(value: Any) -> bool:
    """Whether it is a function that carries no values with it."""
    return isinstance(value, FunctionType) and not value.__closure__ and not value.__defaults__


def _attributes(value: Any) -> dict[str, Any] | None:
    """Return what an object holds; None if it cannot be looked into."""
    if callable(value) or isinstance(value, (nn.Module, Set)) or hasattr(value, "__next__"):
        return None
    slots = [s for s in copyreg._slotnames(type(value)) if hasattr(value, s)]  # type: ignore[attr-defined]
    if not hasattr(value, "__dict__") and not slots:
        return None
    return {**{s: getattr(value, s) for s in slots}, **getattr(value, "__dict__", {})}


def _unknown(value: Any, place: str, why: str) -> ArgumentError:
    return ArgumentError(f"`model` returns {checks.described(value)} at {place}, {why}. {WRAP}")


def first_difference(got: Mapping[str, Any], want: Mapping[str, Any]) -> str:
    """Return the first place at which two outputs have other values, "" if there is none.

    >>> first_difference({"output[1]": None}, {"output[1]": None})
    ''
    >>> first_difference({"output[1]": 6}, {"output[1]": 8})
    'output[1] is 6 and not 8'
    """
    if got.keys() != want.keys():
        return f"{min(got.keys() ^ want.keys())} is returned by one of them only"
    for place, value in got.items():
        other = want[place]
        if type(value) is not type(other) or not bool(value == other):
            return f"{place} is {value!r} and not {other!r}"
    return ""


def places_not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the places of the tensors that hold NaN or infinity.

    >>> places_not_finite({"output": torch.tensor([1.0, torch.nan])})
    ['output']
    """
    return [place for place, t in tensors.items() if not bool(torch.isfinite(t).all())]

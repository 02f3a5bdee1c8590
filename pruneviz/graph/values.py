"""The words of a walk: what is known of a tensor, where units end, and how to read a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

Ids = np.ndarray  # of atoms
Args = dict[str, Any]  # of an operator, by the names in its schema
Shape = tuple[int, ...]


@dataclass(eq=False)
class Value:
    """What is known of a tensor: for each dimension its atoms, or None where it is free.

    Parameters
    ----------
    dims : list of (ndarray of int, shape (n,), or None)
        Free are batch, space and time, and dimensions of size 1.
    shape : tuple of int
    why : str
        What a free dimension is, for the reason of what meets it.
    static : bool
        Computed from parameters and buffers alone.
    """

    dims: list[Ids | None]
    shape: tuple[int, ...]
    why: str = ""
    static: bool = False

    @property
    def live(self) -> list[int]:
        """The dimensions with atoms."""
        return [d for d, ids in enumerate(self.dims) if ids is not None]


@dataclass(frozen=True, eq=False)
class End:
    """Where units end: summed up, alone or in a product with a weight.

    Parameters
    ----------
    node : Node
    value : Node
        The operand in which they are summed over.
    dim : int
    ids : ndarray of int
    weight : Node or None
        The other factor, if it is made of parameters: only then can a constant be folded.
    bias : Node or None
        Where to fold it.
    weight_dim : int
        Its dimension of inputs.
    other : Node or None
        The other factor, if it is no weight; its dimension is `weight_dim`.
    blocks : int
        Groups of a convolution.
    refuse : str
        Why a constant cannot be folded here.
    """

    node: Node
    value: Node
    dim: int
    ids: Ids
    weight: Node | None = None
    weight_dim: int = 1
    bias: Node | None = None
    other: Node | None = None
    blocks: int = 1
    refuse: str = ""


def untied(node: Node, why: str, *, static: bool = False) -> Any:
    """Return a value without units, or a list of them."""
    val = node.meta.get("val")
    if isinstance(val, (tuple, list)):
        return [_free(v, why, static) for v in val]
    return _free(val, why, static)


def _free(val: Any, why: str, static: bool) -> Value | None:
    if not isinstance(val, Tensor):
        return None
    shape = sizes(val.shape)
    return Value([None] * len(shape), shape, why, static)


def flatten(value: Any) -> list[Value]:
    """All values within."""
    if isinstance(value, Value):
        return [value]
    if isinstance(value, (list, tuple)):
        return [v for part in value for v in flatten(part)]
    return []


def sizes(shape: Sequence[Any]) -> tuple[int, ...]:
    """Return sizes as whole numbers: those of the example, where they are symbols."""
    return tuple(size(s) for s in shape)


def size(s: Any) -> int:
    """Return one size as a whole number; 1, where it depends on the data."""
    if isinstance(s, torch.SymInt):
        return int(s.node.hint) if s.node.hint is not None else 1
    return int(s)


def shape_of(node: Node) -> tuple[int, ...]:
    """Shape of what a node gives; () if that is no tensor."""
    val = node.meta.get("val")
    return sizes(val.shape) if isinstance(val, Tensor) else ()


def args_of(node: Node) -> tuple[Any, ...]:
    """Positional arguments of a node."""
    return node.args


def schema_of(node: Node) -> Any:
    """Return the schema of a node's operator."""
    return node.target._schema  # type: ignore[union-attr]


def operand(node: Node, name: str) -> Any:
    """Return the node that is passed for an argument, or None."""
    for i, arg in enumerate(schema_of(node).arguments):
        if arg.name == name:
            found = node.args[i] if i < len(node.args) else node.kwargs.get(name)
            return found if isinstance(found, Node) else None
    return None


POINTWISE = frozenset(
    """
    where prelu_ masked_fill dropout_ __and__ __or__ __xor__ __lshift__ __rshift__ __iand__ __ior__
    fill zero copy contiguous clone alias to _to_copy detach lift_fresh lift_fresh_copy type_as
    hardtanh threshold clamp clip relu6 silu mish celu selu elu gelu softplus
    nan_to_num conj resolve_conj resolve_neg positive real imag float double half rsub
    hardswish log_sigmoid floor_divide greater greater_equal less less_equal not_equal
    multiply subtract negative absolute divide fake_quantize_per_tensor_affine
    feature_dropout alpha_dropout feature_alpha_dropout dropout zeros_like ones_like full_like
    empty_like complex polar addcmul addcdiv lerp isin bucketize data rrelu
    """.split()
)


def name_of(node: Node) -> str:
    """Name of a node's operator: "add" for aten.add_.Tensor; "" if it is none of ATen's."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return ""
    name = target._schema.name.removeprefix("aten::")
    dunder = name.startswith("__")
    return name if dunder else name.removesuffix("_")

"""What is known of a tensor during a walk? Its atoms, and the places where units end."""

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
    """What is known of a tensor: for each dimension its atoms, or None where it has no units.

    Parameters
    ----------
    dims : list of (ndarray of int, shape (n,), or None)
        None for batch, space and time, and for dimensions of size 1.
    shape : tuple of int
    why : str
        What a dimension without atoms is. Atoms that meet it are frozen, with this in the reason.
    static : bool
        Whether it is computed from parameters and buffers alone.
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
    """Where units end: an operator sums over them, alone or in a product with a second factor.

    Parameters
    ----------
    node : Node
        The operator.
    value : Node
        The operand that holds the units.
    dim : int
        Its dimension that is summed over.
    ids : ndarray of int
        The atoms in that dimension.
    weight : Node or None
        The second factor, if it is made of parameters: only then can a constant be folded.
    weight_dim : int
        The dimension of `weight` (or of `other`) that is summed over.
    bias : Node or None
        The parameter that a constant can be folded into.
    other : Node or None
        The second factor, if it is not a weight.
    blocks : int
        The number of groups of a convolution.
    refuse : str
        Why a constant cannot be folded here; "" if it can.
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
    """Return a value without units; a list of them if the node returns several tensors."""
    val = node.meta.get("val")
    if isinstance(val, (tuple, list)):
        return [_untied_value(v, why, static) for v in val]
    return _untied_value(val, why, static)


def _untied_value(val: Any, why: str, static: bool) -> Value | None:
    if not isinstance(val, Tensor):
        return None
    shape = sizes(val.shape)
    return Value([None] * len(shape), shape, why, static)


def flatten(value: Any) -> list[Value]:
    """Return all values in nested lists and tuples."""
    if isinstance(value, Value):
        return [value]
    if isinstance(value, (list, tuple)):
        return [v for part in value for v in flatten(part)]
    return []


def sizes(shape: Sequence[Any]) -> tuple[int, ...]:
    """Return sizes as whole numbers; a symbolic size becomes that of the example."""
    return tuple(size(s) for s in shape)


def size(s: Any) -> int:
    """Return one size as a whole number; 1 if it depends on the data."""
    if isinstance(s, torch.SymInt):
        return int(s.node.hint) if s.node.hint is not None else 1
    return int(s)


def shape_of(node: Node) -> tuple[int, ...]:
    """Return the shape of a node's result; () if that is no tensor."""
    val = node.meta.get("val")
    return sizes(val.shape) if isinstance(val, Tensor) else ()


def args_of(node: Node) -> tuple[Any, ...]:
    """Return the positional arguments of a node."""
    return node.args


def schema_of(node: Node) -> Any:
    """Return the schema of a node's operator."""
    return node.target._schema  # type: ignore[union-attr]


def operand(node: Node, name: str) -> Any:
    """Return the node that is passed for an argument, or None."""
    found = arguments_of(node).get(name)
    return found if isinstance(found, Node) else None


def arguments_of(node: Node) -> dict[str, Any]:
    """Return all arguments of a node by name; the default, or None, of those that are not passed."""
    passed = dict(zip((a.name for a in schema_of(node).arguments), node.args, strict=False))
    return (
        {
            a.name: a.default_value if a.has_default_value() else None
            for a in schema_of(node).arguments
        }
        | passed
        | node.kwargs
    )


def draws_random_numbers(node: Node) -> bool:
    """Whether an operator draws random numbers; a dropout in eval mode draws none."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    given = arguments_of(node)
    return not (given.get("train", given.get("training")) is False or given.get("dropout_p") == 0)


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
    """Return the name of a node's operator: "add" for aten.add_.Tensor; "" if it is not ATen's."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return ""
    name = target._schema.name.removeprefix("aten::")
    dunder = name.startswith("__")
    return name if dunder else name.removesuffix("_")

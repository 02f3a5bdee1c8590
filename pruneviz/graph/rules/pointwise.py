"""What do pointwise operators do to atoms? Also random ones, recurrent layers, and no rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.fx import Node

from pruneviz.graph.state import Walk, rule
from pruneviz.graph.values import Args, Ids, Shape, Value, flatten, name_of, untied

DIVISORS = {"div": "other", "divide": "other", "true_divide": "other", "rsqrt": "self",
            "reciprocal": "self", "log": "self", "pow": "self", "addcdiv": "tensor2"}  # fmt: skip


def meet(w: Walk, values: Sequence[Value], shape: Shape) -> Value:
    """Combine tensors number by number, with broadcasting: atoms in the same place are tied."""
    dims: list[Ids | None] = []
    for i, n in enumerate(shape):
        ids: Ids | None = None
        here = [(v, i - len(shape) + len(v.shape)) for v in values]
        here = [(v, d) for v, d in here if d >= 0 and v.shape[d] == n > 1]
        for v, d in here:
            ids = v.dims[d] if ids is None else ids
        for v, d in here if ids is not None else ():
            if v.dims[d] is not ids:
                w.tie(ids, v.dims[d], f"it is combined with {v.why or 'a tensor without units'}")
            if v.static:
                w.relate(ids, v.dims[d]) if all(u.static for u in values) else w.mark(
                    v.dims[d], w.made
                )
        dims.append(ids)
    why = next((v.why for v in values if not v.static), values[0].why if values else "")
    return Value(dims, shape, why)


def pointwise(w: Walk, node: Node, a: Args, shape: Shape) -> Any:
    """Act on each number alone, or on numbers that stand in the same place."""
    name = name_of(node)
    if "dropout" in name and (a.get("train") or a.get("training")):
        return random_numbers(w, node, a, shape)
    divisor = a.get(DIVISORS.get(name, ""))
    if isinstance(divisor, Value) and divisor.static:
        own = {
            n
            for v in flatten(a.get("self"))
            if v is not divisor
            for ids in v.dims
            for n in w.owners(ids)
        }
        # a divisor set to 0 would give 0 ÷ 0; not so the weight itself in w ÷ |w|
        for ids in divisor.dims:
            w.not_zeroed.update(set(w.owners(ids)) - own)
    values = [a["self"]] if name in ("to", "type_as") else flatten(list(a.values()))
    return meet(w, values, shape)


def random_numbers(w: Walk, node: Node, a: Args, shape: Shape) -> Any:
    """Freeze the operands of an operator that draws random numbers."""
    w.freeze(list(a.values()), f"{node.target} draws random numbers")
    return untied(node, "random numbers")


def recurrent(w: Walk, node: Node, a: Args, shape: Shape) -> Any:
    """Freeze the operands of a recurrent layer, and tie its gates, so that its units are named."""
    name = name_of(node)
    w.freeze(list(a.values()), f"it goes through a recurrent layer ({name}), which has no rule")
    gates = {"lstm": 4, "gru": 3}.get(name.split("_")[0], 1)
    cell = [a[k] for k in ("w_ih", "w_hh", "b_ih", "b_hh") if isinstance(a.get(k), Value)]
    params = cell or a["params"]
    layers = 1 if cell else a["num_layers"] * (2 if a["bidirectional"] else 1)
    per_layer = len(params) // layers
    for inputs, state, *rest in (
        params[i : i + per_layer] for i in range(0, len(params), per_layer)
    ):
        units: Ids | None = None  # a unit has one row in each gate
        for v in (inputs, state, *(b for b in rest if len(b.shape) == 1)):
            units = _tied_gates(w, units, v.dims[0], gates)
        producer = state
        for projection in (m for m in rest if len(m.shape) == 2):
            w.tie(units, projection.dims[1], "")
            producer = projection
        w.tie(producer.dims[0] if producer is not state else units, state.dims[1], "")
        w.mark(producer.dims[0], w.made)
    return untied(node, "the state of a recurrent layer")


def _tied_gates(w: Walk, units: Ids | None, rows: Ids | None, gates: int) -> Ids | None:
    """Tie the rows of all gates of a recurrent layer, unit by unit; return the units."""
    if rows is None:
        return units
    w.mark(rows, w.made)
    for gate in rows.reshape(gates, -1):
        units = gate if units is None else w.tie(units, gate, "")
    return units


def unknown(w: Walk, node: Node, a: Args) -> Any:
    """Freeze the operands of an operator without a rule."""
    w.freeze(list(a.values()), f"operator {node.target} has no rule")
    return untied(node, f"the result of {node.target}")


@rule("prelu", "_prelu_kernel")
def _prelu(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    x, slope = a["self"], a["weight"]
    if slope.shape and slope.shape[0] > 1 and len(slope.shape) == 1 and len(shape) > 1:
        slope = Value([slope.dims[0], *[None] * (len(shape) - 2)],
                      (slope.shape[0], *[1] * (len(shape) - 2)), slope.why, slope.static)  # fmt: skip
    return meet(w, [x, slope], shape)


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty",
      "scalar_tensor")  # fmt: skip
def _fill(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    dims = [w.atoms.new(n, uniform=True) if n > 1 else None for n in shape]
    return Value(dims, shape, "a constant tensor of the forward")


@rule("arange", "linspace", "eye", "meshgrid", "one_hot", "tril_indices", "triu_indices")
def _numbers(w: Walk, node: Node, a: Args, shape: Shape) -> Any:
    w.freeze(list(a.values()), f"it is an argument of {node.target}")
    return untied(node, "a constant tensor of the forward")


@rule("view_as_real", "view_as_complex")
def _complex(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    x = a["self"]
    if name_of(node) == "view_as_real":
        return Value([*x.dims, None], shape, x.why)
    w.freeze(x, "it holds real and imaginary parts", [len(x.shape) - 1])
    return Value(list(x.dims[:-1]), shape, x.why)


@rule("size", "sym_size", "sym_numel", "stride", "sym_stride", "numel", "dim", "is_floating_point",
      "_assert_tensor_metadata", "_assert_scalar", "_assert_async", "_check", "is_nonzero")  # fmt: skip
def _nothing(w: Walk, node: Node, a: Args, shape: Shape) -> Any:
    if name_of(node) == "is_nonzero":
        w.freeze(flatten(list(a.values())), "Python reads its value")
    return None

"""What do norms and reductions do to atoms? Rules for norms, softmax, sums and means."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.fx import Node

from pruneviz.core.names import layer_name
from pruneviz.graph.rules.pointwise import meet, pointwise
from pruneviz.graph.state import Walk, rule
from pruneviz.graph.values import Args, End, Shape, Value, args_of, name_of, operand, untied


@rule("batch_norm", "instance_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
def _batch_norm(w: Walk, node: Node, a: Args, shape: Shape) -> Any:
    x = a["input"]
    ids = x.dims[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        t = a.get(name)
        if isinstance(t, Value):
            ids = w.tie(ids, t.dims[0], f"it is normalised with {t.why}" if ids is not None else
                        f"it normalises {x.why}")  # fmt: skip
            w.mark(t.dims[0], w.not_zeroed if name == "running_var" else w.made)
    out = Value([x.dims[0], ids, *x.dims[2:]], x.shape, x.why)
    return out if shape else [out, None, None]


@rule("layer_norm", "rms_norm")
def _layer_norm(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    x, kind = a["input"], "RMSNorm" if name_of(node) == "rms_norm" else "LayerNorm"
    depth = len(a["normalized_shape"])
    inner = [d for d in x.live if d >= len(x.shape) - depth]
    _norm(w, node, x, inner, kind, bare=a["weight"] is None and kind == "LayerNorm")
    out = x
    for name in ("weight", "bias"):
        if a.get(name) is not None:
            out = meet(w, [out, a[name]], shape)
    return Value(list(out.dims), shape, x.why)


@rule("group_norm")
def _group_norm(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    x, blocks = a["input"], a["num_groups"]
    if x.dims[1] is not None and blocks < x.shape[1]:
        _norm(w, node, x, [1], "GroupNorm", bare=a["weight"] is None)
        if blocks > 1:
            w.even.append(x.dims[1].reshape(blocks, -1))
    return _batch_norm(w, node, a, shape)


def _norm(w: Walk, node: Node, x: Value, dims: list[int], kind: str, *, bare: bool) -> None:
    if w.dead:
        return
    for d in dims:
        ids = x.dims[d]
        if ids is None:
            continue
        if bare:
            w.freeze(x, f"a {kind} without parameters runs over these units", [d])
        else:
            w.atoms.approximate(ids, f"a {kind} runs over these units")
    if dims:
        w.norms[node] = dims


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod",
      "logcumsumexp", "softmin", "cummax", "cummin", "sort", "topk", "argsort", "roll", "diff")  # fmt: skip
def _over(w: Walk, node: Node, a: Args, shape: Shape) -> Any:
    """Freeze the dimensions that the operator runs over; the others are unchanged."""
    x = a["self"]
    dims = a.get("dim", a.get("dims"))
    over = [d % len(x.shape) for d in np.atleast_1d(dims if dims not in (None, []) else [*range(len(x.shape))])] if x.shape else []  # fmt: skip
    w.freeze(x, f"{name_of(node)} runs over these units", over)

    def unfrozen(shape: Shape) -> Value:
        dims = [None if d in over else ids for d, ids in enumerate(x.dims)]
        return Value(dims, shape, x.why)

    if shape or not isinstance(node.meta.get("val"), (tuple, list)):
        return unfrozen(shape)
    return [unfrozen(v.shape) for v in untied(node, "")]


@rule("sum", "mean", "amax", "amin", "max", "min", "prod", "var", "std", "var_mean", "std_mean",
      "logsumexp", "argmax", "argmin", "any", "all", "norm", "linalg_vector_norm", "median", "aminmax",
      "count_nonzero", "nansum", "mode")  # fmt: skip
def _reduce(w: Walk, node: Node, a: Args, shape: Shape) -> Any:
    x = a["self"]
    if isinstance(a.get("other"), Value):  # max(a, b) of two tensors is pointwise
        return pointwise(w, node, a, shape)
    given = a.get("dim")
    every = list(range(len(x.shape)))
    over = (
        every if given is None or given == [] else [d % len(x.shape) for d in np.atleast_1d(given)]
    )
    order = a.get("ord", a.get("p"))
    name = name_of(node)
    for d in over:
        ids = x.dims[d]
        if ids is None or w.dead:
            continue
        if name in ("sum", "nansum") or (
            name in ("norm", "linalg_vector_norm") and order in (1, 2, None)
        ):
            w.ends.append(End(node, operand(node, "self"), d, ids,
                              refuse="a constant is summed up with the other units"))  # fmt: skip
        elif name == "mean" and not x.static and _is_moment(node):
            w.atoms.approximate(ids, "a norm runs over these units")
            w.norms.setdefault(node, []).append(d)
        else:
            w.freeze(x, f"{name} runs over these units", [d])
    keep = bool(a.get("keepdim"))
    dims = [None if d in over else ids for d, ids in enumerate(x.dims) if keep or d not in over]
    why = f"the {name} of {x.why}" if x.why and len(x.why) < 60 else f"a {name}"
    if isinstance(node.meta.get("val"), (tuple, list)):
        return [Value(list(dims), v.shape, why) for v in untied(node, "")]
    return Value(dims, shape, why)


def _is_moment(node: Node) -> bool:
    """Whether a mean is part of a hand-written norm: of squares, or subtracted from its operand."""
    x = args_of(node)[0]
    assert isinstance(x, Node)
    square = (name_of(x) == "pow" and args_of(x)[1] == 2) or name_of(x) == "square"
    square |= name_of(x) == "mul" and args_of(x)[0] is args_of(x)[1]
    return square or all(name_of(u) == "sub" and u.args[:2] == (x, node) for u in node.users)


@rule("_weight_norm_interface", "_weight_norm")
def _weight_norm(w: Walk, node: Node, a: Args, shape: Shape) -> Any:
    v, g, d = a["v"], a["g"], a["dim"]
    names = [w.traced.sources[n][1] for n in node.all_input_nodes if n in w.traced.sources]
    texts = [w.computed_text(layer_name(name)) for name in names]
    why = next(filter(None, texts), "a weight under weight_norm")
    if d < 0 or d >= len(v.shape):
        w.freeze([v, g], f"it meets {why}")
        return untied(node, why) if not shape else Value([None] * len(shape), shape, why)
    w.freeze(v, f"it meets {why}", [i for i in v.live if i != d])
    w.mark(v.dims[d], w.not_zeroed)  # the norm of a row of zeros is 0, and 0 ÷ 0: zero only g
    w.tie(g.dims[d], v.dims[d], why)
    out = Value([g.dims[d] if i == d else None for i in range(len(v.shape))], v.shape, why)
    return out if shape else [out, None]

"""What do products do to atoms? Rules for linear layers, convolutions, matmul and attention."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.fx import Node

from pruneviz.graph.rules.pointwise import meet, unknown
from pruneviz.graph.state import Walk, rule
from pruneviz.graph.values import (
    Args,
    End,
    Ids,
    Shape,
    Value,
    args_of,
    name_of,
    operand,
    shape_of,
    untied,
)


@rule("linear")
def _linear(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    x, weight, bias = a["input"], a["weight"], a["bias"]
    if len(weight.shape) != 2:
        return unknown(w, node, a)
    letters = "".join(chr(97 + i) for i in range(len(x.shape) - 1))
    out = contract(w, node, [(x, "input", letters + "y"), (weight, "weight", "zy")], letters + "z",
                   bias="bias")  # fmt: skip
    w.note_single_unit(operand(node, "weight"))
    _tie_bias(w, out.dims[-1], bias)
    return out


@rule("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d",
      "conv_transpose3d")  # fmt: skip
def _conv(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    """Tie the input's channels to the weight's columns; the weight's rows are the new channels.

    ============  ===================  =============================================================
    case          groups (`blocks`)    units
    ============  ===================  =============================================================
    plain         1                    columns read the input, rows produce the output
    depthwise     = input channels     a channel is tied to its own rows (several with a multiplier)
    grouped       other                columns and rows are numbered across the groups, and as many
                                       units must be removed from each group (`w.even`)
    ============  ===================  =============================================================

    The weight is (rows, columns ÷ groups, …). A transposed convolution has it the other way round:
    (columns, rows ÷ groups, …).
    """
    x, weight = a["input"], a["weight"]
    transposed = bool(a.get("transposed")) or "transpose" in name_of(node)
    channel_dim = len(x.shape) - len(weight.shape) + 1
    w.freeze(x, "a convolution slides over it", range(channel_dim + 1, len(x.shape)))
    blocks, channels, outs = a["groups"], x.shape[channel_dim], shape[channel_dim]
    inputs, depthwise = x.dims[channel_dim], blocks > 1 and channels == blocks
    if depthwise:
        rows = _depthwise_rows(w, x, weight, inputs, outs // channels, transposed)
    else:
        rows, columns = weight.dims[1 if transposed else 0], weight.dims[0 if transposed else 1]
        why = f"it reads {x.why}"
        if blocks > 1:
            grouped = _numbered_across_groups(
                w, node, x, weight, blocks, outs if transposed else channels, transposed
            )
            rows, columns = (grouped, columns) if transposed else (rows, grouped)
            w.even += [part.reshape(blocks, -1) for part in (inputs, rows) if part is not None]
        elif inputs is not None:
            why = f"it meets {weight.why}"
        w.tie(inputs, columns, why)
        w.mark(columns, w.read)
        w.mark(rows, w.made)
    if inputs is not None and not depthwise and not w.dead:
        _end_at_convolution(w, node, a, channel_dim, inputs, transposed)
    no_rows = rows is None and blocks > 1
    _tie_bias(
        w, rows, a["bias"], "it belongs to a transposed depthwise convolution" if no_rows else ""
    )
    if blocks == 1:
        w.note_single_unit(operand(node, "weight"), 1 if transposed else 0)
    space = len(shape) - channel_dim - 1
    dims = [*x.dims[:channel_dim], rows if outs > 1 else None, *[None] * space]
    return Value(dims, shape, f"the result of {node.target}")


def _depthwise_rows(
    w: Walk, x: Value, weight: Value, inputs: Ids | None, multiplier: int, transposed: bool
) -> Ids | None:
    """Tie each channel to its own rows, the only ones that it meets; return the rows."""
    if transposed and multiplier != 1:
        w.freeze([x, weight], "a transposed depthwise convolution with a multiplier has no rule")
    # the only column of each row has no atoms; a transposed weight also has its channels here
    rows = weight.dims[0]
    if rows is None:
        return None
    repeated = None if inputs is None else np.repeat(inputs, rows.size // inputs.size)
    w.tie(repeated, rows, f"it reads {x.why}")
    rows = None if multiplier > 1 and transposed else rows
    w.mark(rows, w.made)
    return rows


def _numbered_across_groups(
    w: Walk, node: Node, x: Value, weight: Value, blocks: int, n: int, transposed: bool
) -> Ids | None:
    """Return the atoms of a grouped convolution's columns (rows, if transposed), for all groups.

    The weight has only one group's columns (rows) in that dimension, but the groups may lose
    different ones. A plain parameter therefore gets atoms for each group's own; of a computed
    weight, all groups share the atoms of that dimension.
    """
    source = operand(node, "weight")
    if source.op == "placeholder" and len(source.users) == 1:
        kind, name = w.traced.sources[source]
        if kind in ("parameter", "buffer"):
            return w.columns(name, 1, blocks, n)
    if transposed:
        w.freeze([x, weight], "the weight of a grouped transposed convolution is computed")
    return None if weight.dims[1] is None else np.tile(weight.dims[1], blocks)


def _end_at_convolution(
    w: Walk, node: Node, a: Args, channel_dim: int, inputs: Ids, transposed: bool
) -> None:
    """Note that units end at a convolution, and whether its bias can take up a constant."""
    padding = a.get("padding")
    padded = padding not in (None, "valid") and (
        isinstance(padding, str) or any(p != 0 for p in np.atleast_1d(padding))
    )
    # where the kernel overlaps the border, or strides leave gaps, a constant input does not
    # add the same to each position, so no bias can replace it
    refuse = "zero-padded" * padded or "transposed" * transposed
    w.ends.append(
        End(node, operand(node, "input"), channel_dim, inputs,
            operand(node, "weight") if a["weight"].static else None, 0 if transposed else 1,
            _parameter(w, operand(node, "bias")), None, a["groups"],
            f"a constant arrives at a {refuse} convolution" if refuse else "")
    )  # fmt: skip


def _tie_bias(w: Walk, rows: Ids | None, bias: Value | None, why: str = "") -> None:
    """Tie a bias to the units that it is added to."""
    if bias is not None:
        w.tie(rows, bias.dims[0], why or f"its bias is {bias.why}")
        w.mark(bias.dims[0], w.made)


def contract(
    w: Walk,
    node: Node,
    factors: list[tuple[Value, str, str]],
    out: str,
    *,
    bias: str = "",
    nodes: Sequence[Node] | None = None,
) -> Value:
    """Multiply and sum as einsum does; a factor is (value, argument's name, letters of its dims).

    Dimensions with the same letter are tied. A letter in `out` is kept: there a weight (a *static*
    factor, computed from parameters alone) produces units. Any other letter is summed over:

    * weight x activation: the units of the activation end; the weight consumes them, and a constant
      can be folded into a bias.
    * activation x activation, such as q kᵀ: the units end, but nothing can be folded (`End.other`):
      one of both factors must be 0.
    * weight x weight, such as two low-rank factors: the first produces, the second consumes. No
      data arrive, so there is no `End`.
    """
    factor_nodes: list[Any] = (
        list(nodes) if nodes else [operand(node, name) for _, name, _ in factors]
    )
    static = [v.static for v, _, _ in factors]
    ids_of: dict[str, Ids | None] = {}
    for letter in dict.fromkeys("".join(letters for _, _, letters in factors)):
        here = [(i, v, ls.index(letter)) for i, (v, _, ls) in enumerate(factors) if letter in ls]
        here = [(i, v, d) for i, v, d in here if v.shape[d] > 1]
        ids = next((v.dims[d] for _, v, d in here if v.dims[d] is not None), None)
        ids_of[letter] = ids
        if ids is None:
            continue
        for _, v, d in here:
            if v.dims[d] is not ids:
                w.tie(ids, v.dims[d], f"it is multiplied with {v.why or 'a tensor without units'}")
        if letter in out:
            for i, v, d in here:
                if static[i]:
                    w.mark(v.dims[d], w.made)
            continue
        # summed over: a weight consumes; among weights only, the first produces
        consumers = [i for i, _, _ in here if static[i]]
        producers = [consumers.pop(0)] if len(consumers) == len(here) and consumers else []
        for i, v, d in here:
            if static[i]:
                w.mark(v.dims[d], w.made if i in producers else w.read)
        data = [(i, d) for i, _, d in here if not static[i]]
        weights = [(i, d) for i, _, d in here if static[i]]
        if not data:
            continue
        if w.dead:
            continue
        (i, d), rest = data[0], (*data[1:], *weights)  # the activation, and the second factor
        other, other_dim = rest[0] if rest else (-1, 0)
        is_weight = other >= 0 and static[other]
        is_matrix = is_weight and len(factors[other][2]) == 2 and not set(factors[other][2]) & (
            set(factors[i][2]) - {letter}
        )  # fmt: skip
        w.ends.append(
            End(node, factor_nodes[i], d, ids, factor_nodes[other] if is_weight else None,
                other_dim,
                _parameter(w, operand(node, bias)) if bias and operand(node, bias) is not None
                else _added(w, node),
                None if other < 0 or is_weight else factor_nodes[other],
                refuse="" if is_matrix else "the other factor is not a plain weight")
        )  # fmt: skip
    shape = shape_of(node)
    dims = [ids_of[c] if n > 1 else None for c, n in zip(out, shape, strict=True)]
    return Value(dims, shape, f"the result of {node.target}")


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot", "addmm", "baddbmm", "addmv")
def _matmul(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    names = [n for n, v in a.items() if isinstance(v, Value)]
    added = a["self"] if name_of(node).startswith(("add", "badd")) else None
    x_name, y_name = names[-2:]
    x, y = a[x_name], a[y_name]
    depth = max(len(x.shape), len(y.shape)) - 2
    batch = "".join(chr(97 + i) for i in range(depth))
    xl = batch[max(0, depth - len(x.shape) + 2) :] + "yz" if len(x.shape) > 1 else "z"
    yl = batch[max(0, depth - len(y.shape) + 2) :] + "zx" if len(y.shape) > 1 else "z"
    out = (batch if max(len(x.shape), len(y.shape)) > 2 else "") + (
        ("y" if len(x.shape) > 1 else "") + ("x" if len(y.shape) > 1 else "")
    )
    found = contract(w, node, [(x, x_name, xl), (y, y_name, yl)], out, bias="self" if added else "")
    return meet(w, [found, added], shape) if added is not None else found


@rule("bilinear")
def _bilinear(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    x, y, weight, bias = a["input1"], a["input2"], a["weight"], a["bias"]
    letters = "".join(chr(97 + i) for i in range(len(x.shape) - 1))
    factors = [
        (x, "input1", letters + "x"),
        (y, "input2", letters + "y"),
        (weight, "weight", "zxy"),
    ]
    out = contract(w, node, factors, letters + "z")
    _tie_bias(w, out.dims[-1], bias)
    return out


@rule("einsum")
def _einsum(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    left, arrow, out = a["equation"].replace(" ", "").partition("->")
    terms = left.split(",")
    values = a["tensors"]
    if any(len(set(t.replace(".", ""))) < len(t.replace(".", "")) for t in terms):
        return unknown(w, node, a)  # a letter twice in one term: a diagonal
    free_letters = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in left]
    depths = [len(v.shape) - len(t.replace("...", "")) for t, v in zip(terms, values, strict=True)]
    letters = [
        t.replace("...", "".join(free_letters[max(depths) - d : max(depths)])) if "..." in t else t
        for t, d in zip(terms, depths, strict=True)
    ]
    dots = "".join(free_letters[: max(depths)]) if "..." in left else ""
    if not arrow:
        once = sorted(c for c in set("".join(terms)) - {"."} if "".join(terms).count(c) == 1)
        out = dots + "".join(once)
    out = out.replace("...", dots)
    nodes = [n for n in args_of(node)[1] if isinstance(n, Node)]
    factors = [(v, "", ls) for v, ls in zip(values, letters, strict=True)]
    return contract(w, node, factors, out, nodes=nodes)


@rule("scaled_dot_product_attention")
def _attention(w: Walk, node: Node, a: Args, shape: Shape) -> Value:
    q, k, v, mask = a["query"], a["key"], a["value"], a["attn_mask"]
    if a["enable_gqa"] and q.shape[-3] != k.shape[-3]:
        k, v = (_repeated(t, q.shape[-3] // t.shape[-3]) for t in (k, v))
    for t in (q, k):
        why = "the scale of the attention depends on this width"
        w.freeze(t, why, [len(t.shape) - 1] if a["scale"] is None else [])
    w.freeze([k, v], "softmax runs over it", [len(k.shape) - 2])
    w.tie(q.dims[-1], k.dims[-1], "it is multiplied with a tensor without units")
    if q.dims[-1] is not None and a["scale"] is not None and not w.dead:
        query, key = operand(node, "query"), operand(node, "key")
        w.ends.append(End(node, query, len(q.shape) - 1, q.dims[-1], None,
                          len(k.shape) - 1, None, key))  # fmt: skip
    parts = [Value([*t.dims[:-2], None], (*t.shape[:-2], 1), t.why, t.static) for t in (q, k, v)]
    if mask is not None:
        w.freeze(mask, "softmax runs over it", [len(mask.shape) - 1])
        if len(mask.shape) > 2:
            parts.append(
                Value([*mask.dims[:-2], None], (*mask.shape[:-2], 1), mask.why, mask.static)
            )
    batch = meet(w, parts, (*shape[:-2], 1))
    return Value([*batch.dims[:-1], q.dims[-2], v.dims[-1]], shape, q.why)


@rule("embedding", "embedding_bag", "_embedding_bag")
def _embedding(w: Walk, node: Node, a: Args, shape: Shape) -> Any:
    weight = a["weight"]
    w.freeze(weight, "an embedding looks up its rows by number", [0])
    w.freeze(a["indices"], "it is an index into an embedding")
    w.mark(weight.dims[1], w.made)
    dims = [*[None] * (len(shape) - 1), weight.dims[1]]
    if shape:
        return Value(dims, shape, "the result of an embedding")
    found = untied(node, "the result of an embedding")
    found[0].dims[-1] = weight.dims[1]
    return found


def _repeated(v: Value, times: int) -> Value:
    ids = v.dims[-3]
    shape = (*v.shape[:-3], v.shape[-3] * times, *v.shape[-2:])
    many = None if ids is None else np.repeat(ids, times)
    return Value([*v.dims[:-3], many, *v.dims[-2:]], shape, v.why, v.static)


def _parameter(w: Walk, node: Node | None) -> Node | None:
    """Return the node if it is a parameter, so that a constant can be folded into it, else None."""
    known = (
        node is not None and node.op == "placeholder" and w.traced.sources[node][0] == "parameter"
    )
    return node if known else None


def _added(w: Walk, node: Node) -> Node | None:
    """Return a parameter that is added to the node's result, and so is its bias, else None."""
    users = list(node.users)
    if len(users) != 1 or name_of(users[0]) != "add":
        return None
    others = [n for n in users[0].all_input_nodes if n is not node]
    bias = _parameter(w, others[0]) if others else None
    return bias if bias is not None and shape_of(bias) == shape_of(node)[-1:] else None

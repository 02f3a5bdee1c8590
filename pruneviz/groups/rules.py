"""What each operator does to atoms: layers, products, norms, reductions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.fx import Node

from pruneviz.groups.walk import End, Ids, Rule, Value, Walk, flatten, free, operand, shape_of

RULES: dict[str, Rule] = {}

# they act on each number alone, though torch does not tag them so
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
DIVISORS = {"div": "other", "divide": "other", "true_divide": "other", "rsqrt": "self",
            "reciprocal": "self", "log": "self", "pow": "self", "addcdiv": "tensor2"}  # fmt: skip


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of some ATen operators."""

    def add(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, fn))
        return fn

    return add


def name_of(node: Node) -> str:
    """Name of a node's operator: "add" for aten.add_.Tensor; "" if it is none of ATen's."""
    target = node.target
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return ""
    name = target._schema.name.removeprefix("aten::")
    dunder = name.startswith("__")
    return name if dunder else name.removesuffix("_")


def rule_of(node: Node) -> Rule | None:
    """Return the rule for a node, or None: then what it touches is frozen."""
    import pruneviz.groups.moves  # noqa: F401 (registers the rules of what only moves numbers)

    name = name_of(node)
    if not name:
        return None
    if name == "view" and "dtype" in str(node.target):
        return None
    if name in RULES:
        return RULES[name]
    if name.split("_")[0] in ("lstm", "gru", "rnn"):
        return _recurrent
    tags = set(node.target.tags)  # type: ignore[union-attr]
    if torch.Tag.nondeterministic_seeded in tags and "dropout" not in name and name != "rrelu":
        return _random
    packet = getattr(torch.ops.aten, name, None)
    for overload in packet.overloads() if packet is not None else ():
        tags |= set(getattr(packet, overload).tags)
    if torch.Tag.pointwise in tags or name in POINTWISE:
        return _pointwise
    return None


def meet(w: Walk, values: Sequence[Value], shape: tuple[int, ...]) -> Value:
    """Combine tensors number by number, with broadcasting: what stands together goes together."""
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


def _pointwise(w: Walk, node: Node, a: dict[str, Any], shape: tuple[int, ...]) -> Any:
    name = name_of(node)
    if "dropout" in name and (a.get("train") or a.get("training")):
        return _random(w, node, a, shape)
    divisor = a.get(DIVISORS.get(name, ""))
    if isinstance(divisor, Value) and divisor.static:
        own = {n for v in flatten(a.get("self")) if v is not divisor for ids in v.dims for n in w.owners(ids)}
        for ids in divisor.dims:  # zeroed it would give 0 ÷ 0; not so for w ÷ |w|
            w.kept.update(set(w.owners(ids)) - own)
    values = [a["self"]] if name in ("to", "type_as") else flatten(list(a.values()))
    return meet(w, values, shape)


def _random(w: Walk, node: Node, a: dict[str, Any], shape: tuple[int, ...]) -> Any:
    w.freeze(list(a.values()), f"{node.target} draws random numbers")
    return free(node, "random numbers")


def _recurrent(w: Walk, node: Node, a: dict[str, Any], shape: tuple[int, ...]) -> Any:
    w.freeze(list(a.values()), f"it goes through a recurrent layer ({name_of(node)}), which has no rule")
    return free(node, "the state of a recurrent layer")


@rule("linear")
def _linear(w: Walk, node: Node, a: dict[str, Any], shape: tuple[int, ...]) -> Value:
    x, weight, bias = a["input"], a["weight"], a["bias"]
    if len(weight.shape) != 2:
        return _unknown(w, node, a)
    letters = "".join(chr(97 + i) for i in range(len(x.shape) - 1))
    out = contract(w, node, [(x, "input", letters + "y"), (weight, "weight", "zy")], letters + "z",
                   bias="bias")  # fmt: skip
    if bias is not None:
        w.tie(out.dims[-1], bias.dims[0], f"its bias is {bias.why}")
        w.mark(bias.dims[0], w.made)
    return out


@rule("conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d", "conv_transpose2d",
      "conv_transpose3d")  # fmt: skip
def _conv(w: Walk, node: Node, a: dict[str, Any], shape: tuple[int, ...]) -> Value:
    x, weight, bias = a["input"], a["weight"], a["bias"]
    transposed = bool(a.get("transposed")) or "transpose" in name_of(node)
    space = len(weight.shape) - 2
    at = len(x.shape) - space - 1  # the dimension of channels
    w.freeze(x, "a convolution slides over it", range(at + 1, len(x.shape)))
    blocks, channels, outs = a["groups"], x.shape[at], shape[at]
    ids = x.dims[at]
    rows = weight.dims[1 if transposed else 0]
    columns = weight.dims[0 if transposed else 1]
    if blocks > 1 and channels == blocks:  # each channel on its own
        if transposed and outs != channels:
            w.freeze([x, weight], "a transposed depthwise convolution with a multiplier has no rule")
        rows = weight.dims[0]
        if rows is not None:
            each = outs // channels
            if ids is None:
                w.tie(None, rows, f"it reads {x.why}")
            else:
                many = np.repeat(ids, rows.size // channels)
                w.tie(many, rows, "")
                if each > 1 and transposed:
                    rows = None
            w.mark(rows, w.made)
    elif blocks > 1:
        source = operand(node, "weight")
        plain = source is not None and source.op == "placeholder" and len(source.users) == 1
        if plain and w.traced.sources[source][0] in ("parameter", "buffer"):
            name = w.traced.sources[source][1]
            grouped = w.columns(name, 1, blocks, outs if transposed else channels)
        elif transposed:
            w.freeze([x, weight], "the weight of a grouped transposed convolution is computed")
            grouped = np.tile(rows, blocks) if rows is not None else None
        else:
            grouped = np.tile(columns, blocks) if columns is not None else None
        rows, columns = (grouped, columns) if transposed else (rows, grouped)
        w.tie(ids, columns, f"it reads {x.why}")
        w.mark(columns, w.read)
        w.mark(rows, w.made)
        for part in (ids, rows):
            if part is not None:
                w.even.append(part.reshape(blocks, -1))
    else:
        w.tie(ids, columns, f"it reads {x.why}" if ids is None else f"it meets {weight.why}")
        w.mark(columns, w.read)
        w.mark(rows, w.made)
    if ids is not None and not (blocks > 1 and channels == blocks) and not w.dead:
        padding = a.get("padding")
        padded = padding not in (None, "valid") and (
            isinstance(padding, str) or any(p != 0 for p in np.atleast_1d(padding))
        )
        refuse = "zero-padded" * padded or "transposed" * transposed
        w.ends.append(
            End(node, operand(node, "input"), at, ids,  # type: ignore[arg-type]
                operand(node, "weight") if weight.static else None, 0 if transposed else 1,
                _parameter(w, operand(node, "bias")), None, blocks,
                f"a constant arrives at a {refuse} convolution" if refuse else "")
        )  # fmt: skip
    if bias is not None:
        w.tie(rows, bias.dims[0], f"its bias is {bias.why}")
        w.mark(bias.dims[0], w.made)
    dims = [*x.dims[:at], rows if outs > 1 else None, *[None] * space]
    return Value(dims, shape, f"the result of {node.target}")


def contract(
    w: Walk,
    node: Node,
    factors: list[tuple[Value, str, str]],
    out: str,
    *,
    bias: str = "",
    nodes: Sequence[Node] | None = None,
) -> Value:
    """Multiply and sum as einsum does; a factor is (value, argument's name, one letter a dimension)."""
    at = list(nodes) if nodes else [operand(node, name) for _, name, _ in factors]
    static = [v.static for v, _, _ in factors]
    first: dict[str, Ids | None] = {}
    for letter in dict.fromkeys("".join(letters for _, _, letters in factors)):
        here = [(i, v, ls.index(letter)) for i, (v, _, ls) in enumerate(factors) if letter in ls]
        here = [(i, v, d) for i, v, d in here if v.shape[d] > 1]
        ids = next((v.dims[d] for _, v, d in here if v.dims[d] is not None), None)
        first[letter] = ids
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
        # a weight reads what it is multiplied with; of two weights the first makes, the second reads
        reads = [i for i, _, _ in here if static[i]]
        makes = [reads.pop(0)] if len(reads) == len(here) and reads else []
        for i, v, d in here:
            if static[i]:
                w.mark(v.dims[d], w.made if i in makes else w.read)
        data = [(i, d) for i, _, d in here if not static[i]]
        weights = [(i, d) for i, _, d in here if static[i]]
        if not data:
            continue
        if w.dead:
            continue
        (i, d), rest = data[0], (*data[1:], *weights)
        other, there = rest[0] if rest else (None, 0)
        is_weight = other is not None and static[other]
        simple = is_weight and len(factors[other][2]) == 2 and not set(factors[other][2]) & (
            set(factors[i][2]) - {letter}
        )  # fmt: skip
        w.ends.append(
            End(node, at[i], d, ids, at[other] if is_weight else None, there,  # type: ignore[index]
                _parameter(w, operand(node, bias)) if bias and operand(node, bias) is not None
                else _added(w, node),
                None if other is None or is_weight else at[other],
                refuse="" if simple else "a constant is multiplied with what is no plain weight")
        )  # fmt: skip
    shape = shape_of(node)
    dims = [first[c] if n > 1 else None for c, n in zip(out, shape, strict=True)]
    return Value(dims, shape, f"the result of {node.target}")


@rule("matmul", "mm", "bmm", "mv", "dot", "vdot", "addmm", "baddbmm", "addmv", "addbmm_none")
def _matmul(w: Walk, node: Node, a: dict[str, Any], shape: tuple[int, ...]) -> Value:
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
def _bilinear(w: Walk, node: Node, a: dict[str, Any], shape: tuple[int, ...]) -> Value:
    x, y, weight, bias = a["input1"], a["input2"], a["weight"], a["bias"]
    letters = "".join(chr(97 + i) for i in range(len(x.shape) - 1))
    factors = [(x, "input1", letters + "x"), (y, "input2", letters + "y"), (weight, "weight", "zxy")]
    out = contract(w, node, factors, letters + "z")
    if bias is not None:
        w.tie(out.dims[-1], bias.dims[0], f"its bias is {bias.why}")
        w.mark(bias.dims[0], w.made)
    return out


@rule("einsum")
def _einsum(w: Walk, node: Node, a: dict[str, Any], shape: tuple[int, ...]) -> Value:
    left, arrow, out = a["equation"].replace(" ", "").partition("->")
    terms = left.split(",")
    values = a["tensors"]
    if any(len(set(t.replace(".", ""))) < len(t.replace(".", "")) for t in terms):
        return _unknown(w, node, a)  # a diagonal
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in left]
    depths = [len(v.shape) - len(t.replace("...", "")) for t, v in zip(terms, values, strict=True)]
    letters = [
        t.replace("...", "".join(spare[max(depths) - d : max(depths)])) if "..." in t else t
        for t, d in zip(terms, depths, strict=True)
    ]
    dots = "".join(spare[: max(depths)]) if "..." in left else ""
    if not arrow:
        single = sorted(c for c in set("".join(terms)) - {"."} if "".join(terms).count(c) == 1)
        out = dots + "".join(single)
    out = out.replace("...", dots)
    nodes = [n for n in node.args[1] if isinstance(n, Node)]  # type: ignore[union-attr]
    factors = [(v, "", ls) for v, ls in zip(values, letters, strict=True)]
    return contract(w, node, factors, out, nodes=nodes)


@rule("scaled_dot_product_attention")
def _attention(w: Walk, node: Node, a: dict[str, Any], shape: tuple[int, ...]) -> Value:
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
        w.ends.append(End(node, query, len(q.shape) - 1, q.dims[-1], None,  # type: ignore[arg-type]
                          len(k.shape) - 1, None, key))  # fmt: skip
    parts = [Value([*t.dims[:-2], None], (*t.shape[:-2], 1), t.why, t.static) for t in (q, k, v)]
    if mask is not None:
        w.freeze(mask, "softmax runs over it", [len(mask.shape) - 1])
        if len(mask.shape) > 2:
            parts.append(Value([*mask.dims[:-2], None], (*mask.shape[:-2], 1), mask.why, mask.static))
    batch = meet(w, parts, (*shape[:-2], 1))
    return Value([*batch.dims[:-1], q.dims[-2], v.dims[-1]], shape, q.why)


@rule("embedding", "embedding_bag", "_embedding_bag")
def _embedding(w: Walk, node: Node, a: dict[str, Any], shape: tuple[int, ...]) -> Any:
    weight = a["weight"]
    w.freeze(weight, "an embedding looks it up by number", [0])
    w.freeze(a["indices"], "an embedding looks up by it")
    w.mark(weight.dims[1], w.made)
    dims = [*[None] * (len(shape) - 1), weight.dims[1]]
    if shape:
        return Value(dims, shape, "the result of an embedding")
    found = free(node, "the result of an embedding")
    found[0].dims[-1] = weight.dims[1]
    return found


@rule("batch_norm", "instance_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
def _batch_norm(w: Walk, node: Node, a: dict[str, Any], shape: tuple[int, ...]) -> Any:
    x = a["input"]
    ids = x.dims[1]
    for name in ("weight", "bias", "running_mean", "running_var"):
        t = a.get(name)
        if isinstance(t, Value):
            ids = w.tie(ids, t.dims[0], f"it is normalised with {t.why}" if ids is not None else
                        f"it normalises {x.why}")  # fmt: skip
            w.mark(t.dims[0], w.kept if name == "running_var" else w.made)
    out = Value([x.dims[0], ids, *x.dims[2:]], x.shape, x.why)
    return out if shape else [out, None, None]


@rule("layer_norm", "rms_norm")
def _layer_norm(w: Walk, node: Node, a: dict[str, Any], shape: tuple[int, ...]) -> Value:
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
def _group_norm(w: Walk, node: Node, a: dict[str, Any], shape: tuple[int, ...]) -> Value:
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
        if bare:
            w.freeze(x, f"a {kind} without parameters runs over these units", [d])
        else:
            w.atoms.approximate(x.dims[d], f"a {kind} runs over these units")  # type: ignore[arg-type]
    if dims:
        w.norms[node] = dims


@rule("softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod",
      "logcumsumexp", "softmin", "cummax", "cummin", "sort", "topk", "argsort", "roll", "diff")  # fmt: skip
def _over(w: Walk, node: Node, a: dict[str, Any], shape: tuple[int, ...]) -> Any:
    """Freeze the dimensions that these run over; the others stay as they are."""
    x = a["self"]
    dims = a.get("dim", a.get("dims"))
    over = [d % len(x.shape) for d in np.atleast_1d(dims if dims not in (None, []) else [*range(len(x.shape))])] if x.shape else []  # fmt: skip
    w.freeze(x, f"{name_of(node)} runs over these units", over)

    def kept(shape: tuple[int, ...]) -> Value:
        dims = [None if d in over else ids for d, ids in enumerate(x.dims)]
        return Value(dims, shape, x.why)

    if shape or not isinstance(node.meta.get("val"), (tuple, list)):
        return kept(shape)
    return [kept(v.shape) for v in free(node, "")]


@rule("sum", "mean", "amax", "amin", "max", "min", "prod", "var", "std", "var_mean", "std_mean",
      "logsumexp", "argmax", "argmin", "any", "all", "norm", "linalg_vector_norm", "median", "aminmax",
      "count_nonzero", "nansum", "mode")  # fmt: skip
def _reduce(w: Walk, node: Node, a: dict[str, Any], shape: tuple[int, ...]) -> Any:
    x = a["self"]
    if isinstance(a.get("other"), Value):  # max(a, b) is pointwise
        return _pointwise(w, node, a, shape)
    given = a.get("dim")
    every = list(range(len(x.shape)))
    over = every if given is None or given == [] else [d % len(x.shape) for d in np.atleast_1d(given)]
    order = a.get("ord", a.get("p"))
    name = name_of(node)
    for d in over:
        ids = x.dims[d]
        if ids is None or w.dead:
            continue
        if name in ("sum", "nansum") or (name in ("norm", "linalg_vector_norm") and order in (1, 2, None)):
            w.ends.append(End(node, operand(node, "self"), d, ids,  # type: ignore[arg-type]
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
        return [Value(list(dims), v.shape, why) for v in free(node, "")]
    return Value(dims, shape, why)


def _is_moment(node: Node) -> bool:
    """Whether a mean is that of a norm written out: of squares, or taken away from its own operand."""
    x = node.args[0]
    assert isinstance(x, Node)
    square = (name_of(x) == "pow" and x.args[1] == 2) or name_of(x) == "square"
    square |= name_of(x) == "mul" and x.args[0] is x.args[1]
    return square or all(name_of(u) == "sub" and u.args[:2] == (x, node) for u in node.users)


def _repeated(v: Value, times: int) -> Value:
    ids = v.dims[-3]
    shape = (*v.shape[:-3], v.shape[-3] * times, *v.shape[-2:])
    many = None if ids is None else np.repeat(ids, times)
    return Value([*v.dims[:-3], many, *v.dims[-2:]], shape, v.why, v.static)


def _parameter(w: Walk, node: Node | None) -> Node | None:
    """The node, if a constant can be folded into it: a parameter itself."""
    known = node is not None and node.op == "placeholder" and w.traced.sources[node][0] == "parameter"
    return node if known else None


def _added(w: Walk, node: Node) -> Node | None:
    """A parameter that is added to what the node gives, and serves as its bias."""
    users = list(node.users)
    if len(users) != 1 or name_of(users[0]) != "add":
        return None
    others = [n for n in users[0].all_input_nodes if n is not node]
    bias = _parameter(w, others[0]) if others else None
    return bias if bias is not None and shape_of(bias) == shape_of(node)[-1:] else None


def _unknown(w: Walk, node: Node, a: dict[str, Any]) -> Any:
    w.freeze(list(a.values()), f"operator {node.target} has no rule")
    return free(node, f"the result of {node.target}")

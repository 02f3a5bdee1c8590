"""Which bounds has an operator's result, given bounds of its arguments? Rules for operators."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from pruneviz.redundancy.intervals import (
    Interval,
    ends,
    has_interval,
    pair,
    plus,
    point,
    product,
    times,
)


@dataclass(frozen=True, eq=False)
class Call:
    """An operator with its arguments, some of them intervals.

    Parameters
    ----------
    name : str
        The operator's name.
    op : callable
        The operator.
    a : dict
        All arguments, by the names in its schema.
    f : torch.finfo or None
        The floating-point type of the forward, if its rounding errors are to be included.
    """

    name: str
    op: Callable[..., Any]
    a: dict[str, Any]
    f: torch.finfo | None

    def __call__(self, /, **new: Any) -> Any:
        """Run the operator with other values for some arguments."""
        return self.op(**{**self.a, **new})

    def at(self, which: str) -> Any:
        """Run it with all intervals replaced by one bound, "lo" or "hi", or by their "mag"."""
        return self(**ends(self.a, which))

    def known_except(self, *names: str) -> bool:
        """Whether all arguments except those named are known, that is, no intervals."""
        return not has_interval([v for k, v in self.a.items() if k not in names])


Rule = Callable[[Call], Any]  # None: nothing is known of the result
RULES: dict[str, Rule] = {}

MONOTONE = """
    view _unsafe_view reshape flatten unflatten permute transpose t numpy_T mT movedim swapaxes
    expand expand_as view_as broadcast_to slice select split chunk split_with_sizes tensor_split
    unbind narrow squeeze unsqueeze contiguous clone to _to_copy type_as detach alias
    lift_fresh dropout feature_dropout alpha_dropout feature_alpha_dropout cat concat stack index
    index_select gather repeat repeat_interleave tile roll flip pad constant_pad_nd
    reflection_pad1d reflection_pad2d replication_pad1d replication_pad2d pixel_shuffle
    pixel_unshuffle channel_shuffle upsample_nearest1d upsample_nearest2d diagonal tril triu
    copy fill zero index_put
    relu relu6 hardtanh clamp clamp_min clamp_max clip sigmoid tanh hardsigmoid softplus selu
    log_sigmoid exp expm1 log log1p sqrt erf
    max_pool1d max_pool2d max_pool3d max_pool2d_with_indices adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d amax amin max min maximum minimum
""".split()
SUMS = """
    mean sum cumsum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d
""".split()
# functions with one turning point: monotone on either side of it
TURNING_POINTS = {"abs": 0.0, "square": 0.0, "leaky_relu": 0.0, "prelu": 0.0, "elu": 0.0, "celu": 0.0,
         "hardswish": -1.5, "silu": -1.278464542761074, "mish": -1.1924312145154952}  # fmt: skip
GELU = {"none": -0.7517915246935645, "tanh": -0.7524614220710163}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of some operators."""

    def add(fn: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, fn))
        return fn

    return add


@rule(*MONOTONE)
def _monotone(c: Call) -> Any:
    """Run it at both bounds: for moved numbers, order statistics, and most activations."""
    if not c.known_except("self", "input", "tensors", "other", "src", "values") or c.a.get("train"):
        return None
    low, high = c.at("lo"), c.at("hi")
    return tree_map(lambda x, y: Interval(x, y) if isinstance(x, Tensor) else x, low, high)


@rule(*SUMS)
def _sum(c: Call) -> Any:
    out = _monotone(c)
    if out is None or c.f is None:
        return out
    x = c.a["self"].lo
    if "pool" in c.name:
        terms = math.prod(x.shape[-int(c.name[-2]) :])
    else:
        terms = max(x.numel() // max(1, out.lo.numel()), *x.shape, 1)
    return out.widened((terms + 2) * c.f.eps * c.at("mag"), c.f)


@rule("gelu", "pow", *TURNING_POINTS)
def _turning(c: Call) -> Any:
    key = "input" if "input" in c.a else "self"
    turning_point = TURNING_POINTS.get(c.name, 0.0)
    if c.name == "gelu":
        turning_point = GELU[c.a["approximate"]]
    if c.name == "pow":
        e = c.a["exponent"]
        if not isinstance(e, (int, float)) or e <= 0:
            return None
        if e % 2:
            return _monotone(c)
    if not c.known_except(key):
        return None
    x = c.a[key]
    between = torch.full_like(x.lo, turning_point).maximum(x.lo).minimum(x.hi)
    found = torch.stack([c(**{key: t}) for t in (x.lo, between, x.hi)])
    out = Interval(found.amin(0), found.amax(0))
    # gelu subtracts numbers as large as its input, so its error is relative to the input
    return out if c.f is None or c.name != "gelu" else out.widened(8 * c.f.eps * x.mag, c.f)


@rule("zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full", "size",
      "sym_size", "numel", "sym_numel")  # fmt: skip
def _shape(c: Call) -> Any:
    return c.at("lo")  # the result depends on the shape only


@rule("softmax")
def _softmax(c: Call) -> Any:
    x = c.a["self"].lo
    return Interval(torch.zeros_like(x), torch.ones_like(x))


@rule("neg", "negative")
def _neg(c: Call) -> Any:
    return Interval(-c.a["self"].hi, -c.a["self"].lo)


@rule("add", "sub", "subtract", "rsub")
def _add(c: Call) -> Any:
    x, y = pair(c.a["self"], c.a["other"])
    x, y = (y, x) if c.name == "rsub" else (x, y)
    alpha = c.a.get("alpha", 1)
    factor = alpha if c.name == "add" else -alpha
    y = times(y, point(factor, y))
    out = Interval(x.lo + y.lo, x.hi + y.hi)
    return out if c.f is None or alpha == 1 else out.widened(2 * c.f.eps * y.mag, c.f)


@rule("mul", "multiply")
def _mul(c: Call) -> Any:
    out = times(*pair(c.a["self"], c.a["other"]))
    square = c.a["self"] is c.a["other"]
    return Interval(out.lo.clamp(min=0), out.hi) if square else out


@rule("div", "divide", "true_divide", "reciprocal", "rsqrt")
def _div(c: Call) -> Any:
    if c.a.get("rounding_mode"):
        return None
    if c.name == "rsqrt":
        x, y = point(1.0, c.a["self"]), Interval(c.a["self"].lo.sqrt(), c.a["self"].hi.sqrt())
    elif c.name == "reciprocal":
        x, y = point(1.0, c.a["self"]), c.a["self"]
    else:
        x, y = pair(c.a["self"], c.a["other"])
    inside = (y.lo <= 0) & (y.hi >= 0)
    return times(x, Interval(*(t.reciprocal().masked_fill(inside, math.nan) for t in (y.hi, y.lo))))


@rule("where", "masked_fill")
def _where(c: Call) -> Any:
    if "self" not in c.a:  # where(mask) alone returns positions
        return None
    mask: Any = c.a.get("condition", c.a.get("mask"))
    x, y = pair(c.a["self"], c.a["value"] if c.name == "masked_fill" else c.a["other"])
    if isinstance(mask, Interval):
        return Interval(torch.minimum(x.lo, y.lo), torch.maximum(x.hi, y.hi))
    x, y = (y, x) if c.name == "masked_fill" else (x, y)
    return Interval(torch.where(mask, x.lo, y.lo), torch.where(mask, x.hi, y.hi))


@rule("linear", "conv1d", "conv2d", "conv3d", "convolution", "conv_transpose1d",
      "conv_transpose2d", "conv_transpose3d")  # fmt: skip
def _linear(c: Call) -> Any:
    x, w = pair(c.a["input"], c.a["weight"])
    shape = w.lo.shape
    terms = max(shape[:2]) * math.prod(shape[2:])  # an upper bound, for plain and transposed ones
    bias = c.a["bias"]
    if bias is not None:
        bias = point(bias)
        bias = Interval(*(t.reshape(-1, *[1] * (len(shape) - 2)) for t in (bias.lo, bias.hi)))
    return product(lambda s, t: c(input=s, weight=t, bias=None), x, w, bias, terms, c.f)


@rule("matmul", "mm", "bmm", "mv", "dot", "addmm", "addmv", "baddbmm")
def _matmul(c: Call) -> Any:
    added = c.name.startswith(("add", "badd"))
    if added and (c.a["alpha"] != 1 or c.a["beta"] != 1):
        return None
    x, y = pair(*[v for v in c.a.values() if isinstance(v, (Tensor, Interval))][-2:])
    bias = point(c.a["self"]) if added else None
    return product(torch.matmul, x, y, bias, x.lo.shape[-1], c.f)


@rule("einsum")
def _einsum(c: Call) -> Any:
    first, *rest = c.a["tensors"]
    if len(rest) > 1:
        return None
    x, y = pair(first, rest[0] if rest else 1.0)
    terms = x.lo.numel() * y.lo.numel()  # an upper bound
    return product(lambda s, t: c(tensors=[s, t] if rest else [s * t]), x, y, None, terms, c.f)


@rule("batch_norm")
def _batch_norm(c: Call) -> Any:
    if not c.known_except("input"):
        return None
    x, mean, var = c.a["input"], c.a["running_mean"], c.a["running_var"]
    if c.a["training"] or mean is None:
        return _norm(c)
    scale = (var + c.a["eps"]).rsqrt()
    scale = scale if c.a["weight"] is None else scale * c.a["weight"]
    bias = torch.zeros_like(mean) if c.a["bias"] is None else c.a["bias"]
    along = (-1, *[1] * (x.lo.ndim - 2))
    s, m, b = (t.reshape(along) for t in (scale, mean, bias))
    out = times(x, point(s))
    out = Interval(out.lo + (b - m * s), out.hi + (b - m * s))
    # for either order of computation: x · s + (b - m · s), or (x - m) · s + b
    error = x.mag * s.abs() + (m * s).abs() + b.abs()
    return out if c.f is None else out.widened(8 * c.f.eps * error, c.f)


@rule("layer_norm", "group_norm", "instance_norm", "rms_norm")
def _norm(c: Call) -> Any:
    """Bound by n alone: of n numbers with mean square 1 none exceeds √n; with mean 0, √(n-1)."""
    x = c.a["input"]
    if not isinstance(x, Interval) or c.a.get("use_input_stats") is False:
        return None
    shape, along = x.lo.shape, (-1, *[1] * (x.lo.ndim - 2))
    if "normalized_shape" in c.a:
        n, along = math.prod(c.a["normalized_shape"]), tuple(c.a["normalized_shape"])
    elif c.name == "group_norm":
        n = math.prod(shape[1:]) // c.a["num_groups"]
    else:
        n = math.prod(shape[2:]) * (shape[0] if c.name == "batch_norm" else 1)
    most = math.sqrt(n if c.name == "rms_norm" else n - 1)
    if c.f is not None:  # a small error of the mean, divided by a very small deviation
        eps = c.f.eps if c.a["eps"] is None else c.a["eps"]
        if not eps:
            return None
        most += 4 * (n + 8) * c.f.eps * (float(x.mag.max()) / math.sqrt(eps) + most)
    out = Interval(torch.full_like(x.lo, -most), torch.full_like(x.lo, most))
    weight, bias = (c.a.get(k) for k in ("weight", "bias"))
    for combine, by in ((times, weight), (plus, bias)):
        if by is not None:
            by = point(by)
            out = combine(out, Interval(by.lo.reshape(along), by.hi.reshape(along)))
    return out if c.f is None else out.widened(4 * c.f.eps * out.mag, c.f)


@rule("scaled_dot_product_attention")
def _attention(c: Call) -> Any:
    """Bound by the lowest and the highest value: attention averages values with unknown weights."""
    query, value, mask = (c.a[k] for k in ("query", "value", "attn_mask"))
    q, v = point(query).lo, point(value)
    if c.a["dropout_p"]:
        return None
    low, high = v.lo.amin(-2, keepdim=True), v.hi.amax(-2, keepdim=True)
    if mask is not None:  # a query whose keys are all masked gives 0
        low, high = low.clamp(max=0), high.clamp(min=0)
    if c.a["enable_gqa"]:
        low, high = (t.repeat_interleave(q.shape[-3] // t.shape[-3], -3) for t in (low, high))
    lead = torch.broadcast_shapes(q.shape[:-2], low.shape[:-2])
    shape = (*lead, q.shape[-2], low.shape[-1])
    out = Interval(low.expand(shape), high.expand(shape))
    keys = v.lo.shape[-2]
    return out if c.f is None else out.widened((keys + 8) * c.f.eps * out.mag, c.f)

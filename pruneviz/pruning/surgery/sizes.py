"""Sizes that are written down: in the graph's arguments, and in attributes of the user's modules."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.fx import Node
from torch.nn.modules.batchnorm import _NormBase

from pruneviz.graph.state import Walk
from pruneviz.graph.trace import layer_of
from pruneviz.graph.values import Value, args_of, flatten, name_of, schema_of
from pruneviz.pruning.surgery.cut import sizes_of

SHAPED = {"view": 1, "reshape": 1, "_unsafe_view": 1, "expand": 1, "zeros": 0, "ones": 0, "full": 0,
          "empty": 0, "new_zeros": 1, "new_ones": 1, "new_full": 1, "new_empty": 1}  # fmt: skip
ATTEMPTS = 24
NORMS = (_NormBase, nn.GroupNorm, nn.RMSNorm)

Attributes = tuple[tuple[str, str, Any], ...]


def new_shape(w: Walk, value: Value, gone: np.ndarray) -> tuple[int, ...]:
    """Shape of a tensor of the graph once the units are gone."""
    return tuple(left(w, ids, gone, n) for n, ids in zip(value.shape, value.dims, strict=True))


def left(w: Walk, ids: np.ndarray | None, gone: np.ndarray, n: int) -> int:
    """How many of n places stay."""
    return n if ids is None else int((~gone[w.atoms.roots(ids)]).sum())


def mended(w: Walk, node: Node, gone: np.ndarray) -> tuple[Any, ...]:
    """Arguments of an operator with its written-down sizes set to the new ones."""
    args, name = list(args_of(node)), name_of(node)
    if not name:
        return args_of(node)
    out = w.values.get(node)
    if name in SHAPED and isinstance(out, Value):
        i = SHAPED[name]
        shape = args[i]
        new = new_shape(w, out, gone)
        lead = len(new) - len(shape)
        assert isinstance(shape, (list, tuple)) and lead == 0
        args[i] = [n if isinstance(s, int) and s > 1 and out.dims[d] is not None else s
                   for d, (s, n) in enumerate(zip(shape, new, strict=True))]  # fmt: skip
        symbols = [
            d for d, s in enumerate(shape) if isinstance(s, Node) and out.dims[d] is not None
        ]
        if len(symbols) == 1 and -1 not in args[i] and name in ("view", "reshape", "_unsafe_view"):
            args[i][symbols[0]] = -1  # batch times heads: torch works it out
    elif name == "unflatten" and isinstance(out, Value):
        d = args[1] % (len(out.shape) - len(args[2]) + 1)
        new = new_shape(w, out, gone)[d : d + len(args[2])]
        args[2] = [
            n if isinstance(s, int) and s > 1 else s for s, n in zip(args[2], new, strict=True)
        ]
    elif name in ("split", "split_with_sizes", "slice", "narrow"):
        x = w.values[args[0]]
        d = _dim(node, 1 if name in ("slice", "narrow") else 2) % len(x.shape)
        ids = x.dims[d]
        if ids is None:
            return tuple(args)
        if name == "split":
            parts = {new_shape(w, v, gone)[d] for v in flatten(out)[:-1] or flatten(out)}
            args[1] = (
                parts.pop() if len(parts) == 1 else [new_shape(w, v, gone)[d] for v in flatten(out)]
            )
        elif name == "split_with_sizes":
            args[1] = [new_shape(w, v, gone)[d] for v in flatten(out)]
        elif name == "slice":
            for i in (2, 3):
                if len(args) > i and isinstance(args[i], int) and args[i] < x.shape[d]:
                    bound = args[i] % x.shape[d] if args[i] < 0 else args[i]
                    args[i] = left(w, ids[:bound], gone, bound)
        else:
            start = args[2] % x.shape[d]
            args[3] = left(w, ids[start : start + args[3]], gone, 0)
            args[2] = left(w, ids[:start], gone, 0)
    elif name in ("layer_norm", "rms_norm"):
        x = w.values[args_of(node)[0]]
        args[1] = list(new_shape(w, x, gone)[-len(args[1]) :])
    elif name == "group_norm":
        x = w.values[args_of(node)[0]]
        if args[1] == x.shape[1]:
            args[1] = new_shape(w, x, gone)[1]
    elif name.startswith("conv") and "convolution" not in name:
        return _conv(w, node, gone, args)
    return tuple(args)


def _dim(node: Node, place: int) -> int:
    """Return the dimension that an operator was given, by place or by name."""
    given: Any = args_of(node)[place] if len(args_of(node)) > place else node.kwargs.get("dim", 0)
    return int(given)


def _conv(w: Walk, node: Node, gone: np.ndarray, args: list[Any]) -> tuple[Any, ...]:
    """Let the groups of a depthwise convolution follow its channels."""
    names = [a.name for a in schema_of(node).arguments]
    i = names.index("groups")
    x, weight = w.values[args_of(node)[0]], w.values[args_of(node)[1]]
    d = len(x.shape) - len(weight.shape) + 1
    if len(args) > i and args[i] > 1 and args[i] == x.shape[d]:
        args[i] = new_shape(w, x, gone)[d]
    return tuple(args)


def bare_norms(w: Walk, model: nn.Module, gone: np.ndarray) -> Attributes:
    """Sizes of norms of torch's own that have no tensor to read them from."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[tuple[str, str], Any] = {}
    for node in w.traced.nodes:
        layer, name = layer_of(node), name_of(node)
        module = modules.get(layer)
        bare = isinstance(module, NORMS) and not [*module.parameters(), *module.buffers()]
        if not bare or name not in ("batch_norm", "instance_norm", "group_norm", "rms_norm"):
            continue
        x = w.values[args_of(node)[0]]
        new = new_shape(w, x, gone)
        if new == x.shape:
            continue
        if name == "rms_norm":
            found[layer, "normalized_shape"] = new[-len(args_of(node)[1]) :]
        elif name == "group_norm":
            found[layer, "num_channels"] = new[1]
            if args_of(node)[1] == x.shape[1]:
                found[layer, "num_groups"] = new[1]
        else:
            found[layer, "num_features"] = new[1]
    return tuple((layer, name, value) for (layer, name), value in found.items())


def blamed(w: Walk, model: nn.Module, gone: np.ndarray) -> Iterator[Attributes]:
    """Attributes that may hold a size that changes, in the order in which to try them.

    First those for which exactly one new size fits anything that was written down in their layer;
    then those for which one fits what really changes; then by attribute names, fewer first.
    """
    strict, loose = _wanted(w, gone, changed_only=False), _wanted(w, gone, changed_only=True)
    tried: list[Attributes] = [()]
    first, wider = _fitting(model, strict), _fitting(model, loose)
    names = list(dict.fromkeys(name for _, name, _ in wider))
    subsets = itertools.chain.from_iterable(
        itertools.combinations(names, k) for k in range(1, min(4, len(names)) + 1)
    )
    chosen = (tuple(a for a in wider if a[1] in subset) for subset in subsets)
    for attributes in itertools.islice(itertools.chain([first, wider], chosen), ATTEMPTS):
        if attributes not in tried:
            tried.append(attributes)
            yield attributes


def _wanted(w: Walk, gone: np.ndarray, *, changed_only: bool) -> dict[str, dict[int, set[int]]]:
    """For each layer, what the sizes that its operators were given become."""
    wanted: dict[str, dict[int, set[int]]] = {}
    for node in w.traced.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        pairs = zip(_numbers(args_of(node)), _numbers(mended(w, node, gone)), strict=False)
        for old, new in pairs:
            if old > 1 and (old != new or not changed_only):
                wanted.setdefault(layer_of(node), {}).setdefault(old, set()).add(new)
    return wanted


def _fitting(model: nn.Module, wanted: dict[str, dict[int, set[int]]]) -> Attributes:
    modules = dict(model.named_modules(remove_duplicate=False))
    found: list[tuple[str, str, Any]] = []
    for layer, sizes in wanted.items():
        module = modules.get(layer)
        if module is None or type(module).__module__.startswith("torch.nn.modules"):
            continue
        for name, value in sizes_of(module):
            kind = type(value) if isinstance(value, (tuple, list)) else None
            many = [value] if kind is None else list(value)
            fits = [sizes.get(v, set()) for v in many]
            new = [next(iter(f)) if len(f) == 1 else v for f, v in zip(fits, many, strict=True)]
            if new != many:
                found.append((layer, name, new[0] if kind is None else kind(new)))
    return tuple(found)


def _numbers(args: Any) -> list[int]:
    if isinstance(args, (list, tuple)):
        return [n for a in args for n in _numbers(a)]
    return [args] if isinstance(args, int) and not isinstance(args, bool) else []

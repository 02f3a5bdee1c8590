"""Which literal sizes change after a cut: in arguments of the graph and attributes of modules."""

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
from pruneviz.graph.values import Value, args_of, arguments_of, flatten, name_of
from pruneviz.pruning.surgery.cut import sizes_of

# operators that take a shape -> its position among their arguments
SHAPE_ARGUMENT = {"view": 1, "reshape": 1, "_unsafe_view": 1, "expand": 1, "zeros": 0, "ones": 0,
                  "full": 0, "empty": 0, "new_zeros": 1, "new_ones": 1, "new_full": 1,
                  "new_empty": 1}  # fmt: skip
MAX_ATTEMPTS = 24  # sets of attributes that are tried; each costs a comparison
NORMS = (_NormBase, nn.GroupNorm, nn.RMSNorm)

Attributes = tuple[tuple[str, str, Any], ...]  # (layer, attribute, new value)


def new_shape(w: Walk, value: Value, removed: np.ndarray) -> tuple[int, ...]:
    """Return the shape of a tensor of the graph after the removal."""
    return tuple(n_kept(w, ids, removed, n) for n, ids in zip(value.shape, value.dims, strict=True))


def n_kept(w: Walk, ids: np.ndarray | None, removed: np.ndarray, n: int) -> int:
    """Return how many of n places are kept."""
    return n if ids is None else int((~removed[w.atoms.roots(ids)]).sum())


def resized_arguments(w: Walk, node: Node, removed: np.ndarray) -> tuple[Any, ...]:
    """Return the arguments of an operator with its literal sizes replaced by the new ones."""
    args, name = list(args_of(node)), name_of(node)
    if not name:
        return args_of(node)
    out = w.values.get(node)
    if name in SHAPE_ARGUMENT and isinstance(out, Value):
        i = SHAPE_ARGUMENT[name]
        shape = args[i]
        new = new_shape(w, out, removed)
        lead = len(new) - len(shape)
        assert isinstance(shape, (list, tuple)) and lead == 0
        args[i] = [n if isinstance(s, int) and s > 1 and out.dims[d] is not None else s
                   for d, (s, n) in enumerate(zip(shape, new, strict=True))]  # fmt: skip
        symbols = [
            d for d, s in enumerate(shape) if isinstance(s, Node) and out.dims[d] is not None
        ]
        if len(symbols) == 1 and -1 not in args[i] and name in ("view", "reshape", "_unsafe_view"):
            args[i][symbols[0]] = -1  # for example batch times heads: torch computes it
    elif name == "unflatten" and isinstance(out, Value):
        d = args[1] % (len(out.shape) - len(args[2]) + 1)
        new = new_shape(w, out, removed)[d : d + len(args[2])]
        args[2] = [
            n if isinstance(s, int) and s > 1 else s for s, n in zip(args[2], new, strict=True)
        ]
    elif name in ("split", "split_with_sizes", "slice", "narrow"):
        x = w.values[args[0]]
        d = arguments_of(node)["dim"] % len(x.shape)
        ids = x.dims[d]
        if ids is None:
            return tuple(args)
        if name == "split":
            parts = {new_shape(w, v, removed)[d] for v in flatten(out)[:-1] or flatten(out)}
            args[1] = (
                parts.pop()
                if len(parts) == 1
                else [new_shape(w, v, removed)[d] for v in flatten(out)]
            )
        elif name == "split_with_sizes":
            args[1] = [new_shape(w, v, removed)[d] for v in flatten(out)]
        elif name == "slice":
            for i in (2, 3):
                if len(args) > i and isinstance(args[i], int) and args[i] < x.shape[d]:
                    bound = args[i] % x.shape[d] if args[i] < 0 else args[i]
                    args[i] = n_kept(w, ids[:bound], removed, bound)
        else:
            start = args[2] % x.shape[d]
            args[3] = n_kept(w, ids[start : start + args[3]], removed, 0)
            args[2] = n_kept(w, ids[:start], removed, 0)
    elif name in ("layer_norm", "rms_norm"):
        x = w.values[args_of(node)[0]]
        args[1] = list(new_shape(w, x, removed)[-len(args[1]) :])
    elif name == "group_norm":
        x = w.values[args_of(node)[0]]
        if args[1] == x.shape[1]:
            args[1] = new_shape(w, x, removed)[1]
    elif name.startswith("conv") and "convolution" not in name:
        return _conv(w, node, removed, args)
    return tuple(args)


def _conv(w: Walk, node: Node, removed: np.ndarray, args: list[Any]) -> tuple[Any, ...]:
    """Return the arguments of a convolution; a depthwise one gets as many groups as channels."""
    i = list(arguments_of(node)).index("groups")
    x, weight = w.values[args_of(node)[0]], w.values[args_of(node)[1]]
    d = len(x.shape) - len(weight.shape) + 1
    if len(args) > i and args[i] > 1 and args[i] == x.shape[d]:
        args[i] = new_shape(w, x, removed)[d]
    return tuple(args)


def bare_norm_sizes(w: Walk, model: nn.Module, removed: np.ndarray) -> Attributes:
    """Return the new sizes of torch norms without tensors, from whose shapes they could be read."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[tuple[str, str], Any] = {}
    for node in w.traced.nodes:
        layer, name = layer_of(node), name_of(node)
        module = modules.get(layer)
        bare = isinstance(module, NORMS) and not [*module.parameters(), *module.buffers()]
        if not bare or name not in ("batch_norm", "instance_norm", "group_norm", "rms_norm"):
            continue
        x = w.values[args_of(node)[0]]
        new = new_shape(w, x, removed)
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


def attribute_choices(w: Walk, model: nn.Module, removed: np.ndarray) -> Iterator[Attributes]:
    """Yield sets of attributes that may hold a size that changes, the most likely set first.

    An attribute is a candidate if its old value occurs among the literal sizes of its layer's
    operators and becomes exactly one new value there. The first set counts all literal sizes, so a
    value that changes in one operator and not in another is ambiguous and left out. The second
    counts only sizes that change. Then come parts of the second set, by attribute names, small
    parts first.
    """
    all_sizes = _new_sizes(w, removed, changed_only=False)
    changed = _new_sizes(w, removed, changed_only=True)
    tried: list[Attributes] = [()]
    unambiguous, candidates = _candidates(model, all_sizes), _candidates(model, changed)
    names = list(dict.fromkeys(name for _, name, _ in candidates))
    subsets = itertools.chain.from_iterable(
        itertools.combinations(names, k) for k in range(1, min(4, len(names)) + 1)
    )
    chosen = (tuple(a for a in candidates if a[1] in subset) for subset in subsets)
    sets = itertools.chain([unambiguous, candidates], chosen)
    for attributes in itertools.islice(sets, MAX_ATTEMPTS):
        if attributes not in tried:
            tried.append(attributes)
            yield attributes


def _new_sizes(
    w: Walk, removed: np.ndarray, *, changed_only: bool
) -> dict[str, dict[int, set[int]]]:
    """Return, for each layer, the new values of each literal size of its operators."""
    found: dict[str, dict[int, set[int]]] = {}
    for node in w.traced.nodes:
        if not isinstance(node.target, torch._ops.OpOverload):
            continue
        pairs = zip(
            _numbers(args_of(node)), _numbers(resized_arguments(w, node, removed)), strict=False
        )
        for old, new in pairs:
            if old > 1 and (old != new or not changed_only):
                found.setdefault(layer_of(node), {}).setdefault(old, set()).add(new)
    return found


def _candidates(model: nn.Module, new_sizes: dict[str, dict[int, set[int]]]) -> Attributes:
    """Return the attributes whose old value becomes exactly one new value in their layer."""
    modules = dict(model.named_modules(remove_duplicate=False))
    found: list[tuple[str, str, Any]] = []
    for layer, sizes in new_sizes.items():
        module = modules.get(layer)
        if module is None or type(module).__module__.startswith("torch.nn.modules"):
            continue
        for name, value in sizes_of(module):
            kind = type(value) if isinstance(value, (tuple, list)) else None
            old = [value] if kind is None else list(value)
            options = [sizes.get(v, set()) for v in old]
            new = [next(iter(o)) if len(o) == 1 else v for o, v in zip(options, old, strict=True)]
            if new != old:
                found.append((layer, name, new[0] if kind is None else kind(new)))
    return tuple(found)


def _numbers(args: Any) -> list[int]:
    if isinstance(args, (list, tuple)):
        return [n for a in args for n in _numbers(a)]
    return [args] if isinstance(args, int) and not isinstance(args, bool) else []

"""What does a traced graph return for given parameters? It is run node by node, as a reference."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves, tree_map

from pruneviz.graph.state import Walk
from pruneviz.graph.values import args_of, name_of

DOUBLE = {torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64,
          torch.complex64: torch.complex128}  # fmt: skip


def run_graph(
    w: Walk,
    tensors: Mapping[str, Tensor],
    inputs: Iterable[Any],
    *,
    removed: np.ndarray | None = None,
    double: bool = False,
    watch: Callable[[Node, Callable[[Node], Any]], None] | None = None,
) -> list[Tensor]:
    """Run the graph node by node.

    Parameters
    ----------
    tensors : mapping of str to Tensor
        Parameters and buffers by name.
    inputs : iterable
        One value for each placeholder of the user's input.
    removed : ndarray of bool, by root
        The silenced units. A norm over units runs over the other units only.
    double : bool
        Whether to compute in float64, also where the model itself casts to a smaller type.
    watch : callable
        Called before each node runs, with the node and a function that returns any node's value.
    """

    def run(node: Node, env: dict[Node, Any]) -> Any:
        if watch is not None:
            watch(node, env.__getitem__)
        args, kwargs = map_arg((args_of(node), node.kwargs), env.__getitem__)
        if double:
            args, kwargs = promoted_types((args, kwargs))
        kept_places = kept_places_of(w, node, removed)
        if node.target is operator.getitem:
            value = args[0][args[1]]
        elif kept_places:
            value = on_survivors(node, args, kwargs, kept_places)
        else:
            value = call(node)(*args, **kwargs)
        # the result is promoted, too: zeros(3) has no argument for its type
        return tree_map(promoted, value) if double else value

    return interpret(w, tensors, inputs, run, promoted if double else lambda value: value)


def interpret(
    w: Walk,
    tensors: Mapping[str, Tensor],
    inputs: Iterable[Any],
    run: Callable[[Node, dict[Node, Any]], Any],
    converted: Callable[[Any], Any],
) -> list[Tensor]:
    """Go through the graph and return its outputs: `run` gives the result of each operator.

    It is called with a node, and with the values so far that later nodes read, each of them
    `converted` if it comes from outside of the graph.
    """
    env: dict[Node, Any] = {}
    remaining_inputs = iter(inputs)
    nodes = [n for n in w.traced.nodes if n in w.traced.live]
    last_user = {n: node for node in nodes for n in node.all_input_nodes}
    for node in nodes:
        if node.op == "placeholder":
            kind, name = w.traced.sources[node]
            known = w.traced.constants if kind == "constant" else tensors
            value = converted(next(remaining_inputs) if kind == "input" else known[name])
            # a copy, because a forward may write into its buffers
            copied = isinstance(value, Tensor) and kind != "parameter"
            env[node] = value.clone() if copied else value
        elif node.op == "output":
            return [env[n] for n in outputs(node) if isinstance(env.get(n), Tensor)]
        elif node.op == "get_attr":
            env[node] = getattr(w.traced.root, str(node.target))
        else:
            env[node] = run(node, env)
            for n in node.all_input_nodes:
                if last_user[n] is node:
                    del env[n]
    return []


def outputs(node: Node) -> list[Any]:
    """Return the nodes that the graph returns, in order; one node may occur twice."""
    return tree_leaves(node.args)


def call(node: Node) -> Callable[..., Any]:
    """Return the operator of a node."""
    return node.target  # type: ignore[return-value]


def kept_places_of(w: Walk, node: Node, removed: np.ndarray | None) -> dict[int, np.ndarray]:
    """Return, for a norm over units, each dimension that loses units and its kept places."""
    if removed is None or node not in w.norms:
        return {}
    x = w.values[args_of(node)[0]]
    lost = {d: removed[w.atoms.roots(x.dims[d])] for d in w.norms[node]}
    return {d: np.flatnonzero(~g) for d, g in lost.items() if g.any()}


def on_survivors(node: Node, args: Any, kwargs: Any, kept_places: dict[int, np.ndarray]) -> Tensor:
    """Run a norm over the kept units only; the result is 0 at the others."""
    x, *rest = args
    index = {d: torch.from_numpy(k).to(x.device) for d, k in kept_places.items()}

    def kept_part(t: Tensor, first_dim: int = 0) -> Tensor:
        for d, k in index.items():
            t = t.index_select(d - first_dim, k)
        return t

    kept_x, name = kept_part(x), name_of(node)
    if name == "mean":
        return call(node)(kept_x, *rest, **kwargs)
    if name == "group_norm":
        params = [kept_part(t, 1) if isinstance(t, Tensor) else t for t in rest]
    else:
        lead = x.ndim - len(rest[0])
        params = [kept_part(t, lead) if isinstance(t, Tensor) else t for t in rest]
        params[0] = list(kept_x.shape[lead:])
    out = call(node)(kept_x, *params, **kwargs)
    for d, k in index.items():
        full = out.new_zeros([x.shape[i] if i == d else n for i, n in enumerate(out.shape)])
        out = full.index_copy(d, k, out)
    return out


def silenced(
    w: Walk, tensors: Mapping[str, Tensor], removed: np.ndarray, roles: Mapping[Any, str]
) -> dict[str, Tensor]:
    """Return the tensors, with 0 in the producers of the removed units."""
    new = dict(tensors)
    for key, ids in w.tensors.items():
        lost = removed[w.atoms.roots(ids)]
        if roles.get(key) == "out" and lost.any():
            name, dim, blocks = key
            new[name] = zeroed(new[name], dim, torch.from_numpy(lost), blocks)
    return new


def zeroed(t: Tensor, dim: int, lost: Tensor, blocks: int = 1) -> Tensor:
    """Return a copy with zeros where `lost` is True, along a dimension (block by block)."""
    lost = lost.to(t.device)
    if blocks > 1:  # a grouped convolution: each block of rows has its own columns
        each = lost.reshape(blocks, 1, -1)  # (blocks, rows, columns)
        split = t.reshape(blocks, t.shape[0] // blocks, t.shape[1], -1)
        return split.masked_fill(each.unsqueeze(-1), 0).reshape(t.shape)
    shape = [1] * t.ndim
    shape[dim] = -1
    return t.masked_fill(lost.reshape(shape), 0)


def promoted(value: Any) -> Any:
    """Return a floating-point tensor in float64, and anything else unchanged."""
    return (
        value.to(DOUBLE[value.dtype])
        if isinstance(value, Tensor) and value.dtype in DOUBLE
        else value
    )


def promoted_types(values: Any) -> Any:
    """Replace every smaller floating-point type among the arguments by float64."""
    if isinstance(values, torch.dtype):
        return DOUBLE.get(values, values)
    if isinstance(values, dict):
        return {k: promoted_types(v) for k, v in values.items()}
    if isinstance(values, (list, tuple)):
        return (
            type(values)(promoted_types(v) for v in values)
            if type(values) in (list, tuple)
            else values
        )
    return values

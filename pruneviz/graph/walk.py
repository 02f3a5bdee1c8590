"""Which atoms stand at each place of each tensor? One walk over the graph finds them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import Node

from pruneviz.core.names import layer_name
from pruneviz.graph.rules import rule_of
from pruneviz.graph.state import OUTPUT, Walk
from pruneviz.graph.trace import Traced
from pruneviz.graph.values import args_of, arguments_of, flatten, shape_of, size, untied
from pruneviz.model.tensors import tensors_of
from pruneviz.model.weights import computed_weights


def walk(traced: Traced) -> Walk:
    """Walk the graph of a model."""
    w = Walk(traced, computed=computed_weights(traced.model))
    tensors = tensors_of(traced.model)
    for node in traced.nodes:
        if node.op == "placeholder":
            kind, name = traced.sources[node]
            if kind in ("parameter", "buffer"):
                w.values[node] = w.source(name, tensors[name], kind)
                # it divides by a norm of the whole weight
                if w.computed.get(layer_name(name), ("",))[0] == "spectral_norm":
                    w.freeze(w.values[node], f"it meets {w.computed_text(layer_name(name))}")
            else:
                what = (
                    "the model's input" if kind == "input" else "a constant tensor of the forward"
                )
                w.values[node] = untied(node, what, static=kind == "constant")
        elif node.op == "output":
            w.freeze([w.values.get(n) for n in node.all_input_nodes], OUTPUT)
        elif node.op == "get_attr":
            w.values[node] = untied(node, "a constant tensor of the forward", static=True)
        elif node.target is operator.getitem:
            found = w.values.get(args_of(node)[0])
            w.values[node] = (
                found[args_of(node)[1]] if isinstance(found, list) else untied(node, "")
            )
        else:
            operands = [w.values.get(n) for n in node.all_input_nodes]
            w.dead = node not in traced.live
            rule = rule_of(node)
            if rule is None:
                w.freeze(operands, f"operator {node.target} has no rule")
                w.values[node] = untied(node, f"the result of {node.target}")
            else:
                w.values[node] = rule(w, node, bound(w, node), shape_of(node))
            static = all(v.static for v in flatten(operands)) and bool(operands)
            for v in flatten(w.values[node]):
                v.static = static
    return w


def bound(w: Walk, node: Node) -> dict[str, Any]:
    """Return a node's arguments by the names in its operator's schema, with values for nodes."""

    def valued(a: Any) -> Any:
        if isinstance(a, Node):
            val = a.meta.get("val")
            return size(val) if isinstance(val, (int, torch.SymInt)) else w.values.get(a)
        if isinstance(a, (list, tuple)):
            return [valued(x) for x in a]
        return a

    return {name: valued(a) for name, a in arguments_of(node).items()}

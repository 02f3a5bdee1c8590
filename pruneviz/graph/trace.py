"""From a model to one flat graph of ATen operators, by `torch.export`."""

from __future__ import annotations

import inspect
import io
import threading
from contextlib import redirect_stderr
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.utils import _pytree as pytree

from pruneviz.core import checks
from pruneviz.core.errors import GraphError
from pruneviz.core.names import layer_name
from pruneviz.model.forward import (
    arguments,
    check_runs,
    copied_inputs,
    copy_of,
    one_example,
    outputs_of,
    quiet,
)
from pruneviz.model.hooks import evaluating, seeded

# export keeps what it is at in variables of the process, and a panel may trace in its own thread
_exporting = threading.RLock()
INSIDE = "model."  # where the wrapper below keeps the model


class Flat(nn.Module):
    """The model, with its output as a flat list of tensors, whatever classes it returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """Run the model."""
        return outputs_of(self.model(*args, **kwargs))


@dataclass(frozen=True, eq=False)
class Traced:
    """A model's graph and what its inputs are.

    Parameters
    ----------
    model : nn.Module
        The copy that was traced, in eval mode; its tensors are those of the graph.
    nodes : list of Node
        In the order in which they run.
    live : set of Node
        Those that an output needs; the others still run in the user's Python.
    sources : mapping of Node to (kind, name)
        For each placeholder: ``"parameter"``, ``"buffer"``, ``"constant"`` or ``"input"``. A tied
        tensor has the name that the layer which uses it first gives it.
    constants : mapping of str to Tensor
        Values of constants.
    inputs : list of Tensor
        The example's values for the placeholders of kind ``"input"``, in their order.
    root : GraphModule
        Holds what the graph refers to.
    exported : ExportedProgram
    """

    model: nn.Module
    nodes: list[Node]
    live: set[Node]
    sources: dict[Node, tuple[str, str]]
    constants: dict[str, Any]
    inputs: list[Any]
    root: GraphModule
    exported: Any

    def program(self) -> nn.Module:
        """Return the graph as a module of its own, with copies of all tensors."""
        module = self.exported.module(check_guards=False)
        new: dict[int, Tensor] = {}
        for m in module.modules():
            for store in (m._parameters, m._buffers):
                for name, t in store.items():
                    if t is not None:
                        copied = t.detach().clone()
                        fresh = (
                            nn.Parameter(copied, t.requires_grad)
                            if store is m._parameters
                            else copied
                        )
                        store[name] = new.setdefault(id(t), fresh)
        return module


def layer_of(node: Node) -> str:
    """Name of the layer in whose forward an operator ran; "" for the model itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = str(stack[-1][0]) if stack else ""
    return path.removeprefix("L['self'].").removeprefix("model.") if path != "model" else ""


def trace(model: nn.Module, example_input: Any, *, program: bool = False) -> Traced:
    """Trace a copy of the model in eval mode.

    `program`: for a graph that is to be run by others: with the model's own output, and with free
    sizes of batch, and of what has less than four dimensions, as far as export can keep them.

    Raises
    ------
    ArgumentError
        If the example input does not fit, or the model's forward raises.
    GraphError
        If `torch.export` cannot follow the model.
    """
    args, kwargs = arguments(example_input)
    first_tensor = next(t for t in pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor))
    if first_tensor.ndim and first_tensor.shape[0] == 0:
        one_example(example_input)  # raises: there is none
    model = checks.unwrapped(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise GraphError(
            f"`model` is a TorchScript module ({type(model).__name__}), which has no Python to follow. "
            "Pass the nn.Module that it was made from."
        )
    with quiet(), torch.inference_mode(False), evaluating(model):
        twin = copy_of(model)
        args, kwargs = copied_inputs((args, kwargs), twin)
        try:
            # of a copy: caches that a forward fills would hold fake tensors afterwards; and where
            # export gives up it prints the whole graph
            with _exporting, seeded(0), redirect_stderr(io.StringIO()):
                exported = _exported(copy_of(twin), args, kwargs, program)
        except Exception as e:
            check_runs(model, example_input)  # is it the model, or the example?
            raise GraphError(
                f"`model` ({type(model).__name__}) cannot be traced by torch.export: "
                f"{_first_line(e)} Move what it does to values of tensors (if x.sum() > 0, "
                ".item(), numpy) out of forward."
            ) from e
    graph = exported.graph_module.graph
    _inline(exported.graph_module)
    kinds = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    inside = "" if program else INSIDE
    first = used_names(twin, graph, exported.graph_signature, inside)
    sources, constants = {}, {}
    for node in graph.nodes:
        if node.op == "placeholder":
            kind = kinds[node.name].kind.name
            target = str(kinds[node.name].target or node.name).removeprefix(inside)
            if kind in ("PARAMETER", "BUFFER") and target in first:
                sources[node] = (kind.lower(), first[target])
            elif kind == "USER_INPUT":
                sources[node] = ("input", node.name)
            else:
                sources[node] = ("constant", node.name)
                constants[node.name] = exported.constants.get(kinds[node.name].target)
    flat = pytree.tree_leaves((args, kwargs))
    nodes = list(graph.nodes)
    return Traced(
        twin, nodes, _live(nodes), sources, constants, flat, exported.graph_module, exported
    )


def _exported(model: nn.Module, args: Any, kwargs: Any, program: bool) -> Any:
    if not program:
        return torch.export.export(Flat(model), args, kwargs, strict=False)
    auto, first = torch.export.Dim.AUTO, {0: torch.export.Dim.AUTO}

    def dims(v: Any, every: bool) -> Any:
        if not isinstance(v, Tensor):
            return None
        # sides of images stay fixed: sizes of windows and strides make of them expressions that export
        # can spend hours on
        return (
            dict.fromkeys(range(v.ndim), auto)
            if every and v.ndim < 4
            else (first if v.ndim else None)
        )

    for every in (True, False):
        shapes = pytree.tree_map(lambda v, every=every: dims(v, every), (args, kwargs))
        named = (*shapes[0], *shapes[1].values())
        try:
            return torch.export.export(
                model,
                args,
                kwargs,
                strict=False,
                dynamic_shapes=_by_name(model, args, shapes, named),
            )
        except Exception:  # a size that the forward decides by: fix it
            continue
    return torch.export.export(model, args, kwargs, strict=False)


def _by_name(model: nn.Module, args: Any, shapes: Any, named: Any) -> Any:
    """Export wants the free sizes by the forward's argument names."""
    if not shapes[1]:
        return tuple(named)
    names = list(inspect.signature(model.forward).parameters)
    return {**dict(zip(names, shapes[0], strict=False)), **shapes[1]}


def first_names(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter and buffer, tied ones too, to the first name of that tensor."""
    seen: dict[int, str] = {}
    named = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    return {name: seen.setdefault(id(t), name) for name, t in named}


def used_names(model: nn.Module, graph: Graph, signature: Any, inside: str) -> dict[str, str]:
    """As `first_names`, but a tied tensor is named after the layer that uses it first."""
    first = first_names(model)
    aliases: dict[str, list[str]] = {}
    for name, other in first.items():
        aliases.setdefault(other, []).append(name)
    targets = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    chosen = {}
    for node in graph.nodes:
        name = str(targets.get(node.name, "")).removeprefix(inside)
        if (
            node.op == "placeholder"
            and name in first
            and len(aliases[first[name]]) > 1
            and node.users
        ):
            layer = layer_of(next(iter(node.users)))
            own = [a for a in aliases[first[name]] if layer_name(a) == layer]
            chosen[first[name]] = (own or [first[name]])[0]
    return {name: chosen.get(other, other) for name, other in first.items()}


def _inline(module: GraphModule) -> None:
    """Put what runs under `torch.no_grad` inside the forward into the one graph."""
    graph = module.graph
    for node in list(graph.nodes):
        if node.op != "call_function" or "set_grad_enabled" not in str(node.target):
            continue
        inner = next(a for a in node.args if isinstance(a, Node) and a.op == "get_attr")
        inside = getattr(module, str(inner.target))
        _inline(inside)
        operands = node.args[list(node.args).index(inner) + 1 :]
        places = [n for n in inside.graph.nodes if n.op == "placeholder"]
        copies: dict[Node, Any] = dict(zip(places, operands, strict=True))
        with graph.inserting_before(node):
            result = graph.graph_copy(inside.graph, copies)
        outs = result if isinstance(result, (tuple, list)) else (result,)
        for user in list(node.users):
            user.replace_all_uses_with(outs[user.args[1]])  # each user is a getitem
            graph.erase_node(user)
        graph.erase_node(node)


def _live(nodes: list[Node]) -> set[Node]:
    """Return what an output needs, and what writes into a tensor in place."""
    needed: set[Node] = set()
    for node in reversed(nodes):
        schema = getattr(node.target, "_schema", None)
        writes = schema is not None and schema.is_mutable
        if node in needed or node.op in ("output", "placeholder") or writes:
            needed.add(node)
            needed.update(node.all_input_nodes)
    return needed


def _first_line(e: Exception) -> str:
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    text = lines[0] if lines else type(e).__name__
    return text if text.endswith((".", "!")) else f"{text}."

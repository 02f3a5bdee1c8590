"""Which operators does a model run? `torch.export` gives one flat graph of ATen operators."""

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
from pruneviz.core.errors import ArgumentError, GraphError, sentence_of
from pruneviz.core.names import layer_name
from pruneviz.model.batches import one_example
from pruneviz.model.forward import (
    arguments,
    check_runs,
    copied_inputs,
    copy_of,
    quiet,
)
from pruneviz.model.hooks import evaluating, seeded
from pruneviz.model.outputs import outputs_of
from pruneviz.model.weights import check_masks_are_ours, check_not_quantised

# export keeps its state in global variables, and a panel may trace in a thread of its own
_exporting = threading.RLock()
INSIDE = "model."  # where the wrapper below keeps the model


class Flat(nn.Module):
    """Wrap a model, so that its output is a flat list of tensors, whatever classes it returns."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> list[Tensor]:
        """Run the model."""
        output = self.model(*args, **kwargs)
        return list(outputs_of(output, traced=True).tensors.values())


@dataclass(frozen=True, eq=False)
class Traced:
    """Hold a model's graph, and say what each input of the graph is.

    Parameters
    ----------
    model : nn.Module
        The copy that was traced, in eval mode; its tensors are those of the graph.
    nodes : list of Node
        All operators, in the order in which they run.
    live : set of Node
        The nodes that an output needs. The other nodes still run in the user's Python.
    sources : mapping of Node to (kind, name)
        For each placeholder: ``"parameter"``, ``"buffer"``, ``"constant"`` or ``"input"``. A tied
        tensor is named after the layer that uses it first.
    constants : mapping of str to Tensor
        The values of the placeholders of kind ``"constant"``, by name.
    inputs : list of Tensor
        The example's values for the placeholders of kind ``"input"``, in their order.
    root : GraphModule
        The module that holds the submodules and tensors that the graph refers to.
    exported : ExportedProgram
        What `torch.export` returned.
    """

    model: nn.Module
    nodes: list[Node]
    live: set[Node]
    sources: dict[Node, tuple[str, str]]
    constants: dict[str, Any]
    inputs: list[Any]
    root: GraphModule
    exported: Any

    def program(self) -> GraphModule:
        """Return the graph as a module of its own, with copies of all tensors."""
        module: GraphModule = self.exported.module(check_guards=False)
        new: dict[int, Tensor] = {}
        for m in module.modules():
            stores: tuple[dict[str, Any], ...] = m._parameters, m._buffers
            for store in stores:
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
    """Return the name of the layer in whose forward an operator ran; "" for the model itself."""
    stack = list(node.meta.get("nn_module_stack", {}).values())
    path = str(stack[-1][0]) if stack else ""
    return path.removeprefix("L['self'].").removeprefix("model.") if path != "model" else ""


def trace(model: nn.Module, example_input: Any, *, program: bool = False) -> Traced:
    """Trace a copy of the model in eval mode.

    With `program`, the graph can be run as a model: it returns the model's own output (not a flat
    list), and the batch size, and all sizes of inputs with fewer than four dimensions, stay dynamic
    where export allows it.

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
        one_example(example_input)  # raises: the batch is empty
    model = checks.unwrapped(model)
    check_not_quantised(model)
    check_masks_are_ours(model)
    if isinstance(model, torch.jit.ScriptModule):
        raise GraphError(
            f"`model` is a TorchScript module ({type(model).__name__}), which has no Python to follow. "
            "Pass the nn.Module that it was made from."
        )
    with quiet(), torch.inference_mode(False), evaluating(model):
        model_copy = copy_of(model)
        args, kwargs = copied_inputs((args, kwargs), model_copy)
        try:
            # export a copy: a cache that the forward fills would hold fake tensors afterwards.
            # Redirect stderr: where export fails, it prints the whole graph there
            with _exporting, seeded(0), redirect_stderr(io.StringIO()):
                exported = _exported(copy_of(model_copy), args, kwargs, program)
        except ArgumentError as e:  # of `Flat`: an output cannot be compared
            raise GraphError(str(e)) from e
        except Exception as e:
            check_runs(model, example_input)  # raises if the model itself fails on the example
            raise GraphError(
                f"`model` ({type(model).__name__}) cannot be traced by torch.export: "
                f"{sentence_of(e)} Move what it does to values of tensors (if x.sum() > 0, "
                ".item(), numpy) out of forward."
            ) from e
    graph = exported.graph_module.graph
    _inline(exported.graph_module)
    kinds = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    inside = "" if program else INSIDE
    first = used_names(model_copy, graph, exported.graph_signature, inside)
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
        model_copy, nodes, _live(nodes), sources, constants, flat, exported.graph_module, exported
    )


def _exported(model: nn.Module, args: Any, kwargs: Any, program: bool) -> Any:
    if not program:
        return torch.export.export(Flat(model), args, kwargs, strict=False)
    auto, first = torch.export.Dim.AUTO, {0: torch.export.Dim.AUTO}

    def dims(v: Any, all_dims: bool) -> Any:
        if not isinstance(v, Tensor):
            return None
        # the sides of images stay fixed: windows and strides turn them into expressions that export
        # can spend hours on
        return (
            dict.fromkeys(range(v.ndim), auto)
            if all_dims and v.ndim < 4
            else (first if v.ndim else None)
        )

    for all_dims in (True, False):
        shapes = pytree.tree_map(lambda v, all_dims=all_dims: dims(v, all_dims), (args, kwargs))
        named = (*shapes[0], *shapes[1].values())
        try:
            return torch.export.export(
                model,
                args,
                kwargs,
                strict=False,
                dynamic_shapes=_by_name(model, args, shapes, named),
            )
        except Exception:  # the forward branches on a size, which must therefore stay fixed
            continue
    return torch.export.export(model, args, kwargs, strict=False)


def _by_name(model: nn.Module, args: Any, shapes: Any, named: Any) -> Any:
    """Return the dynamic shapes as export wants them: by the names of the forward's arguments."""
    if not shapes[1]:
        return tuple(named)
    names = list(inspect.signature(model.forward).parameters)
    return {**dict(zip(names, shapes[0], strict=False)), **shapes[1]}


def first_names(model: nn.Module) -> dict[str, str]:
    """Map every name of every parameter and buffer to the first name of the same tensor.

    Names differ only where tensors are tied.
    """
    seen: dict[int, str] = {}
    named = (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    )
    return {name: seen.setdefault(id(t), name) for name, t in named}


def used_names(model: nn.Module, graph: Graph, signature: Any, inside: str) -> dict[str, str]:
    """Do as `first_names`, but name a tied tensor after the layer that uses it first."""
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
    """Move operators that the forward runs under `torch.no_grad` into the one flat graph."""
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
    """Return the nodes that an output needs, and those that write into a tensor in place."""
    needed: set[Node] = set()
    for node in reversed(nodes):
        schema = getattr(node.target, "_schema", None)
        writes = schema is not None and schema.is_mutable
        if node in needed or node.op in ("output", "placeholder") or writes:
            needed.add(node)
            needed.update(node.all_input_nodes)
    return needed

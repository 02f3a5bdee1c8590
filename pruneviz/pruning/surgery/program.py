"""How does the graph of a program become a model? Its layers come back, and it has a mode."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import GraphModule, Node
from torch.nn.modules.conv import _ConvNd

from pruneviz.core.names import layer_name
from pruneviz.graph.values import name_of

LAYERS: dict[str, type[nn.Module]] = {
    "linear": nn.Linear,
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
}


def make_model_of(program: GraphModule, model: nn.Module) -> None:
    """Give a program the layers and the training flags of the model it was exported from, in place.

    Linear and Conv layers whose forward is one operator are layers again: hooks and repairs see what
    they read. `train` and `eval` of an exported program raise; now they set the flags of the modules.
    """
    for method in ("train", "eval"):
        program.__dict__.pop(method, None)
    dense = dict(model.named_modules(remove_duplicate=False))
    for node in list(program.graph.nodes):
        kind = LAYERS.get(name_of(node)) if node.op == "call_function" else None
        layer = layer_name(str(_target(node, 1)))
        if kind is not None and layer and type(dense.get(layer)) is kind:
            _make_layer(program, node, layer, dense[layer])
    program.recompile()
    for name, module in program.named_modules():
        module.training = dense[name].training if name in dense else model.training


def _make_layer(program: GraphModule, node: Node, layer: str, old: nn.Module) -> None:
    """Replace an operator by a layer of the same tensors, if one computes the same."""
    held = program.get_submodule(layer)
    named = {"weight": f"{layer}.weight", "bias": None if old.bias is None else f"{layer}.bias"}
    if [_target(node, 1), _target(node, 2)] != list(named.values()) or held._modules or node.kwargs:
        return
    new = _empty(old, tuple(held.get_parameter("weight").shape), node)
    if new is None:
        return
    if isinstance(held, type(old)):  # it runs a second time
        if getattr(held, "groups", 1) != getattr(new, "groups", 1):
            return
    else:
        new._parameters.update({n: held._parameters[n] for n in new._parameters if named[n]})
        program.set_submodule(layer, new)
    with program.graph.inserting_before(node):
        called = program.graph.call_module(layer, (node.args[0],))
    called.meta = node.meta
    node.replace_all_uses_with(called)
    read = [n for n in node.all_input_nodes if n.op == "get_attr"]
    program.graph.erase_node(node)
    for tensor in read:
        if not tensor.users:
            program.graph.erase_node(tensor)


def _empty(old: Any, shape: tuple[int, ...], node: Node) -> nn.Module | None:
    """Return a layer like another one, without tensors, that does what an operator does.

    `shape`: of its weight. None if the operator does something else: a convolution may pad before it.
    """
    options: dict[str, Any] = {"bias": old.bias is not None, "device": "meta"}
    if not isinstance(old, _ConvNd):
        return nn.Linear(shape[1], shape[0], **options)
    settings: list[Any] = [*node.args[3:]]
    stride, padding, dilation, groups = settings + [1, 0, 1, 1][len(settings) :]
    for name, value in (("stride", stride), ("padding", padding), ("dilation", dilation)):
        own = options[name] = getattr(old, name)
        if not isinstance(value, str):
            value = tuple(value) if isinstance(value, (list, tuple)) else (value,)
        if own not in (value, value * len(old.kernel_size)):
            return None
    if old.padding_mode != "zeros":
        return None
    return type(old)(shape[1] * groups, shape[0], old.kernel_size, groups=groups, **options)


def _target(node: Node, place: int) -> str | None:
    """Return the name of the tensor that is an argument of an operator; None if it is no tensor."""
    value = node.args[place] if len(node.args) > place else None
    return str(value.target) if isinstance(value, Node) and value.op == "get_attr" else None

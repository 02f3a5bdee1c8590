"""How does the graph of a program become a model? Its layers come back, and it has a mode."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import GraphModule, Node
from torch.nn.modules.conv import _ConvNd

from pruneviz.core.names import layer_name
from pruneviz.graph.values import name_of

LAYERS: dict[str, type[nn.Module]] = {
    "aten.linear.default": nn.Linear,
    "aten.conv1d.default": nn.Conv1d,
    "aten.conv2d.default": nn.Conv2d,
    "aten.conv3d.default": nn.Conv3d,
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
    program.graph.eliminate_dead_code()
    program.recompile()
    for name, module in program.named_modules():
        module.training = dense[name].training if name in dense else model.training


def _make_layer(program: GraphModule, node: Node, layer: str, old: nn.Module) -> None:
    """Replace an operator by a layer of the same tensors, if one computes the same."""
    held = program.get_submodule(layer)
    named = {"weight": f"{layer}.weight", "bias": None if old.bias is None else f"{layer}.bias"}
    if [_target(node, 1), _target(node, 2)] != list(named.values()) or held._modules:
        return
    if not isinstance(held, type(old)):
        new = _empty(old, held.weight.shape)
        if isinstance(new, _ConvNd) and _settings(new) != _settings_of(node, new):
            return
        new._parameters.update({n: held._parameters[n] for n in new._parameters if named[n]})
        program.set_submodule(layer, new)
    with program.graph.inserting_before(node):
        called = program.graph.call_module(layer, (node.args[0],))
    called.meta = node.meta
    node.replace_all_uses_with(called)
    program.graph.erase_node(node)


def _empty(old: Any, shape: tuple[int, ...]) -> nn.Module:
    """Return a layer like another one, for a weight of this shape, without tensors of its own."""
    bias = {"bias": old.bias is not None, "device": "meta"}
    if isinstance(old, nn.Linear):
        return nn.Linear(shape[1], shape[0], **bias)
    # a depthwise convolution lost as many groups as channels
    groups = old.groups if old.in_channels != old.groups else shape[0] * old.groups // old.out_channels
    sizes = {n: getattr(old, n) for n in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    return type(old)(shape[1] * groups, shape[0], groups=groups, **sizes, **bias)


def _settings(conv: Any) -> tuple[Any, ...]:
    return conv.stride, conv.padding, conv.dilation, conv.groups, conv.padding_mode


def _settings_of(node: Node, conv: Any) -> tuple[Any, ...]:
    """Return the settings with which an operator convolves, as a layer of its own has them."""
    n = len(conv.kernel_size)
    stride, padding, dilation, groups = (*node.args[3:], *(1, 0, 1, 1)[max(0, len(node.args) - 3) :])
    lists = (tuple(v) if isinstance(v, (list, tuple)) else (v,) for v in (stride, padding, dilation))
    return *(v * n if len(v) == 1 else v for v in lists), groups, "zeros"


def _target(node: Node, place: int) -> str | None:
    """Return the name of the tensor that is an argument of an operator; None if it is no tensor."""
    value = node.args[place] if len(node.args) > place else None
    return str(value.target) if isinstance(value, Node) and value.op == "get_attr" else None

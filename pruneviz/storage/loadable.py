"""Could `load` restore this model? What it could not, `save` refuses, and says what to do instead."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils.prune import BasePruningMethod

from pruneviz.core.errors import ArgumentError
from pruneviz.model.tensors import tensors_by_name
from pruneviz.model.weights import Mask
from pruneviz.pruning.surgery.cut import cuts_of
from pruneviz.storage.csr import SparseLinear

CUT_ELSEWHERE = (
    "it was cut by another tool, and `load` could not repeat that. Cut the model with pv.prune or "
    "pv.shrink instead; or keep it whole: torch.save(model, path)."
)


def check_loadable(model: nn.Module) -> None:
    """Raise unless `load` can put the tensors of a model into one that its own code builds."""
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            continue  # said where it is read
        if nn.parameter.is_lazy(value):
            raise ArgumentError(f"{name!r} has no shape yet. Run the model once: model(x).")
        if value.is_meta:
            raise ArgumentError(f"{name!r} is on the device 'meta': it has no numbers to save.")
        if value.layout != torch.strided:
            raise ArgumentError(
                f"{name!r} is a sparse tensor. Make it dense, and save its zeros without cost: "
                "pv.save(model, path, encoding='csr_int32')."
            )
    for name, module in model.named_modules():
        _check_layer(name, module)
    _check_record(model)


def _check_layer(name: str, module: nn.Module) -> None:
    if isinstance(module, Mask):
        raise ArgumentError(
            "`model` has masks, which `load` could not restore. Turn them into plain zeros first: "
            "pv.bake(model)."
        )
    if isinstance(module, SparseLinear):
        raise ArgumentError(
            f"layer {name!r} stores compressed sparse rows, which the model that `load` builds does "
            "not have. Save the model from which pv.to_csr made it: pv.save(dense, path, "
            "encoding='csr_int32'), and then pv.to_csr(pv.load(path, build))."
        )
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, BasePruningMethod):
            tensor = hook._tensor_name
            raise ArgumentError(
                f"layer {name!r} has a mask of torch.nn.utils.prune, which `load` could not restore. "
                f"Make it permanent first: torch.nn.utils.prune.remove(layer, {tensor!r})."
            )
    weight, shape = module._parameters.get("weight"), _shape_by_sizes(module)
    if weight is not None and shape is not None and tuple(weight.shape) != shape:
        raise ArgumentError(
            f"layer {name!r} says that its weight is {shape}, but it is {tuple(weight.shape)}: "
            f"{CUT_ELSEWHERE}"
        )


def _shape_by_sizes(module: nn.Module) -> tuple[int, ...] | None:
    """Return the shape that a layer's weight has by the layer's own attributes; None if unknown."""
    if type(module).__module__.partition(".")[0] != "torch":
        return None
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    if isinstance(module, _ConvNd):
        first, second = module.out_channels, module.in_channels
        if isinstance(module, _ConvTransposeNd):
            first, second = second, first
        return first, second // module.groups, *module.kernel_size
    if isinstance(module, _NormBase):
        return (module.num_features,)
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    return None


def _check_record(model: nn.Module) -> None:
    """Raise if the tensors are not those that the recorded cuts left."""
    sizes = {
        (name, dim): int(keep.sum()) // blocks
        for one in cuts_of(model)
        for name, dim, blocks, keep in one.keep
    }
    held = tensors_by_name(model)
    for (name, dim), size in sizes.items():
        shape = tuple(held[name].tensor.shape) if name in held else ()
        if dim < len(shape) and shape[dim] != size:
            raise ArgumentError(
                f"{name!r} is {shape}, but pruneviz left {size} along dimension {dim}: {CUT_ELSEWHERE}"
            )

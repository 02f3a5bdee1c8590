"""How the tensors of a model are cut in place, and its layers given their new sizes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from pruneviz.core.errors import GraphError
from pruneviz.model.attention import SlimAttention, use_slim_attention
from pruneviz.model.tensors import tensors_of

CUTS_ATTRIBUTE = "_pruneviz_cuts"  # attribute of a smaller model that holds the record of its cuts


@dataclass(frozen=True, eq=False)
class Cut:
    """What is removed from a model: enough to repeat the cut, for example when a file is loaded.

    Parameters
    ----------
    keep : tuple of (tensor, dim, blocks, ndarray of bool)
        What is kept along a dimension of a tensor; `blocks` as in `Slice`.
    attributes : tuple of (layer, attribute, value)
        Sizes that the Python code of a layer reads.
    """

    keep: tuple[tuple[str, int, int, np.ndarray], ...]
    attributes: tuple[tuple[str, str, Any], ...] = field(default=())


def record_cut(model: nn.Module, what: Cut, before: nn.Module) -> None:
    """Attach a cut to a smaller model, after those of the model before.

    The record is plain data, so that the smaller model can be unpickled without pruneviz.
    """
    keep = tuple((*key, k.size, np.packbits(k).tobytes()) for *key, k in what.keep)
    one = {"keep": keep, "attributes": what.attributes}
    # of a program a copy keeps nothing but its tensors and `meta`
    store = model.meta if isinstance(model, GraphModule) else model.__dict__
    store[CUTS_ATTRIBUTE] = (*_records(before), one)


def _records(model: nn.Module) -> tuple[Any, ...]:
    store = model.meta if isinstance(model, GraphModule) else model.__dict__
    return tuple(store.get(CUTS_ATTRIBUTE, ()))


def cuts_of(model: nn.Module) -> tuple[Cut, ...]:
    """Return the cuts that were recorded for a model, the first one first."""

    def bits(size: int, packed: bytes) -> np.ndarray:
        return np.unpackbits(np.frombuffer(packed, np.uint8), count=size).astype(bool)

    return tuple(
        Cut(tuple((*key, bits(size, packed)) for *key, size, packed in one["keep"]),
            one["attributes"])
        for one in _records(model)
    )  # fmt: skip


def cut(model: nn.Module, what: Cut) -> None:
    """Cut a model in place: parameters, buffers, shared tensors, and sizes stored in its layers.

    Raises
    ------
    GraphError
        If a tensor is missing or has another size than the cut expects.
    """
    tensors = tensors_of(model)
    new: dict[int, Tensor] = {}  # by id of the old tensor
    # Columns of grouped convolutions first: their blocks are counted in the uncut rows.
    for name, dim, blocks, keep in sorted(what.keep, key=lambda k: -k[2]):
        if name not in tensors:
            raise GraphError(
                f"there is no tensor {name!r} in this model: the plan is of another model."
            )
        old = tensors[name]
        tensor = only_kept(new.get(id(old), old).detach(), name, dim, blocks, keep)
        is_parameter = isinstance(old, nn.Parameter)
        new[id(old)] = nn.Parameter(tensor, old.requires_grad) if is_parameter else tensor
    cut_modules = set()
    for module in model.modules():
        for store in (module._parameters, module._buffers):
            for attribute, t in store.items():
                if id(t) in new:  # all holders of a tied tensor share the new one
                    store[attribute] = new[id(t)]  # type: ignore[assignment]
                    cut_modules.add(id(module))
    for module in model.modules():
        inner = [m for m in module.children() if m is getattr(module, "parametrizations", None)]
        inner = [part for m in inner for part in m.children()]
        if any(id(m) in cut_modules for m in (module, *inner)):
            resize(module)
    for module in model.modules():
        # torch's encoder passes padding as nested tensors; only torch's own attention reads them
        if isinstance(module, nn.TransformerEncoder) and any(
            isinstance(m, SlimAttention) for m in module.modules()
        ):
            module.use_nested_tensor = False
    modules = dict(model.named_modules(remove_duplicate=False))
    for layer, attribute, value in what.attributes:
        # where `sizes_of` found it: a size runs no code of the model's, whoever asked to set it
        modules[layer].__dict__[attribute] = value


def only_kept(t: Tensor, name: str, dim: int, blocks: int, keep: np.ndarray) -> Tensor:
    """Return a tensor with only the kept places of one dimension (block by block)."""
    size = t.shape[dim] * blocks
    if size != keep.size:
        raise GraphError(
            f"{name!r} has {size} places along dimension {dim}, but the plan expects {keep.size}: "
            "it is of another model."
        )
    if blocks == 1:
        new = t.index_select(dim, torch.from_numpy(np.flatnonzero(keep)).to(t.device))
    else:
        parts = keep.reshape(blocks, -1)  # (blocks, columns)
        if len(set(parts.sum(1))) > 1:
            raise GraphError(
                f"the plan must keep the same number in each of the {blocks} groups of {name!r}, "
                f"but it keeps {parts.sum(1).tolist()}."
            )
        pieces = t.reshape(blocks, -1, *t.shape[1:])  # (blocks, rows, columns, ...)
        index = [torch.from_numpy(np.flatnonzero(p)).to(t.device) for p in parts]
        chosen = [piece.index_select(1, i) for piece, i in zip(pieces, index, strict=True)]
        new = torch.cat(chosen)
    if t.ndim == 4 and not t.is_contiguous() and t.is_contiguous(memory_format=torch.channels_last):
        new = new.contiguous(memory_format=torch.channels_last)
    return new


def resize(module: nn.Module) -> None:
    """Set the size attributes of a torch layer from the shapes of its tensors."""
    weight = getattr(module, "weight", None)
    shape = tuple(weight.shape) if isinstance(weight, Tensor) else ()
    if isinstance(module, nn.MultiheadAttention):
        use_slim_attention(module)
    elif not shape and isinstance(module, _NormBase) and module.running_mean is not None:
        module.num_features = len(module.running_mean)
    elif not shape:
        return
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, _ConvNd):
        _resize_conv(module, shape)
    elif isinstance(module, _NormBase):
        module.num_features = shape[0]
    elif isinstance(module, nn.GroupNorm):
        if module.num_groups == module.num_channels:  # one group a channel
            module.num_groups = shape[0]
        module.num_channels = shape[0]
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        module.normalized_shape = shape
    elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
        module.num_embeddings, module.embedding_dim = shape
    elif isinstance(module, nn.Bilinear):
        module.out_features, module.in1_features, module.in2_features = shape
    elif isinstance(module, nn.PReLU):
        module.num_parameters = shape[0]
    elif hasattr(module, "nf") and len(shape) == 2:  # GPT-2's Conv1D
        vars(module).update({"nf": shape[1], "nx": shape[0]})


def _resize_conv(module: _ConvNd, shape: tuple[int, ...]) -> None:
    transposed = isinstance(module, _ConvTransposeNd)
    if module.groups > 1 and module.in_channels == module.groups:  # depthwise
        each = module.out_channels // module.groups
        module.groups = shape[0] if transposed else shape[0] // each
    if transposed:
        module.in_channels, module.out_channels = shape[0], shape[1] * module.groups
    else:
        module.out_channels, module.in_channels = shape[0], shape[1] * module.groups


def sizes_of(module: nn.Module) -> Iterable[tuple[str, Any]]:
    """Yield the attributes of a module that are integers or sequences of integers: name, value."""
    for name, value in vars(module).items():
        if name.startswith("_") and name not in ("_num_heads",):
            continue
        if isinstance(value, bool):
            continue
        if isinstance(value, int) or (
            isinstance(value, (tuple, list))
            and value
            and all(isinstance(v, int) and not isinstance(v, bool) for v in value)
        ):
            yield name, value

"""How is a cut written in a file, and when is one from a file believed? When it fits the model.

A file may come from anybody. So a cut from it is checked against the model that is to be cut, before
anything is unpacked: it may make known tensors shorter and known sizes smaller, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from pruneviz.core.errors import GraphError
from pruneviz.core.names import unmasked_name
from pruneviz.core.plan_json import deflated, inflated
from pruneviz.core.strict_json import whole
from pruneviz.model.tensors import tensors_of
from pruneviz.pruning.surgery.cut import Cut, sizes_of

# the sizes of torch's layers follow from their tensors, but for norms that have none
SIZES_OF_TORCH = ("num_features", "num_channels", "num_groups", "normalized_shape")


def cut_to_json(what: Cut, known: set[str]) -> dict[str, Any]:
    """Return a cut as JSON values; of tensors in `known` only."""
    keep = [
        {"tensor": unmasked_name(name), "dim": dim, "blocks": blocks, "size": k.size,
         "bits": deflated(np.packbits(k))}
        for name, dim, blocks, k in what.keep
        if unmasked_name(name) in known  # without masks that were baked since the cut
    ]  # fmt: skip
    return {
        "keep": keep,
        "attributes": [
            [layer, name, list(v) if isinstance(v, (tuple, list)) else v, type(v).__name__]
            for layer, name, v in what.attributes
        ],
    }


def cut_from_json(data: Mapping[str, Any], model: nn.Module) -> Cut:
    """Return a cut of this model from its JSON values.

    Raises
    ------
    GraphError
        If it is a cut of another model.
    ValueError
        Or similar, if it is no cut of any model.
    """
    tensors, modules = tensors_of(model), dict(model.named_modules(remove_duplicate=False))
    keep = tuple(_kept(k, tensors) for k in data["keep"])
    return Cut(keep, tuple(_attribute(a, modules) for a in data["attributes"]))


def _kept(data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Any, ...]:
    name, dim = data["tensor"], whole(data["dim"])
    blocks, size = whole(data["blocks"], 1), whole(data["size"], 1)
    if name not in tensors:
        raise GraphError(f"it has no tensor {str(name)[:80]!r}")
    shape = tuple(tensors[name].shape)
    if dim >= len(shape) or (blocks > 1 and (dim != 1 or shape[0] % blocks)):
        raise GraphError(f"{name!r} has the shape {shape}")
    if size != shape[dim] * blocks:
        raise GraphError(
            f"{name!r} has {shape[dim] * blocks} places along dimension {dim}, not {size}"
        )
    packed = np.frombuffer(inflated(data["bits"], (size + 7) // 8), np.uint8)
    bits = np.unpackbits(packed, count=size).astype(bool)
    if not bits.any():
        raise ValueError(f"nothing is left of {name!r}")
    if bits.all():
        raise ValueError(f"{name!r} loses nothing")
    return name, dim, blocks, bits


def _attribute(entry: Any, modules: Mapping[str, nn.Module]) -> tuple[str, str, Any]:
    if not isinstance(entry, list) or len(entry) != 4:
        raise ValueError("an attribute of a cut is no list of four")
    layer, name, value, _ = entry
    if layer not in modules:
        raise GraphError(f"it has no layer {str(layer)[:80]!r}")
    module = modules[layer]
    old = dict(sizes_of(module)).get(name)
    of_torch = type(module).__module__.startswith("torch.nn.modules")
    bare = name in SIZES_OF_TORCH and not [*module.parameters(), *module.buffers()]
    if old is None or (of_torch and not bare):
        raise ValueError(f"it sets {str(name)[:80]!r} of layer {layer!r}, which is no size")
    olds, news = ([x] if isinstance(x, int) else list(x) for x in (old, value))
    if len(olds) != len(news) or isinstance(old, int) != isinstance(value, int):
        raise ValueError(f"it sets {name!r} of layer {layer!r}, which is {old}, to something else")
    for before, after in zip(olds, news, strict=True):
        if whole(after, 1) > before:
            raise ValueError(f"it sets {name!r} of layer {layer!r} from {before} to {after}")
    return layer, name, news[0] if isinstance(old, int) else type(old)(news)

"""Where are the weights of a model, and which parameters are none? Those of layers that multiply."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import numpy as np
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrize

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.imports import imported
from pruneviz.core.names import layer_name, tensor_name
from pruneviz.core.plan import LeftOut
from pruneviz.model.hooks import evaluating, plain_torch
from pruneviz.model.layers import is_conv1d
from pruneviz.model.tensors import Held, tensors_by_name

if TYPE_CHECKING:
    import pandas as pd


LAYERS = (nn.Linear, nn.Bilinear, _ConvNd, nn.Embedding, nn.EmbeddingBag)
ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm)
NOTHING = "There is nothing to prune."
BY_HAND = (
    "Score its parameters by hand: pv.select(pv.Scores({name: parameter.abs()}, 'magnitude'), "
    "sparsity=0.5)."
)


class Mask(nn.Module):
    """The parametrization that `mask` adds to a weight: 0 wherever `keep` is False.

    Parameters
    ----------
    keep : Tensor, bool
        Of the weight's shape. It is a buffer, so it is part of the state_dict and moves with `to`.
    place : int
        The weight's place among the layer's parameters; `bake` restores it.

    Examples
    --------
    >>> import torch
    >>> Mask(torch.tensor([True, False]))(torch.tensor([3.0, 4.0]))
    tensor([3., 0.])
    """

    keep: Tensor

    def __init__(self, keep: Tensor, place: int = 0) -> None:
        super().__init__()
        self.register_buffer("keep", keep)
        self.place = place

    def forward(self, weight: Tensor) -> Tensor:
        return weight.masked_fill(~self.keep, 0)  # the gradient is 0 there, too

    def extra_repr(self) -> str:
        return f"keeps {int(self.keep.sum()):,} of {self.keep.numel():,}"


def weight_places(model: nn.Module) -> dict[str, Held]:
    """Return the weight tensors of a model by name, such as ``"fc1.weight"``.

    These are the weights of Linear, Bilinear and Conv layers, of GPT-2's Conv1D, of LSTM, GRU and
    RNN layers and cells, of MultiheadAttention, and of Embedding layers. (Rows of an embedding are
    looked up, not multiplied: zeros there save bytes, but no MACs.) `left_out` names the others. A
    tied tensor appears once, under its first name.

    Raises
    ------
    ArgumentError
        If there is no weight, a layer has no shape yet, or its weight is not a parameter.

    Examples
    --------
    >>> list(weight_places(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))))
    ['0.weight']
    """
    found = _places(model)
    if not found:
        n = sum(p.numel() for p in model.parameters())
        what = f"{n:,} parameters, but none of them in" if n else "no parameters: it needs"
        advice = BY_HAND if any(p.ndim > 1 for p in model.parameters()) else NOTHING
        raise ArgumentError(
            f"`model` ({type(model).__name__}) has {what} a Linear, Conv, Embedding, attention or "
            f"recurrent layer. {advice}"
        )
    return found


def computed_weights(model: nn.Module) -> dict[str, tuple[str, str]]:
    """Return the layers whose weight is computed by a normalisation: its name, and what removes it.

    >>> computed_weights(nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))))
    {'0': ('weight_norm', "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')")}
    """
    found = {}
    for name, module in model.named_modules():
        for hook in module._forward_pre_hooks.values():  # of the old kind
            old = {"WeightNorm": "weight_norm", "SpectralNorm": "spectral_norm"}
            kind = old.get(type(hook).__name__)
            if kind:
                found[name] = kind, f"torch.nn.utils.remove_{kind}(layer)"
        for attribute in getattr(module, "parametrizations", ()):
            for step in steps(module, attribute):
                new = {"_WeightNorm": "weight_norm", "_SpectralNorm": "spectral_norm",
                       "_Orthogonal": "orthogonal"}  # fmt: skip
                kind = new.get(type(step).__name__)
                if kind:
                    remove = "torch.nn.utils.parametrize.remove_parametrizations"
                    found[name] = kind, f"{remove}(layer, {attribute!r})"
    return found


def masks_of_others(model: nn.Module) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (layer, module, attribute) of each tensor that `torch.nn.utils.prune` masks.

    >>> from torch.nn.utils import prune
    >>> layer = prune.l1_unstructured(nn.Linear(2, 2), "weight", 0.5)
    >>> [attribute for _, _, attribute in masks_of_others(layer)]
    ['weight']
    """
    for name, module in model.named_modules():
        buffers = {n for n, _ in module.named_buffers(recurse=False)}
        for parameter, _ in module.named_parameters(recurse=False):
            attribute = parameter.removesuffix("_orig")
            if attribute != parameter and f"{attribute}_mask" in buffers:
                yield name, module, attribute


def quantised_layer(model: nn.Module) -> str | None:
    """Return the name of the first layer that holds quantised numbers; None if there is none."""
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False)) if isinstance(module, LAYERS) else {}
        weight = own.get("weight")
        whole = weight is not None and not (weight.is_floating_point() or weight.is_complex())
        if whole or re.match(r"torch\.ao\.nn\.(intrinsic\.)?quantized\.", type(module).__module__):
            return name
    return None


def check_not_quantised(model: nn.Module) -> None:
    """Raise if a layer holds quantised numbers, which torch packs out of sight."""
    name = quantised_layer(checks.model(model))
    if name is not None:
        raise ArgumentError(
            f"layer {name or type(model).__name__!r} is quantised, so its numbers can neither be "
            "counted nor removed: prune first, then quantise."
        )


def check_masks_are_ours(model: nn.Module) -> None:
    """Raise if `torch.nn.utils.prune` masks a tensor: in each forward a hook computes it anew."""
    for name, module, attribute in masks_of_others(checks.model(model)):
        raise ArgumentError(
            f"the {attribute} of layer {name or type(module).__name__!r} has a mask of "
            "torch.nn.utils.prune. Make it permanent first: "
            f"torch.nn.utils.prune.remove(layer, {attribute!r})."
        )


def _places(model: nn.Module) -> dict[str, Held]:
    check_not_quantised(model)
    found: dict[int, tuple[str, Held]] = {}
    for name, module in checks.model(model).named_modules():
        for attribute in _attributes(module):
            weight = _parameter(module, attribute, name or type(module).__name__)
            first = tensor_name(name, attribute), Held(weight)
            first_name, held = found.get(id(weight), first)
            found[id(weight)] = first_name, held.held_by(module, attribute)
    return dict(found.values())


def left_out(model: nn.Module) -> dict[str, LeftOut]:
    """Return every parameter that `weight_places` does not list, by name, and why.

    >>> {n: p.why for n, p in left_out(nn.Sequential(nn.Linear(3, 2), nn.LayerNorm((2, 2)))).items()}
    {'0.bias': 'a bias or a norm', '1.weight': 'a norm', '1.bias': 'a norm'}
    """
    listed = {(id(m), a) for h in weight_places(model).values() for m, a in h.holders}
    found: dict[str, LeftOut] = {}
    seen: set[int] = set()
    for name, held in tensors_by_name(model).items():
        inside = any((id(m), a) in listed for m, a in held.holders)
        if inside or id(held.tensor) in seen or not isinstance(held.tensor, nn.Parameter):
            continue
        seen.add(id(held.tensor))
        found[name] = LeftOut(tuple(held.tensor.shape), _why(held))
    return found


def _why(held: Held) -> str:
    module, attribute = held.holders[0]
    if held.tensor.ndim < 2:
        return "a bias or a norm"
    if isinstance(module, NORMS):
        return "a norm"
    if isinstance(module, nn.MultiheadAttention) and attribute in ("bias_k", "bias_v"):
        return "appended to the keys or values, not multiplied with the input"
    return (
        f"a parameter of {type(module).__name__}; that an operator multiplies it can only be seen "
        "in a run"
    )


def maskable_places(model: nn.Module) -> dict[str, Held]:
    """Return the weights, and all other parameters of two or more dimensions, which a plan by hand may name."""
    others = {
        name: held
        for name, held in tensors_by_name(model).items()
        if isinstance(held.tensor, nn.Parameter)
        and held.tensor.ndim > 1
        and held.part in ("", "original")
    }
    return {**_places(model), **others}


def masked_attributes(module: nn.Module) -> list[str]:
    """Return the names of the module's own tensors that carry a mask."""
    if not parametrize.is_parametrized(module):
        return []
    names = list(cast(nn.ModuleDict, module.parametrizations))
    return [a for a in names if any(isinstance(s, Mask) for s in steps(module, a))]


def steps(module: nn.Module, attribute: str) -> parametrize.ParametrizationList:
    """Return the parametrizations of a tensor, in the order in which they are applied."""
    parametrization = cast(nn.ModuleDict, module.parametrizations)[attribute]
    return cast(parametrize.ParametrizationList, parametrization)


@plain_torch()
def named_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of every weight tensor as the forward uses it: masks applied.

    Parameters
    ----------
    model : nn.Module
        Not changed.

    Returns
    -------
    dict of str to Tensor
        Name, such as ``"fc1.weight"``, to a detached copy.

    Raises
    ------
    ArgumentError
        If the model has no weights.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> {n: w.shape for n, w in pv.named_weights(torch.nn.Linear(3, 2)).items()}
    {'weight': torch.Size([2, 3])}
    """
    return {name: w.clone() for name, w in visible_weights(checks.unwrapped(model)).items()}


def visible_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return every weight tensor as the forward uses it: masks applied, not copied."""
    with evaluating(model):  # reading a weight may run parametrizations
        return {name: held.visible for name, held in weight_places(model).items()}


@plain_torch()
def weight_histogram(model: nn.Module, *, bins: int = 120) -> pd.DataFrame:
    """Count the weights of each layer in bins that are the same for all layers.

    Exact zeros (masked weights) are left out: their bar would hide all others.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    bins : int
        Number of bins; an odd number is raised by one, so that one edge is 0. They reach from minus
        to plus the largest |w|.

    Returns
    -------
    DataFrame
        One row per layer and bin: ``layer``, ``left``, ``right``, ``count``.

    Raises
    ------
    ArgumentError
        If the model has no weights, or a weight is NaN or infinite.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> layer = torch.nn.Linear(2, 1)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[-1.0, 0.25]]))
    >>> pv.weight_histogram(layer, bins=4)["count"].tolist()
    [1, 0, 1, 0]
    """
    pd = imported("pandas")

    edges, counts = bins_of(model, bins)
    ends = {"left": edges[:-1], "right": edges[1:]}
    frames = [pd.DataFrame({"layer": layer, **ends, "count": n}) for layer, n in counts.items()]
    return pd.concat(frames, ignore_index=True)


def bins_of(model: nn.Module, bins: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return what `weight_histogram` returns, but without pandas, which is slow to import.

    Returns
    -------
    edges : ndarray, shape (bins + 1,)
    counts : dict of str to ndarray of shape (bins,)
        By layer.

    Examples
    --------
    >>> edges, counts = bins_of(nn.Linear(3, 2), 4)
    >>> len(edges), {layer: int(n.sum()) for layer, n in counts.items()}
    (5, {'': 6})
    """
    bins = checks.count(bins, "bins", low=2)
    arrays = {n: _numbers(n, w) for n, w in named_weights(model).items()}
    # np.abs(a) and a[a != 0] would copy the weights: 20 ms for ten million numbers
    largest = (max(float(a.max()), -float(a.min())) for a in arrays.values() if a.size)
    top = max(largest, default=0.0) or 1.0
    edges = np.linspace(-top, top, bins + bins % 2 + 1)
    counts: dict[str, np.ndarray] = {}
    for name, a in arrays.items():
        # given a range instead of edges, numpy need not search a bin for each weight
        nonzero = a if np.count_nonzero(a) == a.size else a[a != 0]
        count = np.histogram(nonzero, len(edges) - 1, (-top, top))[0]
        counts[layer_name(name)] = counts.get(layer_name(name), 0) + count
    return edges, counts


def _attributes(module: nn.Module) -> tuple[str, ...]:
    if isinstance(module, nn.MultiheadAttention):
        return tuple(a for a in ATTENTION if getattr(module, a, None) is not None)
    if isinstance(module, nn.RNNBase):  # weight_ih_l0, weight_hh_l0_reverse, weight_hr_l1, …
        return tuple(a for a in module._flat_weights_names if a.startswith("weight"))
    if isinstance(module, nn.RNNCellBase):
        return "weight_ih", "weight_hh"
    return ("weight",) if isinstance(module, LAYERS) or is_conv1d(module) else ()


def _parameter(module: nn.Module, attribute: str, layer: str) -> Tensor:
    """Return the tensor that identifies a weight: the parameter, or its parametrized original."""
    if parametrize.is_parametrized(module, attribute):
        chain = steps(module, attribute)
        return cast(Tensor, chain.original if hasattr(chain, "original") else chain.original0)
    weight = getattr(module, attribute)
    if isinstance(weight, nn.Parameter):
        return weight
    if computed := computed_weights(module).get(""):
        advice = f"Remove it first: {computed[1]}"
    elif hasattr(module, f"{attribute}_orig"):
        advice = (
            f"Make that mask permanent first: torch.nn.utils.prune.remove(layer, {attribute!r})"
        )
    else:
        advice = "Use torch.nn.utils.parametrizations, or remove what computes it"
    raise ArgumentError(
        f"the {attribute} of layer {layer!r} is not a parameter: a hook computes it at each "
        f"forward. {advice}."
    )


def check_real(name: str, weight: Tensor) -> None:
    """Raise if a weight is complex: bars and bytes are counted for real numbers."""
    if weight.is_complex():
        raise ArgumentError(
            f"{name!r} holds complex numbers, which have no order and no float32. Rank them by "
            "their absolute values: pv.score(model, 'magnitude')."
        )


def _numbers(name: str, weight: Tensor) -> np.ndarray:
    check_real(name, weight)
    array = weight.float().cpu().numpy().reshape(-1)
    if not np.isfinite(array).all():
        raise ArgumentError(
            f"{name!r} contains NaN or infinity. Train it anew, or load a sound checkpoint."
        )
    return array

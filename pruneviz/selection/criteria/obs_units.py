"""In which order does Optimal Brain Surgeon remove a model's units? Prepares `obs.eliminate`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Group
from pruneviz.core.names import unmasked_name
from pruneviz.core.slices import Slice
from pruneviz.evidence.collect import WIDE
from pruneviz.evidence.evidence import Evidence
from pruneviz.model.layers import (
    blocks_of,
    columns_of,
    consumers,
    input_dim,
    weight_name,
    weight_of,
)
from pruneviz.model.tensors import Held, tensors_by_name
from pruneviz.selection.criteria.obs import LayerWork, Reader, eliminate
from pruneviz.selection.criteria.registry import register


@register(
    "obs",
    source="Hassibi & Stork 1992, Optimal Brain Surgeon, eq. 5, for units",
    formula="place in the elimination by tr(Wₚᵀ F Wₚ ([H⁻¹]ₚₚ)⁻¹) ÷ MACs",
    needs=("model",),
    scope="global",
    granularity="unit",
)
def obs_scores(model: nn.Module, groups: Iterable[Group], evidence: Evidence) -> dict[str, Tensor]:
    """Score the units of groups by their place in one elimination over all of them.

    Raises
    ------
    ArgumentError
        If the evidence has no gradients. Groups of which no reader has a co-moment have no scores.
    """
    if not evidence.output_grad:
        raise ArgumentError(
            "criterion 'obs' needs gradients, but `evidence` has none. Collect them: "
            "pv.collect(model, batches, loss=F.cross_entropy)."
        )
    groups, known, have = list(groups), consumers(model), tensors_by_name(model)
    layers = {n: m for n, m in known.items() if n in evidence.inputs and n in evidence.output_grad}
    makes, reads = _places(groups, layers, have)
    readers = {}
    for g in groups:
        found = [(n, reads[n][g.name]) for n in layers if g.name in reads[n]]
        usable = [r for n, s in found for r in _reader(layers[n], n, s, evidence)]
        if usable:
            readers[g.name] = usable
    work = [
        LayerWork(
            n,
            _macs(n, m, evidence) * rows_share * columns_share,
            made if made in readers else "",
            read if read in readers else "",
            rows if made in readers else None,
        )
        for n, m in layers.items()
        for made, rows, rows_share in _shares(makes[n], m)
        for read, _, columns_share in _shares(reads[n], m)
    ]
    return eliminate(readers, work)


def _places(
    groups: list[Group], layers: dict[str, nn.Module], have: dict[str, Held]
) -> tuple[dict[str, dict[str, Slice]], dict[str, dict[str, Slice]]]:
    """Return, for each layer, the groups that it produces and those that it reads, as slices."""
    by_tensor: dict[int, list[str]] = {}
    for name, module in layers.items():
        weight = have.get(unmasked_name(weight_name(name, module)))
        if weight is None:
            raise ArgumentError(
                f"criterion 'obs' needs the weight of layer {name!r} itself, but a parametrization "
                "computes it. Choose another criterion, or make it permanent: "
                "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')."
            )
        key = id(weight.tensor)
        by_tensor.setdefault(key, []).append(name)
    makes: dict[str, dict[str, Slice]] = {n: {} for n in layers}
    reads: dict[str, dict[str, Slice]] = {n: {} for n in layers}
    for g in groups:
        for s in g.slices:
            for name in by_tensor.get(id(have[unmasked_name(s.tensor)].tensor), ()):
                (reads if s.dim == input_dim(layers[name]) else makes)[name].setdefault(g.name, s)
    return makes, reads


def _shares(
    places: dict[str, Slice], module: nn.Module
) -> Iterator[tuple[str, Tensor | None, float]]:
    """Yield each group, the places of its units and its share of a layer; then the rest of it."""
    rest, weight = 1.0, weight_of(module)
    for group, s in places.items():
        index = torch.from_numpy(s.index.astype("int64"))
        share = index.numel() / (weight.shape[s.dim] * s.blocks)
        rest -= share
        yield group, index, share
    if rest > 1e-9:
        yield "", None, rest


def _reader(module: nn.Module, name: str, s: Slice, evidence: Evidence) -> list[Reader]:
    """Return what one layer reads from a group; empty if its co-moment is missing.

    Of a layer with too many columns for a co-moment the variances are enough.
    """
    moments, blocks = evidence.columns(name), blocks_of(module).double().cpu()
    # each block of outputs reads its own channels
    weight = torch.block_diag(*blocks)
    if moments.full:
        square = moments.covariance
        square = square if square.ndim == 2 else torch.block_diag(*square)
    elif blocks.shape[2] > WIDE:
        square = moments.variance.flatten()
        square = square.repeat_interleave(weight.shape[1] // len(square))  # of a channel: its taps
    else:
        return []
    columns = columns_of(s.index, weight.shape[1] // evidence.inputs[name].mean.shape[-1])
    flat = columns.flatten()
    index = torch.arange(len(flat)).reshape(columns.shape)
    grad = evidence.output_grad[name].double()
    square = square[flat][:, flat] if square.ndim == 2 else square[flat]
    return [Reader(weight[:, flat], square, grad, index, name)]


def _macs(name: str, module: nn.Module, evidence: Evidence) -> float:
    """Return the multiply-accumulates (MACs) of a layer for one example."""
    positions = evidence.columns(name).count / max(1, evidence.examples)
    if getattr(module, "transposed", False):  # each input position meets each weight once
        positions = evidence.inputs[name].count / max(1, evidence.examples)
    elif (
        name not in evidence.patches
    ):  # then the count is that of input pixels, not of output pixels
        positions /= math.prod(getattr(module, "stride", ()))
    return positions * weight_of(module).numel()

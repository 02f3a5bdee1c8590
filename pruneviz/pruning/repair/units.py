"""Repair a cut model: give the layers that lost inputs new weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruneviz.core.errors import ArgumentError
from pruneviz.core.names import tensor_name
from pruneviz.evidence.evidence import Evidence
from pruneviz.model.batches import listed
from pruneviz.model.layers import blocks_of, consumers, is_conv1d
from pruneviz.model.tensors import holders_of
from pruneviz.pruning.repair import ladder
from pruneviz.pruning.repair.least_squares import fits
from pruneviz.pruning.repair.sites import Site


def repaired(
    model: nn.Module,
    new: nn.Module,
    where: list[Site],
    rung: str,
    *,
    evidence: Evidence | None,
    batches: Iterable[Any] | None,
    ridge: float = ladder.RIDGE,
) -> None:
    """Give the layers of a cut model new weights, in place.

    With batches and ``"lstsq"`` layer by layer in the order of the forward, each re-fitted on what it
    reads in the cut model, which has the dense model's outputs of that layer as its target; else on
    the moments of the dense model.
    """
    if rung == "lstsq" and batches is not None:
        _in_order(model, new, where, listed(batches, "fit to"), ridge)
        return
    assert evidence is not None
    dense = consumers(model)
    for site in where:
        if site.layer not in evidence.inputs:
            continue
        module = dense[site.layer]
        parts = []
        for b, matrix in enumerate(blocks_of(module)):
            stand = _stand(module, site, b, rung, evidence, ridge)
            parts.append(ladder.refitted(matrix[site.rows[b]], site.columns[b], stand))
        _write(model, new, site, parts)


def _stand(
    module: nn.Module, site: Site, b: int, rung: str, evidence: Evidence, ridge: float
) -> ladder.Stand:
    """Return what stands in for the columns that one block of a layer lost."""
    keep, free = site.columns[b], bool(site.sink[0])
    seen, exact = evidence.inputs[site.layer], evidence.columns(site.layer)
    taps = len(keep) * len(site.columns) // seen.mean.shape[-1]
    mean = exact.mean
    if mean.numel() != site.columns.numel() or (free and _bordered(module)):
        # means of channels, not of patches with zeros in them: a constant is exact off the border
        mean = seen.mean.repeat_interleave(taps)
    mean = mean.reshape(len(site.columns), -1)[b]
    if rung == "fold":
        stand = ladder.fold(mean, keep)
        return stand if free else ladder.Stand(stand.matrix, torch.zeros_like(stand.offset))
    square = exact.covariance if len(site.columns) == 1 else exact.covariance[b]
    if rung == "lstsq":
        middle = exact.mean if len(site.columns) == 1 else exact.mean[b]
        return ladder.lstsq(middle, square, keep, ridge=ridge, free=free)
    stand = ladder.fold(mean, keep)
    row, place = torch.cumsum(~keep, 0) - 1, torch.cumsum(keep, 0) - 1
    if len(site.columns) > 1:  # inside a block each channel is its own
        units = [torch.arange(len(keep)).reshape(-1, taps)]
    else:
        units = list(site.units.values())
    for index in units:
        flat = index.flatten()
        if keep[flat].all():
            continue
        local = torch.arange(len(flat)).reshape(index.shape)
        part = ladder.merge(mean[flat], square[flat][:, flat], keep[flat], local, free=free)
        lost, stays = flat[~keep[flat]], flat[keep[flat]]
        stand.matrix[row[lost].unsqueeze(1), place[stays]] = part.matrix
        stand.offset[row[lost]] = part.offset
    # at a border a constant varies with the zeros beside it: it needs no twin, but a bias
    still = (seen.high == seen.low).repeat_interleave(taps).reshape(len(site.columns), -1)[b]
    if free:
        stand.matrix[row[~keep & still]] = 0
        stand.offset[row[~keep & still]] = mean[~keep & still]
    return stand


def _bordered(module: nn.Module) -> bool:
    """Whether a layer reads zeros at the border of what it is given."""
    if not isinstance(module, _ConvNd) or module.padding_mode != "zeros":
        return False
    return any(module._reversed_padding_repeated_twice) and module.padding != "valid"


@dataclass(frozen=True, eq=False)
class Twins:
    """What can stand in for each unit of a group, as far as the weights tell; shapes (units,).

    Parameters
    ----------
    twin : Tensor of int
        The most similar unit that stays.
    scale : Tensor
        How many times the twin the unit is; 0: it has no twin.
    constant : Tensor
        The unit's value where it is proved constant, else NaN.
    """

    twin: Tensor
    scale: Tensor
    constant: Tensor


def merged_blind(
    model: nn.Module, new: nn.Module, where: list[Site], twins: Mapping[str, Twins]
) -> None:
    """Let each unit's most similar twin, by weights alone, do its work: in place."""
    dense = consumers(model)
    for site in where:
        if len(site.columns) > 1:  # inside a block each channel is its own
            continue
        keep = site.columns[0]
        row, place = torch.cumsum(~keep, 0) - 1, torch.cumsum(keep, 0) - 1
        gone, kept = int((~keep).sum()), int(keep.sum())
        stand = ladder.Stand(torch.zeros(gone, kept).double(), torch.zeros(gone).double())
        for group, index in site.units.items():
            known = twins[group]
            for u in (~keep[index[:, 0]]).nonzero()[:, 0].tolist():
                here = index[u]
                if not torch.isnan(known.constant[u]):
                    stand.offset[row[here]] = known.constant[u]
                elif keep[index[known.twin[u], 0]]:
                    stand.matrix[row[here], place[index[known.twin[u]]]] = known.scale[u]
        if not site.sink[0]:
            stand.offset.zero_()
        matrix = blocks_of(dense[site.layer])[0]
        _write(model, new, site, [ladder.refitted(matrix[site.rows[0]], keep, stand)])


def _in_order(
    model: nn.Module, new: nn.Module, where: list[Site], batches: list[Any], ridge: float
) -> None:
    dense, cut = consumers(model), consumers(new)
    if any(site.layer not in cut for site in where):
        raise ArgumentError(
            "with `batches` each layer is watched while the smaller model runs, but a program has no "
            "layers. Pass evidence=pv.collect(model, batches) in their place."
        )
    with torch.inference_mode(False), torch.no_grad():
        for site in where:
            solved = []
            for b, fit in enumerate(fits(model, new, site.layer, batches)):
                rows = site.rows[b]
                old = blocks_of(dense[site.layer])[b][rows][:, site.columns[b]]
                solved.append(fit.solve(old, ridge, bool(site.sink[0]), rows))
            _write(model, new, site, solved)


def _write(
    model: nn.Module, new: nn.Module, site: Site, parts: list[tuple[Tensor, Tensor]]
) -> None:
    """Set the weight of a cut layer, and what takes up its constants; block after block."""
    weight, gain = torch.cat([w for w, _ in parts]), torch.cat([g for _, g in parts])
    check_finite(site.layer, weight, gain)
    tensors = {n: t for n, (t, _) in holders_of(new).items()}
    before = {n: t for n, (t, _) in holders_of(model).items()}
    turn = is_conv1d(consumers(model)[site.layer])
    with torch.no_grad():
        there = tensors[tensor_name(site.layer)]
        there.copy_((weight.T if turn else weight).reshape(there.shape))
        kind, sink = site.sink
        if kind:
            rows = site.rows.flatten().to(before[sink].device)
            sign = 1 if kind == "bias" else -1  # the batch norm takes its mean away
            tensors[sink].copy_(before[sink][rows] + sign * gain.to(before[sink]))


def check_finite(layer: str, weight: Tensor, gain: Tensor) -> None:
    """Raise if a repair gave something else than numbers."""
    if not (torch.isfinite(weight).all() and torch.isfinite(gain).all()):
        raise ArgumentError(
            f"the repair of layer {layer!r} gave NaN or infinity. Collect from more examples, or use a "
            "larger `ridge`."
        )

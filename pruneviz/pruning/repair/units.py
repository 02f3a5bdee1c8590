"""How the layers of a cut model that lost inputs get new weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruneviz.core.errors import ArgumentError
from pruneviz.evidence.evidence import Evidence
from pruneviz.model.batches import Batch, listed
from pruneviz.model.layers import blocks_of, consumers, shaped, weight_name
from pruneviz.model.patches import is_constant_inside, reads_border
from pruneviz.model.tensors import tensors_of
from pruneviz.pruning.repair import ladder
from pruneviz.pruning.repair.least_squares import Solution
from pruneviz.pruning.repair.refit import Examples, best, better_below, held_rows, refit
from pruneviz.pruning.repair.rows import NotPaired, too_few
from pruneviz.pruning.repair.said import Said
from pruneviz.pruning.repair.sites import Site

ONLY_DIAGONAL = (
    "`evidence` has only the diagonal of its co-moment; collect it with comoment='all', or pass "
    "batches with repair='lstsq'"
)


def repair_layers(
    model: nn.Module,
    new: nn.Module,
    sites: list[Site],
    rung: str,
    said: Said,
    *,
    evidence: Evidence | None,
    batches: Iterable[Any] | None,
    ridge: float = ladder.RIDGE,
) -> None:
    """Give the layers of a cut model new weights, in place.

    With ``"lstsq"`` and batches the layers are re-fitted one after the other, in forward order.
    Each is fitted from its inputs in the cut model to its outputs in the dense model, so that it
    also compensates for the error of the layers before it. Otherwise each layer is repaired alone,
    on the moments of its inputs in the dense model.
    """
    if rung == "lstsq" and batches is not None:
        _refit_in_order(model, new, sites, listed(batches, "fit to"), ridge, said)
        return
    assert evidence is not None
    examples = None if batches is None else _examples(model, sites, batches)
    if rung == "lstsq":
        rows = {n: evidence.columns(n).count for n in evidence.inputs}
        said.before(too_few(rows, {s.layer: int(s.columns[0].sum()) for s in sites}))
    for site in sites:
        if site.layer not in evidence.inputs:
            said.left(site.layer, "`evidence` has nothing of it")
            continue
        if rung != "fold" and not evidence.columns(site.layer).full:
            said.left(site.layer, ONLY_DIAGONAL)
            continue
        with torch.no_grad():
            taken, parts = _judged(model, new, site, rung, evidence, ridge, examples)
        if taken != rung:
            said.worse(site.layer, taken)
        if taken != "none":
            _write_layer(model, new, site, parts)


def _judged(
    model: nn.Module, new: nn.Module, site: Site, rung: str, evidence: Evidence, ridge: float,
    examples: Examples | None,
) -> tuple[str, list[Solution]]:  # fmt: skip
    """Return the rung that is taken, and its weights: a lower one where that is better on examples."""
    module = consumers(model)[site.layer]
    matrices = blocks_of(module)

    def solutions(rung: str) -> list[Solution]:
        return [
            ladder.refit_columns(
                matrix[site.rows[b]], site.columns[b], _substitute(module, site, b, rung, evidence, ridge)
            )
            for b, matrix in enumerate(matrices)
        ]  # fmt: skip

    parts = solutions(rung)
    if examples is None:
        return rung, parts
    old = [m[r][:, c].cpu() for m, r, c in zip(matrices, site.rows, site.columns, strict=True)]
    below = {"none": list(zip(old, _bias_now(model, new, site), strict=True))}
    if rung == "merge" and site.sink[0]:
        below["fold"] = solutions("fold")
    columns = int(site.columns[0].sum()) + len(matrices[0])
    held = held_rows(model, new, site.layer, examples, len(matrices), columns)
    taken = better_below(held, parts, below, list(site.rows))
    return (rung, parts) if taken is None else (taken, below[taken])


def _examples(model: nn.Module, sites: list[Site], batches: Iterable[Any]) -> Examples:
    with torch.inference_mode(False), torch.no_grad():
        return Examples(
            model, [s.layer for s in sites], listed(batches, "judge by"), only_judge=True
        )


def _substitute(
    module: nn.Module, site: Site, b: int, rung: str, evidence: Evidence, ridge: float
) -> ladder.Substitute:
    """Return what replaces the removed columns of block `b` of a layer."""
    keep, fit_bias = site.columns[b], bool(site.sink[0])  # keep: (n,)
    channels, patches = evidence.inputs[site.layer], evidence.columns(site.layer)
    taps = len(keep) * len(site.columns) // channels.mean.shape[-1]  # columns a channel
    mean = patches.mean
    off_border = isinstance(module, _ConvNd) and is_constant_inside(module) and reads_border(module)
    if mean.numel() != site.columns.numel() or (fit_bias and off_border):
        # Patches at a border contain zeros, so their mean is too small everywhere else. With the
        # means of the channels a constant unit is replaced exactly except at the border. (Behind a
        # transposed convolution with a stride a constant differs from position to position: there
        # the mean over all of them is best.)
        mean = channels.mean.repeat_interleave(taps)
    mean = mean.reshape(len(site.columns), -1)[b]
    if rung == "fold":
        folded = ladder.fold(mean, keep)
        return (
            folded
            if fit_bias
            else ladder.Substitute(folded.matrix, torch.zeros_like(folded.offset))
        )
    square = patches.covariance if len(site.columns) == 1 else patches.covariance[b]  # (n, n)
    if rung == "lstsq":
        patch_mean = patches.mean if len(site.columns) == 1 else patches.mean[b]
        return ladder.lstsq(patch_mean, square, keep, ridge=ridge, fit_bias=fit_bias)
    # "merge": group by group, so that a twin is a unit of the same group
    found = ladder.fold(mean, keep)
    row, position = torch.cumsum(~keep, 0) - 1, torch.cumsum(keep, 0) - 1  # as in `ladder.merge`
    if len(site.columns) > 1:  # in a grouped convolution each channel of the block is one unit
        units = [torch.arange(len(keep)).reshape(-1, taps)]
    else:
        units = list(site.units.values())
    for index in units:
        flat = index.flatten()
        if keep[flat].all():
            continue
        local = torch.arange(len(flat)).reshape(index.shape)
        part = ladder.merge(mean[flat], square[flat][:, flat], keep[flat], local, fit_bias=fit_bias)
        removed, kept = flat[~keep[flat]], flat[keep[flat]]
        found.matrix[row[removed].unsqueeze(1), position[kept]] = part.matrix
        found.offset[row[removed]] = part.offset
    if isinstance(module, _ConvNd) and not is_constant_inside(module):
        return found
    # A constant channel varies in padded patches, so `merge` finds a twin for it. Its constant in
    # the bias is better: that is exact except at the border.
    constant = (channels.high == channels.low).repeat_interleave(taps)
    constant = constant.reshape(len(site.columns), -1)[b]  # (n,)
    if fit_bias:
        found.matrix[row[~keep & constant]] = 0
        found.offset[row[~keep & constant]] = mean[~keep & constant]
    return found


@dataclass(frozen=True, eq=False)
class Twins:
    """What can replace each unit of a group, judged by the weights alone; shapes (units,).

    Parameters
    ----------
    twin : Tensor of int
        The most similar kept unit.
    scale : Tensor
        Factor from the twin to the unit; 0: the unit has no twin.
    constant : Tensor
        The unit's value where it is proved constant, else NaN.
    """

    twin: Tensor
    scale: Tensor
    constant: Tensor


def merge_without_data(
    model: nn.Module, new: nn.Module, sites: list[Site], twins: Mapping[str, Twins]
) -> None:
    """Replace removed units by their constants or their twins by weights alone, in place."""
    dense = consumers(model)
    for site in sites:
        # in a grouped convolution a twin may lie in another block, which these outputs do not read
        if len(site.columns) > 1:
            continue
        keep = site.columns[0]
        row, position = torch.cumsum(~keep, 0) - 1, torch.cumsum(keep, 0) - 1
        n_removed, n_kept = int((~keep).sum()), int(keep.sum())
        substitute = ladder.Substitute(
            torch.zeros(n_removed, n_kept).double(), torch.zeros(n_removed).double()
        )
        for group, index in site.units.items():
            known = twins[group]
            for u in (~keep[index[:, 0]]).nonzero()[:, 0].tolist():
                columns = index[u]
                if not torch.isnan(known.constant[u]):
                    substitute.offset[row[columns]] = known.constant[u]
                elif keep[index[known.twin[u], 0]]:
                    twin_columns = index[known.twin[u]]
                    substitute.matrix[row[columns], position[twin_columns]] = known.scale[u]
        if not site.sink[0]:
            substitute.offset.zero_()
        matrix = blocks_of(dense[site.layer])[0]
        _write_layer(
            model, new, site, [ladder.refit_columns(matrix[site.rows[0]], keep, substitute)]
        )


def _refit_in_order(
    model: nn.Module, new: nn.Module, sites: list[Site], batches: list[Batch], ridge: float,
    said: Said,
) -> None:  # fmt: skip
    dense, cut = consumers(model), consumers(new)
    if missing := [site.layer for site in sites if site.layer not in cut]:
        raise ArgumentError(
            f"repair 'lstsq' with `batches` reads the inputs of each layer, but in a program {missing[0]!r} "
            "is several operators and no layer. Pass evidence=pv.collect(model, batches) instead."
        )
    with torch.inference_mode(False), torch.no_grad():
        examples = Examples(model, [site.layer for site in sites], batches)
        examples.say_if_few({s.layer: int(s.columns[0].sum()) for s in sites}, said)
        for site in sites:
            matrices = blocks_of(dense[site.layer]).cpu()
            groups, outputs, _ = matrices.shape
            n, fit_bias = int(site.columns[0].sum()), bool(site.sink[0])
            try:
                found = refit(model, new, site.layer, examples, groups, n, outputs)
            except NotPaired as e:
                said.left(site.layer, str(e))
                continue
            per_block = list(zip(found.fits, matrices, site.rows, site.columns, strict=True))
            old = [m[rows][:, columns] for _, m, rows, columns in per_block]
            solvers = [
                f.solver(w, fit_bias, rows)
                for w, (f, _, rows, _) in zip(old, per_block, strict=True)
            ]
            below = {"none": list(zip(old, _bias_now(model, new, site), strict=True))}
            if fit_bias:
                below["fold"] = [(w, s.fold) for w, s in zip(old, solvers, strict=True)]
            rung, solved = best(found, solvers, below, ridge, list(site.rows))
            if rung != "lstsq":
                said.worse(site.layer, rung)
            if rung != "none":
                _write_layer(model, new, site, solved)


def _bias_now(model: nn.Module, new: nn.Module, site: Site) -> list[Tensor]:
    """Return what was added to the bias when the model was cut, for each group of the layer."""
    kind, sink = site.sink
    sizes = [int(rows.sum()) for rows in site.rows]
    if not kind:
        return [torch.zeros(k).double() for k in sizes]
    before = tensors_of(model)[sink].cpu()[site.rows.flatten()]
    change = tensors_of(new)[sink].cpu().double() - before.double()
    return list((change if kind == "bias" else -change).split(sizes))


def _write_layer(
    model: nn.Module, new: nn.Module, site: Site, parts: list[tuple[Tensor, Tensor]]
) -> None:
    """Set the weight of a cut layer and its sink; `parts` holds weights and gains, one a block."""
    weight, bias_change = torch.cat([w for w, _ in parts]), torch.cat([g for _, g in parts])
    check_finite(site.layer, weight, bias_change)
    tensors, before = tensors_of(new), tensors_of(model)
    module = consumers(model)[site.layer]
    with torch.no_grad():
        target = tensors[weight_name(site.layer, module)]
        target.copy_(shaped(module, weight, target.shape))
        kind, sink = site.sink
        if kind:
            rows = site.rows.flatten().to(before[sink].device)
            sign = 1 if kind == "bias" else -1  # a batch norm subtracts its running mean
            tensors[sink].copy_(before[sink][rows] + sign * bias_change.to(before[sink]))


def check_finite(layer: str, weight: Tensor, bias_change: Tensor) -> None:
    """Raise if a repair gave NaN or infinity."""
    if not (torch.isfinite(weight).all() and torch.isfinite(bias_change).all()):
        raise ArgumentError(
            f"the repair of layer {layer!r} gave NaN or infinity. Collect from more examples, or use a "
            "larger `ridge`."
        )

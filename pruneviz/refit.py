"""Repair a cut model: find where its layers lost inputs, and give their weights new values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruneviz import repair
from pruneviz._inputs import arguments, run
from pruneviz.collect import parts
from pruneviz.consumers import consumers, matrix_of, open_attention, turned
from pruneviz.evidence import Evidence
from pruneviz.group import Groups
from pruneviz.groups.rules import name_of
from pruneviz.groups.values import operand
from pruneviz.groups.walk import Walk
from pruneviz.hooks import evaluating, hooked
from pruneviz.streams import patches
from pruneviz.surgery import holders_of
from pruneviz.types import ArgumentError


@dataclass(frozen=True, eq=False)
class Site:
    """A layer that lost inputs.

    Parameters
    ----------
    layer : str
    columns : Tensor of bool, shape (groups, n)
        Which columns of its weight as a matrix stay.
    rows : Tensor of bool, shape (groups, outputs / groups)
        Which of its outputs stay.
    units : dict of str to Tensor
        For each group that it reads: the columns of each unit, shape (units, k).
    sink : tuple of (str, str)
        What takes up a constant: ``("bias", name)``, ``("running_mean", name)`` of the batch norm
        behind it, or ``("", "")``: nothing.
    """

    layer: str
    columns: Tensor
    rows: Tensor
    units: dict[str, Tensor]
    sink: tuple[str, str]


def sites(w: Walk, model: nn.Module, gone: np.ndarray, groups: Groups) -> list[Site]:
    """Return the layers that lose inputs and whose weights can be given new values, in forward order."""
    known = consumers(model)
    shared = {n for n, (_, places) in holders_of(model).items() if len(places) > 1}
    sinks, found = sinks_of(w), {}
    sinks |= {n: ("", "") for n, (_, sink) in sinks.items() if sink in shared}
    keys = {(name, dim): blocks for name, dim, blocks in w.tensors if blocks > 1}
    for layer, module in known.items():
        name = f"{layer}.weight" if layer else "weight"
        if name in shared or name not in sinks:
            continue
        inputs, outputs = (0, 1) if turned(module) else (1, 0)
        blocks = keys.get((name, inputs), 1)
        matrix = matrix_of(module)
        matrix = matrix if matrix.ndim == 3 else matrix.unsqueeze(0)  # (groups, outputs, n)
        columns = _kept(w, gone, (name, inputs, blocks), matrix.shape[0], matrix.shape[2])
        if columns.all() or matrix.shape[0] != blocks:
            continue
        taps = matrix.shape[2] * blocks // w.tensors[name, inputs, blocks].size
        units = {
            g.name: _columns(torch.from_numpy(s.index.astype("int64")), taps)
            for g in groups
            for s in g.slices
            if (s.tensor, s.dim, s.blocks) == (name, inputs, blocks)
        }
        rows = _kept(w, gone, (name, outputs, 1), matrix.shape[0], matrix.shape[1])
        found[layer] = Site(layer, columns, rows, units, sinks[name])
    order = {w.traced.sources[e.weight][1]: i for i, e in enumerate(w.ends)
             if e.weight in w.traced.sources}  # fmt: skip
    return sorted(found.values(), key=lambda s: order[f"{s.layer}.weight" if s.layer else "weight"])


def sinks_of(w: Walk) -> dict[str, tuple[str, str]]:
    """For each weight that sums up units: the tensor that can take up a constant behind it.

    None can where a weight is used in several places with different ones behind, or where the tensor
    serves other weights too.
    """
    source = w.traced.sources
    weights = {e.node: source[e.weight][1] for e in w.ends if e.weight in source}
    found: dict[str, set[tuple[str, str]]] = {}
    for end in w.ends:
        if end.node not in weights:
            continue
        name, kind, sink, behind = weights[end.node], "bias", end.bias, list(end.node.users)
        if sink is None and len(behind) == 1 and name_of(behind[0]) == "batch_norm":
            kind, sink = "running_mean", operand(behind[0], "running_mean")
        takes = found.setdefault(name, set())
        if sink is None or sink not in source:
            takes.add(("", ""))
            continue
        users = w.traced.live & set(sink.users)
        served = [{weights[n] for n in (u, *u.all_input_nodes) if n in weights} for u in users]
        takes.add((kind, source[sink][1]) if all(s == {name} for s in served) else ("", ""))
    return {name: sinks.pop() if len(sinks) == 1 else ("", "") for name, sinks in found.items()}


def repaired(
    model: nn.Module,
    new: nn.Module,
    where: list[Site],
    rung: str,
    *,
    evidence: Evidence | None,
    batches: Iterable[Any] | None,
    ridge: float = repair.RIDGE,
) -> None:
    """Give the layers of a cut model new weights, in place.

    With batches and ``"lstsq"`` layer by layer in the order of the forward, each re-fitted on what it
    reads in the cut model, which has the dense model's outputs of that layer as its target; else on
    the moments of the dense model.
    """
    if rung == "lstsq" and batches is not None:
        _in_order(model, new, where, list(parts(batches)), ridge)
        return
    assert evidence is not None
    dense = consumers(model)
    for site in where:
        if site.layer not in evidence.inputs:
            continue
        module = dense[site.layer]
        matrix = matrix_of(module)
        matrix = matrix if matrix.ndim == 3 else matrix.unsqueeze(0)
        weights, gains = [], []
        for b in range(len(matrix)):
            stand = _stand(module, site, b, rung, evidence, ridge)
            weight, gain = repair.refitted(matrix[b][site.rows[b]], site.columns[b], stand)
            weights.append(weight)
            gains.append(gain)
        _write(model, new, site, torch.cat(weights), torch.cat(gains))


def _stand(
    module: nn.Module, site: Site, b: int, rung: str, evidence: Evidence, ridge: float
) -> repair.Stand:
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
        stand = repair.fold(mean, keep)
        return stand if free else repair.Stand(stand.matrix, torch.zeros_like(stand.offset))
    square = exact.covariance if len(site.columns) == 1 else exact.covariance[b]
    if rung == "lstsq":
        middle = exact.mean if len(site.columns) == 1 else exact.mean[b]
        return repair.lstsq(middle, square, keep, ridge=ridge, free=free)
    stand = repair.fold(mean, keep)
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
        part = repair.merge(mean[flat], square[flat][:, flat], keep[flat], local, free=free)
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
        stand = repair.Stand(torch.zeros(gone, kept).double(), torch.zeros(gone).double())
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
        weight, gain = repair.refitted(matrix_of(dense[site.layer])[site.rows[0]], keep, stand)
        _write(model, new, site, weight, gain)


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


def _in_order(
    model: nn.Module, new: nn.Module, where: list[Site], batches: list[Any], ridge: float
) -> None:
    if not batches:
        raise ArgumentError(
            "`batches` is empty: there is nothing to fit to. Pass an iterable of batches; a generator "
            "runs only once."
        )
    dense, cut = consumers(model), consumers(new)
    if any(site.layer not in cut for site in where):
        raise ArgumentError(
            "with `batches` each layer is watched while the smaller model runs, but a program has no "
            "layers. Pass evidence=pv.collect(model, batches) in their place."
        )
    with torch.inference_mode(False), torch.no_grad():
        for site in where:
            fits, calls = [Fit() for _ in site.columns], 0
            for inputs, _ in batches:
                args, kwargs = arguments(inputs)
                here = (site.layer, dense[site.layer], args, kwargs)
                want = ran(model, *here, target=True, calls=calls)
                here = (site.layer, cut[site.layer], args, kwargs)
                have = ran(new, *here, target=False, calls=calls)
                calls = len(want)
                for z, x in zip(want, have, strict=True):
                    for b, fit in enumerate(fits):
                        fit.add(x[b], z[b][:, site.rows[b]])
            matrix = matrix_of(dense[site.layer])
            matrix = matrix if matrix.ndim == 3 else matrix.unsqueeze(0)
            old = [matrix[b][site.rows[b]][:, site.columns[b]] for b in range(len(matrix))]
            free = bool(site.sink[0])
            solved = [f.solve(o, ridge, free) for f, o in zip(fits, old, strict=True)]
            _write(model, new, site, torch.cat([s[0] for s in solved]),
                   torch.cat([s[1] for s in solved]))  # fmt: skip


def ran(
    model: nn.Module,
    layer: str,
    module: nn.Module,
    args: Any,
    kwargs: Any,
    *,
    target: bool,
    calls: int = 0,
) -> list[Tensor]:
    """Run a model; return what a layer multiplies, or gives, without its bias, at each of its calls.

    Each of shape (groups, rows, n). After so many `calls` the run stops: 0 for never.
    """
    found: list[Tensor] = []
    groups = getattr(module, "groups", 1)

    def note(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        if target:
            rows = output
            bias = getattr(module, "bias", None)
            if isinstance(module, _ConvNd):
                rows = rows.flatten(2).transpose(1, 2)
            rows = rows if bias is None else rows - bias
        else:
            rows = patches(module, inputs[0]) if isinstance(module, _ConvNd) else inputs[0]
        rows = rows.detach().reshape(-1, rows.shape[-1])
        found.append(torch.stack(rows.chunk(groups, -1)))
        if len(found) == calls:
            raise _Enough

    with (
        suppress(_Enough),
        evaluating(model),
        open_attention(model),
        hooked(model, [layer], note),
    ):
        seen(model, args, kwargs)
    return found


class _Enough(BaseException):
    """What was wanted has been seen; no `except Exception` on the way may stop it."""


def seen(model: nn.Module, args: Any, kwargs: Any) -> None:
    """Run a model for its hooks alone."""
    run(model, args, kwargs)


class Fit:
    """Least squares from sums: of what a layer reads, and of what it should give."""

    def __init__(self) -> None:
        self.count = 0
        self.shift: tuple[Tensor, Tensor] | None = None

    def add(self, x: Tensor, z: Tensor) -> None:
        """Add rows that are read, (rows, n), and wanted, (rows, outputs)."""
        if not len(x):
            return
        x = x if x.dtype in (torch.float32, torch.float64) else x.float()
        z = z.to(x.dtype)
        if self.shift is None:
            self.shift = x.mean(0), z.mean(0)
            self.x, self.z = torch.zeros_like(x[0]).double(), torch.zeros_like(z[0]).double()
            self.xx = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
            self.zx = x.new_zeros(z.shape[1], x.shape[1], dtype=torch.float64)
        x, z = x - self.shift[0], z - self.shift[1]
        self.count += len(x)
        self.x += x.sum(0)
        self.z += z.sum(0)
        self.xx += x.T @ x
        self.zx += z.T @ x

    def solve(self, old: Tensor, ridge: float, free: bool) -> tuple[Tensor, Tensor]:
        """Return weights, (outputs, n), and what a bias gains, (outputs,).

        ``W = (C_zx + λ W_old) (C_xx + λI)⁻¹``
        """
        xx, zx, x, z = self.moments(free)
        old = old.double().cpu()
        # as a step away from the old weights: with no ridge and a singular matrix they stay where
        # nothing speaks for others
        weight = old + repair.solved(xx, (zx - old @ xx).T, ridge).T
        gain = z - weight @ x if free else torch.zeros(len(old), dtype=torch.float64)
        return weight, gain

    def solve_rows(
        self, old: Tensor, keep: Tensor, ridge: float, free: bool
    ) -> tuple[Tensor, Tensor]:
        """Return the same where each row keeps columns of its own, (outputs, n)."""
        xx, zx, x, z = self.moments(free)
        weight = torch.where(keep.cpu(), old.double().cpu(), 0.0)
        right = zx - weight @ xx  # (outputs, n)
        for row, stays in enumerate(keep.cpu()):
            if stays.any():
                k = stays.nonzero()[:, 0]
                weight[row, k] += repair.solved(xx[k][:, k], right[row, k].unsqueeze(1), ridge)[
                    :, 0
                ]
        gain = z - weight @ x if free else torch.zeros(len(weight), dtype=torch.float64)
        return weight, gain

    def moments(self, free: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """C_xx, C_zx and the means of x and z; not `free`: about 0, not about the mean."""
        if self.shift is None:
            raise ArgumentError(
                "`batches` hold no example that reaches each layer: there is nothing to fit to."
            )
        x, z = self.x / self.count, self.z / self.count
        xx, zx = self.xx / self.count, self.zx / self.count
        if free:
            xx, zx = xx - x.unsqueeze(1) * x, zx - z.unsqueeze(1) * x
        x, z = x + self.shift[0], z + self.shift[1]
        if not free:  # moments about 0, not about the mean
            dx, dz = self.shift[0].double(), self.shift[1].double()
            sx, sz = self.x / self.count, self.z / self.count
            xx = xx + dx.unsqueeze(1) * sx + sx.unsqueeze(1) * dx + dx.unsqueeze(1) * dx
            zx = zx + dz.unsqueeze(1) * sx + sz.unsqueeze(1) * dx + dz.unsqueeze(1) * dx
        return xx.cpu(), zx.cpu(), x.cpu(), z.cpu()


def _write(model: nn.Module, new: nn.Module, site: Site, weight: Tensor, gain: Tensor) -> None:
    """Set the weight of a cut layer, and what takes up its constants."""
    if not (torch.isfinite(weight).all() and torch.isfinite(gain).all()):
        raise ArgumentError(
            f"the repair of layer {site.layer!r} gave NaN or infinity. Collect from more examples, or "
            "use a larger `ridge`."
        )
    tensors = {n: t for n, (t, _) in holders_of(new).items()}
    before = {n: t for n, (t, _) in holders_of(model).items()}
    name = f"{site.layer}.weight" if site.layer else "weight"
    turn = turned(consumers(model)[site.layer])
    with torch.no_grad():
        there = tensors[name]
        there.copy_((weight.T if turn else weight).reshape(there.shape))
        kind, sink = site.sink
        if kind:
            rows = site.rows.flatten().to(before[sink].device)
            sign = 1 if kind == "bias" else -1  # the batch norm takes its mean away
            tensors[sink].copy_(before[sink][rows] + sign * gain.to(before[sink]))


def _kept(w: Walk, gone: np.ndarray, key: tuple[str, int, int], groups: int, n: int) -> Tensor:
    ids = w.tensors.get(key)
    if ids is None:
        return torch.ones(groups, n, dtype=torch.bool)
    stays = torch.from_numpy(~gone[w.atoms.roots(ids)])
    return stays.repeat_interleave(groups * n // len(stays)).reshape(groups, n)


def _columns(index: Tensor, taps: int) -> Tensor:
    """From places among the inputs, (units, k), to columns of the weight as a matrix, (units, k · taps)."""
    return (index.unsqueeze(-1) * taps + torch.arange(taps)).flatten(1)

"""Which unit costs least to remove, if the others compensate? Optimal Brain Surgeon on units."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

DAMPING = 3e-3  # share of the mean diagonal of a co-moment that is added to its diagonal
STEPS = 512  # at most so many removals per group; a group with more units loses several at once
SHRINK = 0.875  # share of columns left at which the removed ones are left out of the matrices


@dataclass(frozen=True, eq=False)
class Reader:
    """What one layer reads from a group.

    Parameters
    ----------
    weight : Tensor, float64, shape (outputs, n)
        The layer's weights for the n columns that belong to the group.
    covariance : Tensor, float64, shape (n, n) or (n,)
        The covariance of those columns, or only their variances: then none makes up for another.
    curvature : Tensor, float64, shape (outputs, outputs) or (outputs,)
        E[g gᵀ] at the layer's outputs, or only the diagonal.
    index : Tensor of int, shape (units, k)
        The columns of each unit.
    layer : str
    """

    weight: Tensor
    covariance: Tensor
    curvature: Tensor
    index: Tensor
    layer: str = ""


@dataclass(frozen=True, eq=False)
class LayerWork:
    """The MACs of a layer, the group whose units it produces, and the group that it reads.

    Parameters
    ----------
    name : str
    macs : float
        For one example.
    makes, reads : str
        Names of groups; ``""`` if none of them can be cut.
    rows : Tensor of int, shape (units, k), or None
        Which of its outputs belong to each unit that it produces.
    """

    name: str
    macs: float
    makes: str = ""
    reads: str = ""
    rows: Tensor | None = field(default=None)


class Elimination:
    """A group whose units are removed one after the other, and the readers that compensate."""

    def __init__(self, readers: Iterable[Reader]) -> None:
        self.readers = [
            (_ReaderState if r.covariance.ndim == 2 else _DiagonalState)(r) for r in readers
        ]
        self.units = len(self.readers[0].index)
        self.keep = torch.ones(self.units, dtype=torch.bool)
        self.cost = self._costs()

    @property
    def kept(self) -> int:
        """Number of kept units."""
        return int(self.keep.sum())

    def remove(self, units: Tensor) -> None:
        """Remove units; every reader's other weights compensate as well as they can."""
        self.keep[units] = False
        if self.keep.any():
            for r in self.readers:
                r.remove_columns(r.index[units].flatten())
        self.cost = self._costs()

    def drop_outputs(self, layer: str, rows: Tensor) -> None:
        """Ignore outputs of a reader that were removed."""
        changed = [r for r in self.readers if r.layer == layer]
        for r in changed:
            r.remove_outputs(rows)
        if changed:
            self.cost = self._costs()

    def _costs(self) -> Tensor:
        """Return the present cost of removing each unit; infinite if it is removed already."""
        kept = self.keep.nonzero()[:, 0]
        cost = torch.full((self.units,), torch.inf, dtype=torch.float64)
        total = sum((r.costs(kept) for r in self.readers), torch.zeros(len(kept)).double())
        cost[kept] = total.clamp(min=0)
        return cost


class _ReaderState:
    """A reader during the elimination: H⁻¹, its weights W, F, and G = Wᵀ F W."""

    def __init__(self, r: Reader) -> None:
        h, self.index, self.layer = r.covariance.double(), r.index, r.layer
        size = float(h.diagonal().mean())
        damped = h + (DAMPING * size if size > 0 else 1.0) * torch.eye(len(h), dtype=h.dtype)
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        self.weight = r.weight.double().clone()
        # a constant column costs nothing, whatever its weight: a bias replaces it
        self.weight[:, h.diagonal() <= 1e-12 * size] = 0
        f = r.curvature.double()
        self.curvature = torch.diag(f) if f.ndim == 1 else f.clone()
        self.quadratic = self.weight.T @ self.curvature @ self.weight
        self.alive = torch.ones(len(h), dtype=torch.bool)  # which columns of the matrices are left
        self.place = torch.arange(len(h))  # where each column of the reader is in them

    def costs(self, units: Tensor) -> Tensor:
        """Return tr(G_pp ([H⁻¹]_pp)⁻¹) for each unit; shape (units,)."""
        at = self.place[self.index[units]]
        rows, columns = at.unsqueeze(2), at.unsqueeze(1)
        own, cost = self.inverse[rows, columns], self.quadratic[rows, columns]  # (units, k, k)
        if at.shape[1] == 1:
            return (cost / own)[:, 0, 0]
        return torch.linalg.solve(own, cost).diagonal(dim1=-2, dim2=-1).sum(-1)

    def remove_columns(self, p: Tensor) -> None:
        """Remove columns; the others compensate."""
        p = self.place[p]
        line = self.inverse[p]  # (k, n)
        step = torch.linalg.solve(line[:, p], line)  # ([H⁻¹]_pp)⁻¹ [H⁻¹]_p:
        own = self.quadratic[p]  # (k, n)
        # G − SᵀG_p − G_pᵀS + SᵀG_ppS, symmetric: one product, written into G
        half = own - own[:, p] @ step / 2  # (k, n)
        self.quadratic.addmm_(torch.cat([step, half]).T, torch.cat([half, step]), alpha=-1)
        self.weight.addmm_(self.weight[:, p], step, alpha=-1)
        self.inverse.addmm_(line.T, step, alpha=-1)
        for t in (self.inverse, self.quadratic, self.weight.T):
            t[p] = 0  # exactly 0, whatever the rounding
        self.inverse[:, p], self.quadratic[:, p] = 0, 0
        self.alive[p] = False
        if int(self.alive.sum()) <= SHRINK * len(self.alive):
            self._leave_removed()

    def _leave_removed(self) -> None:
        """Leave the columns that were removed out of all matrices: the rest of them is 0."""
        kept = self.alive.nonzero()[:, 0]  # (kept,)
        known = self.alive[self.place] & (self.place >= 0)
        now = torch.cumsum(self.alive, 0) - 1  # (n,)
        self.place = torch.where(known, now[self.place], -1)
        self.inverse = self.inverse[kept][:, kept]
        self.quadratic = self.quadratic[kept][:, kept]
        self.weight = self.weight[:, kept]
        self.alive = torch.ones(len(kept), dtype=torch.bool)

    def remove_outputs(self, rows: Tensor) -> None:
        """Remove outputs from F, and so from G."""
        w = self.weight[rows]  # (k, n)
        f_w = self.curvature[rows] @ self.weight  # (k, n)
        half = f_w - self.curvature[rows][:, rows] @ w / 2  # (k, n)
        self.quadratic.addmm_(torch.cat([w, half]).T, torch.cat([half, w]), alpha=-1)
        self.curvature[rows], self.curvature[:, rows] = 0, 0


class _DiagonalState:
    """A reader of which only variances are known: Optimal Brain Damage, without compensation."""

    def __init__(self, r: Reader) -> None:
        self.index, self.layer = r.index, r.layer
        self.weight, self.curvature = r.weight.double(), r.curvature.double().clone()
        self.variance = r.covariance.double()
        self.error = self._error()

    def costs(self, units: Tensor) -> Tensor:
        """Return Σ G_cc H_cc over the columns c of each unit; shape (units,)."""
        return self.error[self.index[units]].sum(1)

    def remove_columns(self, p: Tensor) -> None:
        """Remove columns; nothing makes up for them."""

    def remove_outputs(self, rows: Tensor) -> None:
        """Remove outputs from F, and so from G."""
        self.curvature[rows] = 0
        if self.curvature.ndim == 2:
            self.curvature[:, rows] = 0
        self.error = self._error()

    def _error(self) -> Tensor:
        full = self.curvature.ndim == 2
        f_w = self.curvature @ self.weight if full else self.curvature.unsqueeze(1) * self.weight
        return (self.weight * f_w).sum(0) * self.variance  # (n,)


def eliminate(
    readers: Mapping[str, Iterable[Reader]], layers: Iterable[LayerWork] = ()
) -> dict[str, Tensor]:
    """Remove the units of all groups one after the other; return the place of each.

    When unit p is removed, every reader's other weights compensate at once. The remaining error, to
    second order in the readers' outputs, is

        tr(W_pᵀ F W_p ([H⁻¹]_pp)⁻¹),

    summed over the readers, with W a reader's weights, H the co-moment of its input and F the
    curvature at its outputs. Then W ← W − W_p ([H⁻¹]_pp)⁻¹ [H⁻¹]_p:, p is removed from H⁻¹
    likewise, and from F where p was an output of the layer. Where only the diagonal of H is known,
    nothing compensates: Σ (W_cᵀ F W_c) H_cc over the columns c of p (Optimal Brain Damage). Each step removes the unit with the
    least cost ÷ the MACs that its removal saves now.

    Parameters
    ----------
    readers : mapping of str to iterable of Reader
        The layers that read each group; at least one per group.
    layers : iterable of LayerWork
        For the MACs that a unit saves. Without them each unit counts as one.

    Returns
    -------
    dict of str to Tensor, float64, shape (units,)
        Place in the elimination, in (0, 1]: the unit removed first scores least. The last unit of
        each group is kept and scores 1.

    References
    ----------
    LeCun, Denker, Solla 1989, "Optimal Brain Damage"; Hassibi & Stork 1992, "Second order
    derivatives for network pruning: Optimal Brain Surgeon", eq. 5: here for blocks of columns, and
    with the layer's outputs instead of the loss.

    Examples
    --------
    >>> eye = torch.eye(3, dtype=torch.float64)  # three uncorrelated units
    >>> reader = Reader(torch.tensor([[2.0, 1.0, 3.0]]), eye, torch.ones(1), torch.tensor([[0], [1], [2]]))
    >>> eliminate({"fc1": [reader]})["fc1"]
    tensor([0.6667, 0.3333, 1.0000], dtype=torch.float64)
    """
    layers = list(layers)
    groups = {g: Elimination(r) for g, r in readers.items()}
    total = sum(s.units for s in groups.values())
    scores = {g: torch.ones(s.units, dtype=torch.float64) for g, s in groups.items()}
    place = 0
    while True:
        candidates = [g for g, s in groups.items() if s.kept > 1]
        if not candidates:
            return scores
        ratio = {
            g: float(groups[g].cost.min()) / _saved_macs(g, groups, layers) for g in candidates
        }
        g = min(candidates, key=ratio.__getitem__)
        s = groups[g]
        most = min(-(-s.units // STEPS), s.kept - 1)
        chosen = s.cost.argsort(stable=True)[:most]
        for unit in chosen.tolist():
            place += 1
            scores[g][unit] = place / total
        s.remove(chosen)
        for layer in layers:
            if layer.makes == g and layer.rows is not None and layer.reads in groups:
                groups[layer.reads].drop_outputs(layer.name, layer.rows[chosen].flatten())


def _saved_macs(g: str, groups: Mapping[str, Elimination], layers: Iterable[LayerWork]) -> float:
    """Return the MACs that the removal of one more unit saves; 1 if no layer is known."""
    n, kept = groups[g].units, groups[g].kept
    saved, known = 0.0, False
    for layer in layers:
        if g not in (layer.makes, layer.reads):
            continue
        known = True
        other = layer.makes if layer.reads == g else layer.reads
        if other == g:  # the layer reads the group that it produces: kept² → (kept − 1)²
            saved += layer.macs * (2 * kept - 1) / n**2
        else:
            share = groups[other].kept / groups[other].units if other in groups else 1.0
            saved += layer.macs * share / n
    return max(saved, 1e-9) if known else 1.0

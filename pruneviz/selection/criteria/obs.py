"""Optimal brain surgeon on units: which one can go at the least cost, once the others have made up for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

DAMPING = 3e-3  # of the mean diagonal of a co-moment
STEPS = 512  # removals of one at a time; a group with more units loses several at once


@dataclass(frozen=True, eq=False)
class Reader:
    """What a layer reads of a group.

    Parameters
    ----------
    weight : Tensor, float64, shape (outputs, n)
        Its weights for the n columns that belong to the group.
    covariance : Tensor, float64, shape (n, n)
        Of those columns.
    curvature : Tensor, float64, shape (outputs, outputs) or (outputs,)
        E[g gᵀ] at its outputs, or only the diagonal.
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
    """The work of a layer, and whose units it makes and reads.

    Parameters
    ----------
    name : str
    macs : float
        For one example.
    makes, reads : str
        Names of groups; ``""``: none that can be cut.
    rows : Tensor of int, shape (units, k), or None
        Which of its outputs belong to each unit that it makes.
    """

    name: str
    macs: float
    makes: str = ""
    reads: str = ""
    rows: Tensor | None = field(default=None)


class Surgeon:
    """One group, some of whose units are gone, and its readers, who have made up for them."""

    def __init__(self, readers: Iterable[Reader]) -> None:
        self.readers = [_Reader(r) for r in readers]
        self.units = len(self.readers[0].index)
        self.alive = torch.ones(self.units, dtype=torch.bool)
        self.price = self._prices()

    @property
    def left(self) -> int:
        """Number of units that stay."""
        return int(self.alive.sum())

    def remove(self, units: Tensor) -> None:
        """Remove units; every reader's other weights make up for them, as well as they can."""
        self.alive[units] = False
        if self.alive.any():
            for r in self.readers:
                r.without(r.index[units].flatten())
        self.price = self._prices()

    def drop_outputs(self, layer: str, rows: Tensor) -> None:
        """Leave outputs of a reader out of account: they are gone."""
        changed = [r for r in self.readers if r.layer == layer]
        for r in changed:
            r.blind(rows)
        if changed:
            self.price = self._prices()

    def _prices(self) -> Tensor:
        """Return what each unit costs now; infinite where it is gone."""
        left = self.alive.nonzero()[:, 0]
        price = torch.full((self.units,), torch.inf, dtype=torch.float64)
        total = sum((r.prices(left) for r in self.readers), torch.zeros(len(left)).double())
        price[left] = total.clamp(min=0)
        return price


class _Reader:
    """A reader's H⁻¹, its weights W, and G = Wᵀ F W."""

    def __init__(self, r: Reader) -> None:
        h, self.index, self.layer = r.covariance.double(), r.index, r.layer
        size = float(h.diagonal().mean())
        damped = h + (DAMPING * size if size > 0 else 1.0) * torch.eye(len(h), dtype=h.dtype)
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        self.weight = r.weight.double().clone()
        # what never varies costs nothing, whatever its weight: a bias takes up the constant
        self.weight[:, h.diagonal() <= 1e-12 * size] = 0
        f = r.curvature.double()
        self.curvature = torch.diag(f) if f.ndim == 1 else f.clone()
        self.quadratic = self.weight.T @ self.curvature @ self.weight

    def prices(self, units: Tensor) -> Tensor:
        """tr(G_pp ([H⁻¹]_pp)⁻¹) for each unit; shape (units,)."""
        at = self.index[units]
        rows, columns = at.unsqueeze(2), at.unsqueeze(1)
        own, cost = self.inverse[rows, columns], self.quadratic[rows, columns]  # (units, k, k)
        if at.shape[1] == 1:
            return (cost / own)[:, 0, 0]
        return torch.linalg.solve(own, cost).diagonal(dim1=-2, dim2=-1).sum(-1)

    def without(self, p: Tensor) -> None:
        """Take columns out, and let the others make up for them."""
        line = self.inverse[p]  # (k, n)
        step = torch.linalg.solve(line[:, p], line)  # ([H⁻¹]_pp)⁻¹ [H⁻¹]_p:
        cross = step.T @ self.quadratic[p]  # (n, n)
        self.quadratic -= cross + cross.T - step.T @ (self.quadratic[p][:, p] @ step)
        self.weight -= self.weight[:, p] @ step
        self.inverse -= line.T @ step
        for t in (self.inverse, self.quadratic, self.weight.T):
            t[p] = 0  # rounding: they are out
        self.inverse[:, p], self.quadratic[:, p] = 0, 0

    def blind(self, rows: Tensor) -> None:
        """Take outputs out of F, and so out of G."""
        w = self.weight[rows]  # (k, n)
        seen = self.curvature[rows] @ self.weight  # (k, n)
        cross = w.T @ seen
        self.quadratic -= cross + cross.T - w.T @ (self.curvature[rows][:, rows] @ w)
        self.curvature[rows], self.curvature[:, rows] = 0, 0


def eliminate(
    readers: Mapping[str, Iterable[Reader]], layers: Iterable[LayerWork] = ()
) -> dict[str, Tensor]:
    """Remove the units of all groups one after the other; return the place of each.

    When unit p goes, every reader's other weights make up for it at once. What then is lost, to
    second order in the readers' outputs, is

        tr(W_pᵀ F W_p ([H⁻¹]_pp)⁻¹),

    summed over the readers, with W a reader's weights, H the co-moment of what it reads and F the
    curvature at its outputs. Then W ← W − W_p ([H⁻¹]_pp)⁻¹ [H⁻¹]_p:, p leaves H⁻¹ likewise, and where
    p was a layer's output, F forgets it. Next goes the unit of least cost for the MACs it saves now.

    Parameters
    ----------
    readers : mapping of str to iterable of Reader
        Who reads each group; at least one.
    layers : iterable of Layer
        For the MACs that a unit saves; without any, units of all groups cost alike.

    Returns
    -------
    dict of str to Tensor, float64, shape (units,)
        Place in the elimination, in (0, 1]: the first to go scores least. The last unit of each group
        stays, with 1.

    References
    ----------
    LeCun, Denker, Solla 1989, "Optimal Brain Damage"; Hassibi & Stork 1992, "Second order
    derivatives for network pruning: Optimal Brain Surgeon", eq. 5: here for blocks of columns, and
    with the layer's outputs in the place of the loss.

    Examples
    --------
    >>> one = torch.eye(3, dtype=torch.float64)  # three units that have nothing to do with each other
    >>> reader = Reader(torch.tensor([[2.0, 1.0, 3.0]]), one, torch.ones(1), torch.tensor([[0], [1], [2]]))
    >>> eliminate({"fc1": [reader]})["fc1"]
    tensor([0.6667, 0.3333, 1.0000], dtype=torch.float64)
    """
    layers = list(layers)
    groups = {g: Surgeon(r) for g, r in readers.items()}
    total = sum(s.units for s in groups.values())
    scores = {g: torch.ones(s.units, dtype=torch.float64) for g, s in groups.items()}
    place = 0
    while True:
        open_ = [g for g, s in groups.items() if s.left > 1]
        if not open_:
            return scores
        ratio = {g: float(groups[g].price.min()) / _saves(g, groups, layers) for g in open_}
        g = min(open_, key=ratio.__getitem__)
        s = groups[g]
        most = min(-(-s.units // STEPS), s.left - 1)
        chosen = s.price.argsort(stable=True)[:most]
        for unit in chosen.tolist():
            place += 1
            scores[g][unit] = place / total
        s.remove(chosen)
        for layer in layers:
            if layer.makes == g and layer.rows is not None and layer.reads in groups:
                groups[layer.reads].drop_outputs(layer.name, layer.rows[chosen].flatten())


def _saves(g: str, groups: Mapping[str, Surgeon], layers: Iterable[LayerWork]) -> float:
    """MACs that one unit fewer of a group saves now; 1 where no layer is known."""
    n, left = groups[g].units, groups[g].left
    saved, known = 0.0, False
    for layer in layers:
        if g not in (layer.makes, layer.reads):
            continue
        known = True
        other = layer.makes if layer.reads == g else layer.reads
        if other == g:  # it makes what it reads
            saved += layer.macs * (2 * left - 1) / n**2
        else:
            share = groups[other].left / groups[other].units if other in groups else 1.0
            saved += layer.macs * share / n
    return max(saved, 1e-9) if known else 1.0

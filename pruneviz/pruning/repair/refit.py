"""How is one layer re-fitted? Its new weights are taken if rows that no fit saw say so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from pruneviz.core.errors import ArgumentError
from pruneviz.model.batches import Batch
from pruneviz.model.hooks import evaluating
from pruneviz.model.layers import consumers
from pruneviz.pruning.repair.least_squares import (
    HELD,
    KEPT,
    NARROW,
    Fit,
    HeldOut,
    Solution,
    Solver,
    WideFit,
)
from pruneviz.pruning.repair.rows import NotPaired, Survey, held_out, pairs, surveys, too_few
from pruneviz.pruning.repair.said import Said

JUDGES = 10  # held-out rows; fewer say nothing
AMPLE = 4  # rows a column; with fewer, stronger ridges are tried on held-out rows
STRONGER = (10, 100, 1000)  # times the ridge


class Examples:
    """The examples that a repair learns from, and a tenth of them by which it is judged.

    `only_judge`: another part of the code learns from them.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Sequence[str],
        batches: list[Batch],
        *,
        only_judge: bool = False,
    ) -> None:
        self.fit, self.rest = held_out(batches)
        if self.rest and not runs(model, self.rest[0]):
            self.fit, self.rest = batches, []  # it takes no other number of examples
        if only_judge:
            self.fit, batches = [], self.rest
        self.surveys = surveys(model, layers, batches)  # in forward order
        self.share = sum(b.examples for b in self.fit) / max(1, sum(b.examples for b in batches))

    def say_if_few(self, columns: dict[str, int], said: Said) -> None:
        """Say it before a fit if a layer has fewer rows than columns."""
        rows = {n: round(s.rows * self.share) for n, s in self.surveys.items()}
        said.before(too_few(rows, columns))


def runs(model: nn.Module, batch: Batch) -> bool:
    """Whether a model runs on a batch."""
    try:
        with evaluating(model):
            batch.run(model)
    except ArgumentError:
        return False
    return True


@dataclass
class Refit:
    """What a layer read and what it should give: for each group of a convolution, sums and rows."""

    fits: list[Fit]
    held: list[HeldOut] = field(default_factory=list)


def refit(
    model: nn.Module, new: nn.Module, layer: str, examples: Examples, groups: int, n: int,
    outputs: int, *, narrow: bool = False,
) -> Refit:  # fmt: skip
    """Return what is needed to fit a layer, of `n` columns and `outputs` in each of its groups.

    `narrow`: products are added up however many columns there are.

    Raises
    ------
    NotPaired
        If its rows in the two models do not belong together.
    """
    survey = examples.surveys.get(layer, Survey())
    if not survey.rows:
        raise NotPaired("no example reaches it")
    wide = n > NARROW and not narrow
    found = Refit([WideFit() if wide else Fit() for _ in range(groups)],
                  [HeldOut() for _ in range(groups)])  # fmt: skip
    wanted: list[tuple[list[Batch], Sequence[Fit | HeldOut], int]] = [
        (examples.fit, found.fits, KEPT if wide else 0),
        (examples.rest, found.held, HELD),
    ]
    for batches, takers, most in wanted:
        rows = survey.rows if batches is examples.fit else survey.rows * (1 - examples.share)
        numbers = rows * groups * (n + outputs)
        every = max(1, -(-int(numbers) // most)) if most else 1
        for x, z in pairs(model, new, layer, batches, survey, every):
            for b, taker in enumerate(takers):
                taker.add(x[b], z[b])
    if not all(fit.count for fit in found.fits):
        raise NotPaired("no example reaches it")
    if not all(fit.finite for fit in found.fits):
        raise ArgumentError(
            f"layer {layer!r} read or returned NaN or infinity. Look at the data and at the weights "
            "before it."
        )
    return found


def best(
    found: Refit,
    solvers: list[Solver],
    below: dict[str, list[Solution]],
    ridge: float,
    rows: Sequence[Tensor | None],
) -> tuple[str, list[Solution]]:
    """Return the rung that is taken, and its weights for each group of a layer.

    With few rows for the columns, larger ridges are tried as long as the error on held-out rows
    falls. If it is clearly larger than that of a rung below, this rung is taken. Without held-out
    rows nothing can be compared.
    """
    solved = [s.at(ridge) for s in solvers]
    held = found.held
    if not any(h.parts for h in held):
        return "lstsq", solved

    least, few = _errors(held, solved, rows), found.fits[0].count < AMPLE * solved[0][0].shape[1]
    for factor in STRONGER if ridge > 0 and few else ():
        stronger = [s.at(ridge * factor) for s in solvers]
        now = _errors(held, stronger, rows)
        if now.sum() >= least.sum():
            break
        solved, least = stronger, now
    rung = better_below(held, solved, below, rows)
    return ("lstsq", solved) if rung is None else (rung, below[rung])


def held_rows(
    model: nn.Module, new: nn.Module, layer: str, examples: Examples, groups: int, columns: int
) -> list[HeldOut]:
    """Return the held-out rows of a layer, for each of its groups; none if they cannot be paired.

    `columns`: of the inputs and outputs of a group together.
    """
    found = [HeldOut() for _ in range(groups)]
    if layer not in examples.surveys or layer not in consumers(new):  # a program has operators
        return []
    survey = examples.surveys[layer]
    numbers = survey.rows * (1 - examples.share) * groups * columns
    try:
        for x, z in pairs(
            model, new, layer, examples.rest, survey, max(1, -(-int(numbers) // HELD))
        ):
            for b, taker in enumerate(found):
                taker.add(x[b], z[b])
    except NotPaired:
        return []
    return found


def better_below(
    held: list[HeldOut],
    solved: list[Solution],
    below: dict[str, list[Solution]],
    rows: Sequence[Tensor | None],
) -> str | None:
    """Return the rung below that is clearly better on held-out rows; None if none is."""
    if not any(h.parts for h in held):
        return None

    all_below = {name: _errors(held, s, rows) for name, s in below.items()}
    rung = min(all_below, key=lambda name: float(all_below[name].sum()))
    sizes = torch.stack([h.sizes(r) for h, r in zip(held, rows, strict=True)]).sum()
    noise = 10 * torch.finfo(held[0].parts[0][0].dtype).eps * float(sizes)
    return rung if is_worse(_errors(held, solved, rows), all_below[rung], noise) else None


def _errors(
    held: list[HeldOut], solutions: list[Solution], rows: Sequence[Tensor | None]
) -> Tensor:
    """Return the squared error of each held-out row, over all groups of a layer; shape (rows,)."""
    each = (h.errors(s, r) for h, s, r in zip(held, solutions, rows, strict=True))
    return torch.stack(list(each)).sum(0)


def is_worse(errors: Tensor, others: Tensor, noise: float = 0.0) -> bool:
    """Whether squared errors are clearly larger than others, row by row; shapes (rows,).

    Their sum may be larger because of a single row, or by chance. So the difference, or the relative
    difference in which each row counts alike, must be more than two standard errors.

    >>> is_worse(torch.linspace(1.9, 2.1, 10), torch.ones(10))
    True
    >>> is_worse(torch.tensor([*[0.1] * 9, 99.0]), torch.ones(10))
    False
    """
    difference = errors - others
    if len(errors) < JUDGES or float(difference.sum()) <= noise:
        return False
    relative = difference / (errors + others).clamp(min=1e-300)
    return any(float(d.mean()) > 2 * float(d.std()) / len(d) ** 0.5 for d in (difference, relative))

"""What was removed from a model, how far its outputs are the same, and how that is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, GraphError
from pruneviz.core.groups import Groups
from pruneviz.core.plan import Plan, keep_all
from pruneviz.graph.find_groups import find_groups
from pruneviz.model.batches import listed
from pruneviz.model.hooks import evaluating, plain_torch
from pruneviz.pruning.equivalence import difference_of
from pruneviz.pruning.lossless import EQUAL_WEIGHTS, inactive_units, merged_outputs_agree
from pruneviz.pruning.shrink import Shrinker
from pruneviz.pruning.surgery.cut import CUTS_ATTRIBUTE, cuts_of
from pruneviz.pruning.surgery.removal import units_of_cut
from pruneviz.redundancy.bounds import WIDE_BOX
from pruneviz.redundancy.redundant import find_redundant

KINDS = ("exact", "exact-off-border", "observed", "approximate")
SAME_OUTPUT = 1e-9  # largest max|Δ| ÷ max|output| in float64 that counts as rounding
SAME_OUTPUT_FLOAT32 = 1e-4  # the same in float32, where an operator has no float64 kernel


@dataclass(frozen=True, eq=False)
class Certificate:
    """Result of `certify`.

    Parameters
    ----------
    removed : mapping of str to tuple of int
        For each group of the model before: the removed units.
    kind : str
        ``"exact"``: it is proved that the outputs are the same for every input of the box.
        ``"observed"``: the outputs were the same on these batches, without a proof for others.
        ``"exact-off-border"``: the removed units are proved constant but enter a zero-padded
        convolution, so that the outputs are the same except near the border.
        ``"approximate"``: the outputs differ.
    max_error : float
        max|Δ output| on these batches, in float64.
    scale : float
        max|output| of the model before.
    examples : int
        Number of compared examples.
    """

    removed: Mapping[str, tuple[int, ...]]
    kind: str
    max_error: float
    scale: float
    examples: int

    def __str__(self) -> str:
        n = sum(map(len, self.removed.values()))
        where = ", ".join(f"{len(u)} of {g}" for g, u in list(self.removed.items())[:4])
        where += ", …" if len(self.removed) > 4 else ""
        return (
            f"{self.kind}: {n:,} unit{'s' * (n != 1)} removed ({where or 'none'}); outputs differ "
            f"by at most {self.max_error:.1e} (of {self.scale:.1e}) on {self.examples:,} examples"
        )


@plain_torch()
def certify(
    before: nn.Module,
    after: nn.Module,
    batches: Iterable[Any],
    *,
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
) -> Certificate:
    """Compare a model with the smaller one made from it; say how far their outputs are the same.

    Parameters
    ----------
    before, after : nn.Module
        `after` comes from `shrink` or `prune` on `before`. Not changed.
    batches : iterable
        As for `collect`; targets are ignored.
    low, high : float or Tensor, optional
        The box of inputs for which ``"exact"`` must hold; by default any input.

    Returns
    -------
    Certificate

    Raises
    ------
    ArgumentError
        If there is no example, or the outputs of the two models have different shapes.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
    >>> with torch.no_grad():
    ...     model[0].weight[1], model[0].bias[1] = 0, -0.5  # dead
    >>> x = torch.randn(5, 2)
    >>> small = pv.shrink(model, pv.lossless_plan(model, x), example_input=x, repair="merge")
    >>> certificate = pv.certify(model, small, [x])
    >>> certificate.kind, dict(certificate.removed), certificate.max_error < 1e-12
    ('exact', {'0': (1,)}, True)
    """
    before, after = checks.unwrapped(before), checks.unwrapped(after)
    read_batches = listed(batches, "compare on")
    with evaluating(before):
        for batch in read_batches:
            batch.run(before)  # raises, and names the batch, if it does not fit
    data = [b.arguments for b in read_batches]
    error, scale, in_float64 = difference_of(before, after, data, varied=False)
    limit = SAME_OUTPUT if in_float64 else SAME_OUTPUT_FLOAT32
    examples = sum(b.examples for b in read_batches)
    args, kwargs = data[0]
    example = kwargs if kwargs and not args else args
    try:
        groups = find_groups(before, example, approximate=True)
        marks = units_of_cut(groups, cuts_of(after))
    except (GraphError, ArgumentError):
        groups, marks = None, {}
    removed = {g: tuple(np.flatnonzero(mark).tolist()) for g, mark in marks.items() if mark.any()}
    same = error <= limit * scale
    box = (-WIDE_BOX if low is None else low, WIDE_BOX if high is None else high)
    kind = "observed" if same else "approximate"
    if removed and groups is not None:
        cut = _Cut(before, after, groups, removed, example)
        inactive = cut.inactive(*box)
        if same and cut.is_proved(inactive):
            kind = "exact"
        elif not same and all(inactive.values()):
            # Constant units before a zero-padded convolution differ only at the border. Fold them
            # again: if `after` equals that model, nothing else was changed.
            folded = cut.merged()
            if difference_of(folded, after, data, varied=False)[0] <= SAME_OUTPUT_FLOAT32 * scale:
                kind = "exact-off-border"
    elif same and not removed and _same_models(before, after):
        kind = "exact"
    return Certificate(removed, kind, error, scale, examples)


class _Cut:
    """The units that were removed, and whether `after` is what their removal gives.

    What was compared on data is no proof for other inputs: also a unit that is silent on the data
    makes no difference there. So ``"exact"`` is said only of a model whose tensors are those of the
    removal, done again, of units that are proved to add nothing.
    """

    def __init__(
        self,
        before: nn.Module,
        after: nn.Module,
        groups: Groups,
        removed: Mapping[str, tuple[int, ...]],
        example: Any,
    ) -> None:
        self.before, self.after, self.example = before, after, example
        self.groups, self.removed = groups, removed
        keep = keep_all(groups)
        for name, units in removed.items():
            # a layer that never ran on the example is frozen, but may have been cut
            kept = keep.setdefault(name, torch.ones(groups[name].size, dtype=torch.bool))
            kept[list(units)] = False
        self.plan = Plan(keep, groups)
        self.shrinker = Shrinker(before, example)

    def inactive(self, low: Any, high: Any) -> dict[tuple[str, int], bool]:
        """Whether each removed unit is proved dead, constant or unread in the box, by weights alone."""
        marks = inactive_units(
            self.before, self.example, self.groups, None, low, high, off_border=True
        )
        # units of layers that never ran on the example have no marks: of them nothing is proved
        return {
            (g, u): g in marks and bool(marks[g][u])
            for g, units in self.removed.items()
            for u in units
        }

    def is_proved(self, inactive: Mapping[tuple[str, int], bool]) -> bool:
        """Whether `after` is the removal done again, of units that add nothing."""
        try:
            return self.is_plain(inactive) or self.is_merged(inactive)
        except GraphError:  # it cannot be done again here, and so nothing is proved
            return False

    def is_plain(self, inactive: Mapping[tuple[str, int], bool]) -> bool:
        """Whether all units are inactive, and only they were removed."""
        return all(inactive.values()) and _same_models(self.shrinker.quick(self.plan), self.after)

    def is_merged(self, inactive: Mapping[tuple[str, int], bool]) -> bool:
        """Whether each other unit repeats a kept one, which has taken over its columns."""
        pairs = find_redundant(self.before, groups=self.groups, threshold=EQUAL_WEIGHTS)
        rows = pairs[["group", "kept", "removed"]].itertuples(index=False, name=None)
        alike: dict[tuple[str, int], set[int]] = {(g, u): set() for g, u in inactive}
        for g, a, b in rows:
            for u, other in ((a, b), (b, a)):
                if (g, u) in alike and (g, other) not in inactive:  # the other one is kept
                    alike[g, u].add(other)
        repeats = all(proved or alike[unit] for unit, proved in inactive.items())
        return (
            repeats
            and merged_outputs_agree(self.before, self.example, self.plan)
            and _same_models(self.merged(), self.after)
        )

    def merged(self) -> nn.Module:
        """Return the removal done again: constants folded, and each column given to its twin."""
        small = self.shrinker.quick(self.plan)
        self.shrinker.repair(small, self.plan, "merge", None, None)
        return small


def _same_models(a: nn.Module, b: nn.Module) -> bool:
    """Whether two models have the same layers and settings, and the same tensors up to rounding."""
    one, other = (dict([*m.named_parameters(), *m.named_buffers()]) for m in (a, b))
    layers = dict(a.named_modules()), dict(b.named_modules())
    return (
        layers[0].keys() == layers[1].keys()
        and all(_same_settings(m, layers[1][n]) for n, m in layers[0].items())
        and one.keys() == other.keys()
        and all(
            t.shape == other[n].shape
            and t.dtype == other[n].dtype
            and _close(t, other[n].to(t.device))
            for n, t in one.items()
        )
    )


def _same_settings(a: nn.Module, b: nn.Module) -> bool:
    """Whether two layers are of one class, with equal attributes beside tensors and hooks."""
    known = {*vars(nn.Module()), CUTS_ATTRIBUTE}
    one, other = ({k: v for k, v in vars(m).items() if k not in known} for m in (a, b))
    return (
        type(a) is type(b)
        and one.keys() == other.keys()
        and all(v is other[k] or _equal(v, other[k]) for k, v in one.items())
    )


def _equal(a: Any, b: Any) -> bool:
    try:
        return type(a) is type(b) and bool(a == b)
    except (TypeError, ValueError, RuntimeError):  # it has no single answer, like an array
        return False


def _close(a: Tensor, b: Tensor) -> bool:
    numbers = a.is_floating_point() or a.is_complex()
    return torch.allclose(a, b, rtol=1e-5, atol=1e-7) if numbers else torch.equal(a, b)

"""Score a model by a criterion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Group, Groups
from pruneviz.core.names import unmasked_name
from pruneviz.core.plan import Scores
from pruneviz.core.slices import Slice
from pruneviz.evidence.evidence import Evidence
from pruneviz.model.hooks import evaluating
from pruneviz.model.tensors import Held, check_fit, held, matrix
from pruneviz.model.weights import places
from pruneviz.selection.criteria.registry import GRANULARITIES, Criterion
from pruneviz.selection.criteria.registry import criterion as registered
from pruneviz.selection.criteria.requirements import Facts

REDUCTIONS = ("mean", "sum", "max", "min", "first")


def score(
    model: nn.Module,
    criterion: str | Callable[[Tensor], Tensor],
    *,
    groups: Groups | None = None,
    evidence: Evidence | None = None,
    reduction: str = "mean",
    seed: int = 0,
) -> Scores:
    """Score every single weight of a model, or every unit of its groups: higher = more important.

    Parameters
    ----------
    model : nn.Module
        Not changed. It is taken out of DataParallel or torch.compile.
    criterion : str or callable
        A name of `CRITERIA`, or a function: from a weight tensor to scores of its shape; or, with
        `groups`, from a matrix with a row of numbers for each unit, shape (units, numbers), to
        scores of shape (units,).
    groups : Groups, optional
        From `find_groups`. Units are scored, those of each group that can be cut, by all weights
        that go with them: of producers and consumers, but no biases and no norms.
    evidence : Evidence, optional
        From `collect`, for criteria that need it. Layers that it has not seen are left out: they
        stay whole.
    reduction : str
        A unit has weights in several layers; the criterion scores each, and the score of the unit
        is their ``"mean"``, ``"sum"``, ``"max"`` or ``"min"``; ``"first"``: that of the first
        producer's own weights alone, the classic norm of a filter.
    seed : int
        For criteria that draw random numbers; the caller's random state is not touched.

    Returns
    -------
    Scores

    Raises
    ------
    ArgumentError
        If the criterion is unknown, scores other things than those asked for, or returns something
        else than scores of the right shape, or NaN; if it needs evidence and none, or too little, was
        passed; if the model has no weights, or `groups` or `evidence` are of another model.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> layer = torch.nn.Linear(2, 1)
    >>> with torch.no_grad():
    ...     _ = layer.weight.copy_(torch.tensor([[-3.0, 1.0]]))
    >>> pv.score(layer, "magnitude").values["weight"]
    tensor([[3., 1.]])
    >>> pv.score(layer, "magnitud")
    Traceback (most recent call last):
    ...
    pruneviz.ArgumentError: criterion 'magnitud' is unknown. Did you mean 'magnitude'? Known: fisher, lamp, magnitude, random, taylor, wanda.
    """
    model = checks.unwrapped(model)
    checks.choice(reduction, "reduction", REDUCTIONS)
    granularity = "weight" if groups is None else "unit"
    if callable(criterion):
        name = getattr(criterion, "__name__", type(criterion).__name__)
        chosen = Criterion(name, criterion, ("weight",), "layer", "", "", GRANULARITIES)
    else:
        chosen = registered(criterion, granularity)
    more: dict[str, Any] = {}
    if "generator" in chosen.needs:
        more["generator"] = torch.Generator().manual_seed(checks.count(seed, "seed"))
    if groups is not None:
        checks.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
        cut = [g for g in groups if not g.frozen]
        with evaluating(model):
            have = held(model)
            check_fit(groups, cut, have, "groups")
            facts = Facts(chosen, evidence, model)
            values: dict[str, Tensor]
            if "model" in chosen.needs:
                values = cast(dict[str, Tensor], chosen.fn(model, cut, evidence))
            else:
                values = {
                    g.name: _unit_scores(chosen, g, have, reduction, more, facts) for g in cut
                }
        return Scores(values, chosen.name, groups)
    with evaluating(model):
        facts = Facts(chosen, evidence, model)
        values = {
            name: _scored(chosen, name, place.tensor, more | facts.of(place.tensor, name))
            for name, place in places(model).items()
            if facts.has(name)
        }
    return Scores(values, chosen.name)


def _scored(chosen: Criterion, name: str, weight: Tensor, more: dict[str, Any]) -> Tensor:
    _check_finite(name, weight)
    values = chosen.fn(weight.clone(), **more)  # a copy: a criterion may write into it
    want = f"of the weight's shape {tuple(weight.shape)} for {name!r}"
    return _checked(chosen, values, tuple(weight.shape), want, repr(name))


def _unit_scores(
    chosen: Criterion, group: Group, have: dict[str, Held], reduction: str, more: dict[str, Any],
    facts: Facts,
) -> Tensor:  # fmt: skip
    """Score the units of a group; shape (units,)."""
    shape = (group.size,)
    what = f"one a unit, of shape {shape}, for group {group.name!r}"
    where = f"group {group.name!r}"
    fn = chosen.unit or chosen.fn
    weights = _weights(group, have)
    if "weight" not in chosen.needs:
        device = weights[0][1].device
        values = fn(torch.empty(shape, device=device), **more, **facts.of_units(group))
        return _checked(chosen, values, shape, what, where)
    weights = [w for w in weights if facts.has(unmasked_name(w[0].tensor))]
    if not weights:
        raise facts.missing(f"of group {group.name!r}")
    if reduction == "first":
        own = {(s.layer, s.dim) for s in group.slices if s.role == "out"}
        weights = [w for w in weights if (w[0].layer, w[0].dim) in own][:1] or weights[:1]
    scores = []
    for place, weight in weights:
        name = unmasked_name(place.tensor)
        _check_finite(name, weight)
        seen = {k: matrix(t, place) for k, t in facts.of(weight, name).items()}
        values = fn(matrix(weight, place), **more, **seen)
        scores.append(_checked(chosen, values, shape, what, where).to(weights[0][1].device))
    if reduction in ("max", "min"):
        return getattr(torch, f"a{reduction}")(torch.stack(scores), 0)
    total = torch.stack(scores).sum(0)
    return total / len(scores) if reduction == "mean" else total


def _weights(group: Group, have: dict[str, Held]) -> list[tuple[Slice, Tensor]]:
    """Return where the units of a group have weights, and those weights as the forward sees them."""
    found: dict[tuple[object, ...], tuple[Slice, Tensor]] = {}
    for s in group.slices:
        there = have[unmasked_name(s.tensor)]
        weight = there.visible
        if not (isinstance(there.tensor, nn.Parameter) and weight.is_floating_point()):
            continue
        if weight.shape != there.tensor.shape:  # such as the norms that weight_norm keeps
            continue
        module, attribute = there.holders[0]
        key = (id(module), attribute, s.dim, s.index.tobytes())  # a tied weight counts once
        found.setdefault(key, (s, weight))
    weights = list(found.values())
    matrices = [w for w in weights if w[1].ndim > 1]
    if not weights:
        raise ArgumentError(f"group {group.name!r} has no weights to score its units by.")
    return matrices or weights


def _check_finite(name: str, weight: Tensor) -> None:
    # a sum is ten times as quick, and finite only if all are
    if not (torch.isfinite(weight.sum()) or torch.isfinite(weight).all()):
        raise ArgumentError(
            f"{name!r} contains NaN or infinity: such weights cannot be scored. "
            "Train the model anew, or load a sound checkpoint."
        )


def _checked(
    chosen: Criterion, values: Any, shape: tuple[int, ...], what: str, where: str
) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != shape:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ArgumentError(
            f"criterion {chosen.name!r} must return scores {what}, but it returned {got}."
        )
    if torch.isnan(values.sum()) and torch.isnan(values).any():
        raise ArgumentError(f"criterion {chosen.name!r} returned NaN for {where}.")
    return values

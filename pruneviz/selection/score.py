"""How important is each weight, or each unit? `score` applies a criterion."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Group, Groups
from pruneviz.core.names import unmasked_name
from pruneviz.core.plan import LeftOut, Scores
from pruneviz.core.slices import Slice
from pruneviz.evidence.evidence import Evidence
from pruneviz.model.hooks import evaluating, plain_torch
from pruneviz.model.tensors import Held, check_fit, matrix, tensors_by_name
from pruneviz.model.weights import left_out, weight_places
from pruneviz.selection.criteria.registry import GRANULARITIES, Criterion
from pruneviz.selection.criteria.registry import criterion as registered
from pruneviz.selection.criteria.requirements import NoEvidenceError, Requirements

REDUCTIONS = ("mean", "sum", "max", "min", "first")


@plain_torch()
def score(
    model: nn.Module,
    criterion: str | Criterion | Callable[[Tensor], Tensor],
    *,
    groups: Groups | None = None,
    evidence: Evidence | None = None,
    reduction: str = "mean",
    strict: bool = False,
    seed: int = 0,
) -> Scores:
    """Score every single weight of a model, or every unit of its groups: higher = more important.

    Parameters
    ----------
    model : nn.Module
        Not changed. A model inside DataParallel or torch.compile is unwrapped.
    criterion : str, Criterion or callable
        A name from `CRITERIA` or one of its values, or a function from a weight tensor to scores of its shape. With
        `groups`: a function from a matrix with one row per unit, shape (units, numbers), to scores
        of shape (units,).
    groups : Groups, optional
        From `find_groups`. With groups, the units of each group that can be cut are scored. All
        weights of a unit count, in producers and consumers, but no biases and no norms. Units that
        no output needs score 0.
    evidence : Evidence, optional
        From `collect`, for criteria that need it. Layers without evidence get no scores, so
        `select` does not prune them; scores and plan name them (``left_out``). Nor do groups of
        which nothing is known.
    reduction : str
        A unit has weights in several tensors. The criterion scores it by each of them, and the
        unit's score is their ``"mean"``, ``"sum"``, ``"max"`` or ``"min"``; or ``"first"``: the
        score by the first producer's own weights alone, the classic norm of a filter.
    strict : bool
        Raise if `evidence` has nothing of a group, instead of leaving the group out.
    seed : int
        For criteria that draw random numbers. The caller's random state is not changed.

    Returns
    -------
    Scores

    Raises
    ------
    ArgumentError
        If the criterion is unknown, cannot score what was asked for (weights or units), or returns
        NaN or anything other than scores of the right shape; if it needs evidence, but none or too
        little was passed; if the model has no weights, or `groups` or `evidence` belong to another
        model.

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
    if isinstance(criterion, Criterion):
        chosen = criterion
    elif callable(criterion):
        name = getattr(criterion, "__name__", type(criterion).__name__)
        chosen = Criterion(name, criterion, ("weight",), "layer", "", "", GRANULARITIES)
    else:
        chosen = registered(criterion, granularity)
    arguments: dict[str, Any] = {}
    if "generator" in chosen.needs:
        arguments["generator"] = torch.Generator().manual_seed(checks.count(seed, "seed"))
    if groups is not None:
        checks.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
        return _score_groups(model, chosen, groups, evidence, reduction, arguments, strict)
    with evaluating(model):
        required = Requirements(chosen, evidence, model)
        values, rest = {}, left_out(model)
        for name, held in weight_places(model).items():
            weight = held.visible
            if required.has(name):
                values[name] = _scored(chosen, name, weight, arguments | required.of(weight, name))
            else:
                why = f"`evidence` has nothing of it that {chosen.name!r} could use"
                rest[name] = LeftOut(tuple(weight.shape), why)
    return Scores(values, chosen.name, left_out=rest)


def _score_groups(
    model: nn.Module, chosen: Criterion, groups: Groups, evidence: Evidence | None,
    reduction: str, arguments: dict[str, Any], strict: bool,
) -> Scores:  # fmt: skip
    """Score the units of all groups that can be cut and of which enough is known."""
    cut = groups.cuttable
    live = [g for g in cut if g.unused != "unread"]
    found: dict[str, Tensor] = {}
    unscored: dict[str, ArgumentError] = {}
    with evaluating(model):
        have = tensors_by_name(model)
        check_fit(groups, cut, have, "groups")
        required = Requirements(chosen, evidence, model)
        if "model" in chosen.needs:
            found = cast(dict[str, Tensor], chosen.fn(model, live, evidence)) if live else {}
            unscored = {g.name: required.unread(g) for g in live if g.name not in found}
        else:
            for g in live:
                try:
                    found[g.name] = _unit_scores(chosen, g, have, reduction, arguments, required)
                except NoEvidenceError as e:
                    unscored[g.name] = e
    if unscored and (strict or not found):
        raise next(iter(unscored.values()))
    found |= {g.name: torch.zeros(g.size) for g in cut if g not in live}
    why = f"`evidence` has nothing of it that {chosen.name!r} could use"
    rest = {n: LeftOut((groups[n].size,), why) for n in unscored}
    values = {g.name: found[g.name] for g in cut if g.name in found}
    return Scores(values, chosen.name, groups, rest)


def _scored(chosen: Criterion, name: str, weight: Tensor, arguments: dict[str, Any]) -> Tensor:
    _check_finite(name, weight)
    values = chosen.fn(weight.clone(), **arguments)  # a copy: a criterion may write into it
    expected = f"of the weight's shape {tuple(weight.shape)} for {name!r}"
    return _checked(chosen, values, tuple(weight.shape), expected, repr(name))


def _unit_scores(
    chosen: Criterion, group: Group, have: dict[str, Held], reduction: str,
    arguments: dict[str, Any], required: Requirements,
) -> Tensor:  # fmt: skip
    """Score the units of a group; shape (units,)."""
    shape = (group.size,)
    expected = f"one per unit, of shape {shape}, for group {group.name!r}"
    where = f"group {group.name!r}"
    fn = chosen.unit or chosen.fn
    weights = _weights(group, have)
    if "weight" not in chosen.needs:
        device = weights[0][1].device
        values = fn(torch.empty(shape, device=device), **arguments, **required.of_units(group))
        return _checked(chosen, values, shape, expected, where)
    weights = [w for w in weights if required.has(unmasked_name(w[0].tensor))]
    if not weights:
        raise required.missing(f"of group {group.name!r}")
    if reduction == "first":
        own = {(s.layer, s.dim) for s in group.slices if s.role == "out"}
        weights = [w for w in weights if (w[0].layer, w[0].dim) in own][:1] or weights[:1]
    scores = []
    for place, weight in weights:
        name = unmasked_name(place.tensor)
        _check_finite(name, weight)
        from_evidence = {k: matrix(t, place) for k, t in required.of(weight, name).items()}
        values = fn(matrix(weight, place), **arguments, **from_evidence)
        scores.append(_checked(chosen, values, shape, expected, where).to(weights[0][1].device))
    if reduction in ("max", "min"):
        return getattr(torch, f"a{reduction}")(torch.stack(scores), 0)
    total = torch.stack(scores).sum(0)
    return total / len(scores) if reduction == "mean" else total


def _weights(group: Group, have: dict[str, Held]) -> list[tuple[Slice, Tensor]]:
    """Return the slices where a group's units have weights, and the weights that forward uses."""
    found: dict[tuple[object, ...], tuple[Slice, Tensor]] = {}
    for s in group.slices:
        entry = have[unmasked_name(s.tensor)]
        weight = entry.visible
        numbers = weight.is_floating_point() or weight.is_complex()
        if not (isinstance(entry.tensor, nn.Parameter) and numbers):
            continue
        if weight.shape != entry.tensor.shape:  # such as the norms that weight_norm keeps
            continue
        module, attribute = entry.holders[0]
        key = (id(module), attribute, s.dim, s.index.tobytes())  # a tied weight counts once
        found.setdefault(key, (s, weight))
    weights = list(found.values())
    matrices = [w for w in weights if w[1].ndim > 1]
    if not weights:
        raise ArgumentError(
            f"the units of group {group.name!r} have no weights, so they cannot be scored. Leave the "
            "group out of `groups`."
        )
    return matrices or weights


def _check_finite(name: str, weight: Tensor) -> None:
    # the sum is ten times faster; if it is finite, then all weights are
    if not (torch.isfinite(weight.sum()) or torch.isfinite(weight).all()):
        raise ArgumentError(
            f"{name!r} contains NaN or infinity: such weights cannot be scored. "
            "Train the model anew, or load a sound checkpoint."
        )


def _checked(
    chosen: Criterion, values: Any, shape: tuple[int, ...], expected: str, where: str
) -> Tensor:
    if not isinstance(values, Tensor) or values.shape != shape:
        got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ArgumentError(
            f"criterion {chosen.name!r} must return scores {expected}, but it returned {got}."
        )
    if torch.isnan(values.sum()) and torch.isnan(values).any():
        raise ArgumentError(f"criterion {chosen.name!r} returned NaN for {where}.")
    return values

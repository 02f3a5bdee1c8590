"""Which weights, or which units, are removed? Those with the lowest scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, GraphError
from pruneviz.core.groups import Group, Groups
from pruneviz.core.names import layer_name
from pruneviz.core.plan import Plan, Scores
from pruneviz.model.hooks import plain_torch
from pruneviz.selection.criteria.registry import CRITERIA, SCOPES
from pruneviz.selection.drop import refusal_text
from pruneviz.selection.ranking import lowest


@plain_torch()
def select(
    scores: Scores,
    *,
    sparsity: float | Mapping[str, float] | None = None,
    threshold: float | None = None,
    scope: str | None = None,
    min_keep: int = 1,
    protect: Iterable[str] = (),
    round_to: int = 1,
) -> Plan:
    """Choose what to remove: the lowest scores, exactly as many as asked.

    Parameters
    ----------
    scores : Scores
        From `score`.
    sparsity : float or mapping of str to float
        Share to remove, in [0, 1): exactly ``round(sparsity * n)`` of the n weights of each layer
        (of the n units of each group), or of the whole model for the global scope. Of equal scores
        the lower index is removed first. A mapping gives a share to each layer, or group, that it
        names; nothing is removed from the others.
    threshold : float
        Remove every weight, or unit, with a score below it. Give this or `sparsity`.
    scope : str, optional
        ``"layer"``: each layer (group) loses the same share. ``"global"``: one ranking of all
        layers. Default: the criterion's own scope.
    min_keep : int
        The least number of weights to keep in each layer, or of units in each group (there ≥ 1).
    protect : iterable of str
        Names of layers or groups from which nothing is removed. A layer's name protects every group
        to which its units belong.
    round_to : int
        The number of kept units in each group is a multiple of it. Nothing is removed from a group
        that has fewer units.

    If `protect`, `min_keep` or `round_to` forbid the exact count, or parts of a group that must
    lose as many units each (``group.even``), the nearest possible lower count is removed.

    Returns
    -------
    Plan

    Raises
    ------
    ArgumentError
        If not exactly one of `sparsity` and `threshold` is given, a value is out of range, a layer
        is unknown, a score is NaN, or `round_to` is asked of single weights.
    GraphError
        If `sparsity` names a layer whose units cannot be cut.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> scores = pv.Scores({"fc.weight": torch.tensor([[3.0, 1.0, 2.0, 1.0]])}, "magnitude")
    >>> pv.select(scores, sparsity=0.25).keep["fc.weight"]
    tensor([[ True, False,  True,  True]])
    >>> pv.select(scores, threshold=2.5)
    Plan for 4 weights in 1 layer: keeps 1, sparsity 0.750
    """
    checks.kind(scores, "scores", Scores, "Make them: pv.score(model, 'magnitude').")
    groups = scores.groups
    min_keep = checks.count(min_keep, "min_keep", low=0 if groups is None else 1)
    round_to = checks.count(round_to, "round_to", low=1)
    if groups is None and round_to > 1:
        raise ArgumentError(
            "`round_to` is for units, but these are scores of single weights. "
            "Score units: pv.score(model, 'l2', groups=groups)."
        )
    if (sparsity is None) == (threshold is None):
        raise ArgumentError(
            "`select` takes either `sparsity`, such as 0.5, or `threshold`, such as 0.02: "
            + ("neither was passed." if sparsity is None else "both were passed.")
        )
    if scope is None:
        scope = CRITERIA[scores.criterion].scope if scores.criterion in CRITERIA else "layer"
    checks.choice(scope, "scope", SCOPES)
    if not scores.values:
        raise ArgumentError("`scores` is empty: there is nothing to choose from.")
    flat = {n: _flat(n, v, groups) for n, v in scores.values.items()}
    protected = set(_parts(checks.names(protect, "protect"), flat, groups))
    protected |= {g.name for g in groups or () if g.frozen}
    kept = {  # never removed: protected layers, and the best `min_keep` of each layer
        n: np.ones(v.size, bool) if n in protected else ~lowest(v, v.size - min_keep)
        for n, v in flat.items()
    }
    if threshold is not None:
        limit = checks.number(threshold, "threshold")
        drop = {n: (v < limit) & ~kept[n] for n, v in flat.items()}
    elif isinstance(sparsity, Mapping):
        drop = _by_layer(flat, kept, _shares(sparsity, flat, groups))
    elif scope == "layer":
        drop = _by_layer(flat, kept, dict.fromkeys(flat, checks.sparsity(sparsity)))
    else:
        drop = _globally(flat, kept, checks.sparsity(sparsity))
    if groups is not None:
        below = threshold is not None
        drop = {n: _allowed(groups[n], flat[n], drop[n], round_to, below) for n in flat}
    keep = {n: _like(~drop[n], scores.values[n]) for n in flat}
    return Plan(keep, groups, scores.left_out)


def lowest_kept(scores: Scores, plan: Plan) -> float:
    """Return the lowest kept score: the threshold that gives the same plan.

    >>> scores = Scores({"w": torch.tensor([1.0, 2.0, 3.0])}, "magnitude")
    >>> lowest_kept(scores, select(scores, sparsity=0.34))
    2.0
    """
    return min(
        (float(v[plan.keep[n]].min()) for n, v in scores.values.items() if plan.keep[n].any()),
        default=math.inf,
    )


def tensors_of_layers(layers: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return the names of the known tensors that belong to the named layers (or tensors), or raise.

    >>> tensors_of_layers(["fc1"], ["fc1.weight", "fc2.weight"])
    ['fc1.weight']
    """
    layers, known = checks.names(layers, "layers"), list(known)
    by_layer: dict[str, list[str]] = {name: [name] for name in known}
    for name in known:
        by_layer.setdefault(layer_name(name), []).append(name)
    names = [checks.layer(layer, by_layer) for layer in layers]
    return [tensor for name in names for tensor in by_layer[name]]


def _parts(
    names: Iterable[str], flat: Mapping[str, np.ndarray], groups: Groups | None
) -> list[str]:
    """Return the keys of `flat` that belong to the named layers, tensors or groups."""
    if groups is None:
        return tensors_of_layers(names, flat)
    found = [g.name for name in names for g in groups.groups_of(name)]
    return [name for name in found if name in flat and not groups[name].frozen]


def _allowed(
    group: Group, values: np.ndarray, drop: np.ndarray, round_to: int, below: bool
) -> np.ndarray:
    """Return the choice, (units,), or one of the nearest lower count that can be cut.

    `below`: the choice is all units below a threshold, so no other unit may be removed. Then the
    part with the fewest chosen units gives the count for each part; otherwise the mean does.
    """
    parts = group.even_parts
    chosen = [int(drop[p].sum()) for p in parts]
    most = min(chosen) if below else sum(chosen) // len(parts)
    most = min(most, *(p.size - 1 for p in parts))  # one is kept in each part
    while most and (group.size - most * len(parts)) % round_to:
        most -= 1
    new = np.zeros(group.size, bool)
    for p in parts:
        new[p[lowest(values[p], most)]] = True
    return new


def _by_layer(
    flat: dict[str, np.ndarray], kept: dict[str, np.ndarray], share: dict[str, float]
) -> dict[str, np.ndarray]:
    drop = {}
    for n, v in flat.items():
        k = min(round(share[n] * v.size), int((~kept[n]).sum()))
        drop[n] = lowest(v, k)
    return drop


def _globally(
    flat: dict[str, np.ndarray], kept: dict[str, np.ndarray], sparsity: float
) -> dict[str, np.ndarray]:
    removable = np.concatenate([~s for s in kept.values()])
    values = np.concatenate(list(flat.values()))
    drop = np.zeros(values.size, bool)
    drop[removable] = lowest(
        values[removable], min(round(sparsity * values.size), int(removable.sum()))
    )
    cuts = np.cumsum([v.size for v in flat.values()])[:-1]
    return dict(zip(flat, np.split(drop, cuts), strict=True))


def _shares(
    sparsity: Mapping[str, float], flat: dict[str, np.ndarray], groups: Groups | None
) -> dict[str, float]:
    share = dict.fromkeys(flat, 0.0)
    for layer, value in sparsity.items():
        parts = _parts([layer], flat, groups)
        asked = checks.sparsity(value, f"sparsity[{layer!r}]")
        if asked and not parts and groups is not None:
            raise GraphError(refusal_text(layer, groups.groups_of(layer)[0]))
        share.update(dict.fromkeys(parts, asked))
    return share


def _flat(name: str, values: torch.Tensor, groups: Groups | None) -> np.ndarray:
    if groups is not None and tuple(values.shape) != (groups[name].size,):
        raise ArgumentError(
            f"the scores of group {name!r} must be one per unit, shape ({groups[name].size},), but "
            f"have shape {tuple(values.shape)}."
        )
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()  # numpy has no bfloat16
    array = values.detach().cpu().numpy().reshape(-1)
    if np.isnan(array).any():
        raise ArgumentError(
            f"the scores of {name!r} contain NaN, which cannot be ranked. Correct the criterion, "
            "or the weights it was given."
        )
    return array


def _like(keep: np.ndarray, values: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(keep).view(values.shape).to(values.device)

"""Which weights go, given their scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch

from pruneviz import _check
from pruneviz.criteria import CRITERIA, SCOPES
from pruneviz.types import ArgumentError, Plan, Scores, layer_name


def select(
    scores: Scores,
    *,
    sparsity: float | Mapping[str, float] | None = None,
    threshold: float | None = None,
    scope: str | None = None,
    min_keep: int = 1,
    protect: Iterable[str] = (),
) -> Plan:
    """Choose what to drop: the lowest scores, exactly as many as asked.

    Parameters
    ----------
    scores : Scores
        From `score`.
    sparsity : float or mapping of str to float
        Share to drop, in [0, 1): exactly ``round(sparsity * n)`` of the n weights of each layer, or
        of the whole model for the global scope. Ties fall by index: the first goes first. A mapping
        gives each layer its own; layers it does not name stay whole.
    threshold : float
        Drop every weight with a score below it. Give this or `sparsity`.
    scope : str, optional
        ``"layer"``: each layer loses the same share. ``"global"``: all layers in one ranking.
        Default: the criterion's own.
    min_keep : int
        At least so many weights stay in each layer.
    protect : iterable of str
        Names of layers that stay whole. Where they, or `min_keep`, stand in the way, the nearest
        possible count below is dropped.

    Returns
    -------
    Plan

    Raises
    ------
    ArgumentError
        If not exactly one of `sparsity` and `threshold` is given, a value is out of range, a layer
        is unknown, or a score is NaN.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> scores = pv.Scores({"fc.weight": torch.tensor([[3.0, 1.0, 2.0, 1.0]])}, "magnitude")
    >>> pv.select(scores, sparsity=0.25).keep["fc.weight"]
    tensor([[ True, False,  True,  True]])
    >>> pv.select(scores, threshold=2.5)
    Plan for 4 weights in 1 layer: keeps 1, sparsity 0.750
    """
    _check.kind(scores, "scores", Scores, "Make them: pv.score(model, 'magnitude').")
    min_keep = _check.count(min_keep, "min_keep")
    if (sparsity is None) == (threshold is None):
        raise ArgumentError(
            "`select` takes either `sparsity`, such as 0.5, or `threshold`, such as 0.02: "
            + ("neither was passed." if sparsity is None else "both were passed.")
        )
    if scope is None:
        scope = CRITERIA[scores.criterion].scope if scores.criterion in CRITERIA else "layer"
    _check.choice(scope, "scope", SCOPES)
    if not scores.values:
        raise ArgumentError("`scores` is empty: there is nothing to choose from.")
    flat = {n: _flat(n, v) for n, v in scores.values.items()}
    whole = set(tensors(protect, flat))
    stay = {  # what no choice may touch: protected layers, and the best `min_keep` of each
        n: np.ones(v.size, bool) if n in whole else ~lowest(v, v.size - min_keep)
        for n, v in flat.items()
    }
    if threshold is not None:
        limit = _check.number(threshold, "threshold")
        drop = {n: (v < limit) & ~stay[n] for n, v in flat.items()}
    elif isinstance(sparsity, Mapping):
        drop = _by_layer(flat, stay, _shares(sparsity, flat))
    elif scope == "layer":
        drop = _by_layer(flat, stay, dict.fromkeys(flat, _check.sparsity(sparsity)))
    else:
        drop = _globally(flat, stay, _check.sparsity(sparsity))
    return Plan({n: _like(~drop[n], scores.values[n]) for n in flat})


def lowest(values: np.ndarray, k: int) -> np.ndarray:
    """Mark the k lowest of n values, ties by index; a boolean array of shape (n,).

    >>> lowest(np.array([2.0, 1.0, 2.0, 3.0]), 2)
    array([ True,  True, False, False])
    """
    if k <= 0:
        return np.zeros(values.size, bool)
    if k >= values.size:
        return np.ones(values.size, bool)
    kth = np.partition(values, k - 1)[k - 1]  # a partition is O(n), a sort is not
    marked = values < kth
    ties = np.flatnonzero(values == kth)
    marked[ties[: k - int(marked.sum())]] = True
    return marked


def lowest_kept(scores: Scores, plan: Plan) -> float:
    """Return the lowest score that stays: the threshold that a plan amounts to.

    >>> scores = Scores({"w": torch.tensor([1.0, 2.0, 3.0])}, "magnitude")
    >>> lowest_kept(scores, select(scores, sparsity=0.34))
    2.0
    """
    return min(
        (float(v[plan.keep[n]].min()) for n, v in scores.values.items() if plan.keep[n].any()),
        default=math.inf,
    )


def tensors(layers: Iterable[str], known: Iterable[str]) -> list[str]:
    """Names of the known tensors that the named layers (or tensors) stand for, or raise.

    >>> tensors(["fc1"], ["fc1.weight", "fc2.weight"])
    ['fc1.weight']
    """
    if isinstance(layers, str):
        layers = [layers]
    known = list(known)
    by_layer: dict[str, list[str]] = {name: [name] for name in known}
    for name in known:
        by_layer.setdefault(layer_name(name), []).append(name)
    names = [_check.choice(layer, "layer", by_layer, what="layer") for layer in layers]
    return [tensor for name in names for tensor in by_layer[name]]


def _by_layer(
    flat: dict[str, np.ndarray], stay: dict[str, np.ndarray], share: dict[str, float]
) -> dict[str, np.ndarray]:
    drop = {}
    for n, v in flat.items():
        k = min(round(share[n] * v.size), int((~stay[n]).sum()))
        drop[n] = lowest(v, k)
    return drop


def _globally(
    flat: dict[str, np.ndarray], stay: dict[str, np.ndarray], sparsity: float
) -> dict[str, np.ndarray]:
    free = np.concatenate([~s for s in stay.values()])
    values = np.concatenate(list(flat.values()))
    drop = np.zeros(values.size, bool)
    drop[free] = lowest(values[free], min(round(sparsity * values.size), int(free.sum())))
    cuts = np.cumsum([v.size for v in flat.values()])[:-1]
    return dict(zip(flat, np.split(drop, cuts), strict=True))


def _shares(sparsity: Mapping[str, float], flat: dict[str, np.ndarray]) -> dict[str, float]:
    share = dict.fromkeys(flat, 0.0)
    for layer, value in sparsity.items():
        for tensor in tensors([layer], flat):
            share[tensor] = _check.sparsity(value, f"sparsity[{layer!r}]")
    return share


def _flat(name: str, values: torch.Tensor) -> np.ndarray:
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()  # numpy knows no bfloat16
    array = values.detach().cpu().numpy().reshape(-1)
    if np.isnan(array).any():
        raise ArgumentError(
            f"the scores of {name!r} contain NaN, which cannot be ranked. Mend the criterion, "
            "or the weights it was given."
        )
    return array


def _like(keep: np.ndarray, values: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(keep).view(values.shape).to(values.device)

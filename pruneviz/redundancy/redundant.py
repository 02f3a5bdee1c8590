"""Which units are redundant? Pairs of units in which the kept one can replace the removed one."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Group, Groups
from pruneviz.core.imports import imported
from pruneviz.core.names import unmasked_name
from pruneviz.core.slices import ROLES
from pruneviz.evidence.evidence import Evidence, check_evidence
from pruneviz.evidence.moments import Moments
from pruneviz.model.hooks import evaluating, plain_torch
from pruneviz.model.layers import weight_shapes
from pruneviz.model.tensors import Held, check_fit, tensors_by_name
from pruneviz.redundancy.similarity import (
    correlated_pairs,
    limits,
    norms,
    pooled_covariance,
    similar_pairs,
)
from pruneviz.redundancy.unit_weights import parts_of, weight_rows

if TYPE_CHECKING:
    import pandas as pd


COLUMNS = ["group", "layer", "kept", "removed", "similarity", "scale", "offset"]
EQUAL_SIZE = 1 - 1e-6  # two sizes with a larger quotient are equal up to rounding


@plain_torch()
def find_redundant(
    model: nn.Module,
    *,
    groups: Groups,
    evidence: Evidence | None = None,
    top: int | None = None,
    threshold: float | None = None,
) -> pd.DataFrame:
    """Find redundant pairs of units, the most similar first: a_removed ≈ scale · a_kept + offset.

    Without evidence, units are compared by their weights: the cosine of all numbers of their
    producers, biases included. A batch norm is folded into the layer before it, so that channels
    are compared as they are after the norm. With a positively homogeneous activation, such as
    a ReLU, f(c x) = c f(x) for c > 0, similarity 1 means that one unit is a multiple of the other
    for every input. With another activation, such as a GELU, or for attention heads, this holds
    only if the scale is 1 as well.

    With evidence, units are compared by their activations: the absolute correlation at the input of
    the first consumer whose whole co-moment was collected. The scale, which can be negative, and
    the offset are those of least squares. Units that fired on the same few examples only are
    similar on these, but perhaps not on other data.

    Parameters
    ----------
    model : nn.Module
        Not changed. A model inside DataParallel or torch.compile is unwrapped.
    groups : Groups
        From `find_groups`. Both units of a pair belong to one group; frozen groups have no pairs.
    evidence : Evidence, optional
        From `collect`. A group is left out if no consumer of it has a whole co-moment.
    top : int, optional
        The largest number of pairs, over all groups. Default: 100, if there is no threshold.
    threshold : float, optional
        The least similarity: in [-1, 1], with evidence in [0, 1].

    Returns
    -------
    DataFrame
        ``group``; ``layer``, its first producer; ``kept`` and ``removed``, numbers of units in the
        group: kept is the unit with the larger norm, or variance, the first if they are equal;
        ``similarity``, ``scale``, ``offset``. A unit without weights, or with a constant
        activation, is in no pair: `find_inactive` lists it.

    Raises
    ------
    ArgumentError
        If `top` or `threshold` is out of range, groups or evidence belong to another model, weights
        or evidence contain NaN or infinity, or the evidence has no whole co-moment for any group.

    References
    ----------
    Srinivas and Babu 2015, "Data-free Parameter Pruning for Deep Neural Networks",
    https://arxiv.org/abs/1507.06149: similar neurons, and how one replaces the other.
    Kim et al. 2020, "Neuron Merging: Compensating for Pruned Neurons",
    https://arxiv.org/abs/2010.13160: cosine, scale, and batch norm.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> from pruneviz.redundancy.redundant import find_redundant
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> with torch.no_grad():
    ...     _ = model[0].weight.copy_(torch.tensor([[1.0, 2.0], [0.0, 1.0], [2.0, 4.0]]))
    ...     _ = model[0].bias.copy_(torch.tensor([1.0, -1.0, 2.0]))
    >>> groups = pv.find_groups(model, torch.zeros(1, 2))
    >>> find_redundant(model, groups=groups, threshold=0.9)
      group layer  kept  removed  similarity  scale  offset
    0     0     0     2        0         1.0    0.5     0.0
    """
    pd = imported("pandas")

    model = checks.unwrapped(model)
    checks.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
    top, _ = limits(top, threshold, low=-1 if evidence is None else 0)
    top = 100 if top is None and threshold is None else top
    frames, compared = [], False
    with evaluating(model):
        have = tensors_by_name(model)
        cut = groups.cuttable
        check_fit(groups, cut, have, "groups")
        if evidence is not None:
            check_evidence(evidence, weight_shapes(model))
        for g in cut:
            found = (
                _by_weights(g, have, top, threshold)
                if evidence is None
                else _by_activations(g, have, evidence, top, threshold)
            )
            for columns in found:
                compared = True
                frame = pd.DataFrame(dict(zip(COLUMNS[2:], columns, strict=True)))
                frames.append(frame.assign(group=g.name, layer=g.producers[0])[COLUMNS])
    if evidence is not None and cut and not compared:
        raise ArgumentError(
            "`evidence` has no whole co-moment for a consumer of any group, so nothing can be "
            "correlated. Collect it: pv.collect(model, batches, comoment=True)."
        )
    frames = [f for f in frames if len(f)]
    if not frames:
        types = {"kept": int, "removed": int, "similarity": float, "scale": float, "offset": float}
        return pd.DataFrame(columns=COLUMNS).astype(types)
    frame = pd.concat(frames, ignore_index=True)
    frame = frame.sort_values("similarity", ascending=False, kind="stable", ignore_index=True)
    return frame if top is None else frame.head(top)


def nearest_kept(
    g: Group, have: dict[str, Held], keep: Tensor, similarity: float
) -> tuple[Tensor, Tensor]:
    """Return for each unit its twin, the kept unit with the most similar weights, and the scale.

    Both of shape (units,). The scale is 0 if no kept unit is as similar as `similarity`. Call this
    under `evaluating`.
    """
    rows = weight_rows(g, have).double().cpu()
    size = norms(rows)
    unit = rows / size.clamp(min=torch.finfo(torch.float64).tiny).unsqueeze(1)
    twin, scale = torch.zeros(g.size, dtype=torch.long), torch.zeros(g.size, dtype=torch.float64)
    for members in parts_of(g, have, ROLES):
        part = torch.from_numpy(members)
        kept = part[keep.cpu()[part]]
        for chunk in part.split(1024):  # in chunks: a matrix of all pairs may not fit into memory
            cosine, at = (unit[chunk] @ unit[kept].T).max(1)
            twin[chunk] = kept[at]
            scale[chunk] = torch.where(cosine >= similarity, size[chunk] / size[kept[at]], 0.0)
    return twin, scale.nan_to_num(0, 0, 0)


def _by_weights(
    g: Group, have: dict[str, Held], top: int | None, threshold: float | None
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield kept, removed, similarity, scale and offset, for each part of a group."""
    rows = weight_rows(g, have)
    size = norms(rows).cpu().numpy()
    if not np.isfinite(size).all():
        raise ArgumentError(
            f"the weights or norms of group {g.name!r} contain NaN or infinity: they cannot be "
            "compared. Train the model anew, or load a sound checkpoint."
        )
    for units in parts_of(g, have, ROLES):
        part = rows if len(units) == g.size else rows[torch.from_numpy(units)]
        found = similar_pairs(part, top=top, threshold=threshold)
        i, j, similarity = (x.cpu().numpy() for x in found)
        kept, removed = _ordered(units[i], units[j], size)
        yield kept, removed, similarity, size[removed] / size[kept], np.zeros(len(i))


def _by_activations(
    g: Group,
    have: dict[str, Held],
    evidence: Evidence,
    top: int | None,
    threshold: float | None,
) -> Iterator[tuple[np.ndarray, ...]]:
    """Yield the same as `_by_weights`, by the input of a consumer with a whole co-moment."""
    for m, index, units in _moments_by_part(g, have, evidence):
        columns = m.mean.shape[-1]
        if int(index.max()) >= columns:
            raise ArgumentError(
                f"`evidence` is of another model: it saw {columns:,} inputs where group {g.name!r} is "
                f"read, but here the units reach to {int(index.max()) + 1:,}."
            )
        if not torch.isfinite(m.mean + m.variance).all():
            raise ArgumentError(
                f"`evidence` of what reads group {g.name!r} contains NaN or infinity. Look for the "
                "batch that holds them, and collect it anew."
            )
        # The co-moment is count × covariance. With means scaled by √count to match, correlations
        # and scales are the same, and no second matrix of that size is needed
        c, mean = m.comoment, m.mean * m.count**0.5
        found = correlated_pairs(c, mean=mean, index=index, top=top, threshold=threshold)
        i, j, similarity = (x.numpy() for x in found)
        variance = pooled_covariance(c, mean, index, index)
        kept, removed = _ordered(i, j, variance.numpy())
        scale = pooled_covariance(c, mean, index[removed], index[kept]) / variance[kept]
        centre = m.mean[index].mean(1)
        offset = centre[removed] - scale * centre[kept]
        yield units[kept], units[removed], similarity, scale.numpy(), offset.numpy()


def _ordered(i: np.ndarray, j: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the larger unit of each pair (the first if they are equal), and the other unit."""
    first = size[i] >= size[j] * EQUAL_SIZE
    return np.where(first, i, j), np.where(first, j, i)


def _moments_by_part(
    g: Group, have: dict[str, Held], evidence: Evidence
) -> Iterator[tuple[Moments, Tensor, np.ndarray]]:
    """Yield, for each part of a group: moments, the columns of its units in them, the units."""
    for s in g.slices:
        weight = have[unmasked_name(s.tensor)].visible
        if s.role != "in" or s.layer not in g.consumers or weight.ndim < 2:
            continue
        m, patches = evidence.inputs.get(s.reader), evidence.patches.get(s.reader)
        index = torch.from_numpy(s.index.astype(np.int64))  # (units, k)
        if m is not None and m.full:
            for units in parts_of(g, have, ("in",)):
                yield m, index[units], units
            return
        if patches is None or not patches.full:
            continue
        # take the middle tap of the kernel: the only one that never reads "same" padding
        kernel, channels = weight.shape[2:], weight.shape[1]
        middle = int(np.ravel_multi_index([k // 2 for k in kernel], kernel)) if kernel else 0
        for units in parts_of(g, have, ("in",)) if s.blocks > 1 else [np.arange(g.size)]:
            block = index[units[0]] // channels  # of each position
            at = index[units][:, block == block[0]] % channels * kernel.numel() + middle
            yield patches.each(itemgetter(int(block[0]))) if s.blocks > 1 else patches, at, units
        return

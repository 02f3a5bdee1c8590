"""How a model is rewritten with other weights but the same outputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Group, Groups
from pruneviz.core.names import unmasked_name
from pruneviz.model.forward import arguments, check_runs, copy_of
from pruneviz.model.hooks import evaluating, plain_torch
from pruneviz.model.tensors import Held, check_fit, tensors_by_name
from pruneviz.pruning.equivalence import difference_of

SAME_OUTPUT_ROUNDED = 1e-5  # max|Δ output| ÷ max|output|: the new weights are rounded to their type


@plain_torch()
def rescale(
    model: nn.Module,
    example_input: Any,
    *,
    groups: Groups,
    factor: float = 10.0,
    share: float = 0.5,
    seed: int = 0,
) -> nn.Module:
    """Return a model with the same outputs, in which some units have larger activations.

    The incoming weights and the bias of a unit are multiplied by a factor, and the columns that
    read it are divided by the same factor. ReLU passes a positive factor through, so only the
    weights change. A criterion that judges what a network *computes* must give the same ranking
    afterwards.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    example_input : Tensor, tuple or dict
        As for `find_groups`.
    groups : Groups
        From `find_groups` on the same model. Where a factor does not pass through (after GELU or
        sigmoid, before a softmax, in a norm over the units), the units of the group are not
        changed.
    factor : float
        Greater than 0. A power of two does not change the mantissa of most weights.
    share : float
        Share of the units of each group that are rescaled, in (0, 1], drawn at random. If all units
        of a group were rescaled, their ranking within the group would not change.
    seed : int
        For drawing the units; the caller's random state is not changed.

    Returns
    -------
    nn.Module
        A new model. Its outputs in eval mode were compared with the old ones, in float64, on
        `example_input` and variations of it. BatchNorm keeps its running variance, so after
        training or `recalibrate` the two models would differ.

    Raises
    ------
    ArgumentError
        If no group can be rescaled, `groups` are of another model, or an argument is out of range.

    References
    ----------
    Neyshabur, Salakhutdinov, Srebro 2015, "Path-SGD", arXiv:1506.02617, §3.1: networks of ReLU units
    stay the same when a unit's incoming weights are multiplied by c and its outgoing ones by 1/c.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.randn(5, 4)
    >>> groups = pv.find_groups(model, x)
    >>> louder = pv.rescale(model, x, groups=groups)
    >>> bool(torch.allclose(model(x), louder(x), atol=1e-5))
    True
    >>> ratio = (louder[0].bias / model[0].bias).round().tolist()
    >>> ratio.count(10.0), ratio.count(1.0)
    (4, 4)
    """
    model = checks.unwrapped(model)
    new, rescaled = rescaled_groups(model, example_input, groups, factor, share, seed)
    if not rescaled:
        raise ArgumentError(
            f"no unit of `model` ({type(model).__name__}) can be rescaled: a factor passes through ReLU, "
            "pooling and BatchNorm, but not through the operators that follow the units here."
        )
    return new


def rescaled_groups(
    model: nn.Module, example_input: Any, groups: Groups, factor: float, share: float, seed: int
) -> tuple[nn.Module, list[str]]:
    """Return the new model, and the names of the groups that were rescaled."""
    checks.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
    factor, share = checks.number(factor, "factor"), checks.number(share, "share", low=0, high=1)
    if factor <= 0 or share == 0:
        name, value = ("factor", factor) if factor <= 0 else ("share", share)
        raise ArgumentError(f"`{name}` must be greater than 0, but {value:g} was passed.")
    rng = np.random.default_rng(checks.count(seed, "seed"))
    cut = groups.cuttable
    example = arguments(example_input)
    check_runs(model, example_input)
    with evaluating(model):
        check_fit(groups, cut, tensors_by_name(model), "groups")
    new, rescaled = copy_of(model), []
    for g in cut:
        chosen = np.zeros(g.size, bool)
        chosen[rng.permutation(g.size)[: max(1, round(share * g.size))]] = True
        trial = copy_of(new)
        with torch.no_grad():
            _scale(g, tensors_by_name(trial), chosen, factor)
        if g.consumers and _same_outputs(model, trial, example):
            new = trial
            rescaled.append(g.name)
    return new, rescaled


def _scale(group: Group, tensors: Mapping[str, Held], chosen: np.ndarray, factor: float) -> None:
    """Multiply the producers of the chosen units by a factor, and divide their consumers by it."""
    scaled: set[tuple[int, int, str]] = set()  # a shared tensor must be scaled once
    consumers = set(group.consumers)
    for s in group.slices:
        entry = tensors[unmasked_name(s.tensor)]
        module, attribute = entry.holders[0]
        key = (id(entry.tensor), s.dim, s.role)
        # the input of a batch norm is scaled already; its weight would apply the factor twice
        norm = isinstance(module, _BatchNorm) and attribute == "weight"
        reads = s.role == "in" and s.layer in consumers
        t: Tensor = entry.tensor
        if key in scaled or norm or not t.is_floating_point() or not (s.role == "out" or reads):
            continue
        scaled.add(key)
        mark = torch.from_numpy(s.mark(tuple(t.shape), chosen).copy()).to(t.device)
        t[mark] = t[mark] * factor if s.role == "out" else t[mark] / factor


def _same_outputs(before: nn.Module, after: nn.Module, example: Any) -> bool:
    error, scale, _ = difference_of(before, after, [example])
    return error <= SAME_OUTPUT_ROUNDED * scale

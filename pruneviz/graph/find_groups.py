"""Which groups does a model have? Found on the graph of `torch.export`, atom by atom."""

from __future__ import annotations

from typing import Any

from torch import nn

from pruneviz.core.errors import GraphError
from pruneviz.core.groups import Groups
from pruneviz.graph.grouping import build_groups
from pruneviz.graph.silence import freeze_unfoldable
from pruneviz.graph.state import Walk
from pruneviz.graph.trace import trace
from pruneviz.graph.walk import walk
from pruneviz.model.forward import check_runs, quiet
from pruneviz.model.hooks import evaluating, plain_torch


@plain_torch()
def find_groups(model: nn.Module, example_input: Any, *, approximate: bool = False) -> Groups:
    """Find which units of a model can only be cut together, and which cannot be cut at all.

    A unit is a neuron of a Linear, a channel of a convolution, a whole attention head, a column of
    an embedding. The model is exported once with `torch.export`; on its graph every index of every
    parameter is followed to the operator that sums over it. Then every second unit is silenced and
    the graph runs once. A group is frozen if its silenced units arrive there neither as 0 nor as a
    constant that a bias can take up.

    Parameters
    ----------
    model : nn.Module
        In any mode. Not changed.
    example_input : Tensor, tuple or dict
        Arguments of the forward; a tuple holds positional arguments, a dict keyword arguments.
    approximate : bool
        Whether units may be cut over which a norm runs (LayerNorm, GroupNorm, RMSNorm). The norm
        then runs over the kept units: the result is exact only up to this re-normalisation.

    Returns
    -------
    Groups
        In the order of the forward. A group that cannot be cut has the reason in ``frozen``: its
        units are the model's output, a softmax runs over them, an operator has no rule, …
        ``unused`` marks groups whose units no output needs, and layers that did not run on the
        example; these come last, and are frozen. `lossless_plan` drops the units of both.

    Raises
    ------
    ArgumentError
        If the example input does not fit, or the model's forward raises.
    GraphError
        If `torch.export` cannot follow the model.

    References
    ----------
    Fang, Ma, Song, Mi, Wang 2023, "DepGraph: Towards Any Structural Pruning", arXiv:2301.12900,
    do this layer by layer; here it is done index by index.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> groups = pv.find_groups(model, torch.zeros(1, 4))
    >>> groups["0"].size, groups["0"].consumers
    (8, ('2',))
    >>> groups["2"].frozen
    "its units are the model's output"
    """
    return build_groups(traced_walk(model, example_input), approximate=approximate)


def traced_walk(model: nn.Module, example_input: Any) -> Walk:
    """Trace and walk a model; freeze the groups whose silenced units still have an effect."""
    w = walk(trace(model, example_input))
    try:
        with quiet(), evaluating(w.traced.model):
            freeze_unfoldable(w)
    except Exception as e:
        check_runs(model, example_input)  # raises if the model itself fails on the example
        raise GraphError(f"the exported graph of `model` does not run: {e}") from e
    return w


__all__ = ["find_groups"]

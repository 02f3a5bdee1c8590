"""Find the groups of a model: on the graph of `torch.export`, atom by atom."""

from __future__ import annotations

from typing import Any

from torch import nn

from pruneviz.core.errors import GraphError
from pruneviz.core.groups import Groups
from pruneviz.graph.grouping import build
from pruneviz.graph.silence import settle
from pruneviz.graph.state import Walk
from pruneviz.graph.trace import trace
from pruneviz.graph.walk import walk
from pruneviz.model.forward import check_runs, quiet
from pruneviz.model.hooks import evaluating


def find_groups(model: nn.Module, example_input: Any, *, approximate: bool = False) -> Groups:
    """Find which units of a model can only be cut together, and which cannot be cut at all.

    A unit is a neuron of a Linear, a channel of a convolution, a whole attention head, a column of
    an embedding. The model is exported once with `torch.export`; on its graph every index of every
    parameter is followed to where it ends. Then one half of all units is silenced, and the other:
    what does not arrive as 0, or as a constant that a bias can take up, is frozen.

    Parameters
    ----------
    model : nn.Module
        In any mode. Not changed.
    example_input : Tensor, tuple or dict
        Arguments of the forward; a tuple holds positional arguments, a dict keyword arguments.
    approximate : bool
        Whether units may be cut over which a norm runs (LayerNorm, GroupNorm, RMSNorm). The norm
        then runs over those that stay: exact only up to this re-normalisation.

    Returns
    -------
    Groups
        In the order of the forward. A group that cannot be cut says why in ``frozen``: its units
        are the model's output, a softmax runs over them, an operator has no rule, …

    Raises
    ------
    ArgumentError
        If the example input does not fit, or the model's forward raises.
    GraphError
        If `torch.export` cannot follow the model.

    References
    ----------
    Fang, Ma, Song, Mi, Wang 2023, "DepGraph: Towards Any Structural Pruning", arXiv:2301.12900,
    does this layer by layer; here it is done index by index.

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
    return build(walked(model, example_input), approximate=approximate)


def walked(model: nn.Module, example_input: Any) -> Walk:
    """Trace and walk a model, and freeze what does not fall silent."""
    w = walk(trace(model, example_input))
    try:
        with quiet(), evaluating(w.traced.model):
            settle(w)
    except Exception as e:
        check_runs(model, example_input)  # is it the model, or the example?
        raise GraphError(f"the exported graph of `model` does not run: {e}") from e
    return w


__all__ = ["find_groups"]

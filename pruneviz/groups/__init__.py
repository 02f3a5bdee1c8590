"""Find the groups of a model: on the graph of `torch.export`, atom by atom."""

from __future__ import annotations

from typing import Any

from torch import nn

from pruneviz.group import Groups
from pruneviz.groups.build import build
from pruneviz.groups.silence import settle
from pruneviz.groups.trace import quiet, trace
from pruneviz.groups.walk import Walk, walk
from pruneviz.hooks import evaluating


def find_groups(model: nn.Module, example_input: Any, *, approximate: bool = False) -> Groups:
    """Find which units of a model can only be cut together, and which cannot be cut at all."""
    return build(walked(model, example_input), approximate=approximate)


def walked(model: nn.Module, example_input: Any) -> Walk:
    """Trace and walk a model, and freeze what does not fall silent."""
    w = walk(trace(model, example_input))
    with quiet(), evaluating(w.traced.model):
        settle(w)
    return w


__all__ = ["find_groups"]

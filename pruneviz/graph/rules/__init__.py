"""What does each operator do to atoms? All rules are registered here; `rule_of` finds one.

A rule knows the walk's state and the operands of one node; it never looks at data.
"""

from __future__ import annotations

import torch
from torch.fx import Node

from pruneviz.graph.rules import indexing, norms, products, shapes
from pruneviz.graph.rules.pointwise import pointwise, random_numbers, recurrent
from pruneviz.graph.state import RULES, Rule
from pruneviz.graph.values import POINTWISE, name_of

# an operator without a rule freezes its operands, so every file of rules must be loaded
__all__ = ["indexing", "norms", "products", "rule_of", "shapes"]


def rule_of(node: Node) -> Rule | None:
    """Return the rule for a node; None if it has none, and then its operands are frozen."""
    name = name_of(node)
    if not name:
        return None
    if name == "view" and "dtype" in str(node.target):
        return None
    if name in RULES:
        return RULES[name]
    if name.split("_")[0] in ("lstm", "gru", "rnn"):
        return recurrent
    tags = set(getattr(node.target, "tags", ()))
    if torch.Tag.nondeterministic_seeded in tags and "dropout" not in name and name != "rrelu":
        return random_numbers
    packet = getattr(torch.ops.aten, name, None)
    for overload in packet.overloads() if packet is not None else ():
        tags |= set(getattr(packet, overload).tags)
    if torch.Tag.pointwise in tags or name in POINTWISE:
        return pointwise
    return None

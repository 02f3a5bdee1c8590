"""All rules, registered."""

from pruneviz.groups import moves, norms, products, shapes
from pruneviz.groups.rules import rule_of

__all__ = ["moves", "norms", "products", "rule_of", "shapes"]

"""Which part of the evidence does a criterion get? For a weight tensor, or for a group of units."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Group
from pruneviz.core.names import reader_name
from pruneviz.evidence.evidence import Evidence, check_evidence
from pruneviz.model.layers import blocks_of, consumers, shaped, weight_shapes
from pruneviz.model.tensors import tensors_by_name
from pruneviz.selection.criteria.registry import Criterion

HOW_TO_COLLECT = {
    "grad_sq": "gradients, but `evidence` has none. Collect them: "
    "pv.collect(model, batches, loss=F.cross_entropy).",
    "input_sq": "what the layers read. Collect it: pv.collect(model, batches).",
}


class NoEvidenceError(ArgumentError):
    """The evidence has nothing of a group, or of a weight, that a criterion could use."""


class Requirements:
    """The part of the evidence that a criterion needs.

    Parameters
    ----------
    chosen : Criterion
    evidence : Evidence or None
    model : nn.Module

    Raises
    ------
    ArgumentError
        If the criterion needs evidence, but none was passed, or that of another model.
    """

    def __init__(self, chosen: Criterion, evidence: Evidence | None, model: nn.Module) -> None:
        self.chosen = chosen
        self.needs = [n for n in chosen.evidence if n not in ("reads", "model")]
        self.layers = consumers(model) if chosen.evidence else {}
        self.given = evidence
        # each name of a weight to the name that the evidence has: a tied weight has several
        self.known_as: dict[str, str] = {}
        if not chosen.evidence:
            return
        if evidence is None:
            raise ArgumentError(
                f"criterion {chosen.name!r} needs evidence, but none was passed. Collect it: "
                f"pv.collect(model, batches{', loss=F.cross_entropy' * self.chosen.needs_gradients})."
            )
        check_evidence(evidence, weight_shapes(model))
        if self.chosen.needs_gradients and not evidence.output_grad:
            raise self.missing("")
        by_tensor: dict[int, list[str]] = {}
        for name, h in tensors_by_name(model).items():
            by_tensor.setdefault(id(h.tensor), []).append(name)
        for names in by_tensor.values():
            known = next((n for n in names if self._known(n)), None)
            self.known_as |= dict.fromkeys(names, known) if known is not None else {}

    def has(self, weight: str) -> bool:
        """Whether there is evidence for a weight, if any is needed."""
        return not self.needs or weight in self.known_as

    def of(self, weight: Tensor, name: str) -> dict[str, Tensor]:
        """Return what is needed for a weight: tensors of its shape."""
        found = {}
        for need in self.needs:
            assert self.given is not None
            known = self.known_as[name]
            if need == "input_sq":
                found[need] = self._input_sq(known).to(weight.device)
            else:
                found[need] = getattr(self.given, need)[known].to(weight.device)
        return found

    def of_units(self, group: Group) -> dict[str, Any]:
        """Return the moments of a group's units at their first consumer: shape (units, k)."""
        if "reads" not in self.chosen.evidence:
            return {}
        assert self.given is not None
        try:
            return {"reads": self.given.of_units(group)[1]}
        except ArgumentError as e:
            raise NoEvidenceError(str(e)) from None

    def unread(self, group: Group) -> NoEvidenceError:
        """Return the error of a group of which no reader has a co-moment."""
        return NoEvidenceError(
            f"criterion {self.chosen.name!r} needs the co-moment of what reads group {group.name!r} "
            f"({', '.join(group.consumers) or 'no layer'}), but `evidence` has none. Protect the group, "
            "or collect with comoment='all'."
        )

    def missing(self, where: str) -> NoEvidenceError:
        """Return an error that says what is missing and how to collect it."""
        how = HOW_TO_COLLECT["grad_sq" if self.chosen.needs_gradients else "input_sq"]
        of = f" for the layers {where}" if where else ""
        return NoEvidenceError(f"criterion {self.chosen.name!r} needs{of} {how}")

    def _known(self, name: str) -> bool:
        assert self.given is not None
        layer = reader_name(name)
        return all(
            layer in self.given.inputs and name.endswith("weight") and layer in self.layers
            if need == "input_sq"
            else name in getattr(self.given, need)
            for need in self.needs
        )

    def _input_sq(self, name: str) -> Tensor:
        """Return the mean square of what each weight multiplies; shape of the weight."""
        assert self.given is not None
        module = self.layers[reader_name(name)]
        groups, outputs, n = blocks_of(module).shape
        square = self.given.columns(reader_name(name)).square  # (n,), (groups, n) or (channels,)
        # (channels,): no patches were collected, so repeat a channel for each tap of the kernel
        square = square.flatten().repeat_interleave(groups * n // square.numel())
        return shaped(module, square.reshape(groups, 1, n).expand(groups, outputs, n))

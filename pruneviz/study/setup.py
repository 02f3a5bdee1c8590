"""What all rows of a sweep share: arguments checked once, evidence collected once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch.nn.functional as F
from torch import nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Groups, check_some_cuttable
from pruneviz.core.plan import Scores
from pruneviz.evidence.collect import collect
from pruneviz.evidence.evidence import Evidence
from pruneviz.graph.find_groups import find_groups
from pruneviz.metrics.cost import measure
from pruneviz.model.batches import listed
from pruneviz.pruning.repair.ladder import RUNGS, check_repair_data
from pruneviz.selection.criteria.registry import CRITERIA, GRANULARITIES, Criterion
from pruneviz.selection.criteria.registry import criterion as registered
from pruneviz.selection.criteria.requirements import Requirements
from pruneviz.selection.score import score
from pruneviz.storage.fingerprint import fingerprint
from pruneviz.study.variants import Variants


@dataclass(frozen=True, eq=False)
class Setup:
    """The checked arguments that all rows share, with groups found and evidence collected.

    Parameters
    ----------
    model : nn.Module
    example_input : Tensor, tuple or dict
    criteria : tuple of Criterion
    granularity : mapping of str to str
        Name of a criterion to ``"weight"`` or ``"unit"``.
    groups, evidence : Groups, Evidence or None
    batches : list or None
    """

    model: nn.Module
    example_input: Any
    criteria: tuple[Criterion, ...]
    granularity: Mapping[str, str]
    groups: Groups | None
    evidence: Evidence | None
    batches: list[Any] | None

    @classmethod
    def of(
        cls,
        model: nn.Module,
        example_input: Any,
        names: Iterable[Any],
        *,
        granularity: str | None,
        groups: Groups | None,
        repairs: Iterable[Any],
        evidence: Evidence | None,
        batches: Iterable[Any] | None,
    ) -> Setup:
        """Check the arguments; find groups and collect evidence if they are needed."""
        if groups is not None:
            checks.kind(
                groups, "groups", Groups, "Make them: pv.find_groups(model, example_input)."
            )
        if granularity is not None:
            checks.choice(granularity, "granularity", GRANULARITIES)
        if groups is not None and granularity == "weight":
            raise ArgumentError(
                "`groups` are for units, but granularity='weight' was passed. Leave out one of them."
            )
        default = granularity or ("weight" if groups is None else "unit")
        chosen = {}  # name of a criterion -> its granularity
        for name in names:
            checks.choice(name, "criterion", CRITERIA, what="criterion")
            only_units = (
                granularity is None and groups is None and default not in CRITERIA[name].granularity
            )
            chosen[name] = "unit" if only_units else default
            registered(name, chosen[name])
        found = tuple(CRITERIA[name] for name in chosen)
        units = "unit" in chosen.values()
        rungs = [checks.choice(r, "repair", RUNGS) for r in repairs]
        for rung in rungs:
            if rung in ("fold", "merge") and "weight" in chosen.values():
                first = next(n for n in chosen if chosen[n] == "weight")
                raise ArgumentError(
                    f"repair {rung!r} is for units, but criterion {first!r} scores single weights "
                    "here. For those pass 'none' or 'lstsq'. Or pass granularity='unit', or run "
                    "two sweeps."
                )
            if rung != "none":
                check_repair_data(rung, evidence, batches)
        measure(model, example_input)  # raises if the example does not fit
        data = None if batches is None else listed(batches, "learn from")
        needed = any(c.evidence for c in found) or {"fold", "merge"} & set(rungs)
        if evidence is None and data is not None and needed:
            gradients = any({"grad_sq", "fisher", "model"} & set(c.evidence) for c in found)
            loss = F.cross_entropy if gradients else None
            evidence = collect(model, data, loss=loss, progress=False)
        for c in found:
            Requirements(
                c, evidence, model
            )  # raises if it lacks something that the criterion needs
        if units and groups is None:
            groups = find_groups(model, example_input)
        if groups is not None:
            check_some_cuttable(groups)
        return cls(model, example_input, found, chosen, groups, evidence, data)

    def score(self, name: str, seed: int) -> Scores:
        """Score weights, or units, by one of the criteria."""
        for c in self.criteria:
            CRITERIA[c.name] = (
                c  # another process does not have the criteria that a user registered
            )
        groups = self.groups if self.granularity[name] == "unit" else None
        return score(self.model, name, groups=groups, evidence=self.evidence, seed=seed)

    def variants(self, *, share: bool) -> Variants:
        """Return the `Variants` that prune the model."""
        return Variants(self.model, self.example_input, evidence=self.evidence, batches=self.batches,
                        share=share)  # fmt: skip

    def fingerprints(self, evidence: Evidence | None, groups: Groups | None) -> dict[str, str]:
        """Return fingerprints of the arguments; `evidence` and `groups` as they were passed."""
        return {
            "model": fingerprint(self.model), "example_input": fingerprint(self.example_input),
            "code of the criteria": fingerprint([(c.fn, c.unit) for c in self.criteria]),
            "batches": fingerprint(self.batches), "evidence": fingerprint(evidence),
            "groups": fingerprint(groups),
        }  # fmt: skip

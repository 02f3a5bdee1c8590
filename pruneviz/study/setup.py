"""What all rows of a sweep share: arguments checked once, evidence collected once."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Groups, check_some_cuttable
from pruneviz.core.plan import Scores
from pruneviz.evidence.evidence import Evidence
from pruneviz.pruning.repair.distil import rung_of
from pruneviz.pruning.repair.ladder import check_repair_data
from pruneviz.pruning.session import Session
from pruneviz.selection.criteria.registry import CRITERIA, GRANULARITIES, Criterion
from pruneviz.selection.criteria.registry import criterion as registered
from pruneviz.selection.criteria.requirements import Requirements
from pruneviz.study.variants import Variants

_taking = threading.Lock()
_taken: weakref.WeakSet[Session] = weakref.WeakSet()  # sessions that a thread works with


@dataclass(frozen=True, eq=False)
class Setup:
    """The checked arguments that all rows share, with groups found and evidence collected.

    Parameters
    ----------
    session : Session
    criteria : mapping of str to Criterion
    granularity : mapping of str to str
        Name of a criterion to ``"weight"`` or ``"unit"``.
    """

    session: Session
    criteria: Mapping[str, Criterion]
    granularity: Mapping[str, str]

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
        loss: Any = None,
        draw: Any = None,
        as_program: bool = False,
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
        rungs = [rung_of(r) for r in repairs]
        for rung in rungs:
            if rung in ("fold", "merge") and "weight" in chosen.values():
                first = next(n for n in chosen if chosen[n] == "weight")
                raise ArgumentError(
                    f"repair {rung!r} is for units, but criterion {first!r} scores single weights "
                    "here. For those pass 'none', 'lstsq' or 'distil'. Or pass granularity='unit', or "
                    "run two sweeps."
                )
            if rung != "none":
                check_repair_data(rung, evidence, batches)
        session = Session(model, example_input, batches=batches, loss=loss, draw=draw,
                          evidence=evidence, groups=groups, as_program=as_program)  # fmt: skip
        _ = session.dense  # raises if the example does not fit
        criteria = {name: CRITERIA[name] for name in chosen}
        session.evidence_for(criteria.values(), rungs)  # collected once for all of them
        setup = cls(session, criteria, chosen)
        for name in criteria:
            setup.requirements(name)  # raises if there is not what it needs
        if "unit" in chosen.values():
            check_some_cuttable(session.groups)
        return setup

    def requirements(self, name: str) -> Requirements:
        """Return what a criterion needs from the evidence; or raise."""
        chosen = self.criteria[name]
        return Requirements(chosen, self.session.evidence_for([chosen]), self.session.model)

    def scores(self, name: str, seed: int) -> Scores:
        """Score weights, or units, by one of the criteria."""
        return self.session.scores(self.criteria[name], self.granularity[name], seed=seed)

    def variants(self, *, share: bool) -> Variants:
        """Return what prunes the model, for one thread: the first takes the session itself."""
        with _taking:
            session = self.session if self.session not in _taken else self.session.clone()
            _taken.add(session)
        return Variants(session, share=share)

    def compared(self, evidence: Evidence | None, groups: Groups | None) -> dict[str, Any]:
        """Return what another call must have passed, too; `evidence` and `groups` as the caller did."""
        session, criteria = self.session, self.criteria.values()
        return {
            "model": session.model, "example_input": session.example_input,
            "code of the criteria": [(c.fn, c.unit) for c in criteria],
            "batches": session.batches, "evidence": evidence, "groups": groups,
            "loss": session.loss, "draw": session.draw,
        }  # fmt: skip

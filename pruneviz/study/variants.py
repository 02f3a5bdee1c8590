"""How one model is pruned many times, for `sweep`, `sensitivity` and the what-if panel."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain

import numpy as np
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruneviz.core.errors import ArgumentError
from pruneviz.core.plan import Plan, Scores
from pruneviz.metrics.cost import Cost, measure
from pruneviz.model.weights import weight_places
from pruneviz.pruning.mask import bake, mask
from pruneviz.pruning.repair.distil import Distillation
from pruneviz.pruning.session import Session
from pruneviz.selection.ranking import RemovalOrder
from pruneviz.selection.select import select


class Variants:
    """What prunes the model of a session: plans, and the pruned models.

    Parameters
    ----------
    session : Session
    share : bool
        Whether the variants may share unchanged tensors with the model. Only for callers that do
        not write into the variants.
    """

    def __init__(self, session: Session, *, share: bool = False) -> None:
        self.session, self.model = session, session.model
        self.share = share and not any(map(parametrize.is_parametrized, self.model.modules()))
        self._ranks: RemovalOrder | None = None

    def plan(
        self, scores: Scores, sparsity: float | Mapping[str, float], scope: str = "layer"
    ) -> Plan:
        """Return the same plan as `select`; weights are ranked once for all sparsities."""
        if scores.groups is not None:
            return select(scores, sparsity=sparsity, scope=scope)
        if self._ranks is None or self._ranks.made_from != (scores, scope):
            self._ranks = RemovalOrder(scores, scope)
        return self._ranks.plan(sparsity)

    def masked(self, plan: Plan, repair: str | Distillation = "none") -> nn.Module:
        """Return the model with single weights held at zero, or with silenced units."""
        evidence, batches = (None, None) if repair == "none" else self.session.source
        return mask(self.model, plan, repair=repair, evidence=evidence, batches=batches)

    def baked(self, plan: Plan, repair: str | Distillation = "none") -> nn.Module:
        """Return the model with plain zeros, without masks."""
        if plan.groups is None and repair == "none" and self.share:
            return self._shared_copy(plan)
        return bake(self.masked(plan, repair))

    def silenced(self, plan: Plan) -> nn.Module:
        """Return the model with silenced units, without masks where `bake` can remove them."""
        new = self.masked(plan)
        try:
            return bake(new)
        except ArgumentError:  # a weight has another parametrization below its mask
            return new

    def cost(self, new: nn.Module, *, same: bool = False) -> Cost:
        """Measure a variant; `same`: it differs from the model in its zeros only."""
        if not same:
            return measure(new, self.session.example_input)
        return replace(
            self.session.dense, nonzero=sum(_count_true(p != 0) for p in new.parameters())
        )

    def _shared_copy(self, plan: Plan) -> nn.Module:
        tensors = chain(self.model.parameters(), self.model.buffers())
        new = copy.deepcopy(self.model, {id(t): t for t in tensors})
        for name, held in weight_places(new).items():
            keep = plan.keep.get(name)
            if keep is None or _count_true(keep) == keep.numel():
                continue
            # 3 times faster than `where`; + 0.0 turns -0.0 into 0.0
            zeroed = (held.visible * keep).add_(0.0)
            module, attribute = held.holders[0]
            weight = nn.Parameter(zeroed, requires_grad=getattr(module, attribute).requires_grad)
            for module, attribute in held.holders:
                module._parameters[attribute] = weight
        return new


def _count_true(marks: Tensor) -> int:
    """Count the true marks."""
    return int(np.count_nonzero(marks.cpu().numpy()))  # 10 times faster than torch's

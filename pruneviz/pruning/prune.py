"""How a model is pruned in one call: find groups, score, select, shrink."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import check_some_cuttable
from pruneviz.core.plan import Plan
from pruneviz.evidence.evidence import Evidence
from pruneviz.model.hooks import plain_torch
from pruneviz.pruning.repair.ladder import RIDGE, RUNGS, check_repair_data
from pruneviz.pruning.session import Session
from pruneviz.selection.criteria.registry import criterion as registered
from pruneviz.selection.select import select

STEPS = 12  # bisections when searching a sparsity: a resolution of 1 ÷ 4096


@plain_torch()
def prune(
    model: nn.Module,
    example_input: Any,
    *,
    sparsity: float | None = None,
    macs: float | None = None,
    criterion: str | Callable[[Tensor], Tensor] = "l2",
    evidence: Evidence | None = None,
    batches: Iterable[Any] | None = None,
    loss: Callable[..., Any] | None = None,
    draw: Callable[..., Any] | None = None,
    repair: str = "none",
    ridge: float = RIDGE,
    scope: str | None = None,
    protect: Iterable[str] = (),
    min_keep: int = 1,
    round_to: int = 1,
    approximate: bool = False,
    seed: int = 0,
    session: Session | None = None,
) -> nn.Module:
    """Remove the least important units of a model, and return the smaller model.

    Does the same as `find_groups`, `collect`, `score`, `select` and `shrink` one after the other.
    In our measurements without training, the second-order criterion with least squares loses the
    least accuracy::

        evidence = pv.collect(model, batches, loss=F.cross_entropy)
        small = pv.prune(model, x, macs=0.5, criterion="obs", repair="lstsq", evidence=evidence, batches=batches)

    Parameters
    ----------
    model : nn.Module
        Not changed.
    example_input : Tensor, tuple or dict
        Arguments of the forward, as for `find_groups`.
    sparsity : float, optional
        Share of the units of each group to remove, in [0, 1).
    macs : float, optional
        Largest share of the multiply-accumulates that the new model may have, in (0, 1]. Pass this
        or `sparsity`. The smallest sparsity that reaches it is used.
    criterion : str or callable
        For units, such as ``"l2"``; see `score`.
    evidence : Evidence, optional
        From `collect`; for criteria and repairs that need it.
    batches : iterable, optional
        As for `collect`. If evidence is needed and none was passed, it is collected from these
        batches. With ``repair="lstsq"`` the layers are re-fitted on these batches one after the
        other.
    loss, draw : callable, optional
        As for `collect`, for a criterion that needs gradients; with `loss`, `batches` have targets.
        Default: `cross_entropy`, with labels drawn from the model's own predictions.
    repair, ridge
        As for `shrink`.
    scope, protect, min_keep, round_to
        As for `select`.
    approximate : bool
        As for `find_groups`: whether units over which a norm runs may be removed.
    seed : int
        As for `score`.
    session : Session, optional
        Made for this model, with what is otherwise passed as `batches`, `evidence` and
        `approximate`. Several prunings with one session trace and collect once.

    Returns
    -------
    nn.Module
        A new, smaller model whose outputs were compared with those of the masked model.

    Raises
    ------
    ArgumentError
        If not exactly one of `sparsity` and `macs` is passed, a value is out of range, or the share
        of MACs cannot be reached.
    GraphError
        If the model cannot be traced, no unit of it can be removed, or `shrink` refuses.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> small = pv.prune(model, torch.zeros(1, 8), macs=0.5)
    >>> small[0]
    Linear(in_features=8, out_features=16, bias=True)
    """
    if (sparsity is None) == (macs is None):
        passed = "neither was" if sparsity is None else "both were"
        raise ArgumentError(
            "`prune` takes either `sparsity`, the share of units to remove, or `macs`, the share of "
            f"MACs to keep: {passed} passed."
        )
    if sparsity is not None:
        sparsity = checks.sparsity(sparsity)
    else:
        macs = checks.number(macs, "macs", low=0, high=1)
    checks.choice(repair, "repair", RUNGS)
    ridge, seed = checks.number(ridge, "ridge", low=0), checks.count(seed, "seed")
    if repair != "none":
        given = (evidence, batches) if session is None else session.source
        check_repair_data(repair, *given)
    if session is None:
        session = Session(model, example_input, batches=batches, loss=loss, draw=draw,
                          evidence=evidence, approximate=approximate, seed=seed)  # fmt: skip
    elif approximate or any(v is not None for v in (batches, evidence, loss, draw)):
        raise ArgumentError(
            "`batches`, `evidence`, `loss`, `draw` and `approximate` belong to the session. Pass them to "
            "it: pv.Session(model, example_input, batches=batches)."
        )
    session.check(model)
    chosen = criterion if callable(criterion) else registered(criterion, "unit")
    check_some_cuttable(session.groups)
    scores = session.scores(chosen, seed=seed)

    def plan(share: float) -> Plan:
        return select(scores, sparsity=share, scope=scope, protect=protect, min_keep=min_keep,
                      round_to=round_to)  # fmt: skip

    if sparsity is None:
        assert macs is not None
        sparsity = _sparsity_for_macs(session, plan, macs)
    return session.smaller(plan(sparsity), repair, ridge=ridge)


def _sparsity_for_macs(session: Session, plan: Callable[[float], Plan], macs: float) -> float:
    """Find by bisection the smallest sparsity with at most this share of the MACs."""

    def macs_kept(share: float) -> float:
        return session.macs(plan(share)) / max(1, session.dense.macs)

    if macs >= 1:
        return 0.0
    low, high = 0.0, 1 - 2**-STEPS
    least = macs_kept(high)
    if least > macs:
        raise ArgumentError(
            f"`macs` must be at least {least:.3f} here, but {macs:g} was passed: {least:.3f} of "
            "the MACs remain even if all removable units are removed. Protect fewer layers, lower "
            "`min_keep`, or pass approximate=True."
        )
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if macs_kept(middle) <= macs else (middle, high)
    return high

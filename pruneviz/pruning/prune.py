"""How a model is pruned in one call: find groups, score, select, shrink."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Groups, check_some_cuttable
from pruneviz.core.plan import Plan, Scores
from pruneviz.evidence.evidence import Evidence
from pruneviz.model.batches import Batch
from pruneviz.model.hooks import plain_torch
from pruneviz.pruning.budget import (
    COSTS,
    METRICS,
    Limits,
    held_out,
    judge_of,
    one_budget,
    smallest_that_holds,
    sparsity_for_cost,
)
from pruneviz.pruning.repair.distil import Distillation, rung_of, without_bar
from pruneviz.pruning.repair.ladder import RIDGE, check_repair_data
from pruneviz.pruning.session import Session
from pruneviz.selection.criteria.registry import criterion as registered
from pruneviz.selection.select import select


@plain_torch()
def prune(
    model: nn.Module,
    example_input: Any,
    *,
    sparsity: float | None = None,
    macs: float | None = None,
    params: float | None = None,
    bytes: float | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    criterion: str | Callable[[Tensor], Tensor] | None = None,
    evidence: Evidence | None = None,
    batches: Iterable[Any] | None = None,
    loss: Callable[..., Any] | None = None,
    draw: Callable[..., Any] | None = None,
    evaluate: Callable[[nn.Module], Any] | None = None,
    groups: Groups | None = None,
    scores: Scores | None = None,
    repair: str | Distillation | None = None,
    ridge: float = RIDGE,
    scope: str | None = None,
    protect: Iterable[str] = (),
    min_keep: int = 1,
    round_to: int = 1,
    approximate: bool = False,
    as_program: bool = False,
    strict: bool = False,
    seed: int = 0,
    session: Session | None = None,
) -> nn.Module:
    """Remove the least important units of a model, and return the smaller model.

    Does the same as `find_groups`, `collect`, `score`, `select` and `shrink` one after the other. With
    `batches` the recipe that lost least in our measurements is used, without training: units are
    chosen by the second-order criterion, and what is left is repaired by least squares. Without them
    only the weights are known: units of small L2 norm are removed, and nothing is repaired. At a
    quarter of the MACs the README's LeNet-300-100 keeps an accuracy of 0.6 then, of 0.90; 1,000
    images, without labels, make it 0.88. ::

        small = pv.prune(model, x, macs=0.5, batches=images)

    A group that cannot be cut or scored is left out, and said in one warning; all others are pruned.
    So is the rank of a low-rank adapter, unless it is in `scores`: see `Session`.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    example_input : Tensor, tuple or dict
        Arguments of the forward, as for `find_groups`.
    sparsity : float, optional
        Share of the units of each group to remove, in [0, 1). Pass this or one of the other budgets.
    macs, params, bytes : float, optional
        The most of it that the new model may have: a share in (0, 1], or a count above 1. The smallest
        sparsity that meets it is used.
    at_least, at_most : float, optional
        The metric that the new model must hold, such as ``at_least=0.88`` of the accuracy; `at_most`
        where lower is better. The smallest model that was found to hold it is returned. The accuracy
        is measured on every tenth example of `batches`, which no criterion and no repair sees: look
        at its interval, `accuracy_interval`.
    criterion : str or callable, optional
        For units, such as ``"l2"``; see `score`. Default: ``"obs"`` with data and where it can be had,
        else ``"l2"``; a warning says why, if there is data.
    evidence : Evidence, optional
        From `collect`; for criteria and repairs that need it.
    batches : iterable, optional
        As for `collect`. If evidence is needed and none was passed, it is collected from these
        batches. With ``repair="lstsq"`` the layers are re-fitted on these batches one after the
        other.
    loss, draw : callable, optional
        As for `collect`, for a criterion that needs gradients; with `loss`, `batches` have targets.
        Default: `cross_entropy`, with labels drawn from the model's own predictions.
    evaluate : callable, optional
        With `at_least` or `at_most`: a function from a model to a number. Then no example is held out.
    groups, scores : Groups, Scores, optional
        From `find_groups` and `score`, if they are there already.
    repair : str or Distillation, optional
        As for `shrink`. Default: ``"lstsq"`` with `batches`, else ``"none"``.
    ridge
        As for `shrink`.
    scope, protect, min_keep, round_to
        As for `select`.
    approximate : bool
        As for `find_groups`: whether units over which a norm runs may be removed.
    as_program : bool
        As for `shrink`: for models with sizes in their Python code.
    strict : bool
        Raise if a group cannot be cut or scored, instead of leaving it out; and if the best
        criterion cannot be had, instead of taking the next one.
    seed : int
        As for `score`; and for ``repair="distil"``.
    session : Session, optional
        Made for this model, with what is otherwise passed as `batches`, `evidence`, `groups`, `loss`,
        `draw`, `approximate`, `as_program` and `strict`. Several prunings with one session trace and collect
        once.

    Returns
    -------
    nn.Module
        A new, smaller model whose outputs were compared with those of the masked model.

    Raises
    ------
    ArgumentError
        If not exactly one budget is passed, a value is out of range, or the budget cannot be met; it
        says what stands in the way, and with which share.
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
    budget, value = one_budget({"sparsity": sparsity, "macs": macs, "params": params, "bytes": bytes,
                                "at_least": at_least, "at_most": at_most})  # fmt: skip
    ridge, seed = checks.number(ridge, "ridge", low=0), checks.count(seed, "seed")
    judged: list[Batch] | None = None
    own: dict[str, Any] = {
        "batches": batches, "evidence": evidence, "groups": groups, "loss": loss, "draw": draw,
        "approximate": approximate, "as_program": as_program, "strict": strict,
    }  # fmt: skip
    if session is None:
        if budget in METRICS and evaluate is None and batches is not None:
            own["batches"], judged = held_out(batches)
        own["groups"] = scores.groups if groups is None and scores is not None else groups
        session = Session(model, example_input, seed=seed, **own)
    else:
        _check_nothing_beside(own)
    session.check(model)
    rung = _rung(repair, seed, *session.source)
    limits = Limits(tuple(checks.names(protect, "protect")), min_keep)
    chosen = _scores(session, criterion, scores, seed)

    def plan(share: float) -> Plan:
        return select(chosen, sparsity=share, scope=scope, protect=limits.protect,
                      min_keep=min_keep, round_to=round_to)  # fmt: skip

    def smaller(share: float) -> nn.Module:
        return session.smaller(plan(share), rung, ridge=ridge)

    if budget in METRICS:
        rung = without_bar(rung)
        return smallest_that_holds(budget, value, smaller, judge_of(evaluate, judged))
    if budget in COSTS:
        value = sparsity_for_cost(session, plan, budget, value, limits)
    return smaller(value)


def _rung(
    repair: str | Distillation | None,
    seed: int,
    evidence: Evidence | None,
    batches: list[Batch] | None,
) -> str | Distillation:
    """Return the repair that was asked for, if there is what it needs; or the best for what there is."""
    if repair is None:
        return "none" if batches is None else "lstsq"
    rung = rung_of(repair)
    if rung != "none":
        check_repair_data(rung, evidence, batches)
    return Distillation(seed=seed) if repair == "distil" else repair


def _check_nothing_beside(own: Mapping[str, Any]) -> None:
    """Raise if something was passed beside a session that belongs to it."""
    passed = [
        f"`{name}`" for name, value in own.items() if value is not None and value is not False
    ]
    if passed:
        one = len(passed) == 1
        raise ArgumentError(
            f"{' and '.join(passed)} {'belongs' if one else 'belong'} to the session. Pass "
            f"{'it' if one else 'them'} there: pv.Session(model, example_input, batches=batches)."
        )


def _scores(session: Session, criterion: Any, given: Scores | None, seed: int) -> Scores:
    """Return the scores that the caller gave, or those of a criterion: the best that can be had."""
    check_some_cuttable(session.groups)
    if given is not None:
        checks.kind(given, "scores", Scores, "Make them: pv.score(model, 'l2', groups=groups).")
        values = {n: v for n, v in given.values.items() if not session.groups[n].frozen}
        return replace(given, values=values, groups=session.groups)
    chosen = session.best_criterion(seed=seed) if criterion is None else criterion
    return session.scores(chosen if callable(chosen) else registered(chosen, "unit"), seed=seed)

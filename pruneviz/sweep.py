"""Many prunings, one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pruneviz import _check
from pruneviz.criteria import CRITERIA, SCOPES
from pruneviz.criteria import criterion as registered
from pruneviz.mask import bake, mask
from pruneviz.measure import measure
from pruneviz.score import score
from pruneviz.select import select
from pruneviz.types import ArgumentError

if TYPE_CHECKING:
    import pandas as pd


def sweep(
    model: nn.Module,
    example_input: Any,
    *,
    criteria: Iterable[str],
    sparsities: Iterable[float],
    evaluate: Callable[[nn.Module], float],
    scope: str | None = None,
    tune: Callable[[nn.Module], nn.Module] | None = None,
    seeds: Iterable[int] = (0,),
    progress: bool = True,
) -> pd.DataFrame:
    """Prune by each criterion to each sparsity with each seed, and judge every result.

    Parameters
    ----------
    model : nn.Module
        Not changed; every row starts from it.
    example_input : Tensor, tuple or dict
        For `measure`.
    criteria : iterable of str
        Names of `CRITERIA`.
    sparsities : iterable of float
        Fractions in [0, 1).
    evaluate : callable
        ``evaluate(model)``, a finite number such as `accuracy`; the column ``metric``.
    scope : str, optional
        ``"layer"`` or ``"global"``; default: each criterion's own.
    tune : callable, optional
        ``tune(model)``, a new model, such as ``lambda m: pv.fit(m, batches)``.
    seeds : iterable of int
        For criteria that draw random numbers. Where neither the criterion nor `tune` could make a
        difference, the rows of the seeds are the same.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        One row each: ``criterion, scope, seed, target_sparsity, sparsity, metric, params, nonzero,
        bytes, macs``.

    Raises
    ------
    ArgumentError
        If an argument is out of range (before anything runs), or `evaluate` gives no finite number.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Linear(4, 2)
    >>> frame = pv.sweep(model, torch.zeros(1, 4), criteria=["magnitude", "random"],
    ...                  sparsities=[0.0, 0.5], evaluate=lambda m: float((m.weight != 0).sum()),
    ...                  progress=False)
    >>> frame[["criterion", "target_sparsity", "metric"]].values.tolist()
    [['magnitude', 0.0, 8.0], ['magnitude', 0.5, 4.0], ['random', 0.0, 8.0], ['random', 0.5, 4.0]]
    """
    import pandas as pd
    from tqdm.auto import tqdm

    chosen = [registered(name) for name in _listed(criteria, "criteria")]
    targets = [_check.sparsity(s, "sparsities") for s in _listed(sparsities, "sparsities")]
    runs = [_check.count(s, "seeds") for s in _listed(seeds, "seeds")]
    if scope is not None:
        _check.choice(scope, "scope", SCOPES)
    rows: list[dict[str, Any]] = []
    with tqdm(
        total=len(chosen) * len(runs) * len(targets), disable=not progress, leave=False
    ) as bar:
        for rule in chosen:
            where = scope or CRITERIA[rule.name].scope
            fixed = "generator" not in rule.needs and tune is None
            first: list[dict[str, Any]] = []
            for seed in runs:
                if fixed and first:
                    rows += [{**row, "seed": seed} for row in first]
                    bar.update(len(targets))
                    continue
                scores = score(model, rule.name, seed=seed)
                for target in targets:
                    plan = select(scores, sparsity=target, scope=where)
                    pruned = mask(model, plan)
                    pruned = bake(pruned) if tune is None else tune(pruned)
                    cost = measure(pruned, example_input)
                    first.append(
                        {
                            "criterion": rule.name,
                            "scope": where,
                            "seed": seed,
                            "target_sparsity": target,
                            "sparsity": plan.sparsity,
                            "metric": _metric(evaluate(pruned)),
                            "params": cost.params,
                            "nonzero": cost.nonzero,
                            "bytes": cost.bytes,
                            "macs": cost.macs,
                        }
                    )
                    bar.update()
                rows += first
                first = first if fixed else []
    return pd.DataFrame(rows)


def _listed(values: Iterable[Any], name: str) -> list[Any]:
    if isinstance(values, (str, float, int)):
        raise ArgumentError(
            f"`{name}` must be a list, but {values!r} was passed. Try [{values!r}]."
        )
    listed = list(values)
    if not listed:
        raise ArgumentError(f"`{name}` is empty: there is nothing to run.")
    return listed


def _metric(value: Any) -> float:
    try:
        if isinstance(value, str):
            raise TypeError
        number = float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, RuntimeError):
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentError(
            f"`evaluate` must return a finite number, but it returned {value!r}. "
            "Try lambda model: pv.accuracy(model, batches)."
        )
    return number

"""What each criterion, sparsity, repair and seed gives: many pruned models, one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from pruneviz._version import VERSION
from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Groups
from pruneviz.core.imports import imported
from pruneviz.core.whole_file import checked_path
from pruneviz.evidence.evidence import Evidence
from pruneviz.metrics.evaluator import Accuracy, checked_better, columns_of, evaluated
from pruneviz.model.hooks import plain_torch, seeded
from pruneviz.pruning.refused import without
from pruneviz.pruning.repair.distil import Distillation, rung_of, without_bar
from pruneviz.selection.criteria.registry import SCOPES
from pruneviz.storage.fingerprint import fingerprints
from pruneviz.study.setup import Setup
from pruneviz.study.stored import Row, Table
from pruneviz.study.table import all_rows, as_list, row_error, with_better, without_empty

if TYPE_CHECKING:
    import pandas as pd


COSTS: dict[str, type] = {"params": int, "nonzero": int, "bytes": int, "macs": int}


@plain_torch()
def sweep(
    model: nn.Module,
    example_input: Any,
    *,
    criteria: Iterable[str],
    sparsities: Iterable[float],
    evaluate: Callable[[nn.Module], Any],
    better: str = "higher",
    granularity: str | None = None,
    groups: Groups | None = None,
    scope: str | None = None,
    repair: str | Distillation | Iterable[str | Distillation] = "none",
    evidence: Evidence | None = None,
    batches: Iterable[Any] | None = None,
    loss: Callable[..., Any] | None = None,
    draw: Callable[..., Any] | None = None,
    as_program: bool = False,
    tune: Callable[[nn.Module], nn.Module] | None = None,
    seeds: Iterable[int] = (0,),
    n_jobs: int | None = None,
    path: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Prune by each criterion to each sparsity, repair, tune, and evaluate every result.

    Single weights are set to zero, as by `mask`; units are removed, as by `shrink`.

    A long sweep may be stopped. With `path` every row is stored when it is ready, and the same call
    continues after the last stored row, even if a line is incomplete. joblib runs the rows in
    parallel: in `n_jobs` processes, or as ``joblib.parallel_config`` says, such as
    ``with joblib.parallel_config(backend="dask"):`` for a cluster. Rows and their order do not
    depend on the number of processes, if each has the same number of threads (torch may round
    differently with more).

    Parameters
    ----------
    model : nn.Module
        Not changed. Every row starts from it.
    example_input : Tensor, tuple or dict
        For `measure`; for units, arguments of the forward as for `find_groups`.
    criteria : iterable of str
        Names of `CRITERIA`.
    sparsities : iterable of float
        Fractions in [0, 1), of weights or of units.
    evaluate : callable
        ``evaluate(model)`` returns a finite number, or a tensor of one: the column ``metric``. An
        `Accuracy` is fastest, and adds the columns ``low``, ``high`` and ``examples``.
    better : str
        Whether ``"higher"`` or ``"lower"`` numbers of `evaluate` are better, such as losses. If lower,
        the table has a column ``better`` that says so to `pareto`, `choose`, `allocate` and the plots.
    granularity : str, optional
        ``"weight"`` or ``"unit"``. Default: units if `groups` are passed, or for criteria that rank
        only units; else weights.
    groups : Groups, optional
        From `find_groups`; default: they are found if units are pruned.
    scope : str, optional
        ``"layer"`` or ``"global"``; default: each criterion's own.
    repair : str, Distillation or iterable of these
        For weights ``"none"``, ``"lstsq"`` or ``"distil"``, see `mask`; for units also ``"fold"`` and
        ``"merge"``, see `shrink`. A `Distillation` is the repair ``"distil"`` with other settings.
    evidence : Evidence, optional
        From `collect`, for criteria and repairs that need it.
    batches : iterable, optional
        As for `collect`. If evidence is needed and none was passed, it is collected from these.
        ``"lstsq"`` re-fits layer by layer on these, and ``"distil"`` learns from their inputs.
    loss, draw : callable, optional
        As for `prune`.
    as_program : bool
        As for `shrink`, where units are removed: for models with sizes in their Python code. Such a
        model has no dropout, and its batch norms keep their statistics while `tune` trains it.
    tune : callable, optional
        ``tune(model)`` returns a new model, such as ``lambda m: pv.fit(m, batches)``.
    seeds : iterable of int
        For criteria that draw random numbers, and for torch's random numbers in `tune` and
        `evaluate`; for ``"distil"``, added to its own. If the criterion draws none, and there is no
        `tune` and no ``"distil"``, one row is computed and repeated for all seeds.
    n_jobs : int, optional
        Number of processes; -1: one for each core. Default: one, or as ``joblib.parallel_config``
        says.
    path : path, optional
        Path of a CSV file, which is whole at any time. Read it with ``pandas.read_csv(path,
        comment="#")``: its first line holds the arguments of the call. Its rows are in the order in
        which they were ready, and have the column ``left_out`` also where it is empty. They are taken
        up only if nothing that made them has changed: tensors,
        the code of functions, and all variables and objects that these hold or read; of installed
        packages the version. What cannot be compared, such as a lock, is said once, and the rows are
        computed again. Files and clocks that a function reads are not seen. A second call that
        writes the same file meanwhile is refused.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        One row for each setting: ``criterion, granularity, scope, repair, seed, target_sparsity,
        sparsity, metric, (low, high, examples,) params, nonzero, bytes, macs``; criteria outermost,
        then seeds, repairs, sparsities. ``sparsity`` is that of the weights, or units, that are
        scored; ``1 - nonzero / params`` is that of all numbers. If something is left out, a column
        ``left_out`` names it, with the reason and its share of the MACs.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or the file at `path` is of another call (both before any
        row runs); if `evaluate` or `tune` raises or returns no finite number (the message names the
        row).
    GraphError
        If units are pruned, but the model cannot be traced or has no unit that can be removed.

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
    pd = imported("pandas")

    model = checks.unwrapped(model)
    where = None if path is None else checked_path(path, "rows.csv")
    names = as_list(criteria, "criteria")
    targets = [checks.sparsity(s, "sparsities") for s in as_list(sparsities, "sparsities")]
    runs = [checks.count(s, "seeds") for s in as_list(seeds, "seeds")]
    repairs = _repairs_by_name(repair)
    if scope is not None:
        checks.choice(scope, "scope", SCOPES)
    result_columns = {"sparsity": float, **columns_of(evaluate), **COSTS, "left_out": str}
    setup = Setup.of(model, example_input, names, granularity=granularity, groups=groups,
                    repairs=repairs.values(), evidence=evidence, batches=batches, loss=loss, draw=draw,
                    as_program=as_program)  # fmt: skip
    key_columns = {"criterion": str, "granularity": str, "scope": str, "repair": str, "seed": int,
            "target_sparsity": float}  # fmt: skip
    rows = [
        dict(zip(key_columns, (c.name, setup.granularity[c.name], scope or c.scope, r, seed, s),
                 strict=True))
        for c in setup.criteria.values() for seed in runs for r in repairs for s in targets
    ]  # fmt: skip
    rows = with_better(rows, key_columns, checked_better(better, evaluate))
    fixed = {c.name for c in setup.criteria.values() if "generator" not in c.needs and tune is None}

    def same(row: Row) -> Row:
        is_fixed = row["criterion"] in fixed and row["repair"] != "distil"  # which draws examples
        return {**row, "seed": runs[0]} if is_fixed else row

    compared = {**setup.compared(evidence, groups), "tune": tune, "evaluate": evaluate}
    compared |= {"settings of the repair": repairs["distil"]} if "distil" in repairs else {}
    prints = {} if where is None else fingerprints(compared, where)
    arguments = {
        "pruneviz": VERSION, **prints, "criteria": names,
        "sparsities": targets, "repair": [*repairs], "seeds": runs, "scope": scope,
        "granularity": granularity, "as_program": as_program,
    }  # fmt: skip
    table = Table("sweep", key_columns, result_columns, where, arguments)
    job = _Sweep(setup, repairs, tune, evaluate)
    done = all_rows(job, rows, table, same=same, n_jobs=n_jobs, progress=progress)
    return without_empty(pd.DataFrame(done), "left_out")


@dataclass(frozen=True, eq=False)
class _Sweep:
    """The arguments that all rows of a sweep share."""

    setup: Setup
    repairs: Mapping[str, str | Distillation]
    tune: Callable[[nn.Module], nn.Module] | None
    evaluate: Callable[[nn.Module], Any]

    def start(self) -> Callable[[Row], Row]:
        """Return the function that computes a row."""
        return _Rows(self)


class _Rows:
    """Computes rows."""

    def __init__(self, job: _Sweep) -> None:
        self.job = job
        self.variants = job.setup.variants(share=isinstance(job.evaluate, Accuracy))

    def __call__(self, row: Row) -> Row:
        """Return the result columns of a row."""
        random = self.job.tune is not None or not isinstance(self.job.evaluate, Accuracy)
        devices = {t.device for t in self.variants.model.parameters()}
        try:
            with seeded(row["seed"], devices) if random else nullcontext():
                return self._compute(row)
        except Exception as e:
            raise row_error(_row_name(row), e) from e

    def _compute(self, row: Row) -> Row:
        tune, variants = self.job.tune, self.variants
        scores = self.job.setup.scores(row["criterion"], row["seed"])
        plan = variants.plan(scores, row["target_sparsity"], row["scope"])
        units = row["granularity"] == "unit"
        repair = without_bar(self.job.repairs[row["repair"]], row["seed"])
        if units:
            new = variants.session.smaller(plan, repair)
            late = variants.session.left_out  # also groups that cannot be cut so far
            plan = replace(without(plan, late), left_out={**plan.left_out, **late})
        elif tune is None:
            new = variants.baked(plan, repair)
        else:
            new = variants.masked(plan, repair)
        if tune is not None:
            new = _tune(tune, new)
        cost = variants.cost(new, same=not units and tune is None)
        counts = {c: getattr(cost, c) for c in COSTS}
        rest = "; ".join(f"{n} ({p})" for n, p in plan.left_out.items() if p.is_named)
        return {"sparsity": plan.sparsity, **evaluated(self.job.evaluate, new), **counts,
                "left_out": rest}  # fmt: skip


def _repairs_by_name(repair: Any) -> dict[str, str | Distillation]:
    found = as_list([repair] if isinstance(repair, (str, Distillation)) else repair, "repair")
    names = [rung_of(r) for r in found]
    if len(set(names)) < len(names):
        raise ArgumentError(
            f"`repair` must name each repair once, but {', '.join(map(repr, names))} were passed. Run one "
            "sweep for each setting."
        )
    return dict(zip(names, found, strict=True))


def _tune(tune: Callable[[nn.Module], nn.Module], model: nn.Module) -> nn.Module:
    try:
        new = tune(model)
    except ArgumentError:
        raise
    except Exception as e:
        raise ArgumentError(f"`tune` raised {type(e).__name__}: {e}") from e
    return checks.kind(new, "tune(model)", nn.Module, "Return the new model, as pv.fit does.")


def _row_name(row: Row) -> str:
    parts = [f"criterion {row['criterion']!r}", f"sparsity {row['target_sparsity']:g}"]
    parts += [f"repair {row['repair']!r}"] if row["repair"] != "none" else []
    return ", ".join([*parts, f"seed {row['seed']}"])

"""Many prunings, one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from pruneviz._version import VERSION
from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Groups
from pruneviz.core.plan import Scores
from pruneviz.evidence.evidence import Evidence
from pruneviz.metrics.evaluator import Accuracy, columns_of, judged
from pruneviz.model.hooks import seeded
from pruneviz.selection.criteria.registry import SCOPES
from pruneviz.storage.fingerprint import fingerprint
from pruneviz.study.setup import Question
from pruneviz.study.table import Row, Table, all_rows, failed, several

if TYPE_CHECKING:
    import pandas as pd


COSTS: dict[str, type] = {"params": int, "nonzero": int, "bytes": int, "macs": int}


def sweep(
    model: nn.Module,
    example_input: Any,
    *,
    criteria: Iterable[str],
    sparsities: Iterable[float],
    evaluate: Callable[[nn.Module], Any],
    granularity: str | None = None,
    groups: Groups | None = None,
    scope: str | None = None,
    repair: str | Iterable[str] = "none",
    evidence: Evidence | None = None,
    batches: Iterable[Any] | None = None,
    tune: Callable[[nn.Module], nn.Module] | None = None,
    seeds: Iterable[int] = (0,),
    n_jobs: int | None = None,
    path: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Prune by each criterion to each sparsity, repair, tune, and judge every result.

    Single weights are set to zero, as by `mask`; units are removed, as by `shrink`.

    A long sweep may be stopped. With `path` every row is written down when it is made, and the same
    call goes on where the last one ended, even if that broke off in the middle of a line. In
    parallel it runs by joblib: `n_jobs` processes, or whatever ``joblib.parallel_config`` says, such
    as ``with joblib.parallel_config(backend="dask"):`` for a cluster. Whatever the number of
    processes, the rows are the same, and in the same order (if each has as many threads: torch may
    round otherwise with more).

    Parameters
    ----------
    model : nn.Module
        Not changed; every row starts from it.
    example_input : Tensor, tuple or dict
        For `measure`; for units, arguments of the forward as for `find_groups`.
    criteria : iterable of str
        Names of `CRITERIA`.
    sparsities : iterable of float
        Fractions in [0, 1), of weights or of units.
    evaluate : callable
        ``evaluate(model)``, a finite number, or a tensor of one; the column ``metric``. Best an
        `Accuracy`: it is fastest, and adds the columns ``low``, ``high`` and ``examples``.
    granularity : str, optional
        ``"weight"`` or ``"unit"``. Default: units if `groups` are given, or for criteria that can
        rank nothing else; else weights.
    groups : Groups, optional
        From `find_groups`; default: found, if there are units to prune.
    scope : str, optional
        ``"layer"`` or ``"global"``; default: each criterion's own.
    repair : str or iterable of str
        For weights ``"none"`` or ``"lstsq"``, see `mask`; for units also ``"fold"`` and ``"merge"``,
        see `shrink`.
    evidence : Evidence, optional
        From `collect`, for criteria and repairs that need it.
    batches : iterable, optional
        As for `collect`. Without `evidence` it is collected from these, if it is needed, for
        criteria that need gradients by `cross_entropy`. ``"lstsq"`` re-fits layer by layer on these.
    tune : callable, optional
        ``tune(model)``, a new model, such as ``lambda m: pv.fit(m, batches)``.
    seeds : iterable of int
        For criteria that draw random numbers, and of torch's random numbers in `tune` and
        `evaluate`. Where neither the criterion nor `tune` could make a difference, the rows of the
        seeds are the same.
    n_jobs : int, optional
        How many processes; -1: one a core. Default: this one, or what ``joblib.parallel_config`` says.
    path : path, optional
        Of a CSV file. Read it with ``pandas.read_csv(path, comment="#")``: its first line says of
        which call it is. Its rows are in the order in which they came.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        One row each: ``criterion, granularity, scope, repair, seed, target_sparsity, sparsity,
        metric, (low, high, examples,) params, nonzero, bytes, macs``; criteria outermost, then seeds,
        repairs, sparsities.

    Raises
    ------
    ArgumentError
        If an argument is out of range, or the file at `path` is of another call (before anything
        runs); if `evaluate` or `tune` raises, or gives no finite number: with the name of the row.
    GraphError
        If units are to be pruned, and the model cannot be traced, or has none that can be cut.

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

    model = checks.unwrapped(model)
    names = several(criteria, "criteria")
    targets = [checks.sparsity(s, "sparsities") for s in several(sparsities, "sparsities")]
    runs = [checks.count(s, "seeds") for s in several(seeds, "seeds")]
    rungs = several([repair] if isinstance(repair, str) else repair, "repair")
    if scope is not None:
        checks.choice(scope, "scope", SCOPES)
    answers = {"sparsity": float, **columns_of(evaluate), **COSTS}
    q = Question.of(model, example_input, names, granularity=granularity, groups=groups,
                    repairs=rungs, evidence=evidence, batches=batches)  # fmt: skip
    asks = {"criterion": str, "granularity": str, "scope": str, "repair": str, "seed": int,
            "target_sparsity": float}  # fmt: skip
    asked = [
        dict(zip(asks, (c.name, q.granularity[c.name], scope or c.scope, r, seed, s), strict=True))
        for c in q.criteria for seed in runs for r in rungs for s in targets
    ]  # fmt: skip
    fixed = {c.name for c in q.criteria if "generator" not in c.needs and tune is None}

    def same(row: Row) -> Row:
        return {**row, "seed": runs[0]} if row["criterion"] in fixed else row

    arguments = {} if path is None else {
        "pruneviz": VERSION, **q.fingerprints(evidence, groups), "criteria": names, "sparsities": targets,
        "repair": rungs, "seeds": runs, "scope": scope, "granularity": granularity,
        "tune": fingerprint(tune), "evaluate": fingerprint(evaluate),
    }  # fmt: skip
    table = Table("sweep", asks, answers, None if path is None else Path(path), arguments)
    job = _Sweep(q, tune, evaluate)
    return pd.DataFrame(all_rows(job, asked, table, same=same, n_jobs=n_jobs, progress=progress))


@dataclass(frozen=True, eq=False)
class _Sweep:
    """What is the same for all rows of a sweep."""

    question: Question
    tune: Callable[[nn.Module], nn.Module] | None
    evaluate: Callable[[nn.Module], Any]

    def start(self) -> Callable[[Row], Row]:
        """Return what makes a row."""
        return _Rows(self)


class _Rows:
    """Makes rows."""

    def __init__(self, job: _Sweep) -> None:
        self.job = job
        self.variants = job.question.variants(share=isinstance(job.evaluate, Accuracy))
        self.scored: tuple[Any, ...] = ()
        self.scores: Scores | None = None

    def __call__(self, row: Row) -> Row:
        """Return what comes of a row."""
        drawn = self.job.tune is not None or not isinstance(self.job.evaluate, Accuracy)
        devices = {t.device for t in self.variants.model.parameters()}
        try:
            with seeded(row["seed"], devices) if drawn else nullcontext():
                return self._made(row)
        except Exception as e:
            raise failed(_words(row), e) from e

    def _made(self, row: Row) -> Row:
        tune, variants = self.job.tune, self.variants
        key = (row["criterion"], row["seed"])
        if self.scored != key:  # rows come criterion by criterion
            self.scores, self.scored = self.job.question.score(*key), key
        assert self.scores is not None
        plan = variants.plan(self.scores, row["target_sparsity"], row["scope"])
        units = row["granularity"] == "unit"
        if units:
            new = variants.smaller(plan, row["repair"])
        elif tune is None:
            new = variants.baked(plan, row["repair"])
        else:
            new = variants.masked(plan, row["repair"])
        if tune is not None:
            new = _tuned(tune, new)
        cost = variants.cost(new, same=not units and tune is None)
        counts = {c: getattr(cost, c) for c in COSTS}
        return {"sparsity": plan.sparsity, **judged(self.job.evaluate, new), **counts}


def _tuned(tune: Callable[[nn.Module], nn.Module], model: nn.Module) -> nn.Module:
    try:
        new = tune(model)
    except ArgumentError:
        raise
    except Exception as e:
        raise ArgumentError(f"`tune` raised {type(e).__name__}: {e}") from e
    return checks.kind(new, "tune(model)", nn.Module, "Return the new model, as pv.fit does.")


def _words(row: Row) -> str:
    parts = [f"criterion {row['criterion']!r}", f"sparsity {row['target_sparsity']:g}"]
    parts += [f"repair {row['repair']!r}"] if row["repair"] != "none" else []
    return ", ".join([*parts, f"seed {row['seed']}"])

"""Which layer can be pruned how far: one layer at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pruneviz._version import VERSION
from pruneviz.core import checks
from pruneviz.core.errors import GraphError
from pruneviz.core.groups import Groups
from pruneviz.core.names import layer_name
from pruneviz.core.plan import Plan, Scores
from pruneviz.evidence.evidence import Evidence
from pruneviz.metrics.evaluator import Accuracy, columns_of, judged
from pruneviz.model.hooks import seeded
from pruneviz.model.weights import places
from pruneviz.selection.criteria.requirements import Facts
from pruneviz.selection.drop import refusal
from pruneviz.selection.select import tensors
from pruneviz.storage.fingerprint import fingerprint
from pruneviz.study.prefix import Prefix
from pruneviz.study.setup import Question
from pruneviz.study.sweep import COSTS
from pruneviz.study.table import Row, Table, all_rows, failed, several

if TYPE_CHECKING:
    import pandas as pd


def sensitivity(
    model: nn.Module,
    example_input: Any,
    *,
    sparsities: Iterable[float],
    evaluate: Callable[[nn.Module], Any],
    criterion: str = "magnitude",
    layers: Iterable[str] | None = None,
    groups: Groups | None = None,
    repair: str = "none",
    evidence: Evidence | None = None,
    batches: Iterable[Any] | None = None,
    seed: int = 0,
    n_jobs: int | None = None,
    path: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Prune one layer at a time, each to every sparsity, and judge what is left.

    With an `Accuracy` for `evaluate`, what stands before the pruned layer runs once and not again
    for every row. That is compared with the pruned model's own forward, to the last bit, on the
    first batch for each layer; where it differs, or where `torch.fx` cannot follow the forward, all
    of it runs. So the numbers are those of the plain loop that copies, prunes and evaluates.

    It can be stopped, taken up again (`path`) and run in parallel (`n_jobs`) as `sweep`.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    example_input : Tensor, tuple or dict
        For `measure`; for units, arguments of the forward as for `find_groups`.
    sparsities : iterable of float
        Fractions in [0, 1) of the weights of the layer, or of the units of the group.
    evaluate : callable
        As for `sweep`; best an `Accuracy`. Of units, an `Accuracy` judges the model in which they
        are silenced, which gives the same outputs; another `evaluate` gets the smaller model.
    criterion : str
        A name of `CRITERIA`. One that ranks only units prunes units; one that ranks both does if
        `groups` are given.
    layers : iterable of str, optional
        Names of layers, or groups; default: all that can be pruned and, where the criterion needs
        evidence, that it has seen.
    groups : Groups, optional
        From `find_groups`; default: found, if there are units to prune.
    repair, evidence, batches
        As for `sweep`; one repair.
    seed : int
        For criteria that draw random numbers, and of torch's random numbers in `evaluate`.
    n_jobs, path, progress
        As for `sweep`.

    Returns
    -------
    DataFrame
        One row for each layer and sparsity: ``layer, criterion, granularity, repair,
        target_sparsity, sparsity`` (of that layer), ``metric, (low, high, examples,) dense`` (the
        metric of the whole model), ``params, nonzero, bytes, macs`` (of the model that is left).

    Raises
    ------
    ArgumentError, GraphError
        As `sweep`; if a layer is unknown, or has no units that can be cut.

    References
    ----------
    Han, Pool, Tran, Dally 2015, "Learning both Weights and Connections for Efficient Neural
    Networks", arXiv:1506.02626, Figure 6.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    >>> judge = pv.Accuracy([(torch.eye(4), torch.arange(4))])
    >>> frame = pv.sensitivity(model, torch.zeros(1, 4), sparsities=[0.25, 0.5], evaluate=judge,
    ...                        progress=False)
    >>> frame[["layer", "sparsity", "nonzero"]].values.tolist()
    [['0', 0.25, 68], ['0', 0.5, 60], ['2', 0.25, 68], ['2', 0.5, 60]]
    """
    import pandas as pd

    model = checks.unwrapped(model)
    targets = [checks.sparsity(s, "sparsities") for s in several(sparsities, "sparsities")]
    answers = {"sparsity": float, **columns_of(evaluate), "dense": float, **COSTS}
    seed = checks.count(seed, "seed")
    q = Question.of(model, example_input, [criterion], granularity=None, groups=groups,
                    repairs=[repair], evidence=evidence, batches=batches)  # fmt: skip
    what = q.granularity[criterion]
    parts = _parts(q, what, layers)
    asks = {"layer": str, "criterion": str, "granularity": str, "repair": str,
            "target_sparsity": float}  # fmt: skip
    asked = [
        dict(zip(asks, (layer, criterion, what, repair, s), strict=True))
        for layer in parts for s in targets
    ]  # fmt: skip
    arguments = {} if path is None else {
        "pruneviz": VERSION, **q.fingerprints(evidence, groups), "criterion": criterion,
        "sparsities": targets, "layers": list(parts), "repair": repair, "seed": seed,
        "evaluate": fingerprint(evaluate),
    }  # fmt: skip
    table = Table("sensitivity", asks, answers, None if path is None else Path(path), arguments)
    job = _Sensitivity(q, evaluate, parts, seed)
    return pd.DataFrame(all_rows(job, asked, table, n_jobs=n_jobs, progress=progress))


def _parts(q: Question, what: str, layers: Iterable[str] | None) -> dict[str, list[str]]:
    """Return what is pruned at a time: name of a layer to its tensors, or of a group to itself."""
    named = None if layers is None else several(layers, "layers")
    parts: dict[str, list[str]] = {}
    if what == "weight":
        known, facts = list(places(q.model)), Facts(q.criteria[0], q.evidence, q.model)
        for tensor in known if named is None else tensors(named, known):
            if facts.has(tensor):
                parts.setdefault(layer_name(tensor), []).append(tensor)
            elif named is not None:
                raise facts.missing(f"of {layer_name(tensor)!r}")
        return parts
    assert q.groups is not None
    if named is None:
        return {g.name: [g.name] for g in q.groups if not g.frozen}
    for name in named:
        there = q.groups.groups_of(name)
        if all(g.frozen for g in there):
            raise GraphError(refusal(name, there[0]))
        parts |= {g.name: [g.name] for g in there if not g.frozen}
    return parts


@dataclass(frozen=True, eq=False)
class _Sensitivity:
    """What is the same for all rows."""

    question: Question
    evaluate: Callable[[nn.Module], Any]
    parts: dict[str, list[str]]
    seed: int

    def start(self) -> Callable[[Row], Row]:
        """Return what makes a row."""
        return _Rows(self)


class _Rows:
    """Makes rows."""

    def __init__(self, job: _Sensitivity) -> None:
        self.job, self.model = job, job.question.model
        self.judge = job.evaluate if isinstance(job.evaluate, Accuracy) else None
        self.variants = job.question.variants(share=self.judge is not None)
        self.scores = job.question.score(job.question.criteria[0].name, job.seed)
        self.dense: Row = {}
        self.prefix: Prefix | None = None

    def __call__(self, row: Row) -> Row:
        """Return what comes of a row."""
        try:
            if not self.dense:
                with self._drawn():
                    self.dense = judged(self.job.evaluate, self.model)
                self.prefix = self._followed()
            with self._drawn():
                return self._made(row)
        except Exception as e:
            raise failed(f"layer {row['layer']!r}, sparsity {row['target_sparsity']:g}", e) from e

    def _drawn(self) -> AbstractContextManager[None]:
        if self.judge is not None:  # it draws nothing
            return nullcontext()
        return seeded(self.job.seed, {t.device for t in self.model.parameters()})

    def _made(self, row: Row) -> Row:
        names = self.job.parts[row["layer"]]
        if row["granularity"] == "weight":
            share = float(row["target_sparsity"])
            plan = self.variants.plan(self.scores, dict.fromkeys(names, share))
            own = Plan({n: plan.keep[n] for n in names})
            new = self.variants.baked(plan, row["repair"])
            cost = self.variants.cost(new, same=True)
        else:
            # not by a mapping: the name of a group may be that of a layer with units in others
            values = {n: self.scores.values[n] for n in names}
            scores = Scores(values, self.scores.criterion, self.scores.groups)
            own = plan = self.variants.plan(scores, row["target_sparsity"])
            new = self.variants.smaller(plan, row["repair"], proved=self.judge is None)
            cost = self.variants.cost(new)
            new = self._silenced(plan, row["repair"], new)
        counts = {c: getattr(cost, c) for c in COSTS}
        answer = self.dense if own.kept == own.total else self._judged(new)
        return {"sparsity": own.sparsity, **answer, "dense": self.dense["metric"], **counts}

    def _silenced(self, plan: Plan, repair: str, smaller: nn.Module) -> nn.Module:
        """Return the masked model where that does as well, so that its first layers need not run."""
        assert plan.groups is not None
        cut = [n for n, keep in plan.keep.items() if not bool(keep.all())]
        other = repair != "none" or any(plan.groups[n].approximate for n in cut)
        if self.judge is None or other:
            return smaller
        return self.variants.silenced(plan)

    def _judged(self, new: nn.Module) -> Row:
        if self.judge is not None and self.prefix is not None:
            after = self.prefix.after(new)
            if after is not None:
                right = self.judge.right(after, self.judge.laid_out(self.model))
                return self.judge.of(right)
        return judged(self.job.evaluate, new)

    def _followed(self) -> Prefix | None:
        if self.judge is None:
            return None
        inputs = [x for x, _ in self.judge.laid_out(self.model)]
        if not all(isinstance(x, Tensor) and x.ndim for x in inputs):
            return None
        try:
            return Prefix(self.model, inputs)
        except Exception:  # torch.fx cannot follow it: then every row runs all of it
            return None

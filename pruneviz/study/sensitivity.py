"""How far each layer alone can be pruned."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from pruneviz._version import VERSION
from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, GraphError
from pruneviz.core.groups import Groups
from pruneviz.core.imports import imported
from pruneviz.core.names import layer_name
from pruneviz.core.plan import Plan, Scores
from pruneviz.core.whole_file import checked_path
from pruneviz.evidence.evidence import Evidence
from pruneviz.metrics.evaluator import Accuracy, checked_better, columns_of, evaluated
from pruneviz.model.hooks import plain_torch, seeded
from pruneviz.model.weights import weight_places
from pruneviz.pruning.repair.distil import Distillation, rung_of, without_bar
from pruneviz.selection.drop import refusal_text
from pruneviz.selection.select import tensors_of_layers
from pruneviz.storage.fingerprint import fingerprints
from pruneviz.study.prefix import Prefix
from pruneviz.study.setup import Setup
from pruneviz.study.stored import Row, Table
from pruneviz.study.sweep import COSTS
from pruneviz.study.table import all_rows, as_list, row_error, with_better, without_empty

if TYPE_CHECKING:
    import pandas as pd


@plain_torch()
def sensitivity(
    model: nn.Module,
    example_input: Any,
    *,
    sparsities: Iterable[float],
    evaluate: Callable[[nn.Module], Any],
    better: str = "higher",
    criterion: str = "magnitude",
    layers: Iterable[str] | None = None,
    groups: Groups | None = None,
    repair: str | Distillation = "none",
    evidence: Evidence | None = None,
    batches: Iterable[Any] | None = None,
    loss: Callable[..., Any] | None = None,
    draw: Callable[..., Any] | None = None,
    as_program: bool = False,
    seed: int = 0,
    n_jobs: int | None = None,
    path: str | Path | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Prune one layer at a time, each to every sparsity, and evaluate the pruned model.

    If `evaluate` is an `Accuracy`, the layers before the pruned one run once, not for every row.
    For each layer this is compared with the pruned model's full forward, bit by bit, on the first
    batch. Where it differs, or `torch.fx` cannot trace the forward, the full forward runs for every
    row. So the numbers equal those of a plain loop that copies, prunes and evaluates.

    Like `sweep` it can be stopped, continued (`path`) and run in parallel (`n_jobs`).

    Parameters
    ----------
    model : nn.Module
        Not changed.
    example_input : Tensor, tuple or dict
        For `measure`; for units, arguments of the forward as for `find_groups`.
    sparsities : iterable of float
        Fractions in [0, 1) of the weights of the layer, or of the units of the group.
    evaluate : callable
        As for `sweep`; an `Accuracy` is fastest. For units, an `Accuracy` evaluates the model with
        silenced units, which has the same outputs; another `evaluate` gets the smaller model.
    better : str
        As for `sweep`.
    criterion : str
        A name of `CRITERIA`. A criterion that ranks only units prunes units; one that ranks both
        prunes units if `groups` are passed.
    layers : iterable of str, optional
        Names of layers, or groups; default: all that can be pruned and, if the criterion needs
        evidence, are in the evidence.
    groups : Groups, optional
        From `find_groups`; default: they are found if units are pruned.
    repair, evidence, batches, loss, draw, as_program
        As for `sweep`, but one repair.
    seed : int
        For criteria that draw random numbers, and for torch's random numbers in `evaluate`.
    n_jobs, path, progress
        As for `sweep`.

    Returns
    -------
    DataFrame
        One row for each layer and sparsity: ``layer, criterion, granularity, repair,
        target_sparsity, sparsity`` (of that layer), ``metric, (low, high, examples,) dense`` (the
        metric of the dense model), ``params, nonzero, bytes, macs`` (of the pruned model). If
        a group, or the weight of a layer, is left out, it has a row of the whole model (unless
        `layers` are named), and a column ``left_out`` says why; of groups with their share of the MACs.

    Raises
    ------
    ArgumentError, GraphError
        As `sweep`; also if a layer is unknown or has no units that can be removed.

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
    pd = imported("pandas")

    model = checks.unwrapped(model)
    where = None if path is None else checked_path(path, "rows.csv")
    targets = [checks.sparsity(s, "sparsities") for s in as_list(sparsities, "sparsities")]
    seed = checks.count(seed, "seed")
    rung, settings = rung_of(repair), without_bar(repair, seed)
    result_columns = {"sparsity": float, **columns_of(evaluate), "dense": float, **COSTS,
                      "left_out": str}  # fmt: skip
    setup = Setup.of(model, example_input, [criterion], granularity=None, groups=groups,
                    repairs=[repair], evidence=evidence, batches=batches, loss=loss, draw=draw,
                    as_program=as_program)  # fmt: skip
    granularity = setup.granularity[criterion]
    parts = _parts(setup, granularity, layers)
    left_out = _left_out(setup, criterion, parts, layers, seed)
    key_columns = {"layer": str, "criterion": str, "granularity": str, "repair": str,
            "target_sparsity": float}  # fmt: skip
    rows = [
        dict(zip(key_columns, (layer, criterion, granularity, rung, s), strict=True))
        for layer, levels in [*((n, targets) for n in parts), *((n, [0.0]) for n in left_out)]
        for s in levels
    ]  # fmt: skip
    rows = with_better(rows, key_columns, checked_better(better, evaluate))
    compared = {**setup.compared(evidence, groups), "evaluate": evaluate}
    compared |= {"settings of the repair": settings} if rung == "distil" else {}
    prints = {} if where is None else fingerprints(compared, where)
    arguments = {
        "pruneviz": VERSION, **prints, "criterion": criterion,
        "sparsities": targets, "layers": list(parts), "repair": rung, "seed": seed,
        "as_program": as_program,
    }  # fmt: skip
    table = Table("sensitivity", key_columns, result_columns, where, arguments)
    job = _Sensitivity(setup, settings, evaluate, parts, left_out, seed)
    return without_empty(
        pd.DataFrame(all_rows(job, rows, table, n_jobs=n_jobs, progress=progress)), "left_out"
    )


def _parts(setup: Setup, granularity: str, layers: Iterable[str] | None) -> dict[str, list[str]]:
    """Return what one row prunes: tensors of a layer by its name, or a group by its name."""
    named = None if layers is None else as_list(layers, "layers")
    parts: dict[str, list[str]] = {}
    if granularity == "weight":
        known = list(weight_places(setup.session.model))
        required = setup.requirements(next(iter(setup.criteria)))
        idle = setup.session.idle
        for tensor in known if named is None else tensors_of_layers(named, known):
            if tensor in idle:
                if named is not None:
                    raise ArgumentError(
                        f"layer {layer_name(tensor)!r} never ran on the example, so nothing depends on "
                        "it. Leave it out of `layers`."
                    )
                continue
            if required.has(tensor):
                parts.setdefault(layer_name(tensor), []).append(tensor)
            elif named is not None:
                raise required.missing(f"of {layer_name(tensor)!r}")
        return parts
    if named is None:
        return {g.name: [g.name] for g in setup.session.groups.cuttable}
    for name in named:
        found = setup.session.groups.groups_of(name)
        if all(g.frozen for g in found):
            raise GraphError(refusal_text(name, found[0]))
        parts |= {g.name: [g.name] for g in found if not g.frozen}
    return parts


def _left_out(
    setup: Setup, criterion: str, parts: dict[str, list[str]], layers: Any, seed: int
) -> dict[str, str]:
    """Return why groups, or weights, have no rows of their own; those without scores leave `parts`."""
    found = setup.scores(criterion, seed).left_out
    rest = {n: str(p) for n, p in found.items() if p.is_named}
    for name in rest.keys() & parts.keys():
        if layers is not None:
            raise ArgumentError(
                f"{name!r} cannot be scored by {criterion!r} ({rest[name]}). Leave it out of `layers`, "
                "or collect evidence of what reads it."
            )
        del parts[name]
    return rest if layers is None else {}


@dataclass(frozen=True, eq=False)
class _Sensitivity:
    """The arguments that all rows share."""

    setup: Setup
    repair: str | Distillation
    evaluate: Callable[[nn.Module], Any]
    parts: dict[str, list[str]]
    left_out: dict[str, str]
    seed: int

    def start(self) -> Callable[[Row], Row]:
        """Return the function that computes a row."""
        return _Rows(self)


class _Rows:
    """Computes rows."""

    def __init__(self, job: _Sensitivity) -> None:
        self.job, self.model = job, job.setup.session.model
        self.accuracy = job.evaluate if isinstance(job.evaluate, Accuracy) else None
        self.variants = job.setup.variants(share=self.accuracy is not None)
        self.scores = job.setup.scores(next(iter(job.setup.criteria)), job.seed)
        self.dense: Row = {}
        self.prefix: Prefix | None = None

    def __call__(self, row: Row) -> Row:
        """Return the result columns of a row."""
        try:
            if not self.dense:
                with self._seeded():
                    self.dense = evaluated(self.job.evaluate, self.model)
                self.prefix = self._prefix()
            with self._seeded():
                return self._compute(row)
        except Exception as e:
            raise row_error(
                f"layer {row['layer']!r}, sparsity {row['target_sparsity']:g}", e
            ) from e

    def _seeded(self) -> AbstractContextManager[None]:
        if self.accuracy is not None:  # an `Accuracy` draws no random numbers
            return nullcontext()
        return seeded(self.job.seed, {t.device for t in self.model.parameters()})

    def _compute(self, row: Row) -> Row:
        if row["layer"] in self.job.left_out:
            return self._whole(self.job.left_out[row["layer"]])
        names = self.job.parts[row["layer"]]
        if row["granularity"] == "weight":
            share = float(row["target_sparsity"])
            plan = self.variants.plan(self.scores, dict.fromkeys(names, share))
            own = Plan({n: plan.keep[n] for n in names})
            new = self.variants.baked(plan, self.job.repair)
            cost = self.variants.cost(new, same=True)
        else:
            # Not by a mapping to `select`: the name of a group may also be the name of a layer that
            # has units in other groups.
            values = {n: self.scores.values[n] for n in names}
            scores = Scores(values, self.scores.criterion, self.scores.groups)
            own = plan = self.variants.plan(scores, row["target_sparsity"])
            session = self.variants.session
            new = session.smaller(plan, self.job.repair, compare=self.accuracy is None)
            if row["layer"] in session.left_out:  # with so few units it cannot be cut
                return self._whole(str(session.left_out[row["layer"]]))
            cost = self.variants.cost(new)
            new = self._same_outputs(plan, row["repair"], new)
        counts = {c: getattr(cost, c) for c in COSTS}
        answer = self.dense if own.kept == own.total else self._evaluate(new)
        return {"sparsity": own.sparsity, **answer, "dense": self.dense["metric"], **counts,
                "left_out": ""}  # fmt: skip

    def _whole(self, why: str) -> Row:
        """Return the row of what is left out: nothing is removed."""
        counts = {c: getattr(self.variants.session.dense, c) for c in COSTS}
        return {"sparsity": 0.0, **self.dense, "dense": self.dense["metric"], **counts,
                "left_out": why}  # fmt: skip

    def _same_outputs(self, plan: Plan, repair: str, smaller: nn.Module) -> nn.Module:
        """Return the silenced model if its outputs are the same: its first layers need not run."""
        assert plan.groups is not None
        cut = [n for n, keep in plan.keep.items() if not bool(keep.all())]
        different = repair != "none" or any(plan.groups[n].approximate for n in cut)
        if self.accuracy is None or different:
            return smaller
        return self.variants.silenced(plan)

    def _evaluate(self, new: nn.Module) -> Row:
        if self.accuracy is not None and self.prefix is not None:
            after = self.prefix.after(new)
            if after is not None:
                right = self.accuracy.right(after, self.accuracy.laid_out(self.model))
                return self.accuracy.of(right)
        return evaluated(self.job.evaluate, new)

    def _prefix(self) -> Prefix | None:
        if self.accuracy is None:
            return None
        inputs = [x for x, _ in self.accuracy.laid_out(self.model)]
        if not all(isinstance(x, Tensor) and x.ndim for x in inputs):
            return None
        try:
            return Prefix(self.model, inputs)
        except Exception:  # torch.fx cannot trace it: then every row runs in full
            return None

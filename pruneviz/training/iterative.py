"""How a model is pruned and tuned in several rounds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, calling_it
from pruneviz.core.groups import Groups
from pruneviz.core.imports import imported
from pruneviz.core.plan import Plan
from pruneviz.core.progress import progress_bar
from pruneviz.core.whole_file import checked_path, sole_writer
from pruneviz.evidence.evidence import Evidence
from pruneviz.metrics.evaluator import metric
from pruneviz.metrics.work import idle_weights
from pruneviz.model.batches import read
from pruneviz.model.hooks import evaluating, plain_torch, seeded
from pruneviz.model.tensors import tensors_by_name
from pruneviz.pruning.mask import bake, mask, repair_mask
from pruneviz.pruning.repair.distil import Distillation, rung_of, without_bar
from pruneviz.pruning.session import without_idle
from pruneviz.selection.criteria.registry import CRITERIA, SCOPES
from pruneviz.selection.score import score
from pruneviz.storage.fingerprint import fingerprints
from pruneviz.training.fit import fit
from pruneviz.training.rounds import Rounds, read_rounds, write_rounds
from pruneviz.training.targets import kept_by_masks, round_plan, targets_of, total_sparsity


@plain_torch()
def prune_iteratively(
    model: nn.Module,
    batches: Iterable[tuple[Any, Tensor]] | None,
    *,
    sparsity: float | Mapping[str, float] | None = None,
    schedule: str | Sequence[float] = "geometric",
    rounds: int | None = None,
    criterion: str | Callable[[Tensor], Tensor] = "magnitude",
    scope: str | None = None,
    groups: Groups | None = None,
    evidence: Callable[[nn.Module], Evidence] | None = None,
    repair: str | Distillation = "none",
    epochs: int = 1,
    lr: float = 1e-3,
    tune: Callable[[nn.Module], nn.Module] | None = None,
    rewind: nn.Module | Mapping[str, Tensor] | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    progress: bool = True,
) -> Rounds:
    """Prune in rounds: in each round score, drop and tune.

    What one round drops stays dropped in the next rounds, and is held at zero during tuning, also
    with momentum and weight decay.

    Every round starts a new optimizer, without the old momentum, and its learning rate falls from
    `lr` to 0 along half a cosine. With `rewind` the kept weights are also set back to earlier
    values before each tuning. Renda et al. call this weight rewinding; without `rewind` only the
    learning rate is set back: learning-rate rewinding.

    Parameters
    ----------
    model : nn.Module
        Usually trained. Not changed. If it has masks, the rounds start from their sparsity.
    batches : iterable of (inputs, targets), or None
        Data for the default `tune`. Read many times, so a generator will not do. Weights that do
        not run on the first batch are left out, as in `sweep`.
    sparsity : float or mapping of str to float
        Sparsity of the last round, in [0, 1). A mapping gives each layer its own sparsity, as in
        `select`, and so its own schedule.
    schedule : str or sequence of float
        ``"one-shot"``, ``"linear"``, ``"cubic"``, ``"geometric"`` as in `schedule`; or the sparsity
        of each round, instead of `sparsity` and `rounds`.
    rounds : int, optional
        Default: 5; for a one-shot schedule 1.
    criterion : str or callable
        As for `score`.
    scope : str, optional
        ``"layer"`` or ``"global"``; default: the criterion's own.
    groups : Groups, optional
        From `find_groups`: whole units are dropped instead of single weights. They are silenced. To
        remove them afterwards: ``pv.shrink(result.model, result.plan, example_input=x)``.
    evidence : callable, optional
        ``evidence(model)``, called in each round, for criteria that need it, such as
        ``lambda m: pv.collect(m, images)``.
    repair : str or Distillation
        ``"lstsq"``: in each round the kept weights are re-fitted by least squares on `batches`,
        layer by layer, before the tuning (see `mask`). With ``epochs=0`` nothing is trained. Since
        each round ranks the re-fitted weights, many rounds then lose less than one. ``"distil"``:
        after that the kept weights learn the answers of the whole model, `model`, to these batches, by
        gradient steps and without a label.
    epochs, lr : int, float
        For the default `tune`, in each round: `fit` with the seed ``seed + round``.
    tune : callable, optional
        ``tune(model)`` returns a new model; used instead of `fit` with `epochs` and `lr`. It must
        keep the masks.
    rewind : nn.Module or state_dict, optional
        Values to which the kept weights are set before each tuning: those of the untrained model
        (the lottery ticket), or of the model early in its training (late rewinding).
    evaluate : callable, optional
        ``evaluate(model)`` returns a finite number, such as `accuracy`; called before and after
        each tuning.
    seed : int
        For tuning, and for criteria that draw random numbers.
    path : path, optional
        A safetensors file in which the finished rounds are stored. After an interruption the same
        call continues from it. Functions and data are compared as by `sweep`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Rounds
        ``model``, ``plans``, ``plan`` (the last one), ``frame``.

    Raises
    ------
    ArgumentError
        If the schedule falls, a value is out of range, `evaluate` returns no finite number, `tune`
        lost the masks, `rewind` is of another model, or `path` holds the rounds of another call.

    References
    ----------
    Han et al. 2015, "Learning both Weights and Connections", arXiv:1506.02626 (iterative pruning).
    Zhu & Gupta 2017, arXiv:1710.01878, eq. 1 (cubic).
    Frankle & Carbin 2019, "The Lottery Ticket Hypothesis", arXiv:1803.03635 (rewinding).
    Renda et al. 2020, "Comparing Rewinding and Fine-tuning", arXiv:2003.02389.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> x = torch.randn(64, 8)
    >>> batches = [(x, (x[:, 0] > 0).long())]
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> result = pv.prune_iteratively(model, batches, sparsity=0.75, rounds=2, progress=False)
    >>> result
    2 rounds to sparsity 0.750 (0.667 of all 90 numbers)
    >>> result.frame["sparsity"].tolist()
    [0.0, 0.5, 0.75]
    """
    pd = imported("pandas")

    model = checks.unwrapped(model)
    _check_arguments(batches, groups, scope, repair, rewind, tune, evaluate, evidence)
    epochs, seed = checks.count(epochs, "epochs"), checks.count(seed, "seed")
    lr = checks.number(lr, "lr", low=0)
    kept_at_start, idle = _of_weights(model, batches) if groups is None else ({}, set())
    targets = targets_of(sparsity, schedule, rounds, kept_at_start)
    rewound = None if rewind is None else _rewound(model, rewind)
    where = None if path is None else checked_path(path, "rounds.safetensors")
    arguments = {"schedule": targets, "scope": scope, "epochs": epochs, "lr": lr, "seed": seed,
                 "repair": rung_of(repair)}  # fmt: skip
    if where is not None:
        arguments |= fingerprints({
            "model": model, "rewind": rewound, "criterion": CRITERIA.get(str(criterion), criterion),
            "groups": groups, "batches": batches, "tune": tune, "evaluate": evaluate,
            "evidence": evidence, "settings of the repair": repair,
        }, where)  # fmt: skip

    def next_round(done: Rounds, i: int) -> Rounds:
        now = done.model
        known = None if evidence is None else evidence(now)
        scores = without_idle(score(now, criterion, groups=groups, evidence=known, seed=seed), idle)
        kept = done.plan.keep if done.plans else kept_at_start
        plan = round_plan(scores, targets[i - 1], scope, kept)
        masked = _masked(model, rewound or now, plan, repair, batches, seed + i)
        row = {"round": i, "target_sparsity": total_sparsity(targets[i - 1], plan)}
        row |= {"sparsity": plan.sparsity} | _metrics(evaluate, masked, "metric_untuned")
        new = _tuned(masked, plan, tune, batches, epochs, lr, seed + i, progress)
        last = pd.DataFrame([row | _metrics(evaluate, new, "metric")])
        return Rounds(new, (*done.plans, plan), pd.concat([done.frame, last], ignore_index=True))

    with nullcontext() if where is None else sole_writer(where):
        done = None if where is None else read_rounds(where, model, arguments)
        done = _start(model, kept_at_start, evaluate) if done is None else done
        remaining = range(len(done.plans) + 1, len(targets) + 1)
        for i in progress_bar(remaining, shown=progress, text="rounds"):
            with _noting(where, len(done.plans), len(targets)):
                done = next_round(done, i)
                if where is not None:
                    write_rounds(where, done, arguments)
    return done


def _masked(
    whole: nn.Module,
    now: nn.Module,
    plan: Plan,
    repair: str | Distillation,
    batches: Any,
    seed: int,
) -> nn.Module:
    """Return the masked model of a round, repaired; it learns from the whole one, not from `now`."""
    new = mask(now, plan)
    if rung_of(repair) != "none":
        repair_mask(now, new, plan, without_bar(repair, seed), None, batches, whole=whole)
    return new


def _of_weights(
    model: nn.Module, batches: Iterable[Any] | None
) -> tuple[dict[str, Tensor], set[str]]:
    """Return what masks keep of each weight; and the weights that never run on the first batch."""
    kept = kept_by_masks(model)
    if batches is None:
        return kept, set()
    with seeded(None), calling_it("batches"):  # a DataLoader draws a random number
        return kept, idle_weights(model, next(read(batches, "tune with")).inputs)


def _start(
    model: nn.Module,
    kept: Mapping[str, Tensor],
    evaluate: Callable[[nn.Module], float] | None,
) -> Rounds:
    """Return what there is before the first round."""
    pd = imported("pandas")

    s = Plan(kept).sparsity
    first = {"round": 0, "target_sparsity": s, "sparsity": s}
    first |= _metrics(evaluate, model, "metric_untuned", "metric")
    return Rounds(model, (), pd.DataFrame([first]))


def _check_arguments(
    batches: Any, groups: Any, scope: Any, repair: Any, rewind: Any, *functions: Any
) -> None:
    """Raise unless the arguments of `prune_iteratively` fit one another."""
    if groups is not None:
        checks.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
    for name, fn in zip(("tune", "evaluate", "evidence"), functions, strict=True):
        if fn is not None and not callable(fn):
            raise ArgumentError(f"`{name}` must be a function of the model, but {fn!r} was passed.")
    if functions[0] is None and batches is None:
        raise ArgumentError("there is nothing to tune with. Pass `batches`, or your own `tune`.")
    if rung_of(repair, ("none", "lstsq", "distil")) != "none" and (
        batches is None or rewind is not None
    ):
        raise ArgumentError(
            "`repair` re-fits the weights on `batches`. Pass `batches`, and leave `rewind` out, "
            "which would undo the repair."
        )
    if scope is not None:
        checks.choice(scope, "scope", SCOPES)


@contextmanager
def _noting(path: str | Path | None, done: int, rounds: int) -> Iterator[None]:
    """Note in an error how many rounds are stored in the file."""
    try:
        yield
    except BaseException as e:
        if path is not None and done:
            e.add_note(
                f"{done} of {rounds} rounds are finished and stored in {str(path)!r}: the same call "
                "continues from there."
            )
        raise


def _rewound(model: nn.Module, rewind: nn.Module | Mapping[str, Tensor]) -> nn.Module:
    """Return the model with the weights of `rewind`, without masks."""
    new = bake(model)
    try:
        new.load_state_dict(bake(rewind).state_dict() if isinstance(rewind, nn.Module) else rewind)
    except (RuntimeError, TypeError, AttributeError) as e:
        lines = [line.strip() for line in str(e).splitlines()[1:]] or [str(e)]
        raise ArgumentError(
            f"`rewind` must be a model like the pruned one, or its state_dict: {lines[0]}"
        ) from e
    return new


def _tuned(
    masked: nn.Module, plan: Plan, tune: Any, batches: Any, epochs: int, lr: float, seed: int,
    progress: bool,
) -> nn.Module:  # fmt: skip
    """Return the tuned model; raise if a weight that the plan drops is not zero."""
    if tune is None:
        return fit(masked, batches, epochs=epochs, lr=lr, seed=seed, progress=progress)
    tuned = tune(masked)
    if not isinstance(tuned, nn.Module):
        raise ArgumentError(f"`tune` must return a model, but it returned {tuned!r}.")
    tensors = _visible(tuned)
    for name, value in _visible(mask(tuned, plan)).items():
        if name not in tensors or not torch.equal(value, tensors[name]):
            raise ArgumentError(
                f"`tune` must keep pruned weights at zero, but it changed some of {name!r}. Let it "
                "train the masked model that it is given, as pv.fit does, and not a baked copy."
            )
    return tuned


def _visible(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters as the forward reads them, masks applied."""
    with evaluating(model):
        tensors = tensors_by_name(model)
        return {
            n: h.visible.clone() for n, h in tensors.items() if isinstance(h.tensor, nn.Parameter)
        }


def _metrics(
    evaluate: Callable[[nn.Module], float] | None, model: nn.Module, *columns: str
) -> dict[str, float]:
    """Return the columns with the metric of the model."""
    if evaluate is None:
        return {}
    return dict.fromkeys(columns, metric(evaluate(model)))

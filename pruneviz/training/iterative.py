"""Prune in rounds: cut a little, tune, cut a little more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Groups
from pruneviz.core.plan import Plan
from pruneviz.evidence.evidence import Evidence
from pruneviz.metrics.evaluator import metric
from pruneviz.model.hooks import evaluating
from pruneviz.model.tensors import held
from pruneviz.pruning.mask import bake, mask
from pruneviz.selection.criteria.registry import SCOPES
from pruneviz.selection.score import score
from pruneviz.storage.fingerprint import fingerprint
from pruneviz.training.fit import fit
from pruneviz.training.rounds import Rounds, read, write
from pruneviz.training.targets import masks, planned, targets_of, total


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
    repair: str = "none",
    epochs: int = 1,
    lr: float = 1e-3,
    tune: Callable[[nn.Module], nn.Module] | None = None,
    rewind: nn.Module | Mapping[str, Tensor] | None = None,
    evaluate: Callable[[nn.Module], float] | None = None,
    seed: int = 0,
    path: str | Path | None = None,
    progress: bool = True,
) -> Rounds:
    """Prune in rounds: score, drop, tune; score anew what is left, drop more, tune; and so on.

    What one round drops stays dropped in the next, and is held at zero while tuning, whatever
    momentum and weight decay do.

    Learning rate: every round starts a new optimizer (no momentum is carried over) and lets the rate
    fall from `lr` to 0 along half a cosine. With `rewind` the weights that are left go back to
    earlier values before each tuning, the learning rate does too; without, only the learning rate
    does (Renda et al. call the two weight rewinding and learning-rate rewinding).

    Parameters
    ----------
    model : nn.Module
        Usually trained. Not changed. If it carries masks already, the rounds go on from there.
    batches : iterable of (inputs, targets), or None
        What the default `tune` trains on; gone through again and again, so no generator.
    sparsity : float or mapping of str to float
        Where to arrive, in [0, 1); a mapping gives each layer its own end, as in `select`, and each
        layer its own way there.
    schedule : str or sequence of float
        How to get there: ``"one-shot"``, ``"linear"``, ``"cubic"``, ``"geometric"`` as in
        `schedule`; or the sparsity of each round, in the place of `sparsity` and `rounds`.
    rounds : int, optional
        Default: 5; of a one-shot schedule 1.
    criterion : str or callable
        As for `score`.
    scope : str, optional
        ``"layer"`` or ``"global"``; default: the criterion's own.
    groups : Groups, optional
        From `find_groups`: whole units go instead of single weights. They are silenced; remove them
        for real afterwards: ``pv.shrink(result.model, result.plan, example_input=x)``.
    evidence : callable, optional
        ``evidence(model)``, called anew in each round, for criteria that need it, such as
        ``lambda m: pv.collect(m, images)``.
    repair : str
        ``"lstsq"``: after each cut the weights that stay are re-fitted by least squares on `batches`,
        layer by layer, before the tuning (see `mask`). With ``epochs=0`` that is all, and nothing is
        trained: since each round ranks the re-fitted weights, many small cuts lose less than one.
    epochs, lr : int, float
        Of the default `tune`, in each round: `fit` with the seed ``seed + round``.
    tune : callable, optional
        ``tune(model)``, a new model, in the place of `fit` with `epochs` and `lr`. It must leave the
        masks on.
    rewind : nn.Module or state_dict, optional
        What the weights that stay go back to before each tuning: an untrained copy of the model (the
        lottery ticket), or one from early in its training (late rewinding).
    evaluate : callable, optional
        ``evaluate(model)``, a finite number such as `accuracy`, before and after each tuning.
    seed : int
        For tuning, and for criteria that draw random numbers.
    path : path, optional
        A safetensors file that keeps each finished round. After an interruption the same call goes on
        from there; what `batches`, `tune`, `evaluate` and `evidence` do is not compared.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Rounds
        ``model``, ``plans``, ``plan`` (the last one), ``frame``.

    Raises
    ------
    ArgumentError
        If the schedule goes down or a value is out of range; if `evaluate` gives no finite number,
        `tune` lost the masks, `rewind` is of another model, or `path` holds other rounds.

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
    2 rounds to sparsity 0.750
    >>> result.frame["sparsity"].tolist()
    [0.0, 0.5, 0.75]
    """
    import pandas as pd
    from tqdm.auto import tqdm

    model = checks.unwrapped(model)
    if groups is not None:
        checks.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
    for name, fn in (("tune", tune), ("evaluate", evaluate), ("evidence", evidence)):
        if fn is not None and not callable(fn):
            raise ArgumentError(f"`{name}` must be a function of the model, but {fn!r} was passed.")
    if tune is None and batches is None:
        raise ArgumentError(
            "there is nothing to tune with: pass `batches`, or a `tune` of your own."
        )
    checks.choice(repair, "repair", ("none", "lstsq"))
    if repair != "none" and (batches is None or rewind is not None):
        raise ArgumentError(
            "`repair` fits the weights to what `batches` show; it needs `batches`, and no `rewind`, "
            "which would undo it."
        )
    data = () if batches is None else batches
    if scope is not None:
        checks.choice(scope, "scope", SCOPES)
    epochs, seed = checks.count(epochs, "epochs"), checks.count(seed, "seed")
    lr = checks.number(lr, "lr", low=0)
    have = masks(model) if groups is None else {}
    targets = targets_of(sparsity, schedule, rounds, have)
    earlier = None if rewind is None else _rewound(model, rewind)
    key = {
        "model": fingerprint(model),
        "rewind": None if earlier is None else fingerprint(earlier),
        "schedule": targets,
        "criterion": criterion if isinstance(criterion, str) else fingerprint(criterion),
        "scope": scope,
        "epochs": epochs,
        "lr": lr,
        "seed": seed,
        "units": groups is not None,
        "repair": repair,
    }
    done = None if path is None else read(Path(path), model, key)
    if done is None:
        s = Plan(have).sparsity
        first = {"round": 0, "target_sparsity": s, "sparsity": s}
        first |= _judged(evaluate, model, "metric_untuned", "metric")
        done = Rounds(model, (), pd.DataFrame([first]))
    scored = partial(score, criterion=criterion, groups=groups, seed=seed)
    rest = range(len(done.plans) + 1, len(targets) + 1)
    try:
        for i in tqdm(rest, desc="rounds", leave=False, disable=not progress):
            now = done.model
            scores = scored(now, evidence=None if evidence is None else evidence(now))
            kept = done.plan.keep if done.plans else have
            plan = planned(scores, targets[i - 1], scope, kept)
            cut = mask(
                now if earlier is None else earlier,
                plan,
                repair=repair,
                batches=None if repair == "none" else batches,
            )
            row = {"round": i, "target_sparsity": total(targets[i - 1], plan)}
            row |= {"sparsity": plan.sparsity} | _judged(evaluate, cut, "metric_untuned")
            if tune is not None:
                new = _held(tune(cut), plan)
            else:
                new = fit(cut, data, epochs=epochs, lr=lr, seed=seed + i, progress=progress)
            row |= _judged(evaluate, new, "metric")
            frame = pd.concat([done.frame, pd.DataFrame([row])], ignore_index=True)
            done = Rounds(new, (*done.plans, plan), frame)
            if path is not None:
                write(Path(path), done, key)
    except BaseException as e:
        if path is not None and done.plans:
            e.add_note(
                f"{len(done.plans)} of {len(targets)} rounds are finished and kept in {str(path)!r}: "
                "the same call goes on from there."
            )
        raise
    return done


def _rewound(model: nn.Module, rewind: nn.Module | Mapping[str, Tensor]) -> nn.Module:
    """Return the model with the weights to go back to, without masks."""
    new = bake(model)
    try:
        new.load_state_dict(bake(rewind).state_dict() if isinstance(rewind, nn.Module) else rewind)
    except (RuntimeError, TypeError, AttributeError) as e:
        lines = [line.strip() for line in str(e).splitlines()[1:]] or [str(e)]
        raise ArgumentError(
            f"`rewind` must be a model like the one that is pruned, or its state_dict: {lines[0]}"
        ) from e
    return new


def _held(tuned: nn.Module, plan: Plan) -> nn.Module:
    """Return what `tune` gave, if everything that the plan drops is still zero; or raise."""
    if not isinstance(tuned, nn.Module):
        raise ArgumentError(f"`tune` must return a model, but it returned {tuned!r}.")
    there = _visible(tuned)
    for name, value in _visible(mask(tuned, plan)).items():
        if name not in there or not torch.equal(value, there[name]):
            raise ArgumentError(
                f"`tune` brought back what had been pruned ({name!r}). Let it train the masked model "
                "that it is given, as pv.fit does, and not a baked copy."
            )
    return tuned


def _visible(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters as the forward sees them."""
    with evaluating(model):
        have = held(model)
        return {n: h.visible.clone() for n, h in have.items() if isinstance(h.tensor, nn.Parameter)}


def _judged(
    evaluate: Callable[[nn.Module], float] | None, model: nn.Module, *columns: str
) -> dict[str, float]:
    """Return the columns with what `evaluate` says of the model."""
    if evaluate is None:
        return {}
    return dict.fromkeys(columns, metric(evaluate(model)))

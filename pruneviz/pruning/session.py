"""How one model is prepared once and pruned many times: traced, collected and scored on demand."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, GraphError, IncomparableError, sentence_of
from pruneviz.core.groups import Group, Groups
from pruneviz.core.names import unmasked_name
from pruneviz.core.plan import LeftOut, Plan, Scores, left_out_text
from pruneviz.evidence.collect import collected
from pruneviz.evidence.evidence import Evidence
from pruneviz.graph.find_groups import traced_walk
from pruneviz.graph.grouping import build_groups
from pruneviz.graph.low_rank import adapter_groups
from pruneviz.graph.state import Walk
from pruneviz.metrics.cost import Cost, measure
from pruneviz.metrics.work import idle_weights, macs_by_tensor
from pruneviz.model.batches import Batch, listed, read_all
from pruneviz.model.hooks import plain_torch
from pruneviz.model.tensors import tensors_by_name
from pruneviz.pruning.refused import least_plan, reason_of, refused_groups, without
from pruneviz.pruning.repair.distil import Distillation, rung_of
from pruneviz.pruning.repair.ladder import RIDGE
from pruneviz.pruning.shrink import Shrinker
from pruneviz.selection.criteria.registry import Criterion
from pruneviz.selection.criteria.registry import criterion as registered
from pruneviz.selection.score import score

Made = TypeVar("Made")
UNRUN = "it never ran on the example"
ADAPTER = "the rank of a low-rank adapter; pv.drop cuts it"
MAX_SCORES = 8  # scores that are kept: each is as large as the weights


class Session:
    """One model, prepared once: what several prunings have in common is made when it is first needed.

    The trace, the groups, the evidence, the scores and the cost of the whole model are kept. So ten
    calls of ``prune(model, x, session=session, ...)`` trace the model once and collect once. Several
    threads may use one session; they wait for each other.

    The rank of a low-rank adapter (LoRA) is left out of the scores: it is small, and what was trained
    last. It is cut by a plan of your own (`drop`), or by scores of your own (`score`).

    Parameters
    ----------
    model : nn.Module
        Not changed, and not to be changed while the session is used: then make a new one.
    example_input : Tensor, tuple or dict
        Arguments of the forward, as for `find_groups`.
    batches : iterable, optional
        As for `collect`; read once. Criteria and repairs learn from them.
    loss : callable, optional
        As for `collect`, for criteria that need gradients; then `batches` have targets. Default:
        cross-entropy with labels drawn from the model's own predictions; with the given labels, too,
        where each position of an example has one.
    draw : callable, optional
        As for `collect`.
    evidence : Evidence, optional
        From `collect`; used in place of what would be collected.
    groups : Groups, optional
        From `find_groups`; used in place of what would be found.
    approximate : bool
        As for `find_groups`.
    as_program : bool
        As for `shrink`.
    strict : bool
        Raise if a group cannot be cut or scored. Otherwise it is left out: see ``left_out``. Raise,
        too, if the best criterion cannot be had.
    seed : int
        As for `collect`.

    Raises
    ------
    ArgumentError
        If `batches` are empty, or `model`, `evidence` or `groups` are of another type.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> session = pv.Session(model, torch.zeros(1, 8))
    >>> [pv.prune(model, torch.zeros(1, 8), macs=m, session=session)[0].out_features for m in (0.5, 0.25)]
    [16, 8]
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Any,
        *,
        batches: Iterable[Any] | None = None,
        loss: Callable[..., Any] | None = None,
        draw: Callable[..., Any] | None = None,
        evidence: Evidence | None = None,
        groups: Groups | None = None,
        approximate: bool = False,
        as_program: bool = False,
        strict: bool = False,
        seed: int = 0,
    ) -> None:
        self.model = checks.unwrapped(model)
        self.example_input = example_input
        self.batches = None if batches is None else read_all(batches, "learn from")
        self.loss, self.draw, self.approximate = loss, draw, approximate
        self.as_program, self.strict = as_program, strict
        self.left_out: dict[str, LeftOut] = {}
        self.seed = checks.count(seed, "seed")
        self.given: dict[str, Any] = {}  # what the caller made
        if evidence is not None:
            self.given["evidence"] = checks.kind(
                evidence, "evidence", Evidence, "Make it: pv.collect(model, batches)."
            )
        if groups is not None:
            self.given["groups"] = checks.kind(
                groups, "groups", Groups, "Make them: pv.find_groups(model, example_input)."
            )
        self._made: dict[Any, Any] = {}
        self.lock = threading.RLock()
        self._versions = self._now()

    @property
    def walk(self) -> Walk:
        """The traced graph, and what was found on it."""
        return self._once("walk", lambda: traced_walk(self.model, self.example_input))

    @property
    def groups(self) -> Groups:
        """All groups of the model, also those that cannot be cut."""
        return self._once("groups", self._settled_groups)

    def _settled_groups(self) -> Groups:
        """Return the groups; those that cannot be cut, though their graph allows it, are frozen."""
        made = self.given.get("groups")
        if made is None:
            made = build_groups(self.walk, approximate=self.approximate)
        if self.as_program:
            return made
        return made.without(self._refused(least_plan(made)))

    def _refused(self, plan: Plan) -> dict[str, str]:
        """Return the reason of each group that cannot be cut as a plan says; it is left out."""
        errors = refused_groups(self.shrinker, plan, as_program=self.as_program)
        if errors and self.strict:
            raise next(iter(errors.values()))
        groups, reasons = plan.groups, {n: reason_of(e) for n, e in errors.items()}
        assert groups is not None
        self._leave_out(
            {
                n: LeftOut((groups[n].size,), why, self.share(groups[n]))
                for n, why in reasons.items()
            }
        )
        return reasons

    def _leave_out(self, found: Mapping[str, LeftOut]) -> None:
        """Note what is left out, and say it once."""
        new = {n: p for n, p in found.items() if n not in self.left_out}
        self.left_out |= new
        if new:
            warnings.warn(left_out_text(new, "left out: "), stacklevel=2)

    def share(self, group: Group) -> float:
        """Return the share of the MACs that is spent in making the units of a group."""
        macs = self._once("by tensor", lambda: macs_by_tensor(self.model, self.example_input))
        total, tensors = sum(macs.values()), tensors_by_name(self.model)
        made = 0.0
        for s in group.slices:
            name = unmasked_name(s.tensor)
            if s.role == "out" and macs.get(name):
                made += macs[name] * s.index.size / tensors[name].tensor.shape[s.dim]
        return min(1.0, made / total) if total else 0.0

    @property
    def shrinker(self) -> Shrinker:
        """What removes units."""
        return self._once("shrinker", lambda: Shrinker(self.model, self.example_input, self.walk))

    @property
    def dense(self) -> Cost:
        """The cost of the whole model."""
        return self._once("dense", lambda: measure(self.model, self.example_input))

    @property
    def source(self) -> tuple[Evidence | None, list[Batch] | None]:
        """What repairs can learn from: evidence that was given, and batches."""
        return self.given.get("evidence"), self.batches

    def macs(self, plan: Plan) -> int:
        """Return the MACs of the smaller model."""
        return self.cost(plan).macs

    def cost(self, plan: Plan) -> Cost:
        """Return the cost of the smaller model; it depends on how many units of each group are kept."""
        key = ("cost", *((name, int(keep.sum())) for name, keep in plan.keep.items()))
        quick = partial(self.smaller, plan, compare=False)
        return self._once(key, lambda: measure(quick(), self.example_input))

    def evidence(self, *, gradients: bool = False, squares: bool = True) -> Evidence | None:
        """Return what the layers read, with gradients if asked for; None without any data.

        Without `squares` these are only the gradients at the outputs of layers, and not the squared
        ones of each weight.
        """
        if "evidence" in self.given or self.batches is None:
            return self.given.get("evidence")
        level = gradients + (gradients and squares)
        made = [n for n in range(level, 3) if ("evidence", n) in self._made]
        level = made[0] if made else level  # what has more will do, too
        drawn = level > 0 and self.loss is None  # labels from the model's own predictions
        data = _for_cross_entropy(self.batches) if drawn else self.batches
        loss = None if not level else F.cross_entropy if drawn else self.loss

        def make() -> Evidence:
            return collected(
                self.model, data, loss=loss, draw=self.draw, squares=level > 1, seed=self.seed
            )

        return self._once(("evidence", level), make)

    def evidence_for(
        self, criteria: Iterable[Criterion] = (), repairs: Iterable[str] = ()
    ) -> Evidence | None:
        """Return the evidence that criteria and repairs need; if they need none, what was given."""
        criteria = list(criteria)
        if any(c.needs_gradients for c in criteria):
            return self.evidence(gradients=True, squares=any(c.needs_squares for c in criteria))
        # "lstsq" reads the batches itself, layer by layer
        needed = any(c.evidence for c in criteria) or {"fold", "merge"} & set(repairs)
        return self.evidence() if needed else self.given.get("evidence")

    def scores(
        self,
        criterion: str | Criterion | Callable[[Tensor], Tensor],
        granularity: str = "unit",
        *,
        seed: int = 0,
    ) -> Scores:
        """Return the scores of all units, or of all weights; the latest are kept."""
        chosen = registered(criterion, granularity) if isinstance(criterion, str) else criterion
        needs = [chosen] if isinstance(chosen, Criterion) else []

        def make() -> Scores:
            groups = self.groups if granularity == "unit" else None
            evidence = self.evidence_for(needs)
            made = score(self.model, chosen, groups=groups, evidence=evidence, seed=seed,
                         strict=self.strict)  # fmt: skip
            if groups is None:
                return without_idle(made, self.idle)
            found = {n: replace(p, macs=self.share(groups[n])) for n, p in made.left_out.items()}
            found |= {
                n: LeftOut((groups[n].size,), ADAPTER, self.share(groups[n]))
                for n in adapter_groups(self.walk, groups)
            }
            self._leave_out(found)
            values = {n: v for n, v in made.values.items() if n not in found}
            return replace(made, values=values, left_out={**self.left_out, **found})

        found = self._once(("scores", granularity, chosen, seed), make)
        with self.lock:
            kept = [k for k in self._made if k[0] == "scores"]
            for old in kept[:-MAX_SCORES]:
                del self._made[old]
        return found

    def best_criterion(self, *, seed: int = 0) -> str:
        """Return the criterion that chooses units best with what is there; said once if it is not "obs"."""

        def find() -> str:
            if self.source == (None, None):
                return "l2"
            try:
                self.scores("obs", seed=seed)
            except (ArgumentError, GraphError) as e:
                if self.strict:
                    raise
                self.evidence()  # raises if it is the batches that do not fit
                warnings.warn(
                    f"units are chosen by 'l2' and not by 'obs', which loses less: {sentence_of(e)} Or "
                    "pass criterion='l2', if that is meant.",
                    stacklevel=2,
                )
                return "l2"
            return "obs"

        return self._once("best criterion", find)

    @property
    def idle(self) -> set[str]:
        """The weights that never run on the example: their scores say nothing of the model."""
        return self._once("idle", lambda: idle_weights(self.model, self.example_input))

    def has_scores(self, criterion: str, granularity: str = "unit", *, seed: int = 0) -> bool:
        """Whether these scores are there already."""
        return ("scores", granularity, registered(criterion, granularity), seed) in self._made

    def smaller(
        self,
        plan: Plan,
        repair: str | Distillation = "none",
        *,
        ridge: float = RIDGE,
        compare: bool = True,
    ) -> nn.Module:
        """Return the model without the units that a plan removes, repaired.

        `compare`: it is compared with the masked model each time; otherwise see `Shrinker.quick`.
        """
        with self.lock, plain_torch():
            try:
                new = self._cut(plan, compare)
            except IncomparableError:
                raise
            except GraphError:
                if self.strict:
                    raise
                # with other numbers of units these groups could be cut: they are left out from now on
                reasons = self._refused(plan)
                if not reasons:
                    raise
                self._made = {k: v for k, v in self._made.items() if k[0] not in ("scores", "cost")}
                self._made["groups"] = self.groups.without(reasons)
                plan = without(plan, reasons)
                new = self._cut(plan, compare)
            if repair != "none":
                evidence = self.evidence_for(repairs=[rung_of(repair)])
                self.shrinker.repair(new, plan, repair, evidence, self.batches, ridge)
            return new

    def _cut(self, plan: Plan, compare: bool) -> nn.Module:
        if compare or self.as_program:
            return self.shrinker.compared(plan, as_program=self.as_program)
        return self.shrinker.quick(plan)

    def check(self, model: nn.Module) -> None:
        """Raise unless this is the session's model, with the weights that it had at first."""
        if checks.unwrapped(model) is not self.model:
            raise ArgumentError(
                "`session` is of another model. Pass that model, or make a new session: "
                "pv.Session(model, example_input)."
            )
        if self._now() != self._versions:
            raise ArgumentError(
                "the weights of `model` have changed since the session was made. Make a new one: "
                "pv.Session(model, example_input)."
            )

    def clone(self) -> Session:
        """Return a session for another thread: it shares the data and makes a trace of its own."""
        new = object.__new__(Session)
        new.__setstate__(self.__getstate__())
        return new

    def _now(self) -> dict[str, tuple[int, int]]:
        # an embedding with max_norm rewrites its weight in each forward, and `evaluating` restores it
        moving = {
            id(m.weight)
            for m in self.model.modules()
            if isinstance(m, (nn.Embedding, nn.EmbeddingBag)) and m.max_norm is not None
        }
        named = self.model.named_parameters(remove_duplicate=False)
        return {n: (id(p), p._version) for n, p in named if id(p) not in moving}

    def _once(self, key: Any, make: Callable[[], Made]) -> Made:
        with self.lock, plain_torch():
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]

    def __getstate__(self) -> dict[str, Any]:
        # a trace cannot be sent to another process, and a thread needs one of its own
        kept = {k: v for k, v in self._made.items() if k not in ("walk", "shrinker")}
        return {**self.__dict__, "_made": kept, "lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.lock = threading.RLock()
        self._versions = self._now()


def without_idle(scores: Scores, idle: Container[str]) -> Scores:
    """Return scores without those of the weights that never run; these are left out."""
    rest = {n: LeftOut(tuple(v.shape), UNRUN) for n, v in scores.values.items() if n in idle}
    values = {n: v for n, v in scores.values.items() if n not in rest}
    return replace(scores, values=values, left_out={**scores.left_out, **rest})


def _for_cross_entropy(batches: list[Batch]) -> list[Batch]:
    """Return the batches without their labels, which will be drawn; raise if they are no labels.

    Labels of positions stay: their shape says which dimension of the logits the classes are, and
    they say which positions are padding.
    """
    targets = [y for _, y in batches if isinstance(y, Tensor)]
    if any(y.is_floating_point() for y in targets):
        raise ArgumentError(
            "this criterion needs gradients of a loss. The targets of `batches` are numbers, not classes, "
            "so it is not cross-entropy: pass the `loss` that the model was trained with, such as "
            "loss=torch.nn.functional.mse_loss, or evidence=pv.collect(model, batches, loss=...)."
        )
    positions = len(targets) == len(batches) and all(
        y.ndim > 1 and y.numel() > len(y) for y in targets
    )
    return batches if positions else listed(batches, "learn from")

"""What if: one model, pruned this way and that, each time measured; what is costly is done once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, GraphError
from pruneviz.core.groups import some_can_go
from pruneviz.core.names import layer_name
from pruneviz.core.plan import Plan, Scores
from pruneviz.evidence.collect import collect
from pruneviz.evidence.evidence import Evidence
from pruneviz.graph.find_groups import find_groups
from pruneviz.metrics.accuracy import predicted_classes
from pruneviz.metrics.accuracy_comparison import Comparison, label_numbers
from pruneviz.metrics.evaluator import metric
from pruneviz.metrics.latency_comparison import Timing, compare_latency
from pruneviz.model.batches import PART, alike, examples_in, few, first, nothing_to, parts, ready
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import evaluating
from pruneviz.model.weights import named_weights
from pruneviz.pruning.mask import bake, mask
from pruneviz.selection.criteria.registry import CRITERIA, GRANULARITIES
from pruneviz.selection.score import score
from pruneviz.selection.select import select
from pruneviz.storage.encodings import encodings
from pruneviz.storage.packing import CSR
from pruneviz.study.variants import Variants

if TYPE_CHECKING:
    from pruneviz.core.groups import Groups


QUICK = 0.05  # seconds that a slider may wait
SOME = 16  # examples that every smaller model is compared on
LEARN = 500  # examples that repairs learn from, if nobody says otherwise
GRADIENTS = {"grad_sq", "fisher", "model"}


class WhatIf:
    """One model, traced once and scored once by each criterion, to be pruned again and again.

    Parameters
    ----------
    model : nn.Module
        Copied: not changed, and what happens to it later is not seen.
    batches : iterable of (inputs, labels)
        What it is judged on; read once.
    example_input : Tensor, tuple or dict, optional
        Arguments of the forward; default: the first inputs of the first batch.
    evaluate : callable, optional
        ``evaluate(model)`` gives a number, more is better; default: accuracy.
    learn : iterable, optional
        As `batches` of `collect`: what criteria and repairs learn from. Default: the inputs of the
        first 500 examples of `batches`, without their labels.
    loss : callable, optional
        ``loss(outputs, targets)``, for criteria that need gradients; then `learn` has targets.
        Default: cross-entropy, or with `evaluate` none, and no such criteria.
    approximate : bool
        As for `find_groups`.

    Examples
    --------
    >>> import torch
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> what = WhatIf(model, [(torch.randn(20, 4), torch.arange(20) % 2)])
    >>> plan = what.plan("unit", "l2", 0.5)
    >>> what.pruned(plan)[0]
    Linear(in_features=4, out_features=4, bias=True)
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Iterable[Any],
        *,
        example_input: Any = None,
        evaluate: Callable[[nn.Module], float] | None = None,
        learn: Iterable[Any] | None = None,
        loss: Callable[..., Any] | None = None,
        approximate: bool = False,
    ) -> None:
        self.lock = threading.RLock()  # a slider asks while another thread is still at work
        model = checks.unwrapped(model)
        self.training = {name: m.training for name, m in model.named_modules()}
        self.model = copy_of(model).eval()
        self._idle: nn.Module | None = None
        read = list(parts(batches))
        given = [(x, y) for x, y in read if not _without_examples(x)]
        self.dropped = len(read) - len(given)  # batches without examples
        if not given:
            raise nothing_to("judge by")
        if evaluate is None and any(y is None for _, y in given):
            raise ArgumentError(
                "`batches` must be pairs (inputs, labels) here, but a batch without labels was passed. "
                "Pass `evaluate`, a function from a model to a number, to judge by something else."
            )
        self.given = given
        self.batches = ready(given, model=self.model) if evaluate is None else given
        self.evaluate, self.approximate = evaluate, approximate
        inputs = [x for x, _ in given]
        self._clock = inputs[0] if example_input is None else example_input
        self.example_input = _some(inputs[0]) if example_input is None else example_input
        pairs = [(x, None) for x in few(inputs, LEARN)] if learn is None else list(parts(learn))
        if not pairs:
            raise nothing_to("learn from", "learn")
        self.learn = [(x, None) for x, _ in pairs]  # else a tuple of inputs were a pair, too
        self.taught = all(y is not None for _, y in pairs)  # whether it has targets
        # what `collect` reads
        self.lessons: list[Any] = pairs if self.taught else self.learn
        if loss is not None and not self.taught:
            raise ArgumentError(
                "`loss` needs targets, but `learn` has none. Pass learn=batches of (inputs, targets)."
            )
        self.loss = F.cross_entropy if loss is None and evaluate is None else loss
        tensors = isinstance(inputs[0], Tensor) and inputs[0].ndim
        self.how_to_trace = f"batches[0][0][:{SOME}]" if tensors else "batches[0][0]"
        self.how_to_learn = (
            f"torch.cat([x for x, _ in batches])[:{LEARN}].split({PART})"
            if alike(inputs)
            else f"[(x, None) for x, _ in batches][:{len(self.learn)}]"
        )
        n = sum(examples_in(x) for x, _ in self.learn)
        self.learned = f"the inputs of the first {n:,} examples, not their labels"
        if learn is not None:
            self.learned = f"{n:,} examples{' with their labels' if self.taught else ''}"
        self.variants = Variants(self.model, self.example_input)
        self.whole = self.variants.dense
        self.refusal = ""
        self.groups: Groups | None = None
        try:
            self.groups = find_groups(self.model, self.example_input, approximate=approximate)
            some_can_go(self.groups)
        except GraphError as e:  # its weights can be pruned all the same
            self.refusal = str(e)
        self.labels, self.said = (np.zeros(0, int), np.zeros(0, int))
        if evaluate is None:
            said = self._asked()
            labels = [
                label_numbers(y, s.shape) for (_, y), s in zip(self.batches, said, strict=True)
            ]
            self.said, self.labels = np.concatenate(said), np.concatenate(labels)
            self.before = Comparison(self.labels, self.said, self.said).accuracy_before
        else:
            self.before = metric(evaluate(self.model))
        self._scores: dict[tuple[str, str], Scores] = {}
        self._evidence: dict[bool, Evidence] = {}
        self._made: tuple[Any, nn.Module | None] = (None, None)
        self.seconds = 0.0  # that the last look at the cost of a plan took

    @cached_property
    def criteria(self) -> list[tuple[str, str]]:
        """Pairs (granularity, criterion) that the model can be pruned by."""
        known = {
            n: c
            for n, c in CRITERIA.items()
            if self.loss is not None or not GRADIENTS & {*c.evidence}
        }
        units = [] if self.refusal else [("unit", n) for n, c in known.items()
                                         if "unit" in c.granularity]  # fmt: skip
        return units + [("weight", n) for n, c in known.items() if "weight" in c.granularity]

    @cached_property
    def frozen(self) -> dict[str, str]:
        """Groups that cannot be cut, and why."""
        return {g.name: g.frozen for g in self.groups or () if g.frozen}

    @cached_property
    def layers(self) -> list[str]:
        """Layers that one may want to protect."""
        scores = self.scores("weight", "magnitude")
        return list(dict.fromkeys(map(layer_name, scores.values)))

    def scores(self, granularity: str, criterion: str) -> Scores:
        """Score by a criterion; once, evidence included."""
        key = (checks.choice(granularity, "granularity", GRANULARITIES), criterion)
        with self.lock:
            if key in self._scores:
                return self._scores[key]
            needs = CRITERIA[criterion].evidence
            evidence = self.evidence(gradients=bool(GRADIENTS & set(needs))) if needs else None
            groups = self.groups if granularity == "unit" else None
            self._scores[key] = score(self.model, criterion, groups=groups, evidence=evidence)
            return self._scores[key]

    def ready(self, granularity: str, criterion: str) -> bool:
        """Tell whether scores are there, or nothing has to be collected for them."""
        return (granularity, criterion) in self._scores or not CRITERIA[criterion].evidence

    def glance(self, plan: Plan) -> dict[str, Any] | None:
        """Return the costs of the smaller model without proof or repair, if that is quick now."""
        if plan.groups is None or self.seconds > QUICK or not self.lock.acquire(blocking=False):
            self.seconds *= 0.8  # that one look was slow does not mean that all are
            return None
        try:
            start = time.perf_counter()
            found = self.costs(self.variants.smaller(plan, proved=False), plan)
            self.seconds = time.perf_counter() - start
            return found
        except GraphError:  # the proof will say it in words
            return None
        finally:
            self.lock.release()

    def needs(self, granularity: str, criterion: str, repair: str) -> str:
        """Tell what has to be collected: ``"gradients"``, ``"moments"`` or nothing."""
        needs = set(CRITERIA[criterion].evidence)
        if GRADIENTS & needs:
            return "gradients"
        return "moments" if needs or (granularity == "weight" and repair != "none") else ""

    def evidence(self, *, gradients: bool = False) -> Evidence:
        """Collect what criteria and repairs learn from; once."""
        if not gradients and True in self._evidence:
            return self._evidence[True]  # which has the moments, too
        if gradients not in self._evidence:
            loss = self.loss if gradients else None
            read = self.lessons if gradients else self.learn
            self._evidence[gradients] = collect(self.model, read, loss=loss, progress=False)
        return self._evidence[gradients]

    def plan(
        self,
        granularity: str,
        criterion: str,
        sparsity: float,
        *,
        scope: str | None = None,
        protect: Sequence[str] = (),
    ) -> Plan:
        """Choose what goes; ``protect``: names of layers that stay whole."""
        scores = self.scores(granularity, criterion)
        return select(scores, sparsity=sparsity, scope=scope, protect=self._known(scores, protect))

    def pruned(self, plan: Plan, repair: str = "none") -> nn.Module:
        """Return the smaller model, compared with the masked one; or that with zeros for weights.

        Asked for the same once more, it is not made again.
        """
        key = (repair, {n: k.numpy().tobytes() for n, k in plan.keep.items()})
        with self.lock:
            if self._made[0] != key or self._made[1] is None:
                self._made = key, self._make(plan, repair)
            new = self._made[1]
        assert new is not None
        return new

    def _make(self, plan: Plan, repair: str) -> nn.Module:
        if plan.kept == plan.total:
            new = copy_of(self.model)
        elif plan.groups is not None:
            new = self.variants.shrinker.proved(plan)
            if repair != "none":
                source = (None, self.learn) if repair == "lstsq" else (self.evidence(), None)
                self.variants.shrinker.repair(new, plan, repair, *source)
        else:
            evidence = None if repair == "none" else self.evidence()
            new = bake(mask(self.model, plan, repair=repair, evidence=evidence))
        for name, module in new.named_modules():
            module.training = self.training.get(name, new.training)
        return new

    def costs(self, new: nn.Module, plan: Plan) -> dict[str, Any]:
        """Return bytes, parameters and MACs, before and after; weights as `save` writes them smallest."""
        cost = self.variants.cost(new, same=plan.groups is None)
        size, encoding = cost.bytes, "dense"
        if plan.groups is None:
            from pandas import NA

            whole = encodings(new, gzip=False).set_index("tensor").loc["whole"]
            sizes = {"dense": cost.bytes}
            if all(w.dtype == torch.float32 for w in named_weights(new).values()):
                sizes |= {name: int(str(whole[name])) for name in CSR if whole[name] is not NA}
            encoding = min(sizes, key=lambda name: sizes[name])
            size = sizes[encoding]
        return {
            "params": cost.params,
            "params_before": self.whole.params,
            "bytes": size,
            "bytes_before": self.whole.bytes,
            "encoding": encoding,
            "macs": cost.macs,
            "macs_before": self.whole.macs,
            "speedup": self.whole.macs / cost.macs if cost.macs else float("nan"),
        }

    def judged(
        self, new: nn.Module, through: Callable[[Iterable[Any]], Iterable[Any]] = iter
    ) -> dict[str, Any]:
        """Return how good a pruned model is, and which examples flipped.

        ``through`` may stop the batches on their way.
        """
        if self.evaluate is not None:
            return {"metric": metric(self.evaluate(new)), "comparison": None}
        said = self._answers(new, through(self.batches))
        comparison = Comparison(self.labels, self.said, said)
        return {"metric": comparison.accuracy_after, "comparison": comparison}

    def timed(self, new: nn.Module, *, seconds: float, most: int = 32) -> Timing:
        """Time the model and a pruned one in turn, on at most so many examples at once."""
        try:
            x = first(self._clock, most)
        except (ArgumentError, TypeError, IndexError):
            x = self._clock
        if self._idle is None:
            with self.lock:
                self._idle = copy_of(self.model)  # that nobody else runs meanwhile
        return compare_latency(self._idle, new, x, seconds=seconds)

    def _answers(self, model: nn.Module, batches: Iterable[Any]) -> np.ndarray:
        with evaluating(model):
            return np.concatenate([predicted_classes(model, x).numpy() for x, _ in batches])

    def _asked(self) -> list[np.ndarray]:
        """Ask the whole model, batch by batch; say what else one can do if it gives no classes."""
        try:
            return [self._answers(self.model, [batch]) for batch in self.batches]
        except ArgumentError as e:
            raise ArgumentError(
                f"{e} Or pass `evaluate`, a function from a model to a number, more being better."
            ) from None

    def _known(self, scores: Scores, protect: Sequence[str]) -> list[str]:
        """Leave out the layers whose units are in no group: nothing of them could go."""
        if scores.groups is None:
            return list(protect)
        made = {n for g in scores.groups for n in g.producers}
        return [n for n in protect if n in made]


def _without_examples(inputs: Any) -> bool:
    return isinstance(inputs, Tensor) and inputs.ndim > 0 and not len(inputs)


def _some(inputs: Any) -> Any:
    return inputs[:SOME] if isinstance(inputs, Tensor) and inputs.ndim else inputs

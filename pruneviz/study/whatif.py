"""What a pruning of one model costs and gains, asked many times: slow steps are done once."""

from __future__ import annotations

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
from pruneviz.core.groups import check_some_cuttable
from pruneviz.core.imports import imported
from pruneviz.core.names import layer_name
from pruneviz.core.plan import Plan, Scores, keep_all
from pruneviz.metrics.accuracy import classified
from pruneviz.metrics.accuracy_comparison import Comparison
from pruneviz.metrics.evaluator import checked_better, metric
from pruneviz.metrics.latency_comparison import Timing, compare_latency
from pruneviz.model.batches import (
    PART,
    Batch,
    cut_examples,
    first_examples,
    first_n,
    read_all,
    same_shape,
)
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import evaluating
from pruneviz.model.layout import fast_batches
from pruneviz.model.weights import named_weights
from pruneviz.pruning.mask import bake, mask
from pruneviz.pruning.repair.distil import without_bar
from pruneviz.pruning.session import Session
from pruneviz.selection.criteria.registry import CRITERIA, GRANULARITIES
from pruneviz.selection.select import select
from pruneviz.storage.encodings import encodings
from pruneviz.storage.packing import CSR
from pruneviz.study.variants import Variants

if TYPE_CHECKING:
    from pruneviz.core.groups import Groups


QUICK = 0.05  # longest time in seconds that a slider may wait
TRACED = 16  # examples of the traced input, on which every smaller model is compared
TRIED = 8  # examples that tell whether there are gradients
LEARN = 500  # examples from which evidence is collected by default


class WhatIf:
    """Prune one model many times: it is traced once, and scored once by each criterion.

    Parameters
    ----------
    model : nn.Module
        Not changed. It is copied, so later changes of it have no effect here.
    batches : iterable of (inputs, labels)
        Examples on which the metric is measured. Read once.
    example_input : Tensor, tuple or dict, optional
        Arguments of the forward; default: the first inputs of the first batch.
    evaluate : callable, optional
        ``evaluate(model)`` returns a number. Default: accuracy.
    better : str
        Whether a ``"higher"`` or a ``"lower"`` number of `evaluate` is better.
    ignore_index : int, optional
        As for `accuracy`.
    learn : iterable, optional
        As `batches` of `collect`: the data for criteria and repairs. Default: the inputs of the
        first 500 examples of `batches`, without their labels; with them if each position has one,
        because then they say which dimension of the logits the classes are.
    loss : callable, optional
        ``loss(outputs, targets)``, for criteria that need gradients; then `learn` must have
        targets. Default: cross-entropy. With `evaluate` there is no default, and these criteria are
        left out.
    approximate : bool
        As for `find_groups`.
    as_program : bool
        As for `shrink`.

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
        better: str = "higher",
        ignore_index: int | None = None,
        learn: Iterable[Any] | None = None,
        loss: Callable[..., Any] | None = None,
        approximate: bool = False,
        as_program: bool = False,
    ) -> None:
        model = checks.unwrapped(model)
        self.training = {name: m.training for name, m in model.named_modules()}
        self.model = copy_of(model).eval()
        self._timed_copy: nn.Module | None = None  # no other thread runs it
        needs_labels = evaluate is None
        self.better = checked_better(better, evaluate)
        self.ignore_index = ignore_index
        self.given = given = read_all(
            batches, "judge by", targets=needs_labels, ignore_index=ignore_index
        )
        # whether the first batches were left out, because they have no examples
        self.dropped = given[0].place != "batch 1 of `batches`"
        self.batches = fast_batches(given, model=self.model) if needs_labels else given
        self.evaluate, self.approximate, self.as_program = evaluate, approximate, as_program
        inputs = [x for x, _ in given]
        self._timed_input = inputs[0] if example_input is None else example_input
        self.example_input = _first_examples(inputs[0]) if example_input is None else example_input
        self._read_learn(learn, loss)
        self._judge_dense()  # before the session: what does not fit is an error of the batches
        self.session = Session(
            self.model,
            self.example_input,
            batches=self.gradient_batches,
            loss=self.loss if self.has_targets else None,
            approximate=approximate,
            as_program=as_program,
        )
        self.lock = self.session.lock  # a slider calls while another thread still works
        self.variants = Variants(self.session)
        self.whole = self.session.dense
        self.refusal = ""
        self.groups: Groups | None = None
        try:
            self.groups = self.session.groups
            check_some_cuttable(self.groups)
        except GraphError as e:  # single weights can still be pruned
            self.refusal = str(e)
        self._made: tuple[Any, nn.Module | None] = (None, None)
        self.seconds = 0.0  # time that the last `glance` took

    def _read_learn(self, learn: Iterable[Any] | None, loss: Callable[..., Any] | None) -> None:
        """Read what criteria and repairs learn from, and say in words and code what it is."""
        inputs = [x for x, _ in self.given]
        source: Any = learn
        if learn is None:
            source = [(x, None) for x in first_examples(inputs, LEARN)]
            each = self.evaluate is None and [getattr(y, "ndim", 0) > 1 for _, y in self.given]
            if each and all(each):  # one label for each position
                ends = np.cumsum([b.examples for b in self.given])
                source = self.given[: int(np.searchsorted(ends, LEARN)) + 1]
        # what `collect` reads for gradients
        self.gradient_batches = read_all(source, "learn from", name="learn")
        self.learn = [b.with_(b.inputs) for b in self.gradient_batches]
        self.has_targets = all(
            y is not None for _, y in self.gradient_batches
        )  # whether it has targets
        if not self.has_targets:
            self.gradient_batches = self.learn
        if loss is not None and not self.has_targets:
            raise ArgumentError(
                "`loss` needs targets, but `learn` has none. Pass learn=batches of (inputs, targets)."
            )
        self.loss = F.cross_entropy if loss is None and self.evaluate is None else loss
        tensors = isinstance(inputs[0], Tensor) and inputs[0].ndim
        self.how_to_trace = f"batches[0][0][:{TRACED}]" if tensors else "batches[0][0]"
        self.how_to_learn = (
            f"torch.cat([x for x, _ in batches])[:{LEARN}].split({PART})"
            if same_shape(inputs)
            else f"[(x, None) for x, _ in batches][:{len(self.learn)}]"
        )
        n = sum(b.examples for b in self.learn)
        if learn is None and self.has_targets:
            self.how_to_learn = f"batches[:{len(self.learn)}]"
        self.learn_text = f"the inputs of the first {n:,} examples, not their labels"
        if learn is not None or self.has_targets:
            self.learn_text = f"{n:,} examples{' with their labels' if self.has_targets else ''}"

    def _judge_dense(self) -> None:
        """Measure the dense model, with its predicted classes if it has any."""
        self.labels, self._predicted = (np.zeros(0, int), np.zeros(0, int))
        self._example: np.ndarray | None = None  # of each label, if one has several
        if self.evaluate is None:
            self._predicted, self.labels, example = self._predict_dense()
            self._example = example if len(np.unique(example)) < len(example) else None
            self.before = float((self._predicted == self.labels).mean())
        else:
            with evaluating(self.model):
                self.given[0].run(self.model)  # raises, and names the batch, if it does not fit
            self.before = metric(self.evaluate(self.model))

    @cached_property
    def criteria(self) -> list[tuple[str, str]]:
        """The pairs (granularity, criterion) by which the model can be pruned."""
        known = {
            n: c for n, c in CRITERIA.items() if self.loss is not None or not c.needs_gradients
        }
        units = [] if self.refusal else [("unit", n) for n, c in known.items()
                                         if "unit" in c.granularity]  # fmt: skip
        return units + [("weight", n) for n, c in known.items() if "weight" in c.granularity]

    @cached_property
    def frozen(self) -> dict[str, str]:
        """The frozen groups and their reasons."""
        return {g.name: g.frozen for g in self.groups or () if g.frozen}

    @cached_property
    def layers(self) -> list[str]:
        """The layers that can be protected."""
        scores = self.scores("weight", "magnitude")
        return list(dict.fromkeys(map(layer_name, scores.values)))

    def scores(self, granularity: str, criterion: str) -> Scores:
        """Return the scores by a criterion; they are computed once, with the evidence they need."""
        checks.choice(granularity, "granularity", GRANULARITIES)
        return self.session.scores(criterion, granularity)

    @cached_property
    def best(self) -> tuple[str, str]:
        """The pair (granularity, criterion) that loses least here; a few examples tell whether it can."""
        if self.refusal:
            return "weight", "magnitude"
        if ("unit", "obs") not in self.criteria:
            return "unit", "l2"
        first, n = self.gradient_batches[0], self.gradient_batches[0].examples
        part = cut_examples((first.inputs, first.targets), torch.arange(n) < TRIED, n)
        few = Session(self.model, self.example_input, batches=[first.with_(*part)],
                      loss=self.session.loss)  # fmt: skip
        try:
            few.evidence(gradients=True)
        except (ArgumentError, GraphError):
            return "unit", "l2"
        return "unit", "obs"

    def ready(self, granularity: str, criterion: str, sparsity: float | None = None) -> bool:
        """Whether a plan can be made at once: scores exist, or need no evidence; or no unit goes."""
        known = not CRITERIA[criterion].evidence
        known = known or self.session.has_scores(criterion, granularity)
        return known or (granularity == "unit" and sparsity == 0)

    def glance(self, plan: Plan) -> dict[str, Any] | None:
        """Return the costs of the smaller model, unchecked and not repaired; None if that is slow.

        None also if another thread works, or the model cannot be cut.
        """
        if plan.groups is None or self.seconds > QUICK or not self.lock.acquire(blocking=False):
            self.seconds *= 0.8  # so that after one slow call it is tried again later
            return None
        try:
            start = time.perf_counter()
            found = self.costs(self.session.smaller(plan, compare=False), plan)
            self.seconds = time.perf_counter() - start
            return found
        except GraphError:  # `pruned` will raise the error with its message
            return None
        finally:
            self.lock.release()

    def needs(self, granularity: str, criterion: str, repair: str) -> str:
        """Return what must be collected: ``"gradients"``, ``"moments"`` or ``""``."""
        chosen = CRITERIA[criterion]
        if chosen.needs_gradients:
            return "gradients"
        return (
            "moments" if chosen.evidence or (granularity == "weight" and repair == "lstsq") else ""
        )

    def plan(
        self,
        granularity: str,
        criterion: str,
        sparsity: float,
        *,
        scope: str | None = None,
        protect: Sequence[str] = (),
    ) -> Plan:
        """Make a plan; ``protect``: names of layers that are not pruned."""
        if not self.ready(granularity, criterion) and self.ready(granularity, criterion, sparsity):
            assert self.groups is not None  # so that a panel opens before data are collected
            return Plan(keep_all(self.groups), self.groups, dict(self.session.left_out))
        scores = self.scores(granularity, criterion)
        return select(
            scores, sparsity=sparsity, scope=scope, protect=self._in_groups(scores, protect)
        )

    def pruned(self, plan: Plan, repair: str = "none") -> nn.Module:
        """Return the pruned model: smaller and checked for units, with zeros for single weights.

        The last model is kept, so that a second call with the same arguments is fast.
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
            new = self.session.smaller(plan, without_bar(repair))
        elif repair == "distil":
            new = bake(mask(self.model, plan, repair=without_bar(repair), batches=self.learn))
        else:
            evidence = None if repair == "none" else self.session.evidence()
            new = bake(mask(self.model, plan, repair=repair, evidence=evidence))
        for name, module in new.named_modules():
            module.training = self.training.get(name, new.training)
        return new

    def costs(self, new: nn.Module, plan: Plan) -> dict[str, Any]:
        """Return parameters, MACs and bytes (in the smallest encoding), before and after."""
        cost = self.variants.cost(new, same=plan.groups is None)
        size, encoding = cost.bytes, "dense"
        if plan.groups is None:
            NA = imported("pandas").NA

            total = encodings(new, gzip=False).set_index("tensor").loc["whole"]
            sizes = {"dense": cost.bytes}
            if all(w.dtype == torch.float32 for w in named_weights(new).values()):
                sizes |= {name: int(str(total[name])) for name in CSR if total[name] is not NA}
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
        """Return the metric of a pruned model, and the comparison of its predicted classes.

        All batches pass ``through``, which may stop them.
        """
        if self.evaluate is not None:
            return {"metric": metric(self.evaluate(new)), "comparison": None}
        predicted = self._predict(new, through(self.batches))
        comparison = Comparison(self.labels, self._predicted, predicted, example=self._example)
        return {"metric": comparison.accuracy_after, "comparison": comparison}

    def timed(self, new: nn.Module, *, seconds: float, most: int = 32) -> Timing:
        """Time the model and a pruned one in turn, on a batch of at most `most` examples."""
        try:
            x = first_n(self._timed_input, most)
        except (ArgumentError, TypeError, IndexError):
            x = self._timed_input
        if self._timed_copy is None:
            with self.lock:
                self._timed_copy = copy_of(self.model)
        return compare_latency(self._timed_copy, new, x, seconds=seconds)

    def _predict(self, model: nn.Module, batches: Iterable[Batch]) -> np.ndarray:
        with evaluating(model):
            said = [classified(model, b, self.ignore_index)[0] for b in batches]
        return np.concatenate(said)

    def _predict_dense(self) -> tuple[np.ndarray, ...]:
        """Return the classes that the dense model predicts, the labels, and their examples' numbers."""
        found, examples = [], 0
        for batch in self.batches:
            said, labels, example = self._predict_batch(batch)
            found.append((said, labels, examples + example))
            examples += batch.examples
        return tuple(map(np.concatenate, zip(*found, strict=True)))

    def _predict_batch(self, batch: Batch) -> tuple[np.ndarray, ...]:
        try:
            with evaluating(self.model):
                return classified(self.model, batch, self.ignore_index)
        except ArgumentError as e:
            if not str(e).startswith("`model`"):  # the labels do not fit
                raise
            raise ArgumentError(
                f"{e} Or pass `evaluate`, a function from a model to a number."
            ) from None

    def _in_groups(self, scores: Scores, protect: Sequence[str]) -> list[str]:
        """Leave out layers whose units are in no group; `select` would refuse their names."""
        if scores.groups is None:
            return list(protect)
        producers = {n for g in scores.groups for n in g.producers}
        return [n for n in protect if n in producers]


def _first_examples(inputs: Any) -> Any:
    return inputs[:TRACED] if isinstance(inputs, Tensor) and inputs.ndim else inputs

"""How does a pruned model learn the whole model's answers? By gradient steps, without any label."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.progress import progress_bar
from pruneviz.model.batches import Batch, read_all
from pruneviz.model.hooks import evaluating, is_in_background, seeded
from pruneviz.pruning.repair.answers import Answered, answers_to
from pruneviz.pruning.repair.gradient import descend, one_cycle
from pruneviz.pruning.repair.ladder import RUNGS
from pruneviz.pruning.repair.match import Match, OwnMatch
from pruneviz.pruning.repair.rows import TENTH, held_out

STEPS = 800
CHECKS = 20  # how often the held-out examples are looked at
PATIENCE = 5  # looks without a better one in the second half, after which it stops
TRIAL = 50  # steps with which a learning rate is tried; with fewer, too low a rate seems best
FIRST_RATE = 2e-3
RATES = (1e-6, 1.0)  # lowest and highest that are tried
SHARE_FOR_RATES = 0.25  # of the seconds
CLOSE = 1e-9  # a start as near as this has nothing to learn


@dataclass(frozen=True)
class Distillation:
    """How a pruned model learns from the whole one: what ``repair="distil"`` means, or other settings.

    After least squares all remaining weights move by gradient steps (Adam, one cycle of the learning
    rate), until the pruned model answers as the whole model does. Only inputs are needed, no labels.
    Layers stay in eval mode: no dropout, and the statistics of batch norms stay as they are.

    Every tenth example is held out. On these the learning rate is chosen by short trials, the best
    state is found, and the steps end early if it gets no better. If least squares is better there, it
    is kept, and a warning says so.

    Parameters
    ----------
    steps : int, optional
        Most gradient steps. Default: 800, or as many as `seconds` allow.
    seconds : float, optional
        Most seconds of gradient steps. Then the result depends on the machine.
    match : callable, optional
        ``match(outputs, outputs_of_whole)``, a scalar tensor that is to become small. Default: for
        each floating-point tensor of the output the Kullback-Leibler divergence of the softmaxed
        logits, plus the squared error as a share of the variance. The divergence is left out for a
        single number, and if `batches` have targets that are numbers, not classes. Tokens that a mask
        of the batch calls padding do not count.
    lr : float, optional
        Highest learning rate. Default: the best of short trials.
    seed : int
        For the order of the examples.
    progress : bool
        Show a progress bar, with the agreement of the two models on the held-out examples (the share
        of equal classes, or for numbers 1 − error ÷ variance), and let Ctrl-C end the steps: the best
        weights so far are kept. Otherwise Ctrl-C ends the whole call.

    Raises
    ------
    ArgumentError
        If a value is out of range.

    References
    ----------
    Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", arXiv:1503.02531, §2
    (here with temperature 1). Smith & Topin 2017, "Super-Convergence", arXiv:1708.07120.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    >>> x = torch.randn(500, 8)
    >>> how = pv.Distillation(steps=200, progress=False)
    >>> small = pv.prune(model, x[:2], macs=0.25, batches=x, repair=how)
    >>> small[0]
    Linear(in_features=8, out_features=8, bias=True)
    """

    steps: int | None = None
    seconds: float | None = None
    match: Callable[[Any, Any], Tensor] | None = None
    lr: float | None = None
    seed: int = 0
    progress: bool = True

    def __post_init__(self) -> None:
        if self.steps is not None:
            checks.count(self.steps, "steps", low=1)
        if self.seconds is not None:
            checks.number(self.seconds, "seconds", low=0)
        if self.match is not None:
            checks.function(self.match, "match", "match(outputs, outputs_of_whole)")
        if self.lr is not None:
            checks.number(self.lr, "lr", low=0)
        checks.count(self.seed, "seed")


def rung_of(repair: Any, rungs: Iterable[str] = RUNGS) -> str:
    """Return the name of a repair that may be passed as settings, too; raise if it is none of these.

    >>> rung_of("fold"), rung_of(Distillation(seconds=1))
    ('fold', 'distil')
    """
    return checks.choice("distil" if isinstance(repair, Distillation) else repair, "repair", rungs)


def without_bar(repair: str | Distillation, seed: int = 0) -> str | Distillation:
    """Return a repair for one of many prunings: it shows no bar, and Ctrl-C ends them all.

    `seed`: of the pruning, added to its own.
    """
    if rung_of(repair) != "distil":
        return repair
    how = repair if isinstance(repair, Distillation) else Distillation()
    return replace(how, progress=False, seed=how.seed + seed)


def distil(
    whole: nn.Module,
    new: nn.Module,
    batches: Iterable[Any],
    repair: str | Distillation,
) -> None:
    """Let a pruned model, already repaired by least squares, learn the whole model's answers; in place."""
    how = repair if isinstance(repair, Distillation) else Distillation()
    lesson = _Lesson(whole, new, read_all(batches, "learn from"), how)
    try:
        with lesson.open():
            lesson.run()
    except KeyboardInterrupt:
        if not how.progress:
            raise
        warnings.warn(
            f"repair 'distil' was interrupted after {lesson.taken} steps. The best weights so far "
            "are kept.",
            stacklevel=2,
        )
    if lesson.found_nothing:
        warnings.warn(
            f"repair 'distil': after {lesson.taken} gradient steps the answers on the held-out examples "
            "are no closer to those of the whole model than before, so the weights from before are kept.",
            stacklevel=2,
        )


class _Lesson:
    """The gradient steps of one pruned model."""

    def __init__(
        self, whole: nn.Module, new: nn.Module, batches: list[Batch], how: Distillation
    ) -> None:
        self.new, self.how = new, how
        self.params = _trainable(new)
        fit, rest = held_out(batches)
        if not rest:
            n = sum(b.examples for b in fit)
            raise ArgumentError(
                f"repair 'distil' holds out one example in {TENTH}, but `batches` hold only {n}. Pass "
                "more, or use repair='lstsq'."
            )
        own = how.match is not None
        fitted, judged = answers_to(whole, fit, own=own), answers_to(whole, rest, own=own)
        self.fit, self.rest = Answered(fitted, how.seed), Answered(judged, how.seed)
        self.match = OwnMatch(how.match) if how.match is not None else Match(fitted)
        self.start = self._state()
        self.best, self.best_value = self.start, math.inf
        self.taken = 0
        self.found_nothing = False

    @contextmanager
    def open(self) -> Iterator[None]:
        """Allow gradients in eval mode; afterwards the model has the best weights, and no trace."""
        devices = {p.device for p in self.params}
        # cudnn has no gradients of recurrent layers in eval mode
        recurrent = any(isinstance(m, nn.RNNBase) for m in self.new.modules())
        on_gpu = recurrent and any(d.type == "cuda" for d in devices)
        try:
            with (
                evaluating(self.new),
                seeded(self.how.seed, devices),
                torch.enable_grad(),
                torch.backends.cudnn.flags(enabled=False) if on_gpu else nullcontext(),
            ):
                yield
        finally:
            self._set(self.best)
            for p in self.params:
                p.grad = None

    def run(self) -> None:
        """Choose a learning rate, take the steps, and keep the best state."""
        began = time.monotonic()
        self.best_value = self._judge()[0]
        if self.best_value <= CLOSE:
            return
        lr = self._best_rate(began) if self.how.lr is None else self.how.lr
        self._set(self.start)
        limit = self.how.seconds
        steps = self.how.steps or (STEPS if limit is None else 10**9)

        def done(i: int) -> float:
            if limit is None:
                return i / steps
            return max(i / steps, (time.monotonic() - began) / max(limit, 1e-9))

        rates = (lr * one_cycle(done(i)) for i in count())
        shown = self.how.progress and not is_in_background()
        looks, last, before = 0, 0, self.best
        with progress_bar(total=1.0, shown=shown, text="distil", bar_format=BAR) as bar:
            for i, value in enumerate(self._steps(rates, self.fit), 1):
                if not math.isfinite(value):
                    break
                self.taken, part = i, done(i)
                if part * CHECKS < looks + 1 and part < 1:
                    continue
                looks = int(part * CHECKS)
                held, agreement = self._judge()
                bar.set_postfix_str(f"agreement {agreement:.3f}", refresh=False)
                bar.update(min(part, 1.0) - bar.n)
                if held < self.best_value:
                    self.best, self.best_value, last = self._state(), held, looks
                # before, the rate is too high to tell
                if part >= 1 or looks - max(last, CHECKS // 2) >= PATIENCE:
                    break
        self.found_nothing = self.best is before

    def _best_rate(self, began: float) -> float:
        """Return twice the learning rate after whose short cycle the held-out answers agree best.

        In a long cycle a higher rate is better than in a short one: it has the time to undo its noise.
        """

        def after(rate: float) -> float:
            self._set(self.start)
            rates = (rate * one_cycle((i + 1) / TRIAL) for i in range(TRIAL))
            if all(math.isfinite(v) for v in self._steps(rates, self.fit)):
                value = self._judge()[0]
                return value if math.isfinite(value) else math.inf
            return math.inf

        limit = self.how.seconds
        rate, value = FIRST_RATE, after(FIRST_RATE)
        for factor in (2.0, 0.5):
            found = rate
            while RATES[0] < rate * factor < RATES[1]:
                if limit is not None and time.monotonic() - began > SHARE_FOR_RATES * limit:
                    break
                other = after(rate * factor)
                if other >= value:
                    break
                rate, value = rate * factor, other
            if rate != found:
                break
        return 2 * rate

    def _steps(self, rates: Iterable[float], examples: Answered) -> Iterator[float]:
        optimizer = torch.optim.Adam(self.params)
        return descend(optimizer, examples.drawn(), partial(self.match.value, self.new), rates)

    def _judge(self) -> tuple[float, float]:
        """Return the mismatch and the agreement on the held-out examples."""
        with torch.no_grad():
            return self.match.judge(self.new, self.rest.in_order())

    def _state(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.params]

    def _set(self, state: list[Tensor]) -> None:
        with torch.no_grad():
            for p, value in zip(self.params, state, strict=True):
                p.copy_(value)


BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"


def _trainable(new: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that may move; raise if none may, or not finely enough."""
    found = [p for p in new.parameters() if p.requires_grad and p.is_floating_point()]
    if not found:
        raise ArgumentError(
            "repair 'distil' moves weights by gradients, but all parameters of `model` are frozen. Call "
            "model.requires_grad_() first."
        )
    coarse = sorted({str(p.dtype) for p in found if p.dtype in (torch.float16, torch.bfloat16)})
    if coarse:
        raise ArgumentError(
            f"repair 'distil' takes steps smaller than {coarse[0]} can hold. Pass a copy in float32: "
            "copy.deepcopy(model).float(), and convert the smaller model afterwards."
        )
    return found

"""How long does a forward take, on this machine, now? Medians of rounds in turn, with intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from pruneviz.core import checks
from pruneviz.core.imports import imported
from pruneviz.model.forward import arguments, device_of, moved, run_forward
from pruneviz.model.hooks import evaluating

BLOCK = 0.0005  # seconds of runs timed at once: far less than a time slice of a busy processor
LEAST_ROUNDS = 15
# the speeds of two copies of one model can differ by this share, because of their memory addresses
SAME_SPEED = 0.01


class Latency(float):
    """Milliseconds of one forward: the median of all rounds, with its 95 % confidence interval.

    Parameters
    ----------
    value, low, high : float

    Examples
    --------
    >>> Latency(1.5, 1.4, 1.75)
    1.5 (1.4 to 1.75)
    """

    low: float
    high: float

    def __new__(cls, value: float, low: float, high: float) -> Latency:
        """Make it from the median and the ends of its interval."""
        new = super().__new__(cls, value)
        new.low, new.high = low, high
        return new

    def __getnewargs__(self) -> tuple[float, float, float]:  # type: ignore[override]
        return float(self), self.low, self.high

    def __repr__(self) -> str:
        return f"{float(self):.3g} ({self.low:.3g} to {self.high:.3g})"


def latency_of(times: np.ndarray) -> Latency:
    """Return the median of the milliseconds of many rounds, and its exact interval, from ranks.

    >>> latency_of(np.arange(20.0))
    9.5 (5 to 14)
    """
    return Latency(*_median(times))


def ratio(a: np.ndarray, b: np.ndarray) -> tuple[float, float, float]:
    """Return the median of a ÷ b over rounds, and its exact 95 % interval, from ranks.

    >>> ratio(np.full(9, 3.0), np.full(9, 2.0))
    (1.5, 1.5, 1.5)
    """
    return _median(a / b)


def _median(values: np.ndarray) -> tuple[float, float, float]:
    quantile_test = imported("scipy.stats").quantile_test

    found = quantile_test(values, p=0.5).confidence_interval(0.95)
    return float(np.median(values)), float(found.low), float(found.high)


def speed_text(value: float, low: float, high: float) -> str:
    """Say how many times as fast something is; only if the clock can tell.

    >>> speed_text(2, 1.9, 2.1), speed_text(0.5, 0.4, 1.2)
    ('2.00 times as fast (1.90 to 2.10)', 'no difference measured (0.40 to 1.20 times as fast)')
    """
    if not differs(low, high):
        return f"no difference measured ({low:.2f} to {high:.2f} times as fast)"
    return f"{value:.2f} times as fast ({low:.2f} to {high:.2f})"


def differs(low: float, high: float) -> bool:
    """Whether a whole interval of ratios is more than 1 % above 1, or more than 1 % below.

    >>> differs(1.2, 1.3), differs(0.9, 1.1), differs(1.001, 1.005)
    (True, False, False)
    """
    return low > 1 + SAME_SPEED or high < 1 - SAME_SPEED


def time_in_turn(
    calls: Sequence[Callable[[], Any]],
    *,
    seconds: float,
    threads: int | None = None,
    seed: int = 0,
    between: Callable[[], None] | None = None,
) -> np.ndarray:
    """Return milliseconds per call, shape (rounds, calls); each round times all, in random order.

    `between` is called before each round, and may raise to stop the measurement.

    >>> time_in_turn([lambda: None, lambda: None, lambda: None], seconds=0).shape
    (15, 3)
    """
    # imported here: above, it would double the time of `import pruneviz`
    from torch.utils.benchmark import Timer

    seconds = checks.number(seconds, "seconds", low=0)
    rng = np.random.default_rng(checks.count(seed, "seed"))
    n = torch.get_num_threads() if threads is None else checks.count(threads, "threads", low=1)
    timers = [Timer("call()", globals={"call": c}, num_threads=n) for c in calls]
    once = [min(t.timeit(1).median for _ in range(3)) for t in timers]  # this also warms up
    number = [max(1, round(BLOCK / max(s, 1e-9))) for s in once]
    rounds: list[np.ndarray] = []
    end = time.perf_counter() + seconds
    while len(rounds) < LEAST_ROUNDS or time.perf_counter() < end:
        if between is not None:
            between()
        row = np.empty(len(calls))
        for i in rng.permutation(len(calls)):
            row[i] = timers[i].timeit(number[i]).median  # the timer waits for an accelerator
        rounds.append(row * 1000)
    return np.array(rounds)


@contextmanager
def calls_of(models: Iterable[nn.Module], example_input: Any) -> Iterator[list[Callable[[], Any]]]:
    """Return the forwards as functions, each on inputs on its model's device; each has run once."""
    args, kwargs = arguments(example_input)

    def call_of(model: nn.Module) -> Callable[[], Any]:
        stack.enter_context(evaluating(model))
        run_forward(model, args, kwargs)
        there = moved((args, kwargs), device_of(model))
        return lambda: model(*there[0], **there[1])

    with ExitStack() as stack:
        yield [call_of(model) for model in models]

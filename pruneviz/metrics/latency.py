"""How long does a forward take, on this machine, now? The fastest run of each model counts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.model.forward import arguments, device_of, moved, run_forward
from pruneviz.model.hooks import evaluating


def latencies(
    models: Sequence[nn.Module], example_input: Any, *, seconds: float = 0.2, least: int = 5
) -> list[float]:
    """Measure how long a forward of each model takes; the models take turns.

    In each round every model runs once, so that all run under the same conditions. The fastest run
    of each counts, since other load on the machine can only add time. (On a busy machine the median
    depends on how often a run is interrupted.) The numbers hold for this machine at this moment:
    compare only numbers from one call.

    Parameters
    ----------
    models : sequence of nn.Module
        Not changed. They run in eval mode, without gradients.
    example_input : Tensor, tuple or dict
        Arguments of the forward, unchanged: all examples of the batch at once.
    seconds : float
        About how long to measure, for all models together.
    least : int
        The least number of rounds, however long they take.

    Returns
    -------
    list of float
        Milliseconds for one forward of each model, the fastest of all rounds. Two rounds before
        them warm up, and do not count.

    Raises
    ------
    ArgumentError
        If the example input does not fit, or a model's forward raises.

    Examples
    --------
    >>> import torch
    >>> small, large = torch.nn.Linear(1000, 1), torch.nn.Linear(1000, 5000)
    >>> short, long = latencies([small, large], torch.zeros(50, 1000))
    >>> short < long
    True
    """
    if not models:
        raise ArgumentError(
            "`models` is empty: there is nothing to measure. Pass at least one model."
        )
    seconds = checks.number(seconds, "seconds", low=0)
    least = checks.count(least, "least", low=1)
    taken: list[list[float]] = [[] for _ in models]
    with calls_of(models, example_input) as calls:
        for call in calls:  # warm up once more: first runs are slow (caches, buffers)
            call()
        end = time.perf_counter() + seconds
        while len(taken[0]) < least or time.perf_counter() < end:
            for call, times in zip(calls, taken, strict=True):
                _wait()
                start = time.perf_counter()
                call()
                _wait()
                times.append((time.perf_counter() - start) * 1000)
    return [min(times) for times in taken]


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


def _wait() -> None:
    """Wait until an accelerator has finished its work."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()

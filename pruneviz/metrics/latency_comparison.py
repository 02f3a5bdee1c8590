"""Which of two models is faster, and how certain is that? The models take turns on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from pruneviz.core import checks
from pruneviz.metrics.cost import measure
from pruneviz.metrics.latency import calls_of, differs, ratio, speed_text, time_in_turn
from pruneviz.model.batches import examples_in
from pruneviz.model.hooks import plain_torch
from pruneviz.model.weights import quantised_layer


@dataclass(frozen=True, repr=False)
class Timing:
    """The measured latencies of two models, next to the ratio of their MACs.

    Parameters
    ----------
    before_ms, after_ms : float
        Milliseconds for one forward of all examples at once: the median of all rounds.
    before_iqr_ms, after_iqr_ms : float
        Their spread: the distance between the quartiles.
    latency_speedup : float
        How many times as fast the second model is: the median of before ÷ after over the rounds. A
        number below 1 means slower.
    low, high : float
        The 95 % confidence interval of that median, from the ranks of the rounds.
    speedup : float
        MACs before ÷ MACs after. NaN if there are none.
    rounds, examples, threads : int
        How often each model was timed; the size of the batch; the number of torch's threads.
    device : str
        Where the models ran.

    Examples
    --------
    >>> from pruneviz.metrics.latency_comparison import Timing
    >>> Timing(1.2, 0.6, 0.1, 0.05, 2.0, 1.9, 2.1, 3.85, 400, 64, 1, "cpu")
    Timing of 400 rounds in turn: batch of 64, 1 thread, cpu
      before  1.2 ms (spread 0.1)
      after   0.6 ms (spread 0.05)
      the clock says 2.00 times as fast (1.90 to 2.10); the MACs promise 3.85 times
    >>> Timing(1.2, 1.2, 0.1, 0.1, 1.0, 0.97, 1.02, 10.0, 400, 64, 1, "cpu").told_apart
    False
    """

    before_ms: float
    after_ms: float
    before_iqr_ms: float
    after_iqr_ms: float
    latency_speedup: float
    low: float
    high: float
    speedup: float
    rounds: int
    examples: int
    threads: int
    device: str

    @property
    def told_apart(self) -> bool:
        """Whether the whole interval is more than 1 % above 1, or more than 1 % below."""
        return differs(self.low, self.high)

    def __repr__(self) -> str:
        threads = f"{self.threads} thread" + ("" if self.threads == 1 else "s")
        verdict = "slower: " if self.told_apart and self.latency_speedup < 1 else ""
        times = speed_text(self.latency_speedup, self.low, self.high)
        counted = not np.isnan(self.speedup)
        promise = f"; the MACs promise {self.speedup:.2f} times" if counted else ""
        return (
            f"Timing of {self.rounds} rounds in turn: batch of {self.examples}, {threads}, "
            f"{self.device}\n"
            f"  before  {self.before_ms:.3g} ms (spread {self.before_iqr_ms:.2g})\n"
            f"  after   {self.after_ms:.3g} ms (spread {self.after_iqr_ms:.2g})\n"
            f"  the clock says {verdict}{times}{promise}"
        )


@plain_torch()
def compare_latency(
    before: nn.Module,
    after: nn.Module,
    example_input: Any,
    *,
    seconds: float = 1.0,
    threads: int | None = None,
    seed: int = 0,
) -> Timing:
    """Time two models in turn, on the same input, and say whether their speeds differ measurably.

    Each round times a block of runs of each model, in random order, so that other load on the
    machine affects both. The result holds for this machine, this batch and this moment.

    Parameters
    ----------
    before, after : nn.Module
        Not changed. They run in eval mode, without gradients, each on its own device.
    example_input : Tensor, tuple or dict
        Arguments of the forward: all examples of the batch at once.
    seconds : float
        About how long to measure, after warming up; at least 15 rounds.
    threads : int, optional
        Number of torch's threads; default: as many as it uses now.
    seed : int
        For the order. The caller's random state is not changed.

    Returns
    -------
    Timing

    Raises
    ------
    ArgumentError
        If the example input does not fit, or a forward raises.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> large, small = torch.nn.Linear(1000, 2000), torch.nn.Linear(1000, 20)
    >>> timing = pv.compare_latency(large, small, torch.zeros(50, 1000), seconds=0.1)
    >>> timing.speedup, timing.latency_speedup > 1  # what the MACs promise, and what the clock says
    (100.0, True)
    """
    models = [checks.model(before), checks.model(after)]
    quantised = any(quantised_layer(m) is not None for m in models)  # its MACs cannot be counted
    macs = [0 if quantised else measure(m, example_input).macs for m in models]
    with calls_of(models, example_input) as calls:
        times = time_in_turn(calls, seconds=seconds, threads=threads, seed=seed)
    value, low, high = ratio(times[:, 0], times[:, 1])
    low_quarter, median, high_quarter = np.percentile(times, [25, 50, 75], axis=0).tolist()
    return Timing(
        before_ms=median[0],
        after_ms=median[1],
        before_iqr_ms=high_quarter[0] - low_quarter[0],
        after_iqr_ms=high_quarter[1] - low_quarter[1],
        latency_speedup=value,
        low=low,
        high=high,
        speedup=macs[0] / macs[1] if macs[1] else float("nan"),
        rounds=len(times),
        examples=examples_in(example_input),
        threads=torch.get_num_threads() if threads is None else threads,
        device=" and ".join(dict.fromkeys(_device(m) for m in models)),
    )


def _device(model: nn.Module) -> str:
    device = next((t.device for t in model.parameters()), torch.device("cpu"))
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type

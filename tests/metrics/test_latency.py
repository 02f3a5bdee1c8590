"""Every time carries its interval, and nothing is said where the clock cannot tell."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from helpers import assert_untouched, snapshot
from torch import nn

import pruneviz as pv
from pruneviz.metrics.latency import LEAST_ROUNDS, Latency, calls_of, latency_of, speed_text


def test_a_measured_time_has_its_interval():
    small, large = nn.Linear(1000, 1), nn.Sequential(*[nn.Linear(1000, 1000) for _ in range(5)])
    x = torch.zeros(64, 1000)
    before = snapshot(large)
    fast, slow = (pv.measure(m, x, latency=True).latency_ms for m in (small, large))
    assert_untouched(large, before)
    assert 0 < fast.low <= fast <= fast.high < slow.low <= slow <= slow.high
    assert repr(slow) == f"{float(slow):.3g} ({slow.low:.3g} to {slow.high:.3g})"
    for same in (pickle.loads(pickle.dumps(slow)), copy.deepcopy(slow)):
        assert (same, same.low, same.high) == (slow, slow.low, slow.high)


def test_the_interval_is_that_of_the_binomial():
    found = latency_of(np.arange(100.0)[::-1])
    # ranks 40 and 61 of 100: with p = 0.5 the median lies outside in 3.5 % of all cases
    assert (found, found.low, found.high) == (49.5, 39, 60)


@pytest.mark.parametrize(
    ("value", "low", "high", "text"),
    [
        (0.5, 0.4, 0.6, "0.50 times as fast (0.40 to 0.60)"),
        (0.5, 0.2, 1.2, "no difference measured (0.20 to 1.20 times as fast)"),
        (1.005, 1.001, 1.009, "no difference measured (1.00 to 1.01 times as fast)"),
    ],
)
def test_a_speed_is_said_with_its_interval_or_not_at_all(value, low, high, text):
    assert speed_text(value, low, high) == text


def test_one_model_twice_is_not_twice_as_fast():
    model = nn.Sequential(nn.Linear(300, 300), nn.ReLU(), nn.Linear(300, 300))
    timing = pv.compare_latency(model, model, torch.zeros(8, 300), seconds=0.2)
    # the rounds are in turn, so that other work on the machine meets both
    assert not timing.told_apart or abs(timing.latency_speedup - 1) < 0.05
    assert timing.rounds >= LEAST_ROUNDS


def test_a_wrong_example_is_refused_before_the_clock_starts():
    with (
        pytest.raises(pv.ArgumentError, match="could not run"),
        calls_of([nn.Linear(3, 2)], torch.zeros(2, 7)),
    ):
        pass
    assert Latency(1, 1, 1) == 1

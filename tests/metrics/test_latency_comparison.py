"""Two models and a clock: what is said of them, and how sure; no test depends on the time itself."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from helpers import MODELS, assert_untouched, build, inputs, mlp, refused, snapshot
from torch import nn

import pruneviz as pv
from pruneviz.metrics import latency as timing
from pruneviz.metrics.latency import ratio, time_in_turn
from pruneviz.metrics.latency_comparison import Timing

ROWS = 40


def said(value, low, high, **other):
    t = Timing(1.5, 1.0, 0.1, 0.2, value, low, high, 4.0, 20, 64, 2, "cpu")
    return dataclasses.replace(t, **other)


@pytest.mark.parametrize(
    ("value", "low", "high", "words", "apart"),
    [
        (2.0, 1.9, 2.1, "the clock says 2.00 times as fast (1.90 to 2.10);", True),
        (0.5, 0.4, 0.6, "the clock says slower: 0.50 times as fast (0.40 to 0.60);", True),
        (1.02, 0.97, 1.1, "the clock says no difference measured (0.97 to 1.10 times as fast);", False),
        (1.005, 1.001, 1.009, "the clock says no difference measured (1.00 to 1.01 times as fast);", False),
        (0.98, 0.95, 1.0, "the clock says no difference measured (0.95 to 1.00 times as fast);", False),
    ],
)  # fmt: skip
def test_what_is_said(value, low, high, words, apart):
    t = said(value, low, high)
    assert t.told_apart == apart
    lines = repr(t).splitlines()
    assert lines[0] == "Timing of 20 rounds in turn: batch of 64, 2 threads, cpu"
    assert lines[1:3] == ["  before  1.5 ms (spread 0.1)", "  after   1 ms (spread 0.2)"]
    assert lines[3] == f"  {words} the MACs promise 4.00 times"
    assert "1 thread," in repr(said(value, low, high, threads=1))
    with pytest.raises(dataclasses.FrozenInstanceError):
        t.low = 0


def test_the_interval_of_the_median_holds_it_in_95_of_100_cases():
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        drift = rng.lognormal(0, 1, ROWS)  # of the machine: meets both
        a = drift * 1.3 * rng.lognormal(0, 0.1, ROWS)
        value, low, high = ratio(a, drift)
        assert low <= value <= high
        held += low <= 1.3 <= high
    assert 0.94 <= held / 400 <= 0.98


def test_every_round_times_all_and_their_order_changes(monkeypatch):
    ran = []
    monkeypatch.setattr(timing, "BLOCK", 0)
    calls = [lambda i=i: ran.append(i) for i in range(3)]
    times = time_in_turn(calls, seconds=0, seed=4)
    assert times.shape == (timing.LEAST_ROUNDS, 3) and (times > 0).all()
    blocks = np.array(ran[-timing.LEAST_ROUNDS * 9 :]).reshape(
        -1, 3
    )  # two to warm up, one that counts
    assert (blocks == blocks[:, :1]).all()
    orders = blocks[:, 0].reshape(-1, 3)
    assert (np.sort(orders, 1) == [0, 1, 2]).all() and len({tuple(o) for o in orders}) > 2
    first = list(ran)
    ran.clear()
    time_in_turn(calls, seconds=0, seed=4)
    assert ran == first


def test_a_short_call_is_timed_many_at_once(monkeypatch):
    ran = []
    time_in_turn([lambda: ran.append(0)], seconds=0)
    assert len(ran) > 50 * timing.LEAST_ROUNDS


def test_threads_are_set_and_put_back():
    before, seen = torch.get_num_threads(), set()
    time_in_turn([lambda: seen.add(torch.get_num_threads())], seconds=0, threads=3)
    assert seen == {3} and torch.get_num_threads() == before


def test_a_hundred_times_the_work_is_slower():
    small, large = nn.Linear(1000, 20), nn.Linear(1000, 2000)
    x = torch.zeros(50, 1000)
    t = pv.compare_latency(large, small, x, seconds=0, threads=1)
    assert t.latency_speedup > 2 and t.low > 1 and t.told_apart
    assert (t.speedup, t.examples, t.threads, t.device) == (100.0, 50, 1, "cpu")
    assert t.rounds == timing.LEAST_ROUNDS
    assert t.before_ms > t.after_ms > 0 and t.before_iqr_ms >= 0
    back = pv.compare_latency(small, large, x, seconds=0)
    assert back.latency_speedup < 0.5 and back.speedup == 0.01


def test_no_macs_no_promise():
    t = pv.compare_latency(nn.ReLU(), nn.Sigmoid(), torch.zeros(4, 3), seconds=0)
    assert math.isnan(t.speedup) and "MACs" not in repr(t)


@pytest.mark.parametrize("name", MODELS)
def test_it_leaves_no_trace(name):
    model, other = build(name), build("mlp")
    before = snapshot(model)
    if name == "raising":
        with pytest.raises(pv.ArgumentError, match="boom"):
            pv.compare_latency(model, other, inputs(), seconds=0)
    else:
        pv.compare_latency(model, other, inputs(), seconds=0)
    assert_untouched(model, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_on_cuda():
    model = mlp().cuda()
    t = pv.compare_latency(model, mlp().cuda(), inputs(), seconds=0)
    assert t.device == torch.cuda.get_device_name()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pv.compare_latency(mlp(), "x", inputs()),
            "`model` must be a torch.nn.Module, but a str was passed.",
        ),
        (
            lambda: pv.compare_latency(mlp(), mlp(), inputs(), seconds=-1),
            "`seconds` must be a number ≥ 0, but -1 was passed.",
        ),
        (
            lambda: pv.compare_latency(mlp(), mlp(), inputs(), threads=0),
            "`threads` must be a whole number ≥ 1, but 0 was passed.",
        ),
        (
            lambda: pv.compare_latency(mlp(), nn.Linear(3, 2), torch.zeros(1, 4)),
            "`model` (Sequential) could not run on one example of `example_input`, float32[1, 4]: "
            "RuntimeError: mat1 and mat2 shapes cannot be multiplied (1x4 and 36x8) "
            "(the first dimension must be that of the examples).",
        ),
    ],
)
def test_bad_input(call, message):
    with refused(message):
        call()

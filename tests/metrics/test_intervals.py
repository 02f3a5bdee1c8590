"""Intervals of examples that have several labels: by hand, and how often they hold the truth."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pruneviz as pv
from pruneviz.metrics.accuracy_comparison import Comparison
from pruneviz.metrics.intervals import (
    clustered_difference,
    clustered_interval,
    paired_interval,
    swap_p_value,
)

RNG = np.random.default_rng(0)


def test_with_one_label_each_they_are_those_of_before():
    right = np.array([1, 0, 1, 1, 1, 0, 1])
    assert clustered_interval(right, np.ones(7, int)) == pv.accuracy_interval(5, 7)
    change = np.array([-1, 0, 1, -1, 0, 0, 0])
    assert clustered_difference(change, np.ones(7, int)) == paired_interval(2, 1, 7)


def texts(m: int, t: int) -> np.ndarray:
    """Right tokens of m texts, each with an accuracy of its own; their mean is 0.75."""
    return RNG.binomial(t, RNG.beta(3, 1, m))


@pytest.mark.parametrize("m", [12, 60])
def test_the_interval_holds_the_truth_in_95_of_100_cases(m):
    t, cases = 40, 800
    held = naive = 0
    for _ in range(cases):
        right = texts(m, t)
        low, high = clustered_interval(right, np.full(m, t))
        held += low <= 0.75 <= high
        low, high = pv.accuracy_interval(int(right.sum()), m * t)
        naive += low <= 0.75 <= high
    assert 0.93 <= held / cases <= 0.98
    assert naive / cases < 0.6  # as if tokens were independent


def test_the_interval_of_a_difference_holds_it():
    m, t, cases, held = 40, 30, 800, 0
    for _ in range(cases):
        share = RNG.beta(3, 1, m)
        a, b = (RNG.binomial(t, np.clip(share + RNG.normal(0, 0.1, m), 0, 1)) for _ in "ab")
        low, high = clustered_difference(b - a, np.full(m, t))
        held += low <= 0 <= high
    assert 0.92 <= held / cases <= 0.98


@pytest.mark.parametrize("n", [1, 5])
def test_ends(n):
    labels = np.full(n, 10)
    low, high = clustered_interval(labels, labels)
    assert (low, high) == pytest.approx(pv.accuracy_interval(n, n), abs=1e-12)
    low, high = clustered_interval(np.full(n, 5), labels)
    assert 0 <= low < 0.5 < high <= 1
    assert clustered_difference(np.zeros(n, int), labels) == paired_interval(0, 0, n)
    if n == 1:
        assert clustered_difference(np.array([3]), labels) == (-1, 1)


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=9))
def test_p_is_the_share_of_all_signs(change):
    change = np.array(change)
    sums = [abs(np.dot(s, change)) for s in product((-1, 1), repeat=len(change))]
    want = np.mean(np.array(sums) >= abs(change.sum()))
    assert swap_p_value(change) == pytest.approx(want)


def test_p_of_many_changes_is_normal(monkeypatch):
    change = RNG.integers(-5, 7, 300)
    exact = swap_p_value(change)
    monkeypatch.setattr("pruneviz.metrics.intervals.MOST_SUMS", 0)
    assert swap_p_value(change) == pytest.approx(exact, rel=0.1)


def test_a_comparison_counts_examples_and_not_positions():
    x, y = torch.randn(30, 7, 4), torch.randint(4, (30, 7))
    y[:, 5:] = -100
    worse = nn.Sequential(nn.Linear(4, 4), nn.Tanh())
    found = pv.compare_accuracy(nn.Identity(), worse, [(x[:20], y[:20]), (x[20:], y[20:])],
                                ignore_index=-100)  # fmt: skip
    assert (found.examples, len(found.labels)) == (30, 150)
    right = (x.argmax(-1) == y)[:, :5].sum(1).numpy()
    assert found.interval_before == clustered_interval(right, np.full(30, 5))
    assert found.example.tolist() == np.repeat(np.arange(30), 5).tolist()
    assert "on 150 labels of 30 examples" in repr(found)
    assert "p of swapped examples = " in repr(found)
    frame = found.to_frame()
    assert frame["examples"].sum() == 150
    assert found.difference == pytest.approx(-(frame["lost"] * frame["examples"]).sum() / 150)
    # ten copies of each position say no more than one
    many = {n: np.repeat(getattr(found, n), 10) for n in ("labels", "said_before", "said_after")}
    copied = Comparison(**many, example=np.repeat(np.arange(150), 10))
    plain = Comparison(found.labels, found.said_before, found.said_after)
    assert copied.p_value == pytest.approx(plain.p_value)
    assert copied.interval == pytest.approx(plain.interval, abs=0.02)

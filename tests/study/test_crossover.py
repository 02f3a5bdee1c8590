"""Where sparse beats dense; no test depends on the time itself."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st

import pruneviz as pv
from pruneviz.study.crossover import SPARSITIES, WAYS, calls_of

GRID = {"widths": [16, 40], "batches": [1, 3], "sparsities": [0.5, 0.9]}


def measured(**other):
    return pv.crossover(**{**GRID, "seconds": 0, "progress": False, **other})


def curve(values, sparsities=SPARSITIES, **other):
    data = {"width": 64, "batch": 1, "way": "csr_mm", "sparsity": sparsities}
    return pd.DataFrame({**data, **other, "latency_speedup": values})


def test_a_row_for_each_combination():
    frame = measured()
    assert len(frame) == 2 * 2 * 2 * len(WAYS)
    assert list(frame["way"][:5]) == list(WAYS)
    keys = ["width", "batch", "sparsity", "way"]
    assert not frame.duplicated(keys).any()
    assert pd.concat([frame["ms"], frame["latency_speedup"]]).gt(0).all()
    assert (frame["low"] <= frame["latency_speedup"]).all()
    assert (frame["latency_speedup"] <= frame["high"]).all()
    dense = frame[frame["way"] == "dense"]
    assert (dense[["latency_speedup", "low", "high", "speedup"]] == 1).all(axis=None)
    assert (frame["threads"] == torch.get_num_threads()).all()
    assert set(measured(threads=2, widths=[8])["threads"]) == {2}


def test_the_macs_that_are_promised():
    frame = measured().set_index(["width", "sparsity", "way"])["speedup"]
    assert set(frame.loc[40, 0.5, "zeros"]) == {1.0}
    assert set(frame.loc[40, 0.9, "csr_mm"]) == set(frame.loc[40, 0.9, "csr_linear"]) == {10.0}
    assert set(frame.loc[40, 0.9, "smaller"]) == {40**2 / round(40 * math.sqrt(0.1)) ** 2}


@given(st.integers(1, 30), st.integers(1, 5), st.floats(0, 0.99), st.integers(0, 5))
def test_what_is_timed_computes_the_same(width, batch, sparsity, seed):
    calls, macs = calls_of(width, batch, sparsity, seed)
    want = calls["zeros"]()
    assert torch.allclose(calls["csr_linear"](), want, atol=1e-5)
    assert torch.allclose(calls["csr_mm"]().T, want, atol=1e-5)
    assert calls["dense"]().shape == want.shape
    assert macs["csr_mm"] == width**2 - round(sparsity * width**2)
    assert calls["smaller"]().shape[1] ** 2 == macs["smaller"]


def test_the_callers_random_state_is_not_changed():
    before = torch.get_rng_state()
    measured(widths=[8])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("values", "want"),
    [
        ([0.1, 0.2, 0.3, 0.5, 2.0, 3.0, 4.0], (1 - 0.1 * 0.5**0.5, 0.9, 0.95)),  # half way, in logs
        ([2.0, 2.0, 2.0, 2.0, 2.0, 3.0, 4.0], (0.5, math.nan, 0.5)),
        ([0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8], (math.nan, 0.99, math.nan)),
        ([0.1, 2.0, 0.5, 0.5, 0.5, 2.0, 4.0], (1 - 0.05 * 0.4**0.5, 0.95, 0.98)),  # the last time
        ([1.0, 4.0, 4.0, 4.0, 4.0, 4.0, 4.0], (0.5, 0.5, 0.7)),  # as fast is not faster
    ],
)
def test_where_the_line_crosses_one(values, want):
    frame = pv.speed_break_evens(curve(values))
    assert list(frame.columns) == ["width", "batch", "way", "break_even", "below", "above"]
    assert frame[["break_even", "below", "above"]].iloc[0].tolist() == pytest.approx(
        want, nan_ok=True
    )
    shuffled = curve(values).sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(pv.speed_break_evens(shuffled), frame)


def test_one_row_for_each_width_batch_and_kernel():
    frame = pv.speed_break_evens(measured())
    assert len(frame) == 2 * 2 * 2
    assert set(frame["way"]) == {"csr_linear", "csr_mm"}
    known = frame.dropna()
    assert ((known["below"] <= known["break_even"]) & (known["break_even"] <= known["above"])).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measured(widths=[]), "`widths` is empty: there is nothing to measure."),
        (lambda: measured(widths=[0]), "`widths` must be a whole number ≥ 1, but 0 was passed."),
        (lambda: measured(batches=[1.5]), "`batches` must be a whole number ≥ 1, but 1.5 was passed."),
        (
            lambda: measured(sparsities=[90]),
            "`sparsities` must be a fraction in [0, 1), but 90 was passed. Did you mean 0.9? Fractions, "
            "never percentages.",
        ),
        (lambda: measured(seconds=-1), "`seconds` must be a number ≥ 0, but -1 was passed."),
        (
            lambda: pv.speed_break_evens(pd.DataFrame({"width": [1]})),
            "speed_break_evens needs a column 'batch', but the frame has: width. Make it with pv.crossover().",
        ),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with refused(message):
        call()


def test_a_hundredth_of_the_weights_is_less_work():
    # a thousand times less: on any machine that is faster
    frame = pv.crossover(widths=[1500], batches=[64], sparsities=[0.999], seconds=0, progress=False)
    faster = frame.set_index("way")["latency_speedup"]
    assert faster["smaller"] > 2
    assert np.isfinite(faster).all()

from __future__ import annotations

import itertools

import pytest
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st

import pruneviz as pv
from pruneviz.training.schedules import SCHEDULES

SPARSITY = st.floats(0, 0.999)
ROUNDS = st.integers(1, 20)
RISING = sorted(set(SCHEDULES) - {"one-shot"})


@given(st.sampled_from(RISING), st.tuples(SPARSITY, SPARSITY), ROUNDS)
def test_a_schedule_rises_to_its_end(kind, ends, rounds):
    start, end = sorted(ends)
    steps = pv.schedule(kind, end, rounds=rounds, start=start)
    assert len(steps) == rounds
    assert steps[-1] == end
    for before, after in zip([start, *steps], steps, strict=False):
        assert after >= before - 1e-12


@given(st.tuples(SPARSITY, SPARSITY), ROUNDS)
def test_linear_steps_are_equal(ends, rounds):
    start, end = sorted(ends)
    steps = [start, *pv.schedule("linear", end, rounds=rounds, start=start)]
    for before, after in itertools.pairwise(steps):
        assert after - before == pytest.approx((end - start) / rounds, abs=1e-12)


@given(st.tuples(SPARSITY, SPARSITY), ROUNDS)
def test_cubic_is_zhu_and_guptas(ends, rounds):
    start, end = sorted(ends)
    want = [end + (start - end) * (1 - t / rounds) ** 3 for t in range(1, rounds + 1)]
    assert pv.schedule("cubic", end, rounds=rounds, start=start) == pytest.approx(want, abs=1e-12)


@given(st.tuples(SPARSITY, SPARSITY), ROUNDS)
def test_geometric_keeps_the_same_share_in_every_round(ends, rounds):
    start, end = sorted(ends)
    steps = [start, *pv.schedule("geometric", end, rounds=rounds, start=start)]
    kept = [(1 - after) / (1 - before) for before, after in itertools.pairwise(steps)]
    assert kept == pytest.approx([((1 - end) / (1 - start)) ** (1 / rounds)] * rounds)


def test_cubic_takes_larger_steps_first():
    steps = [0.0, *pv.schedule("cubic", 0.9, rounds=5)]
    sizes = [after - before for before, after in itertools.pairwise(steps)]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize("kind", sorted(SCHEDULES))
def test_one_round_is_one_shot(kind):
    assert pv.schedule(kind, 0.8) == [0.8]
    assert pv.schedule(kind, 0) == [0.0]


@pytest.mark.parametrize(
    ("kind", "sparsity", "options", "message"),
    [
        ("cubik", 0.5, {}, "schedule 'cubik' is unknown. Did you mean 'cubic'? Known: cubic, geometric, linear, one-shot."),
        ("linear", 80, {"rounds": 2}, "`sparsity` must be a fraction in [0, 1), but 80 was passed. Did you mean 0.8? Fractions, never percentages."),
        ("linear", 0.8, {"start": 1}, "`start` must be a fraction in [0, 1), but 1 was passed. Nothing would be left; pass a number below 1, such as 0.99."),
        ("linear", 0.5, {"start": 0.75}, "`start` must not be above `sparsity`, but 0.75 is above 0.5: a schedule never falls. Pass a smaller `start`."),
        ("linear", 0.5, {"rounds": 0}, "`rounds` must be a whole number ≥ 1, but 0 was passed."),
        ("linear", 0.5, {"rounds": 2.0}, "`rounds` must be a whole number ≥ 1, but 2.0 was passed."),
        ("one-shot", 0.5, {"rounds": 3}, "a one-shot schedule has one round, but rounds=3 was passed. Try 'geometric' or 'cubic'."),
    ],
)  # fmt: skip
def test_a_bad_schedule_is_refused(kind, sparsity, options, message):
    with refused(message):
        pv.schedule(kind, sparsity, **options)

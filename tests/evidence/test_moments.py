"""Moments: whatever the split into batches and the order of merging, those of all rows at once."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
import torch
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st

from pruneviz.evidence.moments import Moments
from pruneviz.evidence.streams import Stream


def numbers(rows: int, n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Columns of different means and sizes, a quarter of the numbers exactly 0."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, n, generator=g, dtype=torch.float64) * torch.arange(1, n + 1)
    x = x + 10 * torch.randn(n, generator=g, dtype=torch.float64)
    return (x * (torch.rand(rows, n, generator=g) > 0.25)).to(dtype)


def assert_moments_of(m: Moments, x: torch.Tensor, rtol: float = 1e-10) -> None:
    """Compare with numpy; x of shape (rows, n)."""
    a = x.double().numpy()
    assert m.count == len(a)
    np.testing.assert_allclose(m.mean, a.mean(0), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(m.variance, a.var(0), rtol=rtol, atol=rtol)
    np.testing.assert_allclose(m.square, (a**2).mean(0), rtol=rtol, atol=rtol)
    np.testing.assert_array_equal(m.zero_fraction, (a == 0).mean(0))
    np.testing.assert_array_equal(m.low, a.min(0))
    np.testing.assert_array_equal(m.high, a.max(0))
    np.testing.assert_array_equal(m.max, np.abs(a).max(0))
    if m.full:
        cov = np.cov(a.T, ddof=0).reshape(a.shape[1], a.shape[1])
        np.testing.assert_allclose(m.covariance, cov, rtol=rtol, atol=rtol * np.abs(cov).max())


@st.composite
def splits(draw):
    """Rows, a split of them into batches, and an order of these."""
    x = numbers(draw(st.integers(1, 30)), draw(st.integers(1, 4)), draw(st.integers(0, 99)))
    cuts = draw(st.lists(st.integers(1, max(1, len(x) - 1)), max_size=6, unique=True))
    parts = [p for p in x.tensor_split(sorted(cuts)) if len(p)]
    return x, draw(st.permutations(parts))


def merged_in_pairs(parts: list[Moments]) -> Moments:
    """Merge as a tree, not from left to right."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return merged_in_pairs(parts[:half]).merge(merged_in_pairs(parts[half:]))


@given(splits(), st.booleans())
def test_any_split_and_any_merge_order_is_the_whole(case, comoment):
    x, parts = case
    moments = [Moments.of(p, comoment=comoment) for p in parts]
    for whole in (reduce(Moments.merge, moments), merged_in_pairs(moments)):
        assert whole.full is comoment
        assert_moments_of(whole, x)


@given(splits(), st.booleans())
def test_a_stream_of_batches_is_the_whole(case, comoment):
    x, parts = case
    stream = Stream(comoment)
    for part in parts:
        stream.add(part)
    assert_moments_of(stream.result(), x)


@pytest.mark.parametrize("comoment", [True, False])
def test_a_stream_of_positions_is_that_of_its_rows(comoment):
    x = numbers(40, 3).reshape(8, 5, 3)
    stream = Stream(comoment)
    for part in x.split(3):
        stream.add(part.transpose(1, 2))  # (examples, n, positions)
    assert_moments_of(stream.result(), x.flatten(0, 1))


@pytest.mark.parametrize("comoment", [True, False])
def test_a_batch_larger_than_the_cache_is_read_in_blocks(comoment, monkeypatch):
    monkeypatch.setattr("pruneviz.evidence.streams.BLOCK", 10)
    stream, x = Stream(comoment), numbers(37, 3)
    stream.add(x)
    assert_moments_of(stream.result(), x)


def test_by_hand():
    m = Moments.of(torch.tensor([[1.0, 0.0], [3.0, 0.0], [5.0, -6.0]]))
    assert m.count == 3
    assert m.mean.tolist() == [3, -2]
    assert m.comoment.tolist() == [[8, -12], [-12, 24]]
    assert m.zeros.tolist() == [0, 2]
    assert (m.low.tolist(), m.high.tolist(), m.max.tolist()) == ([1, -6], [5, 0], [5, 6])
    assert {t.dtype for t in (m.mean, m.comoment, m.zeros, m.low, m.high)} == {torch.float64}


@pytest.mark.parametrize("comoment", [True, False])
def test_a_large_mean_does_not_swallow_a_small_variance(comoment):
    """E[x²] − E[x]² in float32 would be noise of the size of 1000."""
    x = (1e5 + numbers(1000, 3) / 10).float()
    want = x.double().numpy().var(0)
    stream = Stream(comoment)
    for part in x.split(100):
        stream.add(part)
    parts = [Moments.of(p, comoment=comoment) for p in x.split(100)]
    for m in (Moments.of(x, comoment=comoment), reduce(Moments.merge, parts), stream.result()):
        np.testing.assert_allclose(m.variance, want, rtol=1e-4)


def test_a_constant_has_no_variance():
    m = Moments.of(torch.full((7, 2), 0.1))
    assert m.variance.tolist() == [0, 0]
    assert m.covariance.abs().max() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64])
def test_half_precision_and_whole_numbers(dtype):
    x = numbers(20, 3, dtype=dtype)
    assert_moments_of(Moments.of(x), x, rtol=1e-5)


@pytest.mark.parametrize("comoment", [True, False])
def test_leading_dimensions_are_separate(comoment):
    x = torch.stack([numbers(9, 3, seed) for seed in range(4)]).reshape(2, 2, 9, 3)
    m = Moments.of(x[..., :4, :], comoment=comoment).merge(
        Moments.of(x[..., 4:, :], comoment=comoment)
    )
    assert m.mean.shape == (2, 2, 3)
    assert m.comoment.shape == ((2, 2, 3, 3) if comoment else (2, 2, 3))
    for i, j in np.ndindex(2, 2):
        parts = (t[i, j] for t in (m.mean, m.comoment, m.zeros, m.low, m.high))
        assert_moments_of(Moments(m.count, *parts), x[i, j])


def test_the_diagonal_is_that_of_the_whole():
    x = numbers(9, 3)
    m = Moments.of(x).diagonal()
    assert not m.full
    assert_moments_of(m, x)
    assert m.diagonal().comoment is m.comoment
    assert repr(m) == "Moments of 3 columns over 9 rows, diagonal only"
    with refused(
        "only the diagonal of the co-moment of 3 columns was kept. Collect the whole: "
        "pv.collect(model, batches, comoment='all')."
    ):
        _ = m.covariance


def test_moments_have_no_gradient():
    x = numbers(5, 2).requires_grad_()
    assert not Moments.of(x).comoment.requires_grad


def test_the_parts_are_not_changed_by_a_merge():
    one, two = Moments.of(numbers(5, 2)), Moments.of(numbers(4, 2, seed=1))
    one.merge(two)
    assert_moments_of(one, numbers(5, 2))


BOTH = "moments of different shapes cannot be merged: (2,) with a co-moment (2, 2) and "
SAME = ". Collect both from the same model, with the same arguments."


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Moments.of(numbers(5, 3)), BOTH + "(3,) with a co-moment (3, 3)" + SAME),
        (Moments.of(numbers(5, 2), comoment=False), BOTH + "(2,) with a co-moment (2,)" + SAME),
        (Moments.of(numbers(5, 2)[None]), BOTH + "(1, 2) with a co-moment (1, 2, 2)" + SAME),
    ],
)
def test_merging_other_shapes_is_refused(other, message):
    with refused(message):
        Moments.of(numbers(5, 2)).merge(other)


@pytest.mark.parametrize("shape", [(0, 3), (2, 0, 3), (3,)])
def test_moments_need_rows(shape):
    with refused(f"moments need rows of numbers, shape (..., rows, n), but {shape} was passed."):
        Moments.of(torch.zeros(shape))


def test_a_single_row():
    m = Moments.of(torch.tensor([[2.0, 0.0]]))
    assert m.count == 1
    assert m.mean.tolist() == [2, 0]
    assert m.covariance.abs().max() == 0

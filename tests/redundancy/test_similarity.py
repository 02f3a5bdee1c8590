from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pruneviz.redundancy import similarity
from pruneviz.redundancy.similarity import correlated_pairs, norms, pooled_covariance, similar_pairs


@pytest.fixture
def small_blocks(monkeypatch):
    """Many tiles from few rows."""
    monkeypatch.setattr(similarity, "BLOCK", 7)


def ranked(matrix, dead=(), top=None, threshold=-2.0):
    """Pairs by the full matrix and a sort: the oracle."""
    i, j = np.triu_indices(len(matrix), 1)
    s = matrix[i, j].round(12)
    ok = (s >= threshold) & ~np.isin(i, dead) & ~np.isin(j, dead)
    i, j, s = i[ok], j[ok], s[ok]
    order = np.lexsort((j, i, -s))[:top]
    return i[order].tolist(), j[order].tolist(), s[order]


def cosines(rows):
    w = rows.double().numpy()
    size = np.linalg.norm(w, axis=1, keepdims=True)
    w = w / np.where(size > 0, size, 1)
    return w @ w.T, np.flatnonzero(size[:, 0] == 0)


def assert_pairs(found, want):
    i, j, s = found
    assert (i.dtype, j.dtype, s.dtype) == (torch.int64, torch.int64, torch.float64)
    assert (i.tolist(), j.tolist()) == want[:2]
    np.testing.assert_allclose(s.numpy(), want[2], atol=2e-12)


def random(n, d, seed=0, **how):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), **how)


def test_a_hand_computation():
    rows = torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 2.0], [-5.0, 0.0]])
    i, j, s = similar_pairs(rows)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [
        *[(1, 2), (0, 1), (0, 2), (2, 3), (1, 3), (0, 3)],
    ]
    assert s.tolist() == pytest.approx([0.8, 0.6, 0, 0, -0.6, -1], abs=1e-12)


@pytest.mark.parametrize(
    "limits", [{}, {"top": 9}, {"threshold": 0.3}, {"top": 40, "threshold": 0.4}]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.usefixtures("small_blocks")
def test_as_the_full_matrix_and_a_sort(limits, dtype):
    rows = random(60, 8, dtype=dtype)
    rows[[4, 30]] = 0
    matrix, dead = cosines(rows)
    assert_pairs(similar_pairs(rows, **limits), ranked(matrix, dead, **limits))


def test_as_the_full_matrix_with_blocks_as_they_are():
    rows = random(1000, 16)
    rows[700] = 3 * rows[40]
    found = similar_pairs(rows, top=200)
    assert_pairs(found, ranked(*cosines(rows), top=200))
    assert (int(found[0][0]), int(found[1][0]), float(found[2][0])) == (40, 700, 1.0)


@given(
    n=st.integers(0, 25),
    d=st.integers(0, 4),
    top=st.none() | st.integers(1, 400),
    threshold=st.none() | st.sampled_from([-1.0, -0.5, 0.0, 0.6, 1.0]),
    seed=st.integers(0, 99),
)
@settings(deadline=None, max_examples=150)
def test_ties_zeros_and_shapes(n, d, top, threshold, seed):
    # small whole numbers: many ties, multiples and zeros
    rows = torch.randint(-2, 3, (n, d), generator=torch.Generator().manual_seed(seed)).float()
    size, similarity.BLOCK = similarity.BLOCK, 7
    try:
        found = similar_pairs(rows, top=top, threshold=threshold)
    finally:
        similarity.BLOCK = size
    matrix, dead = cosines(rows)
    assert_pairs(found, ranked(matrix, dead, top, -2.0 if threshold is None else threshold))


@pytest.mark.usefixtures("small_blocks")
def test_pairs_that_are_all_the_same_come_by_index():
    rows = random(1, 33).repeat(70, 1) * torch.arange(1, 71).unsqueeze(1)  # 2,415 pairs
    i, j, s = similar_pairs(rows, top=100)
    want = np.triu_indices(70, 1)
    assert (i.tolist(), j.tolist()) == (want[0][:100].tolist(), want[1][:100].tolist())
    assert (s == 1).all()
    i, j, s = similar_pairs(torch.eye(70), top=100)  # all of them 0
    assert (i.tolist(), j.tolist()) == (want[0][:100].tolist(), want[1][:100].tolist())
    assert (s == 0).all()


def test_the_last_digit_is_that_of_float64():
    rows = random(500, 700)
    rows[400] = rows[3] + 1e-4 * random(1, 700, seed=1)  # 1 - 5e-9: in float32 that is 1
    rows[401] = rows[3] + 2e-4 * random(1, 700, seed=2)
    rows[402] = -7 * rows[3]
    rows[403] = rows[402] / 3
    i, j, s = similar_pairs(rows, top=3)
    assert list(zip(i.tolist(), j.tolist(), strict=True)) == [(402, 403), (3, 400), (3, 401)]
    assert float(s[0]) == 1 > float(s[1]) > float(s[2]) > 1 - 1e-7
    assert len(similar_pairs(rows, threshold=1.0)[0]) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    rows = random(30, 12).to(dtype)
    assert_pairs(similar_pairs(rows, top=50), ranked(*cosines(rows), top=50))
    big = torch.full((2, 4), 3e4, dtype=dtype)  # the square is beyond float16
    assert similar_pairs(big)[2].tolist() == [1]


def test_very_large_and_very_small_numbers():
    rows = torch.tensor([[1e25, 0.0], [1e25, 1e25], [1e-30, 0.0]])
    i, j, s = similar_pairs(rows)
    assert s.tolist() == pytest.approx([1, 0.5**0.5, 0.5**0.5], abs=1e-7)
    assert (int(i[0]), int(j[0])) == (0, 2)


def test_no_rows_have_no_pairs():
    for rows in (torch.zeros(0, 3), torch.ones(1, 3), torch.ones(5, 0), torch.zeros(5, 3)):
        assert [len(x) for x in similar_pairs(rows, top=3)] == [0, 0, 0]


def test_rows_are_not_changed_and_may_require_gradients():
    rows = random(9, 3).requires_grad_()
    before = rows.detach().clone()
    i, _, s = similar_pairs(rows)
    assert torch.equal(rows, before)
    assert not s.requires_grad
    assert similar_pairs(rows.detach().T.contiguous().T, top=4)[0].tolist() == i[:4].tolist()


class Largest(TorchDispatchMode):
    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        results = out if isinstance(out, (tuple, list)) else [out]
        fresh = [t for t in results if isinstance(t, torch.Tensor) and not func.is_view]
        self.numel = max([self.numel, *(t.numel() for t in fresh)])
        return out


def test_no_tensor_of_all_pairs_and_half_of_the_work():
    rows = random(4096, 32)
    with Largest() as seen, FlopCounterMode(display=False) as flops:
        similar_pairs(rows, top=10)
    assert seen.numel <= 2 * similarity.BLOCK**2
    assert flops.get_total_flops() <= 0.56 * 2 * 4096**2 * 32


def samples(n=300, columns=40, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, columns))
    x[:, 5] = -3 * x[:, 20] + 7
    x[:, 30] = x[:, 2] + 0.1 * x[:, 3]
    return x


@pytest.mark.parametrize("limits", [{}, {"top": 9}, {"threshold": 0.1}])
@pytest.mark.usefixtures("small_blocks")
def test_correlations_as_numpy_has_them(limits):
    x = samples()
    x[:, [0, 39]] = 1234.5
    covariance, mean = torch.from_numpy(np.cov(x.T)), torch.from_numpy(x.mean(0))
    found = correlated_pairs(covariance, mean=mean, **limits)
    varies = np.delete(np.arange(40), [0, 39])
    matrix = np.zeros((40, 40))
    matrix[np.ix_(varies, varies)] = np.abs(np.corrcoef(x[:, varies].T))
    assert_pairs(found, ranked(matrix, [0, 39], **limits))
    assert (int(found[0][0]), int(found[1][0])) == (5, 20)
    assert float(found[2][0]) == pytest.approx(1)


@given(n=st.integers(1, 12), k=st.integers(1, 4), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=50)
def test_units_of_several_columns_are_pooled(n, k, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, n * k)) + rng.normal(size=n * k)
    index = torch.from_numpy(rng.permutation(n * k).reshape(n, k))
    covariance, mean = torch.from_numpy(np.cov(x.T, bias=True)).reshape(n * k, n * k), x.mean(0)
    mean = torch.from_numpy(mean)
    pooled = np.stack([x[:, c].ravel() for c in index.numpy()])  # all positions of a unit
    want = np.cov(pooled, bias=True).reshape(n, n)
    got = pooled_covariance(covariance, mean, index[:, None], index[None])
    np.testing.assert_allclose(got.numpy(), want, atol=1e-12)
    found = correlated_pairs(covariance, mean=mean, index=index)
    matrix = np.abs(np.corrcoef(pooled)).reshape(n, n)
    i, j, s = (t.numpy() for t in found)
    assert len(i) == n * (n - 1) // 2
    np.testing.assert_allclose(s, matrix[i, j], atol=1e-10)
    assert (np.diff(s) <= 0).all()


def test_what_rounding_leaves_is_constant():
    covariance, mean = torch.diag(torch.tensor([1e-6, 1e-6, 1.0, 1.0]).double()), torch.zeros(4)
    covariance[0, 1] = covariance[1, 0] = 1e-6
    covariance[2, 3] = covariance[3, 2] = 0.5
    both = correlated_pairs(covariance, mean=mean.double())
    assert both[2].tolist()[:2] == [1, 0.5]
    high = correlated_pairs(covariance, mean=torch.tensor([1e4, 1e4, 0, 0]).double())
    assert [t.tolist() for t in high] == [[2], [3], [0.5]]


def test_norms():
    torch.testing.assert_close(
        norms(torch.tensor([[3.0, 4.0], [0.0, 0.0]])), torch.tensor([5.0, 0]).double()
    )
    assert norms(torch.zeros(0, 2)).shape == (0,)


LIMIT = "`threshold` must be a similarity in [-1, 1], but {} was passed."
ROWS = torch.eye(3)
PERCENT = " Did you mean {}? Similarities, never percentages."
NAN = (
    "`rows` must be finite, with finite squares, but they contain NaN, infinity or larger numbers. "
    "Remove such rows, or scale them."
)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: similar_pairs(ROWS, threshold=95), LIMIT.format(95) + PERCENT.format(0.95)),
        (lambda: similar_pairs(ROWS, threshold=1.5), LIMIT.format(1.5) + PERCENT.format(0.015)),
        (lambda: similar_pairs(ROWS, threshold=-2), LIMIT.format(-2)),
        (lambda: similar_pairs(ROWS, threshold=float("nan")), LIMIT.format("nan")),
        (lambda: similar_pairs(ROWS, threshold=True), LIMIT.format(True)),
        (lambda: similar_pairs(ROWS, threshold="0.9"), LIMIT.format("'0.9'")),
        (
            lambda: correlated_pairs(ROWS.double(), threshold=-0.5),
            "`threshold` must be a similarity in [0, 1], but -0.5 was passed.",
        ),
        (
            lambda: similar_pairs(ROWS, top=0),
            "`top` must be a whole number ≥ 1, but 0 was passed.",
        ),
        (
            lambda: similar_pairs(ROWS, top=2.5),
            "`top` must be a whole number ≥ 1, but 2.5 was passed.",
        ),
        (
            lambda: similar_pairs(ROWS[0]),
            "`rows` must be a matrix, shape (n, d), but (3,) was passed.",
        ),
        (
            lambda: similar_pairs([[1.0]]),
            "`rows` must be a matrix, shape (n, d), but list was passed.",
        ),
        (lambda: similar_pairs(ROWS * torch.nan), NAN),
        (lambda: similar_pairs(ROWS / 0), NAN),
        (
            lambda: correlated_pairs(ROWS.double() * torch.nan),
            "`covariance` and `mean` must be finite, but they contain NaN or infinity. Look for the "
            "batch that holds them, and collect them anew.",
        ),
    ],
)
def test_bad_calls(call, message):
    with refused(message):
        call()

"""The rungs of the ladder: numbers by hand, where each is exact, and which is at least as good as which."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor

from pruneviz.pruning.repair.ladder import (
    RIDGE,
    Substitute,
    fold,
    lstsq,
    merge,
    refit_columns,
    refit_rows,
    solve_ridge,
)

YES, NO = True, False


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of the columns."""
    return x.mean(0), torch.cov(x.T, correction=0).reshape(x.shape[1], x.shape[1])


def units(n: int, k: int = 1) -> Tensor:
    return torch.arange(n * k).reshape(n, k)


def delete(keep: Tensor) -> Substitute:
    gone, kept = int((~keep).sum()), int(keep.sum())
    return Substitute(torch.zeros(gone, kept).double(), torch.zeros(gone).double())


def left(x: Tensor, keep: Tensor, substitute: Substitute) -> Tensor:
    """Return the error of a substitute in each removed column, shape (rows, removed)."""
    return x[:, ~keep] - x[:, keep] @ substitute.matrix.T - substitute.offset


def error(w: Tensor, x: Tensor, keep: Tensor, substitute: Substitute) -> float:
    """Mean square of what the layer then gives otherwise."""
    weight, gain = refit_columns(w, keep, substitute)
    return float((x @ w.T - x[:, keep] @ weight.T - gain).square().sum(1).mean())


@st.composite
def layers(draw) -> tuple[Tensor, Tensor, Tensor]:
    """Draw weights, inputs and what is kept: some columns are constant, twins, or sums of others."""
    n, rows, outputs = draw(st.integers(2, 7)), draw(st.integers(3, 30)), draw(st.integers(1, 4))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**20)))
    x = torch.randn(rows, n, generator=g, dtype=torch.float64) + 2 * torch.rand(n, generator=g)
    x[:, 0] = draw(st.sampled_from([0.0, 3.0])) if draw(st.booleans()) else x[:, 0]
    if draw(st.booleans()):
        x[:, -1] = -1.5 * x[:, 0] + 2
    if draw(st.booleans()):
        x = x.relu()
    keep = torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    return torch.randn(outputs, n, generator=g, dtype=torch.float64), x, keep


# -- numbers by hand -----------------------------------------------------------------------------

X = torch.tensor([[1.0, 2.0, 5.0], [3.0, 6.0, 5.0], [2.0, 4.0, 5.0]])  # 2 x0, and a constant
W = torch.tensor([[1.0, 10.0, 100.0], [0.0, -1.0, 2.0]])


def test_fold_by_hand():
    keep = torch.tensor([YES, NO, NO])
    substitute = fold(X.mean(0), keep)
    assert substitute.matrix.tolist() == [[0.0], [0.0]]
    assert substitute.offset.tolist() == [4.0, 5.0]
    weight, gain = refit_columns(W, keep, substitute)
    assert weight.tolist() == [[1.0], [0.0]]
    assert gain.tolist() == [10 * 4 + 100 * 5, -4 + 2 * 5]


def test_merge_by_hand():
    keep = torch.tensor([YES, NO, NO])
    substitute = merge(*moments(X), keep, units(3))
    torch.testing.assert_close(substitute.matrix, torch.tensor([[2.0], [0.0]]).double())
    torch.testing.assert_close(substitute.offset, torch.tensor([0.0, 5.0]).double())
    weight, gain = refit_columns(W, keep, substitute)
    torch.testing.assert_close(weight, torch.tensor([[1.0 + 10 * 2], [-2.0]]).double())
    torch.testing.assert_close(gain, torch.tensor([500.0, 10.0]).double())


def test_merge_takes_the_most_similar_twin_also_with_the_other_sign():
    x = torch.tensor([[0.0, 1.0, 7.0], [1.0, 0.0, 5.0], [2.0, 0.0, 3.0]]).double()  # 7 - 2 x0
    substitute = merge(*moments(x), torch.tensor([YES, YES, NO]), units(3))
    torch.testing.assert_close(substitute.matrix, torch.tensor([[-2.0, 0.0]]).double())
    torch.testing.assert_close(substitute.offset, torch.tensor([7.0]).double())


def test_merge_without_a_bias_draws_a_line_through_zero():
    x = torch.tensor([[1.0, 3.0], [2.0, 4.0]]).double()
    substitute = merge(*moments(x), torch.tensor([YES, NO]), units(2), fit_bias=False)
    assert substitute.matrix.item() == pytest.approx((1 * 3 + 2 * 4) / (1 + 4))
    assert substitute.offset.tolist() == [0.0]


def test_merge_gives_the_columns_of_a_unit_one_factor():
    # unit 0 has columns 0 and 1, unit 1 columns 2 and 3: 3 times, and 3 times and 1
    a = torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 4.0]]).double()
    x = torch.cat([a, 3 * a + torch.tensor([0.0, 1.0])], 1)
    keep = torch.tensor([YES, YES, NO, NO])
    substitute = merge(*moments(x), keep, units(2, 2))
    torch.testing.assert_close(substitute.matrix, 3 * torch.eye(2).double())
    torch.testing.assert_close(substitute.offset, torch.tensor([0.0, 1.0]).double())
    x[:, 3] = a[:, 1]  # now once, and three times: the factor lies between
    variance = x.var(0, correction=0)
    substitute = merge(*moments(x), keep, units(2, 2))
    between = (3 * variance[0] + variance[1]) / (variance[0] + variance[1])
    torch.testing.assert_close(substitute.matrix, between * torch.eye(2).double())


def test_lstsq_by_hand():
    # uncorrelated columns of variance 1 and 4; what goes is 2 x0 + x1 + 3
    x = torch.tensor([[1.0, 2.0], [1.0, -2.0], [-1.0, 2.0], [-1.0, -2.0]]).double()
    x = torch.cat([x, (2 * x[:, :1] + x[:, 1:] + 3)], 1)
    keep = torch.tensor([YES, YES, NO])
    substitute = lstsq(*moments(x), keep, ridge=0)
    torch.testing.assert_close(substitute.matrix, torch.tensor([[2.0, 1.0]]).double())
    torch.testing.assert_close(substitute.offset, torch.tensor([3.0]).double())
    # λ = 0.4 · (1 + 4) / 2 = 1 beside each variance
    substitute = lstsq(*moments(x), keep, ridge=0.4)
    torch.testing.assert_close(substitute.matrix, torch.tensor([[2 * 1 / 2, 4 / 5]]).double())


def test_refit_rows_by_hand():
    keep = torch.tensor([[YES, NO, NO], [YES, YES, YES]])
    new, gain = refit_rows(W, *moments(X), keep, ridge=0)
    torch.testing.assert_close(new, torch.tensor([[21.0, 0.0, 0.0], [0.0, -1.0, 2.0]]).double())
    torch.testing.assert_close(gain, torch.tensor([500.0, 0.0]).double())


def test_refit_rows_wants_a_mask_of_the_weights_shape():
    with refused("`keep` must have the shape (2, 3) of the weight, but it has (3,)."):
        refit_rows(W, *moments(X), torch.tensor([YES, NO, NO]))


# -- exact where the ladder says so --------------------------------------------------------------


def random(rows: int, n: int) -> Tensor:
    return torch.randn(rows, n, dtype=torch.float64)


def planted(what: str) -> tuple[Tensor, Tensor]:
    """Return inputs, and what is kept: all but the last column, which is planted."""
    x = random(40, 5)
    last = {
        "zero": torch.zeros(40),
        "constant": torch.full((40,), 2.5),
        "twin": 0.7 - 3 * x[:, 2],
        "combination": x[:, :4] @ torch.tensor([1.0, 0.0, -2.0, 0.5]).double() - 4,
    }
    x[:, 4] = last[what]
    return x, torch.arange(5) < 4


RUNGS = {
    "none": lambda x, keep: delete(keep),
    "fold": lambda x, keep: fold(x.mean(0), keep),
    "merge": lambda x, keep: merge(*moments(x), keep, units(x.shape[1])),
    "lstsq": lambda x, keep: lstsq(*moments(x), keep, ridge=0),
}
EXACT = {"none": 1, "fold": 2, "merge": 3, "lstsq": 4}


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("what", ["zero", "constant", "twin", "combination"])
def test_each_rung_is_exact_where_it_says_so(rung, what):
    x, keep = planted(what)
    level = ["zero", "constant", "twin", "combination"].index(what) + 1
    off = float(left(x, keep, RUNGS[rung](x, keep)).abs().max())
    assert (off < 1e-10) == (EXACT[rung] >= level)


def test_the_usual_ridge_leaves_constants_exact():
    x, keep = planted("constant")
    assert float(left(x, keep, lstsq(*moments(x), keep)).abs().max()) < 1e-12


@pytest.mark.parametrize("rung", [merge, lstsq])
def test_without_a_bias_multiples_are_exact_and_nothing_else_is_added(rung):
    x, keep = planted("twin")
    x[:, 4] -= 0.7
    more = {"index": units(5)} if rung is merge else {"ridge": 0}
    substitute = rung(*moments(x), keep, fit_bias=False, **more)
    assert float(left(x, keep, substitute).abs().max()) < 1e-10
    assert not substitute.offset.any()


# -- on the calibration data each rung is at least as good as the one below ----------------------


@given(layers())
def test_fold_is_at_least_as_good_as_delete(layer):
    w, x, keep = layer
    below = error(w, x, keep, delete(keep))
    assert error(w, x, keep, RUNGS["fold"](x, keep)) <= below * (1 + 1e-9) + 1e-12


@given(layers(), st.booleans())
def test_merge_leaves_no_more_variance_than_fold_unit_by_unit(layer, fit_bias):
    _, x, keep = layer
    substitute = merge(*moments(x), keep, units(x.shape[1]), fit_bias=fit_bias)
    kept = left(x, keep, substitute)
    plain = x[:, ~keep] - (x[:, ~keep].mean(0) if fit_bias else 0)
    assert (kept.square().mean(0) <= plain.square().mean(0) * (1 + 1e-9) + 1e-12).all()


@given(layers(), st.booleans(), st.integers(0, 2**20))
def test_least_squares_is_at_least_as_good_as_anything(layer, fit_bias, seed):
    w, x, keep = layer
    best = error(w, x, keep, lstsq(*moments(x), keep, ridge=0, fit_bias=fit_bias))
    others = [delete(keep), merge(*moments(x), keep, units(x.shape[1]), fit_bias=fit_bias)]
    others += [fold(x.mean(0), keep)] * fit_bias
    g = torch.Generator().manual_seed(seed)
    shape = others[0].matrix.shape
    m = torch.randn(shape, generator=g, dtype=torch.float64)
    others.append(Substitute(m, torch.randn(shape[0], generator=g).double() * fit_bias))
    for substitute in others:
        there = error(w, x, keep, substitute)
        assert best <= there * (1 + 1e-8) + 1e-9


@given(layers())
def test_a_smaller_ridge_is_at_least_as_good(layer):
    w, x, keep = layer
    errors = [error(w, x, keep, lstsq(*moments(x), keep, ridge=r)) for r in (1e-6, 1e-2, 1, 1e6)]
    assert all(a <= b * (1 + 1e-8) + 1e-9 for a, b in itertools.pairwise(errors))
    if keep.any():
        none = error(w, x, keep, RUNGS["fold"](x, keep))  # an endless ridge leaves the old weights
        assert errors[-1] == pytest.approx(none, rel=1e-4, abs=1e-8)


# -- oracles -------------------------------------------------------------------------------------


@pytest.mark.parametrize("fit_bias", [True, False])
@pytest.mark.parametrize("ridge", [0, RIDGE, 1.0])
def test_least_squares_against_scikit_learn(ridge, fit_bias):
    # W' = argmin ‖W' a_K − W a‖² + λ ‖W' − W_K‖²: a step away from the old weights
    x, w, keep = random(50, 6) + 1, random(3, 6), torch.tensor([YES, NO, YES, YES, NO, YES])
    mean, covariance = moments(x)
    square = covariance if fit_bias else covariance + mean.outer(mean)
    size = float(square[keep][:, keep].diagonal().mean())
    want = Ridge(alpha=ridge * size * len(x), fit_intercept=fit_bias, solver="cholesky")
    want.fit(x[:, keep].numpy(), (x[:, ~keep] @ w[:, ~keep].T).numpy())
    substitute = lstsq(mean, covariance, keep, ridge=ridge, fit_bias=fit_bias)
    weight, gain = refit_columns(w, keep, substitute)
    np.testing.assert_allclose(weight - w[:, keep], want.coef_, atol=1e-10)
    np.testing.assert_allclose(gain, want.intercept_ if fit_bias else np.zeros(3), atol=1e-10)


def test_least_squares_against_torch():
    x, keep = random(50, 6) + 1, torch.tensor([NO, NO, YES, YES, NO, YES])
    ones = torch.ones(50, 1).double()
    want = torch.linalg.lstsq(torch.cat([x[:, keep], ones], 1), x[:, ~keep]).solution.T
    substitute = lstsq(*moments(x), keep, ridge=0)
    torch.testing.assert_close(substitute.matrix, want[:, :-1])
    torch.testing.assert_close(substitute.offset, want[:, -1])


def by_numpy(x: Tensor, w: Tensor, stays: Tensor, fit_bias: bool) -> tuple[np.ndarray, float]:
    """Re-fit one row by numpy; return the new weights and the sum of the squares that is left."""
    read = torch.cat([x[:, stays], torch.ones(len(x), int(fit_bias)).double()], 1).numpy()
    want = (x @ w).numpy()
    best = np.linalg.lstsq(read, want)[0]
    return best[: int(stays.sum())], float(np.square(want - read @ best).sum())


@pytest.mark.parametrize("fit_bias", [True, False])
def test_refit_rows_against_numpy_row_by_row(fit_bias):
    x, w, keep = random(40, 6) + 1, random(5, 6), torch.rand(5, 6) < 0.5
    new, gain = refit_rows(w, *moments(x), keep, ridge=0, fit_bias=fit_bias)
    off = (x @ w.T - x @ new.T - gain).square().sum(0)
    for row, stays in enumerate(keep):
        weights, rest = by_numpy(x, w[row], stays, fit_bias)
        np.testing.assert_allclose(new[row, stays], weights, atol=1e-10)
        assert float(off[row]) == pytest.approx(rest, abs=1e-10)
    assert not new[~keep].any()


@given(layers(), st.booleans(), st.integers(0, 2**20))
def test_refit_rows_leaves_as_little_as_numpy(layer, fit_bias, seed):
    w, x, _ = layer
    keep = torch.rand(w.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    new, gain = refit_rows(w, *moments(x), keep, ridge=0, fit_bias=fit_bias)
    off = (x @ w.T - x @ new.T - gain).square().sum(0)
    want = [by_numpy(x, w[row], stays, fit_bias)[1] for row, stays in enumerate(keep)]
    np.testing.assert_allclose(off, want, rtol=1e-6, atol=1e-8)


def test_refit_rows_is_lstsq_where_all_rows_keep_the_same():
    x, w, keep = random(30, 5), random(4, 5), torch.tensor([YES, NO, YES, YES, NO])
    new, gain = refit_rows(w, *moments(x), keep.expand(4, 5), ridge=0.1)
    weight, extra = refit_columns(w, keep, lstsq(*moments(x), keep, ridge=0.1))
    torch.testing.assert_close(new[:, keep], weight)
    torch.testing.assert_close(gain, extra)


# -- edges ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("ridge", [0, 1e-9, RIDGE])
def test_two_equal_kept_columns_share_the_weights(ridge):
    a = random(30, 1)
    x = torch.cat([a, a, 4 * a], 1)
    substitute = lstsq(*moments(x), torch.tensor([YES, YES, NO]), ridge=ridge)
    torch.testing.assert_close(substitute.matrix[0, 0], substitute.matrix[0, 1])
    assert float(substitute.matrix.sum()) == pytest.approx(4, rel=2 * ridge + 1e-8)


@pytest.mark.parametrize("rung", RUNGS)
def test_where_nothing_varies_only_the_mean_counts(rung):
    x = torch.tensor([[1.0, 2.0, 0.0]]).double().expand(4, 3)
    keep = torch.tensor([YES, NO, YES])
    substitute = RUNGS[rung](x, keep)
    assert substitute.matrix.tolist() == [[0.0, 0.0]]
    assert substitute.offset.tolist() == [0.0 if rung == "none" else 2.0]


@pytest.mark.parametrize("fit_bias", [True, False])
def test_from_one_example(fit_bias):
    x, keep = torch.tensor([[1.0, 3.0]]).double(), torch.tensor([YES, NO])
    for substitute in (
        merge(*moments(x), keep, units(2), fit_bias=fit_bias),
        lstsq(*moments(x), keep, ridge=0, fit_bias=fit_bias),
    ):
        assert float(left(x, keep, substitute).abs().max()) < 1e-12


@pytest.mark.parametrize("rung", RUNGS)
def test_nothing_is_kept(rung):
    x, w, keep = random(9, 3), random(2, 3), torch.zeros(3, dtype=torch.bool)
    substitute = RUNGS[rung](x, keep)
    weight, gain = refit_columns(w, keep, substitute)
    assert weight.shape == (2, 0)
    torch.testing.assert_close(gain, torch.zeros(2).double() if rung == "none" else w @ x.mean(0))


@pytest.mark.parametrize("rung", RUNGS)
def test_everything_is_kept(rung):
    x, w, keep = random(9, 3), random(2, 3), torch.ones(3, dtype=torch.bool)
    weight, gain = refit_columns(w, keep, RUNGS[rung](x, keep))
    assert torch.equal(weight, w)
    assert not gain.any()


def test_a_row_without_kept_weights_leaves_its_mean():
    x, w = random(9, 3) + 2, random(2, 3)
    keep = torch.tensor([[NO, NO, NO], [YES, YES, YES]])
    new, gain = refit_rows(w, *moments(x), keep)
    assert not new[0].any()
    torch.testing.assert_close(gain, torch.stack([w[0] @ x.mean(0), torch.tensor(0.0).double()]))


def test_solved_gives_the_smallest_solution_of_a_singular_system():
    square, right = torch.ones(2, 2).double(), torch.tensor([[2.0], [2.0]]).double()
    torch.testing.assert_close(solve_ridge(square, right, 0), torch.ones(2, 1).double())
    zero = torch.zeros(2, 2).double()
    assert solve_ridge(zero, right, RIDGE).tolist() == [[0.0], [0.0]]
    assert solve_ridge(torch.zeros(0, 0), torch.zeros(0, 2), 0).shape == (0, 2)


def test_everything_is_worked_out_in_float64():
    x, keep = torch.randn(9, 3), torch.tensor([YES, NO, YES])
    for substitute in (fold(x.mean(0), keep), merge(*moments(x), keep, units(3)),
                  lstsq(*moments(x), keep)):  # fmt: skip
        assert substitute.matrix.dtype == substitute.offset.dtype == torch.float64
    assert refit_rows(torch.randn(2, 3), *moments(x), keep.expand(2, 3))[0].dtype == torch.float64

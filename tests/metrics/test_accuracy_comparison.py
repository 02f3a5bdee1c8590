"""Accuracy with its uncertainty: intervals, and two models on the same examples."""

from itertools import product

import numpy as np
import pytest
import torch
from helpers import MODELS, assert_untouched, batches, build, refused, snapshot
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import multinomial
from torch import nn

import pruneviz as pv
from pruneviz.metrics.accuracy_comparison import Comparison
from pruneviz.metrics.intervals import paired_interval


def wilson(k, n, z):
    p = k / n
    half = z * (p * (1 - p) / n + z**2 / (4 * n**2)) ** 0.5
    return [(p + z**2 / (2 * n) + s * half) / (1 + z**2 / n) for s in (-1, 1)]


@given(st.integers(1, 400), st.data())
def test_the_interval_is_wilsons(n, data):
    k = data.draw(st.integers(0, n))
    low, high = pv.accuracy_interval(k, n)
    assert (low, high) == pytest.approx(wilson(k, n, 1.959963985), abs=1e-9)
    assert 0 <= low <= k / n <= high <= 1
    assert low < high


def test_a_higher_level_is_wider():
    assert pv.accuracy_interval(80, 100, level=0.99) == pytest.approx(
        wilson(80, 100, 2.575829304), abs=1e-8
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pv.accuracy_interval(5, 0),
            "`examples` must be a whole number ≥ 1, but 0 was passed.",
        ),
        (
            lambda: pv.accuracy_interval(0.9, 10),
            "`correct` must be a whole number ≥ 0, but 0.9 was passed.",
        ),
        (
            lambda: pv.accuracy_interval(11, 10),
            "`correct` must be at most `examples`, 10, but 11 was passed. Counts, not shares: "
            "pv.accuracy_interval(900, 1000).",
        ),
        (
            lambda: pv.accuracy_interval(5, 10, level=95),
            "`level` must be a fraction in (0, 1), but 95 was passed. Did you mean 0.95? Fractions, "
            "never percentages.",
        ),
        (
            lambda: pv.accuracy_interval(5, 10, level=1),
            "`level` must be a fraction in (0, 1), but 1 was passed.",
        ),
        (
            lambda: pv.accuracy_interval(5, 10, level="high"),
            "`level` must be a fraction in (0, 1), but 'high' was passed.",
        ),
    ],
)
def test_what_is_no_interval(call, message):
    with refused(message):
        call()


@pytest.mark.parametrize(("p", "q", "n"), [(0.05, 0.05, 60), (0.15, 0.02, 60), (0.02, 0.0, 80)])
def test_the_paired_interval_covers_the_true_difference(p, q, n):
    covered = 0.0
    for lost, won in product(range(n + 1), repeat=2):
        if lost + won <= n:
            low, high = paired_interval(lost, won, n)
            weight = multinomial.pmf([lost, won, n - lost - won], n, [p, q, 1 - p - q])
            covered += weight * (low <= q - p <= high)
    assert 0.93 < covered <= 1


def test_the_paired_interval_by_hand():
    # p = 11/102, q = 3/102; z √((p + q − (q − p)²) ÷ 102)
    half = 1.959963985 * ((14 / 102 - (8 / 102) ** 2) / 102) ** 0.5
    assert paired_interval(10, 2, 100) == pytest.approx((-8 / 102 - half, -8 / 102 + half))
    low, high = paired_interval(2, 0, 2)
    assert low == -1 and high < 1


def compared(labels, before, after, **options):
    return Comparison(*(np.array(a) for a in (labels, before, after)), **options)


def test_a_comparison_by_hand():
    labels = [0, 0, 1, 1, 2, 2, 2, 2]
    before = [0, 0, 1, 0, 2, 2, 0, 1]  # 5 right
    after = [0, 1, 1, 1, 0, 2, 1, 1]  # 1 and 4 got worse, 3 better, 6 is wrong in another way
    c = compared(labels, before, after)
    assert (c.examples, c.accuracy_before, c.accuracy_after, c.difference) == (
        8,
        5 / 8,
        4 / 8,
        -1 / 8,
    )
    assert c.worse.tolist() == [1, 4]
    assert c.better.tolist() == [3]
    assert c.otherwise.tolist() == [6]
    assert c.interval_before == pv.accuracy_interval(
        5, 8
    ) and c.interval_after == pv.accuracy_interval(4, 8)
    assert c.interval == paired_interval(2, 1, 8)
    assert c.p_value == 1.0 and c.inside_noise
    frame = c.to_frame()
    assert frame["class"].tolist() == [0, 1, 2]
    assert frame["examples"].tolist() == [2, 2, 4]
    assert frame["before"].tolist() == [1.0, 0.5, 0.5]
    assert frame["after"].tolist() == [0.5, 1.0, 0.25]
    assert frame["lost"].tolist() == [0.5, -0.5, 0.25]
    assert (frame["low"] < frame["lost"]).all() and (frame["lost"] < frame["high"]).all()
    assert np.isclose((frame["lost"] * frame["examples"]).sum() / 8, -c.difference)


def test_mcnemars_exact_p_by_hand():
    labels, before, after = np.zeros(40, int), np.zeros(40, int), np.zeros(40, int)
    after[:8] = 1  # eight got worse
    before[8] = 1  # one got better
    c = compared(labels, before, after)
    assert c.p_value == pytest.approx(2 * (1 + 9) / 2**9)
    assert not c.inside_noise and c.interval[1] < 0
    assert (
        "more than noise: of two equally good models, chance alone makes as much in 39 of 1,000"
        in repr(c)
    )
    assert Comparison(labels, before, after, level=0.99).inside_noise


def test_words_where_nothing_flipped_and_where_all_did():
    same = compared([0, 1], [0, 0], [0, 0])
    assert same.p_value == 1 and same.inside_noise
    assert "There is no difference: no example flipped" in repr(same)
    assert "-0.000" not in repr(same)
    all_of_it = compared([0] * 50, [0] * 50, [1] * 50)
    assert "in less than 1 of 1,000 comparisons" in repr(all_of_it)
    assert all_of_it.difference == -1 and all_of_it.interval[0] == -1


def test_one_pass_over_a_generator_and_names():
    x = torch.eye(3)
    after = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        after.weight.copy_(torch.eye(3)[[1, 0, 2]])  # the first two classes swapped
    stream = ((x, torch.arange(3)) for _ in range(4))
    c = pv.compare_accuracy(nn.Identity(), after, stream, names=["a", "b", "c"])
    assert c.examples == 12 and c.worse.tolist() == [0, 1, 3, 4, 6, 7, 9, 10]
    assert c.to_frame()["class"].tolist() == ["a", "b", "c"]
    assert c.to_frame()["lost"].tolist() == [1, 1, 0]


def test_it_agrees_with_accuracy():
    a, b = build("mlp"), build("cnn")
    data = batches(9, 3)
    c = pv.compare_accuracy(a, b, data)
    assert c.accuracy_before == pytest.approx(pv.accuracy(a, data))
    assert c.accuracy_after == pytest.approx(pv.accuracy(b, data))


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"raising"}))
def test_no_trace(name):
    model, other = build(name), build("mlp")
    traces = snapshot(model), snapshot(other)
    pv.compare_accuracy(model, other, batches())
    pv.compare_accuracy(other, model, batches())
    pv.compare_accuracy(model, model, batches())
    assert_untouched(model, traces[0])
    assert_untouched(other, traces[1])


def test_no_trace_when_the_forward_raises():
    model = build("raising")
    before = snapshot(model)
    with pytest.raises(pv.ArgumentError, match="RuntimeError: boom"):
        pv.compare_accuracy(build("mlp"), model, batches())
    assert_untouched(model, before)


X = torch.eye(3)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (
            [],
            {},
            "`batches` is empty: there is nothing to compare by. Pass an iterable of batches; a "
            "generator runs only once.",
        ),
        (
            [X],
            {},
            "batch 1 of `batches` must be a pair (inputs, targets), but has no targets. Pass a DataLoader of pairs, or [(inputs, targets)].",
        ),
        (
            [(X, torch.eye(3))],
            {},
            "the labels of batch 1 of `batches` must be one class per example, whole numbers of shape "
            "(3,), but float32[3, 3] was passed. One-hot labels: labels.argmax(1).",
        ),
        (
            [(X, [0, 1, 2])],
            {},
            "the labels of batch 1 of `batches` must be one class per example, whole numbers of shape "
            "(3,), but a list was passed. "
            "Convert them to a tensor: torch.as_tensor(labels).",
        ),
        (
            [(X, torch.arange(3))],
            {"names": ["a", "b"]},
            "`names` must have a name for each class, but it has 2, and 2 is among the labels.",
        ),
        (
            [(X, torch.tensor([0, -1, 2]))],
            {"names": "abc"},
            "a label of batch 1 of `batches` is -1, but classes of the model go from 0 to 2. Leave out "
            "examples that have no class: x[labels >= 0], labels[labels >= 0].",
        ),
        (
            [(X, torch.arange(3))],
            {"level": 0},
            "`level` must be a fraction in (0, 1), but 0 was passed.",
        ),
    ],
)
def test_bad_input(data, options, message):
    with refused(message):
        pv.compare_accuracy(nn.Identity(), nn.Identity(), data, **options)


def test_the_plot_of_the_damage():
    frame = compared(
        [0] * 30 + [1] * 30, [0] * 30 + [1] * 30, [0] * 30 + [0] * 20 + [1] * 10
    ).to_frame()
    ax = pv.plot_damage(frame)
    again = ax.figure.subplots()
    assert pv.plot_damage(frame, ax=again) is again
    assert [t.get_text() for t in ax.get_yticklabels()] == ["0", "1"]
    assert [bar.get_width() for bar in ax.patches] == pytest.approx([0, 2 / 3])
    assert [bar.get_hatch() for bar in ax.patches] == ["////", None]
    assert [t.get_text() for t in ax.texts] == ["1.00 → 1.00", "1.00 → 0.33"]
    assert (
        ax.collections[0].get_segments()[1][:, 0].tolist()
        == frame[["low", "high"]].iloc[1].tolist()
    )
    with refused(
        "plot_damage needs a column 'lost', but the frame has: class, examples, before, after, low, "
        "high. Make it with pv.compare_accuracy(before, after, batches).to_frame()."
    ):
        pv.plot_damage(frame.drop(columns="lost"))

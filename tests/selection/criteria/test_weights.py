from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import assert_untouched, bits, mlp, refused, snapshot
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

import pruneviz as pv
from pruneviz.selection.criteria.weights import lamp, magnitude, random

OF_WEIGHTS = sorted(
    n for n, c in pv.CRITERIA.items() if "weight" in c.granularity and not c.evidence
)
# few different values, so that there are ties and zeros
WEIGHTS = hnp.arrays(
    np.float64,
    hnp.array_shapes(min_dims=1, max_dims=4, max_side=5),
    elements=st.one_of(st.sampled_from([0.0, -1.0, 1.0, 2.0]), st.floats(-100, 100, width=32)),
)


def layer(values):
    """Return a Linear with one row of weights."""
    new = nn.Linear(len(values), 1, bias=False)
    with torch.no_grad():
        new.weight.copy_(torch.tensor([values]))
    return new


@given(WEIGHTS)
def test_magnitude_is_the_absolute_value(w):
    assert magnitude(torch.from_numpy(w)).tolist() == np.abs(w).tolist()


def lamp_by_hand(w):
    """Eq. 4 of the paper: u and v run over the weights in ascending order of their squares."""
    squares = [float(v) ** 2 for v in w.reshape(-1)]
    order = sorted(range(len(squares)), key=lambda i: squares[i])
    result = [0.0] * len(squares)
    for u, i in enumerate(order):
        left = math.fsum(squares[j] for j in order[u:])
        result[i] = squares[i] / left if left else 0.0
    return np.reshape(result, w.shape)


@given(WEIGHTS)
def test_lamp_follows_the_paper(w):
    got = lamp(torch.from_numpy(w))
    assert got.shape == w.shape
    np.testing.assert_allclose(got.numpy(), lamp_by_hand(w), rtol=1e-9, atol=0)


@given(WEIGHTS)
def test_lamp_ranks_a_layer_as_magnitude_does(w):
    by_lamp = lamp(torch.from_numpy(w)).reshape(-1)
    by_size = magnitude(torch.from_numpy(w)).reshape(-1)
    order = torch.argsort(by_lamp, stable=True)
    assert bool((by_size[order].diff() >= 0).all())
    if by_size.max() > 1e-100:  # the square of less is 0
        assert by_lamp.max().item() == pytest.approx(1)


def test_lamp_of_a_layer_of_zeros_is_zero():
    assert lamp(torch.zeros(2, 3)).tolist() == [[0.0] * 3] * 2


def test_among_equal_weights_lamp_scores_the_first_lowest():
    assert lamp(torch.tensor([1.0, -1.0, 1.0])).tolist() == pytest.approx([1 / 3, 1 / 2, 1])


def test_lamp_keeps_a_weight_of_a_layer_that_magnitude_would_empty():
    model = nn.Sequential(layer([5.0, 6.0, 7.0]), layer([0.1, 0.2, 0.3]))
    by_lamp = pv.select(pv.score(model, "lamp"), sparsity=2 / 3, min_keep=0)
    by_size = pv.select(pv.score(model, "magnitude"), sparsity=0.5, scope="global", min_keep=0)
    assert by_lamp.keep["1.weight"].tolist() == [[False, False, True]]
    assert not by_size.keep["1.weight"].any()


@given(WEIGHTS, st.integers(0, 2**31))
def test_random_scores_ignore_the_weights(w, seed):
    def drawn(weight):
        return random(weight, torch.Generator().manual_seed(seed))

    got = drawn(torch.from_numpy(w))
    assert got.shape == w.shape
    assert got.min() >= 0
    assert got.max() < 1
    assert torch.equal(got, drawn(torch.zeros(w.shape)))


def test_layers_get_different_random_scores():
    model = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))
    first, second = pv.score(model, "random").values.values()
    assert not torch.equal(first, second)


@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_what_the_table_says_can_be_used(name):
    criterion = pv.CRITERIA[name]
    assert criterion.name == name
    assert criterion.scope in ("layer", "global")
    assert criterion.source
    assert criterion.formula
    scores = pv.score(mlp(), name)
    assert {n: v.shape for n, v in scores.values.items()} == {
        n: w.shape for n, w in pv.named_weights(mlp()).items()
    }
    assert scores.criterion == name
    assert scores.groups is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", OF_WEIGHTS)
def test_every_criterion_scores_every_precision(name, dtype):
    plan = pv.select(pv.score(mlp().to(dtype), name), sparsity=0.5)
    assert plan.sparsity == pytest.approx(0.5)


@pytest.fixture
def far():
    """Register a criterion for one test."""

    @pv.register("far from one", source="mine", formula="|w - 1|", scope="global")
    def far_from_one(weight):
        return (weight - 1).abs()

    yield far_from_one
    del pv.CRITERIA["far from one"]


def test_a_registered_criterion_can_be_used_everywhere(far):
    model = layer([1.0, 0.0, 3.0, 1.5])
    scores = pv.score(model, "far from one")
    assert scores.values["weight"].tolist() == [[0.0, 1.0, 2.0, 0.5]]
    assert pv.select(scores, sparsity=0.5).keep["weight"].tolist() == [[False, True, True, False]]
    frame = pv.sweep(
        model,
        torch.zeros(1, 4),
        criteria=["far from one"],
        sparsities=[0.5],
        evaluate=lambda m: m.weight.sum().item(),
        progress=False,
    )
    assert frame.loc[0, ["criterion", "scope", "metric"]].tolist() == ["far from one", "global", 3]


def test_register_gives_the_function_back(far):
    assert far(torch.tensor([3.0])).tolist() == [2.0]
    assert pv.CRITERIA["far from one"].fn is far


def test_a_registered_criterion_gets_the_generator_that_it_needs():
    @pv.register("noise", source="mine", formula="noise", needs=("weight", "generator"))
    def noise(weight, generator):
        return torch.rand(weight.shape, generator=generator)

    try:
        first, again, other = (
            pv.score(layer([1.0, 2.0]), "noise", seed=s).values["weight"] for s in (1, 1, 2)
        )
    finally:
        del pv.CRITERIA["noise"]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


BAD_REGISTRATIONS = [
    (
        {"name": "magnitude"},
        "criterion 'magnitude' is registered already. Choose another name.",
    ),
    (
        {"needs": ("weight", "gradient")},
        "`needs` 'gradient' is unknown. Known: fisher, generator, grad_sq, input_sq, model, reads, weight.",
    ),
    (
        {"needs": ("weights",)},
        "`needs` 'weights' is unknown. Did you mean 'weight'? Known: fisher, generator, grad_sq, input_sq, model, reads, weight.",
    ),
    (
        {"scope": "local"},
        "`scope` 'local' is unknown. Did you mean 'global'? Known: global, layer.",
    ),
]


@pytest.mark.parametrize(("bad", "message"), BAD_REGISTRATIONS)
def test_a_bad_registration_is_refused(bad, message):
    before = dict(pv.CRITERIA)
    with refused(message):
        pv.register(**{"name": "new", "source": "mine", "formula": "0", **bad})
    assert before == pv.CRITERIA


def test_a_function_can_be_the_criterion():
    def negative(weight):
        return -weight

    scores = pv.score(layer([1.0, -2.0]), negative)
    assert scores.values["weight"].tolist() == [[-1.0, 2.0]]
    assert scores.criterion == "negative"


def test_a_callable_object_can_be_the_criterion():
    scores = pv.score(layer([1.0, -2.0]), nn.ReLU())
    assert scores.values["weight"].tolist() == [[1.0, 0.0]]
    assert scores.criterion == "ReLU"


def test_a_criterion_may_write_into_its_argument():
    model = mlp()
    before = snapshot(model)
    pv.score(model, lambda w: w.mul_(2).abs_())
    assert_untouched(model, before)


def test_a_criterion_that_raises_leaves_no_trace():
    def broken(weight):
        torch.rand(3)
        raise ZeroDivisionError

    model = mlp()
    before = snapshot(model)
    with pytest.raises(ZeroDivisionError):
        pv.score(model, broken)
    assert_untouched(model, before)


def wrong_shape(weight):
    return weight.sum(1)


def no_tensor(weight):
    return weight.tolist()


def not_a_number(weight):
    return weight / 0 * 0


BAD_CRITERIA = [
    (
        wrong_shape,
        "criterion 'wrong_shape' must return scores of the weight's shape (1, 2) for 'weight', "
        "but it returned (1,).",
    ),
    (
        no_tensor,
        "criterion 'no_tensor' must return scores of the weight's shape (1, 2) for 'weight', "
        "but it returned list.",
    ),
    (not_a_number, "criterion 'not_a_number' returned NaN for 'weight'."),
    (
        "magnitud",
        "criterion 'magnitud' is unknown. Did you mean 'magnitude'? Known: fisher, lamp, magnitude, "
        "random, taylor, wanda.",
    ),
    (None, "criterion None is unknown. Known: fisher, lamp, magnitude, random, taylor, wanda."),
]


@pytest.mark.parametrize(("criterion", "message"), BAD_CRITERIA)
def test_a_bad_criterion_is_refused(criterion, message):
    with refused(message):
        pv.score(layer([1.0, 2.0]), criterion)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_weights_that_are_no_numbers_are_refused(bad):
    with refused(
        "'weight' contains NaN or infinity: such weights cannot be scored. "
        "Train the model anew, or load a sound checkpoint."
    ):
        pv.score(layer([1.0, bad]), "magnitude")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Linear, "`model` must be a torch.nn.Module, but the class Linear was passed. Pass an instance: Net(), not Net."),
        ("net", "`model` must be a torch.nn.Module, but a str was passed."),
        (nn.ReLU(), "`model` (ReLU) has no parameters: it needs a Linear, Conv, Embedding, attention or recurrent layer. There is nothing to prune."),
        (nn.BatchNorm2d(3), "`model` (BatchNorm2d) has 6 parameters, but none of them in a Linear, Conv, Embedding, attention or recurrent layer. There is nothing to prune."),
    ],
)  # fmt: skip
def test_a_model_without_weights_is_refused(model, message):
    with refused(message):
        pv.score(model, "magnitude")


@pytest.mark.parametrize("seed", [-1, 0.5, True, "0"])
def test_a_bad_seed_is_refused(seed):
    with refused(f"`seed` must be a whole number ≥ 0, but {seed!r} was passed."):
        pv.score(mlp(), "random", seed=seed)


def test_masked_weights_are_scored_as_the_forward_sees_them():
    model = pv.mask(layer([3.0, 4.0]), pv.Plan({"weight": torch.tensor([[True, False]])}))
    assert pv.score(model, "magnitude").values["weight"].tolist() == [[3.0, 0.0]]


def test_scores_do_not_share_the_weights():
    model = layer([3.0, 4.0])
    scores = pv.score(model, lambda w: w).values["weight"]
    before = bits(scores)
    with torch.no_grad():
        model.weight.zero_()
    assert bits(scores) == before

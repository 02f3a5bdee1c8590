"""The same function with other weights."""

import pytest
import torch
from helpers import assert_untouched, build, inputs, refused, snapshot, storages
from helpers.scored import Attending, Conv33, Sigmoids, normed
from torch import nn

import pruneviz as pv
from pruneviz.pruning.rescale import rescaled_groups

X = inputs(5)


def three():
    return nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))


def test_by_hand():
    model, x = three(), torch.randn(4, 2)
    groups = pv.find_groups(model, x)
    new = pv.rescale(model, x, groups=groups, factor=4.0, share=1.0)
    assert torch.equal(new[0].weight, 4 * model[0].weight)
    assert torch.equal(new[0].bias, 4 * model[0].bias)
    assert torch.equal(new[2].weight, model[2].weight / 4)
    assert torch.equal(new[2].bias, model[2].bias)
    assert torch.equal(new(x), model(x))  # a power of two changes no bit


def test_the_share_and_the_seed_choose_the_units():
    model = nn.Sequential(nn.Linear(2, 10), nn.ReLU(), nn.Linear(10, 1))
    x = torch.randn(4, 2)
    groups = pv.find_groups(model, x)

    def louder(**options):
        new = pv.rescale(model, x, groups=groups, **options)
        return (new[0].bias != model[0].bias).nonzero()[:, 0].tolist()

    assert len(louder()) == 5 and len(louder(share=0.3)) == 3 and len(louder(share=0.01)) == 1
    assert louder(seed=1) == louder(seed=1) != louder(seed=2)


@pytest.mark.parametrize(
    "make", [normed, Conv33, Attending, lambda: build("cnn"), lambda: build("masked")]
)
def test_the_outputs_are_the_same(make):
    torch.manual_seed(0)
    model = make()
    groups = pv.find_groups(model, X)
    before = snapshot(model)
    new, done = rescaled_groups(model, X, groups, 10.0, 0.5, 0)
    assert done
    assert_untouched(model, before)
    assert not storages(model) & storages(new)
    with pv.evaluating(model), pv.evaluating(new):
        want = model(X)
        assert torch.allclose(new(X), want, atol=1e-5 * float(want.abs().max()))
    assert any(
        not torch.equal(a, b) for a, b in zip(model.parameters(), new.parameters(), strict=True)
    )


def test_only_where_a_factor_passes_through():
    torch.manual_seed(0)
    model = normed()  # ReLU after the first BatchNorm, Hardswish after the second
    new, done = rescaled_groups(model, X, pv.find_groups(model, X), 10.0, 0.5, 0)
    assert done == ["0"]
    assert torch.equal(new[7].weight, model[7].weight)
    assert torch.equal(new[1].weight, model[1].weight)  # the norm's own weight would do it twice


def test_nothing_passes():
    model = Sigmoids()
    with refused(
        "no unit of `model` (Sigmoids) can be rescaled: a factor passes through ReLU, pooling and "
        "BatchNorm, but not through the operators that follow the units here."
    ):
        pv.rescale(model, X, groups=pv.find_groups(model, X))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factor": 0}, "`factor` must be greater than 0, but 0 was passed."),
        ({"factor": -2}, "`factor` must be greater than 0, but -2 was passed."),
        ({"share": 0}, "`share` must be greater than 0, but 0 was passed."),
        ({"share": 50}, "`share` must be a number in [0, 1], but 50 was passed."),
        ({"seed": -1}, "`seed` must be a whole number ≥ 0, but -1 was passed."),
        (
            {"groups": None},
            "`groups` must be a Groups, but None was passed. Make them: pv.find_groups(model, "
            "example_input).",
        ),
    ],
)
def test_bad_input(options, message):
    model, x = three(), torch.randn(4, 2)
    with refused(message):
        pv.rescale(model, x, **{"groups": pv.find_groups(model, x), **options})

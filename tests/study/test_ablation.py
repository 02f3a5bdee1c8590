"""The loss without each unit, measured."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_untouched, build, handmade, inputs, labels, refused, snapshot
from helpers.scored import Attending, Conv33, Named, Sigmoids, normed
from torch import nn

import pruneviz as pv
from pruneviz.study.ablation import losses_without

X, Y = inputs(9), labels(9)


def ones(n=1):
    """Two ReLU units, weighed by 3 and 1."""
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(2))
        model[2].weight.copy_(torch.tensor([[3.0, 1.0]]))
        model[0].bias.zero_()
        model[2].bias.zero_()
    return model


def half_masked():
    model = build("mlp")
    return pv.mask(model, pv.select(pv.score(model, "magnitude"), sparsity=0.5))


ZOO = {
    "mlp": lambda: build("mlp"),
    "cnn": lambda: build("cnn"),
    "sigmoid": Sigmoids,
    "batch norm": normed,
    "grouped and residual": Conv33,
    "attention": Attending,
    "masked": half_masked,
    "counting": lambda: build("counting"),
    "renormalising": lambda: build("renormalising"),
}


@pytest.mark.parametrize("name", ZOO)
def test_it_is_the_loss_of_the_mask(name):
    torch.manual_seed(0)
    model = ZOO[name]()
    groups = pv.find_groups(model, X[:2], approximate=True)
    found = losses_without(model, [(X[:4], Y[:4]), (X[4:], Y[4:])], groups=groups, progress=False)
    with pv.evaluating(model):
        want = F.cross_entropy(model(X), Y, reduction="none").double()
        assert torch.allclose(torch.from_numpy(found.dense), want, atol=1e-6)
    for g in groups:
        if g.frozen:
            assert g.name not in found.without
            continue
        for u in range(g.size):
            keep = torch.arange(g.size) != u
            masked = pv.mask(model, pv.Plan({g.name: keep}, groups))
            with pv.evaluating(masked):
                want = F.cross_entropy(masked(X), Y, reduction="none").double()
            got = torch.from_numpy(found.without[g.name][u])
            assert torch.allclose(got, want, atol=1e-5, rtol=1e-5), (g.name, u)


def test_by_hand():
    model, x = ones(), torch.tensor([[1.0, 1.0], [2.0, 4.0]])
    groups = pv.find_groups(model, x)
    scores = pv.ablate(
        model, [(x, model(x).detach())], groups=groups, loss=F.mse_loss, progress=False
    )
    # without unit 0 the outputs lose 3 and 6, without unit 1 they lose 1 and 4
    assert scores.values["0"].tolist() == [(9 + 36) / 2, (1 + 16) / 2]
    assert scores.criterion == "ablation" and scores.groups is groups
    assert pv.select(scores, sparsity=0.5).keep["0"].tolist() == [True, False]


def test_a_unit_that_harms_is_below_zero_and_a_dead_one_is_exactly_zero():
    model, x = ones(), torch.ones(3, 2)
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = 0, -1.0
    groups = pv.find_groups(model, x)
    scores = pv.ablate(
        model, [(x, torch.zeros(3, 1))], groups=groups, loss=F.mse_loss, progress=False
    )
    assert scores.values["0"].tolist() == [-9, 0]


def test_batches_of_any_size_and_a_generator():
    model = build("cnn")
    groups = pv.find_groups(model, X)
    whole = pv.ablate(model, [(X, Y)], groups=groups, progress=False)
    parts = ((x, y) for x, y in zip(X.split(2), Y.split(2), strict=True))
    for loss in (F.cross_entropy, nn.CrossEntropyLoss(), lambda o, y: F.cross_entropy(o, y)):
        again = pv.ablate(
            model, [(X[:2], Y[:2]), (X[2:], Y[2:])], groups=groups, loss=loss, progress=False
        )
        for g, v in whole.values.items():
            assert torch.allclose(v, again.values[g], atol=1e-7)
    again = pv.ablate(model, parts, groups=groups, progress=False)
    assert all(torch.allclose(v, again.values[g], atol=1e-7) for g, v in whole.values.items())


def test_soft_targets_measure_how_far_the_answers_move():
    model = build("mlp")
    groups = pv.find_groups(model, X)
    with pv.evaluating(model):
        soft = model(X).softmax(1)
    scores = pv.ablate(model, [(X, soft)], groups=groups, progress=False)
    assert all((v >= -1e-7).all() for v in scores.values.values())


def test_one_number_an_example_is_taken_as_it_is():
    model = build("mlp")
    groups = pv.find_groups(model, X)
    found = losses_without(model, [(X, Y)], groups=groups, progress=False,
                           loss=lambda out, y: (out.argmax(1) != y).float())  # fmt: skip
    assert set(np.unique(found.dense)) <= {0, 1} and found.examples == len(found.dense) == 9
    batchwise = losses_without(model, [(X, Y)], groups=groups, loss=lambda o, y: F.cross_entropy(o, y),
                               progress=False)  # fmt: skip
    assert batchwise.dense.shape == (1,) and batchwise.examples == 9


def test_keyword_arguments():
    model = Named()
    batch = {"image": torch.randn(6, 4), "twice": torch.randn(6, 4)}
    groups = pv.find_groups(model, batch)
    scores = pv.ablate(model, [(batch, torch.arange(6) % 3)], groups=groups, progress=False)
    assert scores.values["fc1"].shape == (5,)


@pytest.mark.parametrize(
    "name", ["mlp", "cnn", "mixed", "masked", "counting", "replacing", "random", "caching"]
)
def test_no_trace(name):
    model = build(name)
    groups = pv.find_groups(model, X)
    before = snapshot(model)
    pv.ablate(model, [(X, Y)], groups=groups, progress=False)
    assert_untouched(model, before)
    for bad in ([], [(X, Y + 7)], [X]):
        with pytest.raises(pv.ArgumentError):
            pv.ablate(model, bad, groups=groups, progress=False)
    assert_untouched(model, before)


def mlp():
    model = build("mlp")
    return model, pv.find_groups(model, X)


NAN = torch.full_like(X, torch.nan)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (
            [],
            {},
            "`batches` is empty: there is nothing to measure the loss on. Pass an iterable of batches; "
            "a generator runs only once.",
        ),
        (
            [X],
            {},
            "batch 1 of `batches` must be a pair (inputs, targets), but has no targets. Pass a "
            "DataLoader of pairs, or [(inputs, targets)].",
        ),
        (
            [(X, Y + 2)],
            {},
            "a label of batch 1 of `batches` is 3, but classes of the model go from 0 to 2. Pass the "
            "data that the model was made for.",
        ),
        (
            [(NAN, Y)],
            {},
            "`loss` gave NaN or infinity. Look at the data, the labels, and the weights.",
        ),
        (
            [(X, Y)],
            {"loss": lambda out, y: 3.0},
            "`loss` must return one number, or one an example, shape (9,), but it returned float.",
        ),
        (
            [(X, Y)],
            {"loss": lambda out, y: out},
            "`loss` must return one number, or one an example, shape (9,), but it returned (9, 3).",
        ),
        (
            [(X, Y)],
            {"groups": "fc1"},
            "`groups` must be a Groups, but a str was passed. Make them: pv.find_groups(model, "
            "example_input).",
        ),
        (
            [(X, Y)],
            {"groups": pv.Groups(())},
            "no group of `groups` can be cut: there is no unit to ablate.",
        ),
    ],
)
def test_bad_input(data, options, message):
    model, groups = mlp()
    with refused(message):
        pv.ablate(model, data, **{"groups": groups, "progress": False, **options})


def test_groups_of_another_model():
    model, _ = mlp()
    with pytest.raises(pv.ArgumentError, match=r"^`groups` is of another model: it names"):
        pv.ablate(model, [(X, Y)], groups=handmade.mlp_groups(), progress=False)


def test_it_says_which_unit_breaks_the_loss():
    model, x = ones(), torch.ones(2, 2)
    groups = pv.find_groups(model, x)
    with refused(
        "`loss` gave NaN or infinity without unit 1 of group '0'. Look at the data, the labels, and "
        "the weights."
    ):
        pv.ablate(
            model, [(x, x)], groups=groups, progress=False, loss=lambda o, y: 1 / (o[:, 0] - 3)
        )

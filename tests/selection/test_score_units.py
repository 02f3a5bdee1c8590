from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import assert_untouched, handmade, refused, snapshot
from helpers.handmade import OUTPUT, rows, where
from torch import nn
from torch.nn.utils import parametrizations

import pruneviz as pv

MLP = handmade.mlp_groups()
CONV = handmade.conv_groups()
OF_UNITS = sorted(n for n, c in pv.CRITERIA.items() if "unit" in c.granularity and not c.evidence)


def norms_of_mlp(model, p):
    """Return the norms of the rows and the columns of each group, shape (slices, units)."""
    w1, w2, w3 = (model.get_submodule(n).weight.detach() for n in ("fc1", "fc2", "fc3"))
    norm = torch.linalg.vector_norm
    return {
        "fc1": torch.stack([norm(w1, p, dim=1), norm(w2, p, dim=0)]),
        "fc2": torch.stack([norm(w2, p, dim=1), norm(w3, p, dim=0)]),
    }


REDUCED = {
    "mean": lambda s: s.mean(0),
    "sum": lambda s: s.sum(0),
    "max": lambda s: s.amax(0),
    "min": lambda s: s.amin(0),
    "first": lambda s: s[0],
}


def assert_close(scores, want):
    assert list(scores.values) == list(want)
    for name, v in want.items():
        torch.testing.assert_close(scores.values[name], v)


@pytest.mark.parametrize("reduction", REDUCED)
@pytest.mark.parametrize(("criterion", "p"), [("l1", 1), ("l2", 2)])
def test_norms_of_an_mlp(criterion, p, reduction):
    model = handmade.mlp()
    scores = pv.score(model, criterion, groups=MLP, reduction=reduction)
    reduce = REDUCED[reduction]
    assert_close(scores, {n: reduce(s) for n, s in norms_of_mlp(model, p).items()})
    assert scores.groups is MLP
    assert repr(scores) == f"Scores by {criterion!r}: 10 units in 2 groups"


def test_the_mean_is_what_one_gets_without_asking():
    model = handmade.mlp()
    want = pv.score(model, "l2", groups=MLP, reduction="mean").values
    assert_close(pv.score(model, "l2", groups=MLP), want)


def test_a_hand_computation():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, -4.0], [0.0, 1.0]]))
        model[0].bias.fill_(100.0)  # biases do not count
        model[2].weight.copy_(torch.tensor([[-2.0, 6.0]]))
    hidden = pv.Group("0", 2, (*rows("0", 2), where("2.weight", 1, "in", 2)))
    groups = pv.Groups((hidden,))
    assert pv.score(model, "l1", groups=groups, reduction="sum").values["0"].tolist() == [9.0, 7.0]
    assert pv.score(model, "l1", groups=groups).values["0"].tolist() == [4.5, 3.5]
    assert pv.score(model, "l2", groups=groups).values["0"].tolist() == [3.5, 3.5]


@pytest.mark.parametrize(("criterion", "p"), [("l1", 1), ("l2", 2)])
def test_norms_of_a_convolution_in_groups_and_behind_a_flatten(criterion, p):
    model = handmade.conv()
    w = {n: t.detach() for n, t in model.named_parameters()}
    norm = torch.linalg.vector_norm
    stem = [
        norm(w["stem.weight"], p, dim=(1, 2, 3)),
        norm(w["conv1.weight"], p, dim=(0, 2, 3)),
        norm(w["conv2.weight"], p, dim=(1, 2, 3)),
        norm(w["head.weight"].view(3, 4, 9), p, dim=(0, 2)),
    ]
    # input channel c of conv2 is column c % 4 of the rows of its group
    columns = [norm(w["conv2.weight"][2 * (c // 4) : 2 * (c // 4) + 2, c % 4], p) for c in range(8)]
    conv1 = [norm(w["conv1.weight"], p, dim=(1, 2, 3)), torch.stack(columns)]
    want = {"stem": torch.stack(stem).mean(0), "conv1": torch.stack(conv1).mean(0)}
    assert_close(pv.score(model, criterion, groups=CONV), want)


def test_a_transposed_convolution_in_groups():
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2)  # weight (4, 3, 3, 3): outputs lie in blocks
    groups = pv.Groups((pv.Group("", 6, (where("weight", 1, "out", 6, blocks=2),)),))
    w = layer.weight.detach()
    want = [w[2 * (c // 3) : 2 * (c // 3) + 2, c % 3].abs().sum() for c in range(6)]
    assert_close(pv.score(layer, "l1", groups=groups), {"": torch.stack(want)})


def test_a_head_is_scored_by_all_its_rows():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(6, 2)

    model = Net()
    w = model.attn.in_proj_weight.detach().view(3, 2, 3, 6)
    out = model.attn.out_proj.weight.detach().view(6, 2, 3)
    want = (w.abs().sum((0, 2, 3)) + out.abs().sum((0, 2))) / 2
    assert_close(pv.score(model, "l1", groups=handmade.heads()), {"attn": want})


def test_units_keep_their_numbers():
    """Units in any order: position 5 of the layer is unit 0 here."""
    model = nn.Sequential(nn.Linear(2, 6))
    groups = pv.Groups((pv.Group("0", 3, rows("0", [5, 0, 2])),))
    want = model[0].weight.detach().abs().sum(1)[[5, 0, 2]]
    assert_close(pv.score(model, "l1", groups=groups), {"0": want})


# -- what counts ---------------------------------------------------------------------------------


def test_a_masked_weight_is_scored_as_the_forward_sees_it():
    model = handmade.mlp()
    masked = pv.mask(model, pv.select(pv.score(model, "magnitude"), sparsity=0.5))
    want = pv.score(pv.bake(masked), "l2", groups=MLP).values
    assert_close(pv.score(masked, "l2", groups=MLP), want)
    slices = (
        where("fc1.parametrizations.weight.original", 0, "out", 6),
        where("fc1.parametrizations.weight.0.keep", 0, "out", 6),
        where("fc1.bias", 0, "out", 6),
        where("fc2.parametrizations.weight.original", 1, "in", 6),
    )
    found = pv.Groups((pv.Group("fc1", 6, slices),))  # as they are found in the masked model
    assert_close(pv.score(masked, "l2", groups=found), {"fc1": want["fc1"]})


@pytest.mark.parametrize("reduction", REDUCED)
def test_weight_norm_is_scored_as_the_forward_sees_it(reduction):
    model = handmade.mlp()
    want = pv.score(model, "l2", groups=MLP, reduction=reduction).values["fc1"]
    parametrizations.weight_norm(model.fc1)
    slices = (
        where("fc1.parametrizations.weight.original0", 0, "out", 6),
        where("fc1.parametrizations.weight.original1", 0, "in", 6),
        where("fc2.weight", 1, "in", 6),
    )
    groups = pv.Groups((pv.Group("fc1", 6, slices),))
    assert_close(pv.score(model, "l2", groups=groups, reduction=reduction), {"fc1": want})


def test_a_tied_weight_counts_once():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(5, 3)
            self.head = nn.Linear(3, 5, bias=False)
            self.head.weight = self.embed.weight

    model = Net()
    tied = (where("embed.weight", 1, "out", 3), where("head.weight", 1, "in", 3))
    groups = pv.Groups((pv.Group("embed", 3, tied),))
    want = model.embed.weight.detach().abs().sum(0)
    assert_close(pv.score(model, "l1", groups=groups, reduction="sum"), {"embed": want})


def test_a_group_of_vectors_alone_is_scored_by_them():
    model = nn.Sequential(nn.BatchNorm1d(3))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, -2.0, 3.0]))
    groups = pv.Groups((pv.Group("0", 3, rows("0", 3, "weight", "bias", "running_mean")),))
    assert pv.score(model, "l1", groups=groups, reduction="sum").values["0"].tolist() == [1, 2, 3]


def test_a_group_without_weights_is_refused():
    model = nn.Sequential(nn.BatchNorm1d(3, affine=False))
    groups = pv.Groups((pv.Group("0", 3, rows("0", 3, "running_mean")),))
    with refused(
        "the units of group '0' have no weights, so they cannot be scored. Leave the group out of `groups`."
    ):
        pv.score(model, "l1", groups=groups)


def test_frozen_groups_have_no_scores():
    groups = pv.Groups((pv.Group("fc1", 6, rows("fc1", 6), OUTPUT),))
    assert dict(pv.score(handmade.mlp(), "l1", groups=groups).values) == {}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", OF_UNITS)
def test_every_criterion_scores_every_precision(name, dtype):
    plan = pv.select(pv.score(handmade.mlp().to(dtype), name, groups=MLP), sparsity=0.5)
    assert plan.kept == 5


def test_half_precision_is_summed_in_single():
    model = nn.Sequential(nn.Linear(4096, 1)).half()
    with torch.no_grad():
        model[0].weight.fill_(100.0)
    groups = pv.Groups((pv.Group("0", 1, rows("0", 1)),))
    assert pv.score(model, "l1", groups=groups).values["0"].tolist() == [409600.0]


# -- random, one's own, and no trace -------------------------------------------------------------


def test_random_draws_once_a_unit():
    model = handmade.mlp()
    draw = {s: pv.score(model, "random", groups=MLP, seed=s).values for s in (0, 1)}
    again = pv.score(model, "random", groups=MLP, reduction="min").values
    assert {n: v.shape for n, v in draw[0].items()} == {"fc1": (6,), "fc2": (4,)}
    for n, v in draw[0].items():
        assert bool(((v >= 0) & (v < 1)).all())
        assert torch.equal(v, again[n])
        assert not torch.equal(v, draw[1][n])


def test_a_function_of_a_matrix_is_a_criterion():
    shapes = []

    def widest(matrix):
        shapes.append(tuple(matrix.shape))
        return matrix.abs().amax(1)

    model = handmade.mlp()
    scores = pv.score(model, widest, groups=MLP, reduction="first")
    assert scores.criterion == "widest"
    assert shapes == [(6, 5), (4, 6)]
    assert_close(
        scores, {n: model.get_submodule(n).weight.detach().abs().amax(1) for n in ("fc1", "fc2")}
    )


def test_a_criterion_of_ones_own_says_what_it_ranks():
    @pv.register(
        "noise", source="mine", formula="?", needs=("weight", "generator"), granularity=["unit"]
    )
    def noise(matrix, generator):
        return matrix.sum(1) * 0 + torch.rand(len(matrix), generator=generator)

    try:
        assert pv.CRITERIA["noise"].granularity == ("unit",)
        assert pv.score(handmade.mlp(), "noise", groups=MLP).values["fc1"].shape == (6,)
    finally:
        del pv.CRITERIA["noise"]
    with refused("`granularity` 'head' is unknown. Known: unit, weight."):
        pv.register("noise", source="mine", formula="?", granularity="head")


def test_a_criterion_may_write_into_what_it_gets():
    model = handmade.mlp()
    before = snapshot(model)
    pv.score(model, lambda matrix: matrix.mul_(0).sum(1), groups=MLP)
    assert_untouched(model, before)


@pytest.mark.parametrize("criterion", OF_UNITS)
def test_scoring_leaves_no_trace(criterion):
    model = handmade.conv().train()
    parametrizations.spectral_norm(model.head)
    slices = CONV["stem"].slices[:-1]
    head = where("head.parametrizations.weight.original", 1, "in", np.arange(36).reshape(4, 9))
    groups = pv.Groups((pv.Group("stem", 4, (*slices, head)),))
    before = snapshot(model)
    pv.score(model, criterion, groups=groups, seed=3)
    assert_untouched(model, before)


# -- what is refused -----------------------------------------------------------------------------


def broken(matrix):
    return matrix


def not_a_number(matrix):
    return matrix.sum(1) / 0 * 0


ONE_A_UNIT = "must return scores one per unit, of shape (6,), for group 'fc1', but it returned"
BAD_CALLS = [
    ({"criterion": "magnitude", "groups": MLP}, "criterion 'magnitude' scores single weights, not units. For units: activation, apoz, fisher, l1, l2, lamp, obs, random, taylor, wanda."),
    ({"criterion": "l1"}, "criterion 'l1' scores units, not weights. For weights: fisher, lamp, magnitude, random, taylor, wanda; for units pass `groups`."),
    ({"criterion": "l22", "groups": MLP}, "criterion 'l22' is unknown. Did you mean 'l2'? Known: activation, apoz, fisher, l1, l2, lamp, obs, random, taylor, wanda."),
    ({"criterion": "l1", "groups": MLP, "reduction": "avg"}, "`reduction` 'avg' is unknown. Known: first, max, mean, min, sum."),
    ({"criterion": "l1", "groups": [MLP[0]]}, "`groups` must be a Groups, but a list was passed. Make them: pv.find_groups(model, example_input)."),
    ({"criterion": broken, "groups": MLP}, f"criterion 'broken' {ONE_A_UNIT} (6, 5)."),
    ({"criterion": not_a_number, "groups": MLP}, "criterion 'not_a_number' returned NaN for group 'fc1'."),
    ({"criterion": "l1", "groups": CONV}, "`groups` is of another model: it names 'stem.weight', but the tensors here are: fc1.weight, fc1.bias, fc2.weight, fc2.bias, fc3.weight, fc3.bias."),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), BAD_CALLS)
def test_a_bad_call_is_refused(bad, message):
    with refused(message):
        pv.score(handmade.mlp(), **bad)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(bad):
    model = handmade.mlp()
    with torch.no_grad():
        model.fc2.weight[0, 0] = bad
    with refused(
        "'fc2.weight' contains NaN or infinity: such weights cannot be scored. "
        "Train the model anew, or load a sound checkpoint."
    ):
        pv.score(model, "l2", groups=MLP)

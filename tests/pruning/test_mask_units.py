"""Masks of units: silent where they are made, and nothing else changes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from helpers import assert_untouched, handmade, refused, snapshot, state, storages
from helpers.handmade import rows, where
from torch import nn
from torch.nn.utils import parametrizations

import pruneviz as pv
from pruneviz.model.tensors import tensors_by_name

MLP = handmade.mlp_groups()
CONV = handmade.conv_groups()
GONE = {
    "mlp": pv.drop(MLP, {"fc1": [0, 4], "fc2": [3]}),
    "conv": pv.drop(CONV, {"stem": [0, 3], "conv1": [1, 2, 4, 7]}),
}
BUILD = {"mlp": handmade.mlp, "conv": handmade.conv}
INPUT = {"mlp": torch.randn(9, 5), "conv": torch.randn(9, 1, 3, 3)}


def silenced(model, plan):
    """Return what `mask` promises, the plain way: a copy with zeros where units are made."""
    new = copy.deepcopy(model)
    tensors = new.state_dict()
    for name, keep in plan.keep.items():
        for s in plan.groups[name].slices:
            if s.role == "out":
                lost = torch.from_numpy(s.index)[~keep].reshape(-1)
                tensors[s.tensor].index_fill_(s.dim, lost, 0)
    return new


@pytest.mark.parametrize("name", BUILD)
def test_units_are_zero_where_they_are_made_and_nowhere_else(name):
    model, plan = BUILD[name](), GONE[name]
    want = silenced(model, plan)
    masked = pv.mask(model, plan)
    assert state(pv.bake(masked)) == state(want)
    torch.testing.assert_close(masked(INPUT[name]), want(INPUT[name]), rtol=0, atol=0)
    assert not torch.equal(masked(INPUT[name]), model(INPUT[name]))


@pytest.mark.parametrize("name", BUILD)
def test_the_units_are_silent(name):
    layers = {"mlp": ["fc1", "fc2"], "conv": ["norm", "conv1", "conv2"]}[name]
    out = {}
    with pv.hooked(
        pv.mask(BUILD[name](), GONE[name]), layers, lambda n, _, y: out.update({n: y.detach()})
    ) as masked:
        masked(INPUT[name])
    for layer, y in out.items():
        for channel, (group, unit) in enumerate(GONE[name].groups.units_of(layer)):
            assert bool((y[:, channel] == 0).all()) != bool(GONE[name].keep[group.name][unit])


@pytest.mark.parametrize("name", BUILD)
def test_consumers_and_running_variances_keep_their_numbers(name):
    model = BUILD[name]()
    baked = pv.bake(pv.mask(model, GONE[name])).state_dict()
    for tensor in {"mlp": ["fc3.weight"], "conv": ["norm.running_var", "head.weight"]}[name]:
        assert torch.equal(baked[tensor], model.state_dict()[tensor])


@pytest.mark.parametrize("name", BUILD)
def test_the_input_is_untouched_and_shares_nothing(name):
    model = BUILD[name]().train()
    before = snapshot(model)
    masked = pv.mask(model, GONE[name])
    assert_untouched(model, before)
    assert not storages(model) & storages(masked)
    with torch.no_grad():
        for p in masked.parameters():
            p.zero_()
    assert_untouched(model, before)
    again = snapshot(masked)
    baked = pv.bake(masked)
    assert_untouched(masked, again)
    assert not storages(baked) & storages(masked)


@pytest.mark.parametrize("name", BUILD)
def test_a_plan_that_keeps_everything_changes_nothing(name):
    model = BUILD[name]()
    masked = pv.mask(model, pv.drop(GONE[name].groups, {}))
    assert state(masked) == state(model)
    assert pv.mask(model, pv.Plan({}, GONE[name].groups)) is not model


def test_the_mask_holds_against_momentum_and_weight_decay():
    masked = pv.mask(handmade.conv(), GONE["conv"]).train()
    lost = {
        n: h.visible == 0
        for n, h in tensors_by_name(masked).items()
        if isinstance(h.tensor, nn.Parameter)
    }
    optimizer = torch.optim.SGD(masked.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        masked(INPUT["conv"]).square().sum().backward()
        optimizer.step()
    for n, h in tensors_by_name(masked).items():
        if n in lost:
            assert bool((h.visible[lost[n]] == 0).all())
    assert sum(int(z.sum()) for z in lost.values()) > 100


def test_a_masked_model_travels():
    model, plan, x = handmade.conv(), GONE["conv"], INPUT["conv"]
    masked = pv.mask(model, plan)
    other = handmade.conv()
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    same = [copy.deepcopy(masked), pv.mask(model, pv.Plan.from_json(plan.to_json()))]
    loaded = pv.mask(other, plan)
    loaded.load_state_dict(masked.state_dict())
    for m in (*same, loaded):
        assert state(m) == state(masked)
        assert torch.equal(m(x), masked(x))


def test_masks_add_up():
    model = handmade.mlp()
    one, two = pv.drop(MLP, {"fc1": [0]}), pv.drop(MLP, {"fc1": [4], "fc2": [3]})
    both = pv.mask(pv.mask(model, one), two)
    assert state(both) == state(pv.mask(model, GONE["mlp"]))


def test_units_and_weights_add_up():
    model = handmade.mlp()
    weights = pv.select(pv.score(model, "magnitude"), sparsity=0.5)
    one = pv.bake(pv.mask(pv.mask(model, weights), GONE["mlp"]))
    two = pv.bake(pv.mask(pv.mask(model, GONE["mlp"]), weights))
    assert state(one) == state(two)
    want = silenced(pv.bake(pv.mask(model, weights)), GONE["mlp"])
    assert state(one) == state(want)


def test_groups_found_in_a_masked_model_fit_the_plain_one_too():
    model = handmade.mlp()
    inside = [where(f"fc1.parametrizations.{n}.original", 0, "out", 6) for n in ("weight", "bias")]
    keeps = [where(f"fc1.parametrizations.{n}.0.keep", 0, "in", 6) for n in ("weight", "bias")]
    group = pv.Group("fc1", 6, (*inside, *keeps, where("fc2.weight", 1, "in", 6)))
    plan = pv.drop(pv.Groups((group,)), {"fc1": [0, 4]})
    masked = pv.mask(model, pv.drop(MLP, {"fc1": [1]}))
    assert state(pv.bake(pv.mask(masked, plan))) == state(
        silenced(model, pv.drop(MLP, {"fc1": [0, 1, 4]}))
    )
    # in the plain model there is no buffer that holds a mask
    out = pv.Groups((pv.Group("fc1", 6, tuple(inside)),))
    assert state(pv.bake(pv.mask(model, pv.drop(out, {"fc1": [0]})))) == state(
        silenced(model, pv.drop(MLP, {"fc1": [0]}))
    )


# -- bake ----------------------------------------------------------------------------------------


def test_bake_puts_every_parameter_where_it_was():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for name in "edcba":
                self.register_parameter(name, nn.Parameter(torch.ones(3)))

    model = Net()
    for order in ("ca", "ac", "dab", "e", "edcba"):
        masked = model
        for name in order:
            groups = pv.Groups((pv.Group(name, 3, (where(name, 0, "out", 3),)),))
            masked = pv.mask(masked, pv.drop(groups, {name: [1]}))
        baked = pv.bake(masked)
        assert list(baked.state_dict()) == list("edcba")
        for name in "edcba":
            assert baked.get_parameter(name).tolist() == [1, float(name not in order), 1]


def test_bake_keeps_the_order_where_only_the_bias_was_masked():
    groups = pv.Groups((pv.Group("fc1", 6, rows("fc1", 6, "bias")),))
    model = handmade.mlp()
    baked = pv.bake(pv.mask(model, pv.drop(groups, {"fc1": [0]})))
    assert list(baked.state_dict()) == list(model.state_dict())
    assert [n for n, _ in baked.named_parameters()] == [n for n, _ in model.named_parameters()]


# -- special tensors -----------------------------------------------------------------------------


class Tied(nn.Module):
    """Encoder and decoder share a weight, whose rows and columns are units."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        self.two.weight = self.one.weight

    def forward(self, x):
        return self.two(self.one(x))


def test_every_holder_of_a_tied_tensor_is_masked():
    groups = pv.Groups((pv.Group("one", 4, (where("one.weight", 0, "out", 4),)),))
    masked = pv.mask(Tied(), pv.drop(groups, {"one": [2]}))
    for layer in (masked.one, masked.two):
        assert layer.weight[2].abs().sum() == 0
        assert int((layer.weight == 0).sum()) == 4
    named = pv.Groups((pv.Group("two", 4, (where("two.weight", 0, "out", 4),)),))
    assert state(pv.mask(Tied(), pv.drop(named, {"two": [2]}))).keys() == state(masked).keys()


def test_a_tensor_may_be_in_two_groups_and_along_two_dimensions():
    both = pv.Groups(
        (
            pv.Group("one", 2, (where("one.weight", 0, "out", [0, 1]),)),
            pv.Group("one, part 2", 2, (where("one.weight", 0, "out", [2, 3]),)),
            pv.Group("columns", 4, (where("one.weight", 1, "out", 4),)),
        )
    )
    plan = pv.drop(both, {"one": [1, 2], "columns": [3]})
    weight = pv.mask(Tied(), plan).one.weight
    want = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 1, 0]], bool)
    np.testing.assert_array_equal((weight != 0).numpy(), want)


def test_the_columns_of_a_transposed_convolution_in_groups():
    layer = nn.ConvTranspose1d(4, 6, 2, groups=2)
    groups = pv.Groups((pv.Group("", 6, (where("weight", 1, "out", 6, 2), *rows("", 6)[:0])),))
    masked = pv.mask(layer, pv.drop(groups, {"": [1, 5]}))
    y = masked(torch.randn(1, 4, 3)) - layer.bias.detach().view(1, -1, 1)
    assert [int(i) for i in (y.abs().sum((0, 2)) < 1e-6).nonzero()] == [1, 5]


def test_of_weight_norm_the_norms_are_set_to_zero_but_not_held():
    model = handmade.mlp()
    parametrizations.weight_norm(model.fc1)
    slices = (
        where("fc1.parametrizations.weight.original0", 0, "out", 6),
        where("fc1.parametrizations.weight.original1", 0, "in", 6),
        where("fc1.bias", 0, "out", 6),
        where("fc2.weight", 1, "in", 6),
    )
    plan = pv.drop(pv.Groups((pv.Group("fc1", 6, slices),)), {"fc1": [0, 4]})
    masked = pv.mask(model, plan)
    assert masked.fc1.weight.abs().sum(1).nonzero().reshape(-1).tolist() == [1, 2, 3, 5]
    assert torch.isfinite(masked(INPUT["mlp"])).all()
    masked(INPUT["mlp"]).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in masked.parameters())
    assert list(pv.bake(masked).state_dict()) == list(model.state_dict())


def test_buffers_are_set_to_zero_and_whole_numbers_left_alone():
    masked = pv.mask(handmade.conv(), GONE["conv"])
    assert (masked.norm.running_mean == 0).tolist() == [True, False, False, True]
    layer = nn.Sequential(nn.Linear(2, 3))
    layer[0].register_buffer("count", torch.ones(3, dtype=torch.int64))
    slices = (*rows("0", 3), where("0.count", 0, "out", 3))
    plan = pv.drop(pv.Groups((pv.Group("0", 3, slices),)), {"0": [1]})
    assert pv.mask(layer, plan)[0].count.tolist() == [1, 1, 1]


def test_an_attention_layer_with_a_silent_head():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attn = nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, x):
            return self.attn(x, x, x, need_weights=False)[0]

    model, x = Net().eval(), torch.randn(2, 4, 6)
    masked = pv.mask(model, pv.drop(handmade.heads(), {"attn": [1]}))
    want = copy.deepcopy(model)
    with torch.no_grad():
        want.attn.out_proj.weight[:, 3:] = 0  # a head whose values are 0 says nothing
        torch.testing.assert_close(masked(x), want(x))
        assert not torch.allclose(masked(x), model(x))
    baked = pv.bake(masked)
    assert list(baked.state_dict()) == list(model.state_dict())
    torch.testing.assert_close(baked(x), want(x))


# -- what is refused -----------------------------------------------------------------------------


def renamed(groups, **changes):
    """Return the plan for groups of which the first has another first slice."""
    g = groups[0]
    s = g.slices[0]
    fields = {"tensor": s.tensor, "dim": s.dim, "role": "out", "index": s.index, **changes}
    other = pv.Group(g.name, g.size, (pv.Slice(**fields), *g.slices[1:]))
    return pv.drop(pv.Groups((other, *groups[1:])), {g.name: [0]})


HERE = "the tensors here are: fc1.weight, fc1.bias, fc2.weight, fc2.bias, fc3.weight, fc3.bias"
REACH = "along dimension 0 of 'fc1.weight', which has 6 here"
BAD_PLANS = [
    (GONE["conv"], f"`plan` is of another model: it names 'stem.weight', but {HERE}."),
    (renamed(MLP, tensor="fc9.weight"), f"`plan` is of another model: it names 'fc9.weight', but {HERE}."),
    (renamed(MLP, dim=2), "`plan` is of another model: 'fc1.weight' has the shape (6, 5) here."),
    (renamed(MLP, blocks=4), "`plan` is of another model: 'fc1.weight' has the shape (6, 5) here."),
    (renamed(MLP, index=np.arange(1, 7)[:, None]), f"`plan` is of another model: its units reach to 7 {REACH}."),
    (pv.Plan({"fc1": torch.ones(5, dtype=torch.bool)}, MLP), "`plan` is of another model: for 'fc1' it has torch.bool of shape (5,), but needs torch.bool of (6,)."),
    (pv.Plan({"fc1": torch.ones(6)}, MLP), "`plan` is of another model: for 'fc1' it has torch.float32 of shape (6,), but needs torch.bool of (6,)."),
    (pv.Plan({"fc1": [True] * 6}, MLP), "`plan.keep['fc1']` must be a Tensor, but a list was passed."),
    (pv.Plan({"fc8": torch.ones(6, dtype=torch.bool)}, MLP), "group 'fc8' is unknown. Did you mean 'fc3'? Known: fc1, fc2, fc3."),
]  # fmt: skip


@pytest.mark.parametrize(("plan", "message"), BAD_PLANS)
def test_a_plan_of_another_model_is_refused(plan, message):
    with refused(message):
        pv.mask(handmade.mlp(), plan)


def test_a_plan_of_a_narrower_model_is_refused():
    """Its units would all be there, but they are not all units."""
    model = handmade.mlp()
    model.fc1, model.fc2 = nn.Linear(5, 8), nn.Linear(8, 4)
    with refused(
        "`plan` is of another model: its units reach to 6 along dimension 0 of 'fc1.weight', "
        "which has 8 here."
    ):
        pv.mask(model, GONE["mlp"])


def test_some_units_of_a_layer_are_enough():
    groups = pv.Groups((pv.Group("fc1", 3, rows("fc1", [0, 2, 4])),))
    masked = pv.mask(handmade.mlp(), pv.drop(groups, {"fc1": [1]}))
    assert masked.fc1.weight.abs().sum(1).ne(0).tolist() == [True, True, False, True, True, True]

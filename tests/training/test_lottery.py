from __future__ import annotations

import pytest
import torch
from helpers import assert_untouched, batches, bits, build, inputs, mlp, refused, snapshot, state
from torch import nn

import pruneviz as pv
from pruneviz.model.hooks import seeded


def plan_of(model, sparsity=0.75):
    return pv.select(pv.score(model, "magnitude"), sparsity=sparsity)


def counts(plan_or_model):
    if isinstance(plan_or_model, pv.Plan):
        return [int(k.sum()) for k in plan_or_model.keep.values()]
    return [int((w != 0).sum()) for w in pv.named_weights(plan_or_model).values()]


def test_a_ticket_is_the_start_under_the_mask():
    trained, start = mlp(), mlp()
    start[1].weight.data.normal_()
    plan = plan_of(trained)
    assert state(pv.bake(pv.lottery_ticket(start, plan))) == state(pv.bake(pv.mask(start, plan)))


def test_random_weights_keep_the_mask():
    start = mlp()
    plan = plan_of(start)
    new = pv.lottery_ticket(start, plan, control="random-weights")
    for name, w in pv.named_weights(new).items():
        keep = plan.keep[name]
        assert torch.equal(w != 0, keep)
        assert not (w[keep] == pv.named_weights(start)[name][keep]).any()


def test_random_weights_are_others_even_if_the_start_was_drawn_with_the_same_seed():
    with seeded(0):
        start = mlp()
    new = pv.lottery_ticket(start, plan_of(start, 0), control="random-weights", seed=0)
    old = pv.named_weights(start)
    for name, w in pv.named_weights(new).items():
        assert not (w == old[name]).any()
        assert float(w.abs().max()) <= w.shape[1] ** -0.5  # torch's own way to start


def test_random_masks_keep_the_weights_and_their_number():
    start = mlp()
    plan = plan_of(start)
    new = pv.lottery_ticket(start, plan, control="random-mask")
    assert counts(new) == counts(plan)
    for name, w in pv.named_weights(new).items():
        assert not torch.equal(w != 0, plan.keep[name])
        assert torch.equal(w[w != 0], pv.named_weights(start)[name][w != 0])


def test_random_masks_are_uniform():
    start = nn.Linear(10, 1)
    plan = plan_of(start, 0.7)
    hits = sum(
        (pv.lottery_ticket(start, plan, control="random-mask", seed=s).weight != 0).double()
        for s in range(400)
    )
    assert hits.sum() == 3 * 400
    assert (hits - 120).abs().max() < 5 * (400 * 0.3 * 0.7) ** 0.5


def test_an_even_group_loses_the_same_in_each_part():
    model = nn.Sequential(nn.Conv2d(4, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1, groups=2))
    model.append(nn.Conv2d(8, 3, 1))
    x = torch.randn(2, 4, 3, 3)
    groups = pv.find_groups(model, x)
    plan = pv.select(pv.score(model, "l2", groups=groups), sparsity=0.5)
    for seed in range(5):
        new = pv.lottery_ticket(model, plan, control="random-mask", seed=seed)
        gone = new[0].weight.flatten(1).abs().sum(1) == 0
        assert gone.view(2, 4).sum(1).tolist() == [2, 2]


@pytest.mark.parametrize("control", ["none", "random-weights", "random-mask"])
def test_the_seed_decides_and_nothing_else_changes(control):
    model = build("cnn")
    plan, before, numbers = plan_of(model), snapshot(model), bits(torch.get_rng_state())
    first = state(pv.lottery_ticket(model, plan, control=control, seed=2))
    assert bits(torch.get_rng_state()) == numbers
    assert state(pv.lottery_ticket(model, plan, control=control, seed=2)) == first
    assert (state(pv.lottery_ticket(model, plan, control=control, seed=3)) == first) == (
        control == "none"
    )
    assert_untouched(model, before)


def test_a_ticket_can_be_trained_and_its_mask_holds():
    model = build("cnn")
    plan = plan_of(model)
    for control in ("none", "random-weights", "random-mask"):
        new = pv.lottery_ticket(model, plan, control=control)
        tuned = pv.fit(new, batches(), lr=0.1, progress=False)
        assert counts(tuned) == counts(new) == counts(plan)


def test_attention_starts_anew_too():
    model = nn.MultiheadAttention(4, 2)
    new = pv.lottery_ticket(model, plan_of(model, 0.5), control="random-weights")
    assert not torch.equal(new.out_proj.weight, model.out_proj.weight)
    assert not torch.equal(new.in_proj_weight, model.in_proj_weight)


def test_bad_calls():
    model = mlp()
    with refused("`control` 'random' is unknown. Did you mean 'random-mask'? Known: none, random-mask, random-weights."):  # fmt: skip
        pv.lottery_ticket(model, plan_of(model), control="random")
    with refused("`plan` must be a Plan, but a float was passed. Make it: pv.prune_iteratively(...).plan."):  # fmt: skip
        pv.lottery_ticket(model, 0.5)
    with pytest.raises(pv.ArgumentError, match="`plan` is of another model"):
        pv.lottery_ticket(build("cnn"), plan_of(model))

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))
            self.net = mlp()

        def forward(self, x):
            return self.net(x) * self.scale

    scaled = Scaled()
    assert pv.lottery_ticket(scaled, plan_of(scaled))(inputs()).shape == (5, 3)
    with refused("layer 'Scaled' has no `reset_parameters`, so it cannot be initialised again. Build a new model instead: pv.lottery_ticket(Net(), plan)."):  # fmt: skip
        pv.lottery_ticket(scaled, plan_of(scaled), control="random-weights")

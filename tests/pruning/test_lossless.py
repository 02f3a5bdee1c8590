"""Lossless plans, inactive units, certificates: all planted units are found, and no others."""

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_untouched, snapshot, storages
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import pruneviz as pv


def batch(n: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.rand(n, 1, 8, 8, generator=generator, dtype=torch.float64)


def planted(padding: int = 1) -> nn.Sequential:
    """conv1: 2 dead, 3 constant, 5 double of 1; conv2: 0 constant; fc1: 4 = 2.5 · 7, 9 unread."""
    torch.manual_seed(3)
    side = 8 if padding else 4
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=padding, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 10, 3, padding=padding, bias=False), nn.BatchNorm2d(10), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(10 * (side // 2) ** 2, 12), nn.ReLU(), nn.Linear(12, 5),
    )  # fmt: skip
    model = model.double().eval()
    with torch.no_grad():
        for norm in (model[1], model[4]):
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 2)
            norm.weight.uniform_(0.5, 2)
            norm.bias.uniform_(0.5, 1)  # everybody is awake
        model[8].bias.uniform_(0.5, 1)
        model[1].weight[2], model[1].bias[2] = 0, -0.3
        model[1].weight[3], model[1].bias[3] = 0, 0.4
        for t in (model[0].weight, *model[1].parameters(), *list(model[1].buffers())[:2]):
            t[5] = t[1]
        model[4].weight[0], model[4].bias[0] = 0, 0.9
        model[8].weight[4], model[8].bias[4] = 2.5 * model[8].weight[7], 2.5 * model[8].bias[7]
        model[10].weight[:, 9] = 0
    return model


def gone(plan: pv.Plan) -> dict[str, list[int]]:
    return {n: (~k).nonzero()[:, 0].tolist() for n, k in plan.keep.items() if not bool(k.all())}


# -- lossless plans ------------------------------------------------------------------------------


@pytest.mark.parametrize(("padding", "first"), [(1, [2, 5]), (0, [2, 3, 5])])
def test_lossless_plan_finds_the_planted_units_and_no_others(padding, first):
    model, x = planted(padding), batch()
    plan = pv.lossless_plan(model, x[:2])
    assert gone(plan) == {"0": first, "3": [0], "8": [7, 9]}  # 7 is the smaller one of the pair
    small = pv.shrink(model, plan, example_input=x[:2], repair="merge")
    with torch.no_grad():
        assert float((small(x) - model(x)).abs().max()) <= 1e-10 * float(model(x).abs().max())


def test_lossless_plan_of_a_network_without_such_units():
    model = nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 2))
    assert gone(pv.lossless_plan(model, torch.randn(4, 3))) == {}


def test_lossless_plan_for_a_box():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = torch.tensor([1.0, 1.0]), -3.0  # inactive on [0, 1]
    x = torch.rand(4, 2)
    assert gone(pv.lossless_plan(model, x)) == {}
    assert gone(pv.lossless_plan(model, x, low=0, high=1)) == {"0": [1]}


def test_a_unit_that_is_inactive_in_a_box_is_not_redundant():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        model[0].weight[:2], model[0].bias[:2] = torch.tensor([[1.0, 1.0], [1.0, 0.9]]), 0.0
        model[0].bias[
            1
        ] = -4.0  # inactive on [0, 1], but its weights are similar to those of unit 0
        model[2].weight[0, 1] = 5.0
    x = torch.rand(20, 2).double()
    plan = pv.lossless_plan(model, x, low=0, high=1)
    assert gone(plan) == {"0": [1]}
    small = pv.shrink(model, plan, example_input=x, repair="merge")
    assert torch.allclose(small(x), model(x), atol=1e-12)
    assert pv.certify(model, small, [x], low=0, high=1).kind == "exact"


def test_a_wrong_repair_is_only_approximate():
    model, x = planted(), batch()
    plan = pv.drop(pv.find_groups(model, x[:2]), {"0": [3]})  # the constant before a padded conv
    assert pv.certify(model, pv.shrink(model, plan, example_input=x[:2]), [x]).kind == "approximate"


def test_lossless_plan_with_evidence_is_observed():
    model, x = (
        nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).double(),
        torch.rand(50, 2).double(),
    )
    with torch.no_grad():
        model[0].weight.abs_()
        model[0].bias.fill_(0.1)
        model[0].weight[2], model[0].bias[2] = torch.tensor([1.0, 1.0]), -2.0
    evidence = pv.collect(model, [x], progress=False)
    plan = pv.lossless_plan(model, x, evidence=evidence)
    assert 2 in gone(plan)["0"]
    small = pv.shrink(model, plan, example_input=x, repair="merge", evidence=evidence)
    assert torch.allclose(small(x), model(x), atol=1e-12)
    assert pv.certify(model, small, [x]).kind == "observed"


def test_multiples_stay_where_the_activation_does_not_keep_them():
    def double(activation):
        model = nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 2))
        with torch.no_grad():
            model[0].weight[3], model[0].bias[3] = 2 * model[0].weight[0], 2 * model[0].bias[0]
        return model

    x = torch.randn(8, 3)
    assert gone(pv.lossless_plan(double(nn.ReLU()), x)) == {"0": [0]}
    assert gone(pv.lossless_plan(double(nn.LeakyReLU()), x)) == {"0": [0]}
    assert gone(pv.lossless_plan(double(nn.GELU()), x)) == {}
    assert gone(pv.lossless_plan(double(nn.Tanh()), x)) == {}


def test_equal_parts_stay_equal():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1, groups=2), nn.Flatten(), nn.Linear(16, 2)
    )
    with torch.no_grad():
        model[0].weight[:3], model[0].bias[:3] = 0, -1  # three dead, all in the first group
    x = torch.randn(3, 1, 2, 2)
    assert gone(pv.lossless_plan(model, x)) == {}
    with torch.no_grad():
        model[0].weight[6], model[0].bias[6] = 0, -1
    plan = pv.lossless_plan(model, x)
    assert len(gone(plan)["0"]) == 2 and 6 in gone(plan)["0"]
    small = pv.shrink(model, plan, example_input=x, repair="merge")
    assert torch.allclose(small(x), model(x), atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 9), st.sets(st.integers(0, 8)), st.integers(0, 2**16))
def test_dead_units_are_found_whatever_their_number(n, dead, seed):
    torch.manual_seed(seed)
    dead = {d for d in dead if d < n}
    model = nn.Sequential(nn.Linear(3, n), nn.ReLU(), nn.Linear(n, 2)).double()
    with torch.no_grad():
        for d in dead:
            model[0].weight[d], model[0].bias[d] = 0, -1
    x = torch.randn(4, 3).double()
    plan = pv.lossless_plan(model, x)
    found = set(gone(plan).get("0", []))
    assert found <= dead and len(found) == min(len(dead), n - 1)  # one has to stay
    small = pv.shrink(model, plan, example_input=x)
    assert torch.allclose(small(x), model(x), atol=1e-12)


def test_lossless_plan_and_certify_leave_no_trace():
    model, x = planted().train(), batch(6)
    before = snapshot(model)
    small = pv.shrink(model, pv.lossless_plan(model, x), example_input=x, repair="merge")
    pv.certify(model, small, [x])
    assert_untouched(model, before)
    assert not storages(model) & storages(small)


# -- certificates --------------------------------------------------------------------------------


def test_the_four_words():
    model, x = planted(), batch()
    groups = pv.find_groups(model, x[:2])
    evidence = pv.collect(model, [x], progress=False)

    def kind(units, repair, **more):
        plan = pv.drop(groups, units)
        small = pv.shrink(model, plan, example_input=x[:2], repair=repair, **more)
        return pv.certify(model, small, [x])

    exact = kind({"0": [2, 5], "8": [7]}, "merge")
    assert (exact.kind, dict(exact.removed)) == ("exact", {"0": (2, 5), "8": (7,)})
    assert exact.max_error <= 1e-10 * exact.scale
    assert exact.examples == 40
    border = kind({"0": [3]}, "fold", evidence=evidence)
    assert border.kind == "exact-off-border" and border.max_error > 1e-6
    rough = kind({"0": [4]}, "fold", evidence=evidence)
    assert rough.kind == "approximate"
    assert str(rough).startswith("approximate: 1 unit removed (1 of 0); outputs differ by at most ")


def test_observed_is_not_proved():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        model[0].weight[1], model[0].bias[1] = torch.tensor([1.0, 1.0]), -3.0
    x = torch.rand(30, 2).double()
    small = pv.shrink(model, pv.drop(pv.find_groups(model, x), {"0": [1]}), example_input=x)
    assert pv.certify(model, small, [x]).kind == "observed"
    assert pv.certify(model, small, [x], low=0, high=1).kind == "exact"
    assert pv.certify(model, small, [x, 3 + x]).kind == "approximate"


def pair_that_sleeps():
    """Units 1 and 2 are the same; on inputs below 1 they never fire, on others they do."""
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    with torch.no_grad():
        model[0].weight[1:3], model[0].bias[1:3] = torch.tensor([1.0, 1.0]), -2.0
        model[0].weight[0], model[0].weight[3] = torch.tensor([1.0, 0.2]), torch.tensor([0.1, 1.0])
        model[0].bias[[0, 3]] = 0.3
    return model, torch.rand(30, 2).double()


@pytest.mark.parametrize(
    ("units", "repair", "kind"),
    [
        ([1], "merge", "exact"),  # unit 2 has taken over
        ([1], "none", "observed"),  # it has not, and the data do not show it
        ([1, 2], "none", "observed"),  # neither is kept
        ([1, 2], "merge", "observed"),
    ],
)
def test_exact_is_said_only_of_what_holds_for_every_input(units, repair, kind):
    model, x = pair_that_sleeps()
    plan = pv.drop(pv.find_groups(model, x), {"0": units})
    small = pv.shrink(model, plan, example_input=x, repair=repair)
    certificate = pv.certify(model, small, [x])
    assert certificate.kind == kind
    other = 2 + x  # where the pair fires
    agree = torch.allclose(small(other), model(other), atol=1e-9)
    assert agree if kind == "exact" else not agree


def test_a_weight_that_the_data_do_not_reach_is_not_overlooked():
    model, x = pair_that_sleeps()
    small = pv.shrink(model, pv.lossless_plan(model, x), example_input=x, repair="merge")
    assert pv.certify(model, small, [x]).kind == "exact"
    with torch.no_grad():
        small[2].weight[0, 1] += 1.0  # of a unit that never fires on these inputs
    assert pv.certify(model, small, [x]).kind == "observed"
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[2].weight[0, 1] += 1.0
    assert pv.certify(model, other, [x]).kind == "observed"
    assert pv.certify(model, copy.deepcopy(model), [x]).kind == "exact"


def test_what_cannot_be_cut_again_is_only_observed(monkeypatch):
    model, x = pair_that_sleeps()
    small = pv.shrink(model, pv.lossless_plan(model, x), example_input=x, repair="merge")

    def refuse(*_):
        raise pv.GraphError("refused")

    monkeypatch.setattr("pruneviz.pruning.shrink.Shrinker.quick", refuse)
    assert pv.certify(model, small, [x]).kind == "observed"


def test_numbers_of_every_type_are_compared():
    class Types(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("flags", torch.tensor([True, False]))
            self.register_buffer("waves", torch.tensor([1 + 2j]))
            self.fc = nn.Linear(3, 2)

        def forward(self, x):
            return self.fc(x)

    model, x = Types(), torch.randn(4, 3)
    other = copy.deepcopy(model)
    assert pv.certify(model, other, [x]).kind == "exact"
    other.waves.add_(1j)
    assert pv.certify(model, other, [x]).kind == "observed"


def test_certify_refuses():
    model, x = nn.Linear(3, 2), torch.randn(4, 3)
    with pytest.raises(pv.ArgumentError, match="`batches` is empty"):
        pv.certify(model, model, [])
    with pytest.raises(pv.ArgumentError, match=r"output has shape \(4, 5\) and not \(4, 2\)"):
        pv.certify(model, nn.Linear(3, 5), [x])
    assert pv.certify(model, pv.bake(model), [x]).kind == "exact"


# -- inactive units ------------------------------------------------------------------------------


def test_inactive_units_by_group_and_by_layer():
    model, x = planted(), batch()
    groups, evidence = pv.find_groups(model, x[:2]), pv.collect(model, x, progress=False)
    frame = pv.find_inactive(evidence, groups=groups)
    found = frame[frame["group"] != "8"][["group", "unit", "kind"]].values.tolist()
    assert found == [["0", 2, "dead"], ["0", 3, "constant"], ["3", 0, "constant"]]
    assert frame.loc[1, "mean"] == pytest.approx(0.4)
    assert (frame.loc[0, ["active", "mean", "std", "low", "high"]] == 0).all()
    flat = pv.find_inactive(evidence)
    assert (
        flat[flat["layer"] == "8"]["kind"] == "constant"
    ).sum() == 16  # 4 × 4 pixels of one channel


def test_rare_is_a_share():
    class Once(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(2, 1)

        def forward(self, x):
            return self.fc(x)

    x = torch.zeros(100, 2)
    x[:, 1] = 1
    x[3, 0] = 2.0
    evidence = pv.collect(Once(), x, progress=False)
    assert pv.find_inactive(evidence)["kind"].tolist() == ["rare", "constant"]
    assert pv.find_inactive(evidence, rare=0.005)["kind"].tolist() == ["constant"]
    message = "`rare` must be a fraction in [0, 1), but 5 was passed. Did you mean 0.05?"
    with pytest.raises(pv.ArgumentError, match=re.escape(message)):
        pv.find_inactive(evidence, rare=5)


# -- batch norms, and the front door -------------------------------------------------------------


def test_recalibrate_measures_what_is_read_now():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3)
    ).train()
    model[1].momentum = 0.3
    x = torch.randn(20, 1, 6, 6)
    before = snapshot(model)
    new = pv.recalibrate(model, [x[:10], x[10:]])
    assert_untouched(model, before)
    y = [model[0](part) for part in (x[:10], x[10:])]
    mean = sum(t.mean((0, 2, 3)) for t in y) / 2
    var = sum(t.var((0, 2, 3)) for t in y) / 2
    assert torch.allclose(new[1].running_mean, mean, atol=1e-6)
    assert torch.allclose(new[1].running_var, var, atol=1e-6)
    assert new[1].momentum == 0.3 and new.training and new[1].training
    with pytest.raises(pv.ArgumentError, match="`batches` is empty"):
        pv.recalibrate(model, iter([]))


def test_prune_in_one_call_is_what_the_steps_give():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)
    )
    data = [torch.randn(40, 6) for _ in range(3)]
    new = pv.prune(model, data[0], macs=0.5, criterion="obs", repair="lstsq", batches=iter(data))
    evidence = pv.collect(model, data, loss=F.cross_entropy, progress=False)
    again = pv.prune(
        model, data[0], macs=0.5, criterion="obs", repair="lstsq", batches=data, evidence=evidence
    )
    assert torch.equal(new(data[0]), again(data[0]))
    assert pv.measure(new, data[0]).macs <= 0.5 * pv.measure(model, data[0]).macs
    plain = pv.prune(model, data[0], macs=0.5, criterion="obs", evidence=evidence)

    def error(m):
        return float((m(data[0]) - model(data[0])).detach().square().mean())

    assert error(new) < 0.5 * error(plain)
    with pytest.raises(
        pv.ArgumentError, match="criterion 'obs' needs evidence, but none was passed"
    ):
        pv.prune(model, data[0], macs=0.5, criterion="obs")
    with pytest.raises(pv.ArgumentError, match="`batches` is empty"):
        pv.prune(model, data[0], macs=0.5, criterion="obs", batches=iter([]))


# -- single weights ------------------------------------------------------------------------------


def weights(model: nn.Module, sparsity: float) -> pv.Plan:
    return pv.select(pv.score(model, "magnitude"), sparsity=sparsity)


@pytest.mark.parametrize("kind", ["linear", "conv", "grouped", "no bias"])
@pytest.mark.parametrize("source", ["evidence", "batches"])
def test_a_repaired_mask_is_nearer(kind, source):
    torch.manual_seed(1)
    model = {
        "linear": nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 4)),
        "conv": nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 3)),
        "grouped": nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2)),
        "no bias": nn.Sequential(nn.Linear(8, 12, bias=False), nn.ReLU(), nn.Linear(12, 4, bias=False)),
    }[kind].double()  # fmt: skip
    x = torch.randn(200, 8) if "Linear" in str(model) else torch.randn(30, 2, 7, 7)
    x, plan = x.double() + 0.5, weights(model, 0.6)
    more = (
        {"batches": [x]}
        if source == "batches"
        else {"evidence": pv.collect(model, x, progress=False)}
    )
    before = snapshot(model)
    new, plain = pv.mask(model, plan, repair="lstsq", ridge=1e-6, **more), pv.mask(model, plan)
    assert_untouched(model, before)
    for name, keep in plan.keep.items():  # the zeros stay, the rest was re-fitted
        w = pv.named_weights(new)[name]
        assert not w[~keep].any()
        assert not torch.equal(w[keep], pv.named_weights(model)[name][keep])
    first = model[0](x) - new[0](x), model[0](x) - plain[0](x)
    assert first[0].square().mean() < first[1].square().mean()
    whole = model(x) - new(x), model(x) - plain(x)
    assert whole[0].square().mean() < whole[1].square().mean()


def test_one_row_is_what_least_squares_gives():
    torch.manual_seed(0)
    model, x = nn.Linear(5, 1).double(), torch.randn(60, 5).double() @ torch.randn(5, 5).double()
    plan = pv.Plan({"weight": torch.tensor([[True, False, True, True, False]])})
    new = pv.mask(model, plan, repair="lstsq", batches=[x], ridge=0)
    x = x[torch.arange(60) % 10 != 9]  # every tenth example is held out
    basis = torch.cat([x[:, [0, 2, 3]], torch.ones(54, 1)], 1)
    want = torch.linalg.lstsq(basis, model(x).detach()).solution[:, 0]
    assert torch.allclose(new.weight[0, [0, 2, 3]], want[:3], atol=1e-10)
    assert torch.allclose(new.bias, want[3:], atol=1e-10)


def test_masks_of_units_are_not_repaired_here():
    model, x = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(9, 3)
    plan = pv.drop(pv.find_groups(model, x), {"0": [1]})
    with pytest.raises(pv.ArgumentError, match="repairs single weights, but this plan drops units"):
        pv.mask(model, plan, repair="lstsq", batches=[x])
    with pytest.raises(pv.ArgumentError, match="needs data on what the layers read"):
        pv.mask(model, weights(model, 0.5), repair="lstsq")
    with pytest.raises(pv.ArgumentError, match="`repair` 'fold' is unknown"):
        pv.mask(model, weights(model, 0.5), repair="fold", batches=[x])
    with pytest.raises(pv.ArgumentError, match="`ridge` must be"):
        pv.mask(model, weights(model, 0.5), repair="lstsq", batches=[x], ridge=-1)

"""The panel of lesson 03: one unit lights up wherever it lives; what is left is cut and measured."""

import re

import pytest
import torch
from helpers import assert_untouched, snapshot
from ipywidgets.widgets.widget import _instances
from torch import nn

import pruneviz as pv
from pruneviz.latency import latencies


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3),
    ).eval()  # fmt: skip


X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 1, 2, 0])


@pytest.fixture
def panel():
    before = set(_instances)
    made = pv.panel_neurons(net(), X, batches=[(X, Y)])
    yield made
    made.close()
    assert set(_instances) == before  # closing a panel closes what is in it


def lit(panel):
    """How many places of the picture are lit."""
    return len(re.findall(r'class="[^"]*lit|#F0E442|#f0e442', panel._view.value))


def test_the_picked_unit_is_told_with_all_that_goes_with_it(panel):
    panel.controls["layer"].value = "3"
    panel.controls["unit"].value = 5
    r = panel.result
    assert (r["layer"], r["unit"], r["group"]) == ("3", 5, "3")
    assert (r["producers"], r["consumers"]) == (("3",), ("6",))
    assert r["tensors"] == ("3.weight", "3.bias", "6.weight")
    assert panel.sentence.startswith(
        "Channel 5 of 3 lives in 3 tensors of 2 layers: made by 3, read by 6."
    )
    assert lit(panel) >= 2


def test_a_unit_with_a_norm_lives_in_three_layers(panel):
    assert panel.result["producers"] == ("0", "1")
    assert panel.result["consumers"] == ("3",)


def test_an_output_says_why_it_stays(panel):
    panel.controls["layer"].value = "6"
    assert panel.result["frozen"] == "its units are the model's output"
    assert "Neuron 0 of 6 cannot go: its units are the model's output." in panel.sentence


def test_the_unit_stays_within_its_layer(panel):
    panel.controls["layer"].value = "3"
    panel.controls["unit"].value = 7
    panel.controls["layer"].value = "0"
    assert panel.controls["unit"].max == 5
    assert panel.result["unit"] == 5


def test_the_sparsity_cuts_for_real(panel):
    model = net()
    before = panel._view.value
    panel.controls["sparsity"].value = 0.5
    groups = pv.find_groups(model, X)
    plan = pv.select(pv.score(model, "l2", groups=groups), sparsity=0.5)
    small = pv.shrink(model, plan, example_input=X)
    r = panel.result
    assert all(torch.equal(r["plan"].keep[n], k) for n, k in plan.keep.items())
    assert r["macs"] == pv.measure(small, X).macs
    assert r["speedup"] == pytest.approx(pv.measure(model, X).macs / r["macs"])
    assert r["accuracy"] == pv.accuracy(small, [(X, Y)])
    assert r["sparsity"] == 0.5
    assert min(r["latency_ms"]) > 0
    assert panel._view.value != before
    assert "Measured just now" in panel._view.value
    assert "Sparsity 0.50: 7 of 14 units stay" in panel.sentence


def test_picking_measures_nothing_anew(panel):
    panel.controls["sparsity"].value = 0.5
    measured = panel.result["latency_ms"]
    panel.controls["unit"].value = 2
    assert panel.result["latency_ms"] is measured or panel.result["latency_ms"] == measured


@pytest.mark.parametrize("criterion", ["l1", "l2", "random"])
@pytest.mark.parametrize("scope", ["layer", "global"])
def test_criterion_and_scope_choose(panel, criterion, scope):
    panel.controls["criterion"].value = criterion
    panel.controls["scope"].value = scope
    panel.controls["sparsity"].value = 0.4
    assert (panel.result["criterion"], panel.result["scope"]) == (criterion, scope)
    groups = pv.find_groups(net(), X)
    plan = pv.select(pv.score(net(), criterion, groups=groups), sparsity=0.4, scope=scope)
    assert all(torch.equal(panel.result["plan"].keep[n], k) for n, k in plan.keep.items())


def test_no_trace_and_a_static_picture():
    model = net().train()
    before = snapshot(model)
    panel = pv.panel_neurons(model, X)
    panel.controls["sparsity"].value = 0.5
    assert panel.result["accuracy"] is None
    data, metadata = panel._repr_mimebundle_()
    panel.close()
    assert_untouched(model, before)
    assert data["text/plain"] == panel.sentence == metadata["image/png"]["alt"]
    assert 'aria-label="' in panel._view.value or panel._view.value == ""


BAD = [
    ({"criterion": "magnitude"}, "criterion 'magnitude' is unknown"),
    ({"sparsity": 50}, r"`sparsity` must be a number in \[0, 0.95\]"),
    ({"layer": "9"}, "layer '9' is unknown"),
    ({"unit": 1.5}, "`unit` must be a whole number"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_calls_leave_no_widgets(options, message):
    before = set(_instances)
    with pytest.raises(pv.ArgumentError, match=message):
        pv.panel_neurons(net(), X, **options)
    assert set(_instances) == before


def test_latencies_are_of_this_machine_and_in_turn():
    wide = nn.Sequential(nn.Linear(1000, 1))
    small, large = nn.Linear(100, 1), nn.Sequential(*[nn.Linear(1000, 1000) for _ in range(5)])
    ran = []
    for name, m in (("small", small), ("large", large)):
        m.register_forward_hook(lambda *_, name=name: ran.append(name))
    before = [snapshot(m) for m in (small, large)]
    with pytest.raises(pv.ArgumentError, match="could not run"):
        latencies([small, large], torch.zeros(2, 7))
    ran.clear()
    wide.register_forward_hook(lambda *_: ran.append("wide"))
    short, long = latencies([wide, large], torch.zeros(64, 1000), seconds=0)
    assert 0 < short < long
    assert ran == ["wide", "large"] * 7  # two rounds to warm up, five that count
    for m, b in zip((small, large), before, strict=True):
        assert_untouched(m, b)
    with pytest.raises(pv.ArgumentError, match="`models` is empty"):
        latencies([], torch.zeros(1))
    assert pv.measure(wide, torch.zeros(1, 1000), latency=True).latency_ms > 0

"""The panel of lesson 03: one unit lights up wherever it lives; what is left is cut and measured."""

import re

import pytest
import torch
from helpers import assert_untouched, snapshot
from ipywidgets.widgets.widget import _instances
from torch import nn

import pruneviz as pv
from pruneviz import lessons
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
    """Return where the picture is lit: (layer, side, unit)."""
    found = re.findall(
        r'class="lit" data-layer="(.*?)" data-side="(.*?)" data-unit="(.*?)"', panel._view.value
    )
    return [(layer, side, int(unit)) for layer, side, unit in found]


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
    assert lit(panel) == [("3", "makes", 5), ("6", "reads", 5)]


def test_a_unit_with_a_norm_lives_in_three_layers(panel):
    assert panel.result["producers"] == ("0", "1")
    assert panel.result["consumers"] == ("3",)


def test_in_a_residual_network_a_channel_lights_up_in_many_layers():
    panel = pv.panel_neurons(
        lessons.load("residual-net"), torch.zeros(2, 1, 28, 28), layer="stage1.0.conv2", unit=11
    )
    assert lit(panel) == [
        ("stem", "makes", 11),
        ("stage1.0.conv1", "reads", 11),
        ("stage1.0.conv2", "makes", 11),
        ("stage1.1.conv1", "reads", 11),
        ("stage1.1.conv2", "makes", 11),
        ("stage2.0.conv1", "reads", 11),
        ("stage2.0.shortcut.0", "reads", 11),
    ]
    assert "lives in 19 tensors of 10 layers" in panel.sentence
    panel.close()


def test_a_unit_that_goes_is_crossed_wherever_it_lives(panel):
    key_aside = re.sub("<g>.*?</g>", "", panel._view.value)
    assert 'gone" d=' not in key_aside
    panel.controls["sparsity"].value = 0.5
    (group,) = pv.find_groups(net(), X).groups_of("0")
    first = int((~panel.result["plan"].keep[group.name]).nonzero()[0])
    panel.controls["unit"].value = first
    assert panel.result["gone"]
    assert " It goes. " in panel.sentence
    view = panel._view.value
    for kind in ("makes, gone", "reads, gone"):
        crosses = re.search(f'<path class="{kind}" d="(.*?)"', view).group(1).count("M")
        assert crosses == 3 + 4  # half of six and of eight units, on either side


def test_an_error_is_shown_in_words_and_gone_after_the_next_good_move(panel, monkeypatch):
    (alert,) = [w for w in panel.children if w is not panel._view and type(w) is type(panel._view)]
    monkeypatch.setattr("pruneviz.panels.neurons.accuracy", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        panel.controls["sparsity"].value = 0.5
    assert 'role="alert"' in alert.value and "ZeroDivisionError: division by zero" in alert.value
    assert "image/png" in panel._repr_mimebundle_()[0]  # it can still be shown
    monkeypatch.undo()
    panel.controls["unit"].value = 1  # and what failed is measured again
    assert alert.value == ""
    assert (panel.result["sparsity"], panel.result["unit"]) == (0.5, 1)


def test_every_control_has_a_name(panel):
    def inside(box):
        return [w for child in getattr(box, "children", ()) for w in (child, *inside(child))]

    named = {w.description for w in inside(panel) if getattr(w, "description", "")}
    assert named == {"layer", "unit", "sparsity", "criterion", "compared"}


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
    picture = panel._view.value
    panel.close()
    assert_untouched(model, before)
    assert data["text/plain"] == panel.sentence == metadata["image/png"]["alt"]
    assert 'role="img"' in picture
    assert 'aria-label="' in picture


BAD = [
    ({"criterion": "magnitude"}, "criterion 'magnitude' is unknown"),
    ({"sparsity": 50}, r"`sparsity` must be a number in \[0, 0.95\]"),
    ({"layer": "9"}, "layer '9' is unknown"),
    ({"unit": 1.5}, "`unit` must be a whole number"),
]


def test_a_model_without_units_is_refused():
    with pytest.raises(pv.ArgumentError, match="no units to show"):
        pv.panel_neurons(nn.ReLU(), torch.zeros(1, 3))


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

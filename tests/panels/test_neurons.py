"""The panel of lesson 03: one unit lights up wherever it lives; what is left is cut and measured."""

import re
from collections import OrderedDict
from html import escape

import pytest
import torch
from helpers import assert_untouched, snapshot
from ipywidgets.widgets.widget import _instances
from torch import nn

import pruneviz as pv
from pruneviz import lessons
from pruneviz.panels.kit import worker as background


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
    alert = panel._alert
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
    bar = {"undo", "redo", "code", "save as", "save", "go to"}
    assert named == bar | {
        "layer",
        "unit",
        "sparsity",
        "criterion",
        "compared",
        "by hand",
        "remove",
    }


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
    assert r["timing"].low <= r["timing"].latency_speedup <= r["timing"].high
    assert panel._view.value != before
    assert "Measured just now" in panel._view.value
    assert "Sparsity 0.50: 7 of 14 units stay" in panel.sentence


def test_picking_measures_nothing_anew(panel):
    panel.controls["sparsity"].value = 0.5
    measured = panel.result["timing"]
    panel.controls["unit"].value = 2
    assert panel.result["timing"] is measured is not None


def test_nothing_is_said_of_the_time_while_all_units_stay(panel):
    assert panel.result["plan"].kept == panel.result["plan"].total
    assert panel.result["timing"] is None and panel.result["macs"] > 0
    assert "All units stay: there is no smaller network to time." in panel._view.value
    assert "as fast" not in panel._view.value
    panel.controls["sparsity"].value = 0.5
    said = re.search(r"in turn with the whole network: (.*?)\.</p>", panel._view.value)[1]
    number = r"[0-9]+\.[0-9]{2}"
    assert re.fullmatch(
        f"no difference measured \\({number} to {number} times as fast\\)"
        f"|{number} times as fast \\({number} to {number}\\)",
        said,
    )


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


EVIL = "<img src=x onerror=alert(1)>"
WHEN_IDLE = "When the hand rests, the smaller network is made"


def test_the_user_sees_removed_units_at_once_and_then_the_cost(panel, monkeypatch):
    monkeypatch.setattr(background, "CONTROL_IDLE", 60)
    panel.controls["sparsity"].set_state({"value": 0.5})
    quick, view = panel._result, panel._view.value
    assert quick["plan"].kept == 7 and quick["sparsity"] == 0.5
    assert [quick[n] for n in ("accuracy", "macs", "speedup", "timing")] == [None] * 4
    assert "Sparsity 0.50: 7 of 14 units stay." in view
    assert WHEN_IDLE in view and "measuring…" in view
    assert panel.result["macs"] < pv.measure(net(), X).macs  # it waits
    assert panel.result["plan"] is quick["plan"]
    view = panel._view.value
    assert "7 of 14 units stay, accuracy" in view and "Measured just now" in view
    assert WHEN_IDLE not in view and "measuring…" not in view
    panel.controls["unit"].set_state({"value": 3})  # picking measures nothing
    assert panel._result["macs"] == panel.result["macs"]
    assert "measuring…" not in panel._view.value


def test_undo_and_redo_come_back_to_what_stood_there(panel):
    panel.controls["layer"].value = "3"
    panel.controls["unit"].value = 7
    panel.controls["by_hand"].value = "3: 7"
    panel.controls["layer"].value = "0"
    panel.undo()
    assert (panel.result["layer"], panel.result["unit"], panel.result["gone"]) == ("3", 7, True)
    panel.undo()
    assert (panel.result["layer"], panel.result["gone"]) == ("3", False)
    assert panel.controls["by_hand"].value == ""
    panel.redo()
    assert panel.controls["by_hand"].value == "3: 7"
    assert panel.result["gone"]


def test_a_plan_that_takes_two_steps_stays_chosen(panel):
    panel.controls["layer"].value = "3"
    panel.controls["unit"].value = 7
    panel.save("seven")
    panel.controls["layer"].value = "0"  # where the slider for the unit ends at 5
    panel._toolbar.plans.value = "seven"
    assert (panel.result["layer"], panel.result["unit"]) == ("3", 7)
    assert panel._toolbar.plans.value == "seven"


def test_units_go_and_stay_by_hand_whatever_the_slider_says(panel):
    panel.controls["by_hand"].value = "0: 1, 3-4; 3: -0-7"
    for sparsity in (0.0, 0.5):
        panel.controls["sparsity"].value = sparsity
        r = panel.result
        groups = pv.find_groups(net(), X)
        plan = pv.select(pv.score(net(), "l2", groups=groups), sparsity=sparsity)
        keep = {n: k.clone() for n, k in plan.keep.items()}
        keep["0"][[1, 3, 4]] = False
        keep["3"][:] = True
        assert all(torch.equal(r["plan"].keep[n], k) for n, k in keep.items())
        small = pv.shrink(net(), pv.Plan(keep, groups), example_input=X)
        assert r["macs"] == pv.measure(small, X).macs
        assert r["accuracy"] == pv.accuracy(small, [(X, Y)])
    assert r["by_hand"] == {"0": {1: False, 3: False, 4: False}, "3": dict.fromkeys(range(8), True)}
    assert "units stay (11 chosen by hand), accuracy" in panel.sentence


def test_the_button_turns_the_picked_unit(panel):
    button, line = panel.button, panel.controls["by_hand"]
    panel.controls["layer"].value = "3"
    panel.controls["unit"].value = 5
    assert button.description == "remove"
    button.click()
    assert (line.value, button.description) == ("3: 5", "restore")
    assert panel.result["gone"] and " It goes. " in panel.sentence
    assert lit(panel) == [("3", "makes", 5), ("6", "reads", 5)]
    button.click()
    assert (line.value, button.description) == ("", "remove")
    panel.controls["sparsity"].value = 0.5
    first = int((~panel.result["plan"].keep["3"]).nonzero()[0])
    panel.controls["unit"].value = first
    assert button.description == "restore"
    button.click()
    assert line.value == f"3: -{first}"
    assert not panel.result["gone"]
    assert panel.result["plan"].kept == 8
    panel.undo()
    assert line.value == "" and panel.result["gone"] and button.description == "restore"


def test_the_button_counts_as_a_move_of_the_user(panel, monkeypatch):
    monkeypatch.setattr(background, "CONTROL_IDLE", 60)
    panel.button.click()
    assert panel._result["gone"] and panel._result["macs"] is None
    assert panel.result["macs"] is not None


def test_an_output_has_no_button(panel):
    panel.controls["layer"].value = "6"
    assert panel.button.disabled
    panel.controls["layer"].value = "0"
    assert not panel.button.disabled


WRONG = [
    ("3 5", pv.ArgumentError, "'3 5' names no units. Write a layer, a colon and numbers"),
    (f"{EVIL}: 1", pv.ArgumentError, "is unknown. Known: 0, 1, 3, 6."),
    ("0: 6", pv.ArgumentError, "layer '0' has units 0 to 5, but unit 6 was named."),
    (
        "0: 0-5",
        pv.ArgumentError,
        "all 6 units of group '0' would be removed: at least one must be kept.",
    ),
    ("6: 0", pv.GraphError, "layer '6' cannot be shrunk: its units are the model's output."),
]


@pytest.mark.parametrize(("text", "error", "message"), WRONG)
def test_a_wrong_line_is_told_in_the_panel_and_mended(panel, text, error, message):
    alert = panel._alert
    panel.controls["sparsity"].value = 0.5
    panel._toolbar.code.value = True
    with pytest.raises(error, match=re.escape(message)):
        panel.controls["by_hand"].value = text
    assert 'role="alert"' in alert.value and escape(message) in alert.value
    assert "<img" not in alert.value
    assert "by hand" not in panel.to_python()
    panel.button.click()  # nothing to turn
    assert panel.controls["by_hand"].value == text
    panel.figure()
    panel.undo()
    assert alert.value == ""
    assert panel.result["plan"].kept == 7


def run(panel, **names):
    found = dict(names)
    exec(panel.to_python(), found)
    return found


@pytest.mark.parametrize("line", ["", "0: 1, 3; 3: -0-3"])
def test_the_code_does_the_same(panel, line, capsys):
    panel.controls["criterion"].value = "l1"
    panel.controls["sparsity"].value = 0.37
    panel.controls["scope"].value = "global"
    panel.controls["by_hand"].value = line
    assert "sparsity=0.37," in panel.to_python()
    assert ("# by hand" in panel.to_python()) is bool(line)
    found = run(panel, model=net(), x=X, batches=[(X, Y)])
    r = panel.result
    assert all(torch.equal(r["plan"].keep[n], k) for n, k in found["plan"].keep.items())
    assert capsys.readouterr().out.startswith(f"{r['macs']} ")
    assert pv.accuracy(found["small"], [(X, Y)]) == r["accuracy"]


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.out = nn.Linear(8, 2)

    def forward(self, x):
        return self.out(x + self.attention(x, x, x, need_weights=False)[0]).mean(1)


def test_heads_can_be_picked_and_go():
    torch.manual_seed(0)
    model, x = Attends().eval(), torch.randn(3, 5, 8)
    y = torch.tensor([0, 1, 1])
    panel = pv.panel_neurons(model, x, batches=[(x, y)], layer="attention", unit=2)
    assert panel.sentence.startswith("Head 2 of attention lives in ")
    assert ("attention", "makes", 2) in lit(panel)
    assert ("attention.out_proj", "reads", 2) in lit(panel)
    panel.button.click()
    assert panel.controls["by_hand"].value == "attention: 2"
    small = pv.shrink(model, pv.drop(pv.find_groups(model, x), {"attention": [2]}), example_input=x)
    assert panel.result["macs"] == pv.measure(small, x).macs < pv.measure(model, x).macs
    assert panel.result["accuracy"] == pv.accuracy(small, [(x, y)])
    found = run(panel, model=model, x=x, batches=[(x, y)])
    assert found["small"].attention.num_heads == 3
    panel.close()


def test_a_name_is_text():
    model = nn.Sequential(
        OrderedDict({EVIL: nn.Linear(4, 5), "relu": nn.ReLU(), "b": nn.Linear(5, 2)})
    )
    panel = pv.panel_neurons(model, torch.zeros(2, 4))
    panel.button.click()
    assert panel.controls["by_hand"].value == f"{EVIL}: 0"
    assert panel.result["gone"]
    panel._toolbar.code.value = True
    shown = panel._view.value + panel._toolbar._text.value
    assert "<img" not in shown and "&lt;img" in shown
    found = run(panel, model=model, x=torch.zeros(2, 4))
    assert found["small"][0].out_features == 4
    panel.close()


def test_the_panel_keeps_to_its_own_model():
    model = net()
    panel = pv.panel_neurons(model, X, batches=[(X, Y)])
    with torch.no_grad():
        model[0].weight.zero_()
    panel.controls["sparsity"].value = 0.5
    groups = pv.find_groups(net(), X)
    plan = pv.select(pv.score(net(), "l2", groups=groups), sparsity=0.5)
    assert all(torch.equal(panel.result["plan"].keep[n], k) for n, k in plan.keep.items())
    panel.close()


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
    ({"criterion": "magnitude"}, "criterion 'magnitude' needs data, or is for single weights"),
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

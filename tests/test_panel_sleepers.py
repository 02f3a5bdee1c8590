"""The panel of lesson 04: who sleeps, on which examples, and what it costs to let them go."""

import re

import pytest
import torch
from helpers import assert_untouched, snapshot
from ipywidgets.widgets.widget import _instances
from torch import nn

import pruneviz as pv

X = torch.rand(60, 4, generator=torch.Generator().manual_seed(1))
Y = torch.arange(60) % 3
X[Y == 2, 0] = 0.0  # so that unit 3 sleeps on class 2


def net() -> nn.Module:
    """Unit 0 is dead, 1 constant, 2 rare, 3 asleep on class 2, the others awake."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3))
    with torch.no_grad():
        model[0].weight[4:] = model[0].weight[4:].abs()
        model[0].weight[:4], model[0].bias[:4] = 0, torch.tensor([-1.0, 4.0, 0.0, 0.0])
        rare = X[:, 1].sort().values[-3:-1].mean()
        model[0].weight[2, 1], model[0].bias[2] = 5, -5 * rare
        model[0].weight[3, 0] = 1
        model[2].bias += 1
    return model.eval()


@pytest.fixture
def panel():
    before = set(_instances)
    made = pv.panel_sleepers(net(), [(X, Y)], classes=["a", "b", "c"], layer="0", rare=0.05)
    yield made
    made.close()
    assert set(_instances) == before  # closing a panel closes what is in it


def marks(panel):
    """Return who is marked in the picture: (kind, unit)."""
    found = re.findall(r'<g class="(\w+)" data-unit="(\d+)"', panel._view.value)
    return {(kind, int(unit)) for kind, unit in found}


def test_each_kind_is_found_marked_and_counted(panel):
    r = panel.result
    assert (r["dead"], r["constant"], r["rare"]) == ([0], [1], [2])
    assert r["counts"] == {"dead": 1, "constant": 1, "rare": 1}
    assert marks(panel) == {("dead", 0), ("constant", 1), ("rare", 2)}
    assert (r["layer"], r["units"], r["seen"]) == ("0", 8, "all examples")
    assert panel.sentence.startswith(
        "Rare 0.050: of the 8 units of 0, seen on all examples, 1 dead, 1 constant, 1 rare. All stay"
    )
    assert r["accuracy"] == r["accuracy_before"] == pv.accuracy(net(), [(X, Y)])


@pytest.mark.parametrize(("name", "repair"), [("remove", "none"), ("fold", "fold")])
def test_the_sleepers_go_for_real(panel, name, repair):
    model = net()
    groups = pv.find_groups(model, X)
    panel.controls["repair"].value = name
    plan = pv.drop(groups, {"0": [0, 1, 2]})
    evidence = pv.collect(model, [X], progress=False)
    small = pv.shrink(model, plan, example_input=X, repair=repair, evidence=evidence)
    r = panel.result
    assert torch.equal(r["plan"].keep["0"], plan.keep["0"])
    assert r["accuracy"] == pv.accuracy(small, [(X, Y)])
    assert "Removed" in panel.sentence and "(before: " in panel.sentence


def test_folding_a_constant_changes_nothing_and_removing_it_does(panel):
    panel.controls["rare"].value = 0.0
    assert panel.result["counts"] == {"dead": 1, "constant": 1, "rare": 0}
    whole = net()(X)
    for name, same in (("remove", False), ("fold", True)):
        panel.controls["repair"].value = name
        small = panel._smaller(panel.result["plan"], name, -1)
        assert torch.allclose(small(X), whole, atol=1e-5) is same
    assert panel.result["accuracy"] == panel.result["accuracy_before"]


def test_on_one_class_others_sleep_and_both_accuracies_are_told(panel):
    panel.controls["seen"].value = 2
    r = panel.result
    assert r["seen"] == "c" and 3 in r["dead"]
    panel.controls["repair"].value = "remove"
    at = Y == 2
    small = pv.shrink(net(), panel.result["plan"], example_input=X)
    assert panel.result["accuracy_seen"] == pv.accuracy(small, [(X[at], Y[at])])
    assert panel.result["accuracy"] == pv.accuracy(small, [(X, Y)])
    assert ", on c " in panel.sentence
    assert 'font-weight="bold">c<' in panel._view.value


def test_accuracies_are_told_to_a_tenth_of_a_percent(panel):
    whole = panel.result["accuracy_before"]
    assert panel.sentence.endswith(f"All stay: accuracy {whole:.1%}.")
    panel.controls["seen"].value = 2
    panel.controls["repair"].value = "remove"
    r = panel.result
    assert panel.sentence.endswith(
        f"Removed: accuracy {r['accuracy']:.1%} (before: {whole:.1%}), "
        f"on c {r['accuracy_seen']:.1%} (before: {r['accuracy_seen_before']:.1%})."
    )


def test_the_threshold_moves_who_is_rare(panel):
    panel.controls["rare"].value = 0.0
    assert panel.result["rare"] == []
    before = panel._view.value
    panel.controls["rare"].value = 0.5
    assert set(panel.result["rare"]) >= {2}
    assert panel._view.value != before


def test_layer_and_order(panel):
    panel.controls["layer"].value = "2"
    assert (panel.result["layer"], panel.result["units"]) == ("2", 5)
    panel.controls["order"].value = "unit"
    numbers = re.findall(r'text-anchor="end">(\d+)<', panel._view.value)
    assert numbers == ["0", "1", "2", "3", "4"]


def test_nothing_is_measured_twice(panel, monkeypatch):
    panel.controls["repair"].value = "remove"
    calls = []
    monkeypatch.setattr("pruneviz.panels.sleepers.accuracy", lambda *a: calls.append(a) or 0.5)
    panel.controls["repair"].value = "nothing"
    panel.controls["order"].value = "mean"
    panel.controls["repair"].value = "remove"
    assert calls == []
    panel.controls["repair"].value = "fold"
    assert len(calls) == 1


def test_if_all_sleep_one_stays():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)
    panel = pv.panel_sleepers(model, [(X, Y)], repair="remove")
    assert panel.result["dead"] == [0, 1, 2]
    assert panel.result["plan"].kept == 1
    assert panel.result["accuracy"] == panel.result["accuracy_before"]
    panel.close()


def test_the_layer_with_most_dead_units_is_shown_first():
    panel = pv.panel_sleepers(net(), [(X, Y)])
    assert panel.result["layer"] == "0"
    assert panel.controls["seen"].options[1] == ("class 0", 0)
    panel.close()


def test_every_control_has_a_name(panel):
    def inside(box):
        return [w for child in getattr(box, "children", ()) for w in (child, *inside(child))]

    named = {w.description for w in inside(panel) if getattr(w, "description", "")}
    assert named == {"layer", "seen on", "rare", "sleepers", "order"}
    assert set(panel.controls) == {"layer", "seen", "rare", "order", "repair"}


def test_an_error_is_shown_in_words_and_gone_after_the_next_good_move(panel, monkeypatch):
    (alert,) = [w for w in panel.children if w is not panel._view and type(w) is type(panel._view)]
    monkeypatch.setattr("pruneviz.panels.sleepers.accuracy", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        panel.controls["repair"].value = "remove"
    assert 'role="alert"' in alert.value
    assert "image/png" in panel._repr_mimebundle_()[0]  # it can still be shown
    monkeypatch.undo()
    panel.controls["repair"].value = "fold"
    assert alert.value == ""


def test_no_trace_and_a_static_picture():
    model = net().train()
    before = snapshot(model)
    panel = pv.panel_sleepers(model, [(X, Y)])
    panel.controls["repair"].value = "fold"
    data, metadata = panel._repr_mimebundle_()
    picture = panel._view.value
    panel.close()
    assert_untouched(model, before)
    assert data["text/plain"] == panel.sentence == metadata["image/png"]["alt"]
    assert 'role="img"' in picture and 'aria-label="' in picture


BAD = [
    ({"rare": 5}, r"`rare` must be a number in \[0, 0.5\]"),
    ({"layer": "9"}, "layer '9' is unknown"),
    ({"order": "size"}, "`order` 'size' is unknown"),
    ({"repair": "lstsq"}, "`repair` 'lstsq' is unknown"),
    ({"batches": []}, "`batches` is empty"),
    ({"batches": [({"x": X}, Y)]}, "a batch must be a pair of tensors"),
    ({"model": nn.Linear(4, 3)}, "no group that a Linear or Conv layer reads"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_calls_leave_no_widgets(options, message):
    before = set(_instances)
    with pytest.raises(pv.ArgumentError, match=message):
        pv.panel_sleepers(**{"model": net(), "batches": [(X, Y)], **options})
    assert set(_instances) == before

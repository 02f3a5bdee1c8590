"""The panel of lesson 04: which units are inactive, and what removing them costs."""

import re
from collections import OrderedDict

import pytest
import torch
from helpers import assert_untouched, snapshot
from ipywidgets.widgets.widget import _instances
from torch import nn

import pruneviz as pv
from pruneviz.panels.kit import worker as background

X = torch.rand(60, 4, generator=torch.Generator().manual_seed(1))
Y = torch.arange(60) % 3
X[Y == 2, 0] = 0.0  # so that unit 3 is inactive on class 2


def net() -> nn.Module:
    """Unit 0 is dead, 1 constant, 2 rare, 3 inactive on class 2, the others active."""
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
    made = pv.panel_inactive(net(), [(X, Y)], classes=["a", "b", "c"], layer="0", rare=0.05)
    yield made
    made.close()
    assert set(_instances) == before  # closing a panel closes what is in it


def marks(panel):
    """Return which units are marked in the picture: (kind, unit)."""
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
def test_inactive_units_are_removed(panel, name, repair):
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


def test_on_one_class_others_are_inactive_and_both_accuracies_are_told(panel):
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
    monkeypatch.setattr("pruneviz.panels.inactive.accuracy", lambda *a: calls.append(a) or 0.5)
    panel.controls["repair"].value = "nothing"
    panel.controls["order"].value = "mean"
    panel.controls["repair"].value = "remove"
    assert calls == []
    panel.controls["repair"].value = "fold"
    assert len(calls) == 1


def test_if_all_are_inactive_one_is_kept():
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 3))
    with torch.no_grad():
        model[0].weight.zero_()
        model[0].bias.fill_(-1)
    panel = pv.panel_inactive(model, [(X, Y)], repair="remove")
    assert panel.result["dead"] == [0, 1, 2]
    assert panel.result["plan"].kept == 1
    assert panel.result["accuracy"] == panel.result["accuracy_before"]
    panel.close()


def test_the_layer_with_most_dead_units_is_shown_first():
    panel = pv.panel_inactive(net(), [(X, Y)])
    assert panel.result["layer"] == "0"
    assert panel.controls["seen"].options[1] == ("class 0", 0)
    panel.close()


def test_every_control_has_a_name(panel):
    def inside(box):
        return [w for child in getattr(box, "children", ()) for w in (child, *inside(child))]

    named = {w.description for w in inside(panel) if getattr(w, "description", "")}
    bar = {"undo", "redo", "code", "save as", "save", "go to"}
    assert named == bar | {"layer", "seen on", "rare", "inactive", "order"}
    assert set(panel.controls) == {"layer", "seen", "rare", "order", "repair"}


def test_an_error_is_shown_in_words_and_gone_after_the_next_good_move(panel, monkeypatch):
    alert = panel._alert
    monkeypatch.setattr("pruneviz.panels.inactive.accuracy", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        panel.controls["repair"].value = "remove"
    assert 'role="alert"' in alert.value
    assert "image/png" in panel._repr_mimebundle_()[0]  # it can still be shown
    monkeypatch.undo()
    panel.controls["repair"].value = "fold"
    assert alert.value == ""


def test_the_user_sees_inactive_units_at_once_and_then_the_cost(panel, monkeypatch):
    monkeypatch.setattr(background, "CONTROL_IDLE", 60)
    panel.controls["repair"].value = "remove"
    whole = panel.result["accuracy_before"]
    panel.controls["rare"].set_state({"value": 0.0})
    quick, view = panel._result, panel._view.value
    assert quick["counts"] == {"dead": 1, "constant": 1, "rare": 0}
    assert (quick["accuracy_before"], quick["accuracy"]) == (whole, None)
    assert marks(panel) == {("dead", 0), ("constant", 1)}
    assert "1 constant, 0 rare. Removed. <i>" in view
    assert "measuring…" in view
    r = panel.result  # it waits
    small = pv.shrink(net(), r["plan"], example_input=X)
    assert r["accuracy"] == pv.accuracy(small, [(X, Y)])
    assert "Removed: accuracy" in panel._view.value and "measuring…" not in panel._view.value
    panel.controls["order"].set_state({"index": 2})  # only the picture changes
    assert panel._result["accuracy"] == r["accuracy"]
    assert "measuring…" not in panel._view.value


def test_undo_and_redo_measure_nothing_anew(panel, monkeypatch):
    panel.controls["repair"].value = "remove"
    panel.controls["rare"].value = 0.5
    last = panel.result
    monkeypatch.setattr("pruneviz.panels.inactive.accuracy", lambda *_: 1 / 0)
    panel.undo()
    assert panel.controls["rare"].rounded == panel.result["threshold"] == 0.05
    panel.undo()
    assert panel.result["repair"] == "nothing"
    panel.redo()
    panel.redo()
    assert {n: panel.result[n] for n in last if n != "plan"} == {
        n: last[n] for n in last if n != "plan"
    }


@pytest.mark.parametrize("repair", ["nothing", "remove", "fold"])
@pytest.mark.parametrize("seen", [-1, 2])
def test_the_code_does_the_same(panel, seen, repair, capsys):
    panel.controls["seen"].value = seen
    panel.controls["repair"].value = repair
    panel.controls["rare"].value = 0.105
    r = panel.result
    names = {"model": net(), "batches": iter([(X[:30], Y[:30]), (X[30:], Y[30:])])}
    code = panel.to_python()
    assert "rare=0.105)" in code
    exec(code, names)
    assert all(torch.equal(r["plan"].keep[n], k) for n, k in names["plan"].keep.items())
    for kind in ("dead", "constant", "rare"):
        of_kind = names["inactive"][names["inactive"]["kind"] == kind]
        assert of_kind["unit"].tolist() == r[kind]
    told = [float(t) for t in capsys.readouterr().out.split()]
    first, last = (("accuracy_before", "accuracy_seen_before"), ("accuracy", "accuracy_seen"))
    want = [r[n] for pair in zip(first, last, strict=True) for n in pair]
    want = want[::2] if repair == "nothing" else want
    assert told == (want if seen == 2 else want[: len(want) // 2])


def test_a_name_is_text():
    evil = "<img src=x onerror=alert(1)>"
    model = nn.Sequential(
        OrderedDict({evil: nn.Linear(4, 5), "relu": nn.ReLU(), "b": nn.Linear(5, 3)})
    )
    panel = pv.panel_inactive(model, [(X, Y)], classes=[evil, "b", "c"], repair="remove")
    panel.controls["seen"].value = 0
    panel._toolbar.code.value = True
    shown = panel._view.value + panel._toolbar._text.value
    assert "<img" not in shown and "&lt;img" in shown
    assert panel.result["layer"] == panel.result["seen"] == evil
    exec(panel.to_python(), {"model": model, "batches": [(X, Y)]})
    panel.close()


def test_the_panel_keeps_to_its_own_model():
    model = net()
    panel = pv.panel_inactive(model, [(X, Y)], layer="0")
    whole = panel.result["accuracy_before"]
    with torch.no_grad():
        model[0].weight.zero_()
    panel.controls["repair"].value = "remove"
    assert panel.result["dead"] == [0] and panel.result["accuracy_before"] == whole
    panel.controls["layer"].value = "2"
    small = pv.shrink(net(), panel.result["plan"], example_input=X)
    assert panel.result["accuracy"] == pv.accuracy(small, [(X, Y)])
    panel.close()


def test_no_trace_and_a_static_picture():
    model = net().train()
    before = snapshot(model)
    panel = pv.panel_inactive(model, [(X, Y)])
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
    ({"batches": [({"x": X}, Y)]}, "the inputs of batch 1 of `batches` must be one tensor"),
    ({"model": nn.Linear(4, 3)}, "no group that a Linear or Conv layer reads"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_calls_leave_no_widgets(options, message):
    before = set(_instances)
    with pytest.raises(pv.ArgumentError, match=message):
        pv.panel_inactive(**{"model": net(), "batches": [(X, Y)], **options})
    assert set(_instances) == before


def test_classes_of_positions_are_not_looked_at_one_by_one():
    model = nn.Sequential(nn.Embedding(9, 6), nn.ReLU(), nn.Linear(6, 7))
    x = torch.randint(9, (10, 5))
    with pytest.raises(pv.ArgumentError, match="examples are looked at class by class here"):
        pv.panel_inactive(model, [(x, x % 7)])
    pv.find_inactive(pv.collect(model, [(x, x % 7)], progress=False))  # as the message says
    batches = [(x, x % 7)]
    for other in (pv.panel_neurons(model, x, batches=batches), pv.panel_redundant(model, x, batches=batches)):  # fmt: skip
        assert other.result
        other.close()


@pytest.mark.parametrize("labels", [[0], [2, 2], [0, 2]])
def test_a_class_without_an_example_is_no_obstacle(labels):
    y = torch.tensor(labels)
    panel = pv.panel_inactive(net(), [(X[: len(y)], y)], classes=["a", "b", "c"])
    names = [name for name, _ in panel.controls["seen"].options]
    assert names == ["all examples", *("abc"[c] for c in sorted(set(labels)))]
    panel.controls["repair"].value = "remove"
    assert 0 <= panel.result["accuracy"] <= 1
    panel.close()

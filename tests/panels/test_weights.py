"""`panel_weights` in plain Python: what it tells the browser, and what the browser tells it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from helpers import batches
from helpers import mlp as random_mlp
from helpers.panels import user_moves
from ipywidgets.widgets.widget import _instances
from torch import nn

import pruneviz as pv
from pruneviz.panels.kit import worker

EVIL = "<img src=x onerror=alert(1)>"


def mlp():
    torch.manual_seed(0)
    return random_mlp()


@pytest.fixture(autouse=True)
def nothing_left():
    before = set(_instances)
    yield
    for key in set(_instances) - before:
        if key in _instances:
            _instances[key].close()
    assert set(_instances) == before


@pytest.fixture
def panel():
    return pv.panel_weights(mlp(), bins=10)


def counts(panel):
    """Read the histogram of each layer out of the table, which is its last part."""
    layers, bins = len(panel.view.data["layers"]), len(panel.view.data["edges"]) - 1
    return np.frombuffer(panel.view.table, "<u4")[-layers * bins :].reshape(layers, bins)


def test_the_browser_gets_the_histogram_of_each_layer(panel):
    frame = pv.weight_histogram(mlp(), bins=10)
    want = [part["count"].tolist() for _, part in frame.groupby("layer", sort=False)]
    assert counts(panel).tolist() == want
    assert panel.view.data["layers"] == ["1", "3"]
    assert panel.view.data["total"] == [288, 24]
    assert panel.view.data["numbers"] == 323


def test_a_histogram_of_one_layer_has_each_bin_once():
    panel = pv.panel_weights(nn.MultiheadAttention(4, 1, kdim=3, vdim=2), bins=4)
    assert counts(panel).sum(1).tolist() == [36, 16]


def test_the_layer_changes_the_histogram_only(panel):
    panel.controls["threshold"].value = 0.05
    result, drawn = panel.result, panel.view.shown["result"]
    assert [v for _, v in panel.controls["layer"].options] == ["all layers", "1", "3"]
    panel.controls["layer"].value = "3"
    assert panel.result == result
    assert panel.view.shown["result"] == drawn
    assert panel.view.state["layer"] == "3"
    bars = panel.figure().axes[0].patches
    assert sum(b.get_height() for b in bars) == 24
    with pytest.raises(pv.ArgumentError, match="`layer` '4' is unknown"):
        panel.controls["layer"].value = "4"


def test_sizes_only_and_a_logarithmic_scale(panel):
    panel.controls["absolute"].value = True
    assert panel.figure().axes[0].get_xlabel() == "|weight|"
    panel.controls["log"].value = True
    assert panel.figure().axes[0].get_yscale() == "log"
    panel.undo()
    panel.undo()
    assert not (panel.view.state["absolute"] or panel.view.state["log"])


def test_names_are_sent_as_they_are():
    model = nn.Sequential()
    model.add_module(EVIL, nn.Linear(4, 4))
    panel = pv.panel_weights(model)
    panel.controls["layer"].value = EVIL
    assert panel.view.data["layers"] == [EVIL]  # the browser sets text, never HTML
    data, _ = panel._repr_mimebundle_()
    assert "<img src=x" not in panel._still.value
    assert data["text/plain"] == panel.sentence


def test_every_step_of_both_sliders_is_in_the_table(panel):
    table = panel.view.table
    steps = [panel.controls[n].steps() for n in ("threshold", "sparsity")]
    assert [len(s) for s in steps] == [1001, 1000]
    exact = np.frombuffer(table, "<f8", count=1000 + 1001 + 1000)
    thresholds, by_threshold, by_sparsity = exact[:1000], exact[1000:2001], exact[2001:]
    scores = pv.score(mlp(), "magnitude")
    for i in (1, 0, 500, 730, 999):
        plan = pv.select(scores, sparsity=steps[1][i], scope="global")
        assert by_sparsity[i] == plan.kept
        assert by_threshold[i] == pv.select(scores, threshold=steps[0][i]).kept
        panel.controls["sparsity"].value = steps[1][i]
        assert panel.result["threshold"] == thresholds[i]
        assert panel.result["plan"].kept == plan.kept
    assert by_threshold[1000] == 2 == by_sparsity[999]  # one weight of each layer stays


def test_a_move_in_the_browser_is_a_move(panel):
    user_moves(panel, 0.5, "sparsity")
    assert panel.result["sparsity"] == 0.5
    assert panel.controls["threshold"].value == panel.result["threshold"]
    assert panel.steps() == (True, False)
    assert "sparsity=0.5" in panel.to_python()
    user_moves(panel, 0.05, "threshold")
    assert panel.result["threshold"] == 0.05
    panel.undo()
    assert panel.view.state["by"] == "sparsity"
    assert panel.view.state["sparsity"] == 0.5
    assert panel.view.state["who"] == "kernel"


def test_the_kernel_tells_nothing_where_the_browser_knows_it(panel):
    table = panel._cuts.at("sparsity", 0.5)
    n = panel.view.state["n"]
    user_moves(panel, 0.5, "sparsity", threshold=table.threshold)  # as `reduce` says
    assert panel.view.state["n"] == n + 1
    assert panel.view.state["who"] == "browser"
    assert panel.view.shown["n"] == n + 1
    assert panel.view.shown["result"]["kept"] == list(table.kept.values())


def test_a_number_between_two_steps_gets_an_exact_answer(panel):
    user_moves(panel, 0.0512345, "threshold")
    plan = pv.select(pv.score(mlp(), "magnitude"), threshold=0.0512345)
    assert panel.view.shown["n"] == panel.view.state["n"]
    assert sum(panel.view.shown["result"]["kept"]) == plan.kept
    assert panel.view.state["sparsity"] == plan.sparsity


def test_numbers_are_clean(panel):
    panel.controls["sparsity"].value = 0.1 + 0.2
    assert "sparsity=0.3," in panel.to_python()
    assert panel.controls["sparsity"].rounded == 0.3


def test_without_data_the_plan_is_made_when_it_is_asked_for(panel):
    user_moves(panel, 0.5, "sparsity")
    assert panel._result["plan"] is None and not panel.view.shown["waiting"]
    assert panel.result["plan"].kept == 156


def test_the_accuracy_follows_when_the_hand_rests(monkeypatch):
    monkeypatch.setattr(worker, "CONTROL_IDLE", 60)
    panel = pv.panel_weights(mlp(), batches=batches())
    assert panel.view.shown["result"]["accuracy"] == panel.result["accuracy"]
    user_moves(panel, 0.5, "sparsity")
    shown = panel.view.shown
    assert shown["waiting"] and shown["result"]["accuracy"] is None
    assert shown["n"] == panel.view.state["n"]
    assert panel.result["accuracy"] is not None
    assert panel.view.shown["result"]["accuracy"] == panel.result["accuracy"]
    assert not panel.view.shown["waiting"]
    panel.controls["layer"].value = "1"  # only the picture changes: nothing is measured again
    assert not panel.view.shown["waiting"]
    assert panel.view.shown["result"]["accuracy"] is not None


def test_what_is_sent_is_plain_data(panel):
    panel.controls["threshold"].value = panel.controls["threshold"].max
    for part in (panel.view.data, panel.view.state, panel.view.shown):
        assert "Infinity" not in json.dumps(part) and "NaN" not in json.dumps(part)

"""Whether what is drawn is where the pointer was."""

import itertools
import re

import numpy as np
import pandas as pd
import pytest
import torch
from ipywidgets.widgets.widget import _instances
from torch import nn

import pruneviz as pv
from pruneviz.plots import activation_map as heat
from pruneviz.plots import network, tradeoff
from pruneviz.plots import redundant_pair as pair

X = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(1))
DASHED = re.compile(r'<path[^>]* d="M([\d.]+) [\d.]+V[^>]*stroke-dasharray="[45] [34]"')


@pytest.fixture(autouse=True)
def nothing_left():
    before = set(_instances)
    yield
    for key in set(_instances) - before:
        if key in _instances:
            _instances[key].close()
    assert set(_instances) == before


def net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(16, 70), nn.ReLU(), nn.Linear(70, 6), nn.ReLU(), nn.Linear(6, 3)
    ).eval()


def batches():
    return [(X, pv.predict(net(), X))]


def frame():
    return pd.DataFrame(
        {
            "criterion": c,
            "seed": 0,
            "target_sparsity": s,
            "macs": 1000 * (1 - s),
            "metric": 0.9 - s * k,
        }
        for c, k in (("a", 0.3), ("b", 0.5))
        for s in (0.0, 0.5, 0.9)
    )


def pointer_picture(panel):
    """Return the one picture that handles the pointer."""
    (found,) = re.findall(r"<svg[^>]*data-touch=.*?</svg>", panel._view.value, re.DOTALL)
    return found


NUMBERS = itertools.count()


def point(panel, x, y, kind="press"):
    """Write into the hidden field what the page writes there."""
    line = next(w for w in panel.children if "pv-touch" in getattr(w, "_dom_classes", ()))
    line.set_state({"value": f"{x:.2f} {y:.2f} {kind} {next(NUMBERS)}"})


def test_a_drag_is_one_move_however_slow(monkeypatch):
    monkeypatch.setattr("pruneviz.panels.kit.history.SAME_MOVE", 0)
    panel = pv.panel_tradeoff(frame())
    point(panel, 400, 60)
    for x in range(395, 300, -5):
        point(panel, x, 60, "drag")
    far = panel.controls["budget"].value
    panel.undo()
    assert panel.controls["budget"].value == 1
    panel.redo()
    assert panel.controls["budget"].value == far
    point(panel, 400, 60)  # another one
    panel.undo()
    assert panel.controls["budget"].value == far


def test_two_presses_are_two_moves_however_soon():
    panel = pv.panel_neurons(net(), X[:2])
    for i in (3, 4, 5):
        point(panel, network.MAKE_AT + 3 + i * network.CELL, 27)
    panel.undo()
    assert panel.result["unit"] == 4
    panel.close()


def test_the_pointer_in_the_picture_waits_for_nothing():
    panel = pv.panel_whatif(net(), batches(), sparsity=0.5)
    point(panel, 200, 10)
    assert panel._result["metric"] is None  # measured when the control is idle
    assert "measuring…" in panel._view.value
    assert panel.result["metric"] is not None
    panel.close()


def test_a_click_picks_a_unit_and_another_removes_and_restores_it():
    panel = pv.panel_neurons(net(), X[:2], batches=batches())
    p = network.picture(panel._rows(panel.result))
    for x, y, (layer, side, unit) in p.places[3::7]:  # not the unit that is picked first
        panel.touch(x, y)
        r = panel.result
        group = (
            {"1": "1", "3": "3", "5": "5"}[layer]
            if side == "makes"
            else {"3": "1", "5": "3"}[layer]
        )
        assert (r["group"], r["unit"]) == (group, unit)
        assert f'data-layer="{layer}" data-side="{side}" data-unit="{unit}"' in pointer_picture(
            panel
        )
    x, y, _ = next(p for p in p.places if p[2] == ("3", "reads", 5))
    panel.touch(x, y)
    panel.touch(x, y)
    assert panel.result["gone"] and panel.result["by_hand"] == {"1": {5: False}}
    assert panel.result["plan"].keep["1"].tolist() == [i != 5 for i in range(70)]
    panel.touch(x, y)
    assert not panel.result["gone"]
    steps = panel.state()
    panel.touch(2, 2)  # there is no unit
    assert panel.state() == steps


def test_a_frozen_unit_is_picked_and_stays():
    panel = pv.panel_neurons(net(), X[:2])
    x, y, _ = next(
        p for p in network.picture(panel._rows(panel.result)).places if p[2] == ("5", "makes", 2)
    )
    for _ in range(2):
        panel.touch(x, y)
        assert panel.result["frozen"] and panel.result["by_hand"] == {}


def test_a_click_on_a_class_looks_at_it_and_another_at_all():
    panel = pv.panel_inactive(net(), [(X, torch.arange(60) % 3)])
    blocks = panel._drawn[1].blocks
    assert len(blocks) == 3
    for name, first, end, _ in blocks:
        x = (panel._drawn[1].x(first) + panel._drawn[1].x(end)) / 2
        panel.touch(x, 100)
        assert panel.result["seen"] == f"class {name}"
        assert re.search(f'font-weight="bold">{name}<', pointer_picture(panel))
        panel.touch(x, 100)
        assert panel.result["seen"] == "all examples"
    panel.touch(heat.X0 - 40, 100)
    assert panel.result["seen"] == "all examples"


def test_a_click_picks_the_pair_and_beside_it_the_threshold_is_dragged():
    panel = pv.panel_redundant(net(), X[:4], batches=batches(), layer="1")
    points = panel._choice.points
    px, py = pair._places(points["scale"].to_numpy())
    for row in (3, 11):
        panel.touch(float(px(points["similarity"][row])), float(py(points["scale"][row])))
        picked = points.iloc[panel.result["pair"]]
        assert np.hypot(*(picked[c] - points[c][row] for c in ("similarity", "scale"))) < 0.05
        panel.touch(200, 100, press=False)  # a press on a point starts no drag
        assert panel.result["threshold"] == 0.8
    left, top, right, _ = pair.BOX
    at = left + 0.8 * (right - left)
    panel.touch(at, 60)  # near the line, a press is on the line, not on a point
    panel.touch(at - 100, 60, press=False)
    assert panel.result["threshold"] < 0.8
    panel.touch(left + 3, top + 2)
    for x in (left + 40, left + 130.4, right + 30):
        panel.touch(x, top + 2, press=False)
        (line,) = re.findall(r'class="threshold" d="M([\d.]+)', pointer_picture(panel))
        assert float(line) == pytest.approx(min(x, right), abs=0.01 * (right - left))
    panel.touch(right + 100, top)  # beside the scatter
    assert panel.result["threshold"] == 1.0


@pytest.mark.parametrize("log", [False, True])
def test_the_budget_follows_the_pointer_and_the_ring_the_budget(log):
    panel = pv.panel_tradeoff(frame())
    panel.controls["log"].value = log
    left, _, right, _ = tradeoff.BOX
    panel.touch(right + 100, 100)  # the key
    assert panel.result["budget"] == 1
    for x in (left + 30, 250.5, right - 20):
        panel.touch(x, 100)
        (line,) = (float(v) for v in DASHED.findall(pointer_picture(panel))[-1:])
        cost = tradeoff.cost_at(panel._points("macs", "metric"), line, x="macs", log=log)
        want = tradeoff.cost_at(panel._points("macs", "metric"), x, x="macs", log=log)
        assert abs(cost - min(want, 1000)) <= 5.1  # half a step of the slider, of 1,000 MACs
        r = panel.result
        assert r["limit"] == pytest.approx(cost, abs=5)
        assert r["point"] is None or r["point"]["macs"] <= r["limit"]
    best = pv.choose(pv.pareto(frame()), at_most={"macs": panel.result["limit"]})
    assert panel.result["point"]["metric"] == best["metric"]


@pytest.mark.parametrize("criterion", ["unit l2", "weight magnitude"])
def test_a_click_on_a_layer_protects_it_and_another_no_more(criterion):
    panel = pv.panel_whatif(net(), batches(), criterion=criterion, sparsity=0.5)
    assert "protected" not in pointer_picture(panel)
    panel.touch(200, 30)  # the second row
    assert panel.controls["protect"].value == ("3",)
    assert re.findall(r"(\d+) of \1 stay, protected", pointer_picture(panel))
    panel.touch(200, 10)
    assert panel.controls["protect"].value == ("1", "3")
    panel.touch(200, 30)
    assert panel.controls["protect"].value == ("1",)
    if criterion == "unit l2":
        panel.touch(200, 50)  # frozen
    panel.touch(200, 500)
    assert panel.controls["protect"].value == ("1",)
    panel.close()


def test_after_an_error_the_old_picture_ignores_the_pointer():
    panel = pv.panel_neurons(net(), X[:2])
    with pytest.raises(pv.ArgumentError):
        panel.controls["by_hand"].value = "nowhere: 3"
    before = panel.state()
    panel.touch(500, 30)
    assert panel.state() == before
    panel.controls["by_hand"].value = ""
    panel.touch(network.MAKE_AT + 3 + 4 * network.CELL, 27)
    assert panel.result["unit"] == 4


def test_a_picture_without_controls_ignores_the_pointer():
    panel = pv.panel_strip(net(), X[:3], batches()[0][1][:3], batches=batches())
    before = panel.state()
    panel.touch(10, 10)
    assert panel.state() == before and panel.steps() == (False, False)
    assert "data-touch" not in panel._view.value

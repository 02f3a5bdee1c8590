"""What a panel does with what the browser says."""

from __future__ import annotations

import pytest
from helpers import batches, mlp
from helpers.panels import user_moves
from torch import nn

import pruneviz as pv


@pytest.fixture
def panel():
    panel = pv.panel_weights(mlp())
    yield panel
    panel.close()


def press(panel, do, **more):
    panel.view._handle_custom_msg({"do": do, "state": panel.view.state, **more}, [])


def test_a_drag_is_one_move_however_slow(panel, monkeypatch):
    monkeypatch.setattr("pruneviz.panels.kit.history.SAME_MOVE", 0)
    for i in range(5):
        user_moves(panel, 0.1 + i / 100, "sparsity", drag=1)
    assert panel.controls["sparsity"].value == 0.14
    user_moves(panel, 0.5, "sparsity", drag=2)  # another one
    panel.undo()
    assert panel.controls["sparsity"].value == 0.14
    panel.undo()
    assert panel.controls["sparsity"].value == 0


def test_two_drags_are_two_moves_however_soon(panel):
    for drag in (1, 2, 3):
        user_moves(panel, drag / 10, "sparsity", drag=drag)
    panel.undo()
    assert panel.controls["sparsity"].value == 0.2


def test_keys_that_follow_each_other_are_one_move(panel, monkeypatch):
    monkeypatch.setattr("pruneviz.panels.kit.history.SAME_MOVE", 60)
    for i in range(5):
        user_moves(panel, i / 100, "sparsity")
    panel.undo()
    assert panel.controls["sparsity"].value == 0


def test_the_buttons_do_it(panel):
    assert not panel.view.shown["undo"] and not panel.view.shown["redo"]
    user_moves(panel, 0.5, "sparsity")
    assert panel.view.shown["undo"]
    press(panel, "save", name=" <b>half</b> ")
    assert panel.view.shown["saved"] == ["<b>half</b>"]
    assert panel.view.shown["plan"] == "<b>half</b>"
    press(panel, "undo")
    assert panel.result["sparsity"] == 0
    assert panel.view.shown["plan"] == "" and panel.view.shown["redo"]
    press(panel, "redo")
    assert panel.result["sparsity"] == 0.5
    user_moves(panel, 0.9, "sparsity")
    press(panel, "load", name="<b>half</b>")
    assert panel.result["sparsity"] == 0.5
    press(panel, "save", name=" ")
    assert list(panel.saved) == ["<b>half</b>", "plan 2"]
    assert panel.view.shown["code"] == panel.to_python()


def test_code_goes_on_from_where_the_hand_was(panel):
    user_moves(panel, 0.5, "sparsity")
    n = panel.view.state["n"]
    panel.controls["layer"].value = "3"
    state = panel.view.state
    assert (state["layer"], state["sparsity"], state["who"]) == ("3", 0.5, "kernel")
    assert state["n"] > n
    assert panel.view.shown["n"] == state["n"]


def test_while_code_measures_the_old_answer_is_not_shown_as_the_new():
    panel = pv.panel_weights(mlp(), batches=batches())
    seen = []
    panel.view.observe(lambda c: seen.append((panel.view.state["sparsity"], c["new"])), "shown")
    panel.controls["sparsity"].value = 0.5
    for sparsity, shown in seen:
        assert shown["n"] == -1 or shown["result"]["sparsity"] == sparsity == 0.5
    assert seen[-1][1]["result"]["accuracy"] is not None
    panel.close()


def test_the_still_picture_stands_there_until_the_module_has_drawn(panel):
    assert panel._still.value == ""
    data, _ = panel._repr_mimebundle_()
    assert data["image/png"] in panel._still.value
    assert "Threshold 0.0000: 312 of 312 weights stay" in panel._still.value
    panel.controls["sparsity"].value = 0.5
    assert "156 of 312 weights stay" in panel._still.value
    panel.view._handle_custom_msg({"do": "drawn"}, [])
    panel.controls["sparsity"].value = 0.75
    assert panel._still.value == ""
    assert panel.children == (panel._still, panel.view)


def test_marimo_gets_the_view_alone(panel):
    assert panel.view.kind == "weights"
    assert panel.view.get_state()["web"].startswith("/* pruneviz panels ")


def test_names_of_many_layers_keep_the_table_small():
    panel = pv.panel_weights(nn.Sequential(*(nn.Linear(3, 3) for _ in range(100))))
    assert panel.view.data["every"] == 3
    assert len(panel.view.table) < 400_000
    panel.close()

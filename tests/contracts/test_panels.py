"""Panels in plain Python: no kernel, no browser."""

from __future__ import annotations

import base64
import gc
import io
import json
import re
import sys
import threading
import xml.etree.ElementTree as ET

import ipywidgets as widgets
import matplotlib.pyplot as plt
import pytest
import torch
from helpers import (
    assert_untouched,
    batches,
    build,
    inputs,
    labels,
    mlp,
    plan_for,
    refused,
    snapshot,
)
from ipywidgets.widgets.widget import _instances
from PIL import Image
from torch import nn

import pruneviz as pv
from pruneviz.panels.kit import cells
from pruneviz.panels.kit import panel as base
from pruneviz.panels.kit.panel import Panel
from pruneviz.panels.kit.web_panel import WebPanel

EVIL = "<img src=x onerror=alert(1)>"
SVG = "{http://www.w3.org/2000/svg}"


def strip(**options):
    given = {"batches": batches(), "classes": ["cat", "dog", EVIL], **options}
    return pv.panel_strip(mlp(), inputs(4), labels(4), **given)


def weights(**options):
    return pv.panel_weights(mlp(), **options)


PANELS = {
    "strip": strip,
    "weights": weights,
    "weights with data": lambda: weights(batches=batches()),
}


@pytest.fixture(autouse=True)
def close_panels():
    before = set(_instances)
    yield
    for key in set(_instances) - before:
        if key in _instances:  # closing a panel closes what is in it
            _instances[key].close()


@pytest.fixture(params=PANELS)
def panel(request):
    return PANELS[request.param]()


def html(panel):
    if isinstance(panel, WebPanel):
        return json.dumps([panel.view.state, panel.view.shown])  # what the browser draws
    view, *_ = (w for w in panel.children if isinstance(w, widgets.HTML))
    return view.value


def svgs(panel):
    """Return the pictures in the panel, parsed."""
    found = re.findall(r"<svg.*?</svg>", html(panel), re.DOTALL)
    assert found
    return [ET.fromstring(text) for text in found]


def alert(panel):
    if isinstance(panel, WebPanel):
        return panel.view.shown["error"]
    _, alert, *_ = (w for w in panel.children if isinstance(w, widgets.HTML))
    return alert.value


# panel_strip


def test_the_sparsity_of_a_strip_changes_result_and_picture():
    model = mlp()
    panel = pv.panel_strip(model, inputs(4), labels(4), batches=batches())
    assert panel.result["sparsity"] == 0
    assert panel.result["plan"].kept == 312
    dense = html(panel)
    panel.controls["sparsity"].value = 0.9
    plan = plan_for(model, 0.9)
    assert panel.result["plan"].kept == plan.kept
    assert panel.result["sparsity"] == plan.sparsity
    pruned = pv.mask(model, plan)
    assert panel.result["accuracy"] == pv.accuracy(pruned, batches())
    said = pv.predict(pruned, inputs(4)).tolist()
    assert panel.result["predictions"] == [str(c) for c in said]
    right = sum(a == b for a, b in zip(said, labels(4).tolist(), strict=True))
    assert panel.sentence == (
        f"Sparsity 0.90 in each layer: {right} of 4 images right, accuracy "
        f"{panel.result['accuracy']:.0%}. The network says: {', '.join(map(str, said))}."
    )
    assert html(panel) != dense
    (picture,) = svgs(panel)
    assert picture.get("aria-label") == panel.sentence
    texts = ["".join(t.itertext()) for t in picture.iter(f"{SVG}text")]
    assert texts == [
        f"{'✓' if a == b else '✗'} {a}" for a, b in zip(said, labels(4).tolist(), strict=True)
    ]


def test_a_strip_starts_where_it_is_told():
    assert strip(sparsity=0.5).result["sparsity"] == pytest.approx(0.5)
    by_lamp = strip(criterion="lamp", sparsity=0.5).result["plan"]
    assert by_lamp.to_frame()["sparsity"].nunique() == 2  # lamp ranks all layers together
    by_layer = strip(criterion="lamp", scope="layer", sparsity=0.5).result["plan"]
    assert by_layer.to_frame()["sparsity"].nunique() == 1


def test_a_strip_names_the_classes():
    panel = strip()
    assert set(panel.result["predictions"]) <= {"cat", "dog", EVIL}
    few = strip(classes=["cat"])
    assert set(few.result["predictions"]) <= {"cat", "1", "2"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_strip_in_colour(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).to(dtype)
    x, y = torch.randn(4, 3, 6, 6).to(dtype), torch.tensor([0, 1, 2, 0])
    panel = pv.panel_strip(model, x, y, batches=[(x, y)])
    assert panel._view.value.count("data:image/png") == 4
    assert panel.figure().axes[0].images[0].get_array().shape == (6, 6, 3)
    panel.close()


def test_a_strip_reads_its_batches_once():
    model = mlp()
    panel = pv.panel_strip(model, inputs(4), labels(4), batches=iter(batches()))
    for sparsity in (0.5, 0.9):
        panel.controls["sparsity"].value = sparsity
        pruned = pv.mask(model, panel.result["plan"])
        assert panel.result["accuracy"] == pv.accuracy(pruned, batches())


BAD_STRIPS = [
    ({"sparsity": 1.0}, "`sparsity` must be a number in [0, 0.99], but 1.0 was passed."),
    ({"sparsity": 50}, "`sparsity` must be a number in [0, 0.99], but 50 was passed."),
    ({"criterion": "lam"}, "criterion 'lam' is unknown. Did you mean 'lamp'? Known: fisher, lamp, magnitude, random, taylor, wanda."),
    ({"scope": "local"}, "`scope` 'local' is unknown. Did you mean 'global'? Known: global, layer."),
    ({"batches": []}, "`batches` is empty: there is nothing to judge by. Pass an iterable of batches; a generator runs only once."),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), BAD_STRIPS)
def test_a_bad_strip_is_refused(bad, message):
    with refused(message):
        strip(**bad)


def shows(panel, name):
    """Tell whether a slider stands at the result: at the nearest of its steps."""
    slider = panel.controls[name]
    return abs(slider.value - panel.result[name]) <= 0.501 * slider.step


@pytest.mark.parametrize("bad", [{"scope": "local"}, {"batches": []}])
def test_a_panel_that_cannot_start_leaves_no_widgets(bad):
    before = set(_instances)
    with pytest.raises(pv.ArgumentError):
        strip(**bad)
    assert set(_instances) == before


def test_a_strip_without_images_is_refused():
    with pytest.raises(pv.ArgumentError, match="a strip needs grey images"):
        pv.panel_strip(mlp(), inputs(0), labels(0), batches=batches())
    with pytest.raises(pv.ArgumentError, match="one label and one prediction"):
        pv.panel_strip(mlp(), inputs(3), labels(2), batches=batches())


# panel_weights


def test_the_threshold_changes_result_and_picture():
    panel = weights()
    dense = html(panel)
    panel.controls["threshold"].value = 0.1
    plan = pv.select(pv.score(mlp(), "magnitude"), threshold=0.1)
    assert panel.result["threshold"] == 0.1
    assert panel.result["sparsity"] == panel.result["plan"].sparsity > 0
    assert shows(panel, "sparsity")
    assert panel.result["plan"].total == plan.total
    assert panel.sentence == (
        f"Threshold 0.1000: {panel.result['plan'].kept} of 312 weights stay, "
        f"sparsity {panel.result['sparsity']:.3f} over all layers "
        f"({(312 - panel.result['plan'].kept) / 323:.3f} of all 323 numbers)."
    )
    assert html(panel) != dense


def test_the_sparsity_changes_the_threshold_and_all_layers_compete():
    model = mlp()
    panel = pv.panel_weights(model)
    panel.controls["sparsity"].value = 0.75
    plan = pv.select(pv.score(model, "magnitude"), sparsity=0.75, scope="global")
    assert panel.result["plan"].kept == plan.kept == 78
    assert panel.result["sparsity"] == 0.75
    weights = torch.cat([w.reshape(-1) for w in pv.named_weights(model).values()]).abs()
    assert shows(panel, "threshold")
    assert int((weights >= panel.result["threshold"]).sum()) == 78
    assert panel.result["layers"] == {
        n.removesuffix(".weight"): pytest.approx(k.float().mean().item())
        for n, k in plan.keep.items()
    }
    assert panel.result["accuracy"] is None


def test_threshold_and_sparsity_follow_each_other_there_and_back():
    panel = weights()
    panel.controls["sparsity"].value = 0.5
    threshold, kept = panel.result["threshold"], panel.result["plan"].kept
    panel.controls["threshold"].value = 0.0
    assert panel.controls["sparsity"].value == panel.result["sparsity"] == 0
    panel.controls["threshold"].value = threshold
    assert panel.result["plan"].kept == kept
    assert panel.controls["sparsity"].value == 0.5


def test_the_highest_threshold_keeps_one_weight_a_layer():
    panel = weights()
    panel.controls["threshold"].value = panel.controls["threshold"].max
    assert panel.result["plan"].kept == 2
    assert panel.result["sparsity"] == pytest.approx(1 - 2 / 312)
    assert shows(panel, "sparsity")


def test_the_density_of_a_layer_counts_all_its_tensors():
    panel = pv.panel_weights(nn.MultiheadAttention(4, 1, kdim=3, vdim=2))
    panel.controls["sparsity"].value = 0.5
    kept = {n: int(k.sum()) for n, k in panel.result["plan"].keep.items()}
    own = sum(k for n, k in kept.items() if n != "out_proj.weight")
    assert panel.result["layers"] == {
        "": pytest.approx(own / 36),
        "out_proj": pytest.approx(kept["out_proj.weight"] / 16),
    }


def test_with_data_the_accuracy_is_measured():
    model = mlp()
    panel = pv.panel_weights(model, batches=iter(batches()))
    for sparsity in (0.5, 0.9):
        panel.controls["sparsity"].value = sparsity
        pruned = pv.mask(model, panel.result["plan"])
        assert panel.result["accuracy"] == pv.accuracy(pruned, batches())
        assert panel.sentence.endswith(f", accuracy {panel.result['accuracy']:.0%}.")


def test_a_model_that_is_one_layer_is_called_the_model():
    panel = pv.panel_weights(nn.Linear(4, 4))
    assert panel.controls["layer"].options[1] == ("(model)", "")
    panel.controls["layer"].value = ""
    assert panel.figure().axes[0].get_title() == "(model): sparsity 0.000"


def test_class_names_that_look_like_html_are_escaped():
    panel = strip(classes=[EVIL] * 3)
    assert "<img" not in html(panel)
    assert EVIL in panel.sentence
    assert panel._repr_mimebundle_()[0]["text/plain"] == panel.sentence


# all panels


def inside(box):
    """Return every widget in a box."""
    return [w for child in getattr(box, "children", ()) for w in (child, *inside(child))]


def field_of(panel, name):
    """Return the number field beside a slider: a screen reader says its name."""
    (field,) = (
        w
        for w in inside(panel)
        if isinstance(w, widgets.BoundedFloatText) and w.description == name
    )
    return field


def test_a_panel_is_a_widget_with_its_controls_in_it(panel):
    assert isinstance(panel, widgets.VBox)
    assert isinstance(panel, Panel)
    if isinstance(panel, WebPanel):
        assert panel.view in inside(panel)
        assert set(panel.view.data["controls"]) == set(panel.controls)
    else:
        assert all(control in inside(panel) for control in panel.controls.values())


def test_every_slider_has_a_field_with_a_name_that_follows_it(panel):
    for name, slider in panel.controls.items():
        if not isinstance(slider, widgets.FloatSlider):
            continue
        field = field_of(panel, name)
        assert (field.min, field.max) == (slider.min, slider.max)
        slider.value = 0.47
        assert field.value == pytest.approx(slider.value, abs=0.005)
        field.value = 0.12
        assert slider.value == pytest.approx(0.12)
        assert panel.result[name] == pytest.approx(0.12, abs=0.005)


def test_a_field_shows_no_more_digits_than_one_can_set():
    panel = strip()
    field = field_of(panel, "sparsity")
    panel.controls["sparsity"].value = 0.1 + 0.2
    assert field.value == 0.3


def test_a_panel_leaves_no_trace_on_its_model():
    model = build("cnn")
    before = snapshot(model)
    for panel in (
        pv.panel_weights(model, batches=batches()),
        pv.panel_strip(model, inputs(), labels(), batches=batches()),
    ):
        panel.controls["sparsity"].value = 0.5
        panel._repr_mimebundle_()
    assert_untouched(model, before)


def test_what_remains_without_widgets_is_a_picture_and_a_sentence(panel):
    panel.controls["sparsity"].value = 0.5
    data, metadata = panel._repr_mimebundle_()
    assert data["text/plain"] == panel.sentence
    assert "sparsity" in panel.sentence.lower()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.model_id
    assert metadata["image/png"] == {"alt": panel.sentence}
    picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"])))
    picture.load()
    assert picture.format == "PNG"
    assert min(picture.size) > 100
    assert picture.getpixel((0, 0))[3] == 0  # transparent: the page shows through


def test_the_picture_shows_the_present_state(panel):
    before = panel._repr_mimebundle_()[0]["image/png"]
    assert panel._repr_mimebundle_()[0]["image/png"] == before
    panel.controls["sparsity"].value = 0.9
    if "threshold" in panel.controls:
        assert panel._repr_mimebundle_()[0]["image/png"] != before
        lines = [line.get_xdata()[0] for line in panel.figure().axes[0].lines]
        assert lines == [-panel.result["threshold"], panel.result["threshold"]]
    else:
        texts = [t.get_text()[2:] for t in panel.figure().axes[0].texts]
        assert texts == panel.result["predictions"]


def test_no_pyplot_figure_is_opened(panel):
    panel.controls["sparsity"].value = 0.5
    panel._repr_mimebundle_()
    assert plt.get_fignums() == []


def test_moves_leave_no_new_widgets():
    panel = weights()
    before = set(_instances)
    for i in range(200):
        panel.controls[("threshold", "sparsity")[i % 2]].value = i / 1000
    assert panel.result["sparsity"] == pytest.approx(0.199, abs=1 / 312)
    assert set(_instances) == before


@pytest.mark.parametrize("make", PANELS.values(), ids=PANELS)
def test_close_closes_every_widget(make):
    before = set(_instances)
    panel = make()
    panel.controls["sparsity"].value = 0.5
    panel._repr_mimebundle_()
    panel.close()
    left = [type(_instances[key]).__name__ for key in set(_instances) - before]
    assert left == []


def test_closing_twice_is_no_error(panel):
    panel.close()
    panel.close()


@pytest.fixture
def unraisable(monkeypatch):
    """Return the errors that cannot be caught, such as those of a finaliser."""
    seen = []
    gc.collect()
    monkeypatch.setattr(sys, "unraisablehook", lambda error: seen.append(repr(error.exc_value)))
    return seen


def test_a_closed_panel_is_collected_without_a_word(unraisable):
    panel = weights()
    panel.close()
    del panel
    gc.collect()
    assert unraisable == []


def test_a_refused_panel_is_collected_without_a_word(unraisable):
    for bad in ({"sparsity": 50}, {"criterion": "lam"}):
        with pytest.raises(pv.ArgumentError):
            strip(**bad)
    with pytest.raises(pv.ArgumentError):
        pv.panel_weights(None)
    gc.collect()
    assert unraisable == []


def test_panels_have_ids_of_their_own():
    first, second = (pv.panel_whatif(mlp(), batches()) for _ in range(2))
    ids = [re.findall(r'id="([^"]+)"', html(panel)) for panel in (first, second)]
    assert len(set(ids[0] + ids[1])) == len(ids[0] + ids[1]) == 2


@pytest.fixture
def breaking(monkeypatch):
    """Return a panel and a switch that makes its next answers fail."""
    panel = weights(batches=batches())
    whole = type(panel).answer
    broken = []

    def answer(self, moved):
        if broken:
            raise ValueError(f"no {EVIL} & co")
        return whole(self, moved)

    monkeypatch.setattr(type(panel), "answer", answer)
    return panel, broken


def test_an_error_is_shown_and_raised_and_gone_after_the_next_good_move(breaking):
    panel, broken = breaking
    broken.append(True)
    with pytest.raises(ValueError, match="no <img"):
        panel.controls["threshold"].value = 0.1
    assert alert(panel) == f"ValueError: no {EVIL} & co"  # the browser sets it as text
    broken.clear()
    panel.controls["threshold"].value = 0.2
    assert alert(panel) == ""
    assert panel.result["threshold"] == 0.2


def test_after_an_error_another_control_shows_the_present_state(breaking):
    panel, broken = breaking
    broken.append(True)
    with pytest.raises(ValueError, match="no <img"):
        panel.controls["threshold"].value = 0.1
    broken.clear()
    panel.controls["layer"].value = "3"
    assert panel.result["threshold"] == panel.controls["threshold"].value == 0.1
    assert shows(panel, "sparsity")


def test_after_an_error_a_panel_can_still_be_shown(breaking):
    panel, broken = breaking
    broken.append(True)
    with pytest.raises(ValueError, match="no <img"):
        panel.controls["threshold"].value = 0.1
    data, _ = panel._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in data


class Fragile(nn.Sequential):
    """Raises as soon as a weight is 0."""

    def forward(self, x):
        if not bool(self[1].weight.all()):
            raise RuntimeError("a weight is gone")
        return super().forward(x)


def test_an_error_of_the_model_is_shown():
    panel = pv.panel_weights(Fragile(nn.Flatten(), nn.Linear(36, 3)), batches=batches())
    with pytest.raises(pv.ArgumentError, match="RuntimeError: a weight is gone"):
        panel.controls["sparsity"].value = 0.5
    assert "a weight is gone" in alert(panel)
    panel.undo()
    assert alert(panel) == ""


def test_a_move_from_another_thread_is_answered():
    panel = weights()

    def move():
        panel.controls["sparsity"].value = 0.5

    thread = threading.Thread(target=move)
    thread.start()
    thread.join(5)
    assert not thread.is_alive()
    assert panel.result["sparsity"] == 0.5


def test_moves_wait_for_each_other(monkeypatch):
    panel = weights()
    whole = type(panel).answer
    inside, most = [], []

    def answer(self, moved):
        inside.append(moved)
        most.append(len(inside))
        result = whole(self, moved)
        inside.pop()
        return result

    monkeypatch.setattr(type(panel), "answer", answer)
    threads = [
        threading.Thread(target=setattr, args=(panel.controls[name], "value", value))
        for name, value in (("threshold", 0.1), ("sparsity", 0.5), ("layer", "3"))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert max(most) == 1


@pytest.fixture
def cell(monkeypatch):
    """Return a function that says which notebook cell is running, and in which run."""
    monkeypatch.setattr(cells, "_by_cell", {})
    running = {"now": ("", "")}
    monkeypatch.setattr(cells, "_cell", lambda: running["now"])
    return lambda *now: running.update(now=now)


def is_open(panel):
    return panel.comm is not None


def test_a_cell_that_runs_again_closes_its_earlier_panels(cell):
    cell("a", "run 1")
    first, second = weights(), strip()
    assert is_open(first)
    assert is_open(second)
    cell("b", "run 2")
    other = weights()
    assert is_open(first)
    cell("a", "run 3")
    third = weights()
    assert not is_open(first)
    assert not is_open(second)
    assert is_open(other)
    assert is_open(third)


def test_outside_a_notebook_panels_stay(cell):
    first = weights()
    second = weights()
    assert is_open(first)
    assert is_open(second)
    assert cells._by_cell == {}


def test_outside_ipython_there_is_no_cell():
    assert cells._cell() == ("", "")


def test_the_running_cell_is_read_from_the_kernel(monkeypatch):
    class Kernel:
        def get_parent(self):
            return {"metadata": {"cellId": "a1"}, "header": {"msg_id": "m1"}}

    monkeypatch.setattr("IPython.get_ipython", Kernel)
    assert cells._cell() == ("a1", "m1")


def test_what_cannot_be_shown_is_refused():
    with refused("`model` must be a torch.nn.Module, but None was passed."):
        pv.panel_weights(None)
    with refused("`bins` must be a whole number ≥ 2, but 0 was passed."):
        weights(bins=0)


def test_a_panel_without_an_answer_says_so():
    panel = base.Panel()
    with pytest.raises(NotImplementedError):
        panel.answer("")
    with pytest.raises(NotImplementedError):
        panel.figure()


def test_a_slider_ignores_what_the_browser_only_repeats():
    panel = strip()
    slider = panel.controls["sparsity"]
    for value in (0.9, 0.7, 0.5):
        slider.value = value
    for late in (0.9000000000000001, 0.7000000000000001, 0.5000000000000001):
        slider.set_state({"value": late})
        assert slider.value == 0.5
    slider.set_state(
        {"value": 0.7000000000000001}
    )  # each is repeated once: now it is a move of the user
    assert slider.value == 0.7000000000000001
    assert panel.result["sparsity"] == pytest.approx(0.7, abs=0.01)
    slider.value = 0.2
    slider.set_state({"value": 0.3})
    slider.set_state(
        {"value": 0.2000000000000001}
    )  # no echo of an earlier value follows a move of the user
    assert slider.value == 0.2000000000000001
    panel.close()

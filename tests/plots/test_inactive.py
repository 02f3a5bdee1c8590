"""The heat map of lesson 04, and the reader behind it."""

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_untouched, snapshot
from matplotlib.figure import Figure
from matplotlib.image import imread
from torch import nn

import pruneviz as pv
from pruneviz import lessons
from pruneviz.model.batches import by_class, examples_of_each_class
from pruneviz.plots import activation_map as heat
from pruneviz.plots import inactive as plot
from pruneviz.plots.activation_map import MARKS, MAX_ROWS, MIN_ROWS
from pruneviz.selection.drop import plan_removing

EVIL = "<img src=x onerror=alert(1)>"
SVG = "{http://www.w3.org/2000/svg}"
SIX = np.array([[0.0, 0, 0], [2, 2, 2], [0, 0, 1], [1, 2, 3], [0, 1, 2], [0, 0, 0]])
FRAME = pd.DataFrame({"unit": [0, 1, 2, 5], "kind": ["dead", "constant", "rare", "dead"]})


def test_rows_are_sorted_by_kind_and_then_by_how_often_they_are_active():
    p = heat.picture(SIX, inactive=FRAME)
    assert p.units == [0, 5, 1, 2, 4, 3]
    assert p.kinds == ["dead", "dead", "constant", "rare", "", ""]
    assert heat.picture(SIX, inactive=FRAME, order="unit").units == [0, 1, 2, 3, 4, 5]
    assert heat.picture(SIX, inactive=FRAME, order="mean").units == [0, 5, 2, 4, 1, 3]
    assert heat.picture(SIX).kinds == [""] * 6


def test_what_is_not_zero_can_be_seen_and_zero_is_blank():
    a = np.array([[0.0, 1e-6, 5, -1]])
    red, green, blue, opaque = heat.picture(a).shades[0].T
    assert opaque[0] == 0 and 50 < opaque[1] < opaque[2] == 255 and opaque[3] > 50
    assert (red[2], green[2], blue[2]) == (0x00, 0x72, 0xB2)
    assert (red[3], green[3], blue[3]) != (red[2], green[2], blue[2])
    pale = heat.picture(np.array([[100.0] * 3, [1, 2, 1]]), inactive=FRAME.iloc[[1]].assign(unit=0))
    assert pale.shades[1, 1, 3] == 255  # a constant of a hundred does not make the others pale


def test_of_many_units_some_of_each_kind_are_drawn_and_the_rest_is_said():
    a = np.zeros((300, 4))
    a[100:] = np.arange(200)[:, None] + 1
    a[:100:2, 0] = 1  # dead in `frame`, active in these data: these are shown first
    frame = pd.DataFrame({"unit": range(100), "kind": ["dead"] * 100})
    p = heat.picture(a, inactive=frame)
    assert len(p.units) == len(set(p.units)) == MAX_ROWS
    assert p.kinds.count("dead") == MIN_ROWS
    assert set(p.units[:MIN_ROWS]) == set(range(0, 2 * MIN_ROWS, 2))
    assert {100, 299} <= set(p.units)  # from the least to the most active unit
    assert p.counts == {"dead": 100, "constant": 0, "rare": 0, "": 200}
    assert "dead: 100 (8 drawn)" in [text for _, _, text in p.legend()]
    assert "40 of 300 units drawn" in p.caption()
    only = heat.picture(np.zeros((50, 2)), inactive=frame.iloc[:50])
    assert len(only.units) == MAX_ROWS  # no unit is active


def test_examples_of_a_class_stand_together_under_its_name():
    a = np.array([[1.0, 0, 3, 0]])
    p = heat.picture(a, labels=[1, 0, 1, 0], classes=["a", EVIL], picked=1)
    assert p.blocks == [("a", 0, 2, False), (EVIL, 2, 4, True)]
    assert (p.shades[0, :, 3] > 0).tolist() == [False, False, True, True]
    text = plot.svg(p, label="a & b")
    tree = ET.fromstring(text)
    assert tree.get("role") == "img" and tree.get("aria-label") == "a & b"
    assert "<img" not in text
    bold = [t.text for t in tree.iter(f"{SVG}text") if t.get("font-weight") == "bold"]
    assert bold == [EVIL]
    assert heat.picture(a, labels=[7, 0, 7, 0]).blocks[1][0] == "7"


def test_both_renderers_draw_the_same():
    p = heat.picture(SIX, inactive=FRAME, labels=[0, 1, 1])
    text = plot.svg(p, label="x")
    marked = re.findall(r'<g class="(.*?)" data-unit="(\d+)"', text)
    assert sorted((int(u), k) for k, u in marked) == list(FRAME.itertuples(index=False, name=None))
    ax = Figure().subplots()
    assert pv.plot_inactive(SIX, inactive=FRAME, labels=[0, 1, 1], ax=ax) is ax
    drawn = {c.get_label(): len(c.get_offsets()) for c in ax.collections}
    assert drawn == {"dead": 2, "constant": 1, "rare": 1}
    uri = re.search(r'href="data:image/png;base64,(.*?)"', text).group(1)
    png = imread(io.BytesIO(base64.b64decode(uri)))
    assert np.array_equal((png * 255).round().astype(np.uint8), p.shades)
    assert np.array_equal(ax.images[0].get_array(), p.shades)
    assert text.index("<rect") < text.index("<image")  # tints lie below: blue stays blue


def test_without_axes_there_is_a_new_figure():
    import matplotlib.pyplot as plt

    ax = pv.plot_inactive(SIX)
    assert ax.figure.get_size_inches()[0] == pytest.approx(plot.size(heat.picture(SIX))[0])
    plt.close(ax.figure)


def test_kinds_differ_in_more_than_colour():
    assert len({sign for _, sign in MARKS.values()}) == len({c for c, _ in MARKS.values()}) == 3


BAD = [
    ({"data": np.zeros(3)}, "an array of shape (3,) was passed"),
    ({"data": np.full((2, 2), np.nan)}, "plot_inactive draws finite numbers"),
    ({"data": np.zeros((0, 3))}, "an array of shape (0, 3) was passed"),
    (
        {"labels": [1]},
        "`labels` must be one class for each example, but there are 1 for 3 examples.",
    ),
    ({"order": "size"}, "`order` 'size' is unknown"),
    ({"inactive": FRAME.drop(columns="kind")}, "kind"),
    ({"inactive": FRAME.assign(kind="tired")}, "kind 'tired' is unknown"),
    ({"inactive": FRAME.assign(unit=9)}, "`inactive` names unit 9, but `data` hold 6 units"),
    ({"inactive": FRAME.assign(unit=1)}, "`inactive` names unit 1 twice, but `data` hold 6 units"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_calls_say_what_to_do(options, message):
    with pytest.raises(pv.ArgumentError, match=re.escape(message)):
        pv.plot_inactive(**{"data": SIX, **options})


# the reader


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(),
        nn.Conv2d(6, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3),
    )  # fmt: skip


X = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def test_activations_are_what_the_consumer_reads_and_leave_no_trace():
    model = net().train()
    before, groups = snapshot(model), pv.find_groups(model, X)
    first = pv.activations(model, X, groups=groups, group="0")
    second = pv.activations(model, X, groups=groups, group="3")
    assert_untouched(model, before)
    with torch.no_grad():
        model.eval()
        a = model[:3](X)
        assert torch.allclose(first, a.mean((2, 3)).T, atol=1e-6)
        b = model[:5](X)  # flattened: a channel is 36 columns of the next layer
        assert torch.allclose(second, b.mean((2, 3)).T, atol=1e-6)
    assert pv.activations(model, (X,), groups=groups, group="1").shape == (6, 5)  # a norm's name


def test_activations_behind_attention_and_over_tokens():
    model, x = lessons.load("image-transformer"), torch.randn(3, 1, 28, 28)
    groups = pv.find_groups(model, x)
    seen = []
    with (
        pv.evaluating(model),
        pv.hooked(model, ["blocks.0.fc2"], lambda name, inputs, output: seen.append(inputs[0])),
    ):
        model(x)
    got = pv.activations(model, x, groups=groups, group="blocks.0.fc1")
    assert torch.allclose(got, seen[0].mean(1).T, atol=1e-6)


def test_no_layer_that_reads_them_is_an_error():
    model = net()
    groups = pv.find_groups(model, X)
    with pytest.raises(pv.ArgumentError, match="no Linear or Conv layer of `model` reads group"):
        pv.activations(model, X, groups=groups, group="6")
    with pytest.raises(pv.ArgumentError, match="layer 'conv9' is unknown"):
        pv.activations(model, X, groups=groups, group="conv9")
    with pytest.raises(pv.ArgumentError, match="could not run"):
        pv.activations(model, torch.zeros(2, 3), groups=groups, group="0")
    with pytest.raises(pv.ArgumentError, match=r"Make them: pv\.find_groups"):
        pv.activations(model, X, groups=["0"], group="0")


def test_of_another_model_is_an_error():
    small = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 1))
    groups = pv.find_groups(
        nn.Sequential(nn.Linear(4, 9), nn.ReLU(), nn.Linear(9, 1)), torch.zeros(2, 4)
    )
    with pytest.raises(pv.ArgumentError, match="`groups` are of another model"):
        pv.activations(small, torch.zeros(2, 4), groups=groups, group="0")


def test_examples_by_class():
    x, y = torch.arange(6.0), torch.tensor([2, 0, 2, 2, 0, 2])
    each = by_class([(x[:4], y[:4]), (x[4:], y[4:])])
    assert list(each) == [0, 2]
    assert torch.cat([part for part, _ in each[2]]).tolist() == [0, 2, 3, 5]
    assert [x.tolist() for x in examples_of_each_class(each, 4)[0]] == [[1, 4, 0, 2]]
    assert examples_of_each_class(each, 4)[1] == [0, 0, 2, 2]
    for bad, what in (
        (({"x": x}, y), "the inputs of batch 1 of `batches` must be one tensor here"),
        ((x, y[:2]), "the labels of batch 1 of `batches` must be one class per example"),
        (
            (x, torch.zeros(6, 2)),
            "the labels of batch 1 of `batches` must be one class per example",
        ),
    ):
        with pytest.raises(pv.ArgumentError, match=f"^{what}"):
            by_class([bad])


def test_one_unit_stays():
    groups = pv.find_groups(net(), X)
    plan = plan_removing(groups, "0", [5, 1, 0, 2, 3, 4])
    assert plan.keep["0"].tolist() == [False, False, False, False, True, False]
    assert plan.keep["3"].all()

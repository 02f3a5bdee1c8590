"""Pictures of redundant pairs, and which unit of a pair is removed."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

import pruneviz as pv
from pruneviz.plots import redundant
from pruneviz.plots import redundant_pair as pair
from pruneviz.selection.drop import drop_redundant

DATA = pd.DataFrame({"similarity": [0.9, 0.8, 0.5, 0.2], "scale": [0.8, -0.4, 0.3, 0.1]})
EVIL = "<img src=x onerror=alert(1)>"


def view(**more):
    fields = {
        "pairs": DATA.assign(goes=[True, False, True, False]), "threshold": 0.5, "picked": 1,
        "images": [np.eye(2), -np.eye(2)], "titles": [EVIL, "b"], "caption": "a & b",
        "bars": {"delete": 0.5, "merge": 0.75}, "whole": 0.9,
    }  # fmt: skip
    return pair.View(**{**fields, **more})


def drawn(ax):
    return {c.get_label(): c.get_offsets().tolist() for c in ax.collections}


def test_the_artists_carry_the_data():
    ax = Figure().subplots()
    assert pv.plot_redundant(DATA, threshold=0.5, picked=1, ax=ax) is ax
    assert drawn(ax) == {
        "picked": [[0.8, -0.4]],
        "alike": [[0.9, 0.8], [0.8, -0.4], [0.5, 0.3]],
        "less alike": [[0.2, 0.1]],
    }
    assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == "--"] == [0.5]


def test_a_column_says_who_goes():
    ax = pv.plot_redundant(DATA.assign(goes=[False, True, False, False]), threshold=0.5)
    assert drawn(ax)["goes"] == [[0.8, -0.4]]
    assert len(drawn(ax)["stays"]) == 3
    assert len(drawn(pv.plot_redundant(DATA))["less alike"]) == 4
    assert len(drawn(pv.plot_redundant(DATA[:0]))["less alike"]) == 0


def test_kinds_differ_in_more_than_colour():
    ax = pv.plot_redundant(DATA, threshold=0.5, picked=0)
    paths = {c.get_label(): c.get_paths()[0].vertices.tobytes() for c in ax.collections}
    assert len(set(paths.values())) == 3


BAD = [
    ({"data": [1]}, "plot_redundant needs a DataFrame, but a list was passed."),
    (
        {"data": DATA[["scale"]]},
        "plot_redundant needs a column 'similarity', but the frame has: scale. Make it with "
        "pv.find_redundant(model, groups=groups).",
    ),
    ({"threshold": 95}, "`threshold` must be a number in [-1, 1], but 95 was passed."),
    ({"picked": 4}, "`picked` must be a number in [0, 3], but 4 was passed."),
    ({"picked": 0.5}, "`picked` must be a whole number ≥ 0, but 0.5 was passed."),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_calls(options, message):
    with refused(message):
        pv.plot_redundant(**{"data": DATA, **options})


def test_the_svg_shows_all_of_it_and_escapes_names():
    text = pair.svg(view(), label="a & b", uid="u1")
    tree = ET.fromstring(text)
    assert tree.get("role") == "img" and tree.get("aria-label") == "a & b"
    assert "<img" not in text
    paths = dict(re.findall('<path class="(.*?)" d="(.*?)"', text))
    assert paths["both"].count("a2.4") == 4  # two circles of two arcs
    assert paths["goes"].count("l5.4") == 2
    assert text.count("<image") == 2 and text.count('class="bar"') == 2
    assert text.count('class="lit"') == 1
    assert ">stays</text>" in text and ">goes</text>" in text
    assert "50.0%" in text and "75.0%" in text and "90.0%" in text
    assert 'id="u1-lost"' in text and "url(#u1-lost)" in text


def test_an_empty_view_can_be_drawn_too():
    empty = view(pairs=DATA[:0].assign(goes=[]), picked=None, images=[], titles=[], bars={})
    assert "<image" not in pair.svg(empty, label="nothing")
    assert len(pair.static_figure(empty).axes) == 2


def test_the_static_picture_has_the_same_parts():
    fig = pair.static_figure(view())
    scatter, first, second, bars = fig.axes
    assert drawn(scatter)["goes"] == [[0.9, 0.8], [0.5, 0.3]]
    assert [ax.get_title() for ax in (first, second)] == [EVIL, "b"]
    assert np.array_equal(second.images[0].get_array(), -np.eye(2))
    assert second.images[0].get_clim() == first.images[0].get_clim() == (-1, 1)  # grey is 0
    assert [t.get_text() for t in bars.texts] == ["50.0%", "75.0%"]


@pytest.mark.parametrize(
    ("shape", "asked", "expected"),
    [
        ((784,), (28, 28), (28, 28)),
        ((784,), (28, 27), (28, 28)),
        ((300,), None, (17, 18)),
        ((1,), None, (1, 1)),
        ((1, 5, 5), None, (5, 5)),
        ((24, 3, 3), None, (19, 19)),
    ],
)
def test_sheets_hold_every_weight_once(shape, asked, expected):
    weights = np.arange(np.prod(shape), dtype=float).reshape(shape)
    page = redundant.weights_image(weights, asked)
    assert page.shape == expected
    assert sorted(page[~np.isnan(page)]) == weights.ravel().tolist()


def groups(n=6):
    cut = pv.Slice("fc1.weight", 0, np.arange(n)[:, None], "out")
    stays = pv.Slice("fc2.weight", 0, np.arange(n)[:, None], "out")
    return pv.Groups((pv.Group("fc1", n, (cut,)), pv.Group("fc2", n, (stays,), frozen="output")))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)).filter(lambda p: p[0] != p[1])))
def test_each_removed_unit_has_a_kept_one_like_it(found):
    frame = pd.DataFrame(found, columns=["kept", "removed"]).assign(group="fc1")
    keep = drop_redundant(frame, groups()).keep["fc1"]
    for unit in (~keep).nonzero()[:, 0].tolist():
        assert any(keep[k] for k, r in found if r == unit)
    if found:  # and of the first pair one goes
        assert not keep[found[0][1]] and keep[found[0][0]]


def test_nothing_goes_without_pairs_and_frozen_groups_are_left_out():
    plan = drop_redundant(pd.DataFrame({"group": [], "kept": [], "removed": []}), groups())
    assert list(plan.keep) == ["fc1"] and plan.kept == 6
    with pytest.raises(pv.ArgumentError, match="group 'fc2' is unknown"):
        drop_redundant(pd.DataFrame({"group": ["fc2"], "kept": [0], "removed": [1]}), groups())
    with pytest.raises(pv.ArgumentError, match="needs a column 'group'"):
        drop_redundant(DATA, groups())
    with pytest.raises(pv.ArgumentError, match="`groups` must be a Groups"):
        drop_redundant(pd.DataFrame({"group": [], "kept": [], "removed": []}), None)


def test_as_many_must_go_from_each_part():
    even = pv.Group("fc1", 4, groups(4)["fc1"].slices, even=np.array([0, 0, 1, 1]))
    pairs = pd.DataFrame({"group": "fc1", "kept": [0, 2], "removed": [1, 3]})
    assert drop_redundant(pairs, pv.Groups((even,))).keep["fc1"].tolist() == [True, False] * 2
    with pytest.raises(pv.GraphError, match="remove as many units from each"):
        drop_redundant(pairs[:1], pv.Groups((even,)))


def test_plan_is_of_booleans():
    frame = pd.DataFrame({"group": ["fc1"], "kept": [5], "removed": [0]})
    keep = drop_redundant(frame, groups()).keep["fc1"]
    assert keep.dtype == torch.bool and keep.tolist() == [False] + [True] * 5

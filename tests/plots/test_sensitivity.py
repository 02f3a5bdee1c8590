from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from helpers import refused
from matplotlib.colors import same_color
from matplotlib.figure import Figure

import pruneviz as pv
from pruneviz.plots.style import GREY, PALETTE


def frame(layers=3, interval=True):
    rows = [
        {"layer": f"fc{i}", "granularity": "weight", "dense": 0.9, "target_sparsity": s,
         "metric": 0.9 - s * i / 10}
        for i in range(layers) for s in (0.9, 0.0, 0.5)
    ]  # fmt: skip
    data = pd.DataFrame(rows)
    return data.assign(low=data["metric"] - 0.1, high=data["metric"] + 0.1) if interval else data


def test_a_line_a_layer():
    ax = Figure().subplots()
    assert pv.plot_sensitivity(frame(), ax=ax) is ax
    whole, *lines = ax.lines
    assert whole.get_label() == "whole model"
    assert set(whole.get_ydata()) == {0.9}
    assert same_color(whole.get_color(), GREY)
    for i, line in enumerate(lines):
        assert line.get_label() == f"fc{i}"
        assert line.get_xdata().tolist() == [0, 0.5, 0.9]
        np.testing.assert_allclose(line.get_ydata(), [0.9, 0.9 - i / 20, 0.9 - 9 * i / 100])
        assert same_color(line.get_color(), PALETTE[i])
    assert len({line.get_marker() for line in lines}) == 3  # not told by colour alone
    assert len(ax.collections) == 3
    low, high = ax.collections[1].get_paths()[0].get_extents().get_points()[:, 1]
    assert (low, high) == (pytest.approx(0.81 - 0.1), pytest.approx(0.85 + 0.1))
    assert ax.get_xlabel() == "share of the weights of one layer that are pruned"
    assert ax.get_ylabel() == "metric"


def test_without_an_interval_there_is_no_band():
    ax = pv.plot_sensitivity(frame(interval=False).assign(granularity="unit"))
    assert not ax.collections
    assert ax.get_xlabel() == "share of the units of one layer that are pruned"


def test_many_layers_have_colours_in_their_order():
    ax = pv.plot_sensitivity(frame(12))
    lines = ax.lines[1:]
    light = [np.dot(line.get_color()[:3], (0.3, 0.6, 0.1)) for line in lines]
    assert light == sorted(light)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == [
        "whole model",
        *(f"fc{i}" for i in range(5, 12)),
    ]
    assert ax.get_legend().get_title().get_text() == "the most sensitive of 12"
    assert not ax.collections


def test_the_model_itself_has_a_name():
    data = frame(1).assign(layer="")
    assert [line.get_label() for line in pv.plot_sensitivity(data).lines] == [
        "whole model",
        "the model",
    ]


BAD = [
    (frame().drop(columns="metric"), "plot_sensitivity needs a column 'metric', but the frame has: layer, granularity, dense, target_sparsity, low, high. Make it with pv.sensitivity(model, …)."),
    (pd.concat([frame(), frame()]), "plot_sensitivity draws one line for each layer, but layer 'fc0' has two rows for sparsity 0.9. Take the rows of one criterion and one repair."),
    ([1], "plot_sensitivity needs a DataFrame, but a list was passed."),
    (frame()[:0], "plot_sensitivity has nothing to draw: the frame has no rows."),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), BAD)
def test_bad_calls(data, message):
    with refused(message):
        pv.plot_sensitivity(data)

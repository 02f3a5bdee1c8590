"""Pictures of bytes, of the crossover, of costs: the artists carry the data."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import inputs, mlp, refused
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from torch import nn

import pruneviz as pv
from pruneviz.plots import bytes as plot
from pruneviz.plots.costs import svg as svg_of_costs
from pruneviz.plots.crossover import COLOURS
from pruneviz.plots.crossover import svg as svg_of_crossover
from pruneviz.plots.style import GREY, KEPT, PRUNED

SPARSITIES = (0.0, 0.4, 0.5, 0.6, 0.8, 0.9)


def thinned(sparsity, **options):
    layer = nn.Linear(40, 30, bias=False)
    frame = pv.encodings(pv.mask(layer, pv.select(pv.score(layer, "magnitude"), sparsity=sparsity)))
    return frame.assign(**options)


def grid():
    rows = [
        (w, b, s, way, 1.0, p, p / 5, p / 6, p / 4, 2)
        for w in (64, 256)
        for b in (1, 8)
        for s in (0.5, 0.9, 0.99)
        for way, p in (("dense", 1), ("zeros", 1), ("csr_linear", 1 / (1 - s) / 2),
                       ("csr_mm", 1 / (1 - s)), ("smaller", 1 / (1 - s)))
    ]  # fmt: skip
    columns = ["width", "batch", "sparsity", "way", "ms", "speedup", "latency_speedup", "low", "high",
               "threads"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def costs():
    return pv.compare_costs(mlp(), inputs(), sparsity=0.5, seconds=0)


def texts(ax):
    return [t.get_text() for t in ax.texts]


def legend(ax):
    return [t.get_text() for t in ax.get_legend().get_texts()]


def by_label(ax):
    return {line.get_label(): line for line in ax.lines}


def test_bytes_of_one_model_are_bars():
    frame = thinned(0.6)
    ax = pv.plot_bytes(frame)
    row = frame.iloc[-1]
    encodings = [e for e in plot.LABELS if e in frame]
    assert [b.get_width() for b in ax.patches] == [row[e] for e in encodings]
    assert [t.get_text() for t in ax.get_yticklabels()] == [plot.LABELS[e] for e in encodings]
    assert texts(ax) == [plot.bytes_text(float(row[e])) for e in encodings]
    dense = row["dense_fp32"]
    for bar in ax.patches:
        w = bar.get_width()
        colour = KEPT if w < dense else PRUNED if w > dense else GREY
        assert same_color(bar.get_facecolor(), colour)
    (line,) = ax.lines
    assert set(line.get_xdata()) == {dense} and ax.yaxis_inverted()


def test_what_does_not_fit_is_left_out():
    frame = pv.encodings(nn.Linear(40_000, 2), gzip=False)
    ax = pv.plot_bytes(frame)
    assert "CSR, int16" not in [t.get_text() for t in ax.get_yticklabels()]
    assert len(ax.patches) == 6


def test_bytes_of_several_models_are_lines_with_rings_where_they_cross():
    data = pd.concat([thinned(s) for s in SPARSITIES]).sample(frac=1, random_state=0)
    ax = pv.plot_bytes(data)
    lines = by_label(ax)
    whole = data[data["tensor"] == "whole"].sort_values("sparsity")
    for column in ("dense_fp32", "csr_int64", "csr_int16", "bitmap", "gzip"):
        line = lines[plot.LABELS[column]]
        assert list(line.get_xdata()) == whole["sparsity"].tolist()
        assert list(line.get_ydata()) == whole[column].tolist()
    assert legend(ax) == list(plot.LABELS.values())
    rings = [float(x.get_xdata()[0]) for x in ax.lines if len(x.get_xdata()) == 1]
    for encoding in ("csr_int64", "csr_int32", "csr_int16"):
        want = pv.bytes_break_even((30, 40), encoding)
        assert min(abs(r - want) for r in rings) < 1 / 1200
    assert ax.get_yscale() == "log"


def test_bytes_of_one_tensor():
    ax = pv.plot_bytes(pv.encodings(mlp()), tensor="1.weight")
    assert ax.patches[0].get_width() == 4 * 36 * 8


@pytest.mark.parametrize(("n", "words"), [(12, "12 B"), (1500, "1.5 kB"), (2e9, "2 GB")])
def test_sizes_in_words(n, words):
    assert plot.bytes_text(n) == words


def test_crossover_shows_ratios_intervals_and_what_macs_promise():
    data = grid()
    ax = pv.plot_crossover(data, width=64, batch=8, at=0.9)
    rows = data[(data["width"] == 64) & (data["batch"] == 8)]
    lines = by_label(ax)
    for way, label in (("csr_mm", "CSR, torch.mm(csr, x.T)"), ("smaller", "dense and smaller")):
        want = rows[rows["way"] == way]["latency_speedup"]
        assert list(lines[label].get_ydata()) == want.tolist()
        assert list(lines[label].get_xdata()) == [0.5, 0.9, 0.99]
    assert list(lines["what the MACs promise"].get_ydata()) == pytest.approx([2, 10, 100])
    assert list(lines["dense"].get_ydata()) == [1, 1]
    assert [0.9, 0.9] in [list(line.get_xdata()) for line in ax.lines]
    assert len(ax.collections) == 4  # intervals
    assert ax.get_title() == "64 inputs and outputs, batch of 8, 2 threads"
    assert ax.get_yscale() == "log"
    left, middle, right = ax.transData.transform([(s, 1) for s in (0.5, 0.75, 0.875)])[:, 0]
    assert middle - left == pytest.approx(right - middle)  # half of what is left is as far
    ax = pv.plot_crossover(data, at=0.2)
    assert ax.get_xlim()[0] <= 0 < 0.2  # the dashed line stands in the picture
    assert pv.plot_crossover(data).get_title().startswith("256 inputs and outputs, batch of 1,")
    assert "thread" not in pv.plot_crossover(data.drop(columns="threads")).get_title()


def test_break_evens_shows_the_table():
    table = pv.speed_break_evens(grid())
    ax = pv.plot_speed_break_evens(table)
    assert legend(ax) == [
        f"{name}, batch of {b}"
        for name in ("CSR, F.linear(x, csr)", "CSR, torch.mm(csr, x.T)")
        for b in (1, 8)
    ]
    drawn = list(ax.containers)
    assert len(drawn) == 4
    rows = table[(table["way"] == "csr_mm") & (table["batch"] == 1)]
    assert list(drawn[2].lines[0].get_ydata()) == rows["break_even"].tolist()
    assert list(drawn[2].lines[0].get_xdata()) == [64, 256]
    assert "never" not in [t.get_text() for t in ax.get_yticklabels()][:-1]


def test_what_never_breaks_even_is_an_open_sign_at_the_top():
    table = pd.DataFrame({"width": [64, 256], "batch": 1, "way": "csr_mm",
                          "break_even": [np.nan, 0.9], "below": [0.99, 0.8], "above": [np.nan, 0.95]})  # fmt: skip
    ax = pv.plot_speed_break_evens(table)
    top = ax.lines[0].get_ydata()[0]
    assert 0.99 < top < 1 and ax.get_ylim()[1] > top
    (sign,) = [x for x in ax.lines if x.get_markerfacecolor() == "none"]
    assert sign.get_xdata().tolist() == [64] and sign.get_ydata().tolist() == [top]
    ax.figure.canvas.draw()
    assert ax.get_yticklabels()[-1].get_text() == "never"
    none = pv.plot_speed_break_evens(table.assign(break_even=np.nan, above=np.nan))
    assert len([x for x in none.lines if x.get_markerfacecolor() == "none"]) == 1


def test_costs_are_three_bars_a_way():
    data = costs()
    ax = pv.plot_costs(data)
    assert len(ax.patches) == 3 * 5
    for bars, shares in zip(
        (ax.patches[:5], ax.patches[5:10], ax.patches[10:]),
        (data["bytes"] / data["bytes"][0], data["macs"] / data["macs"][0], 1 / data["latency_speedup"]),
        strict=True,
    ):  # fmt: skip
        assert [b.get_x() + b.get_width() for b in bars] == pytest.approx(shares.tolist())
    assert legend(ax) == ["bytes", "MACs", "time"]
    assert texts(ax)[:2] == ["1.29 kB", "1.29 kB"] and "312 MACs" in texts(ax)
    assert ax.get_yticklabels()[0].get_text() == "dense"
    assert len({b.get_hatch() for b in ax.patches}) == 3  # which of the three
    for bar, way in zip(
        ax.patches[5:10], data["way"], strict=True
    ):  # the same colour as in the curves
        assert same_color(bar.get_facecolor(), COLOURS.get(way, GREY))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pv.plot_bytes(pd.DataFrame({"tensor": ["whole"]})),
            "plot_bytes needs a column 'sparsity', but the frame has: tensor. Make it with "
            "pv.encodings(model).",
        ),
        (
            lambda: pv.plot_bytes(pv.encodings(mlp()), tensor="fc9.weight"),
            "`tensor` 'fc9.weight' is not in the frame. It has: 1.weight, 3.weight, rest, whole.",
        ),
        (
            lambda: pv.plot_crossover(pd.DataFrame()),
            "plot_crossover needs a column 'width', but the frame has: none. Make it with pv.crossover().",
        ),
        (
            lambda: pv.plot_crossover(grid(), width=99),
            "`width` 99 was not measured. The frame has: 64, 256.",
        ),
        (
            lambda: pv.plot_crossover(grid(), batch=2),
            "`batch` 2 was not measured. The frame has: 1, 8.",
        ),
        (
            lambda: pv.plot_speed_break_evens(grid()),
            "plot_speed_break_evens needs a column 'break_even', but the frame has: width, batch, sparsity, "
            "way, ms, speedup, latency_speedup, low, high, threads. Make it with pv.speed_break_evens(frame).",
        ),
        (
            lambda: pv.plot_costs(pd.DataFrame({"way": []})),
            "plot_costs needs a column 'bytes', but the frame has: way. Make it with "
            "pv.compare_costs(model, x, sparsity=0.9).",
        ),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with refused(message):
        call()
    assert plt.get_fignums() == []


def test_the_data_are_left_alone():
    for data, draw in ((grid(), pv.plot_crossover), (pv.speed_break_evens(grid()), pv.plot_speed_break_evens),
                       (costs(), pv.plot_costs), (thinned(0.5), pv.plot_bytes)):  # fmt: skip
        before = data.copy()
        draw(data, ax=Figure().subplots())
        pd.testing.assert_frame_equal(data, before)
    assert torch.is_grad_enabled()


def test_the_svg_of_costs_has_the_bars_and_an_empty_place_for_the_time():
    frame = costs().assign(ms=1.0, latency_speedup=[1, 1, 0.5, 2, 4], low=0.9, high=1.1)
    text = svg_of_costs(frame, label="a < b")
    root = ET.fromstring(text)
    assert root.get("aria-label") == "a < b"

    def bars(picture, name):
        found = [e for e in picture.iter() if e.get("class") == name]
        return [(float(e.get("x")), float(e.get("width"))) for e in found]

    macs = [w for _, w in bars(root, "MACs")]
    assert macs[:2] == [0, 0] and macs[2] == macs[3] > 0
    assert all(x >= 0 and x + w <= 760 for n in ("bytes", "MACs", "time") for x, w in bars(root, n))
    unknown = dict.fromkeys(("ms", "latency_speedup", "low", "high"), float("nan"))
    quick = ET.fromstring(svg_of_costs(frame.assign(**unknown), label="l"))
    assert bars(quick, "time") == []
    assert bars(quick, "MACs") == bars(root, "MACs") and quick.get("viewBox") == root.get("viewBox")


def test_the_axis_of_costs_stays_and_all_words_have_room():
    frame = costs().assign(ms=1.0, latency_speedup=[1, 1, 1e-4, 0.02, 1e5])
    frame = frame.assign(low=frame["latency_speedup"] / 1.1, high=frame["latency_speedup"] * 1.1)
    root = ET.fromstring(svg_of_costs(frame, label="l"))
    numbers = [
        (float(e.get("x")), float(e.get("width") or 0), e.text) for e in root.iter() if e.get("x")
    ]
    assert all(x >= 0 and x + w <= 760 for x, w, _ in numbers)
    times = [x for x, _, text in numbers if text and ("as fast" in text or "no diff" in text)]
    assert all(168 + 60 < x < 744 - 60 for x in times) and len(times) == 5

    def ticks(picture):
        return [(e.get("x"), e.text) for e in picture.iter() if e.text in ("0.001", "1", "100")]

    # whatever the clock of this machine says
    equal = costs().assign(ms=1.0, latency_speedup=1.0, low=0.9, high=1.1)
    plain = ET.fromstring(svg_of_costs(equal, label="l"))
    assert ticks(plain) == ticks(root) and len(ticks(root)) == 3
    ax = pv.plot_costs(equal)
    assert ax.get_xlim() == (1e-3, 1e2)


@pytest.mark.parametrize("at", [0.0, 0.7, 0.99])
def test_the_svg_of_the_crossover_stays_in_its_frame(at):
    root = ET.fromstring(svg_of_crossover(grid(), width=256, batch=8, at=at, label="l"))
    lines = [e.get("points") for e in root.iter() if e.tag.endswith("polyline")]
    assert len(lines) == 5
    numbers = [float(n) for line in lines for n in re.findall(r"-?[0-9.]+", line)]
    assert all(0 <= n <= 760 for n in numbers)
    (dashed,) = [e.get("d") for e in root.iter() if e.get("d", "").startswith("M") and "V" in e.get("d")
                 and e.get("stroke-dasharray") == "5 4" and "-" not in e.get("d")]  # fmt: skip
    left, right = 58, 500
    share = np.log(1 - at) / np.log(0.01)  # the axis is from 0 to 0.99, whatever was measured
    assert float(dashed[1:].split()[0]) == pytest.approx(
        left + (right - left) * (0.04 + share) / 1.08, abs=0.1
    )
    assert "256 inputs and outputs, batch of 8, 2 threads" in "".join(root.itertext())

from __future__ import annotations

import base64
import io
import math
import xml.etree.ElementTree as ET
from functools import partial

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import cnn, mlp, refused
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.colors import same_color, to_hex
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

import pruneviz as pv
from pruneviz.plots import svg
from pruneviz.plots.style import GREY, KEPT, PALETTE, PRUNED, figure, readable
from pruneviz.plots.weights import pruned_bins

EVIL = "<img src=x onerror=alert(1)>"


def histogram(model=None, bins=20):
    return pv.weight_histogram(model or mlp(), bins=bins)


def layer_frame(layers=("fc1", "", EVIL)):
    total = [10, 4, 8][: len(layers)]
    return pd.DataFrame({"layer": layers, "total": total, "kept": [5, 4, 0][: len(layers)]})


def swept():
    rows = [
        (c, s, seed, 1 - s / 2 + 0.1 * seed - 0.05 * (c == "lamp"))
        for c in ("magnitude", "lamp")
        for s in (0.0, 0.5, 0.9)
        for seed in (0, 1)
    ]
    return pd.DataFrame(rows, columns=["criterion", "sparsity", "seed", "metric"])


def repaired():
    rows = [("obs", r, s, 200 * (1 - s), 1 - s / 2) for r in ("none", "lstsq") for s in (0.0, 0.5)]
    columns = ["criterion", "repair", "target_sparsity", "macs", "metric"]
    return pd.DataFrame(rows, columns=columns)


def grouped():
    layers = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    return pv.find_groups(layers, torch.zeros(1, 4)).to_frame()


def crossed():
    one = {"width": 64, "batch": 1, "ms": 1.0, "speedup": 2.0, "bytes": 5, "macs": 3}
    one |= {"latency_speedup": 1.5, "low": 1.4, "high": 1.6}
    grid = [(s, way) for s in (0.5, 0.9) for way in ("dense", "csr_mm")]
    return pd.DataFrame([{**one, "sparsity": s, "way": way} for s, way in grid])


def strip(n=3):
    return {
        "data": np.arange(n * 20, dtype=float).reshape(n, 4, 5),
        "labels": list(range(n)),
        "predictions": [0] * n,
        "classes": ["cat", "dog", EVIL],
    }


PLOTS = {
    "plot_weights": lambda **k: pv.plot_weights(histogram(), threshold=0.1, **k),
    "plot_layers": lambda **k: pv.plot_layers(layer_frame(), **k),
    "plot_groups": lambda **k: pv.plot_groups(grouped(), **k),
    "plot_mask": lambda **k: pv.plot_mask(np.eye(3, dtype=bool), **k),
    "plot_tradeoff": lambda **k: pv.plot_tradeoff(swept(), **k),
    "plot_ladder": lambda **k: pv.plot_ladder(repaired(), **k),
    "plot_strip": lambda **k: pv.plot_strip(**strip(), **k),
    "plot_agreement": lambda **k: pv.plot_agreement(
        pd.DataFrame([[1.0, 0.3], [0.3, 1.0]], index=["l1", "l2"], columns=["l1", "l2"]), **k
    ),
    "plot_card": lambda **k: pv.plot_card(
        pd.DataFrame(
            {
                "criterion": ["l2", "random"],
                "group": "fc1",
                "spearman": [0.6, 0.0],
                "low": [0.5, -0.1],
                "high": [0.7, 0.1],
            }
        ),
        group="fc1",
        **k,
    ),
    "plot_damage": lambda **k: pv.plot_damage(
        pd.DataFrame(
            {
                "class": ["cat", "dog"],
                "before": [0.9, 0.8],
                "after": [0.8, 0.8],
                "lost": [0.1, 0.0],
                "low": [0.05, -0.1],
                "high": [0.15, 0.1],
            }
        ),
        **k,
    ),
    "plot_schedule": lambda **k: pv.plot_schedule([0.3, 0.6, 0.9], **k),
    "plot_pareto": lambda **k: pv.plot_pareto(
        pv.pareto(swept().assign(target_sparsity=swept()["sparsity"]), x="sparsity"),
        x="sparsity",
        **k,
    ),
    "plot_bytes": lambda **k: pv.plot_bytes(pv.encodings(mlp()), **k),
    "plot_speed_break_evens": lambda **k: pv.plot_speed_break_evens(
        pv.speed_break_evens(crossed()), **k
    ),
    "plot_costs": lambda **k: pv.plot_costs(crossed(), **k),
    "plot_crossover": lambda **k: pv.plot_crossover(crossed(), **k),
    "plot_sensitivity": lambda **k: pv.plot_sensitivity(
        pd.DataFrame({"layer": ["fc1"], "granularity": "weight", "target_sparsity": 0.5}).assign(
            metric=0.8, dense=0.9
        ),
        **k,
    ),
    "plot_inactive": lambda **k: pv.plot_inactive(np.eye(3), **k),
    "plot_redundant": lambda **k: pv.plot_redundant(
        pd.DataFrame({"similarity": [0.9, 0.4], "scale": [1.0, -0.5]}), **k
    ),
}


def test_every_plot_is_tested():
    assert set(PLOTS) == {n for n in pv.__all__ if n.startswith("plot_")}


@pytest.mark.parametrize("plot", PLOTS)
def test_given_ax_there_is_no_new_figure(plot):
    ax = Figure().subplots()
    before = plt.get_fignums()
    assert PLOTS[plot](ax=ax) is ax
    assert plt.get_fignums() == before
    assert len(ax.figure.axes) == 1
    ax.figure.savefig(io.BytesIO())


@pytest.mark.parametrize("plot", PLOTS)
def test_without_ax_there_is_one_new_figure(plot):
    ax = PLOTS[plot]()
    assert [plt.figure(n) for n in plt.get_fignums()] == [ax.figure]
    ax.figure.savefig(io.BytesIO())


@pytest.mark.parametrize("plot", PLOTS)
def test_an_ax_that_is_not_the_current_one_is_drawn_on(plot):
    _, (left, right) = plt.subplots(1, 2)
    plt.sca(right)
    PLOTS[plot](ax=left)
    assert not right.has_data()


def test_plots_leave_their_data_alone():
    for data, plot in [
        (histogram(), pv.plot_weights),
        (layer_frame(), pv.plot_layers),
        (swept(), pv.plot_tradeoff),
    ]:
        before = data.copy()
        plot(data)
        pd.testing.assert_frame_equal(data, before)


def heights(bars):
    return [bar.get_height() for bar in bars]


@pytest.mark.parametrize("threshold", [None, 0.0, 0.1, 5.0])
def test_plot_weights_shows_the_counts(threshold):
    data = histogram()
    ax = pv.plot_weights(data, threshold=threshold)
    summed = data.groupby("left")["count"].sum().sort_index()
    assert heights(ax.patches) == summed.tolist()
    np.testing.assert_allclose([b.get_x() for b in ax.patches], summed.index)
    np.testing.assert_allclose(ax.get_xlim(), (data["left"].min(), data["right"].max()))
    assert ax.get_xlabel() == "weight"
    assert ax.get_ylabel() == "number of weights"
    pruned = [same_color(b.get_facecolor(), PRUNED) for b in ax.patches]
    hatched = [bool(b.get_hatch()) for b in ax.patches]
    middles = [b.get_x() + b.get_width() / 2 for b in ax.patches]
    assert pruned == hatched == [threshold is not None and abs(m) < threshold for m in middles]
    lines = [line.get_xdata()[0] for line in ax.lines]
    assert lines == ([] if threshold is None else [-threshold, threshold])
    legend = [] if threshold is None else [t.get_text() for t in ax.get_legend().get_texts()]
    assert legend == {None: [], 0.0: ["kept"], 0.1: ["kept", "pruned"], 5.0: ["pruned"]}[threshold]


@given(hnp.arrays(np.float64, st.integers(1, 9), elements=st.floats(-3, 3)), st.floats(0, 3))
def test_a_bin_is_pruned_if_its_middle_is(left, threshold):
    right = left + 0.5
    want = [abs((a + b) / 2) < threshold for a, b in zip(left, right, strict=True)]
    assert pruned_bins(left, right, threshold).tolist() == want


def test_plot_layers_shows_the_counts():
    ax = pv.plot_layers(layer_frame())
    kept, gone = ax.containers
    assert [b.get_width() for b in kept] == [0.5, 1, 0]
    assert [b.get_width() for b in gone] == [0.5, 0, 1]
    assert [b.get_x() for b in gone] == [0.5, 1, 0]
    assert [t.get_text() for t in ax.texts] == ["5 of 10", "4 of 4", "0 of 8"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["fc1", "(model)", EVIL]
    assert all(b.get_hatch() for b in gone)
    assert ax.yaxis_inverted()  # the first layer is on top
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["kept", "pruned"]


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [((3, 4), (3, 4)), ((5,), (1, 5)), ((2, 3, 2, 2), (2, 12)), ((), (1, 1))],
)
def test_plot_mask_shows_the_mask(shape, image_shape):
    keep = np.arange(math.prod(shape)).reshape(shape) % 3 > 0
    ax = pv.plot_mask(torch.from_numpy(np.asarray(keep)))
    (image,) = ax.images
    assert image.get_array().shape == image_shape
    assert image.get_array().reshape(-1).tolist() == np.ravel(keep).astype(int).tolist()
    assert [to_hex(image.cmap(image.norm(v))).upper() for v in (0, 1)] == ["#FFFFFF", KEPT]
    assert ax.get_title() == f"{keep.sum()} of {keep.size} weights kept (blue)"


@pytest.mark.parametrize(
    ("bad", "got"),
    [
        (np.zeros((2, 3)), "float64 of shape (2, 3)"),
        (np.zeros((0, 3), bool), "bool of shape (0, 3)"),
        ([1, 0], "int64 of shape (2,)"),
    ],
)
def test_plot_mask_refuses_what_is_no_mask(bad, got):
    with refused(
        f"plot_mask draws a boolean array, but {got} was passed. "
        "Take it from a plan: plan.keep['fc1.weight']."
    ):
        pv.plot_mask(bad)
    assert plt.get_fignums() == []


def drawn(ax):
    return [line for line in ax.lines if len(line.get_xdata())]


def test_plot_tradeoff_has_no_lines_but_its_curves():
    assert len(pv.plot_tradeoff(swept()).lines) == 2


def test_plot_tradeoff_shows_a_line_a_criterion():
    data = swept()
    ax = pv.plot_tradeoff(data)
    lines = drawn(ax)
    groups = data.groupby("criterion", sort=False)
    for line, (name, part), colour in zip(lines, groups, PALETTE[:2], strict=True):
        mean = part.groupby("sparsity")["metric"].mean()
        np.testing.assert_allclose(line.get_xdata(), mean.index)
        np.testing.assert_allclose(line.get_ydata(), mean)
        assert same_color(line.get_color(), colour), name
    assert len({line.get_marker() for line in lines}) == 2  # not told by colour alone
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["magnitude", "lamp"]
    assert ax.get_legend().get_title().get_text() == "criterion"
    assert ax.get_xlabel() == "sparsity (share of weights pruned)"
    low, high = ax.collections[0].get_paths()[0].get_extents().get_points()[:, 1]
    of_magnitude = data.loc[data["criterion"] == "magnitude", "metric"]
    assert (low, high) == (pytest.approx(of_magnitude.min()), pytest.approx(of_magnitude.max()))


def test_plot_tradeoff_takes_other_columns():
    data = swept().rename(columns={"metric": "macs", "criterion": "network"})
    ax = pv.plot_tradeoff(data, x="macs", y="sparsity", hue="network")
    assert ax.get_xlabel() == "multiply-accumulates an example"
    assert ax.get_legend().get_title().get_text() == "network"


def test_plot_tradeoff_has_a_style_for_many_criteria():
    data = pd.concat([swept().assign(criterion=f"c{i}") for i in range(9)])
    assert len(drawn(pv.plot_tradeoff(data))) == 9


def test_plot_tradeoff_draws_a_real_sweep():
    frame = pv.sweep(
        mlp(),
        torch.zeros(1, 1, 6, 6),
        criteria=["lamp"],
        sparsities=[0.0, 0.5],
        evaluate=lambda m: float((m[1].weight == 0).sum()),
        progress=False,
    )
    (line,) = drawn(pv.plot_tradeoff(frame))
    assert line.get_xdata().tolist() == pytest.approx([0, 0.5])


def test_plot_strip_shows_images_and_answers():
    given_ = strip()
    ax = pv.plot_strip(**given_)
    assert [t.get_text() for t in ax.texts] == ["✓ cat", "✗ cat", "✗ cat"]
    assert [to_hex(t.get_color()).upper() for t in ax.texts] == [KEPT, PRUNED, PRUNED]
    for image, want in zip(ax.images, given_["data"], strict=True):
        np.testing.assert_array_equal(image.get_array(), want)
        left, right, low, high = image.get_extent()
        assert (right - left) / (high - low) == pytest.approx(5 / 4)
    assert not ax.axison


def test_plot_strip_takes_a_channel():
    given_ = strip()
    given_["data"] = given_["data"][:, None]
    assert pv.plot_strip(**given_).images[0].get_array().shape == (4, 5)


def test_plot_strip_in_colour_keeps_the_colours():
    given_ = strip()
    red = np.full((3, 3, 4, 5), -2.0)
    red[:, 0, 1:] = 2.0  # normalised: below zero is dark
    given_["data"] = red
    before = red.copy()
    image = pv.plot_strip(**given_).images[0].get_array()
    assert image.shape == (4, 5, 3)
    assert image[0].max() == 0
    assert image[1:].mean((0, 1)).tolist() == [1, 0, 0]
    assert (red == before).all()


STRIP = (
    "a strip needs grey images of shape (n, height, width), n ≥ 1, or in colour of shape "
    "(n, 3, height, width), but their shape is"
)
BAD_STRIPS = [
    ({"data": np.zeros((3, 2, 4, 5))}, f"{STRIP} (3, 2, 4, 5)."),
    ({"data": np.zeros((0, 3, 4, 5))}, f"{STRIP} (0, 3, 4, 5)."),
    ({"data": np.zeros((4, 5))}, f"{STRIP} (4, 5)."),
    ({"data": np.zeros((0, 4, 5))}, f"{STRIP} (0, 4, 5)."),
    (
        {"labels": [1]},
        "a strip needs one label and one prediction for each image, but there are 3 images, 1 labels "
        "and 3 predictions.",
    ),
    (
        {"predictions": []},
        "a strip needs one label and one prediction for each image, but there are 3 images, 3 labels "
        "and 0 predictions.",
    ),
]


@pytest.mark.parametrize(("bad", "message"), BAD_STRIPS)
def test_plot_strip_refuses_what_does_not_fit(bad, message):
    with refused(message):
        pv.plot_strip(**{**strip(), **bad})
    assert plt.get_fignums() == []


MISSING = [
    (pv.plot_weights, histogram, "left", "plot_weights needs a column 'left', but the frame has: layer, right, count. Make it with pv.weight_histogram(model)."),
    (pv.plot_weights, histogram, "count", "plot_weights needs a column 'count', but the frame has: layer, left, right. Make it with pv.weight_histogram(model)."),
    (pv.plot_layers, layer_frame, "kept", "plot_layers needs a column 'kept', but the frame has: layer, total. Make it with plan.to_frame()."),
    (pv.plot_layers, layer_frame, "layer", "plot_layers needs a column 'layer', but the frame has: total, kept. Make it with plan.to_frame()."),
    (pv.plot_tradeoff, swept, "metric", "plot_tradeoff needs a column 'metric', but the frame has: criterion, sparsity, seed. Make it with pv.sweep(model, …)."),
    (partial(pv.plot_tradeoff, x="macs"), swept, "seed", "plot_tradeoff needs a column 'macs', but the frame has: criterion, sparsity, metric. Make it with pv.sweep(model, …)."),
]  # fmt: skip


@pytest.mark.parametrize(("plot", "data", "column", "message"), MISSING)
def test_a_missing_column_is_named(plot, data, column, message):
    with refused(message):
        plot(data().drop(columns=column))
    assert plt.get_fignums() == []


@pytest.mark.parametrize("plot", [pv.plot_weights, pv.plot_layers, pv.plot_tradeoff])
def test_what_is_no_frame_is_refused(plot):
    with refused(f"{plot.__name__} needs a DataFrame, but a list was passed."):
        plot([1, 2])
    with pytest.raises(pv.ArgumentError, match=r"but the frame has: none\. Make it with"):
        plot(pd.DataFrame())


@pytest.mark.parametrize("threshold", [-0.1, math.nan, "0.1", True])
def test_a_bad_threshold_is_refused(threshold):
    with refused(f"`threshold` must be a number ≥ 0, but {threshold!r} was passed."):
        pv.plot_weights(histogram(), threshold=threshold)


@given(
    hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-9, 9, width=32)),
    st.integers(2, 9),
)
def test_a_weight_histogram_counts_every_weight_that_is_not_zero(values, bins):
    layer = nn.Linear(len(values), 1)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(values)[None])
    frame = pv.weight_histogram(layer, bins=bins)
    assert list(frame.columns) == ["layer", "left", "right", "count"]
    assert len(frame) == bins + bins % 2
    assert frame["count"].sum() == np.count_nonzero(values)
    # 0 is an edge, so that no bin holds weights of both signs
    assert frame.loc[frame["left"] >= 0, "count"].sum() == (values > 0).sum()
    assert frame.loc[frame["right"] <= 0, "count"].sum() == (values < 0).sum()
    if values.any():
        assert frame["right"].max() == -frame["left"].min() == pytest.approx(np.abs(values).max())


def test_a_weight_histogram_has_the_same_bins_for_all_layers():
    frame = histogram(cnn(), bins=6)
    assert frame["layer"].tolist() == ["0"] * 6 + ["5"] * 6
    first, second = (part[["left", "right"]].to_numpy() for _, part in frame.groupby("layer"))
    np.testing.assert_array_equal(first, second)


def test_a_weight_histogram_leaves_masked_weights_out():
    model = mlp()
    plan = pv.select(pv.score(model, "magnitude"), sparsity=0.75)
    assert histogram(pv.mask(model, plan))["count"].sum() == plan.kept


def test_a_weight_histogram_has_one_row_a_layer_and_bin():
    frame = histogram(nn.MultiheadAttention(4, 1, kdim=3, vdim=2), bins=4)
    assert frame["layer"].tolist() == [""] * 4 + ["out_proj"] * 4
    assert frame.groupby("layer")["count"].sum().tolist() == [16 + 12 + 8, 16]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_histogram_of_no_numbers_is_refused(bad):
    layer = nn.Linear(2, 1)
    with torch.no_grad():
        layer.weight[0, 1] = bad
    with refused(
        "'weight' contains NaN or infinity. Train it anew, or load a sound checkpoint."
    ):  # fmt: skip
        pv.weight_histogram(layer)


@pytest.mark.parametrize("bins", [1, 2.5, "9"])
def test_a_bad_number_of_bins_is_refused(bins):
    with refused(f"`bins` must be a whole number ≥ 2, but {bins!r} was passed."):
        pv.weight_histogram(mlp(), bins=bins)


def test_a_picture_can_be_read_on_light_and_on_dark_pages():
    with figure(4, 3) as (fig, ax):
        pv.plot_tradeoff(swept(), ax=ax)
        ax.plot([0, 1], [0, 1], color="black")
    assert plt.get_fignums() == []
    assert readable(fig) is fig
    assert same_color(ax.title.get_color(), GREY)
    assert same_color(ax.spines["left"].get_edgecolor(), GREY)
    assert same_color(ax.lines[-1].get_color(), GREY)
    assert same_color(ax.lines[0].get_color(), KEPT)


@pytest.mark.parametrize("draw_first", [False, True])
def test_ticks_can_be_read_on_dark_pages_minor_ones_too(draw_first):
    with figure(4, 3) as (fig, ax):
        ax.plot([1, 5], [2, 8])
        ax.set_yscale("log")
    if draw_first:
        fig.draw_without_rendering()
    readable(fig).draw_without_rendering()
    ticks = [
        t
        for a in (ax.xaxis, ax.yaxis)
        for m in (False, True)
        for t in a.get_major_ticks() + a.get_minor_ticks()
    ]
    assert len(ax.yaxis.get_minor_ticks()) > 3
    assert {t.tick1line.get_markeredgecolor() for t in ticks} == {GREY}
    assert {t.label1.get_color() for t in ticks} == {GREY}


# pictures as SVG text


def parsed(text):
    """Parse SVG text; return its root and every text in it."""
    root = ET.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.get("role") == "img"
    return root, ["".join(t.itertext()) for t in root.iter("{http://www.w3.org/2000/svg}text")]


def test_svg_strip_carries_the_answers():
    uris = svg.image_uris(strip()["data"])
    text = svg.strip(
        uris, labels=[0, 1, 1], predictions=[0, 2, 0], classes=["a&b", "c", EVIL], label="it's <b>"
    )
    root, texts = parsed(text)
    # a name too long for its place is cut, and whole where the pointer rests
    assert texts == ["✓ a&b", f"{EVIL}✗ {EVIL[:10].rstrip()}…", "✗ a&b"]
    assert "<img" not in text
    assert "<b>" not in text
    assert root.get("aria-label") == "it's <b>"
    images = list(root.iter("{http://www.w3.org/2000/svg}image"))
    assert [i.get("href") for i in images] == uris
    frames = list(root.iter("{http://www.w3.org/2000/svg}rect"))
    assert [f.get("stroke") for f in frames] == [KEPT, PRUNED, PRUNED]
    assert [bool(f.get("stroke-dasharray")) for f in frames] == [False, True, True]


@given(st.text(alphabet=st.characters(min_codepoint=32, codec="utf-8"), max_size=30))
def test_svg_shows_any_name(name):
    for text in (svg.strip(["data:,"], labels=[0], predictions=[0], classes=[name], label=name),):
        root, texts = parsed(text)
        assert root.get("aria-label") == name
    assert texts


@pytest.mark.parametrize("shape", [(2, 4, 5), (2, 1, 4, 5)])
def test_image_uris_are_the_images_dark_on_white(shape):
    images = np.zeros(shape, np.float32)
    images[1, ..., 0, 0] = 1
    uris = svg.image_uris(images)
    head = "data:image/png;base64,"
    assert all(uri.startswith(head) for uri in uris)
    pixels = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.removeprefix(head)))).convert("L"))
        for uri in uris
    ]
    assert [p.shape for p in pixels] == [(4, 5), (4, 5)]
    assert pixels[1][0, 0] == 0
    assert pixels[1][1, 1] == 255


def test_image_uris_in_colour():
    images = np.zeros((1, 3, 2, 2), np.float32)
    images[0, :, 0, 0] = 8, 4, 0
    uri = svg.image_uris(images)[0].removeprefix("data:image/png;base64,")
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))).convert("RGB"))
    assert pixels[0, 0].tolist() == [255, 127, 0]
    assert pixels[1, 1].tolist() == [0, 0, 0]


def test_image_uris_refuse_what_are_no_images():
    with refused(f"{STRIP} (4, 5)."):
        svg.image_uris(np.zeros((4, 5)))


FINITE = st.floats(-1e6, 1e6)


@given(FINITE, st.floats(1e-3, 1e6), st.integers(1, 12))
def test_nice_values_are_few_even_round_and_inside(low, span, most):
    high = low + max(span, abs(low) * 1e-3)
    values = svg.round_ticks(low, high, most)
    assert len(values) <= most + 1
    tolerance = 1e-6 * (high - low)
    assert all(low - tolerance <= v <= high + tolerance for v in values)
    steps = np.diff(values)
    if len(steps):
        np.testing.assert_allclose(steps, steps[0], rtol=1e-6)
        digit = steps[0] / 10 ** math.floor(math.log10(steps[0] * (1 + 1e-9)))
        assert min(abs(digit - d) for d in (1, 2, 5, 10)) < 1e-6
    if most >= 5:
        assert len(values) >= 2


def test_nice_of_no_range_is_its_only_value():
    assert svg.round_ticks(2.0, 2.0, 5) == [2.0]
    assert svg.round_ticks(0, 1, 4) == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1, 1e6, 1e15])
def test_nice_values_are_the_same_at_every_scale(scale):
    got = svg.round_ticks(-0.3 * scale, 0.3 * scale, 6)
    np.testing.assert_allclose(
        got, np.array([-0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3]) * scale, atol=1e-9 * scale
    )


TEX = r"$\frac{$"  # half a formula: matplotlib raises when it draws it
SECOND = "a$b$"  # and a whole one, which it would draw as another name


def math_groups():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    frame = pv.find_groups(model, torch.zeros(1, 4)).to_frame()
    return frame.assign(group=TEX, layer=frame["layer"].map({"0": TEX, "2": SECOND}))


def card_frame():
    rows = {"criterion": [TEX, SECOND], "group": TEX, "spearman": 0.6, "low": 0.5, "high": 0.7}
    return pd.DataFrame(rows)


def damage():
    numbers = {"before": 0.9, "after": 0.8, "lost": 0.1, "low": 0.0, "high": 0.2}
    return pd.DataFrame({"class": [TEX, SECOND], **numbers})


def sensitivities(layers):
    data = pd.DataFrame({"layer": layers, "granularity": "weight", "target_sparsity": 0.5})
    return data.assign(metric=0.8, dense=0.9)


def paretos():
    data = swept().replace({"magnitude": TEX, "lamp": SECOND})
    return pv.pareto(data.assign(target_sparsity=data["sparsity"]), x="sparsity")


def rounds():
    columns = {"round": [0, 1], "sparsity": [0.0, 0.5], "metric": 0.9, "metric_untuned": 0.8}
    return pd.concat([pd.DataFrame({**columns, "schedule": n}) for n in (TEX, SECOND)])


NAMED_BY_USERS = {
    "layers": lambda ax: pv.plot_layers(layer_frame((TEX, SECOND)), ax=ax),
    "groups": lambda ax: pv.plot_groups(math_groups(), ax=ax),
    "tradeoff": lambda ax: pv.plot_tradeoff(
        swept().replace({"magnitude": TEX, "lamp": SECOND}), ax=ax
    ),
    "strip": lambda ax: pv.plot_strip(
        **{**strip(2), "predictions": [0, 1], "classes": [TEX, SECOND]}, ax=ax
    ),
    "agreement": lambda ax: pv.plot_agreement(
        pd.DataFrame(np.eye(2), index=[TEX, SECOND], columns=[TEX, SECOND]), ax=ax
    ),
    "card": lambda ax: pv.plot_card(card_frame(), group=TEX, ax=ax),
    "ranks": lambda ax: pv.plots.card.plot_ranks(
        [1, 2, 3], [1, 2, 3], criterion=TEX, group=SECOND, layers=[TEX, SECOND, SECOND], ax=ax
    ),
    "choices": lambda ax: pv.plots.card.plot_choices(
        pd.DataFrame({"criterion": [TEX, SECOND], "metric": [0.8, 0.9], "repair": "none"}), ax=ax
    ),
    "damage": lambda ax: pv.plot_damage(damage(), ax=ax),
    "schedule": lambda ax: pv.plot_schedule(rounds(), ax=ax),
    "schedule's metric": lambda ax: pv.plot_schedule(rounds(), y="metric", ax=ax),
    "pareto": lambda ax: pv.plot_pareto(paretos(), x="sparsity", ax=ax),
    "costs": lambda ax: pv.plot_costs(
        crossed().iloc[:2].assign(way=[TEX, SECOND]), ax=ax
    ),
    "sensitivity": lambda ax: pv.plot_sensitivity(sensitivities([TEX, SECOND]), ax=ax),
    "sensitivity of many": lambda ax: pv.plot_sensitivity(
        sensitivities([TEX, SECOND, *"abcdefgh"]), ax=ax
    ),
    "inactive": lambda ax: pv.plot_inactive(
        np.eye(2), labels=[0, 1], classes=[TEX, SECOND], ax=ax
    ),
}  # fmt: skip


@pytest.mark.parametrize("plot", NAMED_BY_USERS)
def test_names_are_written_as_they_are(plot):
    ax = Figure(figsize=(9, 7)).subplots()
    NAMED_BY_USERS[plot](ax)
    out = io.StringIO()
    with plt.rc_context({"svg.fonttype": "none"}):
        ax.figure.savefig(out, format="svg")
    written = "".join(ET.fromstring(out.getvalue()).itertext())
    assert TEX in written and SECOND in written


@pytest.mark.parametrize("name", [TEX, SECOND])
def test_panels_draw_layers_of_any_name(name):
    model = nn.Sequential()
    for n, m in ((name, nn.Linear(4, 6)), ("relu", nn.ReLU()), ("last", nn.Linear(6, 3))):
        model.add_module(n, m)
    x, y = torch.randn(8, 4), torch.arange(8) % 3
    panels = [
        pv.panel_weights(model),
        pv.panel_neurons(model, x),
        pv.panel_whatif(model, [(x, y)]),
        pv.panel_redundant(model, x, batches=[(x, y)]),
        pv.panel_inactive(model, [(x, y)]),
    ]
    for panel in panels:
        panel.figure().savefig(io.BytesIO())
        panel.close()

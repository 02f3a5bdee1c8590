from __future__ import annotations

import ipywidgets as widgets
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers import refused

import pruneviz as pv

WAYS = {"linear": [0.45, 0.9], "cubic": [0.7875, 0.9]}


def frame(seeds=(0, 1)):
    rows = [
        (kind, 0.9, seed, i, s, u + seed / 100, m + seed / 100)
        for seed in seeds
        for kind, way in WAYS.items()
        for i, (s, u, m) in enumerate(
            zip([0, *way], [0.9, 0.6, 0.5], [0.9, 0.85, 0.8], strict=True)
        )
    ]
    columns = ["schedule", "end", "seed", "round", "sparsity", "metric_untuned", "metric"]
    return pd.DataFrame(rows, columns=columns)


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


def lines(ax):
    return {line.get_label(): line.get_ydata().tolist() for line in ax.lines}


@pytest.mark.parametrize("data", [WAYS, frame()])
def test_sparsity_over_rounds(ax, data):
    assert pv.plot_schedule(data, ax=ax) is ax
    assert plt.get_fignums() == [ax.figure.number]
    assert lines(ax) == {k: [0, *w] for k, w in WAYS.items()}
    assert ax.lines[0].get_xdata().tolist() == [0, 1, 2]
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("round", "sparsity")
    assert [t.get_text() for t in ax.get_legend().get_texts()] == list(WAYS)


def test_one_schedule_needs_no_legend(ax):
    pv.plot_schedule([0.5, 0.75], ax=ax)
    assert ax.get_legend() is None
    assert list(lines(ax).values()) == [[0, 0.5, 0.75]]


def test_density_is_drawn_on_a_logarithmic_axis(ax):
    pv.plot_schedule(WAYS, y="density", ax=ax)
    assert ax.get_yscale() == "log"
    assert lines(ax)["linear"] == pytest.approx([1, 0.55, 0.1])
    ax.figure.canvas.draw()
    low, high = ax.get_ylim()
    ticks = [t for t in ax.get_yticks() if low <= t <= high]
    assert ticks == pytest.approx([0.1, 0.2, 0.5, 1])
    assert not len(ax.get_yticks(minor=True))


def test_a_cut_is_upright_and_tuning_is_level(ax):
    pv.plot_schedule(WAYS, ax=ax)
    assert {line.get_drawstyle() for line in ax.lines} == {"steps-pre"}


def test_the_metric_falls_at_a_cut_and_rises_in_tuning(ax):
    pv.plot_schedule(frame(), y="metric", ax=ax)
    line = ax.lines[0]
    assert line.get_xdata() == pytest.approx([0, 0, 1, 1, 2])
    assert line.get_ydata() == pytest.approx([0.905, 0.605, 0.855, 0.505, 0.805])
    assert line.get_markevery() == [0, 2, 4]
    (low, high) = ax.collections[0].get_segments()[2]
    assert (low[1], high[1]) == pytest.approx((0.8, 0.81))
    hollow = ax.collections[1]
    assert hollow.get_offsets().tolist() == pytest.approx(np.array([[0, 0.605], [1, 0.505]]))
    assert not len(hollow.get_facecolor())


def test_one_stands_out(ax):
    pv.plot_schedule(WAYS, chosen="cubic", ax=ax)
    faint, loud = ax.lines
    assert (faint.get_alpha(), loud.get_alpha()) == (0.7, 1)
    assert faint.get_color() != loud.get_color()


def test_the_frame_of_a_run_can_be_drawn_as_it_is(ax):
    one = frame(seeds=[0]).query("schedule == 'linear'").drop(columns=["schedule", "seed", "end"])
    pv.plot_schedule(one, y="metric", ax=ax)
    assert len(ax.lines) == 1 and ax.get_legend() is None


SOURCE = "Make it with pv.prune_iteratively(model, …).frame."


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (frame().drop(columns="sparsity"), {}, f"plot_schedule needs a column 'sparsity', but the frame has: schedule, end, seed, round, metric_untuned, metric. {SOURCE}"),
        (frame().drop(columns="metric_untuned"), {"y": "metric"}, f"plot_schedule needs a column 'metric_untuned', but the frame has: schedule, end, seed, round, sparsity, metric. {SOURCE}"),
        ([0.5], {"y": "metric"}, f"a metric is drawn from a DataFrame. {SOURCE}"),
        ({}, {}, "there is nothing to draw: `data` is empty."),
        (frame()[:0], {}, "there is nothing to draw: `data` is empty."),
        (WAYS, {"y": "sparse"}, "`y` 'sparse' is unknown. Did you mean 'sparsity'? Known: density, metric, sparsity."),
        (WAYS, {"chosen": "cubik"}, "`chosen` 'cubik' is unknown. Did you mean 'cubic'? Known: cubic, linear."),
    ],
)  # fmt: skip
def test_a_bad_call_is_refused(ax, data, options, message):
    with refused(message):
        pv.plot_schedule(data, ax=ax, **options)


def test_the_panel_answers():
    more = pd.concat([frame(), frame().query("schedule == 'cubic'").assign(end=0.98)])
    panel = pv.panel_schedule(more, name="accuracy")
    assert (panel.controls["schedule"].value, panel.controls["end"].value) == ("linear", 0.98)
    assert panel.sentence == "No run of linear to sparsity 0.98 was recorded."
    assert panel.figure() is not None
    panel.controls["end"].value = 0.9
    assert panel.result["sparsities"] == WAYS["linear"]
    assert panel.result["cuts"] == pytest.approx([0.45, 1 - 0.1 / 0.55], abs=1e-6)
    got = [panel.result[k] for k in ("before", "metric", "low", "high")]
    assert got == pytest.approx([0.905, 0.805, 0.8, 0.81])
    assert panel.sentence == (
        "linear to sparsity 0.9: the last of 2 cuts took 82% of what was left; accuracy 0.905 before, "
        "0.805 in the end (0.800 to 0.810)."
    )
    (view, _) = [w for w in panel.children if isinstance(w, widgets.HTML)]
    assert f'alt="{panel.sentence}"' in view.value
    before = view.value
    panel.controls["schedule"].value = "cubic"
    assert view.value != before
    assert panel.figure().axes[1].get_ylabel() == "accuracy"
    assert panel.result["cuts"][1] == pytest.approx(1 - 0.1 / 0.2125, abs=1e-6)
    assert [line.get_alpha() for line in panel.figure().axes[0].lines] == [0.7, 1]
    bundle, metadata = panel._repr_mimebundle_()
    assert bundle["text/plain"] == panel.sentence == metadata["image/png"]["alt"]
    panel.close()


def test_the_panel_goes_back_and_says_its_code():
    name = "<img src=x onerror=alert(1)>"
    runs = frame().replace({"schedule": {"cubic": name}})
    panel = pv.panel_schedule(runs)
    for kind in ("linear", name):
        panel.controls["schedule"].value = kind
        names = {"runs": runs}
        exec(panel.to_python(), names)
        means = names["chosen"].groupby("round")["metric"].mean()
        assert means.iloc[-1] == panel.result["metric"] and means.iloc[0] == panel.result["before"]
        assert [line.get_alpha() for line in names["ax"].lines].count(1) == 1
    assert name not in panel._view.value and name in panel.sentence
    panel.undo()
    assert panel.result["schedule"] == panel.controls["schedule"].value == "linear"
    panel.close()
    plt.close("all")


def test_one_cut_is_the_only_one():
    once = frame().query("round < 2").assign(schedule="one-shot")
    panel = pv.panel_schedule(once)
    assert panel.sentence.startswith("one-shot to sparsity 0.9: the only cut took ")
    panel.close()


def test_the_panel_needs_its_columns():
    with refused(f"panel_schedule needs a column 'end', but the frame has: schedule, seed, round, sparsity, metric_untuned, metric. {SOURCE}"):  # fmt: skip
        pv.panel_schedule(frame().drop(columns="end"))

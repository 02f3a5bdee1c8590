"""What is lost against what is saved."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import pruneviz as pv
from pruneviz.plots import tradeoff as plot

EVIL = "<img src=x onerror=alert(1)>"


def swept(**columns):
    rows = [
        (c, t, s, m, a + 0.01 * s)
        for c, t, m, a in [
            ("l2", 0.0, 100, 0.90), ("l2", 0.5, 50, 0.80), ("l2", 0.9, 10, 0.30),
            ("obs", 0.0, 100, 0.90), ("obs", 0.5, 50, 0.89), ("obs", 0.9, 10, 0.85),
        ]
        for s in (0, 1, 2)
    ]  # fmt: skip
    names = ["criterion", "target_sparsity", "seed", "macs", "metric"]
    return pd.DataFrame(rows, columns=names).assign(**columns)


def test_a_point_is_the_mean_of_its_seeds_with_the_lowest_and_the_highest():
    points = pv.pareto(swept())
    assert len(points) == 6 and set(points["seeds"]) == {3}
    last = points.iloc[-1]
    assert (last["curve"], last["macs"]) == ("obs", 10)
    assert last[["metric", "low", "high"]].tolist() == pytest.approx([0.86, 0.85, 0.87])


def test_the_front_is_what_nothing_beats():
    points = pv.pareto(swept())
    front = points[points["pareto"]]
    # the dense network stands in both curves: equal points do not beat each other
    assert front[["curve", "macs"]].values.tolist() == [
        ["l2", 100], ["obs", 100], ["obs", 50], ["obs", 10]]  # fmt: skip


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_the_front_by_brute_force(pairs):
    data = pd.DataFrame(
        [("a", i / 100, float(x), y / 10) for i, (x, y) in enumerate(pairs)],
        columns=["criterion", "target_sparsity", "macs", "metric"],
    )
    points = pv.pareto(data)
    for _, p in points.iterrows():
        better = points[(points["macs"] <= p["macs"]) & (points["metric"] >= p["metric"])]
        strictly = (better["macs"] < p["macs"]) | (better["metric"] > p["metric"])
        assert p["pareto"] == (not strictly.any())
    cheapest = points[points["macs"] == points["macs"].min()]
    assert cheapest["pareto"].any()


def test_one_seed_keeps_the_interval_that_the_sweep_measured():
    one = swept().query("seed == 0").assign(low=0.2, high=0.95)
    assert set(pv.pareto(one)["low"]) == {0.2} and set(pv.pareto(one)["high"]) == {0.95}
    three = swept().assign(low=0.0, high=1.0)
    assert pv.pareto(three)["low"].min() > 0


def test_what_varies_names_the_curves():
    both = pd.concat([swept(repair="none"), swept(repair="lstsq")], ignore_index=True)
    assert set(pv.pareto(both)["curve"]) == {"l2, none", "l2, lstsq", "obs, none", "obs, lstsq"}
    assert set(pv.pareto(both, by="repair")["curve"]) == {"none", "lstsq"}


def test_rows_without_a_cost_do_not_count():
    data = swept()
    data.loc[data["criterion"] == "l2", "macs"] = None
    assert set(pv.pareto(data)["curve"]) == {"obs"}


def test_the_frame_is_not_changed():
    data = swept()
    before = data.copy()
    pv.pareto(data)
    pv.choose(data, at_most={"macs": 50})
    pv.plot_tradeoff(data, x="macs")
    plt.close("all")
    pd.testing.assert_frame_equal(data, before)


def test_three_customers():
    points = pv.pareto(swept())
    phone = pv.choose(points, at_most={"macs": 10})
    assert (phone["curve"], phone["macs"]) == ("obs", 10)
    clinic = pv.choose(points, at_least={"metric": 0.895}, best="-macs")
    assert (clinic["curve"], clinic["macs"]) == ("obs", 50)
    both = pv.choose(points, at_most={"macs": 60}, at_least={"metric": 0.5})
    assert both["metric"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda d: pv.choose(d, at_most={"macs": 5}, at_least={"metric": 0.8}), "no row is within all limits. The nearest row has macs 10 (limit: at most 5), metric 0.85 (limit: at least 0.8)."),
        (lambda d: pv.choose(d, at_most={"bytes": 5}), "choose needs a column 'bytes', but the frame has: criterion, target_sparsity, seed, macs, metric. Make it with pv.sweep(model, …)."),
        (lambda d: pv.choose(d, at_most={"macs": "few"}), "`macs` must be a number, but 'few' was passed."),
        (lambda d: pv.choose(d[:0]), "`data` has no rows. Make it with pv.sweep(model, …)."),
        (lambda d: pv.pareto(d[:0]), "`data` has no rows. Make it with pv.sweep(model, …)."),
        (lambda d: pv.pareto(d, x="bytes"), "pareto needs a column 'bytes', but the frame has: criterion, target_sparsity, seed, macs, metric. Make it with pv.sweep(model, …)."),
        (lambda d: pv.pareto(d, by=[]), "`by` is empty. Name at least one column, such as 'criterion'."),
        (lambda d: pv.pareto(d.assign(macs=float("nan"))), "columns 'macs' and 'metric' have no row in which both are numbers."),
        (lambda d: pv.plot_pareto(d), "plot_pareto needs a column 'curve', but the frame has: criterion, target_sparsity, seed, macs, metric. Make it with pv.pareto(data)."),
        (lambda d: pv.panel_tradeoff(d.assign(macs=1)), "`data` has no cost that varies. It needs one of macs, bytes, params, nonzero, latency_ms; make it with pv.sweep(model, …)."),
        (lambda d: pv.panel_tradeoff(d, x="bytes"), "panel_tradeoff needs a column 'bytes', but the frame has: criterion, target_sparsity, seed, macs, metric. Make it with pv.sweep(model, …)."),
        (lambda d: pv.panel_tradeoff(d, budget=50), "`budget` must be a number in [0, 1], but 50 was passed."),
        (lambda d: pv.panel_tradeoff([1]), "panel_tradeoff needs a DataFrame, but a list was passed."),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with pytest.raises(pv.ArgumentError) as error:
        call(swept())
    assert str(error.value) == message


def test_the_artists_carry_the_data():
    points = pv.pareto(swept())
    _, ax = plt.subplots()
    assert pv.plot_pareto(points, budget=30, log=True, ax=ax) is ax
    assert plt.get_fignums() == [ax.figure.number]
    first, second, front, line = ax.lines
    assert first.get_xdata().tolist() == [100, 50, 10]
    assert second.get_ydata().tolist() == pytest.approx([0.91, 0.90, 0.86])
    assert front.get_xdata().tolist() == [10, 50, 100, 100]
    assert list(line.get_xdata()) == [30, 30] and ax.get_xscale() == "log"
    assert len(ax.collections) == 2
    plt.close("all")


def test_seeds_of_different_cost_make_one_line():
    data = swept()
    data["macs"] += data["seed"]
    ax = pv.plot_tradeoff(data, x="macs")
    lines = [line for line in ax.lines if len(line.get_xdata())]
    assert [sorted(line.get_xdata()) for line in lines] == [[11, 51, 101]] * 2
    plt.close("all")


@pytest.mark.parametrize("log", [False, True])
def test_the_svg_says_what_it_shows(log):
    points = pv.pareto(swept(criterion=EVIL))
    text = plot.svg(points, x="macs", y="metric", budget=50, log=log, chosen=points.iloc[0], label="a < b")  # fmt: skip
    root = ET.fromstring(text)
    assert root.get("aria-label") == "a < b" and EVIL not in text
    numbers = re.findall(r"-?\d+\.\d", "".join(e.get("points", "") for e in root.iter()))
    assert numbers and all(-1 <= float(n) <= plot.WIDTH for n in numbers)


def test_nine_curves_have_nine_signs_and_one_point_is_a_picture():
    many = pd.concat([swept(criterion=f"c{i}") for i in range(9)])
    points = pv.pareto(many)
    ET.fromstring(plot.svg(points, x="macs", y="metric", budget=1e9, log=False, chosen=None, label="l"))  # fmt: skip
    one = points[:1]
    for log in (False, True):
        ET.fromstring(plot.svg(one, x="macs", y="metric", budget=0, log=log, chosen=None, label="l"))  # fmt: skip


def test_the_panel_answers():
    data = swept()
    data["bytes"] = 4 * data["macs"] + 100
    panel = pv.panel_tradeoff(data)
    assert list(dict(panel.controls["x"].options).values()) == ["macs", "bytes"]
    assert panel.result["limit"] == 100 and panel.result["not_beaten"] == 4
    panel.controls["budget"].value = 0.5
    assert panel.result["point"]["curve"] == "obs" and panel.result["point"]["macs"] == 50
    assert panel.result["each"] == pytest.approx({"l2": 0.81, "obs": 0.90})
    panel.controls["curve"].value = "l2"
    assert panel.result["point"]["curve"] == "l2"
    assert "beaten by another" in panel.sentence
    panel.controls["budget"].value = 0.05
    assert panel.result["point"] is None and "no point is that cheap" in panel.sentence
    assert panel.result["each"] == {"l2": None, "obs": None}
    before = panel._view.value
    panel.controls["log"].value = True
    assert panel._view.value != before
    panel.controls["x"].value = "bytes"
    assert panel.result["x"] == "bytes" and panel.result["limit"] == pytest.approx(25)
    assert panel.figure().axes[0].get_xscale() == "log"
    panel.controls["budget"].value = 1
    assert len(panel.figure().axes[0].lines) == 5
    panel.close()


def test_the_panel_starts_at_the_given_setting():
    panel = pv.panel_tradeoff(swept(), x="macs", by="criterion", budget=0.1)
    assert panel.result["limit"] == pytest.approx(10) and panel.result["point"]["macs"] == 10
    panel.close()
    constant = pv.panel_tradeoff(swept(bytes=7), x="bytes")
    assert constant.result["limit"] == 7
    constant.close()


def test_the_quality_can_be_chosen():
    data = swept(metric_untuned=0.5, metric_words="good", metric_none=float("nan"))
    data.loc[data["target_sparsity"] == 0.9, "metric_untuned"] = 0.7
    panel = pv.panel_tradeoff(data, y="metric_untuned")
    assert panel.controls["y"].options == ("metric_untuned", "metric")
    assert panel.result["point"]["metric_untuned"] == pytest.approx(0.7)
    assert panel.result["y"] == "metric_untuned"
    panel.controls["y"].value = "metric"
    assert panel.result["point"]["metric"] == pytest.approx(0.91)
    assert panel.figure().axes[0].get_ylabel() == "metric" and ">metric<" in panel._view.value
    panel.undo()
    assert panel.result["y"] == panel.controls["y"].value == "metric_untuned"
    panel.redo()
    assert panel.result["y"] == "metric"
    panel.close()


@pytest.mark.parametrize("share", [0.01, 0.1, 0.29, 0.58, 1.0])
@pytest.mark.parametrize("curve", ["all curves", "l2", EVIL])
def test_its_code_chooses_the_same_point(share, curve):
    """A cost of 29 of 100 is within a budget of 0.29, whatever the last digit of the product is."""
    data = pd.concat([swept(), swept(criterion=EVIL)]).replace({"macs": {50: 29}})
    panel = pv.panel_tradeoff(data, budget=share)
    panel.controls["curve"].value = curve
    names = {"data": data}
    exec(panel.to_python(), names)
    point = panel.result["point"]
    assert (names["point"] is None) == (point is None) == (share < 0.1)
    if point is not None:
        assert names["point"].to_dict() == point
        assert point["macs"] == {0.1: 10, 0.29: 29, 0.58: 29, 1.0: 100}[share]
    assert EVIL not in panel._view.value
    panel.close()
    plt.close("all")


def test_a_hand_on_the_budget_is_answered_at_once():
    panel = pv.panel_tradeoff(swept())
    panel.controls["budget"].set_state({"value": 0.5})
    assert panel._result["point"]["macs"] == 50 and "measuring" not in panel._view.value
    panel.close()

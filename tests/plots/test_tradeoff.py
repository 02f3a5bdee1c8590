"""The ladder of repairs as curves: order, words, shares, and what is refused."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
import pytest

import pruneviz as pv
from pruneviz.plots.tradeoff import RUNGS
from pruneviz.pruning.repair import ladder


def swept(rungs=("distil", "none", "lstsq"), seeds=(0, 1)) -> pd.DataFrame:
    rows = [
        ("obs", r, seed, s, round(200 * (1 - s)), 0.9 - s * (0.5 - 0.1 * i) + 0.01 * seed)
        for i, r in enumerate(rungs) for s in (0.0, 0.4, 0.8) for seed in seeds
    ]  # fmt: skip
    columns = ["criterion", "repair", "seed", "target_sparsity", "macs", "metric"]
    return pd.DataFrame(rows, columns=columns)


def test_one_line_a_rung_from_the_lowest_to_the_highest() -> None:
    data = swept()
    before = data.copy()
    ax = pv.plot_ladder(data)
    words = [t.get_text() for t in ax.get_legend().get_texts()]
    assert words == ["nothing", "least squares", "distillation"]
    for line, rung in zip(ax.lines, ("none", "lstsq", "distil"), strict=True):
        part = data[data["repair"] == rung].groupby("macs")["metric"].mean()
        assert line.get_xdata().tolist() == pytest.approx([0.2, 0.6, 1.0])
        assert line.get_ydata().tolist() == pytest.approx(part.tolist())
    pd.testing.assert_frame_equal(data, before)
    plt.close("all")


def test_the_macs_of_the_whole_model_are_passed_or_read() -> None:
    data = swept()
    cut = data[data["target_sparsity"] > 0]
    assert pv.plot_ladder(cut, macs=400).lines[0].get_xdata().tolist() == pytest.approx([0.1, 0.3])
    with pytest.raises(
        pv.ArgumentError, match=r"no row of sparsity 0. Pass macs=pv.measure\(model, x\).macs"
    ):
        pv.plot_ladder(cut)
    with pytest.raises(pv.ArgumentError, match="`macs` must be a whole number"):
        pv.plot_ladder(cut, macs=0)
    plt.close("all")


def test_one_criterion_at_a_time() -> None:
    data = pd.concat([swept(), swept().assign(criterion="l2")])
    with pytest.raises(
        pv.ArgumentError, match=r"has 2. Pass one of them: data\[data\['criterion'\] == 'obs'\]"
    ):
        pv.plot_ladder(data)
    assert len(pv.plot_ladder(data[data["criterion"] == "obs"]).lines) == 3
    with pytest.raises(pv.ArgumentError, match="repair"):
        pv.plot_ladder(data.drop(columns="repair"))
    plt.close("all")


def test_each_rung_has_words() -> None:
    assert tuple(RUNGS) == ladder.RUNGS

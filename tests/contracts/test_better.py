"""Losses are better when lower: tables say so, and all that reads them takes it into account."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from helpers import refused
from torch import nn

import pruneviz as pv
from pruneviz.panels import whatif_text

torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 1))
X = torch.randn(40, 4)
Y = MODEL(X).detach()


def loss(model: nn.Module) -> float:
    with torch.no_grad():
        return float((model(X) - Y).square().mean())


def minus(model: nn.Module) -> float:
    return -loss(model)


def sweep(**options) -> pd.DataFrame:
    call = {"criteria": ["l2", "random"], "sparsities": [0.25, 0.5, 0.75], "granularity": "unit"}
    return pv.sweep(MODEL, X, progress=False, **call, **options)


LOWER = sweep(evaluate=loss, better="lower")
HIGHER = sweep(evaluate=minus)


def test_a_table_says_that_lower_is_better():
    assert (LOWER["better"] == "lower").all()
    assert "better" not in HIGHER
    assert (LOWER["metric"] == -HIGHER["metric"]).all()


def test_the_front_and_the_choice_are_those_of_the_negative():
    low, high = pv.pareto(LOWER), pv.pareto(HIGHER)
    assert low["pareto"].tolist() == high["pareto"].tolist()
    assert (low["better"] == "lower").all()
    # a frame of one's own
    own = pv.pareto(LOWER.drop(columns="better"), better="lower")
    pd.testing.assert_frame_equal(own, low)
    assert pv.pareto(LOWER, better="higher")["pareto"].tolist() != low["pareto"].tolist()
    for limit in (0.4, 0.9):
        limits = {"macs": limit * LOWER["macs"].max()}
        for a, b in ((LOWER, HIGHER), (low, high)):
            assert pv.choose(a, at_most=limits)["metric"] == -pv.choose(b, at_most=limits)["metric"]
    assert pv.choose(LOWER, at_most={"metric": 1.0}, best="-macs")["macs"] == LOWER["macs"].min()


def test_a_budget_is_divided_alike():
    frames = [
        pv.sensitivity(MODEL, X, criterion="l2", sparsities=[0.25, 0.5, 0.75], groups=pv.find_groups(MODEL, X),
                       evaluate=e, better=b, progress=False)
        for e, b in ((loss, "lower"), (minus, "higher"))
    ]  # fmt: skip
    assert (frames[0]["better"] == "lower").all()
    shares = [pv.allocate(MODEL, f, macs=0.5, example_input=X) for f in frames]
    assert shares[0] == pytest.approx(shares[1])
    assert max(shares[0].values()) > 0


def test_the_panel_rings_the_lowest_and_its_code_does_the_same():
    panel = pv.panel_tradeoff(LOWER)
    other = pv.panel_tradeoff(LOWER.drop(columns="better"), better="lower")
    assert panel.result["point"]["metric"] == pv.pareto(LOWER)["metric"].min()
    assert panel.result["point"]["macs"] == other.result["point"]["macs"]
    assert ", lower is better, not beaten." in panel._say(panel.result)
    assert "better='lower')" in other.to_python()
    for shown, data in ((panel, LOWER), (other, LOWER.drop(columns="better"))):
        scope = {"data": data}
        exec(shown.to_python(), scope)
        assert scope["point"]["metric"] == shown.result["point"]["metric"]
        shown.close()


def test_a_stored_table_keeps_it(tmp_path):
    path = tmp_path / "rows.csv"
    first = sweep(evaluate=loss, better="lower", path=path)
    again = sweep(evaluate=loss, better="lower", path=path)
    pd.testing.assert_frame_equal(first, again)
    assert (pd.read_csv(path, comment="#")["better"] == "lower").all()
    with pytest.raises(pv.ArgumentError, match="first two lines"):
        sweep(evaluate=loss, path=path)


def test_the_names_in_the_legend_are_those_that_lose_most():
    layers = [f"layer {i:02}" for i in range(20)]
    frame = pd.DataFrame({"layer": layers, "granularity": "weight", "target_sparsity": 0.5, "dense": 1.0,
                          "metric": [1.0 + i for i in range(20)], "better": "lower"})  # fmt: skip
    names = [t.get_text() for t in pv.plot_sensitivity(frame).get_legend().get_texts()]
    assert "layer 19" in names
    assert "layer 00" not in names


def test_what_is_wrong_is_said():
    with refused("`better` 'least' is unknown. Known: higher, lower."):
        sweep(evaluate=loss, better="least")
    judge = pv.Accuracy([(X, torch.zeros(40, dtype=torch.long))])
    with pytest.raises(pv.ArgumentError, match="of accuracies higher is better"):
        sweep(evaluate=judge, better="lower")
    mixed = pd.concat([LOWER, HIGHER])
    with pytest.raises(pv.ArgumentError, match="Take the rows of one kind"):
        pv.choose(mixed)
    assert pv.choose(mixed[mixed["better"] == "lower"])["metric"] == LOWER["metric"].min()


@pytest.mark.parametrize("scale", [1, 100])
def test_the_what_ifs_bar_is_as_long_as_the_metric(scale):
    def evaluate(model: nn.Module) -> float:
        return scale * (0.2 + loss(model))

    panel = pv.panel_whatif(MODEL, [(X, None)], evaluate=evaluate, better="lower", sparsity=0.5)
    try:
        what, result = panel._what, panel.result
        bar = whatif_text.bars(what, result)[0]
        now, before = result["metric"], result["metric_before"]
        assert before == pytest.approx(0.2 * scale)
        if scale == 1:
            assert (bar.share, bar.mark) == pytest.approx((now, before))
        else:
            assert (bar.share, bar.mark) == pytest.approx((min(1, now / (2 * before)), 0.5))
        assert bar.share > bar.mark
        assert bar.text.endswith("; lower is better)")
        assert "; lower is better)" in panel.show(result)[1]
    finally:
        panel.close()
    with pytest.raises(pv.ArgumentError, match="of accuracies higher is better"):
        pv.panel_whatif(MODEL, [(X, Y)], better="lower")

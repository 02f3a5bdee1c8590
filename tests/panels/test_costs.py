"""The panel of lesson 01: the same sparsity in several ways. No test depends on measured times."""

from __future__ import annotations

import re

import matplotlib.pyplot as plt
import pytest
import torch
from helpers import assert_untouched, mlp, refused, snapshot
from ipywidgets.widgets.widget import _instances

import pruneviz as pv
from pruneviz.plots.crossover import LABELS
from pruneviz.study.costs import time_models as clock

X = torch.randn(9, 1, 6, 6, generator=torch.Generator().manual_seed(1))
WAYS = ["dense", "zeros", "csr_linear", "csr_mm", "smaller"]


def recorded():
    return pv.crossover(widths=[16, 64], batches=[1, 8], sparsities=[0.5, 0.9], seconds=0, progress=False)  # fmt: skip


@pytest.fixture
def panel():
    before = set(_instances)
    made = pv.panel_costs(mlp(), X, seconds=0)
    yield made
    made.close()
    assert set(_instances) == before  # closing a panel closes what is in it


def test_the_sparsity_changes_result_picture_and_sentence(panel):
    first, picture = panel.result, panel._view.value
    assert first["sparsity"] == 0.9 and first["batch"] == 9 and first["break_even"] == {}
    assert list(first["ways"]) == WAYS
    panel.controls["sparsity"].value = 0.5
    frame = pv.compare_costs(mlp(), X, sparsity=0.5, seconds=0).set_index("way")
    for way in WAYS:
        assert panel.result["ways"][way]["bytes"] == frame.loc[way, "bytes"]
        assert panel.result["ways"][way]["macs"] == frame.loc[way, "macs"]
    assert panel._view.value != picture
    assert panel.sentence.startswith("Sparsity 0.50, batch of 9.\nDense: 1.29 kB, ")
    for way in WAYS[1:]:
        promise = panel.result["ways"][way]["speedup"]
        assert re.search(rf"{re.escape(LABELS[way][1:])}: [^()]*\([^()]*by MACs {promise:.3g}\)",
                         panel.sentence)  # fmt: skip
    (label,) = re.findall(r'aria-label="([^"]*)"', panel._view.value)
    assert label == panel.sentence


def test_the_clocks_words_make_no_line_more(panel):
    panel.controls["sparsity"].set_state({"value": 0.5})
    quick = panel._sentence.splitlines()
    whole = panel.sentence.splitlines()
    assert len(quick) == len(whole) == 1 + len(WAYS) and quick[0] == whole[0]
    for fast, low, high in ((1.0, 0.9, 1.1), (9999.0, 9000.0, 9999.9), (0.01, 0.009, 0.011)):
        for cost in panel.result["ways"].values():  # whatever the clock has to say
            cost |= {"ms": 12345.6, "ms_low": 12333.3, "ms_high": 12399.9}
            cost |= {"latency_speedup": fast, "low": low, "high": high}
        said = panel._say(panel.result).splitlines()
        assert len(said) == len(quick)
        assert max(map(len, [*quick[1:], *said[1:]])) < 85  # a line of a narrow page
    assert ".pv-costs" in panel._view.value and "pre-line" in panel._view.value


def test_the_batch_and_the_button(panel):
    assert panel.controls["batch"].options == (1, 8, 9)
    panel.controls["batch"].value = 1
    assert panel.result["batch"] == 1
    assert "batch of 1." in panel.sentence
    before = panel.result
    panel.controls["again"].value = True
    assert panel.result is not before and panel.result["batch"] == 1


def test_bytes_and_macs_come_at_once_and_times_when_the_control_is_idle(panel):
    counts = ("sparsity", "bytes", "macs", "speedup")
    panel.controls["sparsity"].set_state({"value": 0.5})
    quick = panel._result["ways"]
    assert quick["csr_mm"]["ms"] is None and quick["csr_mm"]["low"] is None
    assert "measuring…" in panel._view.value and " ms<" not in panel._view.value
    assert "Dense: 1.29 kB, … ms.\nDense, with zeros: 1.29 kB, … times as fast (by MACs 1).\n" in (
        panel._sentence
    )
    whole = panel.result["ways"]
    assert {w: [c[n] for n in counts] for w, c in whole.items()} == {
        w: [c[n] for n in counts] for w, c in quick.items()
    }
    assert all(cost["ms"] > 0 for cost in whole.values())
    assert "measuring…" not in panel._view.value and " ms (" in panel._view.value


def test_another_batch_makes_no_network_anew(panel, monkeypatch):
    monkeypatch.setattr(panel._ways, "at", lambda *_: 1 / 0)
    panel.controls["batch"].value = 1
    assert panel.result["batch"] == 1
    with pytest.raises(ZeroDivisionError):
        panel.controls["sparsity"].value = 0.3
    assert "division by zero" in panel._alert.value
    assert panel._view.value.startswith('<div style="opacity: 0.3">')  # of before, and pale
    assert "image/png" in panel._repr_mimebundle_()[0]  # it can still be shown
    panel.undo()
    assert panel._alert.value == "" and panel.result["sparsity"] == 0.9
    assert "opacity: 0.3" not in panel._view.value


def test_undo_and_redo(panel):
    panel.controls["sparsity"].value = 0.5
    panel.controls["batch"].value = 1
    panel.undo()
    assert (panel.result["sparsity"], panel.result["batch"]) == (0.5, 9)
    panel.redo()
    assert (panel.result["sparsity"], panel.result["batch"]) == (0.5, 1)


@pytest.mark.parametrize("x", [X, (X,)])
@pytest.mark.parametrize("batch", [1, 9])
def test_its_code_counts_the_same(x, batch):
    record, model = recorded(), mlp()
    panel = pv.panel_costs(model, x, seconds=0, crossover=record, batch=batch, threads=1)
    names = {"model": model, "x": x, "crossover": record}
    exec(panel.to_python(), names)
    table = names["table"].set_index("way")
    assert set(table["batch"]) == {batch} and set(table["threads"]) == {1}
    for way, cost in panel.result["ways"].items():
        assert [cost[n] for n in ("bytes", "macs")] == table.loc[way, ["bytes", "macs"]].tolist()
    panel.close()
    plt.close("all")


@pytest.mark.parametrize("sparsity", [0.0, 0.99])
def test_the_model_that_is_timed_is_not_the_one_that_is_counted(sparsity, monkeypatch):
    """Two threads: the clock's models must not be hooked while they run."""
    seen = []

    def timed(ways, *args, **options):
        seen.append(ways)
        return clock(ways, *args, **options)

    monkeypatch.setattr("pruneviz.panels.costs.time_models", timed)
    panel = pv.panel_costs(mlp(), X, seconds=0, sparsity=sparsity)
    (ways,) = seen
    assert all(m is not panel._ways.model for m in ways.values())
    panel.close()


def test_what_the_clock_cannot_tell_apart_is_said(panel, monkeypatch):
    ways = panel.result["ways"]
    ways["zeros"] |= {"low": 0.98, "high": 1.03}
    ways["csr_mm"] |= {"latency_speedup": 2.0, "low": 1.9, "high": 2.1}
    said = panel._say(panel.result)
    assert "Dense, with zeros: 1.29 kB, no difference measured (0.98 to 1.03; by MACs" in said
    assert "torch.mm(csr, x.T): " in said and "2 times as fast (1.9 to 2.1; by MACs" in said


def test_with_a_record_it_shows_where_csr_breaks_even():
    record = recorded()
    panel = pv.panel_costs(mlp(), X, seconds=0, crossover=record, batch=1, sparsity=0.7)
    table = pv.speed_break_evens(record)
    rows = table[(table["width"] == 16) & (table["batch"] == 1)].set_index("way")["break_even"]
    for way, at in panel.result["break_even"].items():
        assert at is None if rows[way] != rows[way] else at == rows[way]
    assert (
        "Recorded, in a 16 × 16 layer, faster than dense: CSR, F.linear(x, csr) " in panel.sentence
    )
    fig = panel.figure()
    assert len(fig.axes) == 2
    assert fig.axes[1].get_title().startswith("16 inputs and outputs, batch of 1,")
    assert [0.7, 0.7] in [list(line.get_xdata()) for line in fig.axes[1].lines]
    panel.controls["batch"].value = 9  # the nearest that was measured
    assert panel.figure().axes[1].get_title().startswith("16 inputs and outputs, batch of 8,")
    panel.close()


def test_it_leaves_a_picture_and_a_sentence(panel):
    data, metadata = panel._repr_mimebundle_()
    assert data["text/plain"] == panel.sentence
    assert metadata["image/png"]["alt"] == panel.sentence
    assert len(panel.figure().axes) == 1


def test_the_model_is_not_changed():
    model = mlp()
    before = snapshot(model)
    panel = pv.panel_costs(model, X, seconds=0)
    panel.controls["sparsity"].value = 0.3
    assert_untouched(model, before)
    panel.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": 1}, "`sparsity` must be a number in [0, 0.99], but 1 was passed."),
        ({"batch": 5}, "`batch` '5' is unknown. Known: 1, 8, 9."),
        ({"seconds": -1}, "`seconds` must be a number ≥ 0, but -1 was passed."),
    ],
)
def test_bad_input(options, message):
    before = set(_instances)
    with refused(message):
        pv.panel_costs(mlp(), X, **{"seconds": 0, **options})
    assert set(_instances) == before

"""The panel of lesson 01: as many weights gone in several ways. Nothing depends on the time itself."""

from __future__ import annotations

import re

import pytest
import torch
from helpers import assert_untouched, mlp, refused, snapshot
from ipywidgets.widgets.widget import _instances

import pruneviz as pv
from pruneviz.plots.crossover import LABELS

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
    frame = pv.costs(mlp(), X, sparsity=0.5, seconds=0).set_index("way")
    for way in WAYS:
        assert panel.result["ways"][way]["bytes"] == frame.loc[way, "bytes"]
        assert panel.result["ways"][way]["macs"] == frame.loc[way, "macs"]
    assert panel._view.value != picture
    assert panel.sentence.startswith("Sparsity 0.50, batch of 9. Dense: 1.29 kB, ")
    for way in WAYS[1:]:
        promise = panel.result["ways"][way]["speedup"]
        assert re.search(rf"{re.escape(LABELS[way][1:])}: [^()]*\(MACs promise {promise:.2f}\)",
                         panel.sentence)  # fmt: skip
    (alt,) = re.findall(r'alt="([^"]*)"', panel._view.value)
    assert alt == panel.sentence


def test_the_batch_and_the_button(panel):
    assert panel.controls["batch"].options == (1, 8, 9)
    panel.controls["batch"].value = 1
    assert panel.result["batch"] == 1
    assert "batch of 1." in panel.sentence
    before = panel.result
    panel.controls["again"].value = True
    assert panel.result is not before and panel.result["batch"] == 1


def test_what_the_clock_cannot_tell_apart_is_said(panel, monkeypatch):
    ways = panel.result["ways"]
    ways["zeros"] |= {"low": 0.98, "high": 1.03}
    ways["csr_mm"] |= {"latency_speedup": 2.0, "low": 1.9, "high": 2.1}
    said = panel._say(panel.result)
    assert "Dense, with zeros: 1.29 kB, as fast as dense, for all that the clock can tell" in said
    assert "torch.mm(csr, x.T): " in said and "2.00 times as fast" in said


def test_with_a_record_it_shows_where_csr_breaks_even():
    record = recorded()
    panel = pv.panel_costs(mlp(), X, seconds=0, crossover=record, batch=1, sparsity=0.7)
    table = pv.break_evens(record)
    rows = table[(table["width"] == 16) & (table["batch"] == 1)].set_index("way")["break_even"]
    for way, at in panel.result["break_even"].items():
        assert at is None if rows[way] != rows[way] else at == rows[way]
    assert "In a single layer of that size, recorded: CSR, F.linear(x, csr) " in panel.sentence
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

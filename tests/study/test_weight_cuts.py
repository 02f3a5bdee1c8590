"""The table says what `select` does, at every step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pruneviz as pv
from pruneviz.core.names import layer_name
from pruneviz.study.weight_cuts import WeightCuts

values = st.lists(
    st.lists(st.floats(-4, 4, width=32) | st.sampled_from([0.0, 1.0, -1.0]), min_size=1, max_size=20),
    min_size=1,
    max_size=4,
)  # fmt: skip


def model(lists):
    layers = []
    for numbers in lists:
        layer = nn.Linear(len(numbers), 1)
        with torch.no_grad():
            layer.weight.copy_(torch.tensor([numbers]))
        layers.append(layer)
    return nn.Sequential(*layers)


def kept(plan):
    counts = {}
    for name, keep in plan.keep.items():
        counts[layer_name(name)] = counts.get(layer_name(name), 0) + int(keep.sum())
    return counts


@given(values, st.floats(0, 0.999), st.floats(0, 4))
def test_a_cut_is_what_select_does(lists, sparsity, threshold):
    net = model(lists)
    cuts, scores = WeightCuts(net, 4), pv.score(net, "magnitude")
    cut = cuts.at("sparsity", sparsity)
    plan = pv.select(scores, sparsity=sparsity, scope="global")
    assert cut.kept == kept(plan) == kept(cuts.plan("sparsity", sparsity))
    assert cut.sparsity == plan.sparsity
    cut = cuts.at("threshold", threshold)
    assert cut.kept == kept(pv.select(scores, threshold=threshold))
    assert cut.kept == kept(cuts.plan("threshold", threshold))


@given(values)
def test_the_table_holds_the_same_cuts(lists):
    cuts = WeightCuts(model(lists), 4)
    thresholds, sparsities = [0.0, 0.5, 1.0, 4.0], [0.0, 0.3, 0.999]
    table = cuts.table(thresholds, sparsities)
    exact = np.frombuffer(table, "<f8", count=10)
    rows = np.frombuffer(table[80:], "<u4")[: 7 * len(lists)].reshape(7, -1).tolist()
    for i, t in enumerate(thresholds):
        cut = cuts.at("threshold", t)
        assert (exact[3 + i], rows[i]) == (sum(cut.kept.values()), list(cut.kept.values()))
    for i, s in enumerate(sparsities):
        cut = cuts.at("sparsity", s)
        assert (exact[7 + i], rows[4 + i]) == (sum(cut.kept.values()), list(cut.kept.values()))
        assert exact[i] == cut.threshold


def test_weights_of_one_layer_come_together():
    cuts = WeightCuts(nn.MultiheadAttention(4, 1, kdim=3, vdim=2), 4)
    assert cuts.total == {"": 36, "out_proj": 16}
    assert sum(cuts.at("sparsity", 0.5).kept.values()) == 26


def test_half_precision_is_ranked():
    cuts = WeightCuts(nn.Linear(8, 8).to(torch.bfloat16), 4)
    assert cuts.at("sparsity", 0.25).kept == {"": 48}


def test_a_model_without_weights_is_refused():
    with pytest.warns(UserWarning, match="zero-element"):
        empty = nn.Linear(3, 0)
    with pytest.raises(pv.ArgumentError, match="all layers of `model` are empty"):
        WeightCuts(empty, 4)

"""The same number of weights removed in several ways; no test depends on the time itself."""

from __future__ import annotations

import pytest
import torch
from helpers import assert_untouched, build, cnn, inputs, mlp, refused, snapshot
from torch import nn

import pruneviz as pv
from pruneviz.lessons import build as lesson
from pruneviz.model.batches import first_n
from pruneviz.study.costs import ReductionWays

IMAGES = torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5", "batchnorm-cnn", "image-transformer"])
def test_as_many_weights_are_removed(name):
    model = lesson(name)
    frame = pv.compare_costs(model, IMAGES, sparsity=0.75, seconds=0).set_index("way")
    assert list(frame.index) == ["dense", "zeros", "csr_linear", "csr_mm", "smaller"]
    assert frame["sparsity"].tolist()[:4] == pytest.approx([0, 0.75, 0.75, 0.75], abs=1e-3)
    assert 0.75 <= frame.loc["smaller", "sparsity"] < 0.78
    dense = pv.measure(model, IMAGES)
    assert (frame.loc["dense", "bytes"], frame.loc["dense", "macs"]) == (dense.bytes, dense.macs)
    assert frame.loc["zeros", "bytes"] == dense.bytes and frame.loc["zeros", "macs"] == dense.macs
    assert (
        frame.loc["csr_mm", ["bytes", "macs"]] == frame.loc["csr_linear", ["bytes", "macs"]]
    ).all()
    assert frame.loc["smaller", "bytes"] < frame.loc["csr_mm", "bytes"] < dense.bytes
    assert (frame["speedup"] == dense.macs / frame["macs"]).all()
    assert (frame[["latency_speedup", "low", "high"]].loc["dense"] == 1).all()
    assert (frame["batch"] == 4).all() and (frame["threads"] == torch.get_num_threads()).all()


def test_of_linear_layers_the_bytes_are_those_of_encodings():
    model = mlp()
    frame = pv.compare_costs(model, inputs(), sparsity=0.5, seconds=0).set_index("way")
    plan = pv.select(pv.score(model, "magnitude"), sparsity=0.5, scope="layer")
    encoded = pv.encodings(pv.mask(model, plan), gzip=False).iloc[-1]
    assert frame.loc["csr_mm", "bytes"] == encoded["csr_int32"]
    assert frame.loc["zeros", "bytes"] == encoded["dense_fp32"]


def test_all_ways_without_sparsity_are_the_model():
    ways = ReductionWays(mlp(), inputs()).at(0)
    want = ways["dense"](inputs())
    for model in ways.values():
        assert torch.allclose(model(inputs()), want, atol=1e-5)
    assert ways["smaller"] is ways["dense"]


def test_without_a_linear_layer_there_is_no_csr():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    assert list(ReductionWays(model, inputs()).at(0.5)) == ["dense", "zeros", "smaller"]


def test_where_too_few_units_can_be_removed_as_few_as_possible_are_kept():
    frame = pv.compare_costs(mlp(), inputs(), sparsity=0.99, seconds=0).set_index("way")
    assert frame.loc["smaller", "macs"] == 36 + 3  # one neuron
    assert frame.loc["smaller", "sparsity"] < 0.99


@pytest.mark.parametrize("name", ["mlp", "cnn", "mixed", "masked"])
def test_it_leaves_no_trace(name):
    model = build(name)
    before = snapshot(model)
    pv.compare_costs(model, inputs(), sparsity=0.5, seconds=0)
    assert_untouched(model, before)


def test_the_first_examples():
    x = torch.zeros(5, 2)
    assert first_n((x, 3), 2)[0].shape == (2, 2) and first_n((x, 3), 2)[1] == 3
    assert first_n({"a": x, "b": torch.zeros(7)}, 2)["b"].shape == (7,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pv.compare_costs(mlp(), inputs(), sparsity=90),
            "`sparsity` must be a fraction in [0, 1), but 90 was passed. Did you mean 0.9? Fractions, "
            "never percentages.",
        ),
        (
            lambda: pv.compare_costs(cnn(), inputs(), sparsity=0.5, seconds=-1),
            "`seconds` must be a number ≥ 0, but -1 was passed.",
        ),
        (
            lambda: pv.compare_costs(cnn(), inputs(), sparsity=0.5, seconds=0, threads=0),
            "`threads` must be a whole number ≥ 1, but 0 was passed.",
        ),
    ],
)
def test_bad_input(call, message):
    with refused(message):
        call()

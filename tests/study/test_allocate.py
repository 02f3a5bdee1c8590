from __future__ import annotations

import pandas as pd
import pytest
import torch
from helpers import CLASSES, assert_untouched, build, inputs, mlp, refused, snapshot
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pruneviz as pv
from pruneviz.study.allocate import lower_hull


def frame(losses, granularity="weight", dense=0.9):
    """Make a frame from {layer: {sparsity: loss}}."""
    rows = [(n, s, dense - loss) for n, curve in losses.items() for s, loss in curve.items()]
    data = pd.DataFrame(rows, columns=["layer", "target_sparsity", "metric"])
    return data.assign(criterion="any", granularity=granularity, dense=dense)


def twins():
    """Two layers of 100 weights each."""
    return nn.Sequential(nn.Linear(10, 10, bias=False), nn.Linear(10, 10, bias=False))


def left(model, sparsities):
    """Count the weights that are left after the plan that follows."""
    plan = pv.select(pv.score(model, "magnitude"), sparsity=sparsities)
    return plan.kept


def test_the_cheap_layer_pays():
    data = frame({"0": {0.4: 0.01, 0.8: 0.02}, "1": {0.4: 0.2, 0.8: 0.5}})
    for params, want in [(200, (0, 0)), (160, (0.4, 0)), (120, (0.8, 0)), (80, (0.8, 0.4)), (40, (0.8, 0.8))]:  # fmt: skip
        found = pv.allocate(twins(), data, params=params)
        assert list(found) == ["0", "1"]
        assert left(twins(), found) == params
        assert list(found.values()) == pytest.approx(want, abs=0.005)


def test_in_the_middle_of_a_step():
    data = frame({"0": {0.8: 0.01}, "1": {0.8: 0.5}})
    found = pv.allocate(twins(), data, params=170)
    assert left(twins(), found) == 170
    assert found["1"] == 0


def test_a_share_and_a_count_are_the_same_budget():
    data = frame({"0": {0.4: 0.01, 0.8: 0.02}, "1": {0.4: 0.2, 0.8: 0.5}})
    assert pv.allocate(twins(), data, params=0.5) == pv.allocate(twins(), data, params=100)
    assert pv.allocate(twins(), data, params=1) == {"0": 0.0, "1": 0.0}


def test_a_gain_is_taken_first_and_bumps_are_bridged():
    # layer 1 becomes better; layer 0 has a bump at 0.2 that one walks over
    data = frame({"0": {0.2: 0.5, 0.4: 0.02}, "1": {0.4: -0.01}})
    assert pv.allocate(twins(), data, params=160) == pytest.approx({"0": 0, "1": 0.4}, abs=0.005)
    assert left(twins(), pv.allocate(twins(), data, params=140)) == 140


def curves():
    losses = st.lists(st.floats(0, 1), min_size=3, max_size=3)
    return st.lists(losses, min_size=2, max_size=2)


@given(curves(), st.integers(40, 200))
def test_no_other_way_on_the_hull_loses_less(losses, params):
    levels = (0.2, 0.5, 0.8)
    data = frame({str(i): dict(zip(levels, row, strict=True)) for i, row in enumerate(losses)})
    found = pv.allocate(twins(), data, params=params)
    assert left(twins(), found) == params

    def lost(layer, sparsity):  # along the hull
        points = [(0.0, 0.0, 0.0), *((s, v, s) for s, v in zip(levels, losses[layer], strict=True))]
        at = 0.0
        for slope, _, a, b in lower_hull("", points):
            at += slope * (min(sparsity, b) - a) if sparsity > a else 0
        return at

    total = lost(0, found["0"]) + lost(1, found["1"])
    for i in range(81):
        j = 200 - params - i
        if 0 <= j <= 80:
            assert total <= lost(0, i / 100) + lost(1, j / 100) + 0.02


def test_macs_count_how_often_a_weight_is_used():
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.Flatten(), nn.Linear(64, CLASSES, bias=False)
    )  # 36 weights used 16 times, 192 weights used once
    losses = {"0": {0.5: 0.02}, "2": {0.5: 0.04}}
    # by weights the convolution is the dearer one: 0.02 for 18, against 0.04 for 96
    assert pv.allocate(model, frame(losses), params=228 - 96)["0"] == 0
    # by MACs it is the cheaper one: 0.02 for 288, against 0.04 for 96
    found = pv.allocate(model, frame(losses), macs=768 - 288, example_input=inputs())
    assert found == pytest.approx({"0": 0.5, "2": 0.0}, abs=0.02)
    plan = pv.select(pv.score(model, "magnitude"), sparsity=found)
    work = pv.effective_macs(pv.mask(model, plan), [inputs()[:1]]).set_index("tensor")
    assert work.loc["whole", "macs_weights"] == 480


@pytest.mark.parametrize("encoding", ["bitmap", "csr_int32", "csr_int16"])
def test_bytes_are_those_of_the_encoding(encoding):
    model = mlp()
    data = frame({"1": {0.5: 0.1, 0.9: 0.2}, "3": {0.5: 0.1, 0.9: 0.4}})
    found = pv.allocate(model, data, bytes=600, encoding=encoding)
    plan = pv.select(pv.score(model, "magnitude"), sparsity=found)
    table = pv.encodings(pv.mask(model, plan), gzip=False).set_index("tensor")
    dense, packed = table["dense_fp32"].drop("whole"), table[encoding].drop("whole")
    assert 560 <= packed.combine(dense, min).sum() <= 600


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("what", ["params", "bytes", "macs"])
def test_units_are_counted_on_the_smaller_model(name, what):
    model = build(name)
    before = snapshot(model)
    group = "1" if name == "mlp" else "0"
    data = frame({group: {0.25: 0.1, 0.75: 0.2}}, "unit")
    found = pv.allocate(model, data, **{what: 0.6}, example_input=inputs())
    assert_untouched(model, before)
    groups = pv.find_groups(model, inputs())
    plan = pv.select(pv.score(model, "l2", groups=groups), sparsity=found)
    dense = getattr(pv.measure(model, inputs()), what)
    small = pv.shrink(model, plan, example_input=inputs())
    assert getattr(pv.measure(small, inputs()), what) <= 0.6 * dense
    less = pv.select(
        pv.score(model, "l2", groups=groups), sparsity={group: max(0, found[group] - 0.2)}
    )
    larger = pv.shrink(model, less, example_input=inputs())
    assert getattr(pv.measure(larger, inputs()), what) > 0.6 * dense
    assert found == pv.allocate(model, data, **{what: 0.6}, example_input=inputs(), groups=groups)


def test_from_a_real_sensitivity():
    model, judge = mlp(), pv.Accuracy([(inputs(30), torch.arange(30) % CLASSES)])
    data = pv.sensitivity(model, inputs(), sparsities=[0.5, 0.9], evaluate=judge, progress=False)
    found = pv.allocate(model, data, params=100)
    masked = pv.mask(model, pv.select(pv.score(model, "magnitude"), sparsity=found))
    assert pv.measure(masked, inputs()).nonzero == 100


DATA = frame({"0": {0.8: 0.01}, "1": {0.5: 0.5}})
BAD = [
    ({}, "`allocate` takes one budget, `params`, `bytes` or `macs`, but none was passed."),
    ({"params": 10, "macs": 10}, "`allocate` takes one budget, `params`, `bytes` or `macs`, but params and macs were passed."),
    ({"params": 60}, "`params` must be at least 70 here (0.350 of 200), but 60 was passed: so much is kept with each layer at its highest sparsity in the frame. Measure higher sparsities, or more layers."),
    ({"params": 0.1}, "`params` must be at least 70 here (0.350 of 200), but 0.1 was passed: so much is kept with each layer at its highest sparsity in the frame. Measure higher sparsities, or more layers."),
    ({"params": 0}, "`params` must be a share in (0, 1] of what the model has, or a count above 1, but 0 was passed."),
    ({"params": True}, "`params` must be a share in (0, 1] of what the model has, or a count above 1, but True was passed."),
    ({"bytes": "1 MB"}, "`bytes` must be a share in (0, 1] of what the model has, or a count above 1, but '1 MB' was passed."),
    ({"macs": 0.5}, "`allocate` needs `example_input` to count MACs."),
    ({"bytes": 0.5, "encoding": "csr"}, "`encoding` 'csr' is unknown. Known: bitmap, csr_int16, csr_int32, csr_int64, dense_fp16, dense_fp32, relative."),
    ({"frame": DATA.assign(granularity="unit"), "params": 0.5}, "`allocate` needs `example_input` to cut units."),
    ({"frame": DATA.assign(criterion=["a", "b"]), "params": 0.5}, "`frame` must be of one criterion and one granularity, and not empty. Take its rows: frame[frame['criterion'] == 'magnitude']."),
    ({"frame": DATA[:0], "params": 0.5}, "`frame` must be of one criterion and one granularity, and not empty. Take its rows: frame[frame['criterion'] == 'magnitude']."),
    ({"frame": DATA.drop(columns="dense"), "params": 0.5}, "allocate needs a column 'dense', but the frame has: layer, target_sparsity, metric, criterion, granularity. Make it with pv.sensitivity(model, …)."),
    ({"frame": frame({"fc9": {0.5: 0.1}}), "params": 0.5}, "layer 'fc9' is unknown. Known: 0, 0.weight, 1, 1.weight."),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_bad_calls(bad, message):
    with refused(message):
        pv.allocate(twins(), **{"frame": DATA, **bad})

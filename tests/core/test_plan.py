from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from helpers import mlp, refused
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

import pruneviz as pv
from pruneviz.core.names import layer_name

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
KEEP = SHAPES.flatmap(lambda shape: hnp.arrays(bool, shape)).map(torch.from_numpy)
PLANS = st.dictionaries(st.text(max_size=8), KEEP, max_size=4).map(pv.Plan)


def same(a, b):
    return list(a.keep) == list(b.keep) and all(
        k.dtype == b.keep[n].dtype == torch.bool and torch.equal(k, b.keep[n])
        for n, k in a.keep.items()
    )


@given(PLANS)
def test_a_plan_survives_json(plan):
    again = pv.Plan.from_json(plan.to_json())
    assert same(plan, again)
    assert again.to_json() == plan.to_json()


def test_a_large_plan_is_small_as_json():
    keep = torch.rand(1000, 1000) > 0.9
    text = pv.Plan({"fc.weight": keep}).to_json()
    assert len(text) < keep.numel() / 8  # less than a bit a weight
    assert torch.equal(pv.Plan.from_json(text).keep["fc.weight"], keep)


def test_a_plan_read_from_json_can_be_written_to():
    plan = pv.Plan.from_json(pv.Plan({"weight": torch.ones(9, dtype=torch.bool)}).to_json())
    plan.keep["weight"][0] = False
    assert plan.kept == 8


def test_json_says_what_it_is():
    data = json.loads(pv.Plan({"a.weight": torch.tensor([True, False])}).to_json())
    assert {k: data[k] for k in ("pruneviz", "version", "granularity")} == {
        "pruneviz": "plan",
        "version": 2,
        "granularity": "weight",
    }
    assert data["keep"]["a.weight"]["shape"] == [2]


def test_a_plan_that_is_a_slice_of_another_tensor_is_written():
    keep = torch.eye(4, dtype=torch.bool)
    plan = pv.Plan({"a": keep.T[::2], "b": keep[:, 1]})
    assert same(pv.Plan.from_json(plan.to_json()), plan)


WRITTEN = pv.Plan({"weight": torch.tensor([True, False, True])}).to_json()
# as early versions wrote it: no checksum hides what else is looked at
GOOD = {**json.loads(WRITTEN), "version": 1}
del GOOD["checksum"]


def changed(**entry):
    return json.dumps({**GOOD, "keep": {"weight": {**GOOD["keep"]["weight"], **entry}}})


NO_PLAN = {
    "nothing": "",
    "no JSON": "keep: all",
    "half": json.dumps(GOOD)[:40],
    "a list": "[1, 2]",
    "a number": "3",
    "null": "null",
    "no plan": json.dumps({**GOOD, "pruneviz": "report"}),
    "version 3": json.dumps({**GOOD, "version": 3}),
    "no keep": json.dumps({k: v for k, v in GOOD.items() if k != "keep"}),
    "a list of layers": json.dumps({**GOOD, "keep": ["weight"]}),
    "a text for a layer": json.dumps({**GOOD, "keep": {"weight": "all"}}),
    "no bits": json.dumps({**GOOD, "keep": {"weight": {"shape": [3]}}}),
    "bits are no text": changed(bits=5),
    "shape is no list": changed(shape=3),
    "not a text": None,
}
DAMAGED = {
    "shape of null": changed(shape=[None]),
    "bits are no base64": changed(bits="§§§"),
    "bits cut": changed(bits=GOOD["keep"]["weight"]["bits"][:8]),
    "bits deflated wrongly": changed(bits="AAAA"),
    "shape too long": changed(shape=[9]),
    "shape too short": changed(shape=[0]),
    "shape negative": changed(shape=[-3]),
    "shape of two negatives": changed(shape=[-3, -1]),
    "shape of words": changed(shape=["three"]),
    "shape beyond counting": changed(shape=[10**30]),
    "shape infinite": changed(shape=[math.inf]),
    "shape that overflows to nothing": changed(shape=[2**32, 2**32]),
}


@pytest.mark.parametrize("text", NO_PLAN.values(), ids=NO_PLAN)
def test_what_is_no_plan_is_refused(text):
    match = r"^`text` must be JSON written by Plan.to_json\(\), but it could not be read \("
    with pytest.raises(pv.ArgumentError, match=match):
        pv.Plan.from_json(text)


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_plan_is_refused(text):
    match = r"^the plan is damaged: .*\. Write it again: plan.to_json\(\)\.$"
    with pytest.raises(pv.ArgumentError, match=match):
        pv.Plan.from_json(text)


@given(st.data())
def test_damaged_text_gives_a_plan_or_an_argument_error(data):
    text = data.draw(st.sampled_from([json.dumps(GOOD), WRITTEN]))
    at = data.draw(st.integers(0, len(text) - 1))
    char = data.draw(st.characters(codec="utf-8"))
    try:
        plan = pv.Plan.from_json(text[:at] + char + text[at + 1 :])
    except pv.ArgumentError:
        return
    assert all(k.dtype == torch.bool for k in plan.keep.values())


@given(st.lists(hnp.arrays(bool, st.integers(1, 30)), min_size=1, max_size=4))
def test_a_plan_counts(arrays):
    plan = pv.Plan({f"{i}.weight": torch.from_numpy(a) for i, a in enumerate(arrays)})
    total, kept = sum(a.size for a in arrays), sum(int(a.sum()) for a in arrays)
    assert (plan.total, plan.kept) == (total, kept)
    assert plan.sparsity == pytest.approx((total - kept) / total)
    frame = plan.to_frame()
    assert list(frame.columns) == ["layer", "total", "kept", "sparsity"]
    assert frame["layer"].tolist() == [str(i) for i in range(len(arrays))]
    assert frame["total"].tolist() == [a.size for a in arrays]
    assert frame["kept"].tolist() == [int(a.sum()) for a in arrays]
    np.testing.assert_allclose(frame["sparsity"], [1 - a.mean() for a in arrays], atol=1e-12)


def test_the_sparsity_of_a_selected_plan_is_exact():
    plan = pv.select(pv.Scores({"weight": torch.arange(1000.0)}, "magnitude"), sparsity=0.9)
    assert (plan.kept, plan.total) == (100, 1000)
    assert plan.sparsity == pytest.approx(0.9)


def test_a_frame_has_one_row_a_layer():
    attention = nn.MultiheadAttention(4, 1, kdim=3, vdim=2)  # three tensors in the layer itself
    plan = pv.select(pv.score(attention, "magnitude"), sparsity=0.5)
    frame = plan.to_frame()
    assert frame["layer"].tolist() == ["", "out_proj"]
    assert frame["total"].tolist() == [16 + 12 + 8, 16]
    assert frame["kept"].tolist() == [8 + 6 + 4, 8]


def test_an_empty_plan_has_a_sparsity_and_a_repr():
    # `mask` accepts it: weights that a plan does not name stay
    assert pv.Plan({}).sparsity == 0
    assert repr(pv.Plan({})) == "Plan for 0 weights in 0 layers: keeps 0, sparsity 0.000"


def test_reprs_tell_what_there_is():
    scores = pv.score(mlp(), "lamp")
    assert repr(scores) == "Scores by 'lamp': 312 weights in 2 layers"
    plan = pv.select(scores, sparsity=0.5)
    assert repr(plan) == (
        "Plan for 312 weights in 2 layers: keeps 156, sparsity 0.500 (0.483 of all 323 numbers)"
    )
    one = pv.Plan({"weight": torch.ones(1200, dtype=torch.bool)})
    assert repr(one) == "Plan for 1,200 weights in 1 layer: keeps 1,200, sparsity 0.000"


def test_flops_are_twice_the_macs():
    cost = pv.Cost(params=3, nonzero=2, bytes=12, macs=5)
    assert cost.flops == 10
    assert cost.uncounted == ()
    assert repr(cost) == (
        "Cost(params=3, nonzero=2, bytes=12, macs=5, uncounted=(), latency_ms=None)"
    )


@pytest.mark.parametrize(
    "noun",
    [
        pv.Cost(1, 1, 4, 1),
        pv.Plan({}),
        pv.Scores({}, "magnitude"),
        pv.CRITERIA["magnitude"],
    ],
    ids=["Cost", "Plan", "Scores", "Criterion"],
)
def test_nouns_are_frozen(noun):
    field = dataclasses.fields(noun)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(noun, field, None)


@pytest.mark.parametrize("error", [pv.ArgumentError, pv.GraphError])
def test_errors_are_value_errors(error):
    assert issubclass(error, ValueError)
    assert not issubclass(pv.GraphError, pv.ArgumentError)


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [("fc1.weight", "fc1"), ("a.b.0.in_proj_weight", "a.b.0"), ("weight", ""), ("", "")],
)
def test_the_layer_of_a_tensor(tensor, layer):
    assert layer_name(tensor) == layer


def test_what_is_listed_is_there_and_nothing_else():
    assert all(hasattr(pv, name) for name in pv.__all__)
    assert dir(pv) == sorted(pv.__all__)
    with pytest.raises(AttributeError, match="No pruneviz attribute prun"):
        _ = pv.prun


def test_errors_come_before_work():
    with refused("`plan` must be a Plan, but the class Plan was passed. Make it: pv.select(scores, sparsity=0.5)."):  # fmt: skip
        pv.mask(mlp(), pv.Plan)


def test_what_is_unused_or_left_out_survives_json():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.aside, self.never = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x):
            h = torch.relu(self.a(x))
            self.aside(h)
            return self.b(h)

    model, x = Branches().eval(), torch.randn(8, 4)
    plan = pv.lossless_plan(model, x, unrun=True)
    again = pv.Plan.from_json(plan.to_json())
    assert [again.groups[n].unused for n in ("aside", "never")] == ["unread", "unrun"]
    small = pv.shrink(model, again, example_input=x, repair="merge")
    assert (small.aside.out_features, small.never.out_features) == (1, 1)
    weights = pv.select(pv.score(nn.LSTM(3, 4), "magnitude"), sparsity=0.5)
    assert pv.Plan.from_json(weights.to_json()).left_out == weights.left_out

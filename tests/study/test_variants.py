from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import assert_untouched, build, inputs, plan_for, snapshot, state
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import pruneviz as pv
from pruneviz.pruning.session import Session
from pruneviz.selection.ranking import RemovalOrder
from pruneviz.study.variants import Variants

ARRAYS = hnp.arrays(
    np.float32,
    hnp.array_shapes(max_dims=2, min_side=1, max_side=5),
    elements=st.sampled_from([0.0, 0.5, 1.0, 2.0, np.inf]),
)


@given(
    st.lists(ARRAYS, min_size=1, max_size=3),
    st.floats(0, 0.999),
    st.sampled_from(["layer", "global"]),
)
def test_ranks_choose_what_select_chooses(arrays, sparsity, scope):
    scores = pv.Scores(
        {f"{i}.weight": torch.from_numpy(a) for i, a in enumerate(arrays)}, "magnitude"
    )
    ranks = RemovalOrder(scores, scope)
    for s in (sparsity, 0.0, sparsity / 2):
        want = pv.select(scores, sparsity=s, scope=scope)
        got = ranks.plan(s)
        assert {n: k.tolist() for n, k in got.keep.items()} == {
            n: k.tolist() for n, k in want.keep.items()
        }
    want = pv.select(scores, sparsity={"0": sparsity})
    got = RemovalOrder(scores, "layer").plan({"0.weight": sparsity})
    assert all(torch.equal(got.keep[n], k) for n, k in want.keep.items())


def test_ranks_of_bfloat16():
    scores = pv.Scores({"w": torch.tensor([1.0, 0.5], dtype=torch.bfloat16)}, "magnitude")
    assert RemovalOrder(scores, "layer").plan(0.5).keep["w"].tolist() == [True, False]


@pytest.mark.parametrize("name", ["mlp", "cnn", "tied", "counting", "masked", "spectral"])
def test_variants_that_share_hold_what_mask_and_bake_give(name):
    model, plan = build(name), plan_for(build(name))
    before = snapshot(model)
    if name == "spectral":
        with pytest.raises(pv.ArgumentError, match="carries another parametrization"):
            Variants(Session(model, inputs()), share=True).baked(plan)
        return
    new = Variants(Session(model, inputs()), share=True).baked(plan)
    assert state(new) == state(pv.bake(pv.mask(model, plan)))
    assert [p.requires_grad for p in new.parameters()] == [p.requires_grad for p in pv.bake(pv.mask(model, plan)).parameters()]  # fmt: skip
    assert_untouched(model, before)


def test_only_what_is_pruned_is_new():
    model = build("mlp")
    plan = pv.select(pv.score(model, "magnitude"), sparsity={"1": 0.5})
    new = Variants(Session(model, inputs()), share=True).baked(plan)
    assert new[1].weight is not model[1].weight
    assert new[1].bias is model[1].bias
    assert new[3].weight is model[3].weight
    own = Variants(Session(model, inputs())).baked(plan)
    assert own[3].weight is not model[3].weight

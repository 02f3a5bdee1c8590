from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune

import pruneviz as pv
from pruneviz.selection.ranking import lowest
from pruneviz.selection.select import lowest_kept


def named(layers):
    return zip("abcdef"[: len(layers)], layers, strict=True)


def scores(*layers, criterion="magnitude", dtype=torch.float32):
    """Return scores of layers a, b, c, …"""
    values = {f"{n}.weight": torch.tensor(v, dtype=dtype) for n, v in named(layers)}
    return pv.Scores(values, criterion)


def dropped(plan):
    """Return the removed indices, by layer."""
    return {
        n.removesuffix(".weight"): (~k).reshape(-1).nonzero().reshape(-1).tolist()
        for n, k in plan.keep.items()
    }


VALUES = st.one_of(st.integers(0, 4).map(float), st.floats(-1e3, 1e3, width=32))
LAYERS = st.lists(st.lists(VALUES, min_size=1, max_size=25), min_size=1, max_size=5)
SPARSITY = st.floats(0, 1, exclude_max=True)
SHARE = st.one_of(SPARSITY, st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.9]))


def ranked(values, k):
    """Return the k lowest by (value, index), the plain way."""
    return sorted(sorted(range(len(values)), key=lambda i: (values[i], i))[:k])


@given(LAYERS, SHARE, st.integers(0, 30))
def test_each_layer_loses_exactly_its_share(layers, sparsity, min_keep):
    plan = pv.select(scores(*layers), sparsity=sparsity, scope="layer", min_keep=min_keep)
    want = {}
    for name, values in named(layers):
        k = min(round(sparsity * len(values)), max(len(values) - min_keep, 0))
        want[name] = ranked(np.float32(values).tolist(), k)
    assert dropped(plan) == want


@given(LAYERS, SHARE, st.integers(0, 10), st.sets(st.sampled_from("abcdef")))
def test_the_global_scope_drops_the_lowest_of_all_that_may_go(layers, sparsity, min_keep, protect):
    known = "abcdef"[: len(layers)]
    protect = sorted(protect & set(known))
    plan = pv.select(
        scores(*layers), sparsity=sparsity, scope="global", min_keep=min_keep, protect=protect
    )
    free = []
    for name, values in zip(known, layers, strict=True):
        values = np.float32(values).tolist()
        lowest_first = ranked(values, 0 if name in protect else max(len(values) - min_keep, 0))
        free += [(values[i], name, i) for i in lowest_first]
    wanted = round(sparsity * sum(map(len, layers)))
    gone = sorted(free)[:wanted]
    want = {name: sorted(i for _, n, i in gone if n == name) for name in known}
    assert dropped(plan) == want
    assert plan.total - plan.kept == min(wanted, len(free))


@given(LAYERS, st.floats(-10, 10, width=32), st.integers(0, 3))
def test_a_threshold_removes_the_scores_below_it(layers, threshold, min_keep):
    plan = pv.select(scores(*layers), threshold=threshold, min_keep=min_keep)
    for name, values in named(layers):
        below = sum(v < threshold for v in np.float32(values).tolist())
        assert len(dropped(plan)[name]) == min(below, max(len(values) - min_keep, 0))
        assert dropped(plan)[name] == ranked(np.float32(values).tolist(), len(dropped(plan)[name]))


@given(st.lists(VALUES, max_size=30), st.integers(-3, 35))
def test_lowest_marks_the_first_of_equals(values, k):
    marked = lowest(np.array(values), k)
    assert marked.dtype == bool
    assert np.flatnonzero(marked).tolist() == ranked(values, max(k, 0))


@given(st.lists(st.integers(0, 9), min_size=2, max_size=30), SHARE)
def test_the_lowest_kept_score_is_the_threshold_of_the_plan(values, sparsity):
    s = scores([float(v) for v in values])
    plan = pv.select(s, sparsity=sparsity)
    threshold = lowest_kept(s, plan)
    assert threshold == min(v for i, v in enumerate(values) if i not in dropped(plan)["a"])
    assert pv.select(s, threshold=threshold).kept >= plan.kept


def test_the_lowest_kept_score_of_nothing_is_infinite():
    s = scores([1.0, 2.0])
    assert lowest_kept(s, pv.select(s, threshold=9.0, min_keep=0)) == math.inf


def test_ties_fall_by_index():
    plan = pv.select(scores([1.0, 1.0, 0.0, 1.0], [1.0, 1.0]), sparsity=0.5, scope="global")
    assert dropped(plan) == {"a": [0, 1, 2], "b": []}


def test_scores_keep_their_shape():
    plan = pv.select(scores([[1.0, 2.0], [3.0, 0.0]]), sparsity=0.5)
    assert plan.keep["a.weight"].tolist() == [[False, True], [True, False]]
    assert plan.keep["a.weight"].dtype == torch.bool


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_scores_may_have_any_precision(dtype):
    assert dropped(pv.select(scores([3, 1, 2, 0], dtype=dtype), sparsity=0.5)) == {"a": [1, 3]}


def test_infinite_scores_are_the_first_and_the_last_to_go():
    assert dropped(pv.select(scores([1.0, math.inf, -math.inf, 0.0]), sparsity=0.75)) == {
        "a": [0, 2, 3]
    }


@pytest.mark.parametrize(("criterion", "scope"), [("magnitude", "layer"), ("lamp", "global")])
def test_the_scope_is_the_criterions_own_unless_given(criterion, scope):
    s = scores([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0], criterion=criterion)
    explicit = pv.select(s, sparsity=0.5, scope=scope)
    assert dropped(pv.select(s, sparsity=0.5)) == dropped(explicit)
    assert dropped(explicit) == {
        "layer": {"a": [0, 1], "b": [0, 1]},
        "global": {"a": [0, 1, 2], "b": [0]},
    }[scope]  # fmt: skip


def test_scores_by_an_unregistered_criterion_are_compared_by_layer():
    s = scores([1.0, 2.0], [3.0, 4.0], criterion="mine")
    assert dropped(pv.select(s, sparsity=0.5)) == {"a": [0], "b": [0]}


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("protect", ["a", ["a"], ["a.weight"], ("a", "a"), {"a": 1}])
def test_nothing_is_removed_from_protected_layers(protect, scope):
    s = scores([0.0, 0.1], [1.0, 2.0, 3.0, 4.0])
    plan = pv.select(s, sparsity=0.5, scope=scope, protect=protect)
    assert dropped(plan) == {"a": [], "b": {"layer": [0, 1], "global": [0, 1, 2]}[scope]}


@pytest.mark.parametrize("protect", [["a"], ["a", "b"]])
def test_a_threshold_spares_protected_layers(protect):
    plan = pv.select(scores([0.0, 0.1], [1.0, 2.0]), threshold=9.0, protect=protect)
    assert dropped(plan) == {"a": [], "b": [] if "b" in protect else [0]}


def test_protecting_an_attention_layer_protects_all_its_tensors():
    model = nn.MultiheadAttention(4, 1, kdim=3, vdim=2)
    model = nn.ModuleDict({"attention": model, "fc": nn.Linear(2, 2)})
    plan = pv.select(pv.score(model, "magnitude"), sparsity=0.5, protect=["attention"])
    assert {n for n, k in plan.keep.items() if k.all()} == {
        "attention.q_proj_weight",
        "attention.k_proj_weight",
        "attention.v_proj_weight",
    }


def test_a_mapping_gives_each_layer_its_own_sparsity():
    s = scores([1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0])
    plan = pv.select(s, sparsity={"a": 0.5, "b.weight": 0.25})
    assert dropped(plan) == {"a": [0, 1], "b": [0], "c": []}


def test_a_mapping_and_protect_may_name_the_same_layer():
    plan = pv.select(scores([1.0, 2.0]), sparsity={"a": 0.5}, protect=["a"])
    assert dropped(plan) == {"a": []}


@pytest.mark.parametrize(("min_keep", "kept"), [(0, [0, 1]), (1, [1, 1]), (2, [1, 1]), (4, [1, 1])])
def test_min_keep_holds_in_small_layers(min_keep, kept):
    plan = pv.select(scores([1.0], [2.0]), sparsity=0.99, scope="global", min_keep=min_keep)
    assert [int(k.sum()) for k in plan.keep.values()] == kept if min_keep else plan.kept == 0


def test_select_leaves_the_scores_alone():
    s = scores([3.0, 1.0, 2.0])
    pv.select(s, sparsity=0.5)
    assert s.values["a.weight"].tolist() == [3.0, 1.0, 2.0]


@given(
    st.lists(st.integers(2, 30), min_size=1, max_size=3), st.floats(0.01, 0.99), st.integers(0, 9)
)
def test_weight_masks_equal_torchs(sizes, sparsity, seed):
    # distinct scores: torch leaves open which of equal weights is removed
    numbers = torch.randperm(sum(sizes), generator=torch.Generator().manual_seed(seed)) + 1.0
    model = nn.ModuleList(nn.Linear(n, 1, bias=False) for n in sizes)
    with torch.no_grad():
        for layer, part in zip(model, numbers.split(sizes), strict=True):
            layer.weight.copy_(part * (-1) ** part)
    by_layer = pv.select(pv.score(model, "magnitude"), sparsity=sparsity, min_keep=0)
    overall = pv.select(pv.score(model, "magnitude"), sparsity=sparsity, min_keep=0, scope="global")

    for layer in model:
        prune.l1_unstructured(layer, "weight", amount=sparsity)
    assert [k.tolist() for k in by_layer.keep.values()] == [
        layer.weight_mask.bool().tolist() for layer in model
    ]
    for layer in model:
        prune.remove(layer, "weight")
    with torch.no_grad():  # what `remove` zeroed, again
        for layer, part in zip(model, numbers.split(sizes), strict=True):
            layer.weight.copy_(part * (-1) ** part)
    prune.global_unstructured(
        [(layer, "weight") for layer in model], prune.L1Unstructured, amount=sparsity
    )
    assert [k.tolist() for k in overall.keep.values()] == [
        layer.weight_mask.bool().tolist() for layer in model
    ]


FRACTION = "`sparsity` must be a fraction in [0, 1), but"
EITHER = "`select` takes either `sparsity`, such as 0.5, or `threshold`, such as 0.02:"
BAD_CALLS = [
    ({"sparsity": 50}, f"{FRACTION} 50 was passed. Did you mean 0.5? Fractions, never percentages."),
    ({"sparsity": 99.5}, f"{FRACTION} 99.5 was passed. Did you mean 0.995? Fractions, never percentages."),
    ({"sparsity": -0.1}, f"{FRACTION} -0.1 was passed."),
    ({"sparsity": 100}, f"{FRACTION} 100 was passed."),
    ({"sparsity": math.nan}, f"{FRACTION} nan was passed."),
    ({"sparsity": math.inf}, f"{FRACTION} inf was passed."),
    ({"sparsity": 1}, f"{FRACTION} 1 was passed. Nothing would be left; pass a number below 1, such as 0.99."),
    ({"sparsity": True}, f"{FRACTION} True was passed."),
    ({"sparsity": "0.5"}, f"{FRACTION} '0.5' was passed."),
    ({"sparsity": [0.5]}, f"{FRACTION} [0.5] was passed."),
    ({"sparsity": 50, "scope": "global"}, f"{FRACTION} 50 was passed. Did you mean 0.5? Fractions, never percentages."),
    ({"sparsity": {"fc1": 50}}, "`sparsity['fc1']` must be a fraction in [0, 1), but 50 was passed. Did you mean 0.5? Fractions, never percentages."),
    ({"sparsity": {"fc1.bias": 0.5}}, "layer 'fc1.bias' is unknown. Known: fc1, fc1.weight, fc2, fc2.weight."),
    ({"sparsity": 0.5, "protect": ["fc11"]}, "layer 'fc11' is unknown. Did you mean 'fc1'? Known: fc1, fc1.weight, fc2, fc2.weight."),
    ({"sparsity": 0.5, "protect": "head"}, "layer 'head' is unknown. Known: fc1, fc1.weight, fc2, fc2.weight."),
    ({"sparsity": 0.5, "protect": [3]}, "layer 3 is unknown. Known: fc1, fc1.weight, fc2, fc2.weight."),
    ({}, f"{EITHER} neither was passed."),
    ({"sparsity": 0.5, "threshold": 0.1}, f"{EITHER} both were passed."),
    ({"threshold": math.nan}, "`threshold` must be a number, but nan was passed."),
    ({"threshold": "0.1"}, "`threshold` must be a number, but '0.1' was passed."),
    ({"threshold": True}, "`threshold` must be a number, but True was passed."),
    ({"sparsity": 0.5, "scope": "local"}, "`scope` 'local' is unknown. Did you mean 'global'? Known: global, layer."),
    ({"sparsity": 0.5, "scope": 1}, "`scope` 1 is unknown. Known: global, layer."),
    ({"sparsity": 0.5, "min_keep": -1}, "`min_keep` must be a whole number ≥ 0, but -1 was passed."),
    ({"sparsity": 0.5, "min_keep": 1.0}, "`min_keep` must be a whole number ≥ 0, but 1.0 was passed."),
    ({"sparsity": 0.5, "min_keep": True}, "`min_keep` must be a whole number ≥ 0, but True was passed."),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), BAD_CALLS)
def test_a_bad_call_is_refused(bad, message):
    values = {"fc1.weight": torch.rand(2, 2), "fc2.weight": torch.rand(2, 2)}
    with refused(message):
        pv.select(pv.Scores(values, "magnitude"), **bad)


def test_scores_that_are_nan_are_refused():
    with refused(
        "the scores of 'b.weight' contain NaN, which cannot be ranked. Correct the criterion, "
        "or the weights it was given."
    ):
        pv.select(scores([1.0], [math.nan, 1.0]), sparsity=0.5)


def test_what_are_no_scores_is_refused():
    with refused(
        "`scores` must be a Scores, but a dict was passed. Make them: pv.score(model, 'magnitude')."
    ):
        pv.select({}, sparsity=0.5)


@pytest.mark.parametrize("sparsity", [np.float32(0.5), np.float64(0.5)])
def test_numpys_numbers_are_numbers(sparsity):
    assert pv.select(scores([1.0, 2.0]), sparsity=sparsity).kept == 1

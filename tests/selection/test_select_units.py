from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
from helpers import handmade, refused
from helpers.handmade import OUTPUT, rows, where
from hypothesis import given
from hypothesis import strategies as st

import pruneviz as pv

CONV = handmade.conv_groups()
SPREAD = handmade.spread()


def group(name, size, even=None):
    slices = (*rows(name, size), where("next.weight", 1, "in", size))
    return pv.Group(name, size, slices, even=None if even is None else np.array(even))


def scores(values, labels=None, criterion="l2"):
    """Return scores of groups a, b, c, … and a frozen one."""
    named = dict(zip("abcdef", values, strict=False))
    labels = labels or [None] * len(values)
    cut = [group(n, len(v), e) for (n, v), e in zip(named.items(), labels, strict=True)]
    groups = pv.Groups((*cut, pv.Group("last", 3, rows("last", 3), OUTPUT)))
    tensors = {n: torch.tensor(v, dtype=torch.float32) for n, v in named.items()}
    return pv.Scores(tensors, criterion, groups)


def dropped(plan):
    return {n: (~k).nonzero().reshape(-1).tolist() for n, k in plan.keep.items()}


# -- what the contract says, the plain way -------------------------------------------------------


def lowest(values, indices, k):
    return sorted(indices, key=lambda i: (values[i], i))[:k]


def parts_of(n, labels):
    return [[i for i in range(n) if labels[i] == each] for each in sorted(set(labels))]


def nearest(values, labels, asked, round_to):
    """Return the removed units where `asked` were chosen: the nearest allowed count below."""
    n = len(values)
    parts = parts_of(n, labels or [0] * n)
    allowed = [0] + [
        d
        for d in range(1, asked + 1)
        if d % len(parts) == 0
        and (n - d) % round_to == 0
        and all(len(part) > d // len(parts) for part in parts)
    ]
    each = max(allowed) // len(parts)
    return sorted(i for part in parts for i in lowest(values, part, each))


VALUES = st.one_of(st.integers(0, 4).map(float), st.floats(0, 1e3, width=32))
GROUPS = st.lists(st.lists(VALUES, min_size=1, max_size=24), min_size=1, max_size=4)
SHARE = st.one_of(st.floats(0, 1, exclude_max=True), st.sampled_from([0.0, 0.25, 0.5, 0.75, 0.9]))
ROUND = st.sampled_from([1, 1, 2, 3, 4, 8, 30])


@st.composite
def groups_and_labels(draw):
    values = [np.float32(v).tolist() for v in draw(GROUPS)]
    labels = []
    for v in values:
        parts = draw(st.sampled_from([None, 2, 3, 4]))
        labels.append(parts and draw(st.permutations([i % parts for i in range(len(v))])))
    return values, labels


@given(groups_and_labels(), SHARE, st.integers(1, 30), ROUND)
def test_each_group_loses_its_share_or_the_nearest_count_below(given, sparsity, min_keep, round_to):
    values, labels = given
    plan = pv.select(scores(*given), sparsity=sparsity, min_keep=min_keep, round_to=round_to)
    want = {}
    for name, v, even in zip("abcd", values, labels, strict=False):
        asked = min(round(sparsity * len(v)), max(len(v) - min_keep, 0))
        want[name] = nearest(v, even, asked, round_to)
    assert dropped(plan) == want
    pv.drop(plan.groups, dropped(plan))  # which checks that the choice is even
    for kept in plan.keep.values():
        assert int(kept.sum()) % round_to == 0 or bool(kept.all())
        assert int(kept.sum()) >= min(min_keep, kept.numel())


@given(groups_and_labels(), SHARE, st.integers(1, 10), ROUND, st.sets(st.sampled_from("abcd")))
def test_the_global_scope_ranks_all_and_then_mends_each(given, sparsity, min_keep, round_to, whole):
    values, labels = given
    named = dict(zip("abcd", values, strict=False))
    whole = sorted(whole & set(named))
    plan = pv.select(
        scores(*given),
        sparsity=sparsity,
        scope="global",
        min_keep=min_keep,
        round_to=round_to,
        protect=whole,
    )
    free = [
        (v[i], name, i)
        for name, v in named.items()
        for i in lowest(v, range(len(v)), 0 if name in whole else max(len(v) - min_keep, 0))
    ]
    gone = sorted(free)[: round(sparsity * sum(map(len, values)))]
    want = {}
    for (name, v), even in zip(named.items(), labels, strict=True):
        want[name] = nearest(v, even, sum(n == name for _, n, _ in gone), round_to)
    assert dropped(plan) == want
    if round_to == 1 and not any(labels):
        assert plan.total - plan.kept == len(gone)


@given(groups_and_labels(), st.floats(-1, 10, width=32), st.integers(1, 5), ROUND)
def test_a_threshold_drops_nothing_above_it(given, threshold, min_keep, round_to):
    values, labels = given
    plan = pv.select(scores(*given), threshold=threshold, min_keep=min_keep, round_to=round_to)
    for name, v, even in zip("abcd", values, labels, strict=False):
        may_go = lowest(v, range(len(v)), max(len(v) - min_keep, 0))
        below = {i for i in may_go if v[i] < threshold}
        parts = parts_of(len(v), even or [0] * len(v))
        asked = len(parts) * min(len(below & set(part)) for part in parts)
        assert dropped(plan)[name] == nearest(v, even, asked, round_to)
        assert all(v[i] < threshold for i in dropped(plan)[name])
        if even is None and round_to == 1:
            assert dropped(plan)[name] == sorted(below)


# -- one thing at a time -------------------------------------------------------------------------

TEN = [float(i) for i in range(10)]


def test_a_plan_of_units_carries_its_groups():
    s = scores([TEN, [1.0, 0.0]])
    plan = pv.select(s, sparsity=0.5)
    assert plan.groups is s.groups
    assert repr(plan) == "Plan for 12 units in 2 groups: keeps 6, sparsity 0.500"
    assert dropped(plan) == {"a": [0, 1, 2, 3, 4], "b": [1]}  # and nothing of the frozen one


@pytest.mark.parametrize(
    ("round_to", "sparsity", "kept"),
    [(1, 0.5, 5), (2, 0.5, 6), (4, 0.5, 8), (4, 0.1, 10), (4, 0.9, 4), (8, 0.9, 8), (16, 0.9, 10)],
)
def test_the_number_kept_is_a_multiple(round_to, sparsity, kept):
    assert pv.select(scores([TEN]), sparsity=sparsity, round_to=round_to).kept == kept


def test_the_same_number_is_removed_from_each_part():
    s = scores([[1, 2, 3, 4, 50, 60, 70, 80]], [[0, 0, 0, 0, 1, 1, 1, 1]])
    assert dropped(pv.select(s, sparsity=0.5)) == {"a": [0, 1, 4, 5]}
    assert dropped(pv.select(s, sparsity=0.4)) == {"a": [0, 4]}  # 3 were asked
    assert dropped(pv.select(s, sparsity=0.9)) == {"a": [0, 1, 2, 4, 5, 6]}
    assert dropped(pv.select(s, sparsity=0.7, round_to=4)) == {"a": [0, 1, 4, 5]}
    assert dropped(pv.select(s, threshold=55.0)) == {"a": [0, 4]}


@pytest.mark.parametrize("name", ["stem", "norm", "conv2", "conv2.weight"])
def test_who_protects_a_layer_protects_its_group(name):
    s = pv.Scores({"stem": torch.rand(4), "conv1": torch.rand(8)}, "l2", CONV)
    plan = pv.select(s, sparsity=0.5, protect=[name])
    assert {n: len(d) for n, d in dropped(plan).items()} == {"stem": 0, "conv1": 4}
    plan = pv.select(s, sparsity={name: 0.5})
    assert {n: len(d) for n, d in dropped(plan).items()} == {"stem": 2, "conv1": 0}


def test_all_groups_of_a_layer_are_meant():
    s = pv.Scores({n: torch.arange(2.0) for n in SPREAD.names[1:]}, "l2", SPREAD)
    assert pv.select(s, sparsity=0.5, protect="conv").sparsity == 0
    assert pv.select(s, sparsity={"conv": 0.5}).sparsity == 0.5
    plan = pv.select(s, sparsity={"conv, part 3": 0.5})
    assert dropped(plan) == {"conv, part 2": [], "conv, part 3": [0]}


def test_a_frozen_group_may_be_protected_and_is_kept():
    s = scores([TEN])
    assert dropped(pv.select(s, sparsity=0.1, protect=["last"])) == {"a": [0]}
    assert dropped(pv.select(s, sparsity={"last": 0.0, "a": 0.1})) == {"a": [0]}
    both = pv.Scores({**s.values, "last": torch.rand(3)}, "l2", s.groups)
    assert dropped(pv.select(both, sparsity=0.5))["last"] == []


def test_to_ask_for_what_is_frozen_is_refused():
    want = f"layer 'last' cannot be shrunk: {OUTPUT}. Protect it, or leave it out of the plan."
    with pytest.raises(pv.GraphError, match=f"^{re.escape(want)}$"):
        pv.select(scores([TEN]), sparsity={"last": 0.5})


FRACTION = "`sparsity` must be a fraction in [0, 1), but"
BAD_CALLS = [
    ({"sparsity": 50}, f"{FRACTION} 50 was passed. Did you mean 0.5? Fractions, never percentages."),
    ({"sparsity": {"a": 2}}, "`sparsity['a']` must be a fraction in [0, 1), but 2 was passed. Did you mean 0.02? Fractions, never percentages."),
    ({"sparsity": {"last": -1}}, "`sparsity['last']` must be a fraction in [0, 1), but -1 was passed."),
    ({"sparsity": {"c": 0.5}}, "layer 'c' is unknown. Known: a, b, last."),
    ({"sparsity": 0.5, "protect": ["lost"]}, "layer 'lost' is unknown. Did you mean 'last'? Known: a, b, last."),
    ({"sparsity": 0.5, "protect": [3]}, "layer 3 is unknown. Known: a, b, last."),
    ({"sparsity": 0.5, "min_keep": 0}, "`min_keep` must be a whole number ≥ 1, but 0 was passed."),
    ({"sparsity": 0.5, "round_to": 0}, "`round_to` must be a whole number ≥ 1, but 0 was passed."),
    ({"sparsity": 0.5, "round_to": 2.0}, "`round_to` must be a whole number ≥ 1, but 2.0 was passed."),
    ({"sparsity": 0.5, "round_to": True}, "`round_to` must be a whole number ≥ 1, but True was passed."),
    ({"sparsity": 0.5, "scope": "local"}, "`scope` 'local' is unknown. Did you mean 'global'? Known: global, layer."),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), BAD_CALLS)
def test_a_bad_call_is_refused(bad, message):
    with refused(message):
        pv.select(scores([TEN, TEN]), **bad)


def test_scores_that_do_not_fit_are_refused():
    groups = scores([TEN]).groups
    with refused("the scores of group 'a' must be one per unit, shape (10,), but have shape (9,)."):
        pv.select(pv.Scores({"a": torch.rand(9)}, "l2", groups), sparsity=0.5)
    with refused("group 'b' is unknown. Known: a, last."):
        pv.select(pv.Scores({"b": torch.rand(9)}, "l2", groups), sparsity=0.5)
    with refused(
        "the scores of 'a' contain NaN, which cannot be ranked. Correct the criterion, "
        "or the weights it was given."
    ):
        pv.select(scores([[1.0, math.nan]]), sparsity=0.5)


def test_single_weights_know_no_round_to():
    weights = pv.Scores({"fc.weight": torch.rand(2, 3)}, "magnitude")
    assert pv.select(weights, sparsity=0.5, round_to=1).kept == 3
    with refused(
        "`round_to` is for units, but these are scores of single weights. "
        "Score units: pv.score(model, 'l2', groups=groups)."
    ):
        pv.select(weights, sparsity=0.5, round_to=8)


def test_a_group_never_vanishes():
    plan = pv.select(scores([TEN, [9.0] * 40]), sparsity=0.9, scope="global")
    assert int(plan.keep["a"].sum()) == 1
    assert pv.select(scores([TEN]), threshold=99.0).kept == 1

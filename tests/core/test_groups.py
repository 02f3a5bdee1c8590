"""Slice, Group, Groups and plans of units, on groups written by hand."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from helpers import handmade, refused
from helpers.handmade import OUTPUT, rows, where
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import pruneviz as pv
from pruneviz.core.names import layer_name

MLP = handmade.mlp_groups()
CONV = handmade.conv_groups()
ALL = {"mlp": MLP, "conv": CONV, "spread": handmade.spread(), "heads": handmade.heads()}


def test_groups_are_a_sequence():
    assert len(MLP) == 3
    assert [g.name for g in MLP] == ["fc1", "fc2", "fc3"] == list(MLP.names)
    assert MLP[0] is MLP["fc1"] is MLP[-3] is MLP[np.int64(0)]
    assert isinstance(MLP[1:], pv.Groups)
    assert MLP[1:].names == ("fc2", "fc3")
    with pytest.raises(IndexError):
        MLP[3]


def test_an_unknown_group_is_refused():
    with refused("group 'fc11' is unknown. Did you mean 'fc1'? Known: fc1, fc2, fc3."):
        MLP["fc11"]


def test_two_groups_of_one_name_are_refused():
    with refused("two groups have the name 'fc1'. Give each group a name of its own."):
        pv.Groups((MLP[0], MLP[1], MLP[0]))


@pytest.mark.parametrize("noun", [MLP, MLP[0], MLP[0].slices[0]], ids=["Groups", "Group", "Slice"])
def test_nouns_are_frozen(noun):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(noun, dataclasses.fields(noun)[0].name, None)


def test_producers_and_consumers_come_once_and_in_order():
    assert CONV["stem"].producers == ("stem", "norm", "conv2")
    assert CONV["stem"].consumers == ("conv1", "head")


REPRS = {
    "mlp": """\
Groups: 2 of 3 can be cut, 10 units
  fc1  6 units; read by fc2
  fc2  4 units; read by fc3
frozen:
  fc3  its units are the model's output""",
    "conv": """\
Groups: 2 of 3 can be cut, 12 units
  stem   4 units; shared with norm, conv2; read by conv1, head; remove the same number from each part
  conv1  8 units; read by conv2; remove the same number from each part
frozen:
  head   its units are the model's output""",
    "heads": """\
Groups: 1 of 1 can be cut, 2 units
  attn  2 units; read by attn.out_proj""",
}


@pytest.mark.parametrize("name", REPRS)
def test_the_repr_teaches(name):
    assert repr(ALL[name]) == REPRS[name]


def test_a_long_repr_is_shortened():
    cut = tuple(pv.Group(f"fc{i}", 1, rows(f"fc{i}", 1)) for i in range(20))
    why = "it meets " + "something odd, " * 20
    frozen = tuple(pv.Group(f"out{i}", 1, rows(f"out{i}", 1), why) for i in range(13))
    lines = repr(pv.Groups(cut + frozen)).splitlines()
    assert len(lines) == 1 + 13 + 1 + 13
    assert lines[0] == "Groups: 20 of 33 can be cut, 20 units"
    assert lines[13] == "  … and 8 more: .to_frame()"
    assert lines[-1] == "  … and 1 more: .to_frame()"
    assert all(len(line) <= 100 for line in lines)
    assert lines[15].endswith("…")


def test_no_groups_have_a_repr():
    assert repr(pv.Groups(())) == "Groups: 0 of 0 can be cut, 0 units"


def test_reprs_of_one():
    assert repr(MLP["fc3"]) == f"Group 'fc3': 3 units of fc3; frozen: {OUTPUT}"
    assert repr(CONV["conv1"]) == (
        "Group 'conv1': 8 units of conv1, read by conv2; remove the same number from each of 2 parts"
    )
    many = pv.Group("a", 1, tuple(s for n in "abcde" for s in rows(n, 1)), approximate="LayerNorm")
    assert repr(many) == "Group 'a': 1 unit of a, b and 3 more; approximate: LayerNorm"
    assert repr(where("weight", 0, "out", 3)) == (
        "Slice of 'weight': 3 units along dimension 0, role out"
    )
    assert repr(pv.Group("", 3, (where("weight", 0, "out", 3),))) == (
        "Group '': 3 units of the model itself"
    )
    assert repr(CONV["stem"].slices[-1]) == (
        "Slice of 'head.weight': 4 units of 9 positions along dimension 1, role in"
    )
    assert repr(CONV["conv1"].slices[-1]) == (
        "Slice of 'conv2.weight': 8 units along dimension 1, role in, 2 blocks"
    )


def test_a_frame_has_one_row_a_slice():
    frame = CONV.to_frame()
    assert list(frame.columns) == [
        *(
            "group",
            "units",
            "layer",
            "tensor",
            "dim",
            "role",
            "width",
            "frozen",
            "approximate",
            "unused",
        )
    ]
    assert len(frame) == sum(len(g.slices) for g in CONV)
    last = frame[frame["group"] == "stem"].iloc[-1].tolist()
    assert last == ["stem", 4, "head", "head.weight", 1, "in", 9, "", "", ""]
    assert frame["frozen"].unique().tolist() == ["", OUTPUT]
    assert list(pv.Groups(()).to_frame().columns) == list(frame.columns)


def units(groups, name):
    return [(g.name, u) for g, u in groups.units_of(name)]


def test_unit_i_of_a_layer_is_channel_i_whatever_its_group():
    assert units(ALL["spread"], "conv") == [
        ("conv, part 2", 1),
        ("conv", 0),
        ("conv, part 3", 0),
        ("conv, part 3", 1),
        ("conv", 1),
        ("conv, part 2", 0),
    ]
    assert units(ALL["spread"], "conv") == units(ALL["spread"], "conv.bias")
    assert units(ALL["spread"], "conv, part 2") == [("conv, part 2", 0), ("conv, part 2", 1)]


@pytest.mark.parametrize("name", ["stem", "norm", "conv2", "conv2.bias", "norm.running_mean"])
def test_every_producer_of_a_group_names_its_units(name):
    assert units(CONV, name) == [("stem", i) for i in range(4)]
    assert CONV.groups_of(name) == [CONV["stem"]]


def test_unit_h_of_a_fused_attention_is_head_h():
    assert units(ALL["heads"], "attn") == [("attn", 0), ("attn", 1)]


def test_of_a_layer_with_several_tensors_the_first_that_can_be_cut_counts():
    table = pv.Group("tokens", 7, (where("table", 0, "out", 7),), "it is indexed by data")
    width = pv.Group("", 3, (where("table", 1, "out", 3), where("fc.weight", 1, "in", 3)))
    assert units(pv.Groups((table, width)), "") == [("", 0), ("", 1), ("", 2)]
    assert units(pv.Groups((table,)), "") == [("tokens", i) for i in range(7)]


def test_a_layer_without_units_is_refused():
    want = "layer 'fc4' is unknown. Did you mean 'fc3'? Known: fc1, fc2, fc3."
    for ask in (MLP.units_of, MLP.groups_of):
        with refused(want):
            ask("fc4")


@pytest.mark.parametrize(
    ("tensor", "layer"),
    [
        ("fc.parametrizations.weight.original", "fc"),
        ("parametrizations.weight.original", ""),
        ("a.0.parametrizations.in_proj_weight.original1", "a.0"),
        ("fc.parametrizations.weight.0.keep", "fc"),
        ("parametrizations.weight.1._u", ""),
        ("parametrizations.fc.weight", "parametrizations.fc"),  # somebody's own name
    ],
)
def test_the_layer_of_a_parametrized_tensor(tensor, layer):
    assert layer_name(tensor) == layer


# -- where the units are in a tensor -------------------------------------------------------------


def marked(where, shape, units):
    """Return the positions of the units, the plain way."""
    want = np.zeros(shape, bool)
    for u in np.flatnonzero(units):
        for p in where.index[u]:
            if where.blocks == 1:
                want[(slice(None),) * where.dim + (p,)] = True
                continue
            block, column = divmod(int(p), shape[where.dim])
            rows = shape[0] // where.blocks
            at = [slice(block * rows, (block + 1) * rows), *[slice(None)] * (len(shape) - 1)]
            at[where.dim] = column
            want[tuple(at)] = True
    return want


@pytest.mark.parametrize("group", ["stem", "conv1"])
def test_marked_are_the_positions_of_the_units(group):
    tensors = handmade.conv().state_dict()
    for n in range(CONV[group].size):
        units = np.arange(CONV[group].size) % 3 == n % 3
        for s in CONV[group].slices:
            shape = tuple(tensors[s.tensor].shape)
            np.testing.assert_array_equal(s.mark(shape, units), marked(s, shape, units))


def test_the_columns_of_a_grouped_convolution_lie_in_its_blocks():
    s = where("weight", 1, "in", 4, blocks=2)  # 4 inputs, 6 outputs, 2 groups: weight (6, 2)
    mark = s.mark((6, 2), np.array([False, False, False, True]))
    assert mark.tolist() == [[False, False]] * 3 + [[False, True]] * 3


# -- plans of units ------------------------------------------------------------------------------


def plan(groups, **keep):
    full = {g.name: torch.ones(g.size, dtype=torch.bool) for g in groups if not g.frozen}
    return pv.Plan({**full, **{n: torch.tensor(k) for n, k in keep.items()}}, groups)


def test_a_plan_of_units_counts_units():
    p = plan(MLP, fc1=[True, False, False, True, True, True])
    assert repr(p) == "Plan for 10 units in 2 groups: keeps 8, sparsity 0.200"
    assert repr(pv.Plan({"a": torch.ones(1234, dtype=torch.bool)}, MLP)).startswith(
        "Plan for 1,234 units in 1 group: "
    )
    frame = p.to_frame()
    assert frame.to_dict("list") == {
        "group": ["fc1", "fc2"],
        "total": [6, 4],
        "kept": [4, 4],
        "sparsity": [pytest.approx(1 / 3), 0.0],
    }


def test_a_frame_keeps_the_names_of_groups_as_they_are():
    g = pv.Groups((pv.Group("a.b", 1, rows("a.b", 1)), pv.Group("a.c", 1, rows("a.c", 1))))
    assert plan(g).to_frame()["group"].tolist() == ["a.b", "a.c"]


def same(a, b):
    assert (a is None) == (b is None)
    if a is not None:
        np.testing.assert_array_equal(a, b)


def assert_same_groups(a, b):
    for g, h in zip(a, b, strict=True):
        assert (g.name, g.size, g.frozen, g.approximate) == (
            h.name,
            h.size,
            h.frozen,
            h.approximate,
        )
        same(g.even, h.even)
        for s, t in zip(g.slices, h.slices, strict=True):
            assert (s.tensor, s.dim, s.role, s.blocks) == (t.tensor, t.dim, t.role, t.blocks)
            same(s.index, t.index)


@pytest.mark.parametrize("groups", ALL.values(), ids=ALL)
def test_a_plan_of_units_survives_json(groups):
    p = plan(groups)
    next(iter(p.keep.values()))[0] = False
    again = pv.Plan.from_json(p.to_json())
    assert again.to_json() == p.to_json()
    assert list(again.keep) == list(p.keep)
    assert all(torch.equal(again.keep[n], k) for n, k in p.keep.items())
    assert_same_groups(again.groups, groups)


INDICES = st.integers(0, 2**31 - 1)


@given(st.integers(1, 5), st.integers(1, 4), st.data())
def test_any_index_survives_json(n, k, data):
    index = data.draw(hnp.arrays(np.int64, (n, k), elements=INDICES, unique=True))
    even = data.draw(hnp.arrays(np.int64, n, elements=INDICES))
    groups = pv.Groups((pv.Group("ä.b", n, (where("ä.b.w", 2, "in", index),), "", "ß", even),))
    assert_same_groups(pv.Plan.from_json(plan(groups).to_json()).groups, groups)


def test_a_large_plan_of_units_is_small_as_json():
    groups = pv.Groups((pv.Group("fc", 100_000, rows("fc", 100_000)),))
    assert len(plan(groups).to_json()) < 3000


def test_json_says_that_it_is_about_units():
    data = json.loads(plan(MLP).to_json())
    assert (data["pruneviz"], data["version"], data["granularity"]) == ("plan", 2, "unit")


# as early versions wrote it: no checksum hides what else is looked at
GOOD = {**json.loads(plan(CONV).to_json()), "version": 1}
del GOOD["checksum"]


def changed(group=None, first=None, **entry):
    """Return the text of a plan in which something of the first group, or its slice, is changed."""
    data = json.loads(json.dumps({**GOOD, **entry}))
    data["groups"][0]["slices"][0].update(first or {})
    data["groups"][0].update(group or {})
    return json.dumps(data)


NO_PLAN = {
    "granularity of another time": changed(granularity="head"),
    "no groups": json.dumps({k: v for k, v in GOOD.items() if k != "groups"}),
    "no granularity": json.dumps({k: v for k, v in GOOD.items() if k != "granularity"}),
    "version 3": changed(version=3),
    "groups are null": json.dumps({**GOOD, "groups": None}),
    "groups are a text": json.dumps({**GOOD, "groups": "all"}),
    "no slices": changed(group={"slices": None}),
    "index is null": changed(first={"index": None}),
}
DAMAGED = {
    "a group that is unknown": changed(keep={"fc": GOOD["keep"]["stem"]}),
    "keep of another length": changed(keep={"conv1": GOOD["keep"]["stem"]}),
    "a size that does not fit": changed(group={"size": 3}),
    "a size of nothing": changed(group={"size": 0}),
    "a size below nothing": changed(group={"size": -4}),
    "too few labels": changed(group={"even": GOOD["groups"][1]["even"]}),
    "two of a name": changed(group={"name": "conv1"}),
    "index is no base64": changed(first={"index": "§"}),
    "index deflated wrongly": changed(first={"index": "AAAA"}),
    "a role of another play": changed(first={"role": "king"}),
    "a dimension below nothing": changed(first={"dim": -1}),
    "no blocks": changed(first={"blocks": 0}),
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
    text = json.dumps(GOOD)
    at = data.draw(st.integers(0, len(text) - 1))
    char = data.draw(st.characters(codec="utf-8"))
    try:
        plan = pv.Plan.from_json(text[:at] + char + text[at + 1 :])
    except pv.ArgumentError:
        return
    assert all(k.dtype == torch.bool for k in plan.keep.values())

"""A plan changed by hand: units are removed or kept, whatever their scores."""

import numpy as np
import pytest
import torch
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pruneviz as pv
from pruneviz import lessons
from pruneviz.selection.edit import changes, edited, toggled, units_to_drop


def part(name, tensor, *channels, **more):
    index = np.array(channels)[:, None]
    return pv.Group(name, len(channels), (pv.Slice(tensor, 0, index, "out"),), **more)


# units 0 and 3 of `conv` are a group of their own; `twin` shares its units with `fc`
GROUPS = pv.Groups(
    (
        part("conv", "conv.weight", 1, 2),
        part("conv, part 2", "conv.weight", 0, 3),
        pv.Group(
            "fc",
            3,
            (
                pv.Slice("fc.weight", 0, np.arange(3)[:, None], "out"),
                pv.Slice("twin.weight", 0, np.arange(3)[:, None], "out"),
            ),
        ),
        part("even", "even.weight", 0, 1, 2, 3, even=np.array([0, 0, 1, 1])),
        part("last", "last.weight", 0, 1, frozen="its units are the model's output"),
        part("half", "half.weight", 0, 1),
        part("half, part 2", "half.weight", 2, frozen="it is read twice"),
    )
)
WHOLE = pv.drop(GROUPS, {})


def removed(plan):
    return {n: (~k).nonzero().flatten().tolist() for n, k in plan.keep.items() if not k.all()}


def test_units_are_removed_and_kept_and_the_plan_is_untouched():
    plan = pv.drop(GROUPS, {"fc": [0, 1], "conv": [1]})
    new = edited(plan, {"conv": {0: False, 1: True}, "twin": {1: True}})
    assert removed(new) == {"conv, part 2": [0], "fc": [0]}
    assert removed(plan) == {"conv": [0], "fc": [0, 1]}
    assert removed(edited(plan, {})) == removed(plan)


def test_the_same_said_twice_is_said():
    assert removed(edited(WHOLE, {"fc": {1: False}, "twin": {1: False}})) == {"fc": [1]}


def test_a_frozen_unit_may_be_kept_by_hand():
    assert removed(edited(WHOLE, {"last": {0: True}})) == {}


BAD = [
    (pv.ArgumentError, {"twinn": {0: False}}, "layer 'twinn' is unknown. Did you mean 'twin'? Known: conv, even, fc, half, last, twin."),
    (pv.ArgumentError, {"fc": {3: False}}, "layer 'fc' has units 0 to 2, but unit 3 was named."),
    (pv.ArgumentError, {"fc": {3: True}}, "layer 'fc' has units 0 to 2, but unit 3 was named."),
    (pv.ArgumentError, {"fc": {1: False}, "twin": {1: True}}, "unit 1 of layer 'twin' and unit 1 of layer 'fc' are one unit, which cannot be both removed and kept. Leave one out."),
    (pv.ArgumentError, {"fc": {0: False, 1: False, 2: False}}, "all 3 units of group 'fc' would be removed: at least one must be kept. Keep one."),
    (pv.GraphError, {"last": {0: False}}, "layer 'last' cannot be shrunk: its units are the model's output. Protect it, or leave it out of the plan."),
    (pv.GraphError, {"half": {2: False}}, "unit 2 of layer 'half' cannot be cut: it is read twice. Leave it out of the plan."),
    (pv.GraphError, {"even": {2: False}}, "group 'even' cannot be cut like this: remove as many units from each of its 2 parts, and keep at least one in each. The parts are units 0–1, 2–3; units removed in each: 0, 1."),
]  # fmt: skip


@pytest.mark.parametrize(("error", "units", "message"), BAD)
def test_what_cannot_be_is_refused(error, units, message):
    with pytest.raises(error) as caught:
        edited(WHOLE, units)
    assert str(caught.value) == message


def test_an_even_group_is_cut_evenly():
    assert removed(edited(WHOLE, {"even": {1: False, 2: False}})) == {"even": [1, 2]}


def test_a_plan_for_weights_is_refused():
    with refused(
        "this plan removes single weights: only a plan for units can be changed unit by unit. "
        "Score units: pv.score(model, 'l2', groups=groups)."
    ):
        edited(pv.Plan({"w": torch.ones(2, dtype=torch.bool)}), {})


PLACES = [("conv", i) for i in range(4)] + [("fc", i) for i in range(3)] + [("twin", 1)]


@given(
    st.lists(st.sampled_from(PLACES), max_size=8), st.sampled_from([{}, {"conv": [1], "fc": [2]}])
)
def test_a_unit_is_toggled_twice(moves, start):
    plan = pv.drop(GROUPS, start)
    units, now = {}, plan
    for layer, unit in moves:
        group, number = GROUPS.units_of(layer)[unit]
        before, was = units, now
        units = toggled(plan, units, layer, unit)
        try:
            now = edited(plan, units)
        except pv.ArgumentError as e:  # the last one
            assert "at least one must be kept" in str(e)
            units = before
            continue
        assert list(changes(was, now).values()) == [[number]]
        assert bool(now.keep[group.name][number]) is not bool(was.keep[group.name][number])
        back = toggled(plan, units, layer, unit)
        assert removed(edited(plan, back)) == removed(was)
    says = sum(map(len, units.values()))
    assert says == sum(map(len, changes(plan, now).values()))  # and no edit that changes nothing


def test_an_output_is_not_turned():
    with pytest.raises(pv.GraphError, match="its units are the model's output"):
        toggled(WHOLE, {}, "last", 0)


@given(st.dictionaries(st.sampled_from(["conv", "fc"]), st.sets(st.integers(0, 2), max_size=2)))
def test_named_returns_the_units_that_drop_got(units):
    try:
        plan = pv.drop(GROUPS, units)
    except pv.ArgumentError:
        return
    assert removed(pv.drop(GROUPS, units_to_drop(plan))) == removed(plan)


@pytest.mark.parametrize("name", ["residual-net", "lenet-5"])
def test_named_knows_the_groups_of_a_network(name):
    model = lessons.load(name)
    groups = pv.find_groups(model, torch.zeros(2, 1, 28, 28))
    plan = pv.select(pv.score(model, "l2", groups=groups), sparsity=0.4)
    assert removed(pv.drop(groups, units_to_drop(plan))) == removed(plan)


def test_heads_are_removed_by_hand():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
            self.out = nn.Linear(8, 2)

        def forward(self, x):
            return self.out(x + self.attention(x, x, x, need_weights=False)[0])

    model, x = Net().eval(), torch.randn(3, 5, 8)
    groups = pv.find_groups(model, x)
    plan = edited(pv.drop(groups, {"attention": [0]}), {"attention": {0: True, 2: False}})
    assert removed(plan) == {"attention": [2]}
    assert pv.shrink(model, plan, example_input=x).attention.num_heads == 3

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from helpers import handmade, refused
from helpers.handmade import rows, where
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pruneviz as pv
from pruneviz.selection.edit import units_to_drop

MLP = handmade.mlp_groups()
CONV = handmade.conv_groups()
SPREAD = handmade.spread()


def dropped(plan):
    return {n: (~k).nonzero().reshape(-1).tolist() for n, k in plan.keep.items()}


def test_named_units_are_removed():
    plan = pv.drop(MLP, {"fc1": [3, 5], "fc2": [0]})
    assert dropped(plan) == {"fc1": [3, 5], "fc2": [0]}
    assert plan.groups is MLP
    assert repr(plan) == "Plan for 10 units in 2 groups: keeps 7, sparsity 0.300"


@pytest.mark.parametrize("units", [{}, {"fc1": []}, {"fc3": []}, {"fc1": torch.zeros(0)}], ids=str)
def test_what_names_nothing_drops_nothing(units):
    assert dropped(pv.drop(MLP, units)) == {"fc1": [], "fc2": []}


@pytest.mark.parametrize(
    "numbers",
    [
        (3, 5),
        range(3, 6, 2),
        {5, 3},
        iter([5, 3]),
        np.array([3, 5]),
        torch.tensor([5, 3]),
        [np.int64(3), np.int32(5)],
        [torch.tensor(3), torch.tensor(5)],
    ],
    ids="tuple range set iterator array tensor int64 tensors".split(),
)
def test_any_whole_numbers_do(numbers):
    assert dropped(pv.drop(MLP, {"fc1": numbers}))["fc1"] == [3, 5]


@pytest.mark.parametrize("name", ["stem", "norm", "conv2", "conv2.weight", "norm.running_mean"])
def test_any_producer_names_the_units_of_its_group(name):
    assert dropped(pv.drop(CONV, {name: [0, 3]})) == {"stem": [0, 3], "conv1": []}


def test_two_layers_may_name_the_same_unit():
    assert dropped(pv.drop(CONV, {"stem": [0, 3], "conv2": [3]}))["stem"] == [0, 3]
    assert dropped(pv.drop(CONV, {"stem": [0], "conv2": [3]}))["stem"] == [0, 3]


def test_channels_are_counted_through_all_groups_of_a_layer():
    plan = pv.drop(SPREAD, {"conv": [0, 3]})
    assert dropped(plan) == {"conv, part 2": [1], "conv, part 3": [1]}
    assert dropped(pv.drop(SPREAD, {"conv, part 3": [0]}))["conv, part 3"] == [0]


def test_a_head_is_a_unit():
    assert dropped(pv.drop(handmade.heads(), {"attn": [1]})) == {"attn": [1]}


WHOLE = "`units['fc1']` must hold whole numbers in [0, 6): 'fc1' has 6 units. But"
LIST = "`units['fc1']` must be the numbers of the units to remove, such as [3, 5], but"
BAD_CALLS = [
    ({"fc1": [1.5]}, f"{WHOLE} 1.5 was passed."),
    ({"fc1": [1.0]}, f"{WHOLE} 1.0 was passed."),
    ({"fc1": [True]}, f"{WHOLE} True was passed."),
    ({"fc1": [6]}, f"{WHOLE} 6 was passed."),
    ({"fc1": [-1]}, f"{WHOLE} -1 was passed."),
    ({"fc1": [None]}, f"{WHOLE} None was passed."),
    ({"fc1": ["3"]}, f"{WHOLE} '3' was passed."),
    ({"fc1": [[3]]}, f"{WHOLE} [3] was passed."),
    ({"fc1": torch.tensor([1.5])}, f"{WHOLE} 1.5 was passed."),
    ({"fc1": torch.ones(6, dtype=torch.bool)}, f"{WHOLE} True was passed."),
    ({"fc1": 3}, f"{LIST} 3 was passed. Did you mean [3]?"),
    ({"fc1": torch.tensor(3)}, f"{LIST} 3 was passed. Did you mean [3]?"),
    ({"fc1": 3.0}, f"{LIST} 3.0 was passed."),
    ({"fc1": True}, f"{LIST} True was passed."),
    ({"fc1": None}, f"{LIST} None was passed."),
    ({"fc1": "35"}, f"{LIST} '35' was passed."),
    ({"fc1": [3, 3]}, "`units['fc1']` names unit 3 twice. Name each unit once."),
    ({"fc1": range(6)}, "all 6 units of group 'fc1' are named: at least one must be kept. Leave one out."),
    ({"fc4": [0]}, "layer 'fc4' is unknown. Did you mean 'fc3'? Known: fc1, fc2, fc3."),
    ({1: [0]}, "layer 1 is unknown. Known: fc1, fc2, fc3."),
    ([3], "`units` must be a Mapping, but a list was passed. Name layers and units: pv.drop(groups, {'fc1': [3, 5]})."),
]  # fmt: skip


@pytest.mark.parametrize(("units", "message"), BAD_CALLS)
def test_a_bad_call_is_refused(units, message):
    with refused(message):
        pv.drop(MLP, units)


def test_what_are_no_groups_is_refused():
    with refused(
        "`groups` must be a Groups, but a Group was passed. "
        "Make them: pv.find_groups(model, example_input)."
    ):
        pv.drop(MLP[0], {})


PARTS = "and keep at least one in each. The parts are units"
UNEVEN = [
    (CONV, {"stem": [0]}, f"group 'stem' cannot be cut like this: remove as many units from each of its 2 parts, {PARTS} 0–1, 2–3; units named in each: 1, 0."),
    (CONV, {"conv1": [0, 1, 7]}, f"group 'conv1' cannot be cut like this: remove as many units from each of its 2 parts, {PARTS} 0–3, 4–7; units named in each: 2, 1."),
    (MLP, {"fc3": [0]}, "layer 'fc3' cannot be shrunk: its units are the model's output. Protect it, or leave it out of the plan."),
    (SPREAD, {"conv": [0, 4]}, "unit 4 of layer 'conv' cannot be cut: they meet the model's input. Leave it out of the plan."),
]  # fmt: skip


@pytest.mark.parametrize(("groups", "units", "message"), UNEVEN)
def test_what_cannot_be_cut_is_refused(groups, units, message):
    with pytest.raises(pv.GraphError, match=f"^{re.escape(message)}$"):
        pv.drop(groups, units)


def test_an_even_choice_is_taken():
    assert dropped(pv.drop(CONV, {"conv1": [1, 2, 4, 7]}))["conv1"] == [1, 2, 4, 7]


def even(labels):
    n = len(labels)
    slices = (*rows("a", n), where("b.weight", 1, "in", n))
    return pv.Groups((pv.Group("a", n, slices, even=np.array(labels)),))


@pytest.mark.parametrize(
    ("labels", "units", "parts", "named"),
    [
        ([0, 1, 0, 1, 0, 1, 0, 1], [0], "0/2/4/…, 1/3/5/…", "1, 0"),
        ([7, 7, 3], [0, 2], "2, 0–1", "1, 1"),  # as many, but one part would be empty
        ([0, 1, 2, 3, 4, 5] * 2, [0], "0/6, 1/7, 2/8, 3/9, …", "1, 0, 0, 0, …"),
    ],
)
def test_the_parts_are_named(labels, units, parts, named):
    with pytest.raises(pv.GraphError) as caught:
        pv.drop(even(labels), {"a": units})
    assert f"The parts are units {parts}; units named in each: {named}." in str(caught.value)


def shuffled(upscale, units):
    """A convolution whose channels reach the next one `upscale`² at a time."""
    conv = nn.Conv2d(1, units * upscale**2, 3, padding=1)
    return nn.Sequential(conv, nn.PixelShuffle(upscale), nn.ReLU(), nn.Conv2d(units, 2, 1))


@given(st.integers(2, 3), st.integers(2, 4), st.data())
def test_the_unit_that_holds_the_named_channel_goes(upscale, units, data):
    model, x = shuffled(upscale, units), torch.randn(2, 1, 4, 4)
    groups, block = pv.find_groups(model, x), upscale**2
    channel = data.draw(st.integers(0, units * block - 1))
    first = channel // block * block
    with pytest.warns(UserWarning, match=f"go together: {first}–{first + block - 1}. Name all"):
        plan = pv.drop(groups, {"0": [channel]})
    small = pv.shrink(model, plan, example_input=x)
    kept = [c for c in range(units * block) if not first <= c < first + block]
    assert torch.equal(small[0].weight, model[0].weight[kept])
    # with all of them named, as `units_to_drop` does, nothing is left to say
    again = pv.drop(groups, {"0": range(first, first + block)})
    assert dropped(again) == dropped(plan) == {"0": [channel // block]}
    assert units_to_drop(plan) == {"0": list(range(first, first + block))}


def test_halves_of_a_chunk_go_together_and_numbers_are_those_of_the_layer():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(3, 8), nn.Linear(4, 2)

        def forward(self, x):
            a, b = self.up(x).chunk(2, -1)
            return self.down(a * torch.sigmoid(b))

    groups = pv.find_groups(Gated(), torch.zeros(2, 3))
    with pytest.warns(UserWarning, match="go together: 1/5. Name all"):
        assert dropped(pv.drop(groups, {"up": [5]})) == {"up": [1]}
    assert dropped(pv.drop(groups, {"up": [5, 1]})) == {"up": [1]}
    with refused(
        "`units['up']` must hold whole numbers in [0, 8): 'up' has 8 outputs. But 8 was passed."
    ):
        pv.drop(groups, {"up": [8]})

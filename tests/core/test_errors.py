"""Errors name the argument that was passed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pruneviz as pv
from pruneviz.core.errors import calling_it

MODEL = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
PAIRS = [(torch.randn(20, 4), torch.arange(20) % 2)]
TAKE_X = {
    "neurons": lambda x: pv.panel_neurons(MODEL, x),
    "redundant": lambda x: pv.panel_redundant(MODEL, x, batches=PAIRS),
    "costs": lambda x: pv.panel_costs(MODEL, x, seconds=0),
    "activations": lambda x: pv.activations(
        MODEL, x, groups=pv.find_groups(MODEL, PAIRS[0][0]), group="0"
    ),
}


@pytest.mark.parametrize("name", TAKE_X)
@pytest.mark.parametrize("x", [
    torch.zeros(3, 99), None, "text", {"a": torch.zeros(1, 4)}, torch.zeros(3, 4, device="meta"),
])  # fmt: skip
def test_what_takes_x_says_x(name, x):
    with pytest.raises(pv.ArgumentError) as raised:
        TAKE_X[name](x)
    assert "`x`" in str(raised.value) and "example_input" not in str(raised.value)


def test_an_error_keeps_its_kind_its_reason_and_its_place():
    error = pv.GraphError("`example_input` is odd.")
    error.reason = "odd"
    with pytest.raises(pv.GraphError, match="`x` is odd") as raised, calling_it("x"):
        raise error
    assert raised.value is error and error.reason == "odd"


@pytest.mark.parametrize("verb", ["find_groups", "measure"])
def test_an_example_without_numbers_is_refused_in_words(verb):
    with pytest.raises(pv.ArgumentError, match="meta"):
        getattr(pv, verb)(MODEL, torch.zeros(3, 4, device="meta"))

"""The zoo itself: each case builds, runs and names modules that are there."""

import pytest
import torch

from .awkward import AWKWARD
from .case import Case


def tensors(value):
    """Yield the tensors of a nested output."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors(item)
    elif hasattr(value, "__dict__"):
        yield from tensors(vars(value))


def test_enough_and_unique():
    names = [case.name for case in AWKWARD]
    assert len(names) >= 60
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("case", AWKWARD, ids=lambda case: case.name)
def test_case(case: Case):
    torch.manual_seed(0)
    model, inputs = case.build().eval(), case.inputs()
    modules = dict(model.named_modules())
    lists = [case.cuts, case.approximate, case.frozen]
    assert {name for part in (*lists, *case.together) for name in part} <= modules.keys()
    assert sum(map(len, lists)) == len(set().union(*lists)), "a name is in two lists"
    with torch.no_grad():
        if isinstance(inputs, dict):
            output = model(**inputs)
        else:
            output = model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    found = list(tensors(output))
    assert found
    assert all(torch.isfinite(tensor).all() for tensor in found)

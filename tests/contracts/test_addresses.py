"""What really went: each number carries its own address in its low bits, and they are read afterwards.

A float64 has 52 bits of mantissa. The low 32 of every number get the number of its tensor (10 bits)
and its place there (22 bits); that changes a weight by less than a millionth. `shrink` only moves
numbers, so what survives tells where it came from, whatever our own books say.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.addresses import addressed, left, named, read, write
from torch import nn
from zoo.awkward import AWKWARD
from zoo.judge import size, third, wide
from zoo.language import TRANSFORMERS

import pruneviz as pv

LARGER = [c for c in TRANSFORMERS if c.name in "bert-sdpa gpt2 bart whisper vit swin".split()]
CASES = [*AWKWARD, *LARGER]
CUT: dict[str, bool] = {}  # by case


def check(model: nn.Module, new: nn.Module, plan: pv.Plan) -> int:
    """Compare what survived with the plan; the number of tensors that lost something."""
    old, now = named(model), named(new)
    assert list(old) == list(now)
    numbers = {id(t): k for k, t in enumerate({id(t): t for t in old.values()}.values())}
    lost: dict[int, dict[tuple[int, int], set[int]]] = {}
    readers = set()
    for name, keep in plan.keep.items():
        group, gone = plan.groups[name], ~keep.numpy()
        readers |= set(group.consumers)
        for s in group.slices:
            places = lost.setdefault(id(old[s.tensor]), {}).setdefault((s.dim, s.blocks), set())
            places |= {int(i) for i in s.index[gone].ravel()}
    for name, t in old.items():
        want = left(tuple(t.shape), lost.get(id(t), {}))
        assert tuple(now[name].shape) == want.shape, name
        source, place = read(now[name])
        same = (source == numbers[id(t)]) & (place == want)
        # a constant may have been folded into the bias of whoever reads the units
        folded = t.ndim == 1 and name.rpartition(".")[0] in readers
        assert folded or same.all(), f"{name}: other numbers survived than the plan says"
        if same.all():
            before = t.detach().reshape(-1)[torch.from_numpy(np.asarray(place))]
            assert torch.equal(before, now[name].detach())
    return len(lost)


def test_addresses_can_be_read_back():
    layer = nn.Linear(3, 2).double()
    old = layer.weight.detach().clone()
    numbers = write(layer)
    assert numbers == {id(layer.weight): 0, id(layer.bias): 1}
    assert read(layer.weight)[1].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read(layer.bias)[0].tolist() == [1, 1]
    assert float((layer.weight.detach() - old).abs().max()) < 1e-6


def test_left():
    assert left((3, 2), {(0, 1): {1}}).tolist() == [[0, 1], [4, 5]]
    assert left((3, 2), {(0, 1): {1}, (1, 1): {0}}).tolist() == [[1], [5]]
    # two blocks of two rows, each with columns of its own: channel 3 is column 1 of the second
    assert left((4, 2), {(1, 2): {0, 3}}).tolist() == [[1], [3], [4], [6]]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_survives(case):
    model = addressed(case)
    if model is None:
        pytest.skip("does not run in float64")
    x = wide(case.inputs())
    try:
        groups = pv.find_groups(model, x, approximate=True)
    except pv.GraphError:
        pytest.skip("cannot be traced")
    free = [g.name for g in groups if not g.frozen]
    CUT[case.name] = False
    for names in [free, *([n] for n in free)]:  # all at once; if that is refused, one by one
        if not names:
            continue
        plan = third(groups, names)
        try:
            new = pv.shrink(model, plan, example_input=x)
        except pv.GraphError:
            continue
        assert check(model, new, plan) > 0
        assert size(new) < size(model)
        CUT[case.name] = True
        if names == free:
            break


def test_most_of_them_were_cut():
    if len(CUT) < 0.9 * len(CASES):
        pytest.skip("some of them ran elsewhere, or not at all")
    assert sum(CUT.values()) >= 0.85 * len(CASES)


def test_a_wrong_cut_would_be_seen():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    write(model)
    x = torch.randn(2, 4, dtype=torch.float64)
    plan = pv.drop(pv.find_groups(model, x), {"0": [1]})
    new = pv.shrink(model, plan, example_input=x)
    assert check(model, new, plan) == 3
    with torch.no_grad():  # another column than the plan's
        new[2].weight.copy_(model[2].weight[:, [1, 2, 3, 4]])
    with pytest.raises(AssertionError, match=r"2\.weight: other numbers"):
        check(model, new, plan)

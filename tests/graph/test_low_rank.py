"""The rank of an adapter is known by what it computes, and by nothing else."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pruneviz as pv
from pruneviz.graph.find_groups import traced_walk
from pruneviz.graph.grouping import build_groups
from pruneviz.graph.low_rank import adapter_groups

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Low(nn.Module):
    """W x, and beside it B A x in one of many forms; the names say nothing."""

    def __init__(self, form: str, rank: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.base, self.out = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, 3)
        self.one, self.two = nn.Linear(16, rank, bias=False), nn.Linear(rank, 12, bias=False)
        self.three, self.back = nn.Linear(16, 12), nn.Linear(rank, 16)
        self.a = nn.Parameter(torch.randn(rank, 16) / 4)
        self.b = nn.Parameter(torch.randn(12, rank) / 4)
        self.drop, self.scale = nn.Dropout(0.1), nn.Parameter(torch.tensor(2.0))
        self.form = form

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.out(torch.relu(getattr(self, self.form)(x)))

    def added(self, x):
        return self.base(x) + self.two(self.one(self.drop(x))) * 2.0

    def learned_scale(self, x):
        return self.scale * self.two(self.one(x) / 3) + self.base(x)

    def parameters_of_its_own(self, x):
        return self.base(x) + 0.5 * (x @ self.a.T @ self.b.T)

    def three_terms(self, x):
        return self.three(x) + self.base(x) + self.two(self.one(x))

    def in_the_weight(self, x):
        return F.linear(x, self.base.weight + 2 * (self.b @ self.a), self.base.bias)

    def curved(self, x):
        return self.base(x) + self.two(torch.relu(self.one(x)))

    def narrow(self, x):
        return self.two(self.one(x))

    def bottleneck(self, x):
        return self.base(x + self.back(self.one(x)))

    def gated(self, x):
        return self.base(x) * self.two(self.one(x))

    def of_another_input(self, x):
        return self.base(torch.relu(x - 1)) + self.two(self.one(x))


def found(model, x=X):
    w = traced_walk(model.eval(), x)
    return adapter_groups(w, build_groups(w, approximate=False))


@pytest.mark.parametrize(("form", "name"), [
    ("added", "one"), ("learned_scale", "one"), ("parameters_of_its_own", "a"),
    ("three_terms", "one"), ("in_the_weight", "b"),
])  # fmt: skip
def test_an_adapter_in_any_form(form, name):
    assert found(Low(form)) == [name]


@pytest.mark.parametrize("form", ["curved", "narrow", "bottleneck", "gated", "of_another_input"])
def test_other_narrow_places_are_pruned(form):
    assert found(Low(form)) == []


def test_a_rank_that_is_not_low_is_pruned():
    assert found(Low("added", rank=11)) == ["one"] and found(Low("added", rank=12)) == []


def test_an_adapter_of_a_convolution():
    class Conv(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.base = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1)
            self.one, self.two = nn.Conv2d(8, 2, 3, padding=1, bias=False), nn.Conv2d(2, 8, 1)
            self.out = nn.Conv2d(8, 4, 1)

        def forward(self, x):
            x = torch.relu(self.first(x))
            return self.out(torch.relu(self.base(x) + self.two(self.one(x))))

    assert found(Conv(), IMAGES) == ["one"]


def test_two_adapters_of_attention():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
            self.first, self.out = nn.Linear(6, 8), nn.Linear(8, 3)
            self.lora_A = nn.ModuleDict({n: nn.Linear(8, 3, bias=False) for n in "qv"})
            self.lora_B = nn.ModuleDict({n: nn.Linear(3, 8, bias=False) for n in "qv"})

        def forward(self, x):
            x = self.first(x)
            q = self.q(x) + self.lora_B["q"](self.lora_A["q"](x))
            v = self.v(x) + self.lora_B["v"](self.lora_A["v"](x))
            y = F.scaled_dot_product_attention(q, self.k(x), v)
            return self.out(x + self.o(y))

    assert found(Block(), torch.randn(2, 5, 6)) == ["lora_A.q", "lora_A.v"]


def test_it_is_left_alone_unless_it_is_asked_for():
    model = Low("added", rank=4).eval()
    with pytest.warns(
        UserWarning, match=r"left out: one \(1[0-9] % of the MACs: the rank of a low-rank"
    ) as said:
        session = pv.Session(model, X)
        small = pv.prune(model, X, sparsity=0.5, session=session)
        scores = session.scores("l2")
    assert len(said) == 1 and "pv.drop cuts it" in str(said[0].message)
    assert [small.first.out_features, small.base.out_features, small.one.out_features] == [8, 6, 4]
    assert "one" in pv.select(scores, sparsity=0.5).left_out
    # asked for by hand: its units are named, or it is scored
    groups = pv.find_groups(model, X)
    by_hand = pv.shrink(model, pv.drop(groups, {"one": [0, 3]}), example_input=X)
    assert by_hand.one.out_features == 2
    asked = pv.prune(model, X, sparsity=0.5, scores=pv.score(model, "l2", groups=groups))
    assert asked.one.out_features == 2

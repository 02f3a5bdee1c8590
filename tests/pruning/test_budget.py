"""Budgets as people have them: shares, counts, a metric; and what limits them is said."""

from __future__ import annotations

import pytest
import torch
from helpers import refused
from torch import nn

import pruneviz as pv
from pruneviz.pruning.budget import held_out

X = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))


def net(*more: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 40), nn.ReLU(), *more, nn.Linear(40, 3)).eval()


def labels(model: nn.Module) -> torch.Tensor:
    return model(X).argmax(1)


@pytest.mark.parametrize("name", ["macs", "params", "bytes"])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
def test_the_smallest_sparsity_that_meets_a_budget(name, share):
    model = net()
    whole = getattr(pv.measure(model, X[:1]), name)
    small = pv.prune(model, X, **{name: share})
    left = getattr(pv.measure(small, X[:1]), name)
    one = {"macs": 9, "params": 10, "bytes": 40}[name]  # what one unit costs
    assert left <= share * whole < left + one
    counted = pv.prune(model, X, **{name: int(share * whole)})
    assert counted[0].out_features == small[0].out_features


def test_what_stays_is_said_with_its_share():
    with refused(
        "`macs` must be at least 0.025 here, but 0.001 was passed: 0.025 of the MACs stay even if all "
        "removable units are removed. 33 % of the MACs are in '2', frozen: its units are the model's "
        "output."
    ):
        pv.prune(net(), X, macs=0.001)
    with pytest.raises(
        pv.ArgumentError, match=r"output\. Protect fewer layers or lower `min_keep`\.$"
    ):
        pv.prune(net(), X, macs=0.001, protect=["0"], min_keep=3)
    normed = nn.Sequential(nn.Linear(6, 40), nn.LayerNorm(40), nn.ReLU(), nn.Linear(40, 8), nn.ReLU(),
                           nn.Linear(8, 3)).eval()  # fmt: skip
    with pytest.raises(pv.ArgumentError, match=r"Pass approximate=True\.$"):
        pv.prune(normed, X, macs=0.1)
    assert pv.prune(normed, X, macs=0.1, approximate=True)[0].out_features < 10


def test_the_metric_is_held_on_examples_that_nobody_learned_from():
    model = net()
    y = labels(model)
    small = pv.prune(model, X, at_least=0.9, batches=[(X, y)])
    judged = torch.arange(200) % 10 == 0
    assert small[0].out_features < 40
    assert pv.accuracy(small, [(X[judged], y[judged])]) >= 0.9
    learn, judge = held_out([(X, y)])
    assert torch.equal(judge[0].inputs, X[judged]) and torch.equal(learn[0].inputs, X[~judged])
    everything = pv.prune(model, X, at_least=0.0, batches=[(X, y)])
    assert everything[0].out_features == 1


def test_a_metric_of_ones_own():
    model, want = net(), net()(X).detach()

    def error(new: nn.Module) -> float:
        return float((new(X) - want).square().mean().detach() / want.var())

    small = pv.prune(model, X, at_most=0.05, evaluate=error, batches=[X])
    assert small[0].out_features < 40 and error(small) <= 0.05
    with refused(
        "`at_most` is -1, but the whole model itself has 0 on the examples that are held out. Pass a "
        "value that it reaches."
    ):
        pv.prune(model, X, at_most=-1, evaluate=error)
    with pytest.raises(pv.ArgumentError, match="need something to measure"):
        pv.prune(model, X, at_least=0.5)
    with pytest.raises(pv.ArgumentError, match="`batches` hold 1 example: too few to hold out"):
        pv.prune(model, X, at_least=0.5, batches=[(X[:1], labels(model)[:1])])


def test_by_default_the_best_recipe_that_runs_here():
    model = net()
    best = pv.prune(model, X, sparsity=0.5, batches=[X])
    same = pv.prune(model, X, sparsity=0.5, batches=[X], criterion="obs", repair="lstsq")
    plain = pv.prune(model, X, sparsity=0.5)
    norms = pv.prune(model, X, sparsity=0.5, criterion="l2", repair="none")

    def error(new: nn.Module) -> float:
        return float((new(X) - model(X)).square().mean().detach())

    assert error(best) == error(same) < error(plain) == error(norms)


def test_what_is_there_already_is_used():
    model = net()
    groups = pv.find_groups(model, X)
    scores = pv.score(model, "l1", groups=groups)
    small = pv.prune(model, X, sparsity=0.5, scores=scores)
    want = pv.shrink(model, pv.select(scores, sparsity=0.5), example_input=X)
    assert torch.equal(small[0].weight, want[0].weight)
    assert pv.prune(model, X, sparsity=0.5, groups=groups)[0].out_features == 20

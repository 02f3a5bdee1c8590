"""The front door: one call does what four do, and keeps its promise about MACs."""

import re

import pytest
import torch
from torch import nn

import pruneviz as pv


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 16, 10),
    ).eval()  # fmt: skip


X = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("criterion", ["l1", "l2", "random", lambda w: w.abs().amax(1)])
def test_one_call_is_four(criterion):
    model = net()
    small = pv.prune(model, X, sparsity=0.5, criterion=criterion)
    groups = pv.find_groups(model, X)
    plan = pv.select(pv.score(model, criterion, groups=groups), sparsity=0.5)
    assert torch.equal(small(X), pv.shrink(model, plan, example_input=X)(X))
    assert (small[0].out_channels, small[3].out_channels) == (4, 6)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.25, 0.1])
def test_macs_are_a_promise_and_nearly_used_up(share):
    model = net()
    dense = pv.measure(model, X).macs
    small = pv.prune(model, X, macs=share)
    left = pv.measure(small, X).macs / dense
    assert left <= share
    # one unit more in each group would be too much
    sizes = {"0": small[0].out_channels, "3": small[3].out_channels}
    groups = pv.find_groups(model, X)
    keep = {}
    for g in groups:
        if not g.frozen:
            keep[g.name] = torch.arange(g.size) < min(g.size, sizes[g.name] + 1)
    more = pv.shrink(model, pv.Plan(keep, groups), example_input=X)
    assert pv.measure(more, X).macs / dense > share


def test_all_of_the_macs_is_a_copy():
    model = net()
    same = pv.prune(model, X, macs=1.0)
    assert torch.equal(same(X), model(X))
    assert same[0].weight.data_ptr() != model[0].weight.data_ptr()


def test_arguments_of_select_are_passed_on():
    model = net()
    small = pv.prune(model, X, sparsity=0.5, protect=["0"], round_to=4)
    assert (small[0].out_channels, small[3].out_channels) == (8, 8)
    small = pv.prune(model, X, sparsity=0.9, min_keep=3)
    assert (small[0].out_channels, small[3].out_channels) == (3, 3)


def test_norms_over_units_only_on_request():
    model = nn.Sequential(
        nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)
    )
    x = torch.randn(3, 4)
    assert pv.prune(model, x, sparsity=0.5)[0].out_features == 8
    assert pv.prune(model, x, sparsity=0.5, approximate=True)[0].out_features == 4


BAD = [
    ({}, "`prune` takes one budget: `sparsity`, the share of units to remove; `macs`, `params` or `bytes`, the share to keep; `at_least` or `at_most`, the metric to hold. None was passed."),
    ({"sparsity": 0.5, "macs": 0.5}, "`prune` takes one budget: `sparsity`, the share of units to remove; `macs`, `params` or `bytes`, the share to keep; `at_least` or `at_most`, the metric to hold. `sparsity` and `macs` were passed."),
    ({"sparsity": 50}, "Did you mean 0.5? Fractions, never percentages."),
    ({"macs": 1.5}, "`macs` must be a share in (0, 1], or a whole number of MACs, but 1.5 was passed."),
    ({"macs": 0.0001}, "`macs` must be at least 0.0"),
    ({"sparsity": 0.5, "criterion": "l3"}, "criterion 'l3' is unknown."),
    ({"sparsity": 0.5, "criterion": "magnitude"}, "magnitude"),
    ({"sparsity": 0.5, "protect": ["9"]}, "layer '9' is unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_calls(arguments, message):
    model = net()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(pv.ArgumentError, match=re.escape(message)):
        pv.prune(model, X, **arguments)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_nothing_to_cut_says_why():
    with pytest.raises(pv.GraphError, match=r"no unit of the model can be removed: '0': .*output"):
        pv.prune(nn.Sequential(nn.Linear(4, 2)), torch.zeros(1, 4), sparsity=0.5)


def test_with_batches_the_default_is_obs_and_lstsq():
    model, data = net(), [torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(2))]
    default = pv.prune(model, X, sparsity=0.5, batches=data)
    named = pv.prune(model, X, sparsity=0.5, batches=data, criterion="obs", repair="lstsq")
    assert torch.equal(default(X), named(X))


def test_a_default_that_cannot_be_had_is_said_once_with_what_helps():
    """Targets that are numbers: no loss is known, so there are no gradients."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1)).eval()
    x, y = torch.randn(40, 4), torch.randn(40, 1)
    session = pv.Session(model, x, batches=[(x, y)])
    with pytest.warns(UserWarning) as said:
        first = pv.prune(model, x, sparsity=0.5, session=session)
        pv.prune(model, x, sparsity=0.25, session=session)
    assert len(said) == 1
    text = str(said[0].message)
    assert "chosen by 'l2' and not by 'obs', which loses less: this criterion needs" in text
    assert "loss=torch.nn.functional.mse_loss" in text and "Or pass criterion='l2'" in text
    # each advice, followed, is silent
    quiet = pv.prune(model, x, sparsity=0.5, criterion="l2", batches=[(x, y)])
    assert torch.equal(quiet(x), first(x))
    pv.prune(model, x, sparsity=0.5, batches=[(x, y)], loss=nn.functional.mse_loss)
    with pytest.raises(pv.ArgumentError, match="The targets of `batches` are numbers"):
        pv.prune(model, x, sparsity=0.5, batches=[(x, y)], strict=True)
    with pytest.raises(pv.ArgumentError, match="criterion 'obs' needs gradients"):
        pv.prune(
            model, x, sparsity=0.5, evidence=pv.collect(model, [x], progress=False), strict=True
        )

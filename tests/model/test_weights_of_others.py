"""Masks of torch.nn.utils.prune, quantised and complex models: counted right, or refused in words."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_untouched, refused, snapshot
from torch import nn
from torch.nn.utils import parametrize, prune

import pruneviz as pv

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1, 2, 1])


def net(**kwargs):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8, **kwargs), nn.ReLU(), nn.Linear(8, 3, **kwargs))


def masked_by_torch():
    model = net()
    prune.l1_unstructured(model[0], "weight", 0.5)
    prune.random_structured(model[2], "weight", 0.25, dim=1)
    return model


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(net(), {nn.Linear})


PER_WEIGHT = {
    "score": lambda m: pv.score(m, "magnitude"),
    "named_weights": pv.named_weights,
    "weight_histogram": pv.weight_histogram,
    "effective_macs": lambda m: pv.effective_macs(m, [X]),
    "encodings": pv.encodings,
    "collect": lambda m: pv.collect(m, [(X, Y)], loss=F.cross_entropy, progress=False),
    "panel_weights": pv.panel_weights,
    "mask": lambda m: pv.mask(m, pv.Plan({})),
}
PER_UNIT = {
    "find_groups": lambda m: pv.find_groups(m, X),
    "lossless_plan": lambda m: pv.lossless_plan(m, X),
    "prune": lambda m: pv.prune(m, X, sparsity=0.5),
    "Session": lambda m: pv.Session(m, X).groups,
    "bounds": lambda m: pv.bounds(m, X, low=-1, high=1),
}


@pytest.mark.parametrize("run", [False, True])
@pytest.mark.parametrize("verb", [*PER_WEIGHT, *PER_UNIT, "bake"])
def test_torch_s_masks_are_refused_with_the_way_out(verb, run):
    model = masked_by_torch()
    if run:  # now the weight can be copied, which it could not before
        with torch.no_grad():
            model(X)
    call = {**PER_WEIGHT, **PER_UNIT, "bake": pv.bake}[verb]
    before = snapshot(model)
    with pytest.raises(
        pv.ArgumentError, match=r"torch\.nn\.utils\.prune\.remove\(layer, 'weight'\)\.$"
    ):
        call(model)
    assert_untouched(model, before)
    for layer in (model[0], model[2]):  # what the message says
        prune.remove(layer, "weight")
    call(model)


def test_torch_s_masks_are_counted():
    model, plain = masked_by_torch(), masked_by_torch()
    for layer in (plain[0], plain[2]):
        prune.remove(layer, "weight")
    assert pv.measure(model, X) == pv.measure(plain, X)
    assert pv.measure(model, X).nonzero == 24 + 8 + 18 + 3
    assert pv.accuracy(model, [(X, Y)]) == pv.accuracy(plain, [(X, Y)])


def test_zeros_of_any_parametrization_are_counted():
    class Half(nn.Module):
        def forward(self, w):
            return torch.cat([w[:4], 0 * w[4:]])

    model = net()
    parametrize.register_parametrization(model[0], "weight", Half())
    assert pv.measure(model, X).nonzero == 24 + 8 + 24 + 3


@pytest.mark.parametrize(
    "call",
    [*PER_WEIGHT.values(), *PER_UNIT.values(), lambda m: pv.measure(m, X)],
    ids=[*PER_WEIGHT, *PER_UNIT, "measure"],
)
def test_quantised_models_are_refused_in_one_sentence(call):
    with refused(
        "layer '0' is quantised, so its numbers can neither be counted nor removed: prune first, "
        "then quantise."
    ):
        call(quantised())


def test_weights_of_whole_numbers_are_quantised():
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.ones(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(pv.ArgumentError, match="layer 'Linear' is quantised"):
        pv.score(layer, "magnitude")


def test_a_quantised_model_is_timed_and_judged():
    model = quantised()
    timing = pv.compare_latency(net(), model, X, seconds=0)
    assert timing.speedup != timing.speedup and "MACs" not in repr(timing)
    assert 0 <= pv.accuracy(model, [(X, Y)]) <= 1


def test_complex_models():
    model = nn.Sequential(
        nn.Linear(6, 8, dtype=torch.complex64), nn.Linear(8, 3, dtype=torch.complex64)
    )
    z = X.to(torch.complex64)
    cost = pv.measure(model, z)
    assert (cost.params, cost.bytes) == (83, 83 * 8)
    assert cost.uncounted == ("aten.addmm of complex numbers: 3 of 4 products",)
    for criterion in ("magnitude", "lamp"):
        plan = pv.select(pv.score(model, criterion), sparsity=0.5, scope="layer")
        masked = pv.mask(model, plan)
        for name, w in pv.named_weights(masked).items():
            size = dict(model.named_parameters())[name].abs()
            assert size[w == 0].max() <= size[w != 0].min()
    no_order = (
        "'0.weight' holds complex numbers, which have no order and no float32. Rank them by their "
        "absolute values: pv.score(model, 'magnitude')."
    )
    for verb in (pv.weight_histogram, pv.encodings, pv.panel_weights):
        with refused(no_order):
            verb(model)
    with pytest.raises(pv.ArgumentError, match=r"layer '0' reads complex numbers, of which no mom"):
        pv.collect(model, [z], progress=False)
    groups = pv.find_groups(model, z)
    plan = pv.select(pv.score(model, "l2", groups=groups), sparsity=0.5)
    with refused(
        "'0.weight' holds complex numbers, and torch does not convert such a layer to higher "
        "precision, so no removal could be checked. Silence units instead: pv.mask(model, plan)."
    ):
        pv.shrink(model, plan, example_input=z)
    silent = pv.mask(model, plan)[0](z)
    assert bool((silent[:, ~plan.keep["0"]] == 0).all())

"""Linear layers in CSR: the same outputs, and the costs that `encodings` and `effective_macs` predict."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import (
    MODELS,
    assert_untouched,
    build,
    inputs,
    mlp,
    plan_for,
    refused,
    snapshot,
    storages,
)
from torch import nn

import pruneviz as pv
from pruneviz.lessons import build as lesson

IMAGES = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kernel", ["mm", "linear"])
@pytest.mark.parametrize("name", ["lenet-300-100", "lenet-5", "image-transformer"])
def test_the_same_outputs_and_the_costs_that_were_predicted(name, kernel):
    model = lesson(name).eval()
    masked = pv.mask(model, plan_for(model, 0.9))
    sparse = pv.to_csr(masked, kernel=kernel)
    with torch.no_grad():
        assert torch.allclose(sparse(IMAGES), masked(IMAGES), atol=1e-5)
    frame = pv.encodings(masked, gzip=False).set_index("tensor")
    counted = pv.effective_macs(masked, [IMAGES]).set_index("tensor")
    linear = [f"{n}.weight" for n, m in model.named_modules()
              if isinstance(m, nn.Linear) and not n.endswith("out_proj")]  # fmt: skip
    rest = frame.index.difference(linear).difference(["whole"])
    cost = pv.measure(sparse, IMAGES)
    assert cost.bytes == frame["csr_int32"][linear].sum() + frame["dense_fp32"][rest].sum()
    elsewhere = counted.index.difference(linear).difference(["whole"])
    assert cost.macs == counted["macs_weights"][linear].sum() + counted["macs"][elsewhere].sum()


@pytest.mark.parametrize("encoding", ["csr_int32", "csr_int64"])
def test_one_layer_with_and_without_bias(encoding):
    for bias in (True, False):
        layer = nn.Linear(5, 7, bias)
        masked = pv.mask(layer, plan_for(layer, 0.5))
        sparse = pv.to_csr(masked, encoding=encoding)
        x = torch.randn(2, 3, 5)
        assert torch.allclose(sparse(x), masked(x), atol=1e-6)
        assert sparse(x).is_contiguous() and sparse(x[0, 0]).shape == (7,)
        assert pv.measure(sparse, x).bytes == pv.encodings(masked)[encoding].iloc[-1]
        again = copy.deepcopy(sparse)
        assert torch.equal(again(x), sparse(x))
        again.load_state_dict(sparse.state_dict())


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"raising", "spectral"}))
def test_the_model_is_not_changed(name):
    model = build(name)
    before = snapshot(model)
    new = pv.to_csr(model)
    assert_untouched(model, before)
    assert not storages(model) & storages(new)
    with pv.evaluating(model), pv.evaluating(new):
        if name not in ("random",):
            assert torch.allclose(new(inputs()), model(inputs()), atol=1e-5)


@pytest.mark.parametrize("fn", [torch.mm, torch.nn.functional.linear, torch.addmm])
def test_measure_counts_what_a_sparse_matrix_stores(fn):
    class Net(nn.Module):
        def forward(self, x):
            if fn is torch.mm:
                return fn(csr, x.T)
            return fn(x, csr) if fn is not torch.addmm else fn(torch.zeros(4, 1), csr, x.T)

    weight = torch.zeros(4, 6)
    weight[0, :3] = 1.0
    csr = pv.to_csr(nn.Linear(6, 4, bias=False))  # the warning of the beta state is his, unheard
    csr = weight.to_sparse_csr()
    assert pv.measure(Net(), torch.ones(5, 6)).macs == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pv.to_csr(nn.Conv2d(1, 2, 3)),
            "`model` (Conv2d) has no nn.Linear layer: torch multiplies sparse matrices, but has no "
            "sparse convolution or attention. Shrink it instead: pv.prune(model, x, macs=0.5).",
        ),
        (lambda: pv.to_csr(mlp(), kernel="bmm"), "`kernel` 'bmm' is unknown. Did you mean 'mm'? Known: linear, mm."),
        (
            lambda: pv.to_csr(mlp(), encoding="csr_int16"),
            "`encoding` 'csr_int16' is unknown. Did you mean 'csr_int64'? Known: csr_int32, csr_int64.",
        ),
    ],
)  # fmt: skip
def test_bad_input(call, message):
    with refused(message):
        call()

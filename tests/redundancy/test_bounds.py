"""Bounds: by hand, never too narrow, and tight where they can be."""

from __future__ import annotations

import functools
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import MODELS, assert_untouched, build, inputs, refused, snapshot
from helpers.random_graphs import built, of_image, of_tokens, recipes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pruneviz as pv
from pruneviz.graph.find_groups import traced_walk
from pruneviz.graph.interpreter import run_graph
from pruneviz.model.hooks import evaluating
from pruneviz.model.tensors import tensors_of
from pruneviz.redundancy.bounds import bounds
from pruneviz.redundancy.intervals import Interval

module = sys.modules["pruneviz.redundancy.bounds"]
SAMPLES, ROUNDS = 256, 8
ONE = st.floats(-3, 3, width=32)


class Net(nn.Module):
    """A layer, something between, and a layer that reads it."""

    def __init__(self, between, first=None, last=None):
        super().__init__()
        self.first = first or nn.Linear(2, 4)
        self.last = last or nn.Linear(4, 2)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.between(self.first(x)))


def linear(weight, bias) -> nn.Linear:
    layer = nn.Linear(len(weight[0]), len(weight)).double()
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        layer.bias.copy_(torch.tensor(bias))
    return layer


def kinds(*args, **kwargs) -> list[str]:
    return bounds(*args, **kwargs)["kind"].tolist()


def both(frame) -> list[tuple[float, float]]:
    return list(zip(frame["low"].tolist(), frame["high"].tolist(), strict=True))


# ---- by hand


@pytest.mark.parametrize(
    "between, want",
    [
        (nn.Identity(), [(-1.5, 2.5), (-3, 1)]),
        (nn.ReLU(), [(0, 2.5), (0, 1)]),
        (nn.ReLU(inplace=True), [(0, 2.5), (0, 1)]),
        (nn.Hardtanh(-1, 1), [(-1, 1), (-1, 1)]),
        (nn.LeakyReLU(0.5), [(-0.75, 2.5), (-1.5, 1)]),
        (nn.LeakyReLU(-1.0), [(0, 2.5), (0, 3)]),
        (torch.neg, [(-2.5, 1.5), (-1, 3)]),
        (torch.abs, [(0, 2.5), (0, 3)]),
        (torch.square, [(0, 6.25), (0, 9)]),
        (lambda x: x * x, [(0, 6.25), (0, 9)]),
        (lambda x: x**2, [(0, 6.25), (0, 9)]),
        (lambda x: x**3, [(-3.375, 15.625), (-27, 1)]),
        (lambda x: 2 - 3 * x, [(-5.5, 6.5), (-1, 11)]),
        (lambda x: torch.rsub(x, 1, alpha=2), [(-4, 4), (-1, 7)]),
        (lambda x: x / -2, [(-1.25, 0.75), (-0.5, 1.5)]),
        (lambda x: 1 / (x + 4), [(1 / 6.5, 1 / 2.5), (1 / 5, 1)]),
        (lambda x: 1 / (x + 2), [(1 / 4.5, 2), (-np.inf, np.inf)]),
        (lambda x: torch.rsqrt(x + 4), [(6.5**-0.5, 2.5**-0.5), (5**-0.5, 1)]),
        (lambda x: torch.where(x > 0, x, 7.0), [(-1.5, 7), (-3, 7)]),
        (lambda x: x.masked_fill(x > 0, 5.0), [(-1.5, 5), (-3, 5)]),
        (lambda x: x * x.new_full((1, 1), 2).masked_fill(torch.tensor(True), 5), [(-7.5, 12.5), (-15, 5)]),
        (lambda x: x.clamp(min=-1), [(-1, 2.5), (-1, 1)]),
        (lambda x: torch.maximum(x, torch.zeros(1)), [(0, 2.5), (0, 1)]),
        (torch.cos, [(-np.inf, np.inf)] * 2),
        (lambda x: torch.cos(x).relu(), [(0, np.inf)] * 2),
        (lambda x: torch.cos(x) - torch.cos(x), [(-np.inf, np.inf)] * 2),
        (lambda x: torch.cos(x) * 0, [(-np.inf, np.inf)] * 2),
        (lambda x: x + torch.rand(1), [(-np.inf, np.inf)] * 2),
        (nn.Sigmoid(), [(1 / (1 + np.exp(1.5)), 1 / (1 + np.exp(-2.5))),
                        (1 / (1 + np.exp(3)), 1 / (1 + np.exp(-1)))]),
        (nn.SiLU(), [(-0.2784645427610738, 2.5 / (1 + np.exp(-2.5))),
                     (-0.2784645427610738, 1 / (1 + np.exp(-1)))]),
        (nn.Hardswish(), [(-0.375, 2.5 * 5.5 / 6), (-0.375, 4 / 6)]),
    ],
)  # fmt: skip
def test_by_hand(between, want):
    # x in [0, 1] × [-1, 1]: x₀ - 1.5 x₁ and -x₀ + 1.5 x₁ - 0.5
    first = linear([[1.0, -1.5], [-1.0, 1.5]], [0.0, -0.5])
    model = Net(between, first, linear([[1.0, 1.0]], [0.0]))
    low, high = torch.tensor([0.0, -1.0]), torch.tensor([1.0, 1.0])
    found = bounds(model, torch.zeros(3, 2).double(), low=low, high=high)
    assert found["group"].tolist() == ["first"] * 2 and found["unit"].tolist() == [0, 1]
    np.testing.assert_allclose(both(found), want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "fn, least",
    [
        (F.gelu, -0.16997120747990369),
        (functools.partial(F.gelu, approximate="tanh"), -0.1700407505712541),
        (F.mish, -0.30884341301725045),
    ],
)
def test_the_minimum_of_a_smooth_activation(fn, least):
    first = linear([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
    model = Net(fn, first, linear([[1.0, 1.0]], [0.0]))
    low, high = torch.tensor([-2.0, -4.0]), torch.tensor([2.0, -3.0])
    found = both(bounds(model, torch.zeros(1, 2).double(), low=low, high=high))
    there = fn(torch.tensor([-4.0, -3.0, 2.0], dtype=torch.float64)).tolist()
    np.testing.assert_allclose(found, [(least, there[2]), (there[1], there[0])], rtol=1e-12)


def test_a_convolution_with_padding_by_hand():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        model[0].weight[0], model[0].weight[1] = 1.0, -1.0
        model[0].bias.copy_(torch.tensor([0.0, 2.0]))
    found = bounds(model, torch.zeros(1, 1, 4, 4), low=1, high=2)
    # a corner sees 4 pixels, the middle 9
    assert both(found) == [(4.0, 18.0), (-16.0, -2.0)]


def test_the_box_may_differ_from_number_to_number():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2), nn.Linear(2, 1))
    with torch.no_grad():
        model[1].weight.copy_(torch.eye(4)[[0, 3]])
        model[1].bias.zero_()
    low, high = torch.arange(4.0).view(2, 2), torch.tensor([[9.0], [5.0]])
    assert both(bounds(model, torch.zeros(3, 2, 2), low=low, high=high)) == [(0, 9), (3, 5)]


def test_all_consumers_and_all_examples_count():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.a, self.b = nn.Linear(1, 2), nn.Linear(2, 1), nn.Linear(2, 1)

        def forward(self, x, shift):
            h = self.fc(x)
            return self.a(h.relu()) + self.b(h * 2 * shift)

    model = Two()
    with torch.no_grad():
        model.fc.weight.copy_(torch.tensor([[1.0], [0.0]]))
        model.fc.bias.copy_(torch.tensor([0.0, -1.0]))
    shift = torch.tensor([[2.0], [5.0]])
    found = bounds(model, {"shift": shift, "x": torch.zeros(2, 1)}, low=0, high=1)
    # the first floating-point tensor of the arguments is `shift`, in the order given
    assert both(found) == [(0, 0), (-2, 0)]
    found = bounds(model, (torch.zeros(2, 1), shift), low=0, high=1)
    assert both(found) == [(0, 10), (-10, 0)]
    assert found["kind"].tolist() == ["", ""]


# ---- dead, constant, always on


def planted(norm=False) -> nn.Module:
    middle = [nn.BatchNorm1d(6)] if norm else []
    return nn.Sequential(nn.Linear(3, 6), *middle, nn.ReLU(), nn.Linear(6, 2)).eval()


def test_a_planted_dead_neuron_is_found_and_no_other():
    model = planted()
    with torch.no_grad():
        model[0].bias.zero_()[2] = -100.0
    assert kinds(model, torch.zeros(1, 3), low=-1, high=1) == ["", "", "dead", "", "", ""]


def test_dead_only_on_a_smaller_box():
    model = planted()
    with torch.no_grad():
        model[0].weight[4], model[0].bias[4] = 1.0, -2.0
    assert kinds(model, torch.zeros(1, 3), low=-0.5, high=0.5)[4] == "dead"
    assert kinds(model, torch.zeros(1, 3), low=-1, high=1)[4] == ""


def test_planted_constants_through_batch_norm():
    model = planted(norm=True)
    with torch.no_grad():
        model[0].bias.zero_()
        model[1].running_mean[:3].uniform_(-1, 1)
        model[1].weight[[0, 1, 2]] = 0.0
        model[1].bias[[0, 1, 2]] = torch.tensor([0.75, -0.5, 0.0])
        model[1].bias[3] = 50.0
    found = bounds(model, torch.zeros(1, 3), low=-1, high=1)
    assert found["kind"].tolist() == ["constant", "dead", "dead", "always on", "", ""]
    assert both(found)[0] == (0.75, 0.75)


def test_weights_of_zero_are_dead_without_a_margin():
    model = planted()
    with torch.no_grad():
        model[0].weight[:3], model[0].bias[:3] = 0.0, torch.tensor([0.0, -1e-30, 1e-30])
    assert kinds(model, torch.zeros(1, 3), low=-1, high=1)[:3] == ["dead", "dead", "constant"]


def test_a_masked_neuron_is_dead():
    model = planted()
    groups = pv.find_groups(model, torch.zeros(1, 3))
    silent = pv.mask(model, pv.drop(groups, {"0": [1, 5]}))
    found = bounds(silent, torch.zeros(1, 3), low=-1, high=1)
    assert found.index[found["kind"] == "dead"].tolist() == [1, 5]


def test_what_only_rounding_keeps_from_0_is_not_dead():
    """0.1 · 3 - 0.3 is 0 in the mind, and above it in float32: such a neuron fires."""
    model = planted()
    w = torch.tensor([0.1, 0.1, 0.1])
    with torch.no_grad():
        model[0].weight[0] = w
        model[0].bias[0] = -float(w.double().sum())  # rounded to float32
        exact = float(w.double().sum() + model[0].bias[0].double())
        model[0].bias[0] = torch.nextafter(model[0].bias[0], torch.tensor(-1.0))
    found = bounds(model, torch.zeros(1, 3), low=0, high=1)
    assert exact < 1e-7 and both(found)[0] == (0, 0)
    assert found["kind"][0] == ""
    wide = bounds(model.double(), torch.zeros(1, 3).double(), low=0, high=1)
    assert wide["kind"][0] == "dead"  # float64 is fine enough to tell


def test_a_point_as_a_box_makes_every_neuron_constant_or_dead():
    x, model = inputs(1), build("mlp")
    found = bounds(model, x, low=x[0], high=x[0])
    assert set(found["kind"]) == {"constant", "dead"}
    np.testing.assert_allclose(found["low"], model[:3](x)[0].detach(), atol=1e-6)


def test_a_neuron_of_a_convolution_is_dead_only_if_it_is_so_everywhere():
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    with torch.no_grad():
        model[0].weight.fill_(-1.0)
        model[0].bias.copy_(torch.tensor([5.0, 3.9]))  # at least 4 pixels of at least 1 are seen
    assert kinds(model, torch.zeros(1, 1, 4, 4), low=1, high=2) == ["", "dead"]


# ---- never too narrow


def check_everywhere(model: nn.Module, x: Tensor, low: Tensor, high: Tensor, monkeypatch):
    """Run samples of the box through the graph: what any operator reads lies within its bounds."""
    x = x.expand(SAMPLES, *x.shape[1:]).contiguous() if len(x) == 1 else x
    double = x.dtype == torch.float64
    w = traced_walk(model, x)
    seen: dict = {}
    real = module._result

    def recording(node, env, *rest):
        seen.update({(node, n): env[n] for n in node.all_input_nodes})
        return real(node, env, *rest)

    box = Interval(low.double().expand(x.shape), high.double().expand(x.shape))
    with monkeypatch.context() as patch:
        patch.setattr(module, "_result", recording)
        with evaluating(w.traced.model):
            module._by_root(w, 0, box, rounded=not double)

    def watch(node, env):
        for n in node.all_input_nodes:
            found = seen.get((node, n))
            if isinstance(found, Interval) and not env(n).is_complex():
                v = env(n).double()
                # the bounds of float32 hold without a tolerance
                slack = 1e-9 * (1 + v.abs().nan_to_num(posinf=0)) if double else 0.0
                assert (v >= found.lo - slack).all(), (n, node)
                assert (v <= found.hi + slack).all(), (n, node)

    rng = torch.Generator().manual_seed(0)
    tensors = tensors_of(w.traced.model)
    with evaluating(w.traced.model):
        for i in range(ROUNDS):
            share = torch.rand(x.shape, generator=rng, dtype=torch.float64)
            if i % 2:  # corners
                share = share.round()
            given = (box.lo + share * (box.hi - box.lo)).clamp(box.lo, box.hi).to(x.dtype)
            run_graph(w, tensors, [given], double=double, watch=watch)
    return [
        v
        for (_, n), v in seen.items()
        if isinstance(v, Interval) and n.meta["val"].is_floating_point()
    ]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("make, shape", [(of_image, (1, 4, 6, 6)), (of_tokens, (1, 5, 6))])
def test_random_networks_stay_within(make, shape, dtype, monkeypatch):
    @settings(max_examples=25, suppress_health_check=list(HealthCheck), database=None)
    @given(recipes, st.floats(-2, 2, width=32), st.floats(0, 2, width=32))
    def holds(numbers, low, width):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        model = built(numbers, make, x.expand(2, *shape[1:])).to(dtype)
        low = torch.full(shape, low) + 0.3 * x
        check_everywhere(model, x.to(dtype), low, low + width, monkeypatch)

    holds()


M = torch.linspace(-1, 1, 36).view(6, 6)
# of x, (batch, 4, 6, 6): one call for each operator that has a rule
CALLS = """
    x.view(-1, 12, 12).reshape(-1, 144).unflatten(1, (4, 36)).flatten(1)
    x.permute(0, 2, 1, 3).transpose(1, 2).movedim(1, 2).swapaxes(2, 3).mT
    x[:, :1].expand(-1, 4, -1, -1).expand_as(x).broadcast_to(x.shape)
    torch.stack(x.split(2, 1) + x.chunk(2, 1) + x.tensor_split(2, 1) + x.split([1, 3], 1)[:0])
    torch.stack([*x.unbind(1), x.narrow(1, 1, 1).squeeze(1), x.select(1, 2)]).unsqueeze(0)
    x.contiguous().clone().to(torch.float64).type_as(x).detach()
    F.dropout(F.alpha_dropout(F.dropout2d(x, 0.5, False), 0.5, False), 0.5, False)
    x[:, [0, 2]].index_select(1, torch.tensor([1, 0])).repeat(1, 2, 1, 1).repeat_interleave(2, 1)
    x.gather(1, torch.zeros(len(x), 1, 6, 6, dtype=torch.int64)).tile(2).roll(1, 1).flip(1)
    F.pad(F.pad(F.pad(x, (1, 2, 0, 1), value=-3.0), (1,) * 4, "reflect"), (1,) * 4, "replicate")
    F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2) + F.channel_shuffle(x, 2)
    F.interpolate(x, scale_factor=2).diagonal(dim1=2, dim2=3)
    x.tril() + x.triu(1)
    x.relu() + F.relu6(x * 9) + F.hardtanh(x) + x.clamp(-0.5) + x.clamp(max=0.2) + x.clip(0, 1)
    x.sigmoid() + x.tanh() + F.hardsigmoid(x) + F.softplus(x, 2.0) + F.selu(x) + F.logsigmoid(x)
    x.exp() + x.expm1() + x.abs().log1p() + (x.abs() + 0.1).log() + (x * x).sqrt() + x.erf()
    F.max_pool2d(x, 3, 2, 1) + F.avg_pool2d(x, 3, 2, 1)
    F.max_pool1d(x[:, 0], 2) + F.avg_pool1d(x[:, 0], 2) + F.adaptive_avg_pool1d(x[:, 0], 3)
    F.max_pool3d(x, 2) + F.avg_pool3d(x, 2) + F.adaptive_avg_pool3d(x, (2, 3, 3))
    F.adaptive_max_pool2d(x, 3) + F.adaptive_avg_pool2d(x, 3)
    F.adaptive_max_pool3d(x, 3) + F.adaptive_max_pool1d(x[:, 0], 3).mean()
    F.max_pool2d(x, 2, return_indices=True)[0]
    x.amax(1) + x.amin(1) + x.max(1).values + x.min(1)[0] + x.max() + x.min()
    torch.maximum(x, M) + torch.minimum(x, x.flip(1)) + torch.max(x, M)
    x.mean((2, 3)) + x.sum(-1).mean(-1) + x.cumsum(2).sum((2, 3)) + x.mean()
    x.abs() - x.square() + F.leaky_relu(x, -0.2) + F.elu(x) + F.celu(x) + F.hardswish(x * 3)
    F.prelu(x, M[0, 1:5]) + F.silu(x) + F.mish(x)
    F.gelu(x * 3) - F.gelu(x, approximate="tanh") + x**2 - x**3 + (x * x) ** 0.5
    torch.zeros_like(x) + torch.ones_like(x) + x.new_full((6,), 2) + torch.full_like(x, 3)
    x.softmax(1) - x + 2 * x - M + torch.add(x, M, alpha=-3) - torch.sub(M, x, alpha=2) + (1 - x)
    -x * M / 3 + x / (x * x + 1) - 2 / (x.abs() + 1) + (x.abs() + 1).rsqrt() + x.abs().add(1).reciprocal()
    torch.where(x > 0, x, M) + torch.where(M > 0, x, 2.0) + x.masked_fill(M > 0, -1) + x.masked_fill(x < 0, 1)
    F.linear(x, M, M[0]) + x @ M + torch.einsum("bchw,vw->bchv", x, M) + torch.einsum("bchw->bcwh", x)
    torch.addmm(M, x[0, 0], M) + torch.mm(M, x[0, 1]) + torch.baddbmm(x[0], x[0], x[0].mT)
    torch.bmm(x[0], x[0]) + torch.mv(M, x[0, 0, 0]) + torch.addmv(M[0], x[0, 0], M[1]) + M[0] @ x[0, 0, 1]
    F.conv2d(x, M.view(-1)[:32].view(4, 2, 2, 2), M[0, :4], padding=1, groups=2)
    F.conv1d(x[:, 0], M.view(6, 6, 1), padding="same") + F.conv_transpose1d(x[:, 1], M.view(6, 6, 1))
    F.conv3d(x[:, None], M.view(-1)[:8].view(1, 1, 2, 2, 2)) + M[0, 0]
    F.conv_transpose2d(x, M.view(-1)[:32].view(4, 2, 2, 2), M[0, :4], stride=2, groups=2)[:, :, ::2]
    F.conv_transpose3d(x[:, None], M.view(-1)[:8].view(1, 1, 2, 2, 2), M[0, :1])
    F.batch_norm(x, M[0, :4], M[1, :4] ** 2, M[2, :4], M[3, :4]) + F.batch_norm(x, M[0, :4], M[5, :4])
    F.batch_norm(x, None, None, training=True) + F.instance_norm(x, weight=M[0, :4], bias=M[1, :4])
    F.layer_norm(x, (6,), M[0], M[1]) + F.group_norm(x, 2, M[0, :4], M[1, :4]) + F.rms_norm(x, (6, 6), M)
    F.scaled_dot_product_attention(x, x, x) + F.scaled_dot_product_attention(x, x, x, is_causal=True)
    F.scaled_dot_product_attention(x, x, x + 1, attn_mask=M > 0)
    F.scaled_dot_product_attention(x, x[:, :2], x[:, :2], enable_gqa=True, attn_mask=M.tril())
    x.clone().copy_(x[:, :1]) + x.clone().fill_(2) + x.clone().zero_() + x.clone().add_(x).relu_()
    x.clone().index_put((torch.tensor([0]),), x[1]) + torch.cumsum(x, 1)
""".strip().splitlines()  # fmt: skip
UNKNOWN = """
    x + torch.fft.fft(x).real + torch.sort(x, 1)[0] + torch.rand(6) + x.argmax()
    x[0].nonzero().float().mean() + x[x > 0].sum() + x.sum()
    torch.view_as_complex(x.unflatten(-1, (3, 2))).abs()
""".strip().splitlines()  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("call", [call.strip() for call in CALLS + UNKNOWN])
def test_every_operator_stays_within(call, dtype, monkeypatch):
    class One(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(1, 1)

        def forward(self, x):
            y = eval(call, {"x": x, "M": M.to(dtype), "torch": torch, "F": F})
            return self.out(y.double().mean().reshape(1).to(dtype))

    low = torch.randn((1, 4, 6, 6), generator=torch.Generator().manual_seed(0))
    with torch.random.fork_rng():
        x = torch.zeros(2, 4, 6, 6).to(dtype)
        for high in (low + 1, low):
            found = check_everywhere(One().to(dtype), x, low, high, monkeypatch)
            known = all(v.lo.isfinite().all() and v.hi.isfinite().all() for v in found)
            assert known == (call in {call.strip() for call in CALLS})


class Residual(nn.Module):
    """Linear pieces, normalised, pooled, added and joined, with writing in place."""

    def __init__(self, width: int, pool: int, act: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.b = nn.Conv2d(width, width, 3, padding=1)
        self.c = nn.Conv2d(2 * width, 4, 1)
        self.head = nn.Linear(4 * 9, 3)
        self.pool = [nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(3)][pool]
        self.act = [nn.ReLU(inplace=True), nn.ELU(), nn.GELU(), nn.Tanh()][act]

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.norm(self.a(x)))
        y = self.b(x)
        y += x
        y = self.act(y)
        y = self.pool(torch.cat([y, x], 1))
        return self.head(self.act(self.c(y)).flatten(1))


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(st.integers(2, 5), st.integers(0, 2), st.integers(0, 3), ONE, st.floats(0, 3))
def test_samples_stay_within_by_the_verb_itself(width, pool, act, low, extent):
    torch.manual_seed(width)
    model = Residual(width, pool, act)
    with torch.no_grad():
        model.norm.running_mean.uniform_(-1, 1)
        model.norm.running_var.uniform_(0.1, 2)
    model = model.double().eval()
    example = torch.zeros(1, 1, 6, 6).double()
    groups = pv.find_groups(model, example)
    found = bounds(model, example, low=low, high=low + extent, groups=groups)
    frame = found.set_index(["group", "unit"])
    read = {}

    def look(name, inputs, output):
        read[name] = inputs[0].detach()

    with evaluating(model), pv.hooked(model, ["b", "c", "head"], look):
        for i in range(4):
            share = torch.rand(500, 1, 6, 6).double()
            model(low + extent * (share.round() if i % 2 else share))
            for g in groups:
                for s in () if g.frozen else g.slices:
                    if s.role == "in" and s.layer in read and s.dim == 1:
                        values = read[s.layer].transpose(0, 1)[s.index.ravel()]
                        values = values.reshape(g.size, -1)
                        lo, hi = (torch.tensor(frame.loc[g.name][k].to_numpy()) for k in
                                  ("low", "high"))  # fmt: skip
                        assert (values.amin(1) >= lo - 1e-9).all()
                        assert (values.amax(1) <= hi + 1e-9).all()
    assert np.isfinite(found[["low", "high"]].to_numpy()).all()


@given(st.lists(st.tuples(ONE, ONE, ONE, ONE), min_size=2, max_size=4), ONE, st.floats(0, 3))
def test_corners_of_the_box_reach_the_bounds_of_one_layer(rows, low, extent):
    first = linear([r[:3] for r in rows], [r[3] for r in rows])
    model = nn.Sequential(first, linear([[1.0] * len(rows)], [0.0]))
    found = bounds(model, torch.zeros(1, 3).double(), low=low, high=low + extent)
    ends = torch.tensor([low, low + extent], dtype=torch.float64)
    reached = first(torch.cartesian_prod(ends, ends, ends)).detach()
    np.testing.assert_allclose(found["low"], reached.amin(0), atol=1e-12)
    np.testing.assert_allclose(found["high"], reached.amax(0), atol=1e-12)


# ---- whole architectures


def test_a_transformer_block_is_bounded_and_within(monkeypatch):
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, activation="gelu").eval()
    x = torch.randn(1, 5, 8)
    found = bounds(layer, x, low=-1, high=1)
    assert len(found) and np.isfinite(found[["low", "high"]].to_numpy()).all()
    for dtype in (torch.float32, torch.float64):
        low = torch.full(x.shape, -1.0)
        check_everywhere(layer.to(dtype), x.to(dtype), low, -low, monkeypatch)


class Attention(nn.Module):
    """Attention by hand, with a mask, and RMSNorm by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 18), nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-2) * self.scale
        q, k, v = self.qkv(x).chunk(3, -1)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        a = (torch.einsum("bqd,bkd->bqk", q, k) / 6**0.5).masked_fill(~mask, -torch.inf).softmax(-1)
        return self.out(a @ v) + F.scaled_dot_product_attention(q, k, v, is_causal=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_by_hand_is_within(dtype, monkeypatch):
    model, low = Attention().to(dtype), torch.full((1, 5, 6), -0.5)
    check_everywhere(model, torch.zeros(1, 5, 6).to(dtype), low, low + 2, monkeypatch)


class Writing(nn.Module):
    """Writes into parts of tensors that others look at."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.out = nn.Linear(4, 6), nn.Linear(6, 2)
        self.register_buffer("table", torch.zeros(1, 6))

    def forward(self, x: Tensor) -> Tensor:
        h = self.fc(x)
        F.dropout(h, 0.5, self.training).view(-1, 3, 2).relu_()
        z = torch.zeros(len(x), 6)
        parts = z.chunk(2, 1)
        z[:, :3] = h[:, 3:]
        e = torch.zeros(len(x), 6)
        e[:, 0].add_(x[:, 0])
        h[:, 1] = 5.0
        self.table += h.sum(0, keepdim=True)
        return self.out(h + z + e * self.table + torch.cat(parts, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_writing_in_place_is_seen_through_every_view(dtype, monkeypatch):
    model, low = Writing().to(dtype), torch.full((1, 4), -0.5)
    check_everywhere(model, torch.zeros(1, 4).to(dtype), low, low + 2, monkeypatch)


def test_behind_a_norm_a_neuron_is_bounded_whatever_goes_in():
    first = nn.Sequential(nn.Linear(2, 4), nn.LayerNorm(4, elementwise_affine=False))
    model = Net(torch.cos, first, nn.Linear(4, 4))
    model = nn.Sequential(model, nn.LayerNorm(4), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        model[2].bias[0] = -1000.0
    found = bounds(model, torch.zeros(1, 2), low=-1, high=1).set_index("group").loc["2"]
    assert np.isfinite(found[["low", "high"]].to_numpy()).all()
    # a norm of unknown numbers, in float32, is unknown as well
    assert found["kind"].tolist() == ["", "", ""] and both(found)[0] == (0, 0)


def test_ids_and_masks_are_those_of_the_example():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.fc, self.out = nn.Embedding(3, 2), nn.Linear(2, 4), nn.Linear(4, 1)

        def forward(self, ids, x, mask):
            return self.out((self.fc(self.table(ids) + x) * mask[:, None]).relu())

    model = Mixed()
    ids, x = torch.tensor([2, 0]), torch.zeros(2, 2)
    found = bounds(model, (ids, x, torch.tensor([0, 0])), low=-1, high=1)
    assert set(found["kind"]) == {"dead"}
    model.table.weight.data.zero_()
    found = bounds(model, {"ids": ids, "x": x, "mask": torch.tensor([1, 1])}, low=-1, high=1)
    w, b = model.fc.weight.detach().double(), model.fc.bias.detach().double()
    np.testing.assert_allclose(found["high"], (b + w.abs().sum(1)).clamp(min=0))


# ---- the verb


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"raising"}))
def test_no_trace_is_left(name):
    model = build(name)
    before = snapshot(model)
    x = inputs()
    kept = x.clone()
    frame = bounds(model, x, low=-1, high=1)
    assert_untouched(model, before)
    assert torch.equal(x, kept)
    assert list(frame.columns) == ["group", "unit", "low", "high", "kind"]
    assert (frame["low"] <= frame["high"]).all()
    again = bounds(model, x, low=-1, high=1)
    assert again.equals(frame)


def test_a_forward_that_raises_leaves_no_trace():
    model = build("raising")
    before = snapshot(model)
    with pytest.raises(pv.ArgumentError, match="boom"):
        bounds(model, inputs(), low=0, high=1)
    assert_untouched(model, before)


def test_inference_mode_changes_nothing():
    model = build("cnn").eval()
    want = bounds(model, inputs(), low=0, high=1)
    with torch.inference_mode():
        assert bounds(model, inputs(), low=0, high=1).equals(want)


def test_only_groups_that_can_be_cut_have_rows():
    model = build("mlp")
    groups = pv.find_groups(model, inputs())
    found = bounds(model, inputs(), low=0, high=1, groups=groups)
    assert found["group"].unique().tolist() == [g.name for g in groups if not g.frozen]
    empty = bounds(nn.Linear(36, 2), torch.zeros(1, 36), low=0, high=1)
    assert len(empty) == 0 and list(empty.columns) == list(found.columns)


def test_a_box_without_an_end_is_no_error():
    model = planted()
    with torch.no_grad():
        model[0].weight[0], model[0].bias[0] = 0.0, -1.0
    found = bounds(model, torch.zeros(1, 3), low=-torch.inf, high=torch.inf)
    assert both(found)[1] == (0, np.inf)
    half = bounds(model.half(), torch.zeros(1, 3).half(), low=-1, high=1)
    assert half["kind"][0] == "dead"


@pytest.mark.parametrize(
    "low, high, message",
    [
        (1, 0, "`low` must not be above `high` anywhere, but 1 and 0 were passed. Are they swapped?"),
        (torch.tensor([0.0, 2.0, 0.0]), 1.5,
         "`low` must not be above `high` anywhere, but 2 and 1.5 were passed. Are they swapped?"),
        (float("nan"), 1, "`low` must be numbers, but it contains NaN. Replace it by a bound."),
        (0, torch.tensor([1.0, torch.nan, 1.0]), "`high` must be numbers, but it contains NaN. Replace it by a bound."),
        (torch.zeros(4), 1, "`low` must be a number, or a tensor that broadcasts to one example, "
                            "shape (3,), but shape (4,) was passed."),
        (0, "1", "`high` must be a number, or a tensor that broadcasts to one example, shape (3,), "
                 "but '1' was passed."),
        (None, 1, "`low` must be a number, or a tensor that broadcasts to one example, shape (3,), "
                  "but None was passed."),
        (0, True, "`high` must be a number, or a tensor that broadcasts to one example, "
                  "shape (3,), but True was passed."),
    ],
)  # fmt: skip
def test_a_bad_box_is_refused(low, high, message):
    with refused(message):
        bounds(planted(), torch.zeros(2, 3), low=low, high=high)


def test_other_bad_arguments():
    with refused(
        "`example_input` must hold a floating-point tensor, which the box replaces, but its "
        "tensors are torch.int64. Bound a model that takes embeddings instead of ids."
    ):
        bounds(nn.Embedding(3, 2), torch.zeros(1, 2, dtype=torch.int64), low=0, high=1)
    with refused(
        "`groups` must be a Groups, but a list was passed. "
        "Make them: pv.find_groups(model, example_input)."
    ):
        bounds(planted(), torch.zeros(1, 3), low=0, high=1, groups=[])
    other = pv.find_groups(nn.Sequential(nn.Linear(3, 9), nn.Linear(9, 1)), torch.zeros(1, 3))
    with pytest.raises(pv.ArgumentError, match="`groups` is of another model"):
        bounds(planted(), torch.zeros(1, 3), low=0, high=1, groups=other)
    with pytest.raises(pv.ArgumentError, match=r"`model` must be a torch\.nn\.Module"):
        bounds(nn.Linear, torch.zeros(1, 3), low=0, high=1)

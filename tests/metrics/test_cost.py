from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import Tied, assert_untouched, build, cnn, inputs, mlp, plan_for, refused, snapshot
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pruneviz as pv
from pruneviz.lessons import NETWORKS
from pruneviz.lessons import build as lesson

# multiply-accumulates by hand: outputs × inputs of each; positions × kernel × inputs × outputs
BY_HAND = {
    "lenet-300-100": 784 * 300 + 300 * 100 + 100 * 10,
    "lenet-5": 24 * 24 * 5 * 5 * 1 * 20 + 8 * 8 * 5 * 5 * 20 * 50 + 800 * 500 + 500 * 10,
    "batchnorm-cnn": (
        28 * 28 * 9 * 1 * 24 + 14 * 14 * 9 * 24 * 48 + 7 * 7 * 9 * 48 * 96 + 864 * 128 + 128 * 10
    ),
    "residual-net": (
        28 * 28 * 9 * 1 * 16
        + 4 * (14 * 14 * 9 * 16 * 16)
        + 7 * 7 * 9 * 16 * 32
        + 3 * (7 * 7 * 9 * 32 * 32)
        + 7 * 7 * 16 * 32
        + 4 * 4 * 9 * 32 * 64
        + 3 * (4 * 4 * 9 * 64 * 64)
        + 4 * 4 * 32 * 64
        + 64 * 10
    ),
    "image-transformer": (
        49 * 16 * 64
        + 3 * (4 * 49 * 64 * 64 + 2 * 49 * 49 * 64 + 2 * 49 * 64 * 128)
        + 64 * 10
    ),
}  # fmt: skip


def test_every_network_has_its_formula():
    assert set(BY_HAND) == set(NETWORKS)


@pytest.mark.parametrize("name", BY_HAND)
def test_the_lessons_networks_cost_what_the_formula_says(name):
    model = lesson(name)
    cost = pv.measure(model, torch.zeros(1, 1, 28, 28))
    assert cost.macs == BY_HAND[name]
    assert cost.flops == 2 * BY_HAND[name]
    assert cost.uncounted == ()
    assert cost.params == sum(p.numel() for p in model.parameters())
    assert cost.latency_ms is None
    assert pv.measure(model, torch.zeros(3, 1, 28, 28)) == cost
    pruned = pv.mask(model, plan_for(model, 0.9))
    again = pv.measure(pruned, torch.zeros(2, 1, 28, 28))
    assert (again.macs, again.params, again.bytes) == (cost.macs, cost.params, cost.bytes)


def test_the_numbers_of_the_papers():
    lenet300, lenet5 = lesson("lenet-300-100"), lesson("lenet-5")
    x = torch.zeros(1, 1, 28, 28)
    assert pv.measure(lenet300, x).macs == plan_for(lenet300).total == 266_200
    assert pv.measure(lenet300, x).flops == 532_400
    assert plan_for(lenet5).total == 430_500
    assert pv.measure(lenet5, x).flops == 4_586_000


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9), st.booleans())
def test_linear(n, inputs, outputs, bias):
    cost = pv.measure(nn.Linear(inputs, outputs, bias), torch.zeros(n, inputs))
    assert cost.macs == inputs * outputs
    assert cost.uncounted == ()


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([(1, 0), (2, 1), (3, 0)]),
    st.booleans(),
)
def test_grouped_convolution(groups, inputs, outputs, kernel, stride_padding, transposed):
    stride, padding = stride_padding
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    conv = kind(inputs * groups, outputs * groups, kernel, stride, padding, groups=groups)
    side = 6
    out = conv(torch.zeros(1, inputs * groups, side, side)).shape[-1]
    # each input of a transposed convolution, and each output of a plain one, meets a whole kernel
    places = side * side if transposed else out * out
    cost = pv.measure(conv, torch.zeros(2, inputs * groups, side, side))
    assert cost.macs == places * kernel * kernel * inputs * outputs * groups
    assert cost.uncounted == ()


CONVOLUTIONS = [
    (nn.Conv1d(2, 5, 3), (2, 8), 6 * 3 * 2 * 5),
    (nn.Conv3d(2, 3, 2), (2, 4, 4, 4), 27 * 8 * 2 * 3),
    (nn.Conv2d(6, 6, 3, groups=6), (6, 5, 5), 9 * 9 * 6),
    (nn.Conv2d(4, 8, 3, groups=4), (4, 5, 5), 9 * 9 * 8),
    (nn.Conv2d(2, 3, 3, dilation=2), (2, 7, 7), 9 * 9 * 2 * 3),
    (nn.Conv2d(2, 3, 3, padding="same"), (2, 7, 7), 49 * 9 * 2 * 3),
    (nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 7, 7), 49 * 9 * 2 * 3),
    (nn.ConvTranspose1d(2, 3, 4, stride=4), (2, 5), 5 * 4 * 2 * 3),
    (nn.ConvTranspose3d(2, 3, 2), (2, 3, 3, 3), 27 * 8 * 2 * 3),
    (nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last), (4, 5, 5), 9 * 9 * 4 * 8),
]


@pytest.mark.parametrize(("conv", "shape", "macs"), CONVOLUTIONS)
def test_convolutions(conv, shape, macs):
    cost = pv.measure(conv, torch.zeros(3, *shape))
    assert (cost.macs, cost.uncounted) == (macs, ())


T, D, H = 5, 8, 16  # tokens, width, hidden


def encoder_macs(layers):
    return layers * (4 * T * D * D + 2 * T * T * D + 2 * T * D * H)


@pytest.mark.parametrize("training", [True, False])
def test_transformer_encoder(training):
    layer = nn.TransformerEncoderLayer(D, 2, H, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).train(training)
    cost = pv.measure(model, torch.zeros(3, T, D))
    assert (cost.macs, cost.uncounted) == (encoder_macs(2), ())
    assert torch.backends.mha.get_fastpath_enabled()


@pytest.mark.parametrize("need_weights", [True, False])
def test_attention(need_weights):
    model = nn.MultiheadAttention(D, 2, batch_first=True)
    x = torch.zeros(3, T, D)
    cost = pv.measure(
        model, {"query": x, "key": x, "value": x, "need_weights": need_weights}
    )  # fmt: skip
    assert (cost.macs, cost.uncounted) == (4 * T * D * D + 2 * T * T * D, ())


def test_attention_to_another_sequence():
    model = nn.MultiheadAttention(D, 2, kdim=3, vdim=2, batch_first=True)
    q, k, v = torch.zeros(2, T, D), torch.zeros(2, 7, 3), torch.zeros(2, 7, 2)
    want = T * D * D + 7 * 3 * D + 7 * 2 * D + 2 * T * 7 * D + T * D * D
    assert pv.measure(model, (q, k, v)).macs == want


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent(kind, dtype):
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[kind]
    model = getattr(nn, kind)(3, 4, 2, bidirectional=True, batch_first=True).to(dtype)
    first, second = gates * 4 * (3 + 4), gates * 4 * (8 + 4)  # two directions feed the second layer
    cost = pv.measure(model, torch.zeros(3, 6, 3, dtype=dtype))
    assert (cost.macs, cost.uncounted) == (6 * 2 * (first + second), ())


@pytest.mark.parametrize(("kind", "gates"), [("LSTMCell", 4), ("GRUCell", 3), ("RNNCell", 1)])
def test_recurrent_cells(kind, gates):
    cost = pv.measure(getattr(nn, kind)(3, 4), torch.zeros(2, 3))
    assert (cost.macs, cost.uncounted) == (gates * 4 * (3 + 4), ())


def test_bilinear():
    cost = pv.measure(nn.Bilinear(3, 4, 5), (torch.zeros(2, 3), torch.zeros(2, 4)))
    assert (cost.macs, cost.uncounted) == (3 * 4 * 5, ())
    longer = (torch.zeros(2, 7, 3), torch.zeros(2, 7, 4))
    assert pv.measure(nn.Bilinear(3, 4, 5), longer).macs == 7 * 3 * 4 * 5


class Calls(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn = fn

    def forward(self, *args, **kwargs):
        return self.fn(*args, **kwargs)


PRODUCTS = [
    ("matrix times vector", lambda x: x[0] @ x[0, 0], 4 * 4),
    ("vector times vector", lambda x: x[0, 0] @ x[0, 1], 4),
    ("addmv", lambda x: torch.addmv(x[0, 0], x[0], x[0, 1]), 4 * 4),
    ("batched", lambda x: x @ x, 4 * 4 * 4),
    ("einsum", lambda x: torch.einsum("bij,bkj->bik", x, x), 4 * 4 * 4),
]


@pytest.mark.parametrize(("fn", "macs"), [p[1:] for p in PRODUCTS], ids=[p[0] for p in PRODUCTS])
def test_products(fn, macs):
    cost = pv.measure(Calls(fn), torch.ones(2, 4, 4))
    assert (cost.macs, cost.uncounted) == (macs, ())


def test_attention_between_sequences_of_their_own_length_and_width():
    def macs(queries, keys, width, values):
        q, k = torch.zeros(2, 3, queries, width), torch.zeros(2, 3, keys, width)
        model = Calls(F.scaled_dot_product_attention)
        cost = pv.measure(model, (q, k, torch.zeros(2, 3, keys, values)))
        assert cost.uncounted == ()
        return cost.macs

    assert macs(4, 7, 5, 5) == 3 * 4 * 7 * (5 + 5)
    assert macs(4, 7, 5, 6) == 3 * 4 * 7 * (5 + 6)


UNKNOWN = [
    (lambda x: torch.fft.rfft(x).abs(), ("aten._fft_r2c",)),
    (lambda x: torch.cdist(x, x), ("aten._cdist_forward",)),
    (lambda x: torch.fft.rfft(x).abs().sum() + torch.cdist(x, x), ("aten._cdist_forward", "aten._fft_r2c")),
    (lambda x: torch.linalg.inv(x), ("aten.linalg_inv_ex",)),
]  # fmt: skip


@pytest.mark.parametrize(("fn", "names"), UNKNOWN)
def test_unknown_operators_are_named(fn, names):
    cost = pv.measure(Calls(fn), torch.eye(4).repeat(2, 1, 1))
    assert cost.macs == 0
    assert set(names) <= set(cost.uncounted)
    assert list(cost.uncounted) == sorted(cost.uncounted)


FREE = [
    *(nn.ReLU(), nn.GELU(), nn.SiLU(), nn.ELU(), nn.PReLU(), nn.GLU(1), nn.Softmax(1), nn.Sigmoid()),
    *(nn.Tanh(), nn.Hardswish(), nn.Mish(), nn.LeakyReLU(), nn.RReLU(), nn.LogSoftmax(1)),
    *(nn.LogSigmoid(), nn.Softplus(), nn.Hardtanh(), nn.Threshold(1, 0), nn.Softmin(1)),
    *(nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LayerNorm(6), nn.RMSNorm(6)),
    *(nn.InstanceNorm2d(4, track_running_stats=True), nn.LocalResponseNorm(2)),
    *(nn.MaxPool2d(2), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(2), nn.AdaptiveMaxPool2d(2)),
    *(nn.LPPool2d(2, 2), nn.ZeroPad2d(1), nn.ReflectionPad2d(1), nn.Upsample(scale_factor=2)),
    *(nn.Upsample(scale_factor=2, mode="bilinear"), nn.PixelShuffle(2), nn.ChannelShuffle(2)),
    *(nn.Flatten(), nn.Dropout(), nn.Dropout2d(), nn.Unfold(2), nn.CosineSimilarity()),
]  # fmt: skip


@pytest.mark.parametrize("layer", FREE, ids=lambda m: str(m).partition("(")[0])
def test_by_convention_activations_norms_and_pools_are_no_work(layer):
    x = torch.ones(2, 4, 6, 6)
    cost = pv.measure(layer, (x, x) if isinstance(layer, nn.CosineSimilarity) else x)
    assert (cost.macs, cost.uncounted) == (0, ())


@pytest.mark.parametrize("layer", [nn.Embedding(9, 3), nn.EmbeddingBag(9, 3)])
def test_looking_up_is_no_work(layer):
    cost = pv.measure(layer, torch.zeros(2, 4, dtype=torch.int64))
    assert (cost.macs, cost.uncounted) == (0, ())


def test_params_and_bytes_of_a_network_with_buffers():
    model = cnn()
    cost = pv.measure(model, inputs())
    params = 4 * 9 + 4 + 4 + 4 + 64 * 3 + 3
    assert cost.params == params
    assert cost.bytes == 4 * (params + 4 + 4) + 8  # running mean and variance; batches counted
    assert cost.macs == 4 * 4 * 9 * 4 + 64 * 3


def test_nonzero_counts_zeros_of_masks_and_others():
    model = mlp()
    with torch.no_grad():
        model[1].bias.zero_()
        model[1].weight[0, 0] = 0
    plan = plan_for(model)
    dense, masked, baked = (
        pv.measure(m, inputs())
        for m in (model, pv.mask(model, plan), pv.bake(pv.mask(model, plan)))
    )
    assert dense.nonzero == dense.params - 8 - 1
    # the weight that was 0 before is among those that the plan drops
    assert masked.nonzero == dense.params - 8 - (plan.total - plan.kept)
    assert masked == baked


def test_tied_parameters_count_once():
    cost = pv.measure(Tied(), inputs())
    assert cost.params == 36 * 36 + 36 * 2 + 36 * 3 + 3
    assert cost.macs == 2 * 36 * 36 + 36 * 3
    assert cost.bytes == 4 * cost.params


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_bytes_follow_the_precision(dtype):
    cost = pv.measure(nn.Linear(6, 4).to(dtype), torch.zeros(1, 6, dtype=dtype))
    assert cost.bytes == 28 * dtype.itemsize
    assert cost.macs == 24


def test_tuples_hold_positional_and_dicts_keyword_arguments():
    def fn(x, y, *, scale=1.0, transpose=False):
        return (y if transpose else x) @ x.mT * scale

    model = Calls(fn)
    x, y = torch.ones(2, 3, 4), torch.ones(2, 5, 4)
    assert pv.measure(model, (x, y)).macs == 3 * 3 * 4
    assert pv.measure(model, [x, y]).macs == 3 * 3 * 4
    assert pv.measure(model, {"x": x, "y": y, "transpose": True}).macs == 5 * 3 * 4


def test_what_is_not_by_example_is_passed_whole():
    model = Calls(lambda x, weight: x @ weight)
    assert pv.measure(model, (torch.ones(7, 3), torch.ones(3, 4))).macs == 3 * 4


MUST = (
    "`example_input` must be a tensor, a tuple of arguments or a dict of keyword arguments, its "
    "first dimension the examples, but"
)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (3, f"{MUST} an int was passed."),
        (None, f"{MUST} None was passed."),
        ((), f"{MUST} a tuple without a tensor was passed."),
        ((1, "x"), f"{MUST} a tuple without a tensor was passed."),
        ({"x": 1}, f"{MUST} a dict without a tensor was passed."),
        (torch.zeros(0, 4), f"{MUST} the first tensor has shape (0, 4), and so holds no example."),
        (torch.tensor(1.0), f"{MUST} the first tensor has shape (), and so holds no example."),
    ],
)
def test_an_example_input_that_is_none_is_refused(bad, message):
    with refused(message):
        pv.measure(mlp(), bad)


def test_an_example_input_of_the_wrong_shape_is_refused():
    model, linear = build("cnn"), nn.Linear(3, 2)
    before = snapshot(model)
    with refused(
        "`model` (Linear) could not run on one example of `example_input`, float32[1, 4]: "
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (1x4 and 3x2) "
        "(the first dimension must be that of the examples)."
    ):
        pv.measure(linear, torch.zeros(5, 4))
    with pytest.raises(pv.ArgumentError, match=r"int64\[1, 1, 6, 6\]: RuntimeError"):
        pv.measure(model, inputs().long())
    with refused(
        "`model` (Calls) could not run on one example of `example_input`, x=float32[1, 2], k=int: "
        "ZeroDivisionError: float division by zero "
        "(the first dimension must be that of the examples)."
    ):
        pv.measure(Calls(lambda x, k: 1.0 / k), {"x": torch.zeros(1, 2), "k": 0})
    assert_untouched(model, before)


def test_a_lazy_model_is_refused_and_stays_lazy():
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
    with pytest.raises(pv.ArgumentError, match="lazy"):
        pv.measure(model, inputs())
    assert isinstance(model[1], nn.LazyLinear)


def test_without_weights_there_is_no_cost():
    cost = pv.measure(nn.ReLU(), torch.ones(2, 3))
    assert (cost.params, cost.nonzero, cost.bytes, cost.macs) == (0, 0, 0, 0)

"""collect: what layers read and how the loss answers, against hooks that store everything and loops."""

from __future__ import annotations

import copy
import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import MODELS, assert_untouched, build, cnn, inputs, labels, mlp, refused, snapshot
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from transformers import BatchEncoding, GPT2Config, GPT2Model
from transformers.pytorch_utils import Conv1D

import pruneviz as pv
from pruneviz.evidence.moments import Moments
from pruneviz.model.patches import patches

FIELDS = ("mean", "comoment", "zeros", "low", "high")
collect = partial(pv.collect, progress=False)


def stored(model: nn.Module, batches: list, names: list[str]) -> dict[str, list[Tensor]]:
    """Everything that layers read, batch after batch, by hooks on a copy."""
    model, found = copy.deepcopy(model).eval(), {n: [] for n in names}
    torch.backends.mha.set_fastpath_enabled(False)
    for name in names:
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, args, name=name: found[name].append(args[0].clone())
        )
    try:
        with torch.no_grad():
            for x in batches:
                model(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(True)
    return found


def rows(module: nn.Module, xs: list[Tensor]) -> Tensor:
    """What a layer read as a matrix with a column for each feature or channel."""
    conv = isinstance(module, nn.modules.conv._ConvNd)
    return torch.cat([(x.movedim(1, -1) if conv else x).reshape(-1, x.shape[1 if conv else -1])
                      for x in xs])  # fmt: skip


def assert_same(m: Moments, x: Tensor, tolerance: float = 1e-5) -> None:
    """Compare with the moments of all rows at once, in float64."""
    want = Moments.of(x.double(), comoment=m.full)
    assert m.count == want.count
    for f in FIELDS:
        a, b = getattr(m, f), getattr(want, f)
        scale = float(b.abs().max()) + 1e-12
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * scale, msg=f)


def assert_all_same(evidence: pv.Evidence, model: nn.Module, batches: list) -> None:
    seen = stored(model, batches, list(evidence.inputs))
    for name, m in evidence.inputs.items():
        assert_same(m, rows(model.get_submodule(name), seen[name]))
    for name, m in evidence.patches.items():
        conv = model.get_submodule(name)
        x = torch.cat([patches(conv, x).flatten(0, 1) for x in seen[name]])
        assert_same(m, torch.stack(x.chunk(conv.groups, 1)) if conv.groups > 1 else x)


# what layers read


CONVS = {
    "1d": (lambda: nn.Conv1d(2, 3, 3, padding=1), (7,)),
    "1d stride, dilation": (lambda: nn.Conv1d(2, 3, 2, stride=2, dilation=3), (9,)),
    "2d": (lambda: nn.Conv2d(2, 3, 3), (5, 6)),
    "2d stride, dilation": (lambda: nn.Conv2d(2, 3, (3, 2), stride=(1, 2), dilation=2), (7, 7)),
    "2d same, even kernel": (lambda: nn.Conv2d(2, 3, (2, 4), padding="same"), (5, 5)),
    "2d valid": (lambda: nn.Conv2d(2, 3, 3, padding="valid"), (5, 5)),
    "2d circular": (lambda: nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular"), (5, 4)),
    "2d reflect": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), (4, 5)),
    "2d replicate": (lambda: nn.Conv2d(2, 3, 3, padding=2, padding_mode="replicate"), (4, 5)),
    "2d groups": (lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 5)),
    "2d one by one, groups": (lambda: nn.Conv2d(4, 6, 1, groups=2), (4, 5)),
    "3d": (lambda: nn.Conv3d(2, 3, 2, padding=1, stride=(1, 2, 1)), (3, 4, 3)),
}


same_of_even = pytest.mark.filterwarnings(
    "ignore:Using padding='same' with even kernel:UserWarning"
)


@same_of_even
@pytest.mark.parametrize("name", CONVS)
def test_convolutions(name):
    make, space = CONVS[name]
    conv = make()
    batches = [F.relu(torch.randn(n, conv.in_channels, *space)) for n in (4, 3)]
    evidence = collect(nn.Sequential(conv), batches)
    assert_all_same(evidence, nn.Sequential(conv), batches)
    assert not evidence.inputs["0"].full
    assert evidence.columns("0") is evidence.patches["0"]
    n = conv.weight[0].numel()
    shape = (n,) if conv.groups == 1 else (conv.groups, n)
    assert evidence.patches["0"].mean.shape == shape


@st.composite
def convolutions(draw):
    space = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, 1, 2, 4]))
    kernel = draw(st.lists(st.integers(1, 3), min_size=space, max_size=space))
    mode = draw(st.sampled_from(["zeros", "circular", "reflect", "replicate"]))
    stride = draw(st.integers(1, 2))
    word = draw(st.sampled_from(["valid", "same", ""]))
    padding = word or draw(st.lists(st.integers(0, 2), min_size=space, max_size=space))
    make = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[space - 1]
    conv = make(
        4, 4 * draw(st.integers(1, 2)), kernel, padding=padding, padding_mode=mode, groups=groups,
        stride=1 if word == "same" else stride, dilation=draw(st.integers(1, 2)), bias=False,
        dtype=torch.float64)  # fmt: skip
    size = draw(st.lists(st.integers(3, 6), min_size=space, max_size=space))
    return conv, torch.randn(2, 4, *size, dtype=torch.float64)


@same_of_even
@given(convolutions())
def test_patches_times_the_weight_are_the_convolution(case):
    conv, x = case
    try:
        want = conv(x)
    except RuntimeError:  # larger than what it slides over
        assume(False)
    columns = patches(conv, x).chunk(conv.groups, -1)
    weights = conv.weight.flatten(1).chunk(conv.groups)
    found = torch.cat([c @ w.T for c, w in zip(columns, weights, strict=True)], -1)
    torch.testing.assert_close(found.transpose(1, 2), want.flatten(2))


@pytest.mark.parametrize("shape", [(5, 4), (5, 3, 4), (5, 2, 3, 4)])
def test_linear_reads_rows(shape):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    batches = [torch.randn(shape), torch.randn(shape)[:2] + 1]
    evidence = collect(model, batches)
    assert_all_same(evidence, model, batches)
    assert evidence.examples == 7
    assert evidence.shapes == {"0": (6, 4), "2": (2, 6)}
    assert all(m.full for m in evidence.inputs.values())


def test_a_convolution_with_one_tap_keeps_the_comoment_of_its_channels():
    model = nn.Conv2d(3, 2, 1)
    evidence = collect(model, torch.randn(4, 3, 5, 5))
    assert evidence.inputs[""].full
    assert not evidence.patches


def test_a_depthwise_convolution_has_nothing_to_refit():
    evidence = collect(nn.Conv2d(3, 6, 3, groups=3), torch.randn(4, 3, 5, 5))
    assert not evidence.patches
    assert not evidence.inputs[""].full


def test_a_convolution_that_is_called_without_a_batch():
    class Each(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3, padding=1)

        def forward(self, x):
            return torch.stack([self.conv(v) for v in x])

    model, x = Each(), torch.randn(4, 2, 5, 5)
    evidence, want = collect(model, x), collect(nn.Sequential(model.conv), x)
    assert_same(evidence.inputs["conv"], rows(model.conv, [x]))
    assert_same(evidence.patches["conv"], patches(model.conv, x).flatten(0, 1))
    assert evidence.patches["conv"].count == want.patches["0"].count


def gpt2() -> nn.Module:
    sizes = {"n_embd": 8, "n_layer": 2, "n_head": 2, "n_positions": 8, "vocab_size": 11}
    return GPT2Model(GPT2Config(**sizes)).eval()


def test_gpt2s_layers():
    model = gpt2()
    batches = [torch.randint(11, (3, 5)), torch.randint(11, (2, 7))]
    evidence = collect(model, batches)
    assert isinstance(model.h[0].mlp.c_fc, Conv1D)
    assert len(evidence.inputs) == 8
    assert evidence.shapes["h.0.mlp.c_fc"] == (8, 32)
    assert evidence.inputs["h.1.mlp.c_proj"].mean.shape == (32,)
    assert_all_same(evidence, model, batches)


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_output_projection_of_attention(batch_first):
    class Attend(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=batch_first)

        def forward(self, x):
            x = x if batch_first else x.transpose(0, 1)
            return self.attention(x, x, x)[0]

    model, x = Attend(), torch.randn(6, 5, 8)
    evidence = collect(model, x.split(4))
    assert list(evidence.inputs) == ["attention.in_proj", "attention.out_proj"]
    assert_same(evidence.inputs["attention.in_proj"], x.reshape(-1, 8))
    bare = copy.deepcopy(model)  # a projection that changes nothing gives what it reads
    with torch.no_grad():
        bare.attention.out_proj.weight.copy_(torch.eye(8))
        bare.attention.out_proj.bias.zero_()
        assert_same(evidence.inputs["attention.out_proj"], bare(x).reshape(-1, 8))


@pytest.mark.parametrize("training", [True, False])
def test_torchs_fused_encoder_is_seen_inside(training):
    layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, activation="gelu")
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).train(training)
    x = torch.randn(6, 5, 8)
    before = snapshot(model)
    evidence = collect(model, x.split(4))
    assert_untouched(model, before)
    names = [
        f"layers.{i}.{n}"
        for i in (0, 1)
        for n in ("self_attn.in_proj", "self_attn.out_proj", "linear1", "linear2")
    ]
    assert list(evidence.inputs) == names
    seen = stored(model, list(x.split(4)), [n for n in names if "linear" in n])
    for name, xs in seen.items():
        assert_same(evidence.inputs[name], rows(model.get_submodule(name), xs))


class Twice(nn.Module):
    """A layer that runs twice, and one whose weight it shares."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.head(torch.tanh(self.b(torch.tanh(self.a(torch.tanh(self.a(x)))))))


def test_a_layer_that_runs_twice_and_tied_weights():
    model, batches = Twice(), [torch.randn(4, 6), torch.randn(3, 6)]
    evidence = collect(model, batches)
    assert evidence.inputs["a"].count == 14
    assert evidence.inputs["b"].count == 7
    assert evidence.examples == 7
    assert_all_same(evidence, model, batches)


def test_what_follows_in_place_is_not_what_was_read():
    """ReLU writes over the first layer's output, and the sum over what both layers read."""

    class InPlace(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            h = F.relu(self.a(x), inplace=True)
            return h.add_(self.b(h))

    model, x = InPlace(), torch.randn(9, 4)
    evidence = collect(model, x.split(4))
    assert_same(evidence.inputs["a"], x)
    assert_same(evidence.inputs["b"], F.relu(model.a(x)))


def test_every_batch_counts_not_the_last_alone():
    x = torch.zeros(3, 4)
    evidence = collect(nn.Linear(4, 2), [x + 5, x, x - 1])
    m = evidence.inputs[""]
    assert (evidence.examples, m.count) == (9, 9)
    assert m.high.tolist() == [5] * 4
    assert m.low.tolist() == [-1] * 4
    assert m.zero_fraction.tolist() == [1 / 3] * 4
    torch.testing.assert_close(m.mean, torch.full((4,), 4 / 3, dtype=torch.float64))


def test_the_model_runs_in_eval_mode():
    model, x = cnn(), inputs(8)  # BatchNorm and dropout, in train mode
    assert_all_same(collect(model, x.split(3)), model, list(x.split(3)))


def test_frozen_parameters():
    model = mlp().requires_grad_(False)
    evidence = collect(model, [(inputs(), labels())], loss=F.cross_entropy)
    model.requires_grad_(True)
    want = collect(model, [(inputs(), labels())], loss=F.cross_entropy)
    assert_same(evidence.inputs["1"], inputs().flatten(1))
    assert_equal(evidence.grad_sq, want.grad_sq)
    assert_equal(evidence.output_grad, want.output_grad)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    """Sums are not taken in half precision: only what the layers read is that coarse."""
    model = nn.Sequential(nn.Conv1d(2, 8, 3, padding=1), nn.Flatten(), nn.Linear(80, 3)).to(dtype)
    x, y = torch.randn(300, 2, 10).to(dtype), torch.arange(300) % 3
    evidence = collect(
        model, list(zip(x.split(64), y.split(64), strict=True)), loss=F.cross_entropy
    )
    assert_all_same(evidence, model, list(x.split(64)))
    fine = collect(model.double(), [(x.double(), y)], loss=F.cross_entropy)
    for name, g in fine.grad_sq.items():
        torch.testing.assert_close(evidence.grad_sq[name], g, rtol=0.1, atol=0.02 * g.max().item())


def test_wide_layers_keep_the_diagonal_unless_asked(monkeypatch):
    monkeypatch.setattr(sys.modules["pruneviz.evidence.collect"], "WIDE", 20)
    model = nn.Sequential(nn.Conv2d(1, 2, 5), nn.Flatten(), nn.Linear(8, 3))
    x = inputs()

    def kept(comoment):
        evidence = collect(model, x, comoment=comoment)
        return [*evidence.patches, *(n for n, m in evidence.inputs.items() if m.full)]

    assert kept(True) == kept(1) == ["2"]  # a filter of the convolution has 25 weights
    assert kept("all") == ["0", "2"]
    assert kept(False) == kept(0) == []


@pytest.mark.parametrize("comoment", [True, False])
def test_only_some_layers(comoment):
    model, x = mlp(), inputs()
    whole = collect(model, x, comoment=comoment)
    for layers in (["3"], "3", iter(["3"]), ("3", "3")):
        evidence = collect(model, x, layers=layers, comoment=comoment)
        assert list(evidence.inputs) == ["3"]
        assert repr(evidence) == "Evidence from 5 examples on 1 layer"
        assert_moments_equal(evidence.inputs["3"], whole.inputs["3"])


def assert_moments_equal(a: Moments, b: Moments) -> None:
    assert a.count == b.count
    for f in FIELDS:
        torch.testing.assert_close(getattr(a, f), getattr(b, f), rtol=1e-5, atol=1e-5)


# batches of every kind


def assert_inputs_equal(evidence: pv.Evidence, want: pv.Evidence) -> None:
    assert evidence.examples == want.examples
    assert list(evidence.inputs) == list(want.inputs)
    for name, m in want.inputs.items():
        assert_moments_equal(evidence.inputs[name], m)


X, Y = inputs(7), labels(7)
BATCHES = {
    "tensors": lambda: [X[:4], X[4:]],
    "pairs": lambda: [(X[:4], Y[:4]), (X[4:], Y[4:])],
    "lists of two": lambda: [[X[:4], Y[:4]], [X[4:], Y[4:]]],
    "alone in a tuple": lambda: [(X[:4],), (X[4:],)],
    "dicts": lambda: [{"input": X[:4]}, {"input": X[4:]}],
    "one dict": lambda: {"input": X},
    "dicts with targets": lambda: [({"input": X[:4]}, Y[:4]), ({"input": X[4:]}, Y[4:])],
    "encodings": lambda: [BatchEncoding({"input": X[:4]}), BatchEncoding({"input": X[4:]})],
    "one encoding": lambda: BatchEncoding({"input": X}),
    "loader": lambda: DataLoader(X, batch_size=3),
    "loader of pairs, shuffled": lambda: DataLoader(
        TensorDataset(X, Y), batch_size=3, shuffle=True
    ),
    "generator": lambda: (x for x in X.split(3)),
    "one tensor": lambda: X,
}


@pytest.mark.parametrize("kind", BATCHES)
def test_batches_come_in_many_kinds(kind):
    model = mlp()
    before = torch.get_rng_state()
    assert_inputs_equal(collect(model, BATCHES[kind]()), collect(model, [X]))
    assert torch.equal(before, torch.get_rng_state())


class Sum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, a, b):
        return self.fc(a + b)


def test_several_arguments():
    a, b, y = torch.randn(5, 4), torch.randn(5, 4), labels()
    for batch in (((a, b), y), ((a, b),), ([a, b], y), ({"a": a, "b": b}, y), {"b": b, "a": a}):
        assert_same(collect(Sum(), [batch]).inputs["fc"], a + b)


def test_a_large_tensor_is_read_in_parts():
    sizes = []
    model = nn.Linear(2, 1)
    model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    assert collect(model, torch.randn(250, 2)).examples == 250
    assert sizes == [100, 100, 50]


def test_no_more_batches_are_read_than_asked():
    batches = iter([X, X + 1, X + 2])
    evidence = collect(mlp(), batches, max_batches=2)
    assert evidence.examples == 14
    assert len(list(batches)) == 1


def test_an_empty_batch_among_others():
    model = mlp()
    for loss in (None, F.cross_entropy):
        evidence = collect(model, [(X[:0], Y[:0]), (X, Y), (X[:0], Y[:0])], loss=loss)
        assert_inputs_equal(evidence, collect(model, [X]))


def test_a_single_example():
    evidence = collect(mlp(), [(X[:1], Y[:1])], loss=F.cross_entropy)
    assert evidence.inputs["1"].count == 1
    assert evidence.inputs["1"].variance.abs().max() == 0
    assert_equal(evidence.grad_sq, loop(mlp_like(), [(X[:1], Y[:1])])[0])


def mlp_like() -> nn.Module:
    """The network that `mlp()` gives as the first of a test: the seed is fixed."""
    torch.manual_seed(0)
    return mlp()


# no trace


@pytest.mark.parametrize("loss", [None, F.cross_entropy], ids=["plain", "gradients"])
@pytest.mark.parametrize("name", MODELS)
def test_no_trace(name, loss):
    model = build(name)
    before = snapshot(model)
    if name == "raising":
        with pytest.raises(pv.ArgumentError, match="RuntimeError: boom"):
            collect(model, [(X, Y)], loss=loss)
    else:
        collect(model, [(X, Y), (X + 1, Y)], loss=loss)
    assert_untouched(model, before)


class Breaks(nn.Module):
    """Raises after attention has run, at the second batch."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.count = 0

    def forward(self, x):
        x = self.encoder(x) + torch.randn_like(x)
        x = self.attention(x, x, x)[0]
        self.count += 1
        if self.count > 1:
            raise RuntimeError("boom")
        return x.mean(1)


@pytest.mark.parametrize("loss", [None, F.cross_entropy], ids=["plain", "gradients"])
def test_no_trace_when_the_forward_raises_midway(loss):
    model, x = Breaks(), torch.randn(4, 5, 8)
    before = snapshot(model)
    with pytest.raises(pv.ArgumentError, match="RuntimeError: boom"):
        collect(model, [(x, labels(4))] * 2, loss=loss)
    assert_untouched(model, before)


def test_no_trace_when_an_argument_is_wrong():
    model = build("cnn")
    before = snapshot(model)
    with pytest.raises(pv.ArgumentError):
        collect(model, [(X, Y + 9)], loss=F.cross_entropy)
    with pytest.raises(ZeroDivisionError):  # the caller's own iterable
        collect(model, (X / (1 // (i - 1)) for i in range(3)))
    assert_untouched(model, before)


def test_inputs_are_not_changed():
    model = nn.Sequential(nn.ReLU(inplace=False), nn.Flatten(), nn.Linear(36, 3))
    x, y = X.clone(), Y.clone()
    collect(model, [(x, y)], loss=F.cross_entropy)
    assert torch.equal(x, X)
    assert torch.equal(y, Y)
    assert x.grad is None


@pytest.mark.parametrize("loss", [None, F.cross_entropy], ids=["plain", "gradients"])
def test_in_inference_mode(loss):
    model = mlp()
    want = collect(model, [(X, Y)], loss=loss)
    with torch.inference_mode():
        evidence = collect(model, [(X.clone(), Y.clone())], loss=loss)
        assert torch.is_inference_mode_enabled()
    assert_inputs_equal(evidence, want)
    if loss is not None:
        assert_equal(evidence.grad_sq, want.grad_sq)
        assert not evidence.grad_sq["1.weight"].is_inference()
    assert not evidence.inputs["1"].mean.is_inference()


# gradients, against a loop over single examples


def first(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """Instead of drawing: the most likely class."""
    return outputs.argmax(1)


def loop(model, batches, loss=F.cross_entropy, drawn=False):
    """Squares of every parameter's gradient, and g gᵀ at every leaf's output, example by example."""
    model, squares, outer = copy.deepcopy(model).eval(), {}, {}
    params = {n: p.requires_grad_() for n, p in model.named_parameters()}
    outputs: list = []

    def keep(name, given, output):
        if output.requires_grad:
            outputs.append((name, output))
        return output.clone()  # what follows may write into it

    count = 0
    with pv.hooked(model, None, keep):
        for x, y in batches:
            for i in range(len(x)):
                outputs.clear()
                out = model(x[i : i + 1])
                value = loss(out, out.argmax(1) if drawn else y[i : i + 1])
                wanted = [*params.values(), *(z for _, z in outputs)]
                grads = torch.autograd.grad(value, wanted, allow_unused=True)
                count += 1
                for name, g in zip(params, grads, strict=False):
                    squares[name] = squares.get(name, 0) + (0 if g is None else g**2)
                for (name, _), g in zip(outputs, grads[len(params) :], strict=True):
                    if g is not None:
                        g = rows(model.get_submodule(name), [g])
                        outer[name] = outer.get(name, 0) + g.T @ g
    return {k: v / count for k, v in squares.items()}, {k: v / count for k, v in outer.items()}


def assert_equal(found, want, rtol=1e-6):
    """What was found has the values that are wanted; more may be wanted (biases, norms)."""
    assert found
    for name, value in found.items():
        scale = float(want[name].abs().max())
        torch.testing.assert_close(
            value, want[name].to(value), rtol=rtol, atol=rtol * scale, msg=lambda m, n=name: f"{n}: {m}"
        )  # fmt: skip


class Tokens(nn.Module):
    """Tokens and a table of positions, which all examples share."""

    def __init__(self, tied: bool = False, padding: int | None = None) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(9, 4, padding), nn.Embedding(6, 4)
        self.head = nn.Linear(4, 9, bias=not tied)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids):
        places = torch.arange(ids.shape[1]).unsqueeze(0)  # (1, tokens)
        return self.head(torch.tanh(self.tokens(ids) + self.places(places))).mean(1)


class TimeFirst(nn.Module):
    """Turns (examples, time, 4) into (time, examples, 4) inside."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.b(torch.tanh(self.a(x.transpose(0, 1)))[1])


class Attention(nn.Module):
    def __init__(self, kdim: int | None = None) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True, kdim=kdim, vdim=kdim)
        self.head = nn.Linear(8, 3)
        self.keys = kdim or 8

    def forward(self, x):
        return self.head(self.attention(x, x[..., : self.keys], x[..., : self.keys])[0].mean(1))


class Pool(nn.Module):
    """The mean over all dimensions between the first and the last."""

    def forward(self, x):
        return x.flatten(1, -2).mean(1)


def sequential(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers)


class Gpt2Classes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net, self.head = gpt2(), nn.Linear(8, 3)

    def forward(self, ids):
        return self.head(self.net(ids).last_hidden_state[:, -1])


class Paired(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair, self.head = nn.Bilinear(4, 4, 5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.pair(x, x.flip(1)))


G = torch.Generator().manual_seed(3)
IDS = torch.randint(9, (6, 6), generator=G)
IDS[:, 3] = IDS[:, 1]  # a token twice in each example
ROWS = torch.randn(6, 4, generator=G)
SEQUENCE = torch.randn(6, 6, 8, generator=G)
IMAGES = torch.randn(6, 4, 5, 5, generator=G)

CASES = {
    "linear": (lambda: sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), ROWS),
    "in-place relu": (
        lambda: sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)),
        ROWS,
    ),
    "sequence": (lambda: sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3), Pool()), SEQUENCE),
    "conv": (
        lambda: sequential(
            nn.Conv2d(4, 6, 3, padding=1, stride=2), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
            nn.Linear(54, 3)),
        IMAGES,
    ),
    "conv, groups": (
        lambda: sequential(
            nn.Conv2d(4, 6, 3, groups=2, dilation=2, padding=2, padding_mode="circular"), nn.Tanh(),
            nn.Conv2d(6, 6, 3, groups=6), nn.Flatten(2), nn.Conv1d(6, 3, 1), nn.AdaptiveAvgPool1d(1),
            nn.Flatten()),
        IMAGES,
    ),
    "token twice": (lambda: sequential(nn.Embedding(9, 4), nn.Tanh(), Pool(), nn.Linear(4, 3)), IDS),
    "positions": (Tokens, IDS),
    "positions, other length": (Tokens, IDS[:, :5]),
    "padding token": (lambda: Tokens(padding=int(IDS[0, 0])), IDS),
    "tied embedding": (lambda: Tokens(tied=True), IDS),
    "twice, tied": (Twice, torch.randn(6, 6, generator=G)),
    "attention": (Attention, SEQUENCE),
    "attention, other width of keys": (lambda: Attention(kdim=5), SEQUENCE),
    "encoder": (
        lambda: sequential(
            nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), Pool(), nn.Linear(8, 3)),
        SEQUENCE,
    ),
    "gpt2": (Gpt2Classes, IDS),
    "time first": (TimeFirst, SEQUENCE[..., :4]),
    "bilinear": (Paired, ROWS),
}  # fmt: skip


def case(name):
    torch.manual_seed(0)
    make, x = CASES[name]
    return make().double().eval(), (x.double() if x.is_floating_point() else x), torch.arange(6) % 3


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_single_examples(name):
    model, x, y = case(name)
    batches = [(x[:4], y[:4]), (x[4:], y[4:])]
    evidence = collect(model, batches, loss=F.cross_entropy, draw=first)
    squares, _ = loop(model, batches)
    fisher, outer = loop(model, batches, drawn=True)
    for found, want in ((evidence.grad_sq, squares), (evidence.fisher, fisher)):
        turned = {f"{n}.weight" for n, m in model.named_modules() if isinstance(m, Conv1D)}
        assert set(found) == {*pv.named_weights(model), *turned}
        assert {k: v.shape for k, v in found.items()} == {k: want[k].shape for k in found}
        assert_equal(found, want)
    known = {k: v for k, v in evidence.output_grad.items() if k in outer}
    inside = {n.rpartition(".")[0] for n in set(evidence.output_grad) - set(known)}
    assert inside <= {"attention", "0.self_attn"}
    if known:
        assert_equal(known, outer)


@pytest.mark.parametrize("name", CASES)
def test_gradients_do_not_depend_on_the_size_of_the_batches(name):
    model, x, y = case(name)
    whole = collect(model, [(x, y)], loss=F.cross_entropy)
    for sizes in ([1] * 6, [2, 2, 2], [5, 1], [3, 3]):
        parts = zip(x.split(sizes), y.split(sizes), strict=True)
        evidence = collect(model, parts, loss=F.cross_entropy)
        for part in ("grad_sq", "fisher", "output_grad"):  # drawn labels too
            assert_equal(getattr(evidence, part), getattr(whole, part))


def test_the_output_gradient_of_attentions_projection():
    """At the last layer before the head: g = Wᵀ (softmax − label) at each position, by hand."""
    model, x, _ = case("attention")
    evidence = collect(model, x, loss=F.cross_entropy, draw=first)
    p = model(x).softmax(1).detach()
    g = (
        (p - F.one_hot(p.argmax(1), 3)) @ model.head.weight.detach() / 6
    )  # the mean over 6 positions
    assert_equal({"": evidence.output_grad["attention.out_proj"]}, {"": 6 * (g.T @ g) / len(x)})


def test_a_wide_output_keeps_the_diagonal(monkeypatch):
    model, x, y = case("linear")
    whole = collect(model, [(x, y)], loss=F.cross_entropy).output_grad
    monkeypatch.setattr("pruneviz.evidence.gradients.WIDE", 4)
    found = collect(model, [(x, y)], loss=F.cross_entropy).output_grad
    assert_equal(found, {"0": whole["0"].diagonal(), "2": whole["2"]})


def test_the_square_of_each_example_not_of_the_mean():
    """Two examples whose gradients cancel: the mean gradient is 0, the mean square is not."""
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.zero_()
    x, y = torch.ones(2, 1).double(), torch.tensor([[1.0], [-1.0]]).double()
    evidence = collect(model, [(x, y)], loss=F.mse_loss)
    assert evidence.grad_sq["weight"].tolist() == [[4.0]]  # (−2)² and 2²


def test_a_masked_weight_has_the_gradient_that_the_forward_sees():
    model = pv.mask(mlp().double(), pv.select(pv.score(mlp(), "random"), sparsity=0.5))
    batches = [(X.double(), Y)]
    evidence = collect(model, batches, loss=F.cross_entropy)
    assert_equal(evidence.grad_sq, loop(pv.bake(model), batches)[0])


def test_only_some_layers_have_gradients():
    model, x, y = case("linear")
    evidence = collect(model, [(x, y)], loss=F.cross_entropy, layers=["2"])
    assert list(evidence.grad_sq) == ["2.weight"]
    assert list(evidence.output_grad) == ["2"]
    assert_equal(evidence.grad_sq, loop(model, [(x, y)])[0])


@pytest.mark.parametrize(
    "loss",
    [
        *(partial(F.cross_entropy, reduction=r) for r in ("mean", "sum", "none")),
        *(nn.CrossEntropyLoss(reduction=r) for r in ("mean", "sum", "none")),
        lambda outputs, targets: F.cross_entropy(outputs, targets),
    ],
)
def test_whatever_the_loss_does_over_a_batch(loss):
    model, x, y = case("linear")
    evidence = collect(model, [(x, y)], loss=loss)
    want = collect(model, [(x, y)], loss=F.cross_entropy)
    for part in ("grad_sq", "fisher", "output_grad"):
        assert_equal(getattr(evidence, part), getattr(want, part))


def test_probabilities_as_targets():
    model, x, y = case("linear")
    soft = F.one_hot(y, 3).double()
    evidence = collect(model, [(x, soft)], loss=F.cross_entropy)
    want = collect(model, [(x, y)], loss=F.cross_entropy)
    for part in ("grad_sq", "fisher"):
        assert_equal(getattr(evidence, part), getattr(want, part))


def test_a_loss_of_a_sequence():
    """Targets of shape (n, positions) cannot be drawn by default: those given take their place."""
    model = nn.Sequential(nn.Linear(8, 3)).double()
    x, y = SEQUENCE.double(), torch.arange(36).reshape(6, 6) % 3

    def loss(outputs, targets):
        return F.cross_entropy(outputs.flatten(0, -2), targets.flatten())

    evidence = collect(model, [(x[:4], y[:4]), (x[4:], y[4:])], loss=loss)
    squares, outer = loop(model, [(x, y)], loss)
    assert_equal(evidence.grad_sq, squares)
    assert_equal(evidence.fisher, squares)
    assert_equal(evidence.output_grad, outer)


@pytest.mark.parametrize(
    "loss", [F.l1_loss, F.binary_cross_entropy_with_logits, nn.SmoothL1Loss(reduction="sum")]
)
def test_numbers_are_no_classes(loss):
    model, x, _ = case("linear")
    y = torch.rand(6, 3, generator=torch.Generator().manual_seed(1)).double()
    evidence = collect(model, [(x, y)], loss=loss)
    assert_equal(evidence.grad_sq, loop(model, [(x, y)], loss)[0])
    assert_equal(evidence.fisher, evidence.grad_sq)


def test_without_targets_drawn_ones_replace_them():
    model, x, y = case("linear")
    evidence = collect(model, x, loss=F.cross_entropy)
    assert_equal(evidence.grad_sq, evidence.fisher)
    assert_equal(evidence.fisher, collect(model, [(x, y)], loss=F.cross_entropy).fisher)


# drawn labels


def recorded(model, batches, loss=F.cross_entropy, **options):
    """The targets that `collect` draws, in order."""
    seen = []

    def recording(outputs, targets):
        seen.append(targets)
        return loss(outputs, targets)

    recording.__name__ = loss.__name__
    if loss is F.cross_entropy:
        recording.__name__ = "other"  # else the labels of a batch come at once
    collect(model, batches, loss=recording, **options)
    return torch.cat(seen)


def constant(logits: list[float]) -> nn.Module:
    """A model that gives the same for every input."""
    model = nn.Linear(1, len(logits)).double()
    with torch.no_grad():
        model.weight.zero_()
        model.bias.copy_(torch.tensor(logits))
    return model


def test_labels_are_drawn_from_the_softmax():
    p = torch.tensor([0.6, 0.3, 0.1, 0.0])
    n = 2000
    drawn = recorded(constant(p.log().clamp(min=-1e4).tolist()), torch.zeros(n, 1).double())
    counts = torch.bincount(drawn, minlength=4)
    assert counts[3] == 0
    sigma = (n * p * (1 - p)).sqrt()
    assert ((counts - n * p).abs() <= 5 * sigma).all()


def test_numbers_are_drawn_with_unit_noise():
    n = 2000
    noise = recorded(constant([3.0]), torch.zeros(n, 1).double(), F.mse_loss)[:, 0] - 3
    assert noise.mean().abs() < 5 / n**0.5
    assert (noise.var() - 1).abs() < 5 * (2 / n) ** 0.5  # the variance of a variance is 2 / n


@pytest.mark.parametrize("loss", [F.cross_entropy, F.mse_loss])
def test_what_is_drawn_follows_the_seed_not_the_batches(loss):
    model, x = constant([0.0, 0.1, 0.2]), torch.zeros(40, 1).double()
    drawn = recorded(model, x, loss)
    for sizes in ([1] * 40, [33, 7], [20, 20]):
        assert torch.equal(recorded(model, x.split(sizes), loss), drawn)
    assert torch.equal(recorded(model, x, loss, seed=0), drawn)
    assert not torch.equal(recorded(model, x, loss, seed=1), drawn)
    torch.manual_seed(5)  # the caller's random numbers have no part in it
    assert torch.equal(recorded(model, x, loss), drawn)


def test_ones_own_draw():
    model, x, y = case("linear")
    shapes = []

    def draw(outputs, generator):
        shapes.append(outputs.shape)
        assert isinstance(generator, torch.Generator)
        return torch.zeros(len(outputs), dtype=torch.int64)

    evidence = collect(model, [(x, y)], loss=F.cross_entropy, draw=draw)
    assert shapes == [(6, 3)]
    assert_equal(evidence.fisher, loop(model, [(x, y * 0)])[0])


# errors

EMPTY = (
    "`batches` is empty: there is nothing to collect. Pass an iterable of batches; a generator runs "
    "only once."
)


@pytest.mark.parametrize("loss", [None, F.cross_entropy])
def test_without_examples(loss):
    spent = iter([(X, Y)])
    list(spent)
    for batches in ([], spent, [(X[:0], Y[:0])]):
        with refused(EMPTY):
            collect(mlp(), batches, loss=loss)


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.spare = nn.Linear(36, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.a(x.flatten(1))


class Detached(Unused):
    def forward(self, x):
        return self.a(x.flatten(1)).detach()


class Overwriting(nn.Module):
    """Writes over what a layer has read."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(36, 3), nn.Linear(3, 3)

    def forward(self, x):
        h = self.a(x.flatten(1))
        out = self.b(h)
        return out + h.mul_(2)


def spoiled(value: float, layer: str) -> nn.Module:
    model = mlp()
    with torch.no_grad():
        model.get_submodule(layer).weight[0, 0] = value
    return model


HUGE = torch.full((5, 1, 6, 6), 1e30) * torch.arange(5).reshape(5, 1, 1, 1)
LOOK = "Look at the data and at the weights before it."
OUT = "a label of batch 1 of `batches` is {}, but classes of the model go from 0 to 2. {}"
OTHER_DATA = "Pass the data that the model was made for."
NO_CLASS = "Leave out examples that have no class: x[labels >= 0], labels[labels >= 0]."
NO_LABEL = "`model` returns NaN or infinity, so no label can be drawn. Look at the data and at the weights."
DRAWS_NAN = {"draw": lambda outputs, generator: labels(len(outputs))}

WRONG = {
    "no layer": (
        lambda: collect(nn.Sequential(nn.ReLU()), [X]),
        "`model` (Sequential) has no Linear or Conv layer: there is nothing to watch. Pass a "
        "model with such layers.",
    ),
    "no module": (
        lambda: collect(nn.Linear, [X]),
        "`model` must be a torch.nn.Module, but the class Linear was passed. "
        "Pass an instance: Net(), not Net.",
    ),
    "unknown layer": (
        lambda: collect(mlp(), [X], layers=["7"]),
        "layer '7' is unknown. Known: 1, 3.",
    ),
    "no layers": (
        lambda: collect(mlp(), [X], layers=[]),
        "`layers` is empty: there is nothing to watch. Leave it out to watch all of them.",
    ),
    "a layer that never runs": (
        lambda: collect(Unused(), [X], layers=["a", "spare"]),
        "layer 'spare' (Linear) never ran as a layer on these batches. Leave it out of `layers`.",
    ),
    "comoment": (
        lambda: collect(mlp(), [X], comoment="yes"),
        "`comoment` must be True, False or 'all', but 'yes' was passed.",
    ),
    "max_batches": (
        lambda: collect(mlp(), [X], max_batches=0),
        "`max_batches` must be a whole number ≥ 1, but 0 was passed.",
    ),
    "three parts": (
        lambda: collect(mlp(), [(X, X, Y)]),
        "batch 1 of `batches` must be inputs, or a pair (inputs, targets), but has 3 parts. Put several "
        "inputs into one tuple: ((a, b), targets).",
    ),
    "a number": (
        lambda: collect(mlp(), 3),
        "`batches` must be an iterable of batches, such as a list of tensors or a DataLoader, but an int "
        "was passed.",
    ),
    "a word": (
        lambda: collect(mlp(), "data"),
        "`batches` must be an iterable of batches, such as a list of tensors or a DataLoader, but a str "
        "was passed.",
    ),
    "no first dimension": (
        lambda: collect(mlp(), [torch.tensor(1.0)]),
        "the inputs of batch 1 of `batches` must be a tensor, a tuple of arguments or a dict of keyword "
        "arguments, its first dimension the examples, but the first tensor has shape (), and so holds "
        "no example.",
    ),
    "nan in the data": (
        lambda: collect(mlp(), [X, X * torch.nan]),
        f"layer '1' read NaN or infinity. {LOOK}",
    ),
    "infinity in the data": (
        lambda: collect(mlp(), [X, X / 0], comoment=False),
        f"layer '1' read NaN or infinity. {LOOK}",
    ),
    "nan in a weight": (
        lambda: collect(spoiled(torch.nan, "1"), [X]),
        f"layer '3' read NaN or infinity. {LOOK}",
    ),
    "infinity in a weight": (
        lambda: collect(spoiled(torch.inf, "1"), [X.abs()]),
        f"layer '3' read NaN or infinity. {LOOK}",
    ),
    "nan in the last weight": (
        lambda: collect(spoiled(torch.nan, "3"), [(X, Y)], loss=F.cross_entropy),
        NO_LABEL,
    ),
    "too large": (
        lambda: collect(mlp(), [HUGE]),
        f"layer '1' read numbers too large to be squared. {LOOK}",
    ),
    "label too high": (
        lambda: collect(mlp(), [(X, Y + 1)], loss=F.cross_entropy),
        OUT.format(3, OTHER_DATA),
    ),
    "label below zero": (
        lambda: collect(mlp(), [(X, Y - 1)], loss=nn.CrossEntropyLoss()),
        OUT.format(-1, NO_CLASS),
    ),
    "labels too few": (
        lambda: collect(mlp(), [(X, Y[:5])], loss=F.cross_entropy),
        "`loss` could not be computed for batch 1 of `batches`, from outputs float32[7, 3] and targets "
        "int64[5]: ValueError: "
        "Expected input batch_size (7) to match target batch_size (5).",
    ),
    "a loss that raises": (
        lambda: collect(mlp(), [(X, Y)], loss=lambda outputs, targets: 1 / 0),
        "`loss` could not be computed for batch 1 of `batches`, from outputs float32[1, 3] and targets int64[1]: "
        "ZeroDivisionError: division by zero",
    ),
    "a loss that is a vector": (
        lambda: collect(mlp(), [(X, Y)], loss=lambda outputs, targets: outputs[0]),
        "`loss` must return one number, but it returned (3,).",
    ),
    "a loss that is no tensor": (
        lambda: collect(mlp(), [(X, Y)], loss=lambda outputs, targets: 0.5),
        "`loss` must return one number, but it returned float.",
    ),
    "a loss that is nan": (
        lambda: collect(mlp(), [(X, Y)], loss=lambda outputs, targets: outputs.sum() * torch.nan),
        "`loss` gave NaN or infinity for an example of batch 1 of `batches`. Look at the data, the "
        "labels, and the weights.",
    ),
    "a model that detaches": (
        lambda: collect(Detached(), [(X, Y)], loss=F.cross_entropy, layers=["a"]),
        "`loss` has no gradient: the model's forward, or the loss, detaches what it computes. Collect "
        "without `loss`.",
    ),
    "a model that writes over": (
        lambda: collect(Overwriting(), [(X, Y)], loss=F.cross_entropy),
        "the input of layer 'b' was overwritten afterwards, so its gradient is lost. Use an "
        "operation that is not in place, or collect without `loss`.",
    ),
    "outputs of no examples": (
        lambda: collect(nn.Linear(4, 3), [(torch.zeros(4), Y)], loss=F.cross_entropy),
        "`model` returns 3 rows for 4 examples: the first dimension of what it returns must be the "
        "examples. Collect without `loss`.",
    ),
    "no targets": (
        lambda: collect(nn.Linear(4, 1), [torch.zeros(5, 4)], loss=F.l1_loss),
        "there are no targets, and none can be drawn from these outputs, float32[5, 1], which are not "
        "of shape (n, classes). Pass draw=..., or the `loss` and batches of (inputs, targets).",
    ),
    "targets with some": (
        lambda: collect(mlp(), [(X, Y), X], loss=F.cross_entropy),
        "batch 2 of `batches` has no targets, unlike the batches before it. Pass targets with all, or "
        "with none.",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_said(name):
    call, message = WRONG[name]
    with refused(message):
        call()


def test_a_model_that_cannot_run_names_the_shapes():
    with pytest.raises(pv.ArgumentError, match=r"float32\[5, 7\]: RuntimeError"):
        collect(mlp(), [torch.zeros(5, 7)])
    with pytest.raises(pv.ArgumentError, match="a str was passed"):
        collect(mlp(), ["text"])


def test_ignored_labels_have_no_gradient():
    model, x, y = case("linear")
    evidence = collect(model, [(x, torch.where(y == 0, -100, y))], loss=F.cross_entropy)
    want = loop(model, [(x[y != 0], y[y != 0])])[0]
    assert evidence.examples == 4  # an ignored label is no example
    assert_equal(evidence.grad_sq, want)

"""What `shrink` returns, by hand; what it refuses, and in which words."""

from __future__ import annotations

import copy
import inspect
import pickle
import re

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    MODELS,
    assert_untouched,
    bits,
    build,
    by_units,
    inputs,
    refused,
    snapshot,
    storages,
)
from torch import Tensor, nn
from zoo.case import net, param, stir

import pruneviz as pv
from pruneviz.pruning.shrink import Shrinker
from pruneviz.pruning.surgery.proof import Proof, variations

X = torch.linspace(-2, 2, 15).reshape(5, 3)


def two(middle: nn.Module | None = None, **options) -> nn.Module:
    torch.manual_seed(0)
    middle = middle or nn.ReLU()
    return stir(nn.Sequential(nn.Linear(3, 4), middle, nn.Linear(4, 2, **options)))


def cut(model: nn.Module, units: dict[str, list[int]], x=X, **options) -> nn.Module:
    approximate = options.pop("approximate", False)
    groups = pv.find_groups(model, x, approximate=approximate)
    plan = pv.drop(groups, by_units(groups, units))
    return pv.shrink(model, plan, example_input=x, **options)


def same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and bool(torch.equal(a, b))


def close(a: Tensor, b: Tensor, **options) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a, b, **{"atol": 1e-6, **options}))


def graph_error(message: str) -> pytest.RaisesExc:
    return pytest.raises(pv.GraphError, match=f"^{re.escape(message)}$")


# -- numbers by hand -----------------------------------------------------------------------------


def test_rows_and_columns():
    model = two()
    new = cut(model, {"0": [1, 3]})
    assert same(new[0].weight, model[0].weight[[0, 2]])
    assert same(new[0].bias, model[0].bias[[0, 2]])
    assert same(new[2].weight, model[2].weight[:, [0, 2]])
    assert same(new[2].bias, model[2].bias)
    assert (new[0].out_features, new[2].in_features) == (2, 2)


def test_a_constant_goes_into_the_bias():
    model = two(nn.Sigmoid())
    new = cut(model, {"0": [1, 3]})
    assert close(new[2].bias, model[2].bias + model[2].weight[:, [1, 3]].sum(1) / 2)
    assert same(new[2].weight, model[2].weight[:, [0, 2]])


def test_a_constant_before_a_convolution_is_summed_over_the_kernel():
    model = stir(nn.Sequential(nn.Conv2d(1, 3, 1), nn.Sigmoid(), nn.Conv2d(3, 2, 3)))
    model = nn.Sequential(*model, nn.Flatten(), nn.Linear(2, 2))
    new = cut(model, {"0": [0]}, torch.randn(2, 1, 3, 3))
    assert close(new[2].bias, model[2].bias + model[2].weight[:, 0].sum((1, 2)) / 2)


def test_constants_before_a_grouped_convolution():
    model = nn.Sequential(nn.Conv1d(1, 4, 1), nn.Sigmoid(), nn.Conv1d(4, 4, 2, groups=2))
    model = nn.Sequential(*model, nn.Flatten(), nn.Linear(8, 2))
    new = cut(model, {"0": [1, 2]}, torch.randn(2, 1, 3))
    weight = model[2].weight  # (4, 2, 2): outputs 0 and 1 read channels 0 and 1
    extra = torch.stack([weight[0, 1], weight[1, 1], weight[2, 0], weight[3, 0]]).sum(1) / 2
    assert close(new[2].bias, model[2].bias + extra)
    assert same(new[2].weight, torch.cat([weight[:2, :1], weight[2:, 1:]]))


def test_a_constant_before_a_product_and_its_bias():
    model = net(
        lambda self, x: torch.sigmoid(self.fc(x)) @ self.w + self.b,
        fc=nn.Linear(3, 4),
        w=param(4, 2),
        b=param(2),
    )
    new = cut(model, {"fc": [2]})
    assert close(new.b, model.b + model.w[2] / 2)


def test_the_norms_go_too():
    model = stir(
        nn.Sequential(nn.Conv2d(1, 4, 1, bias=False), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    )
    new = cut(model, {"0": [0]}, torch.randn(3, 1, 4, 4))
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert same(getattr(new[1], name), getattr(model[1], name)[1:])
    assert new[1].num_features == 3


SIZES = {
    "conv": (lambda: nn.Conv2d(4, 6, 1), {"in_channels": 3, "out_channels": 6}),
    "grouped": (lambda: nn.Conv2d(4, 6, 1, groups=2), {"in_channels": 2, "groups": 2}),
    "depthwise": (
        lambda: nn.Conv2d(4, 8, 1, groups=4),
        {"in_channels": 3, "out_channels": 6, "groups": 3},
    ),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 1), {"in_channels": 3, "out_channels": 6}),
    "transposed depthwise": (
        lambda: nn.ConvTranspose2d(4, 4, 1, groups=4),
        {"in_channels": 3, "out_channels": 3, "groups": 3},
    ),
    "batch norm": (lambda: nn.BatchNorm2d(4), {"num_features": 3}),
    "bare batch norm": (lambda: nn.BatchNorm2d(4, affine=False), {"num_features": 3}),
    "instance norm": (lambda: nn.InstanceNorm2d(4, affine=True), {"num_features": 3}),
    "bare instance norm": (lambda: nn.InstanceNorm2d(4), {"num_features": 3}),
    "group norm": (lambda: nn.GroupNorm(2, 4), {"num_channels": 2, "num_groups": 2}),
    "group norm of single channels": (
        lambda: nn.GroupNorm(4, 4),
        {"num_channels": 3, "num_groups": 3},
    ),
    "prelu": (lambda: nn.PReLU(4), {"num_parameters": 3}),
}


@pytest.mark.parametrize("kind", SIZES)
def test_layers_know_their_new_sizes(kind):
    make, sizes = SIZES[kind]
    layer = make()
    x = torch.randn(3, 1, 4, 4)
    width = layer(torch.zeros(3, 4, 4, 4)).shape[1]
    model = stir(nn.Sequential(nn.Conv2d(1, 4, 1), layer, nn.ReLU(), nn.Conv2d(width, 2, 1)))
    gone = [0, 3] if kind in ("grouped", "group norm") else [1]
    new = cut(model, {"0": gone}, x, approximate=True)
    assert {name: getattr(new[1], name) for name in sizes} == sizes
    assert str(new[0].out_channels) in repr(new[0])


def test_more_layers_that_know_their_sizes():
    def forward(self, i, x):
        return self.head(self.mix(self.embed(i), F.relu(self.fc(x))))

    model = net(
        forward,
        embed=nn.Embedding(5, 4),
        fc=nn.Linear(3, 4),
        mix=nn.Bilinear(4, 4, 6),
        head=nn.Linear(6, 2),
    )
    x = torch.arange(5), X
    new = cut(model, {"embed": [0], "fc": [1, 2], "mix": [5]}, x)
    assert (new.embed.num_embeddings, new.embed.embedding_dim) == (5, 3)
    assert (new.mix.in1_features, new.mix.in2_features, new.mix.out_features) == (3, 2, 5)


def test_layernorm_and_what_it_normalises():
    model = stir(nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2)))
    new = cut(model, {"0": [2]}, approximate=True)
    stays = [0, 1, 3]
    y = F.layer_norm(model[0](X)[:, stays], (3,), model[1].weight[stays], model[1].bias[stays])
    assert new[1].normalized_shape == (3,)
    assert close(new(X), F.linear(y, model[2].weight[:, stays], model[2].bias))


# -- ties ----------------------------------------------------------------------------------------


def test_a_tied_embedding_stays_tied():
    def forward(self, i):
        x = self.embed(i)
        return self.head(x + self.fc(x))

    embed, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    head.weight = embed.weight
    model = net(forward, embed=embed, fc=nn.Linear(4, 4), head=head)
    new = cut(model, {"embed": [1]}, torch.randint(7, (2, 5)))
    assert new.head.weight is new.embed.weight
    assert same(new.head.weight, embed.weight[:, [0, 2, 3]])
    assert (new.head.in_features, new.embed.embedding_dim) == (3, 3)
    assert len(list(new.parameters())) == len(list(model.parameters()))


def shared(first, second) -> nn.Module:
    """One layer that reads the units of two others, each through its own function."""

    def forward(self, x):
        return self.out(torch.cat([self.both(first(self.a(x))), self.both(second(self.b(x)))], 1))

    both = nn.Linear(4, 3)
    parts = {"a": nn.Linear(3, 4), "b": nn.Linear(3, 4), "out": nn.Linear(6, 2)}
    return stir(net(forward, both=both, **parts))


def test_a_layer_used_twice_takes_up_one_constant():
    model = shared(torch.sigmoid, torch.sigmoid)
    new = cut(model, {"a": [1]})
    assert close(new.both.bias, model.both.bias + model.both.weight[:, 1] / 2)


def test_a_layer_used_twice_cannot_take_up_two_constants():
    with graph_error(
        "'both.bias' is used in several places that receive different constants: one bias cannot "
        "absorb them all. Leave the units that feed it out of the plan."
    ):
        cut(shared(torch.sigmoid, torch.cos), {"a": [1]})


def test_a_module_at_two_places_is_still_one():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(nn.Linear(3, 4), layer, nn.ReLU(), layer, nn.Linear(4, 2))
    new = cut(model, {"0": [3]})
    assert new[1] is new[3]
    assert new[1].weight.shape == (3, 3)


# -- what stays ----------------------------------------------------------------------------------


def test_keys_flags_dtypes_and_requires_grad():
    model = stir(build("cnn")).train()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    model[5].weight.requires_grad_(False)
    new = cut(model, {"0": [0]}, inputs())
    assert list(new.state_dict()) == list(model.state_dict())
    assert [m.training for m in new.modules()] == [m.training for m in model.modules()]
    assert [p.requires_grad for p in new.parameters()] == [
        p.requires_grad for p in model.parameters()
    ]
    assert all(p.is_leaf and p.grad is None for p in new.parameters() if p.shape[0] == 3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    model = two(nn.Sigmoid()).to(dtype)
    x = X.to(dtype)
    new = cut(model, {"0": [1]}, x)
    assert {p.dtype for p in new.parameters()} == {dtype}
    tolerance = {torch.float64: 1e-12, torch.float16: 3e-3, torch.bfloat16: 2e-2}[dtype]
    plan = pv.drop(pv.find_groups(model, x), {"0": [1]})
    assert close(new(x), pv.mask(model, plan)(x), atol=tolerance)


def test_memory_format():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    model = model.to(memory_format=torch.channels_last)
    new = cut(model, {"0": [1]}, torch.randn(2, 3, 8, 8))
    for layer in (new[0], new[2]):
        assert layer.weight.is_contiguous(memory_format=torch.channels_last)


def test_inputs_may_be_named():
    def forward(self, x, *, scale):
        return self.fc2(F.relu(self.fc1(x)) * scale)

    model = net(forward, fc1=nn.Linear(3, 4), fc2=nn.Linear(4, 2))
    x = {"x": X, "scale": torch.tensor(2.0)}
    assert cut(model, {"fc1": [0]}, x).fc1.out_features == 3


def test_it_trains():
    model = stir(build("cnn"))
    new = cut(model, {"0": [0, 2]}, inputs())
    optimizer = torch.optim.SGD(new.parameters(), lr=0.1)
    before = bits(new[0].weight)
    loss = new(inputs()).square().sum()
    loss.backward()
    assert all(p.grad is not None for p in new[0].parameters())
    optimizer.step()
    assert bits(new[0].weight) != before


def test_made_under_inference_mode():
    with torch.inference_mode():
        model, x = two(), X.clone()
        inside = cut(model, {"0": [1]}, x)
    for new in (inside, cut(model, {"0": [1]}, x)):
        assert not any(p.is_inference() for p in new.parameters())
        new(X).sum().backward()
        assert new[0].weight.grad is not None


def test_copies_and_pickles():
    new = cut(two(), {"0": [1]})
    for twin in (copy.deepcopy(new), pickle.loads(pickle.dumps(new))):
        assert same(twin(X), new(X))
    attention = stir(Attending().eval())
    x = torch.randn(2, 5, 8)
    new = cut(attention, {"attention": [1]}, x)
    for twin in (copy.deepcopy(new), pickle.loads(pickle.dumps(new))):
        assert same(twin(x), new(x))


def test_twice():
    model = two()
    once = cut(model, {"0": [1]})
    again = cut(once, {"0": [2]})  # the fourth of the first
    assert same(again[0].weight, model[0].weight[[0, 2]])
    assert same(again[2].weight, model[2].weight[:, [0, 2]])


def test_a_plan_that_drops_nothing():
    model = two()
    new = cut(model, {})
    assert new is not model
    assert not storages(new) & storages(model)
    assert {k: bits(v) for k, v in new.state_dict().items()} == {
        k: bits(v) for k, v in model.state_dict().items()
    }


def test_units_that_are_dead_already():
    model = two()
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = -1
    new = cut(model, {"0": [1]})
    assert close(new(X), model(X))


# -- masks ---------------------------------------------------------------------------------------


def test_a_model_with_masked_weights():
    model = two()
    masked = pv.mask(model, pv.select(pv.score(model, "magnitude"), sparsity=0.5))
    plan = pv.drop(pv.find_groups(masked, X), {"0": [1]})
    new = pv.shrink(masked, plan, example_input=X)
    assert list(new.state_dict()) == list(masked.state_dict())
    assert same(new[0].weight, masked[0].weight[[0, 2, 3]])
    assert close(new(X), pv.mask(masked, plan)(X))
    assert same(pv.bake(new)(X), new(X))
    with torch.no_grad():  # the mask goes on
        new[0].parametrizations.weight.original.fill_(1)
    assert int((new[0].weight == 0).sum()) == int((masked[0].weight[[0, 2, 3]] == 0).sum())


def test_a_model_whose_units_are_masked():
    model = two()
    plan = pv.drop(pv.find_groups(model, X), {"0": [1]})
    masked = pv.mask(model, plan)
    new = pv.shrink(masked, plan, example_input=X)
    assert close(new(X), masked(X))
    assert new[0].weight.shape == (3, 3)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wrappers(wrap):
    model = two()
    wrapped = wrap(model)
    new = cut(wrapped, {"0": [1]})
    assert isinstance(new, nn.Sequential)
    assert new[0].out_features == 3
    plan = pv.drop(pv.find_groups(wrapped, X), {"0": [1]})
    assert close(pv.mask(wrapped, plan)(X), new(X))
    assert len(pv.score(wrapped, "l2", groups=pv.find_groups(wrapped, X)).values) == 1
    assert pv.prune(wrapped, X, sparsity=0.5)[0].out_features == 2
    weights = pv.select(pv.score(wrapped, "magnitude"), sparsity=0.5)
    assert list(weights.keep) == ["0.weight", "2.weight"] == list(pv.named_weights(wrapped))
    assert isinstance(pv.bake(pv.mask(wrapped, weights)), nn.Sequential)


# -- attention -----------------------------------------------------------------------------------


class Attending(nn.Module):
    """An attention layer that passes all its arguments on; the weights are no output."""

    def __init__(self, **options) -> None:
        super().__init__()
        options = {"batch_first": True, **options}
        self.attention = nn.MultiheadAttention(8, 4, **options)
        self.head = nn.Linear(8, 2)
        self.kdim, self.vdim = options.get("kdim"), options.get("vdim")
        self.only = options.get("need", False)

    def forward(self, q, k=None, v=None):
        k = q if k is None else k
        return self.head(self.attention(q, k, k if v is None else v, need_weights=False)[0])


OPTIONS = {
    "plain": {},
    "length first": {"batch_first": False},
    "no bias": {"bias": False},
    "bias for keys and values": {"add_bias_kv": True},
    "zero attention": {"add_zero_attn": True},
    "other widths": {"kdim": 6, "vdim": 5},
    "both": {"add_bias_kv": True, "add_zero_attn": True},
}
CALLS = {
    "plain": {},
    "weights": {"need_weights": True},
    "weights of each head": {"need_weights": True, "average_attn_weights": False},
    "mask": {"attn_mask": torch.ones(5, 5).triu(1).bool()},
    "mask of numbers": {"attn_mask": torch.linspace(-1, 1, 25).reshape(5, 5), "need_weights": True},
    "causal": {"attn_mask": torch.ones(5, 5).triu(1).bool(), "is_causal": True},
    "padding": {"key_padding_mask": torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 1, 1]]).bool()},
    "mask and padding": {
        "attn_mask": torch.ones(5, 5).triu(1).bool(),
        "key_padding_mask": torch.tensor([[0, 0, 0, 0, 1], [0, 0, 0, 1, 1]]).bool(),
        "need_weights": True,
    },
    "a mask for each example": {
        "attn_mask": torch.linspace(-1, 1, 25).reshape(1, 5, 5).repeat(6, 1, 1)
    },
}


def arguments(options: dict, batched: bool = True) -> tuple[Tensor, Tensor, Tensor]:
    widths = 8, options.get("kdim", 8), options.get("vdim", 8)
    shape = (2, 5) if options.get("batch_first", True) else (5, 2)
    tensors = [torch.randn(*(shape if batched else (5,)), n) for n in widths]
    return tuple(tensors)


def without_head(layer: nn.MultiheadAttention, head: int) -> nn.MultiheadAttention:
    """The whole layer, in which that head's columns of the last matrix are 0."""
    layer = copy.deepcopy(layer)
    with torch.no_grad():
        layer.out_proj.weight.view(8, 4, 2)[:, head] = 0
    return layer


@pytest.mark.parametrize("batched", [True, False], ids=["batch", "one"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", OPTIONS)
def test_attention_without_a_head(name, call, batched):
    options, keywords = OPTIONS[name], dict(CALLS[call])
    model = stir(Attending(**options)).eval()
    example = arguments(options)
    plan = pv.drop(pv.find_groups(model, example), {"attention": [1]})
    small = pv.shrink(model, plan, example_input=example).attention
    assert (small.num_heads, small.head_dim) == (3, 2)
    x = arguments(options, batched)
    if not batched and "key_padding_mask" in keywords:
        keywords["key_padding_mask"] = keywords["key_padding_mask"][0]
    old = dict(keywords)
    if call == "a mask for each example":
        keywords["attn_mask"] = keywords["attn_mask"][: 6 if batched else 3]
        old["attn_mask"] = keywords["attn_mask"][:1].repeat(8 if batched else 4, 1, 1)
    keywords.setdefault("need_weights", False)
    with torch.no_grad():
        want, _ = without_head(model.attention, 1)(*x, **{**old, "need_weights": True})
        got, weights = small(*x, **keywords)
        _, each = model.attention(
            *x, **{**old, "need_weights": True, "average_attn_weights": False}
        )
    assert close(got, want)
    if not keywords["need_weights"]:
        assert weights is None
        return
    each = each[..., [0, 2, 3], :, :]
    averaged = keywords.get("average_attn_weights", True)
    assert close(weights, each.mean(-3) if averaged else each)


def test_attention_that_is_asked_for_another_number_of_masks():
    model = stir(Attending()).eval()
    x = torch.randn(2, 5, 8)
    small = cut(model, {"attention": [0]}, x).attention
    with pytest.raises((ValueError, RuntimeError)):  # for four heads, where three are left
        small(x, x, x, attn_mask=torch.zeros(8, 5, 5))


def test_attention_drops_weights_in_training():
    model = stir(Attending(dropout=0.5))
    x = torch.randn(1, 5, 8)
    small = cut(model, {"attention": [1]}, x).attention.train()
    with torch.no_grad():
        want = small.eval()(x, x, x)[0]
        small.train()
        for need in (True, False):
            many = torch.stack([small(x, x, x, need_weights=need)[0] for _ in range(4000)])
            error = many.std(0) / len(many) ** 0.5
            assert float(many.std(0).min()) > 0
            assert bool(((many.mean(0) - want).abs() < 5 * error).all())


def encoder(**options) -> nn.Module:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            options_ = {"batch_first": True, "dropout": 0.1, **options}
            layer = nn.TransformerEncoderLayer(8, 4, 16, **options_)
            nested = not options_.get("norm_first", False) and options_.get("bias", True)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
            self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x, padding=None):
            return self.head(self.encoder(self.stem(x), src_key_padding_mask=padding))

    return stir(Model()).eval()


@pytest.mark.parametrize(
    "options", [{}, {"norm_first": True}, {"activation": F.gelu}, {"bias": False}]
)
@pytest.mark.parametrize("layer", ["self_attn", "linear1"])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder(options, layer):
    model, x = encoder(**options), torch.randn(2, 5, 3)
    padding = torch.tensor([[0, 0, 0, 0, 0], [0, 0, 0, 1, 1]]).bool()
    plan = pv.drop(pv.find_groups(model, x), {f"encoder.layers.1.{layer}": [1]})
    new = pv.shrink(model, plan, example_input=x)
    masked = pv.bake(pv.mask(model, plan))
    for gradients in (True, False):  # without them, torch runs a fused operator if it can
        for mask in (None, padding):
            with torch.set_grad_enabled(gradients):
                a, b = new(x, mask), masked(x, mask)
            if mask is not None:
                a, b = a[~mask], b[~mask]
            assert close(a, b, atol=1e-5)
    assert isinstance(new.encoder.layers[1].self_attn, nn.MultiheadAttention)


def test_a_decoder():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.decoder = nn.TransformerDecoderLayer(8, 4, 16, batch_first=True)
            self.stem, self.head = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x, memory):
            return self.head(self.decoder(self.stem(x), memory))

    model, x = stir(Model()).eval(), (torch.randn(2, 5, 3), torch.randn(2, 4, 8))
    groups = pv.find_groups(model, x)
    plan = pv.drop(groups, {"decoder.self_attn": [0], "decoder.multihead_attn": [2]})
    new = pv.shrink(model, plan, example_input=x)
    assert close(new(*x), pv.mask(model, plan)(*x), atol=1e-5)


# -- sizes in the user's code --------------------------------------------------------------------


class Literal(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(36, 2)

    def forward(self, x):
        x = F.relu(self.conv(x))
        return self.fc(x.view(-1, 36))


class Regrouped(nn.Module):
    """Without two of four heads this still runs, with heads of half the width."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(6, 24), nn.Linear(8, 2)

    def forward(self, x):
        q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        y = (q @ k.mT).softmax(-1) @ v
        return self.out(y.transpose(1, 2).flatten(2))


def line_of(function, text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


IMAGES = torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(3))


def test_the_error_names_the_line_of_the_users_code():
    number = line_of(Literal.forward, "view(-1, 36)")
    with graph_error(
        f"the forward of the smaller model fails at {__file__}:{number}: "
        "`return self.fc(x.view(-1, 36))` (shape '[-1, 36]' is invalid for input of size 54.) The code "
        "there uses an old size: compute it from a shape (x.flatten(1), x.shape[1]), or take the "
        "graph with the new sizes: shrink(..., as_program=True)."
    ):
        cut(Literal(), {"conv": [1]}, IMAGES)


class MaskForEachHead(nn.Module):
    """The number of heads is written into the mask: four for each example."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 4, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        mask = torch.linspace(-1, 1, 25).reshape(1, 5, 5).repeat(len(x) * 4, 1, 1)
        return self.head(self.attention(x, x, x, attn_mask=mask, need_weights=False)[0])


def test_the_error_names_the_users_line_though_our_attention_raised_it():
    x = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(3))
    number = line_of(MaskForEachHead.forward, "self.attention(")
    with pytest.raises(pv.GraphError) as caught:
        cut(MaskForEachHead(), {"attention": [1]}, x)
    assert f"fails at {__file__}:{number}: " in str(caught.value)


def test_a_model_that_runs_but_regroups_is_refused():
    model, x = stir(Regrouped()), torch.randn(2, 5, 6)
    groups = pv.find_groups(model, x)
    plan = pv.drop(groups, by_units(groups, {"qkv": [1, 2]}))
    with pytest.raises(pv.GraphError, match="would not compute what the masked one does") as caught:
        pv.shrink(model, plan, example_input=x)
    assert "'qkv', 'out'" in str(caught.value)
    program = pv.shrink(model, plan, example_input=x, as_program=True)
    assert close(program(x), pv.mask(model, plan)(x))


def test_a_program():
    model = stir(Literal())
    plan = pv.drop(pv.find_groups(model, IMAGES), {"conv": [1]})
    before = snapshot(model)
    program = pv.shrink(model, plan, example_input=IMAGES, as_program=True)
    assert_untouched(model, before)
    assert not storages(program) & storages(model)
    masked = pv.mask(model, plan)
    assert close(program(IMAGES), masked(IMAGES))
    more = torch.randn(7, 1, 5, 5)  # another number of examples
    assert close(program(more), masked(more))
    assert set(program.state_dict()) == set(model.state_dict())
    assert program.state_dict()["fc.weight"].shape == (2, 27)
    program(IMAGES).sum().backward()
    assert all(p.grad is not None for p in program.parameters())


def test_a_program_gives_what_the_model_gives():
    def forward(self, x):
        y = self.fc2(F.relu(self.fc1(x)))
        return {"y": y, "both": (y, y * 2)}

    model = stir(net(forward, fc1=nn.Linear(3, 4), fc2=nn.Linear(4, 2)))
    program = cut(model, {"fc1": [1]}, as_program=True)
    whole = cut(model, {"fc1": [1]})
    got, want = program(X), whole(X)
    assert close(got["y"], want["y"])
    assert close(got["both"][1], want["both"][1])


def test_quickly():
    model = two(nn.Sigmoid())
    quick = Shrinker(model, X).quick
    for units in ([1], [0, 2]):
        plan = pv.drop(pv.find_groups(model, X), {"0": units})
        assert close(quick(plan)(X), pv.mask(model, plan)(X))
    literal = Literal()
    plan = pv.drop(pv.find_groups(literal, IMAGES), {"conv": [1]})
    with pytest.raises(
        pv.GraphError, match=r"the forward of the smaller model fails at .*view\(-1, 36\)"
    ):
        Shrinker(literal, IMAGES).quick(plan)


class Heads(nn.Module):
    """Attention whose forward reads the number of heads, and runs with a stale one, regrouped."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.heads, self.qkv, self.out = 4, nn.Linear(12, 3 * 24), nn.Linear(24, 5)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        a = (q @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.out(a.transpose(1, 2).reshape(b, n, -1))


@pytest.mark.parametrize("gone", [[1], [0, 3], [0, 1, 2]])
def test_quickly_is_right_where_a_stale_size_runs(gone):
    x = torch.randn(3, 6, 12, generator=torch.Generator().manual_seed(1))
    model = Heads()
    groups = pv.find_groups(model, x)
    name = next(g.name for g in groups if not g.frozen)
    shrinker = Shrinker(model, x)
    for units in (gone, [2], gone):  # the first one proves, the others know
        plan = pv.drop(groups, by_units(groups, {name: units}))
        small = shrinker.quick(plan)
        assert close(small(x), pv.mask(model, plan)(x))
        assert small.heads == groups[name].size - len(units)


# -- what is refused -----------------------------------------------------------------------------

GROUPS = pv.find_groups(two(), X)
PLAN = pv.drop(GROUPS, {"0": [1]})


def keeping(**keep: list) -> pv.Plan:
    return pv.Plan({name.removeprefix("g"): torch.tensor(k) for name, k in keep.items()}, GROUPS)


OTHER = "`plan` is of another model: "
BAD = {
    "no plan": (
        lambda: pv.shrink(two(), {"0": [1]}, example_input=X),
        "`plan` must be a Plan, but a dict was passed. Make it: pv.select(pv.score(model, 'l2', "
        "groups=groups), sparsity=0.5).",
    ),
    "plan of weights": (
        lambda: pv.shrink(
            two(), pv.select(pv.score(two(), "magnitude"), sparsity=0.5), example_input=X
        ),
        "`shrink` removes whole units, but this plan drops single weights: these can only be set "
        "to zero, with pv.mask. Score units instead: pv.score(model, 'l2', groups=groups).",
    ),
    "no model": (
        lambda: pv.shrink("resnet", PLAN, example_input=X),
        "`model` must be a torch.nn.Module, but a str was passed.",
    ),
    "smaller model": (
        lambda: pv.shrink(cut(two(), {"0": [0]}), PLAN, example_input=X),
        f"{OTHER}its units reach to 4 along dimension 0 of '0.weight', which has 3 here.",
    ),
    "larger model": (
        lambda: pv.shrink(
            nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), PLAN, example_input=X
        ),
        f"{OTHER}its units reach to 4 along dimension 0 of '0.weight', which has 5 here.",
    ),
    "other names": (
        lambda: pv.shrink(nn.Linear(3, 2), PLAN, example_input=X),
        f"{OTHER}it names '0.weight', but the tensors here are: weight, bias.",
    ),
    "other coupling": (
        lambda: pv.shrink(Both(), PLAN, example_input=X),
        f"{OTHER}units of '0.weight' are coupled differently here. Make it with find_groups(model, ...).",
    ),
    "too short": (
        lambda: pv.shrink(two(), keeping(g0=[True, False, True]), example_input=X),
        f"{OTHER}for '0' it has torch.bool of shape (3,), but needs torch.bool of (4,).",
    ),
    "no booleans": (
        lambda: pv.shrink(two(), keeping(g0=[1.0, 0.0, 1.0, 1.0]), example_input=X),
        f"{OTHER}for '0' it has torch.float32 of shape (4,), but needs torch.bool of (4,).",
    ),
    "unknown group": (
        lambda: pv.shrink(two(), keeping(g1=[True, False]), example_input=X),
        "group '1' is unknown. Known: 0, 2.",
    ),
    "NaN": (
        lambda: pv.shrink(broken("0.weight"), PLAN, example_input=X),
        "'0.weight' contains NaN or infinity. Train the model anew, or load a sound checkpoint.",
    ),
    "other input": (
        lambda: pv.shrink(two(), PLAN, example_input=X[:, :2]),
        "`model` (Sequential) could not run on one example of `example_input`, float32[5, 2]: "
        "RuntimeError: mat1 and mat2 shapes cannot be multiplied (5x2 and 3x4) (the first dimension "
        "must be that of the examples).",
    ),
}


class Both(nn.Sequential):
    """Names and sizes of `two`, but the first layer's units go in pairs."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x):
        x = self[0](x)
        return self[2](x + x.flip(1))


def broken(name: str) -> nn.Module:
    model = two()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0] = torch.nan
    return model


@pytest.mark.parametrize("name", BAD)
def test_refused_arguments(name):
    act, message = BAD[name]
    with refused(message):
        act()


NOT = {
    "the output": (
        keeping(g2=[True, False]),
        "layer '2' cannot be shrunk: its units are the model's output. Protect it, or leave it out of "
        "the plan.",
    ),
    "all units": (
        keeping(g0=[False] * 4),
        "group '0' would lose all of its 4 units. Keep at least one.",
    ),
}


@pytest.mark.parametrize("name", NOT)
def test_refused_cuts(name):
    plan, message = NOT[name]
    model = two().train()
    before = snapshot(model)
    with graph_error(message):
        pv.shrink(model, plan, example_input=X)
    assert_untouched(model, before)


def test_a_norm_needs_a_word():
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    why = "a LayerNorm runs over these units: cut them with find_groups(..., approximate=True)"
    with graph_error(
        f"layer '0' cannot be shrunk: {why}. Protect it, or leave it out of the plan."
    ):
        cut(model, {"0": [1]})


def test_nan_in_a_buffer():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    plan = pv.drop(pv.find_groups(model, X), {"0": [1]})
    model[1].running_mean[0] = torch.nan
    with pytest.raises(pv.ArgumentError, match=r"'1\.running_mean' contains NaN or infinity"):
        pv.shrink(model, plan, example_input=X)


def test_a_forward_that_draws():
    def forward(self, x):
        y = F.relu(self.fc1(x))
        return self.fc2(y) + torch.randn(2)

    model = net(forward, fc1=nn.Linear(3, 4), fc2=nn.Linear(4, 2))
    before = bits(torch.get_rng_state())
    new = cut(model, {"fc1": [1]})
    assert new.fc1.out_features == 3
    assert bits(torch.get_rng_state()) == before


def test_parameters_that_are_frozen_can_be_cut():
    model = two().requires_grad_(False)
    new = cut(model, {"0": [1]})
    assert not any(p.requires_grad for p in new.parameters())


def test_a_model_that_cannot_be_copied():
    model = two()
    model.memory = model[0](X)  # no leaf
    with pytest.raises(pv.ArgumentError, match="`model` cannot be copied"):
        pv.find_groups(model, X)


def test_python_that_differs_from_its_graph():
    class Fickle(nn.Module):
        """Computes something else whenever it is not traced."""

        def __init__(self) -> None:
            super().__init__()
            self.fc1, self.fc2 = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x):
            y = self.fc2(F.relu(self.fc1(x)))
            return y if torch.compiler.is_exporting() else y * 2

    with pytest.raises(pv.GraphError):
        cut(Fickle(), {"fc1": [1]})


# -- no trace ------------------------------------------------------------------------------------

CUTTABLE = sorted(set(MODELS) - {"raising"})


@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_untouched(name):
    model, x = build(name), inputs()
    model.register_forward_hook(lambda *call: None)
    before, data = snapshot(model), bits(x)
    if name == "raising":
        with pytest.raises(pv.ArgumentError, match="boom"):
            pv.shrink(model, PLAN, example_input=x)
        assert_untouched(model, before)
        return
    groups = pv.find_groups(model, x)
    free = [g.name for g in groups if not g.frozen]
    plan = pv.drop(groups, by_units(groups, {name: [0] for name in free[:1]}))
    try:
        new = pv.shrink(model, plan, example_input=x)
    except pv.GraphError:
        assert name == "random"
        return
    assert_untouched(model, before)
    assert bits(x) == data
    assert not storages(new) & storages(model)
    assert [m.training for m in new.modules()] == [m.training for m in model.modules()]
    with torch.no_grad():
        for t in (*new.parameters(), *new.buffers()):
            t.zero_()
    assert_untouched(model, before)


def test_the_model_is_untouched_after_a_refusal():
    model = stir(Literal()).train()
    plan = pv.drop(pv.find_groups(model, IMAGES), {"conv": [1]})
    before = snapshot(model)
    with pytest.raises(pv.GraphError):
        pv.shrink(model, plan, example_input=IMAGES)
    assert_untouched(model, before)


def test_the_plan_is_untouched():
    keep = {name: bits(k) for name, k in PLAN.keep.items()}
    pv.shrink(two(), PLAN, example_input=X)
    assert {name: bits(k) for name, k in PLAN.keep.items()} == keep


# -- the proof -----------------------------------------------------------------------------------

# error, scale, effect, exact -> holds
PROOFS = {
    (0.0, 1.0, 1.0, True): True,
    (1e-11, 1.0, 1.0, True): True,
    (1e-9, 1.0, 1.0, True): False,
    (1e-9, 100.0, 1.0, True): True,  # beside the largest output
    (1e-11, 1.0, 1e-9, True): False,  # beside what the mask changes
    (1e-14, 1.0, 0.0, True): True,  # rounding, whatever the mask does
    (1e-12, 1.0, 0.0, True): False,
    (1e-5, 1.0, 1.0, False): True,
    (1e-3, 1.0, 1.0, False): False,
    (float("inf"), 1.0, 1.0, True): False,
    (float("nan"), 1.0, 1.0, True): False,
}


@pytest.mark.parametrize("numbers", PROOFS, ids=str)
def test_what_counts_as_equal(numbers):
    assert Proof(*numbers).holds is PROOFS[numbers]


def test_examples_to_compare_on():
    tokens = torch.tensor([[5, 3, 9], [2, 4, 4]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    far = torch.full((2, 3), 40.0) + torch.randn(2, 3)
    cut = torch.tensor([[0.0, -torch.inf]])
    found = list(variations(((far, tokens), {"mask": mask, "cut": cut, "n": 3})))
    assert len(found) * len(far) >= 8
    (first, *others) = found
    assert first[0][0] is far
    for (x, t), named in others:
        assert x.shape == far.shape
        assert not same(x, far)
        assert 30 < float(x.mean()) < 50
        assert sorted(t.ravel().tolist()) == sorted(tokens.ravel().tolist())
        assert same(named["mask"], mask)
        assert same(named["cut"], cut)
        assert named["n"] == 3
    assert len(list(variations(((torch.zeros(20, 3),), {})))) >= 2


def wrong_column(monkeypatch):
    """Let surgery delete the columns of the next unit."""
    import pruneviz.pruning.surgery.cut as surgery

    right = surgery.only_kept

    def only_kept(t, name, dim, blocks, keep):
        keep = keep[[*range(1, keep.size), 0]] if dim == 1 else keep
        return right(t, name, dim, blocks, keep)

    monkeypatch.setattr(surgery, "only_kept", only_kept)


def test_a_wrong_column_is_caught(monkeypatch):
    wrong_column(monkeypatch)
    with pytest.raises(pv.GraphError, match="would not compute what the masked one does"):
        pv.shrink(two(nn.Tanh()), PLAN, example_input=X)  # no unit of it is silent


def test_a_forgotten_constant_is_caught(monkeypatch):

    monkeypatch.setattr(
        "pruneviz.pruning.surgery.constants.tensors_of",
        lambda new: {"2.bias": torch.zeros(2)},
    )
    model = two(nn.Sigmoid())
    plan = pv.drop(pv.find_groups(model, X), {"0": [1]})
    with pytest.raises(pv.GraphError, match="would not compute what the masked one does"):
        pv.shrink(model, plan, example_input=X)


def test_a_wrong_head_is_caught(monkeypatch):
    import pruneviz.pruning.surgery.cut as surgery

    right = surgery.only_kept

    def only_kept(t, name, dim, blocks, keep):
        if name == "k.weight":  # another head than in q and v
            keep = keep[::-1].copy()
        return right(t, name, dim, blocks, keep)

    monkeypatch.setattr(surgery, "only_kept", only_kept)

    def forward(self, x):
        q, k, v = (f(x).unflatten(-1, (-1, 2)).transpose(1, 2) for f in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    parts = {name: nn.Linear(6, 8) for name in "qkv"}
    model, x = net(forward, **parts, o=nn.Linear(8, 2)), torch.randn(2, 5, 6)
    with pytest.raises(pv.GraphError, match="would not compute what the masked one does"):
        cut(model, {"q": [0]}, x)


def test_one_trace_for_many_plans():
    model = two()
    shrinker = Shrinker(model, X)
    for unit in range(4):
        plan = pv.drop(GROUPS, {"0": [unit]})
        new = shrinker.compared(plan)
        assert close(new(X), pv.mask(model, plan)(X))
        assert same(new[0].weight, model[0].weight[[i for i in range(4) if i != unit]])


class Remembers(nn.Module):
    """Keep a table made from the weights, as timm's attention does, until `_apply` is called."""

    def __init__(self):
        super().__init__()
        self.fc, self.bias = nn.Linear(4, 6), nn.Parameter(torch.arange(1.0, 7))
        self.read = nn.Linear(6, 2)
        self.table = {}

    def _apply(self, fn, *args, **kwargs):
        self.table = {}
        return super()._apply(fn, *args, **kwargs)

    def forward(self, x):
        if "bias" not in self.table:
            self.table["bias"] = self.bias.detach() * 1
        return self.read(torch.relu(self.fc(x)) * self.table["bias"])


def test_what_a_forward_has_kept_is_not_carried_into_copies():
    model = Remembers().eval()
    x = torch.randn(4, 4)
    model(x)
    table = model.table["bias"]
    groups = pv.find_groups(model, x)
    plan = pv.drop(groups, {"fc": [1, 4]})
    masked, small = pv.mask(model, plan), pv.shrink(model, plan, example_input=x)
    assert model.table["bias"] is table
    assert small.bias.tolist() == [1, 3, 4, 6]
    torch.testing.assert_close(small(x), masked(x))

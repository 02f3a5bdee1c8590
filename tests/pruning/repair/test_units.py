"""`shrink` with a repair: exact where the ladder says so, better rung by rung, for every kind of reader."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_untouched, by_units, refused, snapshot, storages
from torch import Tensor, nn
from zoo.case import net, stir

import pruneviz as pv

RUNGS = ("fold", "merge", "lstsq")


def data(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def ready(model: nn.Module) -> nn.Module:
    """Float64, eval mode, biases and norms that are neither 0 nor 1."""
    return stir(model).double().eval()


def cut(model: nn.Module, units: dict[str, list[int]], x: Tensor, **options) -> nn.Module:
    """Shrink with evidence from `x`, unless batches are given."""
    options.setdefault("repair", "lstsq")
    if "batches" not in options:
        options.setdefault("evidence", pv.collect(model, [x], progress=False))
    groups = pv.find_groups(model, x)
    plan = pv.drop(groups, by_units(groups, units))
    return pv.shrink(model, plan, example_input=x, **options)


def fitted(x: Tensor) -> Tensor:
    """The examples that a repair with batches fits to: every tenth is held out."""
    return x[torch.arange(len(x)) % 10 != 9]


def error(new: nn.Module, model: nn.Module, x: Tensor) -> float:
    """Mean square of what the outputs differ by."""
    with torch.no_grad():
        return float((new(x) - model(x)).square().mean())


def gap(new: nn.Module, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((new(x) - model(x)).abs().max() / model(x).abs().max())


# -- exact where the ladder says so --------------------------------------------------------------


class Residual(nn.Module):
    """The stem's units, which `conv2` makes too, are read by `conv1` and `head`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3)
        self.conv1 = nn.Conv2d(5, 4, 1)
        self.conv2 = nn.Conv2d(4, 5, 1)
        self.head = nn.Linear(5 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.conv2(self.conv1(x).relu())).relu().flatten(1))


def heads(q: nn.Module, k: nn.Module, v: nn.Module, proj: nn.Module) -> nn.Module:
    """Attention by hand: four heads of three."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (-1, 3)).transpose(1, 2) for m in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))

    return net(forward, q=q, k=k, v=v, proj=proj)


def torch_heads() -> nn.Module:
    attention = nn.MultiheadAttention(12, 4, batch_first=True)
    return net(
        lambda self, x: self.fc(self.attn(x, x, x)[0].relu()), attn=attention, fc=nn.Linear(12, 3)
    )


def grouped() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(2, 10, 3), nn.ReLU(), nn.Conv2d(10, 4, 3, groups=2))
    return nn.Sequential(*model, nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))


def normed(**options) -> nn.Module:
    first = nn.Conv2d(2, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU()
    second = nn.Conv2d(5, 4, 3, **options), nn.BatchNorm2d(4), nn.ReLU()
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(4, 3))


# how to build it, its input, the layer that makes the units, and which of them go
NETS = {
    "mlp": (
        lambda: nn.Sequential(
            *(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
        ),
        (40, 6),
        {"0": [4]},
    ),
    "tokens": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)),
        (9, 5, 6),
        {"0": [4]},
    ),
    "conv": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(4, 3)),
        ),
        (100, 2, 5, 5),
        {"0": [4]},
    ),
    "conv1d with a stride": (
        lambda: nn.Sequential(nn.Conv1d(2, 5, 1), nn.ReLU(), nn.Conv1d(5, 3, 2, stride=2)),
        (30, 2, 7),
        {"0": [4]},
    ),
    "batch norm": (normed, (100, 2, 5, 5), {"0": [4]}),
    "batch norm behind no bias": (lambda: normed(bias=False), (100, 2, 5, 5), {"0": [4]}),
    "grouped conv": (grouped, (100, 2, 5, 5), {"0": [4, 9]}),
    "flatten": (
        lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)),
        (60, 2, 4, 4),
        {"0": [4]},
    ),
    "residual": (Residual, (100, 2, 5, 5), {"stem": [4]}),
    "heads": (
        lambda: heads(*(nn.Linear(12, 12) for _ in range(3)), nn.Linear(12, 3)),
        (30, 5, 12),
        {"q": [3]},
    ),
    "torch's heads": (torch_heads, (30, 5, 12), {"attn": [3]}),
}


def plant(model: nn.Module, x: Tensor, units: dict[str, list[int]], what: str) -> None:
    """Make each unit a constant, twice the unit 4 (heads: 3) before it, or a sum of that and the next.

    With positive weights no ReLU clips anything; equal queries and keys let heads add up.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for t in tensors.values():
        t.data.abs_()
    (layer,) = units
    g = next(g for g in pv.find_groups(model, x) if layer in g.name.split(","))
    back = 3 if g.size == 4 else 4
    for s in g.slices:
        if s.role == "in" and not s.tensor.endswith("running_var"):
            continue
        t, at = tensors[s.tensor].data, torch.from_numpy(s.index)
        for p in units[layer]:
            a, b = at[p - back], at[p - back + 1]
            same = t.ndim == 1 and s.tensor.endswith(("weight", "running_var"))  # of a norm
            if s.layer in ("q", "k"):
                t[at] = t[a].expand(g.size, *t[a].shape).clone()
            elif s.layer == "attn":  # queries, keys, values
                t[at[:, :6]] = t[a[:6]].expand(g.size, *t[a[:6]].shape).clone()
                t[at[p, 6:]] = planted(t[a[6:]], t[b[6:]], what)
            elif same:
                t[at[p]] = t[a]
            elif what == "constant" and s.tensor.endswith("running_mean"):
                t[at[p]] = 0
            else:
                t[at[p]] = planted(t[a], t[b], what)


def planted(a: Tensor, b: Tensor, what: str) -> Tensor:
    if what == "constant":
        return torch.full_like(a, 0.5 if a.ndim == 1 else 0.0)
    return 2 * a if what == "twin" else a + b / 2


EXACT = {"constant": RUNGS, "twin": RUNGS[1:], "combination": RUNGS[2:]}


@pytest.mark.parametrize(
    ("what", "rung", "batches"),
    [
        *((what, rung, False) for what, rungs in EXACT.items() for rung in rungs),
        *((what, "lstsq", True) for what in EXACT),
    ],
)
@pytest.mark.parametrize("name", NETS)
def test_planted_units_are_removed_without_a_difference(name, what, rung, batches):
    build, shape, units = NETS[name]
    model, x = ready(build()), data(*shape)
    plant(model, x, units, what)
    source = {"batches": [x[:20], x[20:]]} if batches else {}
    new = cut(model, units, x, repair=rung, ridge=0, **source)
    assert gap(new, model, data(*shape)) < 1e-10


@pytest.mark.parametrize("what", EXACT)
@pytest.mark.parametrize("name", NETS)
def test_one_rung_lower_it_leaves_one(name, what):
    build, shape, units = NETS[name]
    model, x = ready(build()), data(*shape)
    plant(model, x, units, what)
    lower = {"constant": "none", "twin": "fold", "combination": "merge"}[what]
    assert gap(cut(model, units, x, repair=lower), model, data(*shape)) > 1e-5


# -- each rung at least as good as the one below, at what reads the units ------------------------

READERS = {
    "linear": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (40, 6)),
    "without a bias": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)),
        (40, 6),
    ),
    "flatten": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)),
        (50, 2, 4, 4),
    ),
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 3)),
        (20, 2, 6, 6),
    ),
    "one position": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 3)),
        (40, 2, 3, 3),
    ),
    "stride and dilation": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, (3, 2), stride=2, dilation=2)
        ),
        (20, 2, 8, 7),
    ),
    "one by one": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 1)),
        (9, 2, 5, 5),
    ),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(2, 8, 1), nn.ReLU(), nn.Conv1d(8, 3, 3)),
        (20, 2, 6),
    ),
    "grouped": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 2, groups=2)),
        (20, 2, 5, 5),
    ),
    "circular": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1, padding_mode="circular")
        ),
        (9, 2, 5, 5),
    ),
    "batch norm": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 8, 1), nn.ReLU()),
            *(nn.Conv2d(8, 3, 3, bias=False), nn.BatchNorm2d(3, affine=False)),
        ),
        (20, 2, 5, 5),
    ),
}


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", READERS)
def test_on_the_data_seen_each_rung_is_at_least_as_good_as_the_one_below(name, seed):
    torch.manual_seed(seed)
    build, shape = READERS[name]
    model, x = ready(build()), data(*shape)
    if x.ndim > 2:
        x[..., 0] += 2 * (torch.rand(1) - 0.5)  # the border is unlike the rest
    units = {"0": [0, 2, 5, 7]}
    off = {r: error(cut(model, units, x, repair=r, ridge=0), model, x) for r in ("none", *RUNGS)}
    slack = 1e-12
    assert off["fold"] <= off["none"] + slack
    assert off["lstsq"] <= min(off.values()) + slack
    whole = cut(model, units, x, batches=[x], ridge=0)  # the first reader: the same fit
    same = cut(model, units, x, evidence=pv.collect(model, [fitted(x)], progress=False), ridge=0)
    assert error(whole, model, x) == pytest.approx(error(same, model, x), rel=1e-6, abs=slack)
    held = error(cut(model, units, x, ridge=0.1), model, x)
    assert off["lstsq"] <= held + slack
    assert held <= off["fold" if name != "without a bias" else "none"] + slack


class Twice(nn.Module):
    """One layer without a bias, called twice, with something else behind each time."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(2, 6, 1), nn.BatchNorm1d(4, affine=False)
        self.conv, self.other = nn.Conv1d(6, 4, 1, bias=False), nn.BatchNorm1d(4, affine=False)
        self.last = nn.Conv1d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        return self.last(self.norm(self.conv(h)) + self.other(self.conv(h * h)))


class SharedNorm(nn.Module):
    """One batch norm behind two layers, one of which loses units."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(2, 6, 1), nn.BatchNorm1d(4, affine=False)
        self.a, self.b = (nn.Conv1d(n, 4, 1, bias=False) for n in (6, 2))
        self.last = nn.Conv1d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.a(self.first(x).relu())) + self.norm(self.b(x)))


class SharedBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.a, self.b = nn.Linear(2, 6), nn.Linear(6, 4), nn.Linear(2, 4)
        self.b.bias = self.a.bias
        self.last = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.a(self.first(x).relu()) + self.b(x))


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize(
    ("build", "shape"), [(Twice, (20, 2, 5)), (SharedNorm, (20, 2, 5)), (SharedBias, (20, 2))]
)
def test_a_constant_is_left_to_none_that_serves_others_too(build, shape, batches):
    model, x = ready(build()), data(*shape)
    source = {"batches": [x]} if batches else {}
    new = cut(model, {"first": [0, 3]}, x, **source)
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "bias")) and not name.startswith("first"):
            assert torch.equal(new.state_dict()[name], value)
    other = cut(model, {"first": [0, 3]}, x, repair="none")
    assert error(new, model, x) < error(other, model, x)


# -- numbers by hand -----------------------------------------------------------------------------


def small() -> tuple[nn.Module, Tensor]:
    """Units x0, 2 x0 + 1 and x1 of positive inputs; outputs a + 10 b + 100 c and c - b."""
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]]))
        model[0].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
        model[2].weight.copy_(torch.tensor([[1.0, 10.0, 100.0], [0.0, -1.0, 1.0]]))
        model[2].bias.copy_(torch.tensor([0.5, -0.5]))
    return model, torch.tensor([[1.0, 4.0], [2.0, 0.0], [3.0, 4.0], [2.0, 8.0]]).double()


BY_HAND = {
    "none": ([[1.0, 100.0], [0.0, 1.0]], [0.5, -0.5]),
    "fold": ([[1.0, 100.0], [0.0, 1.0]], [0.5 + 10 * 5, -0.5 - 5]),
    "merge": ([[1.0 + 10 * 2, 100.0], [-2.0, 1.0]], [0.5 + 10, -0.5 - 1]),
    "lstsq": ([[1.0 + 10 * 2, 100.0], [-2.0, 1.0]], [0.5 + 10, -0.5 - 1]),
}


@pytest.mark.parametrize("rung", BY_HAND)
def test_weights_and_biases_by_hand(rung):
    model, x = small()
    new = cut(model, {"0": [1]}, x, repair=rung, ridge=0)
    weight, bias = (torch.tensor(t).double() for t in BY_HAND[rung])
    torch.testing.assert_close(new[2].weight.data, weight)
    torch.testing.assert_close(new[2].bias.data, bias)
    assert torch.equal(new[0].weight, model[0].weight[[0, 2]])


def test_the_ridge_holds_the_old_weights_back():
    model, x = small()
    new = cut(model, {"0": [1, 2]}, x, ridge=1.0)  # x0 alone: half of the way
    old, best = model[2].weight[:, 0], cut(model, {"0": [1, 2]}, x, ridge=0)[2].weight[:, 0]
    torch.testing.assert_close(new[2].weight[:, 0], (old + best) / 2)
    in_order = cut(model, {"0": [1, 2]}, x, ridge=1.0, batches=[x])
    torch.testing.assert_close(in_order[2].weight, new[2].weight)


def test_behind_a_batch_norm_the_constant_goes_into_its_running_mean():
    model, x = ready(normed(bias=False)), data(100, 2, 5, 5)
    new = cut(model, {"0": [4]}, x, repair="fold")
    mean = pv.collect(model, [x], progress=False).patches["3"].mean.reshape(5, 9)[4]
    constant = model[3].weight[:, 4].flatten(1) @ mean
    torch.testing.assert_close(new[4].running_mean, model[4].running_mean - constant)
    assert torch.equal(new[3].weight, model[3].weight[:, :4])
    for name in ("weight", "bias", "running_var"):
        assert torch.equal(getattr(new[4], name), getattr(model[4], name))


def test_without_padding_each_place_of_a_filter_has_its_own_mean():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 3)).double()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].bias.zero_()
    x = torch.zeros(4, 1, 3, 3).double()
    x[..., 1, 1] = 9.0  # the one position reads it in the middle
    new = cut(model, {"0": [1]}, x, repair="fold")
    torch.testing.assert_close(new[2].bias, model[2].bias + 9 * model[2].weight[:, 1, 1, 1])
    assert error(new, model, x) < 1e-24


def test_without_bias_or_norm_nothing_takes_up_a_constant():
    model, x = READERS["without a bias"][0](), data(40, 6)
    model = ready(model)
    folded = cut(model, {"0": [1, 2]}, x, repair="fold")
    assert torch.equal(folded[2].weight, model[2].weight[:, [0, *range(3, 8)]])
    for rung in ("merge", "lstsq"):
        new = cut(model, {"0": [1, 2]}, x, repair=rung)
        assert new[2].bias is None
        assert error(new, model, x) < error(folded, model, x)


# -- padding is not a constant -------------------------------------------------------------------


def padded(**options) -> nn.Module:
    return ready(
        nn.Sequential(nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=1, **options))
    )


def test_before_a_padded_convolution_a_constant_is_exact_off_the_border():
    model, x = padded(), data(20, 2, 6, 6)
    plant(model, x, {"0": [4]}, "constant")
    new, fresh = cut(model, {"0": [4]}, x, repair="fold"), data(4, 2, 6, 6)
    with torch.no_grad():
        off = (new(fresh) - model(fresh)).abs()
    assert float(off[..., 1:-1, 1:-1].max()) < 1e-12
    assert float(off[..., 0, :].min()) > 1e-3


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "circular"])
@pytest.mark.parametrize(("what", "rung"), [("twin", "merge"), ("twin", "lstsq")])
def test_before_a_padded_convolution_twins_are_exact_everywhere(what, rung, padding_mode):
    model, x = padded(padding_mode=padding_mode), data(60, 2, 6, 6)
    plant(model, x, {"0": [4]}, what)
    new = cut(model, {"0": [4]}, x, repair=rung, ridge=0)
    assert gap(new, model, data(4, 2, 6, 6)) < 1e-10


@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("padding", [1, "same", (0, 2)])
def test_padded_convolutions_run(rung, padding):
    model = nn.Sequential(nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 3, 3, padding=padding))
    x = torch.rand(20, 2, 6, 6)
    new = cut(model, {"0": [1, 4]}, x, repair=rung)
    assert new(x).shape == model(x).shape


# -- several readers, several groups -------------------------------------------------------------


class Cat(nn.Module):
    """One layer reads the units of two groups."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(6, 5), nn.Linear(6, 5), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.cat([self.a(x).relu(), self.b(x).relu()], 1))


@pytest.mark.parametrize("rung", ["merge", "lstsq"])
def test_twins_within_each_of_two_groups_that_one_layer_reads(rung):
    model, x = ready(Cat()), data(40, 6)
    for layer in "ab":
        plant(model, x, {layer: [4]}, "twin")
    new = cut(model, {"a": [4], "b": [4]}, x, repair=rung, ridge=0)
    assert gap(new, model, data(40, 6)) < 1e-10


def test_a_twin_in_another_group_is_seen_by_least_squares_alone():
    model, x = ready(Cat()), data(40, 6)
    with torch.no_grad():
        model.a.weight[4], model.a.bias[4] = model.b.weight[1], model.b.bias[1]
    assert gap(cut(model, {"a": [4]}, x, ridge=0), model, data(40, 6)) < 1e-10
    assert gap(cut(model, {"a": [4]}, x, repair="merge"), model, data(40, 6)) > 1e-4


def test_tied_weights_are_left_alone():
    def forward(self, x):
        h = self.a(x).relu()
        return self.b(h) + self.c(h * h)

    model = net(forward, a=nn.Linear(6, 5), b=nn.Linear(5, 3), c=nn.Linear(5, 3))
    model.c.weight = model.b.weight
    model, x = ready(model), data(40, 6)
    for source in ({}, {"batches": [x]}):
        with pytest.warns(UserWarning, match="'b': its weight belongs to another layer, too"):
            new = cut(model, {"a": [1]}, x, **source)
        assert new.c.weight is new.b.weight
        assert torch.equal(new.b.weight, model.b.weight[:, [0, 2, 3, 4]])
        assert torch.equal(new.b.bias, model.b.bias)


def test_a_layer_that_was_not_watched_is_left_alone():
    model, x = ready(NETS["mlp"][0]()), data(40, 6)
    evidence = pv.collect(model, [x], layers=["2"], progress=False)
    with pytest.warns(UserWarning, match="'4': `evidence` has nothing of it"):
        new = cut(model, {"0": [1], "2": [0]}, x, evidence=evidence)
    assert torch.equal(new[4].weight, model[4].weight[:, 1:])
    assert not torch.equal(new[2].weight, model[2].weight[1:][:, [0, 2, 3, 4]])


# -- transformers --------------------------------------------------------------------------------


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=2, n_head=4, n_embd=16, n_positions=12, vocab_size=29, use_cache=False
    )
    return ready(GPT2LMHeadModel(config))


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("rung", ["merge", "lstsq"])
def test_gpt2_loses_doubled_neurons_and_heads_without_a_trace(rung, batches):
    model, ids = gpt2(), torch.randint(29, (12, 10))
    block = model.transformer.h[0]
    with torch.no_grad():
        fc, attention = block.mlp.c_fc, block.attn.c_attn
        fc.weight[:, 5], fc.bias[5] = fc.weight[:, 9], fc.bias[9]
        for t in (attention.weight, attention.bias):  # queries, keys and values of four heads
            parts = t.unflatten(-1, (3, 4, 4))
            parts[..., 3, :] = parts[..., 1, :]
    groups = pv.find_groups(model, {"input_ids": ids})
    units = {"transformer.h.0.mlp.c_fc": [5], "transformer.h.0.attn.c_attn": [3]}  # a head
    plan = pv.drop(groups, by_units(groups, units))
    given = [{"input_ids": i} for i in ids.split(4)]
    source = {"evidence": pv.collect(model, given, progress=False)}
    source = {"batches": given} if batches else source
    options = {"example_input": {"input_ids": ids}, "ridge": 0, **source}
    new = pv.shrink(model, plan, repair=rung, **options)
    fresh = torch.randint(29, (3, 10))
    with torch.no_grad():
        want, have = model(fresh).logits, new(fresh).logits
        plain = pv.shrink(model, plan, example_input={"input_ids": ids})(fresh).logits
    assert float((have - want).abs().max()) < 1e-10
    assert float((plain - want).abs().max()) > 1e-6


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("name", ["heads", "torch's heads"])
def test_heads_without_a_twin_have_a_smaller_error_after_a_repair(name, batches):
    build, shape, units = NETS[name]
    model, x = ready(build()), data(*shape)
    source = {"batches": [x]} if batches else {}
    assert error(cut(model, units, x, **source), model, x) < error(
        cut(model, units, x, repair="none"), model, x
    )


# -- in the order of the forward -----------------------------------------------------------------


def test_the_first_reader_in_order_is_fitted_as_on_the_dense_moments():
    model, x = ready(NETS["mlp"][0]()), data(400, 6)
    units = {"0": [1, 3], "2": [0]}
    one = cut(model, units, x, evidence=pv.collect(model, [fitted(x)], progress=False))
    other = cut(model, units, x, batches=[x[:7], x[7:]])
    torch.testing.assert_close(one[2].weight, other[2].weight)
    torch.testing.assert_close(one[2].bias, other[2].bias)
    assert not torch.allclose(one[4].weight, other[4].weight)


@pytest.mark.parametrize("seed", range(5))
def test_of_two_readers_the_second_makes_up_for_the_first(seed):
    torch.manual_seed(seed)
    model, x = ready(NETS["mlp"][0]()), data(2000, 6)
    units = {"0": [1, 3], "2": [0]}
    evidence = pv.collect(model, [fitted(x)], progress=False)
    dense = error(cut(model, units, x, ridge=0, evidence=evidence), model, fitted(x))
    assert error(cut(model, units, x, ridge=0, batches=[x]), model, fitted(x)) <= dense + 1e-12


def test_batches_take_any_form():
    model, x = ready(NETS["mlp"][0]()), data(40, 6)
    want = cut(model, {"0": [1]}, x, batches=[x])[2].weight
    labels = torch.zeros(20)
    for batches in (x, [(x[:20], labels), (x[20:], labels)], (part for part in x.split(9))):
        torch.testing.assert_close(cut(model, {"0": [1]}, x, batches=batches)[2].weight, want)


@pytest.mark.parametrize("rung", ["fold", "merge"])
def test_other_rungs_collect_from_the_batches(rung):
    model, x = ready(NETS["mlp"][0]()), data(40, 6)
    one = cut(model, {"0": [1], "2": [0]}, x, repair=rung)
    other = cut(model, {"0": [1], "2": [0]}, x, repair=rung, batches=[x[:30], x[30:]])
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b)


# -- what comes back -----------------------------------------------------------------------------


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("name", ["batch norm", "torch's heads", "residual"])
def test_a_new_model_is_returned_and_the_old_one_is_not_changed(name, rung, batches):
    build, shape, units = NETS[name]
    torch.manual_seed(0)
    model, x = stir(build()), torch.rand(shape)  # float32, train mode
    first = next(model.parameters())
    first.requires_grad_(False)
    first.grad = torch.ones_like(first)
    evidence = pv.collect(model, [x], progress=False)
    source = {"batches": [x]} if batches else {"evidence": evidence}
    before = snapshot(model)
    new = cut(model, units, x, repair=rung, **source)
    assert_untouched(model, before)
    assert not storages(model) & storages(new)
    assert list(new.state_dict()) == list(model.state_dict())
    for (a, p), (b, q) in zip(model.named_parameters(), new.named_parameters(), strict=True):
        assert (a, p.requires_grad, p.dtype) == (b, q.requires_grad, q.dtype)
    assert [m.training for m in new.modules()] == [m.training for m in model.modules()]
    new(x).sum().backward()
    assert all(p.grad is not None for p in new.parameters() if p.requires_grad)


def test_what_is_repaired_in_inference_mode_can_be_trained():
    model, x = stir(NETS["mlp"][0]()), torch.rand(40, 6)
    evidence = pv.collect(model, [x], progress=False)
    for source in ({"evidence": evidence}, {"batches": [x]}):
        with torch.inference_mode():
            new = cut(model, {"0": [1]}, x, **source)
        new(x).sum().backward()
        assert not any(p.is_inference() for p in new.parameters())


def test_a_plan_that_keeps_everything_changes_nothing():
    model, x = stir(NETS["mlp"][0]()), torch.rand(40, 6)
    for source in ({}, {"batches": [x]}):
        new = cut(model, {"0": []}, x, **source)
        assert all(torch.equal(v, new.state_dict()[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("name", ["batch norm behind no bias", "flatten", "residual", "heads"])
@pytest.mark.parametrize("rung", RUNGS)
def test_a_program_is_repaired_likewise(name, rung):
    build, shape, units = NETS[name]
    model, x = ready(build()), data(*shape)
    want, have = (cut(model, units, x, repair=rung, as_program=p) for p in (False, True))
    assert not isinstance(have, type(model))
    with torch.no_grad():
        torch.testing.assert_close(have(x), want(x), rtol=1e-10, atol=1e-10)


# -- refused -------------------------------------------------------------------------------------


def test_an_unknown_repair():
    model, x = small()
    text = "`repair` 'foo' is unknown. Known: distil, fold, lstsq, merge, none."
    with refused(text):
        cut(model, {"0": [1]}, x, repair="foo")


@pytest.mark.parametrize("rung", ["fold", "lstsq"])
def test_nothing_to_learn_from(rung):
    model, x = small()
    text = (
        f"repair {rung!r} needs data on what the layers read, but there is none. Pass batches=..., or "
        "evidence=pv.collect(model, batches)."
    )
    with refused(text):
        cut(model, {"0": [1]}, x, repair=rung, evidence=None)


def test_evidence_of_another_model():
    model, x = small()
    other = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    text = (
        "`evidence` is of another model: it has a weight of shape (4, 2) in layer '0', which has the "
        "shape (3, 2) here. Collect it: pv.collect(model, batches)."
    )
    with refused(text):
        cut(model, {"0": [1]}, x, evidence=pv.collect(other, [x], progress=False))
    with pytest.raises(pv.ArgumentError, match=r"^`evidence` must be an? Evidence, but a list was"):
        cut(model, {"0": [1]}, x, evidence=[x])


@pytest.mark.parametrize("rung", RUNGS)
def test_an_exhausted_generator(rung):
    model, x = small()
    once = (part for part in [x])
    next(once)
    with pytest.raises(pv.ArgumentError, match=r"^`batches` is empty: .* a generator runs only"):
        cut(model, {"0": [1]}, x, repair=rung, batches=once)


@pytest.mark.parametrize("rung", RUNGS)
def test_batches_of_no_examples(rung):
    model, x = small()
    with pytest.raises(pv.ArgumentError, match=r"^`batches` "):
        cut(model, {"0": [1]}, x, repair=rung, batches=[x[:0]])


def test_a_layer_that_is_no_layer_of_a_program():
    torch.manual_seed(0)
    circular = nn.Conv2d(4, 3, 3, padding=1, padding_mode="circular")
    model = ready(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), circular))
    x = torch.randn(6, 1, 7, 7, dtype=torch.float64)
    with refused(
        "repair 'lstsq' with `batches` reads the inputs of each layer, but in a program '2' is several "
        "operators and no layer. Pass evidence=pv.collect(model, batches) instead."
    ):
        cut(model, {"0": [1]}, x, as_program=True, batches=[x])
    one, two = (cut(model, {"0": [1]}, x, as_program=p) for p in (True, False))  # with evidence
    torch.testing.assert_close(one(x), two(x))


@pytest.mark.parametrize("ridge", [-1, float("nan"), "much"])
def test_a_ridge_that_is_none(ridge):
    model, x = small()
    with refused(f"`ridge` must be a number ≥ 0, but {ridge!r} was passed."):
        cut(model, {"0": [1]}, x, ridge=ridge)


@pytest.mark.parametrize("rung", ["merge", "lstsq"])
def test_evidence_without_co_moments(rung):
    model, x = small()
    evidence = pv.collect(model, [x], comoment=False, progress=False)
    new = cut(model, {"0": [1]}, x, repair="fold", evidence=evidence)
    torch.testing.assert_close(new[2].bias.data, torch.tensor([50.5, -5.5]).double())
    with pytest.warns(UserWarning, match="'2': `evidence` has only the diagonal"):
        new = cut(model, {"0": [1]}, x, repair=rung, evidence=evidence)
    assert torch.equal(new[2].weight, cut(model, {"0": [1]}, x, repair="none")[2].weight)
    # the advice
    evidence = pv.collect(model, [x], comoment="all", progress=False)
    cut(model, {"0": [1]}, x, repair=rung, evidence=evidence)
    cut(model, {"0": [1]}, x, batches=[x])


def test_an_input_that_is_infinite():
    model, x = small()
    with pytest.raises(pv.ArgumentError, match="NaN or infinity"):
        cut(model, {"0": [1]}, x, batches=[x * float("inf")])


def _plain() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4)), torch.randn(400, 6)


def _convolutional() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3))
    return model, torch.randn(60, 1, 7, 7)


@pytest.mark.parametrize("rung", ["fold", "merge"])
@pytest.mark.parametrize("make", [_plain, _convolutional])
def test_fold_and_merge_are_not_applied_where_examples_say_they_hurt(rung, make) -> None:
    """Means and co-moments of other data are wrong here; every tenth example shows it."""
    model, x = make()
    plan = pv.drop(pv.find_groups(model, x[:2]), {"0": [0, 1, 2]})
    other = pv.collect(model, 5 * x + 20, progress=False)
    how = {"example_input": x[:2], "batches": [x]}
    with pytest.warns(
        UserWarning, match=f"repair '{rung}' was not applied to some layers. '2': on held-out"
    ):
        hurt = pv.shrink(model, plan, repair=rung, evidence=other, **how)
    plain = pv.shrink(model, plan, example_input=x[:2])
    assert torch.equal(hurt[2].weight, plain[2].weight)
    assert torch.equal(hurt[2].bias, plain[2].bias)
    own = pv.collect(model, [x], progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        good = pv.shrink(model, plan, repair=rung, **how)
        alone = pv.shrink(model, plan, repair=rung, evidence=own, example_input=x[:2])
    for a, b in zip(good.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(a, b)
    assert not torch.equal(good[2].bias, plain[2].bias)


def test_a_program_is_folded_without_a_judge() -> None:
    model, x = _plain()
    plan = pv.drop(pv.find_groups(model, x[:2]), {"0": [0, 1, 2]})
    new = pv.shrink(model, plan, example_input=x[:2], repair="fold", batches=[x], as_program=True)
    assert new(x).shape == (len(x), 4)

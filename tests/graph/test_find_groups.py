"""Groups of nets that are small enough to work out by hand, and what `find_groups` refuses."""

from __future__ import annotations

import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from helpers import MODELS, assert_untouched, bits, build, inputs, refused, snapshot
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from zoo.case import net, param

import pruneviz as pv

OUTPUT = "its units are the model's output"
BATCH = torch.arange(6.0).reshape(2, 3) / 6


def listed(group: pv.Group) -> dict[tuple[str, int], tuple[str, list[list[int]]]]:
    """(tensor, dim) -> (role, positions of each unit)"""
    return {(s.tensor, s.dim): (s.role, s.index.tolist()) for s in group.slices}


def each(*positions: int) -> list[list[int]]:
    return [[p] for p in positions]


def names(groups: pv.Groups) -> dict[str, str]:
    return {g.name: g.frozen for g in groups}


def gap(x: Tensor) -> Tensor:
    return x.mean((2, 3))


# -- which slices --------------------------------------------------------------------------------


def test_two_linears():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    groups = pv.find_groups(model, BATCH)
    assert names(groups) == {"0": "", "2": OUTPUT}
    assert listed(groups["0"]) == {
        ("0.weight", 0): ("out", each(0, 1, 2, 3)),
        ("0.bias", 0): ("out", each(0, 1, 2, 3)),
        ("2.weight", 1): ("in", each(0, 1, 2, 3)),
    }
    assert listed(groups["2"]) == {
        ("2.weight", 0): ("out", each(0, 1)),
        ("2.bias", 0): ("out", each(0, 1)),
    }
    assert groups["0"].producers == ("0",)
    assert groups["0"].consumers == ("2",)
    assert groups["0"].even is None


def test_conv_norm_flatten():
    model = nn.Sequential(
        *(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(8, 2)),
    )
    group = pv.find_groups(model, torch.randn(2, 1, 6, 6))["0"]
    assert listed(group) == {
        ("0.weight", 0): ("out", each(0, 1)),
        ("1.weight", 0): ("out", each(0, 1)),
        ("1.bias", 0): ("out", each(0, 1)),
        ("1.running_mean", 0): ("out", each(0, 1)),
        ("1.running_var", 0): ("in", each(0, 1)),  # 0 there would be a division by 0
        ("5.weight", 1): ("in", [[0, 1, 2, 3], [4, 5, 6, 7]]),
    }


def test_flatten_after_permute_scatters_the_columns():
    def forward(self, x):
        return self.fc(self.conv(x).relu().permute(0, 2, 3, 1).flatten(1))

    model = net(forward, conv=nn.Conv2d(1, 3, 2), fc=nn.Linear(12, 2))
    group = pv.find_groups(model, torch.randn(2, 1, 3, 3))["conv"]
    assert listed(group)["fc.weight", 1] == (
        "in",
        [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]],
    )


def test_a_grouped_convolution_loses_as_many_units_in_each_part():
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.Conv2d(4, 6, 1, groups=2), nn.Conv2d(6, 2, 1))
    groups = pv.find_groups(model, torch.randn(2, 1, 4, 4))
    first, second = groups["0"], groups["1"]
    (columns,) = [s for s in first.slices if s.tensor == "1.weight"]
    assert (columns.dim, columns.blocks, columns.index.tolist()) == (1, 2, each(0, 1, 2, 3))
    assert first.even.tolist() == [0, 0, 1, 1]
    assert second.even.tolist() == [0, 0, 0, 1, 1, 1]


def test_a_depthwise_multiplier_ties_the_rows_of_a_channel():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.Conv2d(3, 6, 1, groups=3), nn.Conv2d(6, 2, 1))
    group = pv.find_groups(model, torch.randn(2, 1, 4, 4))["0"]
    pairs = [[0, 1], [2, 3], [4, 5]]
    assert listed(group) == {
        ("0.weight", 0): ("out", each(0, 1, 2)),
        ("0.bias", 0): ("out", each(0, 1, 2)),
        ("1.weight", 0): ("out", pairs),
        ("1.bias", 0): ("out", pairs),
        ("2.weight", 1): ("in", pairs),
    }


def test_a_transposed_convolution_has_its_rows_in_dimension_1():
    model = nn.Sequential(nn.ConvTranspose2d(1, 3, 2), nn.Conv2d(3, 2, 1))
    group = pv.find_groups(model, torch.randn(2, 1, 4, 4))["0"]
    assert listed(group) == {
        ("0.weight", 1): ("out", each(0, 1, 2)),
        ("0.bias", 0): ("out", each(0, 1, 2)),
        ("1.weight", 1): ("in", each(0, 1, 2)),
    }


def test_a_residual_joins_layers():
    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.fc2(self.fc1(x).relu()))

    model = net(
        forward,
        stem=nn.Linear(3, 2),
        fc1=nn.Linear(2, 3),
        fc2=nn.Linear(3, 2),
        head=nn.Linear(2, 2),
    )
    groups = pv.find_groups(model, BATCH)
    assert groups["stem"].producers == ("stem", "fc2")
    assert groups["stem"].consumers == ("fc1", "head")
    assert names(groups) == {"stem": "", "fc1": "", "head": OUTPUT}


def test_cat_concatenates_the_columns():
    def forward(self, x):
        return self.head(torch.cat([self.a(x).relu(), self.b(x).relu()], 1))

    model = net(forward, a=nn.Linear(3, 2), b=nn.Linear(3, 3), head=nn.Linear(5, 2))
    groups = pv.find_groups(model, BATCH)
    assert listed(groups["a"])["head.weight", 1] == ("in", each(0, 1))
    assert listed(groups["b"])["head.weight", 1] == ("in", each(2, 3, 4))


def test_glu_ties_halves():
    model = nn.Sequential(nn.Linear(3, 6), nn.GLU(), nn.Linear(3, 2))
    group = pv.find_groups(model, BATCH)["0"]
    assert listed(group)["0.weight", 0] == ("out", [[0, 3], [1, 4], [2, 5]])


def test_channel_shuffle():
    def forward(self, x):
        x = self.a(x).unflatten(1, (2, 2)).transpose(1, 2).flatten(1)
        return self.b(x)

    model = net(forward, a=nn.Linear(3, 4), b=nn.Linear(4, 2))
    group = pv.find_groups(model, BATCH)["a"]
    # (a, b), (c, d) -> a, c, b, d: however units are tied, columns follow their rows
    rows, columns = listed(group)["a.weight", 0][1], listed(group)["b.weight", 1][1]
    place = {0: 0, 1: 2, 2: 1, 3: 3}
    assert [sorted(place[r] for r in unit) for unit in rows] == [sorted(u) for u in columns]


def attention(heads: int, shared: int, width: int = 2) -> nn.Module:
    def forward(self, x):
        q, k, v = (
            f(x).unflatten(-1, (-1, width)).transpose(1, 2) for f in (self.q, self.k, self.v)
        )
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=heads != shared)
        return self.o(y.transpose(1, 2).flatten(2))

    sizes = {"q": heads * width, "k": shared * width, "v": shared * width}
    layers = {name: nn.Linear(6, n) for name, n in sizes.items()}
    return net(forward, **layers, o=nn.Linear(heads * width, 3))


def test_whole_heads():
    group = pv.find_groups(attention(2, 2), torch.randn(2, 5, 6))["q"]
    head = [[0, 1], [2, 3]]
    assert group.size == 2
    assert {key: value for key, (_, value) in listed(group).items()} == {
        **{(f"{n}.{t}", 0): head for n in "qkv" for t in ("weight", "bias")},
        ("o.weight", 1): head,
    }


def test_a_key_value_head_with_all_its_queries():
    group = pv.find_groups(attention(4, 2), torch.randn(2, 5, 6))["q"]
    assert listed(group)["q.weight", 0] == ("out", [[0, 1, 2, 3], [4, 5, 6, 7]])
    assert listed(group)["k.weight", 0] == ("out", [[0, 1], [2, 3]])


def test_multihead_attention():
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.attention(x, x, x, need_weights=False)[0])

    groups = pv.find_groups(Model(), torch.randn(2, 5, 4))
    assert listed(groups["attention"]) == {
        ("attention.in_proj_weight", 0): ("out", [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]),
        ("attention.in_proj_bias", 0): ("out", [[0, 1, 4, 5, 8, 9], [2, 3, 6, 7, 10, 11]]),
        ("attention.out_proj.weight", 1): ("in", [[0, 1], [2, 3]]),
    }
    assert groups["attention.out_proj"].consumers == ("head",)


def test_tied_weights_share_a_slice():
    def forward(self, x):
        x = self.embed(x)
        return self.head(x + self.fc(x))

    embed, head = nn.Embedding(7, 4), nn.Linear(4, 7, bias=False)
    head.weight = embed.weight
    model = net(forward, embed=embed, fc=nn.Linear(4, 4), head=head)
    groups = pv.find_groups(model, torch.randint(7, (2, 5)))
    (columns,) = [g for g in groups.groups_of("embed") if not g.frozen]
    found = listed(columns)
    assert found["embed.weight", 1] == ("out", each(0, 1, 2, 3))
    assert found["fc.weight", 0] == ("out", each(0, 1, 2, 3))
    assert found["fc.weight", 1] == ("in", each(0, 1, 2, 3))
    assert not any(tensor == "head.weight" for tensor, _ in found)


def test_parameters_without_a_layer():
    model = net(lambda self, x: F.relu(x @ self.a) @ self.b, a=param(3, 4), b=param(4, 2))
    groups = pv.find_groups(model, BATCH)
    assert listed(groups["a"]) == {
        ("a", 1): ("out", each(0, 1, 2, 3)),
        ("b", 0): ("in", each(0, 1, 2, 3)),
    }


def test_several_groups_of_one_layer_are_named_by_their_rows():
    def forward(self, x):
        a, b = self.fc(x).relu().split([2, 3], 1)
        return self.left(a) + self.right(b)

    model = net(forward, fc=nn.Linear(3, 5), left=nn.Linear(2, 2), right=nn.Linear(3, 2))
    groups = pv.find_groups(model, BATCH)
    assert groups.names == ("fc[0:2]", "fc[2:5]", "left")
    assert [g.name for g, _ in groups.units_of("fc")] == ["fc[0:2]"] * 2 + ["fc[2:5]"] * 3


def test_groups_come_in_the_order_of_the_forward():
    def forward(self, x):
        return self.a(F.relu(self.b(F.relu(self.c(x)))))

    model = net(forward, a=nn.Linear(4, 2), b=nn.Linear(5, 4), c=nn.Linear(3, 5))
    assert pv.find_groups(model, BATCH).names == ("c", "b", "a")


def test_a_model_without_units():
    groups = pv.find_groups(nn.ReLU(), BATCH)
    assert len(groups) == 0
    assert repr(groups) == "Groups: 0 of 0 can be cut, 0 units"


# -- why not -------------------------------------------------------------------------------------


def between(function) -> nn.Module:
    """fc1 (3 to 4), the function, fc2."""
    width = function(torch.zeros(2, 4)).shape[-1]

    def forward(self, x):
        return self.fc2(function(self.fc1(x)))

    return net(forward, fc1=nn.Linear(3, 4), fc2=nn.Linear(width, 2))


SCALE = torch.tensor([1.0, 2.0, 3.0, 4.0])
FROZEN = {
    "softmax": (lambda x: x.softmax(1), "softmax runs over these units"),
    "mean": (lambda x: x.mean(1, keepdim=True), "mean runs over these units"),
    "largest": (lambda x: x.amax(1, keepdim=True), "amax runs over these units"),
    "sort": (lambda x: x.sort(1).values, "sort runs over these units"),
    "pick": (lambda x: x[:, :1], "one index of it is picked"),
    "lookup": (lambda x: x[:, torch.tensor([2, 0])], "its units are looked up by number"),
    "fft": (lambda x: torch.fft.fft(x, dim=1).real, "operator aten.fft_fft.default has no rule"),
    "random": (lambda x: x + torch.rand(4), "it is combined with random numbers"),
    "constant": (lambda x: x + SCALE, "it is combined with a constant tensor of the forward"),
    "own values": (
        lambda x: F.pad(x, (1, 1), "reflect"),
        "it is padded with its own values",
    ),
    "numbers": (lambda x: x + torch.arange(4), "it is combined with a constant tensor of the forward"),
    "bare norm": (
        lambda x: F.layer_norm(x, (4,)),
        "a LayerNorm without parameters runs over these units",
    ),
    "sum of exp": (lambda x: x.exp().sum(1, keepdim=True),
                   "silenced, it is not 0, and a constant is summed up with the other units"),
    "minus infinity": (lambda x: x.abs().log(), "silenced, it is infinite or NaN at 'fc2'"),
}  # fmt: skip


@pytest.mark.parametrize("name", FROZEN)
def test_frozen(name):
    function, why = FROZEN[name]
    assert pv.find_groups(between(function), BATCH)["fc1"].frozen == why


def test_frozen_at_the_input():
    def forward(self, x):
        return self.fc2(F.relu(self.fc1(x)) + x)

    model = net(forward, fc1=nn.Linear(3, 3), fc2=nn.Linear(3, 2))
    assert pv.find_groups(model, BATCH)["fc1"].frozen == "it is combined with the model's input"


def test_frozen_because_there_is_no_bias():
    model = nn.Sequential(nn.Linear(3, 4), nn.Sigmoid(), nn.Linear(4, 2, bias=False))
    why = "silenced, it is not 0, and '2' has no bias to fold it into"
    assert pv.find_groups(model, BATCH)["0"].frozen == why


def test_frozen_before_zero_padding():
    def model(padding):
        return nn.Sequential(
            *(nn.Conv2d(1, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 2, 3, padding=padding)),
            *(nn.Flatten(), nn.LazyLinear(2)),
        )

    x = torch.randn(2, 1, 5, 5)
    padded, plain = model(1), model(0)
    padded(x), plain(x)
    assert pv.find_groups(padded, x)["0"].frozen == (
        "silenced, it is not 0, and a constant arrives at a zero-padded convolution"
    )
    assert pv.find_groups(plain, x)["0"].frozen == ""


def test_a_single_unit_is_frozen():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.PixelShuffle(2), nn.Conv2d(1, 2, 1))
    group = pv.find_groups(model, torch.randn(2, 3, 4, 4))["0"]
    assert (group.size, group.frozen) == (1, "it is a single unit, and a layer must keep one")


def test_recurrent_layers_freeze_what_they_touch():
    def forward(self, x):
        return self.fc2(self.lstm(F.relu(self.fc1(x)))[0])

    model = net(
        forward, fc1=nn.Linear(3, 4), lstm=nn.LSTM(4, 5, batch_first=True), fc2=nn.Linear(5, 2)
    )
    groups = pv.find_groups(model, torch.randn(2, 6, 3))
    why = "it goes through a recurrent layer (lstm), which has no rule"
    assert groups["fc1"].frozen == why
    assert groups.groups_of("lstm")[0].frozen == why  # its own units too


@pytest.mark.parametrize(
    ("layer", "names", "units"),
    [
        (nn.LSTM(4, 5, 2, bias=False), ("layer", "layer.weight_ih_l1"), (5, 5)),
        (nn.GRU(4, 5, bidirectional=True), ("layer", "layer.weight_ih_l0_reverse"), (5, 5)),
        (nn.RNN(4, 5, nonlinearity="relu"), ("layer",), (5,)),
        (nn.LSTM(4, 5, proj_size=3), ("layer", "layer.weight_hr_l0"), (5, 3)),
        (nn.LSTMCell(4, 5), ("layer",), (5,)),
        (nn.GRUCell(4, 5), ("layer",), (5,)),
    ],
)
@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_units_of_recurrent_layers(layer, names, units):
    cell = isinstance(layer, nn.RNNCellBase)
    model = net(lambda self, x: self.layer(x)[0], layer=layer)
    groups = pv.find_groups(model, torch.randn(2, 4) if cell else torch.randn(2, 6, 4))
    assert groups.names == names
    assert tuple(g.size for g in groups) == units
    gates = {"LSTM": 4, "GRU": 3}.get(type(layer).__name__.removesuffix("Cell"), 1)
    assert all(s.width == gates for s in groups[0].slices if s.role == "out")
    assert {len(s.index) for g in groups for s in g.slices} == set(units)


def test_a_single_unit_is_named_and_frozen():
    model = nn.Sequential(nn.Conv2d(1, 1, 3), nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 1))
    groups = pv.find_groups(model, torch.randn(2, 1, 4, 4))
    why = "it is a single unit, and a layer must keep one"
    assert (groups["0"].frozen, groups["3"].frozen, groups["2"].frozen) == (why, why, "")
    with pytest.raises(pv.GraphError, match="layer '3' cannot be shrunk: it is a single unit"):
        pv.drop(groups, {"3": [0]})


def test_groups_along_two_dimensions_of_one_table():
    def forward(self, x):
        return self.head(self.table(x)), x[:, :1] * self.table.weight.sum(1)

    model = net(forward, table=nn.Embedding(5, 4), head=nn.Linear(4, 2))
    model.table.weight.requires_grad_(True)
    groups = pv.find_groups(model, torch.randint(0, 5, (2, 3)))
    assert groups["table"].size == 4 and not groups["table"].frozen
    assert groups["table.weight, dimension 0"].size == 5


NORMED = {
    "weight_norm": parametrizations.weight_norm,
    "weight_norm of columns": lambda layer: parametrizations.weight_norm(layer, dim=1),
    "weight_norm of all": lambda layer: parametrizations.weight_norm(layer, dim=None),
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old spectral_norm": nn.utils.spectral_norm,
    "old weight_norm": nn.utils.weight_norm,
}


@pytest.mark.parametrize("name", NORMED)
def test_what_normalises_a_weight_is_named_with_what_takes_it_off(name):
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's: it is old
        NORMED[name](model[2])
    kind = name.removeprefix("old ").partition(" ")[0]
    remove = f"torch.nn.utils.remove_{kind}(layer)" if name.startswith("old") else (
        "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')"
    )  # fmt: skip
    x = torch.randn(2, 4)
    if name == "old weight_norm":
        with pytest.raises(pv.ArgumentError, match=re.escape(f"Take it off first: {remove}.")):
            pv.find_groups(model, x)
    else:
        reasons = [g.frozen for g in pv.find_groups(model, x) if g.name in ("0", "2") and g.frozen]
        assert reasons
        for reason in reasons:
            assert reason.endswith(f"the weight of '2': take {kind} off first: {remove}")
    eval(remove, {"torch": torch, "layer": model[2]})
    assert [g.frozen for g in pv.find_groups(model, x)][:2] == ["", ""]
    assert pv.prune(model, x, sparsity=0.5)[2].weight.shape == (3, 4)


def test_spectral_norm_and_what_it_does_not_touch():
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 5))
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), spectral, nn.ReLU(), nn.Linear(5, 2))
    assert set(names(pv.find_groups(model, BATCH)).values()) == {
        "it meets the weight of '2': take spectral_norm off first: "
        "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')",
        OUTPUT,
    }


NORMS = {
    "LayerNorm": nn.LayerNorm(4),
    "RMSNorm": nn.RMSNorm(4),
    "GroupNorm": nn.GroupNorm(2, 4),
}


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_over_units_is_approximate(kind):
    model = nn.Sequential(nn.Linear(3, 4), NORMS[kind], nn.ReLU(), nn.Linear(4, 2))
    why = f"a {kind} runs over these units"
    exact = pv.find_groups(model, BATCH)["0"]
    assert exact.frozen == f"{why}: cut them with find_groups(..., approximate=True)"
    free = pv.find_groups(model, BATCH, approximate=True)["0"]
    assert (free.frozen, free.approximate) == ("", why)
    assert (free.even is not None) == (kind == "GroupNorm")


def test_a_groupnorm_of_single_channels_is_exact():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(4, 4), nn.Conv2d(4, 2, 1))
    group = pv.find_groups(model, torch.randn(2, 1, 5, 5))["0"]
    assert (group.frozen, group.approximate) == ("", "")


# -- what is passed ------------------------------------------------------------------------------


def test_example_inputs():
    def forward(self, x, y):
        return self.head(torch.cat([self.a(x).relu(), self.b(y).relu()], 1))

    model = net(forward, a=nn.Linear(3, 4), b=nn.Linear(2, 5), head=nn.Linear(9, 2))
    x, y = torch.randn(2, 3), torch.randn(2, 2)
    for example in ((x, y), [x, y], {"x": x, "y": y}, {"y": y, "x": x}):
        assert pv.find_groups(model, example).names == ("a", "b", "head")


WRONG = "`example_input` must be a tensor, a tuple of arguments or a dict of keyword arguments, its first dimension the examples, but "
COULD = "`model` (Sequential) could not run on one example of `example_input`, "
FIRST = "(the first dimension must be that of the examples)."
BAD = {
    "text": ("x", f"{WRONG}a str was passed."),
    "nothing": (None, f"{WRONG}None was passed."),
    "array": (BATCH.numpy(), f"{WRONG}a ndarray was passed."),
    "no tensor": ([], f"{WRONG}a list without a tensor was passed."),
    "no example": (
        BATCH[:0],
        f"{WRONG}the first tensor has shape (0, 3), and so holds no example.",
    ),
    "shape": (
        torch.zeros(2, 5),
        f"{COULD}float32[2, 5]: RuntimeError: mat1 and mat2 shapes cannot be multiplied (2x5 and 3x4) {FIRST}",
    ),
    "dtype": (
        torch.zeros(2, 3, dtype=torch.int64),
        f"{COULD}int64[2, 3]: RuntimeError: mat1 and mat2 must have the same dtype, but got Long and Float (its weights are torch.float32: pass x.to(torch.float32), scaled as in training).",
    ),
    "name": (
        {"y": BATCH},
        f"{COULD}y=float32[2, 3]: TypeError: Sequential.forward() got an unexpected keyword argument 'y' {FIRST}",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_example_input(name):
    example, message = BAD[name]
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)).train()
    before = snapshot(model)
    with refused(message):
        pv.find_groups(model, example)
    assert_untouched(model, before)


def test_no_model():
    with refused("`model` must be a torch.nn.Module, but a str was passed."):
        pv.find_groups("resnet18", BATCH)


def test_a_lazy_layer():
    message = "layer '0' has no shape yet (a lazy layer). Run the model once, then prune it."
    with refused(message):
        pv.find_groups(nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 2)), BATCH)


class Odd(nn.Module):
    def __init__(self, do) -> None:
        super().__init__()
        self.fc1, self.fc2, self.do = nn.Linear(3, 4), nn.Linear(4, 2), do

    def forward(self, x):
        return self.fc2(self.do(self.fc1(x)))


def raising(x):
    raise RuntimeError("boom")


def printing(x):
    print("here", tuple(x.shape))
    return x.relu()


def deciding(x):
    return x.relu() if x.sum() > 0 else x


def test_a_forward_that_raises():
    with refused(
        "`model` (Odd) could not run on one example of `example_input`, float32[2, 3]: RuntimeError: "
        f"boom {FIRST}"
    ):
        pv.find_groups(Odd(raising), BATCH)


def test_a_forward_that_prints(capsys):
    assert not pv.find_groups(Odd(printing), BATCH)["fc1"].frozen
    assert "here" in capsys.readouterr().out


def test_a_forward_that_decides_by_values_is_no_graph():
    start = re.escape("`model` (Odd) cannot be traced by torch.export: ")
    end = re.escape(
        "Move what it does to values of tensors (if x.sum() > 0, .item(), numpy) out of forward."
    )
    with pytest.raises(pv.GraphError, match=f"^{start}.*{end}$"):
        pv.find_groups(Odd(deciding), BATCH)


def test_torchscript():
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.warns(DeprecationWarning):
        script = torch.jit.script(model)
    with pytest.raises(pv.GraphError, match="is a TorchScript module"):
        pv.find_groups(script, BATCH)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wrappers_are_removed(wrap):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    assert pv.find_groups(wrap(model), BATCH).names == ("0", "2")


def test_under_inference_mode():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        inside = pv.find_groups(model, torch.randn(2, 3))
    assert inside.names == pv.find_groups(model, BATCH).names == ("0", "2")


# -- no trace ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_no_trace(name):
    model, x = build(name), inputs()
    model.register_forward_hook(lambda *call: None)
    model.train()
    before, data = snapshot(model), bits(x)
    if name == "raising":
        with pytest.raises(pv.ArgumentError, match="boom"):
            pv.find_groups(model, x)
    else:
        pv.find_groups(model, x)
    assert_untouched(model, before)
    assert bits(x) == data


def test_modes_and_seeds_do_not_matter():
    model = build("cnn")
    x = inputs()
    frames = []
    for training in (True, False):
        model.train(training)
        for approximate in (True, False):
            torch.manual_seed(training)
            frames.append(pv.find_groups(model, x, approximate=approximate).to_frame())
    assert all(frame.equals(frames[0]) for frame in frames)


def test_gradients_on_or_off():
    model = build("cnn")
    with torch.no_grad():
        first = pv.find_groups(model, inputs())
    assert first.to_frame().equals(pv.find_groups(model, inputs()).to_frame())


def test_two_threads_find_groups_at_once():
    model, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), torch.randn(2, 4)
    start = threading.Barrier(2)

    def work(_: int) -> list[str]:
        start.wait(10)
        return [repr(pv.find_groups(model, x)) for _ in range(8)]

    with ThreadPoolExecutor(2) as pool:
        found = [text for texts in pool.map(work, range(2)) for text in texts]
    assert set(found) == {repr(pv.find_groups(model, x))}


class Halves(nn.Module):
    """Blocks whose halves go to different layers: the same number of units from each half."""

    def __init__(self, blocks):
        super().__init__()
        self.wide = nn.ModuleList(nn.Linear(4, 4) for _ in range(blocks))
        self.left = nn.ModuleList(nn.Linear(2, 4) for _ in range(blocks))
        self.right = nn.ModuleList(nn.Linear(2, 4) for _ in range(blocks))

    def forward(self, x):
        for wide, left, right in zip(self.wide, self.left, self.right, strict=True):
            a, b = torch.tanh(wide(x)).chunk(2, -1)
            x = left(a) + right(b)
        return x


def test_in_a_deep_model_the_last_block_is_as_even_as_the_first():
    groups = pv.find_groups(Halves(50), torch.zeros(2, 4))
    for i in range(50):  # rows 0 and 2 of a layer are removed together, and rows 1 and 3
        (group,) = groups.groups_of(f"wide.{i}")
        rows = next(s.index for s in group.slices if s.tensor == f"wide.{i}.weight")
        assert rows.tolist() == [[0, 2], [1, 3]]

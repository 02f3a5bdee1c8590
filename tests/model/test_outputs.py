"""Every part of what a model returns is compared, must be equal, or is refused."""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict, namedtuple
from functools import partial

import numpy as np
import pytest
import torch
from helpers import refused
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

import pruneviz as pv
from pruneviz.model.outputs import first_difference, outputs_of, places_not_finite

Pair = namedtuple("Pair", "a b")
T = torch.arange(2.0)


@dataclasses.dataclass
class Record:
    logits: Tensor
    name: str = "x"


class Slots:
    __slots__ = ("t",)

    def __init__(self) -> None:
        self.t = T


class Plain:
    def __init__(self) -> None:
        self.kept = {"t": T}


@pytest.mark.parametrize(
    ("output", "tensors", "others"),
    [
        (T, ["output"], {}),
        ((T, None), ["output[0]"], {"output[1]": None}),
        ([T, [T, "w"]], ["output[0]", "output[1][0]"], {"output[1][1]": "w"}),
        (Pair(T, 3), ["output[0]"], {"output[1]": 3}),
        ({"a": T, 2: True}, ["output['a']"], {"output[2]": True}),
        (OrderedDict(a=T), ["output['a']"], {}),
        (BaseModelOutput(last_hidden_state=T), ["output['last_hidden_state']"], {}),
        (Record(T), ["output.logits"], {"output.name": "x"}),
        (Slots(), ["output.t"], {}),
        (Plain(), ["output.kept['t']"], {}),
        ((T, {"a", "b"}), ["output[0]"], {"output[1]": {"a", "b"}}),
        ((T, T.dtype, nn.Linear, T.shape), ["output[0]"], {"output[1]": T.dtype, "output[2]": nn.Linear, "output[3][0]": 2}),
        (np.ones(2), ["output"], {}),
        ((T, np.array(["a"])), ["output[0]"], {"output[1][0]": "a"}),
        (0.5, ["output"], {}),
        ((np.float32(1), 1j), ["output[0]", "output[1]"], {}),
        (T.to_sparse(), ["output"], {}),
        (torch.nested.nested_tensor([T, T], layout=torch.jagged), ["output[0]", "output[1]"], {}),
    ],
)  # fmt: skip
def test_what_is_compared_and_what_must_be_equal(output, tensors, others):
    found = outputs_of(output)
    assert list(found.tensors) == tensors
    assert all(isinstance(t, Tensor) and t.layout == torch.strided for t in found.tensors.values())
    assert dict(found.others) == others


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_a_quantised_tensor_is_compared_by_its_numbers():
    found = outputs_of(torch.quantize_per_tensor(T, 0.5, 0, torch.qint8))
    assert torch.equal(found.tensors["output"], T)


def closed():
    t = T
    return lambda: t


HIDDEN = {
    "a generator": (x for x in [T]),
    "a list_iterator": iter([T]),
    "a function": closed(),
    "a Linear": nn.Linear(1, 1),
    "a set": {T},
    "a partial": partial(torch.relu, T),
    "a Generator": torch.Generator(),
}


@pytest.mark.parametrize("what", HIDDEN)
def test_what_may_hide_a_tensor_is_refused_and_named(what):
    message = f"`model` returns {what} at output[1], which cannot be compared. Wrap it in a module that returns only what should be compared."  # fmt: skip
    with refused(message):
        outputs_of((T, HIDDEN[what]))
    loop: list = [T]
    loop.append(loop)
    with refused(
        "`model` returns a list at output[1], which contains itself. Wrap it in a module that "
        "returns only what should be compared."
    ):
        outputs_of(loop)


@pytest.mark.parametrize(
    "output",
    [None, [], {}, "text", 3, ["a", None], {"a"}, Pair(1, "b")],
)
def test_an_output_without_a_tensor_is_refused(output):
    with pytest.raises(pv.ArgumentError, match="without a tensor: there is nothing to compare"):
        outputs_of(output)


def test_differences_and_places():
    assert (
        first_difference({"output[1]": "a"}, {"output[1]": "b"}) == "output[1] is 'a' and not 'b'"
    )
    assert first_difference({"output[1]": 1}, {"output[1]": True}) == "output[1] is 1 and not True"
    gone = first_difference({"output[1]": 1}, {})
    assert gone == "output[1] is returned by one of them only"
    mixed = {"a": T, "b": T / 0, "c": torch.tensor([1, 2]), "d": T * torch.nan, "e": T > 0}
    assert places_not_finite(mixed) == ["b", "d"]


class Net(nn.Module):
    """Returns its width beside the output, or what `beside` makes."""

    def __init__(self, beside=lambda net: None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.slope = nn.Linear(4, 6), nn.Linear(6, 2), 0.0
        self.beside = beside

    def forward(self, x):
        h = self.a(x)
        return self.b(torch.relu(h) + self.slope * torch.relu(h - 100)), self.beside(self)


X = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))


def width(net: Net) -> int:
    return net.a.out_features


def test_a_cut_that_changes_what_is_returned_beside_the_tensors_is_refused():
    model = Net(width).eval()
    plan = pv.drop(pv.find_groups(model, X), {"a": [1]})
    with pytest.raises(pv.GraphError, match=r"output\[1\] is 5 and not 6, as in the whole model"):
        pv.shrink(model, plan, example_input=X)
    constant = Net(lambda net: "logits").eval()
    assert pv.shrink(constant, plan, example_input=X).a.out_features == 5


def test_certify_compares_every_part():
    model = Net(width).eval()
    other = copy.deepcopy(model)
    other.a.out_features = 7  # only said, not used
    with refused(
        "the outputs of the two models on batch 1 cannot be compared: output[1] is 7 and not 6. Pass "
        "the model that the smaller one was made from, and let both return the same parts."
    ):
        pv.certify(model, other, [X])
    less = Net(lambda net: None).eval()
    more = Net(lambda net: net.b.bias).eval()
    with pytest.raises(pv.ArgumentError, match=r"output\[1\] is returned by one of them only"):
        pv.certify(less, more, [X])
    with pytest.raises(pv.ArgumentError, match="they hold no number"):
        pv.certify(nn.Flatten(1), nn.Flatten(1), [torch.zeros(3, 0)])


def test_the_same_tensors_in_another_model_are_observed_and_never_exact():
    model = Net().eval()
    assert pv.certify(model, copy.deepcopy(model), [X]).kind == "exact"
    other = copy.deepcopy(model)
    other.slope = 3.0  # no example here comes that far
    assert pv.certify(model, other, [X]).kind == "observed"
    assert pv.certify(model, other, [X * 1000]).kind == "approximate"
    activation = nn.Sequential(nn.Linear(4, 3), nn.LeakyReLU(0.1), nn.Linear(3, 2)).eval()
    steeper = copy.deepcopy(activation)
    steeper[1].negative_slope = 0.2
    with torch.no_grad():
        for net in (activation, steeper):
            net[0].weight.copy_(activation[0].weight)
            net[0].bias.fill_(100.0)  # always positive on these examples
    assert pv.certify(activation, steeper, [X]).kind == "observed"


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_and_infinity_are_never_equal(value):
    class Odd(Net):
        def forward(self, x):
            y, _ = super().forward(x)
            return torch.where(torch.arange(2) == 1, value, y)

    model = Odd().eval()
    with pytest.raises(pv.ArgumentError, match="holds NaN or infinity, at output"):
        pv.certify(model, copy.deepcopy(model), [X])
    groups = pv.find_groups(model, X)
    with pytest.raises(pv.GraphError, match="returns NaN or infinity on the example, at output"):
        pv.shrink(model, pv.drop(groups, {"a": [1]}), example_input=X)
    data = X.clone()
    data[3] = torch.nan  # in the data alone
    with pytest.raises(pv.ArgumentError, match="on batch 2 cannot be compared"):
        pv.certify(Net().eval(), Net().eval(), [X, data])

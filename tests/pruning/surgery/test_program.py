"""What `as_program=True` returns is a model: it has a mode, layers, and all verbs take it."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pruneviz as pv
from pruneviz.model.forward import copy_of


class Literal(nn.Module):
    """Its Python holds a size, so only its graph can become smaller."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.each = nn.Conv2d(1, 6, 3), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.drop = nn.BatchNorm2d(6), nn.Dropout(0.5)
        self.wide, self.out = nn.Linear(96, 10), nn.Linear(10, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.each(self.conv(x)))).view(-1, 96)
        return self.out(self.drop(torch.relu(self.wide(x))))


torch.manual_seed(0)
MODEL = Literal()
X = torch.randn(40, 1, 6, 6)
Y = copy_of(MODEL).eval()(X).argmax(1)
GROUPS = pv.find_groups(MODEL, X)
PLAN = pv.select(pv.score(MODEL, "l2", groups=GROUPS), sparsity=0.5)


def program(**options) -> nn.Module:
    return pv.shrink(MODEL, PLAN, example_input=X, as_program=True, **options)


PROGRAM = program()


def test_modes_are_flags():
    new = program()
    assert new.training
    train = new.train()(X)
    assert new.eval() is new
    assert not any(m.training for m in new.modules())
    assert torch.equal(new(X), train)  # neither dropout nor batch norm follows
    assert new.train().training
    again = copy_of(new.eval())
    assert not again.training
    assert again.train().training
    assert torch.equal(again(X), new(X))
    mixed = Literal()
    mixed.wide.eval()
    flags = {n: m.training for n, m in pv.shrink(mixed, PLAN, example_input=X, as_program=True).named_modules()}  # fmt: skip
    assert flags == {"": True, "conv": True, "each": True, "norm": True, "wide": False, "out": True}


def test_layers_are_layers():
    assert list(PROGRAM.state_dict()) == list(MODEL.state_dict())
    assert PROGRAM.wide.in_features == 48
    assert PROGRAM.each.groups == PROGRAM.each.in_channels == 3
    seen = []
    with pv.hooked(PROGRAM, ["conv", "each", "wide", "out"], lambda n, i, o: seen.append(n)):
        PROGRAM(X)
    assert seen == ["conv", "each", "wide", "out"]


def test_readers_take_it():
    assert pv.accuracy(PROGRAM, [(X, Y)]) == int((PROGRAM(X).argmax(1) == Y).sum()) / 40
    assert torch.equal(pv.predict(PROGRAM, X), PROGRAM(X).argmax(1))
    assert pv.compare_accuracy(MODEL, PROGRAM, [(X, Y)]).examples == 40
    evidence = pv.collect(PROGRAM, [(X, Y)], loss=F.cross_entropy, progress=False)
    assert set(evidence.inputs) == {"conv", "each", "wide", "out"}
    assert pv.measure(PROGRAM, X).params == sum(p.numel() for p in PROGRAM.parameters())
    assert pv.certify(MODEL, PROGRAM, [X]).kind == "approximate"
    exported = torch.export.export(PROGRAM, (X,)).module()
    assert torch.equal(exported(X), PROGRAM(X))


@pytest.mark.parametrize("rung", ["fold", "merge", "lstsq"])
def test_repairs_bring_it_nearer(rung):
    learn = torch.randn(400, 1, 6, 6, generator=torch.Generator().manual_seed(5))

    def error(model: nn.Module) -> float:
        return float((model(learn) - MODEL.eval()(learn)).square().mean())

    with torch.no_grad():
        repaired = error(program(repair=rung, batches=[learn]))
        assert repaired < error(PROGRAM)
        if rung == "lstsq":  # layer after layer, not each alone
            alone = program(repair=rung, evidence=pv.collect(MODEL, [learn], progress=False))
            assert repaired < 1.05 * error(alone)  # it learns from nine tenths only


def test_it_is_trained_and_pruned_again():
    tuned = pv.fit(PROGRAM, [(X, Y)], epochs=2, progress=False)
    groups = pv.find_groups(tuned, X)
    assert [g.name for g in groups.cuttable] == ["conv", "wide"]
    plan = pv.drop(groups, {"wide": [0, 1]})
    small = pv.shrink(tuned, plan, example_input=X, as_program=True)
    assert small.wide.out_features == 3
    torch.testing.assert_close(small(X), pv.mask(tuned, plan)(X))


def test_a_weight_that_another_operator_reads_too():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.conv = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 2, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            x = torch.tanh(self.first(x))
            other = F.conv2d(x, self.conv.weight, self.conv.bias, stride=2)
            return other, self.conv(x), self.conv(x * 2)

    model, x = Twice(), torch.randn(2, 1, 6, 6)
    plan = pv.drop(pv.find_groups(model, x), {"first": [1]})
    found = pv.shrink(model, plan, example_input=x, as_program=True)
    seen = []
    with pv.hooked(found, ["conv"], lambda n, i, o: seen.append(o.shape)):
        outputs = found(x)
    assert seen == [(2, 2, 5, 5)] * 2
    for got, want in zip(outputs, pv.shrink(model, plan, example_input=x)(x), strict=True):
        torch.testing.assert_close(got, want)


@settings(max_examples=8)
@given(
    *(st.integers(1, 2), st.integers(1, 2), st.sampled_from([0, 1, "same"]), st.integers(1, 2)),
    *(st.booleans(), st.sampled_from([1, 3]), st.sampled_from(["zeros", "circular"])),
)
def test_convolutions_of_all_settings(groups, stride, padding, dilation, bias, kernel, mode):
    assume(padding != "same" or stride == 1)
    second = nn.Conv1d(4, 4, kernel, stride, padding, dilation, groups, bias, mode)
    model = nn.Sequential(nn.Conv1d(1, 4, 1), nn.Tanh(), second, nn.Flatten(), nn.LazyLinear(2))
    x = torch.randn(3, 1, 9)
    model(x)
    plan = pv.drop(pv.find_groups(model, x), {"0": [0, 2]})
    found = pv.shrink(model, plan, example_input=x, as_program=True)
    torch.testing.assert_close(found(x), pv.shrink(model, plan, example_input=x)(x))
    assert isinstance(found.get_submodule("2"), nn.Conv1d) == (mode == "zeros")

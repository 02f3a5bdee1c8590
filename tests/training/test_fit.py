from __future__ import annotations

import math
import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    assert_untouched,
    batches,
    bits,
    build,
    cnn,
    inputs,
    labels,
    mlp,
    refused,
    snapshot,
    state,
)
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import pruneviz as pv

fit = partial(pv.fit, progress=False)


def loss(model, data):
    with pv.evaluating(model):
        return sum(F.cross_entropy(model(x), y).item() for x, y in data)


@pytest.mark.parametrize("make", [mlp, cnn])
def test_fit_learns(make):
    model = make()
    data = batches()
    tuned = fit(model, data, epochs=20, lr=0.02)
    assert loss(tuned, data) < 0.5 * loss(model, data)
    assert pv.accuracy(tuned, data) > pv.accuracy(model, data)


def test_no_epoch_and_no_learning_rate_change_no_weight(small_model):
    assert state(fit(small_model, batches(), epochs=0)) == state(small_model)
    assert state(fit(small_model, batches(), lr=0)) == state(small_model)


def shuffled():
    return DataLoader(list(zip(inputs(9), labels(9), strict=True)), batch_size=2, shuffle=True)


def test_the_seed_decides_everything():
    model = cnn()
    first = state(fit(model, shuffled(), seed=3))
    torch.rand(7)
    assert state(fit(model, shuffled(), seed=3)) == first
    assert state(fit(model, shuffled(), seed=4)) != first


def test_frozen_parameters_stay():
    model = cnn()
    model[0].weight.requires_grad_(False)
    tuned = fit(model, batches(), lr=0.1, optimizer=partial(torch.optim.AdamW, weight_decay=0.5))
    assert torch.equal(tuned[0].weight, model[0].weight)
    assert not tuned[0].weight.requires_grad
    assert not torch.equal(tuned[0].bias, model[0].bias)


@pytest.mark.parametrize("name", ["cnn", "mixed", "masked"])
def test_training_flags_come_back(name):
    model = build(name)
    flags = {n: m.training for n, m in model.named_modules()}
    assert {n: m.training for n, m in fit(model, batches()).named_modules()} == flags
    model.eval()
    assert not any(m.training for m in fit(model, batches()).modules())


def test_a_model_in_eval_mode_is_trained_in_train_mode():
    model = cnn().eval()
    assert not torch.equal(fit(model, batches())[1].running_mean, model[1].running_mean)


def test_the_result_has_no_gradients():
    assert all(p.grad is None for p in fit(build("mlp"), batches()).parameters())


def test_fit_works_where_gradients_are_off(small_model):
    with torch.no_grad():
        tuned = fit(small_model, batches(), lr=0.1)
    assert state(tuned) != state(small_model)
    assert tuned[1].weight.requires_grad


class Spy(torch.optim.SGD):
    """Notes the learning rate of every step."""

    seen: list[float]

    def step(self, *args):
        self.seen.append(self.param_groups[0]["lr"])
        return super().step(*args)


@pytest.fixture
def spy():
    Spy.seen = []
    return Spy


def test_the_learning_rate_falls_along_half_a_cosine(small_model, spy):
    fit(small_model, batches(count=3), epochs=2, lr=0.1, optimizer=spy)
    want = [0.1 * (1 + math.cos(math.pi * t / 6)) / 2 for t in range(6)]
    assert spy.seen == pytest.approx(want)


class Stream(IterableDataset):
    """Has no length."""

    def __iter__(self):
        yield from zip(inputs(9), labels(9), strict=True)


UNSIZED = {
    "generator": lambda: (batch for batch in batches(count=4)),
    "stream": lambda: DataLoader(Stream(), batch_size=3),
}


@pytest.mark.parametrize("kind", UNSIZED)
def test_every_batch_counts_where_their_number_is_unknown(small_model, spy, kind):
    fit(small_model, UNSIZED[kind](), lr=0.1, optimizer=spy)
    assert len(spy.seen) == {"generator": 4, "stream": 3}[kind]
    assert spy.seen == sorted(spy.seen, reverse=True)
    assert min(spy.seen) > 0


def test_a_generator_is_enough_for_one_epoch(small_model):
    data = batches()
    assert loss(fit(small_model, iter(data), lr=0.05), data) < loss(small_model, data)


def test_optimizer_and_loss_are_free():
    model = nn.Linear(2, 1, bias=False)
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    y = torch.tensor([[3.0], [-2.0]])
    tuned = fit(model, [(x, y)], epochs=200, lr=0.5, loss=F.mse_loss, optimizer=torch.optim.SGD)
    torch.testing.assert_close(tuned.weight, torch.tensor([[3.0, -2.0]]), atol=0.01, rtol=0)


def test_the_data_is_not_changed(small_model):
    data = batches()
    before = [(bits(x), bits(y)) for x, y in data]
    fit(small_model, data)
    assert [(bits(x), bits(y)) for x, y in data] == before


def test_progress_is_shown_only_where_asked(small_model, capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE")  # as our tests set it
    fit(small_model, batches())
    assert capsys.readouterr().err == ""
    pv.fit(small_model, batches(), epochs=2)
    assert capsys.readouterr().err == ""  # a log file: nobody sees it move
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    pv.fit(small_model, batches(), epochs=2)
    assert "epoch 2 of 2" in capsys.readouterr().err


def nan_data():
    return [*batches(count=1), (torch.full((5, 1, 6, 6), math.nan), labels())]


def nothing_to_train():
    return mlp().requires_grad_(False)


EMPTY = (
    "`batches` is empty: there is nothing to train on in epoch 1. Pass an iterable of batches; a "
    "generator runs only once."
)
USED_UP = EMPTY.replace("epoch 1", "epoch 2")
NO_PARAMETER = (
    "`model` has no parameter to train. Set requires_grad to True on some of them."
)  # fmt: skip
BAD_CALLS = [
    (mlp, list, {}, EMPTY),
    (mlp, lambda: [(inputs(0), labels(0))], {"loss": lambda a, b: a.sum()}, EMPTY),
    (mlp, lambda: iter([]), {"epochs": 2}, EMPTY),
    (mlp, lambda: iter(batches()), {"epochs": 2}, USED_UP),
    (mlp, nan_data, {}, "the value of `loss` became nan in epoch 1, batch 2 of `batches`. Try a smaller `lr`, and look for NaN in the data."),
    (mlp, batches, {"loss": lambda a, b: a.sum() * math.inf, "epochs": 2}, "the value of `loss` became"),
    (nothing_to_train, batches, {}, NO_PARAMETER),
    (nn.Flatten, batches, {}, NO_PARAMETER),
    (mlp, batches, {"epochs": -1}, "`epochs` must be a whole number ≥ 0, but -1 was passed."),
    (mlp, batches, {"epochs": 1.5}, "`epochs` must be a whole number ≥ 0, but 1.5 was passed."),
    (mlp, batches, {"lr": -0.1}, "`lr` must be a number ≥ 0, but -0.1 was passed."),
    (mlp, batches, {"lr": math.nan}, "`lr` must be a number ≥ 0, but nan was passed."),
    (mlp, batches, {"lr": "0.1"}, "`lr` must be a number ≥ 0, but '0.1' was passed."),
    (lambda: mlp, batches, {}, "`model` must be a torch.nn.Module, but a function was passed."),
]  # fmt: skip


@pytest.mark.parametrize(("make", "data", "options", "message"), BAD_CALLS)
def test_a_bad_call_is_refused(make, data, options, message):
    model = make()
    before = snapshot(model) if isinstance(model, nn.Module) else None
    if (
        message == "the value of `loss` became"
    ):  # plus or minus infinity, as the weights will have it
        expect = pytest.raises(
            pv.ArgumentError,
            match=r"^the value of `loss` became -?inf in epoch 1, batch 1 of `batches`",
        )
    else:
        expect = refused(message)
    with expect:
        fit(model, data(), **options)
    if before:
        assert_untouched(model, before)

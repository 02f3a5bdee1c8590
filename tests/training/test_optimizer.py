"""After a mask, an optimizer goes on as if the mask had been there before, weight by weight."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from helpers import refused
from torch import nn

import pruneviz as pv

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
}


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.LSTM(6, 3))


def step(model, optimizer, x):
    optimizer.zero_grad()
    model(x)[0].square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_state_follows_the_names(name):
    model, x = net(), torch.randn(5, 4)
    optimizer = OPTIMIZERS[name](model.parameters())
    for _ in range(3):
        step(model, optimizer, x)
    plan = pv.select(pv.score(model, "magnitude"), sparsity=0.5)
    masked = pv.mask(model, plan)
    assert [p.shape for p in masked.parameters()] != [p.shape for p in model.parameters()]
    before = copy.deepcopy(optimizer.state_dict())
    carried = pv.carry_optimizer(optimizer, model, masked)
    assert type(carried) is type(optimizer)
    # by hand: the same step on the plain model, with zeros as the mask holds them
    plain = pv.bake(masked)
    by_hand = OPTIMIZERS[name](plain.parameters())
    by_hand.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # it would share tensors
    step(masked, carried, x)
    by_hand.zero_grad()
    plain(x)[0].square().sum().backward()
    for weight, keep in plan.keep.items():
        plain.get_parameter(weight).grad.mul_(keep)
    by_hand.step()
    after = pv.named_weights(masked)
    for weight, keep in plan.keep.items():
        torch.testing.assert_close(after[weight], plain.get_parameter(weight) * keep)
    torch.testing.assert_close(masked[0].bias, plain[0].bias)
    again = pv.carry_optimizer(carried, masked, pv.bake(masked))  # and back
    assert len(again.state) == len(carried.state) == 6
    for new, old in zip(
        optimizer.state_dict()["state"].values(), before["state"].values(), strict=True
    ):
        assert all(torch.equal(torch.as_tensor(new[k]), torch.as_tensor(v)) for k, v in old.items())


def test_what_does_not_belong_together_is_refused():
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with refused(
        "`optimizer` has a parameter of shape (6, 4) that `before` has not. Pass the model whose "
        "parameters it was made with."
    ):
        pv.carry_optimizer(optimizer, net(), model)
    with refused(
        "'0.weight' has the shape (2, 4) in `after`, but has the shape (6, 4) in `before`. For a "
        "smaller model make a new optimizer: torch.optim.SGD(after.parameters(), lr=0.1)."
    ):
        pv.carry_optimizer(optimizer, model, nn.Sequential(nn.Linear(4, 2)))
    with refused(
        "`optimizer` must be an Optimizer, but a str was passed. Pass the one that was in use."
    ):
        pv.carry_optimizer("SGD", model, model)


def test_what_the_docs_of_mask_say_of_saving():
    model = net()
    masked = pv.mask(model, pv.select(pv.score(model, "magnitude"), sparsity=0.5))
    with pytest.raises(RuntimeError, match="state_dict"):
        torch.save(masked, io.BytesIO())
    file = io.BytesIO()
    torch.save(pv.bake(masked), file)
    file.seek(0)
    same, x = torch.load(file, weights_only=False), torch.randn(5, 4)
    torch.testing.assert_close(same(x)[0], masked(x)[0])
    pv.mask(model, pv.select(pv.score(model, "random"), sparsity=0.5)).load_state_dict(
        masked.state_dict()
    )

"""The loop of gradient steps: one step for each batch, at the rate that is given."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import pruneviz as pv
from pruneviz.pruning.repair.gradient import checked_value, descend, half_cosine, one_cycle


def test_descend_takes_the_steps_that_a_loop_by_hand_takes() -> None:
    torch.manual_seed(0)
    x, rates = torch.randn(4, 5, 3), [0.1, 0.2, 0.0, 0.3]
    ours, by_hand = nn.Linear(3, 1), nn.Linear(3, 1)
    by_hand.load_state_dict(ours.state_dict())
    values = list(
        descend(torch.optim.SGD(ours.parameters()), x, lambda b: ours(b).square().mean(), rates)
    )
    expected = []
    for batch, rate in zip(x, rates, strict=True):
        value = by_hand(batch).square().mean()
        expected.append(value.item())
        gradients = torch.autograd.grad(value, list(by_hand.parameters()))
        with torch.no_grad():
            for p, g in zip(by_hand.parameters(), gradients, strict=True):
                p -= rate * g
    assert values == pytest.approx(expected)
    for a, b in zip(ours.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(a, b)
        assert a.grad is None  # no trace


@pytest.mark.parametrize("rate", [half_cosine, one_cycle])
def test_rates_end_at_0_and_never_leave_0_to_1(rate) -> None:
    values = [rate(i / 100) for i in range(131)]
    assert all(0 <= v <= 1 for v in values)
    assert values[100:] == pytest.approx([0] * 31)
    assert max(values) == pytest.approx(1)


def test_one_cycle_is_that_of_torch() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=101, div_factor=25, cycle_momentum=False
    )
    for i in range(101):
        # torch counts 100 steps, and lets the rate rise for one step less
        assert one_cycle(i / 100) == pytest.approx(cycle.get_last_lr()[0], abs=0.06)
        optimizer.step()
        if i < 100:
            cycle.step()


BAD = [
    (3.0, "`match` must return a tensor, but it returned a float. Compute it with torch, from the outputs of the model."),
    (torch.zeros(2, requires_grad=True), "`match` must return a scalar, but its shape is (2,). Take the mean over the batch."),
    (torch.tensor(1.0), "`match` has no gradient: the model's forward, or `match`, detaches what it computes. Remove .detach() and torch.no_grad() there."),
    (torch.tensor(math.nan, requires_grad=True), "the value of `match` became nan in step 3. Try a smaller `lr`, and look for NaN in the data."),
]  # fmt: skip


@pytest.mark.parametrize(("value", "message"), BAD)
def test_what_cannot_be_minimised_is_refused(value: Tensor, message: str) -> None:
    with pytest.raises(pv.ArgumentError) as e:
        checked_value(value, "match", "in step 3")
    assert str(e.value) == message

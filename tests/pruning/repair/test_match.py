"""How far the answers of two models are apart: by hand, with and without classes, masks and units."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pruneviz as pv
from pruneviz.model.batches import Batch
from pruneviz.pruning.repair.answers import Answered, answers_to
from pruneviz.pruning.repair.match import Match


class Table(nn.Module):
    """Gives rows of a table: an output that a test can write down."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = nn.Parameter(rows)

    def forward(self, i: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return self.rows[i]


def value(now: Tensor, whole: Tensor, targets: Tensor | None = None, **more: Tensor) -> float:
    index = torch.arange(len(whole))
    inputs = {"i": index, **more} if more else index
    answers = answers_to(Table(whole), [Batch(inputs, targets)], own=False)
    return float(Match(answers).value(Table(now), answers[0]).detach())


def test_numbers_are_compared_by_squared_error_as_a_share_of_the_variance() -> None:
    whole = torch.tensor([[1.0], [3.0], [5.0], [7.0]])  # variance 5
    assert value(whole + 1, whole) == pytest.approx(1 / 5)
    assert value(whole.mean().expand(4, 1).clone(), whole) == pytest.approx(1)
    two = torch.cat([whole, 100 * whole], 1)
    # with targets that are numbers, each column in its own unit, and no softmax
    assert value(two + torch.tensor([1.0, 100.0]), two, two) == pytest.approx(1 / 5)
    # a constant column has no variance: its mean square is the measure
    constant = torch.full((4, 1), 2.0)
    assert value(constant + 0.02, constant) == pytest.approx(0.02**2 / (1e-4 * 4), rel=1e-4)


def test_classes_are_compared_by_divergence_too() -> None:
    torch.manual_seed(0)
    whole, now = torch.randn(50, 4), torch.randn(50, 4)
    p, q = whole.softmax(1), now.softmax(1)
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    error = ((now - whole) ** 2 / whole.var(0, correction=0)).mean()
    assert value(now, whole) == pytest.approx(float(divergence + error), rel=1e-5)
    assert value(whole, whole) == pytest.approx(0, abs=1e-9)


def test_classes_are_found_in_texts_images_and_by_labels() -> None:
    torch.manual_seed(0)
    whole, now = torch.randn(6, 5, 3), torch.randn(6, 5, 3)

    def by_hand(dim: int) -> float:
        a, b = (t.movedim(dim, -1).flatten(0, -2) for t in (now, whole))
        kl = F.kl_div(a.log_softmax(1), b.log_softmax(1), log_target=True, reduction="batchmean")
        return float(kl + ((a - b) ** 2 / b.var(0, correction=0)).mean())

    assert value(now, whole) == pytest.approx(by_hand(2), rel=1e-5)
    assert value(now, whole, torch.zeros(6, 5).long()) == pytest.approx(by_hand(2), rel=1e-5)
    assert value(now, whole, torch.zeros(6, 3).long()) == pytest.approx(by_hand(1), rel=1e-5)
    whole, now = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2)
    assert value(now, whole) == pytest.approx(by_hand(1), rel=1e-5)


def test_padded_tokens_do_not_count() -> None:
    torch.manual_seed(0)
    whole, now = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    other = now.clone()
    other[mask == 0] = 1e3
    kept = value(now[mask == 1], whole[mask == 1])
    assert value(now, whole, attention_mask=mask) == pytest.approx(kept, rel=1e-5)
    assert value(other, whole, attention_mask=mask) == pytest.approx(kept, rel=1e-5)


def test_what_has_another_shape_is_named() -> None:
    answers = answers_to(Table(torch.randn(4, 3)), [Batch(torch.arange(4))], own=False)
    with pytest.raises(
        pv.ArgumentError, match=r"^output is of shape \(4, 2\) in the pruned model, and of"
    ):
        Match(answers).value(Table(torch.randn(4, 2)), answers[0])


def test_batches_of_one_form_are_mixed_and_others_drawn_as_they_are() -> None:
    table = Table(torch.randn(400, 2))
    parts = [Batch(p) for p in torch.arange(400).split(130)]
    mixed = Answered(answers_to(table, parts, own=False), seed=3)
    drawn = mixed.drawn()
    first = [next(drawn) for _ in range(10)]
    assert {a.batch.examples for a in first} == {40}
    seen = torch.cat([a.batch.inputs for a in first])
    assert sorted(seen.tolist()) == list(range(400))  # each once before any comes again
    assert seen.tolist() != list(range(400))
    for a in first:
        torch.testing.assert_close(a.tensors["output"], table.rows[a.batch.inputs])
    again = mixed.drawn()
    assert next(again).batch.inputs.tolist() == first[0].batch.inputs.tolist()
    assert torch.cat([a.batch.inputs for a in mixed.in_order()]).tolist() == list(range(400))

    different = [Batch({"i": torch.zeros(n, n).long()}) for n in (2, 3)]
    single = Answered(answers_to(table, different, own=False), seed=0)
    assert single.joined is None
    drawn = single.drawn()
    assert sorted(next(drawn).batch.examples for _ in range(2)) == [2, 3]


def test_answers_that_are_too_many_are_computed_again(monkeypatch) -> None:
    table = Table(torch.randn(40, 2))
    parts = [Batch(p) for p in torch.arange(40).split(10)]
    kept = Answered(answers_to(table, parts, own=False), seed=0)
    monkeypatch.setattr("pruneviz.pruning.repair.answers.KEPT", 30)
    rest = Answered(answers_to(table, parts, own=False), seed=0)
    assert [bool(a.tensors) for a in rest.answers] == [True, False, False, False]
    for a, b in zip(kept.in_order(), rest.in_order(), strict=True):
        torch.testing.assert_close(a.outputs(), b.outputs())


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_answers_that_are_not_finite_are_refused(bad: float) -> None:
    rows = torch.zeros(4, 2)
    rows[2] = bad
    with pytest.raises(
        pv.ArgumentError, match=r"learns the answers of `model`, but for `x` output holds NaN"
    ):
        answers_to(Table(rows), [Batch(torch.arange(4))], own=False)

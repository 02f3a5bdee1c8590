from __future__ import annotations

import pytest
import torch
from helpers import batches, inputs, labels, refused
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import pruneviz as pv

SAID = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=30)


def logits(classes):
    return torch.eye(4)[list(classes)]


@given(SAID, st.integers(1, 7))
def test_accuracy_is_the_share_of_right_classes_however_batched(pairs, size):
    said, true = zip(*pairs, strict=True)
    data = list(zip(logits(said).split(size), torch.tensor(true).split(size), strict=True))
    want = sum(a == b for a, b in pairs) / len(pairs)
    assert pv.accuracy(nn.Identity(), data) == pytest.approx(want)


@given(st.lists(st.integers(0, 3), max_size=10))
def test_predict_gives_the_class_of_the_highest_logit(classes):
    got = pv.predict(nn.Identity(), 3 * logits(classes) - 1)
    assert got.tolist() == classes
    assert got.dtype == torch.int64
    assert got.device.type == "cpu"
    assert not got.requires_grad


def test_the_model_is_judged_in_eval_mode():
    model = nn.Sequential(nn.Dropout(0.9), nn.Identity())
    x, y = torch.eye(50), torch.arange(50)
    assert pv.accuracy(model, [(x, y)]) == 1
    assert pv.predict(model, x).tolist() == y.tolist()


def test_accuracy_takes_a_generator(small_model):
    assert pv.accuracy(small_model, iter(batches())) == pv.accuracy(small_model, batches())


def test_empty_batches_among_others_do_not_count():
    x, y = torch.eye(3), torch.tensor([0, 1, 0])
    assert pv.accuracy(nn.Identity(), [(x[:0], y[:0]), (x, y)]) == pytest.approx(2 / 3)


EMPTY = (
    "`batches` is empty: there is nothing to judge by. "
    "Pass an iterable of batches; a generator runs only once."
)


@pytest.mark.parametrize("data", [[], [(inputs(0), labels(0))]])
def test_no_example_is_refused(small_model, data):
    with refused(EMPTY):
        pv.accuracy(small_model, data)


def test_a_used_up_generator_is_refused(small_model):
    data = iter(batches())
    pv.accuracy(small_model, data)
    with refused(EMPTY):
        pv.accuracy(small_model, data)


class Returns(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value


LOGITS = "`model` must return logits of shape (examples, classes), but it returned"


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (torch.zeros(5), "(5,)"),
        (torch.tensor(1.0), "()"),
        ((None, torch.zeros(5, 3)), "tuple"),
        ({"scores": torch.zeros(5, 3)}, "dict"),
    ],
)
def test_what_are_no_logits_is_refused(value, got):
    message = f"{LOGITS} {got}. Wrap it in a module that returns its logits."
    with refused(message):
        pv.predict(Returns(value), inputs())
    with refused(message):
        pv.accuracy(Returns(value), [(inputs(), labels())])


@pytest.mark.parametrize("shape", [(5, 1), (1,), (1, 5)])
def test_labels_of_another_shape_are_refused(small_model, shape):
    # compared as they are they would broadcast, and count pairs that do not belong together
    with pytest.raises(pv.ArgumentError, match="labels"):
        pv.accuracy(small_model, [(inputs(), torch.zeros(shape, dtype=torch.int64))])


def test_what_is_no_model_is_refused():
    with refused("`model` must be a torch.nn.Module, but None was passed."):
        pv.predict(None, inputs())


# -- one label for each position -----------------------------------------------------------------


@st.composite
def positioned(draw):
    """Logits with the classes in the second and in the last dimension, and labels, some ignored."""
    n, classes = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    sides = draw(st.lists(st.integers(1, 4).filter(lambda s: s != classes), min_size=1, max_size=3))
    g = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    logits = torch.randn(n, classes, *sides, generator=g)
    y = torch.randint(classes, (n, *sides), generator=g)
    y[torch.rand(y.shape, generator=g) < draw(st.sampled_from([0, 0.4]))] = -100
    return logits, y


@given(positioned(), st.integers(1, 3))
def test_labels_of_positions_decide_where_the_classes_are(case, size):
    second, y = case
    kept = y != -100
    if not kept.any():
        return
    want = float((second.argmax(1) == y)[kept].float().mean())
    for logits in (second, second.movedim(1, -1)):
        data = list(zip(logits.split(size), y.split(size), strict=True))
        assert pv.accuracy(nn.Identity(), data, ignore_index=-100) == pytest.approx(want)
        judge = pv.Accuracy(data, ignore_index=-100)
        found = judge.columns(nn.Identity())
        assert found["metric"] == judge(nn.Identity()) == pytest.approx(want)
        assert found["low"] <= want <= found["high"]
        assert found["examples"] == int(kept.flatten(1).any(1).sum())
        assert judge.positions == int(kept.sum())
    assert torch.equal(pv.predict(nn.Identity(), second, dim=1), second.argmax(1))
    assert torch.equal(pv.predict(nn.Identity(), logits, dim=-1), second.argmax(1))


def test_logits_are_taken_out_of_what_a_model_returns():
    z, y = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    want = pv.accuracy(nn.Identity(), [(z, y)])
    for value in ({"logits": z}, {"out": z, "aux": None}, (z, None), [z, z]):
        assert pv.accuracy(Returns(value), [(inputs(), y)]) == want


def test_what_fits_in_two_ways_is_refused_and_the_advice_helps():
    logits, y = torch.randn(4, 6, 6), torch.randint(6, (4, 6))
    with pytest.raises(pv.ArgumentError, match=r"in two ways: .* x\[:, 1:\], labels\[:, 1:\]"):
        pv.accuracy(nn.Identity(), [(logits, y)])
    want = float((logits[:, 1:].argmax(-1) == y[:, 1:]).float().mean())
    assert pv.accuracy(nn.Identity(), [(logits[:, 1:], y[:, 1:])]) == pytest.approx(want)
    images, y = torch.randn(4, 6, 6, 6), torch.randint(6, (4, 6, 6))  # torch's way
    want = float((images.argmax(1) == y).float().mean())
    assert pv.accuracy(nn.Identity(), [(images, y)]) == pytest.approx(want)
    with pytest.raises(pv.ArgumentError, match="Pass dim=-1 for"):
        pv.predict(nn.Identity(), logits)
    assert pv.predict(nn.Identity(), logits, dim=-1).shape == (4, 6)
    with pytest.raises(pv.ArgumentError, match="`dim` must be a dimension of the logits"):
        pv.predict(nn.Identity(), logits, dim=3)


def test_labels_that_fit_no_dimension_are_refused():
    with pytest.raises(pv.ArgumentError, match=r"shape \(4, 5\) or \(4, 7\) for logits"):
        pv.accuracy(nn.Identity(), [(torch.zeros(4, 7, 5), torch.zeros(4, dtype=torch.long))])
    y = torch.full((4, 5), -100)
    with pytest.raises(pv.ArgumentError, match="all labels of `batches` are -100"):
        pv.accuracy(nn.Identity(), [(torch.zeros(4, 7, 5), y)], ignore_index=-100)
    y[0] = 7
    with pytest.raises(pv.ArgumentError, match="a label of batch 1 of `batches` is 7, but classes"):
        pv.accuracy(nn.Identity(), [(torch.zeros(4, 7, 5), y)], ignore_index=-100)


def test_flattened_logits_are_counted_by_their_examples():
    """A language model may return (n · positions, classes)."""

    class Flat(nn.Module):
        def forward(self, x):
            return x.flatten(0, 1)

    x, y = torch.randn(4, 5, 3), torch.randint(3, (20,))
    want = pv.Accuracy([(x, y.reshape(4, 5))]).columns(nn.Identity())
    assert pv.Accuracy([(x, y)]).columns(Flat())["low"] == pytest.approx(want["low"])

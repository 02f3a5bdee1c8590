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
        (torch.zeros(5, 3, 2, 2), "(5, 3, 2, 2)"),
        (torch.tensor(1.0), "()"),
        ((torch.zeros(5, 3), None), "tuple"),
        ({"logits": torch.zeros(5, 3)}, "dict"),
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

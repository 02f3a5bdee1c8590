from __future__ import annotations

import pickle

import pytest
import torch
from helpers import MODELS, assert_untouched, batches, build, inputs, labels, mlp, refused, snapshot
from torch import nn

import pruneviz as pv
from pruneviz.metrics.evaluator import columns_of


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"raising", "random"}))
def test_it_is_the_accuracy(name):
    model, data = build(name), batches(n=30, count=3)
    before = snapshot(model)
    assert pv.Accuracy(data)(model) == pv.accuracy(model, data)
    assert_untouched(model, before)


def test_batches_are_read_once_and_cut_to_what_a_cpu_likes():
    judge = pv.Accuracy((inputs(n), labels(n)) for n in (1200, 3))
    assert judge.total == 1203
    rows = judge.laid_out(mlp())
    assert [len(y) for _, y in rows] == [500, 500, 200, 3]
    images = judge.laid_out(build("cnn"))
    assert [len(y) for _, y in images] == [100] * 12 + [3]
    assert torch.equal(torch.cat([x for x, _ in images]), torch.cat([x for x, _ in rows]))
    model = mlp()
    assert judge(model) == judge(model)  # the generator was read once
    assert repr(judge) == "Accuracy on 1,203 examples"


def test_examples_are_drawn_once_without_replacement():
    x = torch.arange(50.0).view(50, 1)
    data = [(x[:20], x[:20, 0].long()), (x[20:], x[20:, 0].long())]
    before = torch.get_rng_state()
    judge = pv.Accuracy(data, examples=20, seed=3)
    assert torch.equal(before, torch.get_rng_state())
    ((drawn, y),) = judge.batches
    assert torch.equal(drawn[:, 0].long(), y)
    assert len(set(y.tolist())) == 20
    assert y.tolist() == sorted(y.tolist())
    ((_, again),) = pv.Accuracy(data, examples=20, seed=3).batches
    ((_, other),) = pv.Accuracy(data, examples=20, seed=4).batches
    assert torch.equal(y, again)
    assert not torch.equal(y, other)
    assert pv.Accuracy(data, examples=50).total == 50


def test_columns_hold_wilsons_interval():
    found = pv.Accuracy(batches(n=20)).columns(mlp())
    right = round(found["metric"] * 40)
    assert found == {
        "metric": right / 40, "low": pv.accuracy_interval(right, 40)[0], "high": pv.accuracy_interval(right, 40)[1],
        "examples": 40,
    }  # fmt: skip


def test_it_travels_without_its_layouts():
    judge = pv.Accuracy(batches(n=30))
    model = build("cnn")
    size = len(pickle.dumps(judge))
    found = judge(model), judge(mlp().eval())
    assert len(pickle.dumps(judge)) == size
    assert pickle.loads(pickle.dumps(judge))(model) == found[0]


def test_inputs_may_be_anything_a_model_takes():
    class Two(nn.Linear):
        def forward(self, a):
            return a

    class Pair(dict):  # as a BatchEncoding: it has `to`, and holds keyword arguments
        def to(self, device):
            return self

    judge = pv.Accuracy([(Pair(a=torch.eye(3)), torch.tensor([0, 1, 1]))])
    assert judge(Two(1, 1)) == 2 / 3


EMPTY = "`batches` is empty: there is nothing to judge by. Pass an iterable of batches; a generator runs only once."  # fmt: skip
BAD = [
    (lambda: pv.Accuracy([]), EMPTY),
    (lambda: pv.Accuracy([(inputs(0), labels(0))]), EMPTY),
    (lambda: pv.Accuracy([inputs()]), "batch 1 of `batches` must be a pair (inputs, targets), but has no targets. Pass a DataLoader of pairs, or [(inputs, targets)]."),
    (lambda: pv.Accuracy([(inputs(),)]), "batch 1 of `batches` must be a pair (inputs, targets), but has no targets. Pass a DataLoader of pairs, or [(inputs, targets)]."),
    (lambda: pv.Accuracy([(inputs(), [1, 2])]), "the labels of batch 1 of `batches` must be one class per example, whole numbers of shape (5,), but a list was passed. Convert them to a tensor: torch.as_tensor(labels)."),
    (lambda: pv.Accuracy(3), "`batches` must be an iterable of batches, such as a list of tensors or a DataLoader, but an int was passed."),
    (lambda: pv.Accuracy(batches(), examples=11), "`examples` must be at most 10, the number of examples, but 11 was passed."),
    (lambda: pv.Accuracy(batches(), examples=0), "`examples` must be a whole number ≥ 1, but 0 was passed."),
    (lambda: pv.Accuracy(batches(), examples=2, seed=-1), "`seed` must be a whole number ≥ 0, but -1 was passed."),
    (lambda: pv.Accuracy([({"a": inputs()}, labels())], examples=2), "`examples` draws from batches of tensors, (inputs, labels) of one length, but these batches are different. Leave it out to judge on all examples."),
    (lambda: pv.Accuracy([(inputs(), torch.eye(5))])(mlp()), "the labels of batch 1 of `batches` must be one class per example, whole numbers of shape (5,), but float32[5, 5] was passed. One-hot labels: labels.argmax(1)."),
    (lambda: pv.Accuracy(batches())(nn.Flatten(0)), "`model` must return logits of shape (examples, classes), but it returned (180,). Wrap it in a module that returns its logits."),
    (lambda: columns_of("accuracy"), "`evaluate` must be a function of a model, or pv.Accuracy(batches), but a str was passed."),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), BAD)
def test_bad_calls(call, message):
    with refused(message):
        call()

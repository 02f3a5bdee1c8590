"""One grammar of batches: every verb understands each form alike, or refuses with the same words."""

from __future__ import annotations

import copy
import pickle
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import numbers, refused
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset
from transformers import BatchEncoding

import pruneviz as pv
from pruneviz.model.batches import Batch, by_class, examples_in, first_n, listed, one_example, read
from pruneviz.model.layout import fast_batches
from pruneviz.study.whatif import WhatIf

SIZES = 4, 3


class Two(nn.Module):
    """Two inputs: taken for (inputs, targets), they would give something else."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        return self.b(torch.relu(self.norm(self.a(x if shift is None else x + 2 * shift))))


def model() -> nn.Module:
    torch.manual_seed(1)
    return Two().eval()


def data(number: int, n: int, inputs: int = 2) -> tuple[tuple[Tensor, ...], Tensor]:
    """Return the inputs and the labels of batch `number`, of n examples."""
    g = torch.Generator().manual_seed(number)
    return tuple(torch.randn(n, 4, generator=g) for _ in range(inputs)), torch.arange(n) % 3


def example(inputs: int) -> tuple[Tensor, ...]:
    return data(99, 2, inputs)[0]


def evidence(found: pv.Evidence) -> object:
    moments = [(m.mean, m.comoment) for m in found.inputs.values()]
    return [found.examples, moments, found.grad_sq, found.fisher]


def halved(x: object, criterion: str = "l2") -> pv.Plan:
    groups = pv.find_groups(model(), x)
    return pv.select(pv.score(model(), criterion, groups=groups), sparsity=0.5)


def sparse() -> pv.Plan:
    return pv.select(pv.score(model(), "magnitude"), sparsity=0.5)


def swept(batches: object, x: object) -> object:
    frame = pv.sweep(
        model(), x, criteria=["l2"], sparsities=[0.5], repair=["lstsq"], evaluate=numbers_in,
        batches=batches, progress=False,
    )  # fmt: skip
    return frame["metric"].tolist()


def sensed(batches: object, x: object) -> object:
    frame = pv.sensitivity(
        model(), x, criterion="l2", sparsities=[0.5], repair="lstsq", evaluate=numbers_in,
        batches=batches, progress=False,
    )  # fmt: skip
    return frame["metric"].tolist()


def numbers_in(module: nn.Module) -> float:
    return sum(abs(v) for v in numbers(module))


def compared(batches: object, x: object) -> object:
    other = model()
    with torch.no_grad():
        other.b.weight.mul_(-1)
    found = pv.compare_accuracy(model(), other, batches)
    return [found.labels, found.said_before, found.said_after]


def certified(batches: object, x: object) -> object:
    small = pv.shrink(model(), halved(x), example_input=x)
    found = pv.certify(model(), small, batches)
    return [found.max_error, found.scale, found.examples]


def carded(batches: object, x: object) -> object:
    groups = pv.find_groups(model(), x)
    card = pv.criterion_card(
        model(), batches, groups=groups, criteria=["taylor"], seeds=(0, 1), progress=False
    )
    return [s.values for s in card.scores.values()]


def asked(batches: object, x: object) -> object:
    what = WhatIf(model(), batches)
    plan = what.plan("unit", "l2", 0.5)
    return [what.labels, what.before, what.pruned(plan, "lstsq")]


def tuned(batches: object, x: object) -> object:
    return pv.prune_iteratively(
        model(), batches, sparsity=0.5, rounds=1, repair="lstsq", progress=False
    ).model


# verbs that need inputs only, and verbs that need targets: what they do with batches
INPUTS = {
    "collect": lambda b, x: evidence(pv.collect(model(), b, progress=False)),
    "recalibrate": lambda b, x: pv.recalibrate(model(), b),
    "effective_macs": lambda b, x: pv.effective_macs(model(), b)[["macs", "active"]].to_numpy()[:2],
    "certify": certified,
    "prune": lambda b, x: pv.prune(model(), x, sparsity=0.5, repair="lstsq", batches=b),
    "prune by evidence": lambda b, x: pv.prune(
        model(), x, sparsity=0.5, criterion="taylor", repair="merge", batches=b
    ),
    "shrink": lambda b, x: pv.shrink(
        model(), halved(x), example_input=x, repair="lstsq", batches=b
    ),
    "shrink, fold": lambda b, x: pv.shrink(
        model(), halved(x), example_input=x, repair="fold", batches=b
    ),
    "mask": lambda b, x: pv.mask(model(), sparse(), repair="lstsq", batches=b),
    "sweep": swept,
    "sensitivity": sensed,
}
TARGETS = {
    "collect with loss": lambda b, x: evidence(
        pv.collect(model(), b, loss=F.cross_entropy, progress=False)
    ),
    "accuracy": lambda b, x: pv.accuracy(model(), b),
    "Accuracy": lambda b, x: pv.Accuracy(b).columns(model()),
    "compare_accuracy": compared,
    "fit": lambda b, x: pv.fit(model(), list(b), epochs=2, lr=0.1, progress=False),
    "ablate": lambda b, x: (
        pv.ablate(model(), b, groups=pv.find_groups(model(), x), progress=False).values
    ),
    "criterion_card": carded,
    "prune_iteratively": lambda b, x: tuned(list(b), x),
    "WhatIf": asked,
}
VERBS = {**INPUTS, **TARGETS}

# the forms of inputs, and of a batch of them
ONE = {
    "tensor": lambda x: x,
    "tuple": lambda x: (x,),
    "dict": lambda x: {"x": x},
    "encoding": lambda x: BatchEncoding({"x": x}),
}
MANY = {
    "tuple": lambda x, shift: (x, shift),
    "list": lambda x, shift: [x, shift],
    "dict": lambda x, shift: {"shift": shift, "x": x},
    "encoding": lambda x, shift: BatchEncoding({"x": x, "shift": shift}),
}
WITH_TARGETS = {"pair": lambda x, y: (x, y), "list": lambda x, y: [x, y]}
WITHOUT = {
    "pair": lambda x, y: (x, None),
    "list": lambda x, y: [x, None],
    "single": lambda x, y: (x,),
}
BARE = {**WITHOUT, "bare": lambda x, y: x}  # a tuple alone would be a pair


class Stream(IterableDataset):
    def __init__(self, batches: list) -> None:
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


class Indexed:
    """Has no ``__iter__``: it is read by numbers."""

    def __init__(self, batches: list) -> None:
        self.batches = batches

    def __getitem__(self, i: int) -> object:
        return self.batches[i]


CONTAINERS = {
    "list": list,
    "tuple": tuple,
    "generator": lambda batches: (b for b in batches),
    "DataLoader": lambda batches: DataLoader(batches, batch_size=None, collate_fn=lambda b: b),
    "stream": Stream,
    "indexed": Indexed,
    "read before": lambda batches: list(read(batches, "test")),
}


@st.composite
def written(draw, *, targets: bool, empty: bool = True):
    """Draw batches in any form: (number of inputs, batches, the same in the plainest form)."""
    inputs = draw(st.sampled_from([1, 2]))
    batches, plain = [], []
    for number, n in enumerate(
        draw(st.lists(st.sampled_from([0, *SIZES] if empty else SIZES), min_size=1, max_size=4))
    ):
        x, y = data(number, n, inputs)
        form = draw(st.sampled_from(sorted(ONE if inputs == 1 else MANY)))
        given = (ONE if inputs == 1 else MANY)[form](*x)
        whole = WITH_TARGETS if targets else {**WITH_TARGETS, **WITHOUT}
        if not targets and form not in ("tuple", "list"):
            whole = {**whole, **BARE}
        batches.append(whole[draw(st.sampled_from(sorted(whole)))](given, y))
        if n:
            plain.append((x[0] if inputs == 1 else x, y if targets else None))
    if not plain:
        return draw(written(targets=targets, empty=False))
    return inputs, CONTAINERS[draw(st.sampled_from(sorted(CONTAINERS)))](batches), plain


@pytest.mark.parametrize("name", VERBS)
def test_every_form_is_understood_alike(name):
    steps = name in ("fit", "prune_iteratively")  # the learning rate follows the number of batches

    @settings(max_examples=8)
    @given(written(targets=name in TARGETS, empty=not steps))
    def check(case):
        inputs, batches, plain = case
        x = example(inputs)
        got, want = (numbers(VERBS[name](b, x)) for b in (batches, plain))
        assert got == pytest.approx(want, rel=1e-5, abs=1e-6, nan_ok=True)

    check()


@given(written(targets=False))
def test_the_reader_gives_one_normal_form(case):
    _, batches, plain = case
    found = list(read(batches, "test"))
    assert [b.examples for b in found] == [examples_in(x) for x, _ in plain]
    for batch, (x, _) in zip(found, plain, strict=True):
        assert type(batch.inputs) in (Tensor, tuple, dict)
        args, kwargs = batch.arguments
        given = [*args, *(kwargs[k] for k in ("x", "shift") if k in kwargs)]
        assert all(map(torch.equal, given, [x] if isinstance(x, Tensor) else x))
        (again,) = read([batch], "test")
        assert again is batch


def test_one_tensor_and_one_mapping_are_batches_too():
    x = torch.randn(150, 4)
    assert [b.examples for b in read(x, "test")] == [100, 50]
    (batch,) = read({"x": x, "k": 3}, "test")
    assert batch.arguments == ((), {"x": x, "k": 3})
    assert batch.targets is None


def test_a_dataloader_that_collates():
    x, y = data(0, 5)
    pairs = [((x[0][i], x[1][i]), y[i]) for i in range(5)]
    found = list(read(DataLoader(pairs, batch_size=3), "test"))
    assert [b.examples for b in found] == [3, 2]
    assert torch.equal(torch.cat([b.inputs[1] for b in found]), x[1])
    (bare,) = read(DataLoader(TensorDataset(x[0]), batch_size=5), "test")
    assert torch.equal(bare.inputs, x[0])
    assert bare.targets is None
    named = [{"x": x[0][i], "shift": x[1][i]} for i in range(5)]
    assert pv.collect(model(), DataLoader(named, batch_size=5), progress=False).examples == 5


X, Y = data(0, 4, 1)[0][0], data(0, 4)[1]
ITERABLE = (
    "`batches` must be an iterable of batches, such as a list of tensors or a DataLoader, but"
)
SAY = "must be a tensor, a tuple of arguments or a dict of keyword arguments, its first dimension the examples, but"  # fmt: skip
PARTS = "must be inputs, or a pair (inputs, targets), but has {} parts. Put several inputs into one tuple: ((a, b), targets)."  # fmt: skip


class Items(Dataset):
    def __getitem__(self, i: int) -> object:
        return X[i], Y[i]


REFUSED = {
    "a number": (7, f"{ITERABLE} an int was passed."),
    "a word": ("batches", f"{ITERABLE} a str was passed."),
    "a class": (DataLoader, f"{ITERABLE} the class DataLoader was passed."),
    "examples": (TensorDataset(X, Y), f"{ITERABLE} a TensorDataset was passed."),
    "examples by number": (Items(), f"{ITERABLE} an Items was passed."),
    "three parts": ([(X, Y, Y)], f"batch 1 of `batches` {PARTS.format(3)}"),
    "no part": ([(X, Y), ()], f"batch 2 of `batches` {PARTS.format(0)}"),
    "words": ([(X, Y), ("text", Y)], f"the inputs of batch 2 of `batches` {SAY} a str was passed."),
    "no tensor": (
        [({"x": 3}, Y)],
        f"the inputs of batch 1 of `batches` {SAY} a dict without a tensor was passed.",
    ),
    "no dimension": (
        [(torch.tensor(1.0), Y)],
        f"the inputs of batch 1 of `batches` {SAY} the first tensor has shape (), and so holds no example.",
    ),
}
EMPTY = {"no batch": [], "no example": [(X[:0], Y[:0])], "used up": iter([])}
NO_TARGETS = "batch 2 of `batches` must be a pair (inputs, targets), but has no targets. Pass a DataLoader of pairs, or [(inputs, targets)]."  # fmt: skip


def call(name: str, batches: object) -> object:
    if name == "fit":
        return pv.fit(model(), batches, progress=False)
    if name == "prune_iteratively":
        return tuned(batches, X)
    return VERBS[name](batches, X)


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("what", REFUSED)
def test_every_verb_refuses_with_the_same_words(name, what):
    batches, message = REFUSED[what]
    with refused(message):
        call(name, batches)


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("what", EMPTY)
def test_every_verb_says_that_there_is_no_example(name, what):
    with pytest.raises(
        pv.ArgumentError, match=r"^`batches` is empty: there is nothing to [a-z 1]+\. Pass an "
        r"iterable of batches; a generator runs only once\.$",
    ):  # fmt: skip
        call(name, EMPTY[what])


@pytest.mark.parametrize("name", sorted(set(TARGETS) - {"collect with loss", "prune_iteratively"}))
@pytest.mark.parametrize("batch", [X, (X,), (X, None), {"x": X}])
def test_every_verb_that_needs_targets_says_so(name, batch):
    with refused(NO_TARGETS):
        call(name, [(X, Y), batch])


@pytest.mark.parametrize("name", VERBS)
def test_a_forward_that_raises_names_the_batch(name):
    with pytest.raises(
        pv.ArgumentError,
        match=r"`model` \(Two\) could not run on batch 2 of `batches`, float32\[4, 5\]: RuntimeError",
    ):
        call(name, [(X, Y), (torch.zeros(4, 5), Y)])


LABELS = "the labels of batch 2 of `batches` must be one class per example, whole numbers of shape (4,), but {}"  # fmt: skip
BAD_LABELS = [
    (F.one_hot(Y, 5), "int64[4, 5] was passed. One-hot labels: labels.argmax(1)."),
    (Y[:, None], "int64[4, 1] was passed. Flatten them: labels.flatten()."),
    (Y[:3], "int64[3] was passed. There must be as many labels as examples in every batch."),
    (Y.double(), "float64[4] was passed. Convert them to whole numbers: labels.long()."),
    (Y.tolist(), "a list was passed. Convert them to a tensor: torch.as_tensor(labels)."),
    (torch.tensor(1), "int64[] was passed. There must be as many labels as examples in every batch."),
]  # fmt: skip


@pytest.mark.parametrize(("labels", "message"), BAD_LABELS)
def test_labels_that_are_no_classes_are_refused_with_the_same_words(labels, message):
    batches = [(X, Y), (X, labels)]
    for judge in (
        *(VERBS[name] for name in ("accuracy", "Accuracy", "compare_accuracy")),
        lambda b, x: by_class(b),
    ):
        with refused(LABELS.format(message)):
            judge(batches, X)
    with pytest.raises(pv.ArgumentError) as error:
        WhatIf(model(), batches)
    assert str(error.value).startswith(LABELS.format(message))


# faults of the time when each verb read batches in its own way


@pytest.mark.parametrize("repair", ["none", "lstsq", "merge"])
@pytest.mark.parametrize("criterion", ["l2", "taylor"])
def test_prune_takes_a_tuple_of_inputs_for_inputs(repair, criterion):
    (x, shift), y = data(0, 20)
    options = {"sparsity": 0.5, "criterion": criterion, "repair": repair}
    want = pv.prune(model(), (x, shift), batches=[({"x": x, "shift": shift}, y)], **options)
    got = pv.prune(model(), (x, shift), batches=[((x, shift), y)], **options)
    assert numbers(got) == numbers(want)


@pytest.mark.parametrize("form", MANY)
def test_fit_takes_several_inputs(form):
    x, y = data(0, 20)
    got = pv.fit(model(), [(MANY[form](*x), y)], epochs=3, lr=0.1, progress=False)
    opt = torch.optim.Adam((want := model()).parameters(), lr=0.1)
    want.train()
    for epoch in range(3):
        opt.param_groups[0]["lr"] = 0.1 * (1 + np.cos(np.pi * epoch / 3)) / 2
        loss = F.cross_entropy(want(*x), y)
        opt.zero_grad()
        loss.backward()
        opt.step()
    assert numbers(got) == pytest.approx(numbers(want), rel=1e-5, abs=1e-6)


def test_fit_takes_targets_in_any_form():
    (x, shift), y = data(0, 8)

    def loss(outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(outputs, targets["classes"])

    got = pv.fit(model(), [((x, shift), {"classes": y})], loss=loss, progress=False)
    want = pv.fit(model(), [((x, shift), y)], progress=False)
    assert numbers(got) == numbers(want)


def test_an_encoding_is_keyword_arguments_for_every_judge():
    (x, shift), y = data(0, 9)
    plain, encoded = [((x, shift), y)], [(BatchEncoding({"shift": shift, "x": x}), y)]
    assert pv.accuracy(model(), encoded) == pv.accuracy(model(), plain)
    assert pv.Accuracy(encoded)(model()) == pv.Accuracy(plain)(model())
    assert first_n(BatchEncoding({"x": x, "k": 2}), 3)["x"].shape == (3, 4)
    assert one_example(BatchEncoding({"x": x}))[1]["x"].shape == (1, 4)


def test_learn_may_be_one_tensor():
    x, y = data(0, 12, 1)
    groups = pv.find_groups(model(), x)
    card = partial(
        pv.criterion_card, model(), [(x[0], y)], groups=groups, criteria=["taylor"], seeds=(0, 1),
        progress=False,
    )  # fmt: skip
    got, want = (card(learn=learn).scores["taylor"].values for learn in (x[0], [x[0]]))
    assert numbers(got) == numbers(want)
    with refused("batch 1 of `learn` " + PARTS.format(3)):
        card(learn=[(x[0], y, y)])


def test_an_empty_batch_is_left_out_and_counted():
    seen = pv.recalibrate(model(), [X[:0], X])
    assert numbers(seen) == numbers(pv.recalibrate(model(), [X]))
    with refused(f"batch 3 of `batches` {PARTS.format(0)}"):
        pv.collect(model(), [X[:0], X, ()], progress=False)


def test_a_part_of_a_batch_keeps_its_place():
    x, y = torch.randn(1200, 4), torch.arange(1200) % 3
    found = fast_batches([(X, Y), (x, y)], model=model())
    assert [b.examples for b in found] == [4, 500, 500, 200]
    assert [b.place[6] for b in found] == ["1", "2", "2", "2"]
    for made in (copy.deepcopy, lambda b: pickle.loads(pickle.dumps(b))):
        again = made(found[2])
        assert isinstance(again, Batch)
        assert again.place == "batch 2 of `batches`"
        assert torch.equal(again.targets, found[2].targets)


def test_listed_batches_have_no_targets():
    (batch,) = listed([(X, Y)], "test")
    assert batch == (X, None)
    assert batch.place == "batch 1 of `batches`"

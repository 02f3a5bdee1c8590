"""Losses of single examples, for logits of every shape; gradients against a loop over examples."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import pruneviz as pv
from pruneviz.evidence.losses import Losses
from pruneviz.model.batches import Batch

PAD = -100


class Language(nn.Module):
    """Logits (n, t, classes) of tokens."""

    def __init__(self, classes: int = 7, wrap=lambda z: z) -> None:
        super().__init__()
        self.table, self.mix = nn.Embedding(9, 6), nn.Linear(6, 8)
        self.head, self.wrap = nn.Linear(8, classes), wrap

    def forward(self, ids: Tensor):
        return self.wrap(self.head(torch.tanh(self.mix(self.table(ids)))))


class Segments(nn.Module):
    """Logits (n, classes, height, width) of pixels."""

    def __init__(self, wrap=lambda z: z) -> None:
        super().__init__()
        self.mix, self.head, self.wrap = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 3, 1), wrap

    def forward(self, x: Tensor):
        return self.wrap(self.head(torch.tanh(self.mix(x))))


def data(kind: str) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    if kind == "text":
        x, y = torch.randint(9, (6, 5), generator=g), torch.randint(7, (6, 5), generator=g)
        y[:, 3:][torch.rand(6, 2, generator=g) < 0.6] = PAD
        return x, y
    y = torch.randint(3, (6, 4, 5), generator=g)
    y[0, :2] = PAD
    return torch.randn(6, 2, 4, 5, generator=g), y


WRAPS = {
    "tensor": lambda z: z,
    "dict": lambda z: {"logits": z},
    "object": lambda z: SimpleNamespace(logits=z),
    "tuple": lambda z: (z, None),
}


def squares(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """The mean over the examples of the squares of the gradients, by torch."""
    found: dict[str, Tensor] = {}
    plain = type(model)()
    plain.load_state_dict(model.state_dict())
    for i in range(len(x)):
        logits = plain(x[i : i + 1])
        rows = logits if logits.ndim == 4 else logits.transpose(1, 2)
        params = dict(plain.named_parameters())
        grads = torch.autograd.grad(F.cross_entropy(rows, y[i : i + 1]), list(params.values()))
        for name, g in zip(params, grads, strict=True):
            found[name] = found.get(name, 0) + g**2 / len(x)
    return found


@pytest.mark.parametrize("wrap", ["tensor", "dict", "tuple"])
@pytest.mark.parametrize(
    "loss", [F.cross_entropy, nn.CrossEntropyLoss()], ids=["function", "class"]
)
@pytest.mark.parametrize("kind", ["text", "image"])
def test_gradients_of_positions_are_those_of_single_examples(kind, loss, wrap):
    x, y = data(kind)
    model = (Language if kind == "text" else Segments)(wrap=WRAPS[wrap])
    found = pv.collect(model, [(x[:4], y[:4]), (x[4:], y[4:])], loss=loss, progress=False)
    want = squares(model, x, y)
    for name, g in found.grad_sq.items():
        torch.testing.assert_close(g.float(), want[name], rtol=1e-4, atol=1e-9)
    # the drawn ones do not depend on the batches, and padding gets no label
    again = pv.collect(model, [(x, y)], loss=loss, progress=False)
    for name, g in again.fisher.items():
        torch.testing.assert_close(g, found.fisher[name], rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("wrap", WRAPS)
def test_classes_are_drawn_where_there_are_labels(wrap):
    y = torch.randint(3, (400, 10))
    y[:, 7:] = PAD
    logits = torch.tensor([0.5, 0.3, 0.2]).log().expand(400, 10, 3)
    for z in (logits, logits.transpose(1, 2)):
        drawn = Losses(F.cross_entropy, None, 0).drawn(WRAPS[wrap](z), y)
        assert bool((drawn[:, 7:] == PAD).all())
        share = drawn[:, :7].flatten().bincount(minlength=3) / 2800
        torch.testing.assert_close(share, torch.tensor([0.5, 0.3, 0.2]), atol=0.04, rtol=0)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(5, 6), st.booleans())
def test_the_loss_of_each_example_is_that_of_it_alone(n, t, classes, last):
    y, z = torch.randint(classes, (n, t)), torch.randn(n, classes, t, requires_grad=True)
    y[:, 1:][torch.rand(n, t - 1) < 0.5] = PAD
    want = [F.cross_entropy(z[i : i + 1], y[i : i + 1]) for i in range(n)]
    for loss in (F.cross_entropy, nn.CrossEntropyLoss()):
        batch = Batch(torch.zeros(n, t), y)
        found = Losses(loss, None, 0).of_each(z.transpose(1, 2) if last else z, batch, y)
        torch.testing.assert_close(found, torch.stack(want))


def test_a_loss_of_ones_own_gets_the_outputs_as_they_are():
    seen = []

    def loss(outputs, targets):
        seen.append(outputs)
        return F.cross_entropy(outputs["logits"].flatten(0, 1), targets.flatten())

    x, y = data("text")
    found = pv.collect(Language(wrap=WRAPS["dict"]), [(x, y)], loss=loss, progress=False)
    assert all(isinstance(s, dict) for s in seen)
    assert found.grad_sq


def test_two_readings_of_the_labels_are_refused():
    x = torch.randint(9, (6, 7))
    with pytest.raises(pv.ArgumentError, match="in two ways"):
        pv.collect(Language(), [(x, x % 7)], loss=F.cross_entropy, progress=False)
    # the advice
    assert pv.collect(Language(), [(x[:, 1:], x[:, 1:] % 7)], loss=F.cross_entropy, progress=False)


def test_what_a_criterion_learns_from_the_targets_of_a_loader():
    """A language model: its labels cannot be drawn before they say where the classes are."""
    x, y = data("text")
    model = Language()
    for options in ({}, {"loss": F.cross_entropy}):
        small = pv.prune(model, x, sparsity=0.5, criterion="obs", batches=[(x, y)], **options)
        assert small.mix.out_features < 8
    own = pv.Session(model, x, batches=[(x, y)]).evidence(gradients=True)
    want = squares(model, x, y)
    torch.testing.assert_close(own.grad_sq["mix.weight"].float(), want["mix.weight"], rtol=1e-4, atol=1e-9)  # fmt: skip
    with pytest.raises(pv.ArgumentError, match=r"Pass draw=\.\.\., or the `loss` and"):
        pv.prune(model, x, sparsity=0.5, criterion="obs", batches=[x])
    drawn = []

    def draw(outputs, generator):
        drawn.append(outputs.argmax(-1))
        return drawn[-1]

    small = pv.prune(model, x, sparsity=0.5, criterion="obs", batches=[x], draw=draw)
    assert small.mix.out_features < 8
    assert len(drawn) == 1


def test_a_regression_says_which_loss_to_pass():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    x, y = torch.randn(20, 4), torch.randn(20, 2)
    call = {"sparsity": 0.5, "criterion": "obs", "batches": [(x, y)]}
    with pytest.raises(pv.ArgumentError, match="pass the `loss` that the model was trained with"):
        pv.prune(model, x, **call)
    assert pv.prune(model, x, loss=F.mse_loss, **call)[0].out_features < 8
    frame = {"criterion": "obs", "sparsities": [0.5], "batches": [(x, y)], "progress": False,
             "groups": pv.find_groups(model, x), "evaluate": lambda m: 0.0}  # fmt: skip
    with pytest.raises(pv.ArgumentError, match="pass the `loss` that the model was trained with"):
        pv.sensitivity(model, x, **frame)
    assert len(pv.sensitivity(model, x, loss=F.mse_loss, **frame)) == 1
    frame["criteria"] = [frame.pop("criterion")]
    assert len(pv.sweep(model, x, loss=F.mse_loss, **frame)) == 1
    evidence = pv.collect(model, [(x, y)], loss=F.mse_loss, progress=False)
    assert len(pv.sweep(model, x, **{**frame, "evidence": evidence})) == 1
    one = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    call["batches"] = [(x, (y[:, 0] > 0).long())]  # one logit: no class can be drawn
    with pytest.raises(pv.ArgumentError, match=r"Pass draw=\.\.\., or the `loss` and"):
        pv.prune(one, x, **call)

    def loss(z, y):
        return F.binary_cross_entropy_with_logits(z[:, 0], y.float())

    assert pv.prune(one, x, loss=loss, **call)[0].out_features < 8


def test_labels_in_a_column_are_those_of_examples():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    x, y = torch.randn(20, 4), torch.randint(3, (20, 1))
    one, two = (pv.Session(model, x, batches=b).evidence(gradients=True) for b in ([(x, y)], [x]))
    assert torch.equal(one.fisher["0.weight"], two.fisher["0.weight"])


def test_training_reads_logits_of_positions():
    x, y = data("text")
    y = torch.where(y == PAD, y, x % 7)
    new = pv.fit(Language(), [(x, y)], epochs=60, lr=0.02, progress=False)
    assert pv.accuracy(new, [(x, y)], ignore_index=PAD) > 0.9

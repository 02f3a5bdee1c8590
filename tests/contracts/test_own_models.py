"""The panels and your own model: other types of numbers, other batches, and what goes wrong."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import pruneviz as pv


def begins(message):
    return pytest.raises(pv.ArgumentError, match=f"^{re.escape(message)}")


X = torch.rand(60, 3, 8, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(60) % 5


def colour():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip


def strip(model, batches, x=X, y=Y, **k):
    return pv.panel_strip(model, x[:4], y[:4], batches=batches, **k)


PANELS = {
    "weights": lambda m, b: pv.panel_weights(m, batches=b),
    "strip": strip,
    "neurons": lambda m, b: pv.panel_neurons(m, X[:4], batches=b),
    "inactive": lambda m, b: pv.panel_inactive(m, b),
    "redundant": lambda m, b: pv.panel_redundant(m, X[:4], batches=b),
    "whatif": lambda m, b: pv.panel_whatif(m, b, criterion="l2", repair="none"),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("name", PANELS)
def test_numbers_of_any_width(name, dtype):
    x, model = X.to(dtype), colour().to(dtype)
    made = {
        "neurons": lambda m, b: pv.panel_neurons(m, x[:4], batches=b),
        "redundant": lambda m, b: pv.panel_redundant(m, x[:4], batches=b),
        "strip": lambda m, b: strip(m, b, x),
    }
    panel = {**PANELS, **made}[name](model, [(x, Y)])
    slider = panel.controls[
        "threshold" if name == "redundant" else "rare" if name == "inactive" else "sparsity"
    ]
    slider.value = 0.5
    if name == "weights":
        plan = pv.select(pv.score(model, "magnitude"), sparsity=0.5, scope="global")
        for tensor, keep in panel.result["plan"].keep.items():
            assert torch.equal(keep, plan.keep[tensor])
    assert panel.result
    assert panel.figure().axes
    panel.close()


def text():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(20, 12), nn.AdaptiveAvgPool2d((1, 12)), nn.Flatten(),
        nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2),
    ).eval()  # fmt: skip


def test_batches_of_several_lengths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = text()
    batches = [(torch.randint(20, (40, n)), torch.arange(40) % 2) for n in (5, 8, 6)]
    what = pv.panel_whatif(model, batches, sparsity=0.5, repair="lstsq")
    assert what.result["metric_before"] == pv.accuracy(model, batches)
    names = {"model": model, "batches": batches}
    exec(what.to_python(), names)
    assert pv.accuracy(names["small"], batches) == what.result["metric"]
    what.close()
    panel = pv.panel_inactive(model, batches)
    picture = panel._drawn[1]
    assert picture.shades.shape[1] == len(panel._shown[1])
    x = torch.cat([pv.activations(model, part, groups=panel._groups, group="3")
                   for part in panel._shown[0]], 1)  # fmt: skip
    assert np.array_equal(panel._activations["3"], x.numpy())
    panel.close()


def test_images_of_several_sizes_are_judged_and_not_shown():
    model = colour()
    batches = [(torch.rand(30, 3, s, s), Y[:30]) for s in (16, 12)]
    panel = pv.panel_whatif(model, batches, sparsity=0.6)
    assert 0 <= panel.result["metric"] <= 1
    assert panel._flipped({**panel.result, "worse": np.array([0, 59])}) is None
    panel.close()


def test_an_empty_batch_is_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    batches = [(X[:0], Y[:0]), (X, Y)]
    panel = pv.panel_whatif(colour(), batches, sparsity=0.5, criterion="l2", repair="none")
    assert panel.result["metric_before"] == pv.accuracy(colour(), [(X, Y)])
    names = {"panel": panel, "model": colour(), "batches": batches}
    exec(panel.to_python(), names)
    assert pv.accuracy(names["small"], [(X, Y)]) == panel.result["metric"]
    panel.close()
    with begins("`batches` is empty: there is nothing to judge by."):
        pv.panel_whatif(colour(), [(X[:0], Y[:0])])


def test_inactive_units_of_weight_norm_are_seen_where_they_are_read():
    torch.manual_seed(0)
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(6, 16))
    model, x = nn.Sequential(normed, nn.ReLU(), nn.Linear(16, 3)).eval(), torch.rand(30, 6)
    groups = pv.find_groups(model, x)
    got = pv.activations(model, x, groups=groups, group="0")
    torch.testing.assert_close(got, model[:2](x).T.detach())
    batches = [(x, torch.arange(30) % 3)]
    panel = pv.panel_inactive(model, batches)
    assert panel.result["units"] == 16
    panel.close()
    panel = pv.panel_redundant(model, x[:4], batches=batches)
    assert panel.result["total"] == 16
    panel.close()
    with begins("criterion 'obs' needs the weight of layer '0' itself, but a parametrization"):
        pv.panel_whatif(model, batches, criterion="obs", sparsity=0.5)


@pytest.mark.parametrize("name", PANELS)
def test_what_can_be_read_once_is_taken_from_the_panel(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = colour()
    panel = PANELS[name](model, iter([(X[:30], Y[:30]), (X[30:], Y[30:])]))
    names = {"panel": panel, "model": model, "x": X[:4], "batches": None}
    exec(panel.to_python(), names)
    panel.close()
    shuffled = DataLoader(TensorDataset(X, Y), 25, shuffle=True)
    panel = PANELS[name](model, shuffled)
    assert "batches = panel.batches" in panel.to_python()
    panel.close()
    panel = PANELS[name](model, [(X, Y)])
    assert "panel.batches" not in panel.to_python()
    panel.close()


NO_TARGETS = (
    "batch 1 of `batches` must be a pair (inputs, targets), but has no targets. Pass a DataLoader of "
    "pairs, or [(inputs, targets)]."
)
PARTS = (
    "batch 1 of `batches` must be inputs, or a pair (inputs, targets), but has 3 parts. Put several "
    "inputs into one tuple: ((a, b), targets)."
)
ITERABLE = (
    "`batches` must be an iterable of batches, such as a list of tensors or a DataLoader, but"
)
BAD = [
    ((X, Y), NO_TARGETS),
    ([X], NO_TARGETS),
    ([(X, Y, Y)], PARTS),
    (TensorDataset(X, Y), f"{ITERABLE} a TensorDataset was passed."),
    (7, f"{ITERABLE} an int was passed."),
]  # fmt: skip


@pytest.mark.parametrize("name", ["weights", "strip", "neurons", "inactive", "redundant"])
@pytest.mark.parametrize(("batches", "message"), BAD)
def test_batches_that_are_no_pairs(name, batches, message):
    with begins(message):
        PANELS[name](colour(), batches)
    with begins(message):
        pv.accuracy(colour(), batches)


ADVICE = [
    (nn.functional.one_hot(Y[:4], 5), "One-hot labels: labels.argmax(1)."),
    (Y[:4, None], "Flatten them: labels.flatten()."),
    (Y[:3], "There must be as many labels as examples in every batch."),
    (Y[:4].tolist(), "Convert them to a tensor: torch.as_tensor(labels)."),
]


@pytest.mark.parametrize(("labels", "advice"), ADVICE)
def test_labels_that_do_not_fit_are_told_what_to_do(labels, advice):
    for f in (
        lambda: pv.accuracy(colour(), [(X[:4], labels)]),
        lambda: pv.panel_inactive(colour(), [(X[:4], labels)]),
        lambda: pv.panel_whatif(colour(), [(X[:4], labels)]),
    ):
        with pytest.raises(pv.ArgumentError) as error:
            f()
        assert str(error.value).endswith(advice)


def test_a_label_below_zero_is_no_class():
    with begins("a label of batch 1 of `batches` is -1, but classes are counted from 0."):
        pv.panel_inactive(colour(), [(X, Y - 1)])


BAD_STRIPS = [
    ({"y": None}, "`labels` must be one class per example, shape (4,), but NoneType was passed."),
    ({"y": nn.functional.one_hot(Y, 5)}, "`labels` must be one class per example, shape (4,), but (4, 5)"),
    ({"x": X.numpy()}, "`x` must be a Tensor, but a ndarray was passed. A few examples: torch.as"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), BAD_STRIPS)
def test_a_strip_of_something_else(bad, message):
    given = {"x": X, "labels": Y, **{"labels" if k == "y" else k: v for k, v in bad.items()}}
    x, labels = given["x"][:4], given["labels"] if given["labels"] is None else given["labels"][:4]
    with begins(message):
        pv.panel_strip(colour(), x, labels, batches=[(X, Y)])


@pytest.mark.parametrize("classes", ["cat", {0: "red"}, 5])
@pytest.mark.parametrize("name", ["strip", "inactive", "whatif"])
def test_classes_are_a_list_of_names(name, classes):
    kind = "an int" if classes == 5 else f"a {type(classes).__name__}"
    make = {
        "strip": strip,
        "inactive": pv.panel_inactive,
        "whatif": pv.panel_whatif,
    }[name]
    with begins(
        f"`classes` must be a list of names, one per class in order, such as ['cat', 'dog'], but {kind} was"
    ):
        make(colour(), [(X, Y)], classes=classes)


@pytest.mark.parametrize("name", PANELS)
def test_a_model_without_numbers(name):
    with torch.device("meta"):
        model = colour()
    with begins("layer '0' is on the device 'meta': it has shapes, but no numbers."):
        PANELS[name](model, [(X, Y)])


def test_why_nothing_can_go_is_said():
    model, x = nn.Sequential(nn.Linear(13, 3)), torch.rand(6, 13)
    batches = [(x, torch.arange(6) % 3)]
    for make in (
        lambda: pv.panel_neurons(model, x),
        lambda: pv.panel_redundant(model, x, batches=batches),
    ):
        with pytest.raises(
            pv.GraphError, match="no unit of the model can be removed: '0': its units are"
        ):
            make()
    panel = pv.panel_whatif(model, batches)
    assert (
        "Units cannot be removed here: no unit of the model can be removed: &#x27;0&#x27;"
        in str([w.value for w in panel.children if hasattr(w, "value")])
    )
    panel.close()


def test_a_criterion_that_needs_data_is_known():
    with begins("criterion 'taylor' needs data, or is for single weights: this panel takes "):
        pv.panel_neurons(colour(), X[:4], criterion="taylor")


def test_what_spectral_norm_needs_is_said():
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 3)), nn.Linear(3, 2))
    with pytest.raises(pv.ArgumentError, match="remove_spectral_norm"):
        pv.panel_weights(model)


def test_nothing_is_removed_where_no_unit_is_inactive():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5))
    with torch.no_grad():
        model[0].weight.abs_()
        model[0].bias.fill_(0.1)  # all of them always fire
    panel = pv.panel_inactive(model, [(torch.rand(60, 4), Y)], rare=0.0, repair="remove")
    assert not any(panel.result["counts"].values())
    assert "All stay: accuracy" in panel.sentence
    with pytest.raises(pv.ArgumentError, match="Known: none yet"):
        panel.load("x")
    panel.close()

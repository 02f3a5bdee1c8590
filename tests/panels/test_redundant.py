"""The panel of lesson 05: pairs, the threshold, and four answers to what one of them leaves."""

import re

import pytest
import torch
from helpers import assert_untouched, snapshot
from ipywidgets.widgets.widget import _instances
from torch import nn

import pruneviz as pv
from pruneviz.lessons.exercises import exercise as exercises
from pruneviz.selection.drop import drop_redundant

X = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def net() -> nn.Module:
    """Two planted pairs: neuron 3 is half of neuron 1; in the second layer 4 is twice 0."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3)
    )
    with torch.no_grad():
        model[1].bias += 0.3  # so that they fire
        model[3].bias += 0.3
        for layer, kept, removed, scale in ((model[1], 1, 3, 0.5), (model[3], 0, 4, 2.0)):
            layer.weight[removed] = scale * layer.weight[kept]
            layer.bias[removed] = scale * layer.bias[kept]
    return model.eval()


def batches():
    return [(X, pv.predict(net(), X))]  # what the whole network says is right


@pytest.fixture
def panel():
    before = set(_instances)
    made = pv.panel_redundant(net(), X[:4], batches=batches(), threshold=0.999)
    yield made
    made.close()
    assert set(_instances) == before


def test_planted_redundant_pairs_are_found_and_merging_costs_nothing(panel):
    r = panel.result
    assert (r["group"], r["kept"], r["removed"], r["goes"]) == ("1", 1, 3, True)
    assert (r["gone"], r["total"], r["pair"]) == (1, 8, 0)
    assert r["similarity"] == pytest.approx(1) and r["scale"] == pytest.approx(0.5, abs=1e-4)
    assert r["accuracy"]["whole"] == r["accuracy"]["merge"] == 1
    assert list(r["accuracy"]) == ["whole", "delete", "fold", "merge", "least squares"]
    assert "of the MACs stay. Accuracy (on 60 examples): whole 100.0%, delete " in panel.sentence
    assert panel.sentence.startswith(
        "Threshold 1.00: 1 of 8 neurons of 1 go, "
    ) and panel.sentence.endswith("Pair 0: neuron 3 is like neuron 1, similarity 1.00, scale 0.50.")


def test_each_answer_is_what_shrink_gives(panel):
    panel.controls["threshold"].value = 0.5
    model, r = net(), panel.result
    groups = pv.find_groups(model, X[:4])
    evidence = pv.collect(model, [X], progress=False)
    pairs = pv.find_redundant(model, groups=groups, evidence=evidence, threshold=0.5)
    plan = drop_redundant(pairs[pairs["group"] == "1"], groups)
    assert plan.kept < plan.total - 1
    assert all(torch.equal(r["plan"].keep[n], k) for n, k in plan.keep.items())
    for name, rung in (("delete", "none"), ("fold", "fold"), ("merge", "merge"),
                       ("least squares", "lstsq")):  # fmt: skip
        small = pv.shrink(model, plan, example_input=X[:4], repair=rung, evidence=evidence)
        assert r["accuracy"][name] == pv.accuracy(small, batches())
        assert r["macs"] == pv.measure(small, X[:4]).macs
    assert r["speedup"] == pv.measure(model, X[:4]).macs / r["macs"]


def test_a_higher_threshold_keeps_more_and_the_picture_follows(panel):
    gone, pictures = [], set()
    for threshold in (0.0, 0.5, 0.9, 1.0):
        panel.controls["threshold"].value = threshold
        gone.append(panel.result["gone"])
        pictures.add(panel._view.value)
    assert gone[0] >= gone[1] >= gone[2] and gone[3] <= 1
    assert len(pictures) == 4


def test_layer_and_comparison_choose(panel):
    panel.controls["layer"].value = "3"
    assert (panel.result["kept"], panel.result["removed"]) == (4, 0)
    assert panel.result["plan"].keep["1"].all()
    panel.controls["layer"].value = "all layers"
    assert (panel.result["gone"], panel.result["total"]) == (2, 14)
    assert " units of all layers go" in panel.sentence and " of 1 is like" in panel.sentence
    panel.controls["by"].value = "weights"
    assert panel.result["gone"] == 2 and panel.result["by"] == "weights"


def test_picking_measures_nothing_anew_and_stays_within_the_pairs(panel, monkeypatch):
    right = panel.result["accuracy"]
    monkeypatch.setattr("pruneviz.panels.redundant.accuracy", lambda *_: 1 / 0)
    last = panel.controls["pair"].max
    assert last == panel.result["pairs"] - 1
    panel.controls["pair"].value = last
    assert panel.result["accuracy"] == right and panel.result["pair"] == last
    monkeypatch.undo()
    panel.controls["layer"].value = "3"  # fewer units
    assert panel.controls["pair"].max < last and panel.result["pair"] < last


def test_the_images_are_the_weights(panel):
    view = panel._view_of(panel.result)
    weight = net()[1].weight.detach()
    assert [i.shape for i in view.images] == [(4, 4)] * 2
    for image, unit in zip(view.images, (1, 3), strict=True):
        assert torch.equal(torch.tensor(image).flatten().float(), weight[unit])
    assert view.titles == ["neuron 1 stays", "neuron 3 goes"]
    assert view.caption.startswith("the pixels it reads")
    panel.controls["layer"].value = "3"
    assert panel._view_of(panel.result).images[0].shape == (3, 3)  # eight weights, in lines


def test_plan_and_picture_come_at_once_and_the_bars_when_the_control_is_idle(panel):
    def heights():
        return re.findall(r'viewBox="[^"]*"', panel._view.value), panel._view.value.count('"bar"')

    box, _ = heights()
    panel.controls["threshold"].set_state({"value": 0.5})
    quick = panel._result
    assert quick["accuracy"] is None and quick["gone"] > 1 and quick["macs"] > 0
    assert heights() == (box, 0) and "measuring…" in panel._view.value
    assert "whole 100.0%. Pair 0: neuron 3 is like neuron 1" in panel._sentence
    for name in ("delete", "fold", "merge", "least squares"):  # an empty place for each
        assert f">{name}</text>" in panel._view.value
    whole = panel.result
    assert list(whole["accuracy"]) == ["whole", "delete", "fold", "merge", "least squares"]
    assert {**whole, "accuracy": None} == quick
    assert heights() == (box, 4) and "measuring…" not in panel._view.value


def test_what_a_cancelled_try_has_measured_is_not_measured_again(panel, monkeypatch):
    calls, stop = [], []

    def slow(model, batches):
        right = pv.accuracy(model, batches)
        calls.append(right)
        if len(calls) == 2:
            stop[0].cancel()
        return right

    monkeypatch.setattr("pruneviz.panels.redundant.accuracy", slow)
    with panel._lock:  # the thread has not begun
        panel.controls["threshold"].set_state({"value": 0.5})
        job = panel._job
        stop.append(job)
        job.finish()
        assert len(calls) == 2 and panel._result["accuracy"] is None
        panel.controls["pair"].set_state({"value": 1})
        assert panel._result["accuracy"] is None and panel._result["pair"] == 1
    assert list(panel.result["accuracy"].values())[1:] == calls
    assert len(calls) == 4


def test_undo_comes_back_to_a_pair_of_another_layer(panel):
    last = panel.controls["pair"].max
    panel.controls["pair"].value = last
    panel.controls["layer"].value = "3"
    assert panel.result["pair"] < last
    panel.save("small")
    panel.undo()
    assert (panel.result["layer"], panel.result["pair"]) == ("1", last)
    panel.redo()
    assert panel.result["layer"] == "3"
    panel.undo()
    panel.load("small")
    assert panel.result["layer"] == "3"


@pytest.mark.parametrize("by", ["activations", "weights"])
@pytest.mark.parametrize("layer", ["3", "all layers"])
@pytest.mark.parametrize("given", [False, True])
def test_its_code_gives_the_same_plan_and_accuracies(by, layer, given, capsys):
    names = {"model": net(), "x": X[:4], "batches": batches()}
    if given:
        names["evidence"] = pv.collect(net(), [X], progress=False)
    panel = pv.panel_redundant(
        names["model"], X[:4], batches=names["batches"], evidence=names.get("evidence"), by=by,
        layer=layer, threshold=0.6,
    )  # fmt: skip
    exec(panel.to_python(), names)
    assert all(torch.equal(names["plan"].keep[n], k) for n, k in panel.result["plan"].keep.items())
    printed = [float(line.split()[-1]) for line in capsys.readouterr().out.splitlines()[-4:]]
    assert printed == list(panel.result["accuracy"].values())[1:]
    panel.close()


def test_names_are_shown_as_text():
    name = "<img src=x onerror=alert(1)>"
    model = nn.Sequential()
    for layer, part in zip(("0", name, "2", "3"), net()[:4], strict=True):
        model.add_module(layer, part)
    panel = pv.panel_redundant(
        model, X[:4], batches=[(X, pv.predict(model, X))], layer=name, threshold=0.5
    )
    assert "<img src=x" not in panel._view.value and name in panel.sentence
    panel.close()


def test_kernels_of_a_convolution():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)
    ).eval()
    x = torch.rand(30, 1, 7, 7)
    model(x)
    panel = pv.panel_redundant(
        model, x[:3], batches=[(x, pv.predict(model, x))], layer="2", threshold=0
    )
    view = panel._view_of(panel.result)
    assert view.caption.startswith("4 kernels, one for each channel it reads")
    assert view.images[0].shape == (7, 7) and " channels of 2 go" in panel.sentence
    panel.controls["layer"].value = "0"
    assert panel._view_of(panel.result).images[0].shape == (3, 3)
    panel.close()


def test_without_similar_units_it_says_so():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).eval()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]))
        model[0].bias.zero_()
    x = torch.randn(20, 2)
    panel = pv.panel_redundant(model, x, batches=[(x, pv.predict(model, x))], by="weights")
    assert panel.sentence.endswith("No two units are alike.")
    assert panel.result["pair"] is None and panel.result["pairs"] == 0
    assert "image/png" in panel._repr_mimebundle_()[0]
    panel.close()


def test_every_control_has_a_name(panel):
    def inside(box):
        return [w for child in getattr(box, "children", ()) for w in (child, *inside(child))]

    named = {w.description for w in inside(panel) if getattr(w, "description", "")}
    assert named >= {"threshold", "pair", "layer", "alike by"}


def test_evidence_is_collected_once_or_not_at_all(monkeypatch):
    evidence = pv.collect(net(), [X], progress=False)
    monkeypatch.setattr("pruneviz.panels.redundant.collect", lambda *_, **__: 1 / 0)
    panel = pv.panel_redundant(net(), X[:4], batches=batches(), evidence=evidence, threshold=0.5)
    panel.controls["threshold"].value = 0.9
    panel.close()


def test_an_error_is_shown_in_words_and_gone_after_the_next_good_move(panel, monkeypatch):
    monkeypatch.setattr("pruneviz.panels.redundant.accuracy", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        panel.controls["threshold"].value = 0.5
    assert "division by zero" in panel._alert.value
    assert "image/png" in panel._repr_mimebundle_()[0]  # it can still be shown
    monkeypatch.undo()
    panel.controls["pair"].value = 1  # and what failed is measured again
    assert panel._alert.value == "" and panel.result["threshold"] == 0.5


def test_no_trace_and_a_static_picture():
    model = net().train()
    before = snapshot(model)
    panel = pv.panel_redundant(model, X[:4], batches=batches(), threshold=0.5)
    panel.controls["threshold"].value = 0.7
    data, metadata = panel._repr_mimebundle_()
    picture = panel._view.value
    panel.close()
    assert_untouched(model, before)
    assert data["text/plain"] == panel.sentence == metadata["image/png"]["alt"]
    assert 'role="img"' in picture and 'aria-label="Threshold' in picture


BAD = [
    ({"by": "names"}, "`by` 'names' is unknown"),
    ({"threshold": 95}, r"`threshold` must be a number in \[0, 1\]"),
    ({"layer": "9"}, "layer '9' is unknown"),
    ({"pair": 1.5}, "`pair` must be a whole number"),
    ({"batches": []}, "`batches` is empty"),
    ({"evidence": "all"}, "`evidence` must be an Evidence"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_bad_calls_leave_no_widgets(options, message):
    before = set(_instances)
    with pytest.raises(pv.ArgumentError, match=message):
        pv.panel_redundant(net(), X[:4], **{"batches": batches(), **options})
    assert set(_instances) == before


def test_a_model_without_units_is_refused():
    with pytest.raises(pv.GraphError, match="no unit of the model can be removed"):
        pv.panel_redundant(nn.Linear(3, 2), torch.zeros(1, 3), batches=[])


def shared(share):
    """Merge with a scale of one's own; ``share`` of 2.5 where the larger one went, of 0.4 else."""

    def merge(weight, bias, after, kept, removed):
        after = after.clone()
        after[:, kept] += share(2.5 if removed == 4 else 0.4) * after[:, removed]
        stay = torch.arange(6) != removed
        return weight[stay], bias[stay], after[:, stay]

    return merge


def offset_by(weights, constant):
    def take_over(after, bias, kept, removed, scale, offset):
        stay, column = torch.arange(4) != removed, after[:, removed]
        after = after.clone()
        after[:, kept] += weights * scale * column
        return after[:, stay], bias + constant * offset * column

    return take_over


@pytest.mark.parametrize(
    ("name", "answer", "said"),
    [
        ("05-merge", shared(lambda s: 0), "nobody does the work of the one that went"),
        ("05-merge", shared(lambda s: 1), "without a scale. Neuron 1 went, neuron 4 stays: how"),
        ("05-merge", shared(lambda s: 1 / s), "upside down. Neuron 1 went, neuron 4 stays: how"),
        ("05-merge", shared(lambda s: 3), "would be another one. Neuron 1 went, neuron 4 stays"),
        ("05-merge", shared(lambda s: s), "✓ Right."),
        ("05-offset", offset_by(1, -1), "The weights are right, the bias is not."),
        ("05-offset", offset_by(2, 1), "The weights are not right yet."),
        ("05-offset", offset_by(1, 1), "✓ Right."),
    ],
)
def test_the_exercises_of_the_lesson_say_what_is_wrong(name, answer, said, capsys):
    exercises.check(name, answer)
    assert said in capsys.readouterr().out

"""What if: any model, pruned this way and that."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers import snapshot
from tasks.networks import task
from torch import nn

import pruneviz as pv
from pruneviz.model.batches import images_of
from pruneviz.panels.kit import worker as background
from pruneviz.pruning import session
from pruneviz.study.whatif import WhatIf

EVIL = "<img src=x onerror=alert(1)>"


class Net(nn.Module):
    """A small network that reads images; one layer has a wicked name."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.add_module(EVIL.replace(".", ""), nn.Linear(8 * 36, 12))
        self.out = nn.Linear(12, 3)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x))).flatten(1)
        return self.out(torch.relu(getattr(self, EVIL)(x)))


def net():
    torch.manual_seed(0)
    model = Net()
    model.train()
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(20, 1, 6, 6))
        x = torch.randn(60, 1, 6, 6)
        model.out.bias -= model.eval()(x).mean(0)  # so that all classes are given
    return model.train()


MODEL = net()
PLAIN = {"criterion": "l2", "repair": "none"}


def data(n=3, size=20):
    g = torch.Generator().manual_seed(1)
    x = [torch.randn(size, 1, 6, 6, generator=g) for _ in range(n)]
    return [(b, pv.predict(MODEL, b)) for b in x]  # all of them right


@pytest.fixture
def panel():
    panel = pv.panel_whatif(net(), data(), classes=["a", "b", EVIL], **PLAIN)
    yield panel
    panel.close()


def hint(panel):
    return next(w.value for w in panel.children if "pv-hint" in getattr(w, "value", ""))


def html(panel):
    return panel._view.value


def test_it_opens_on_the_best_recipe_before_data_are_collected(monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(300, 6)
    batches, collected, real = [(x, pv.predict(model, x))], [], session.collected

    def watched(model, batches, **how):
        collected.append(sum(b.examples for b in batches))
        return real(model, batches, **how)

    monkeypatch.setattr(session, "collected", watched)
    panel = pv.panel_whatif(model, batches)
    assert (panel.controls["criterion"].value, panel.controls["repair"].value) == (
        "unit obs", "lstsq",
    )  # fmt: skip
    assert panel.result["plan"].kept == 8 and collected == [8]
    panel.controls["sparsity"].value = 0.5
    assert collected == [8, 300]
    small = pv.prune(model, x[:16], sparsity=0.5, batches=[x])
    assert torch.allclose(panel.result["model"](x), small(x), atol=1e-5)
    panel.close()


def test_where_the_best_recipe_cannot_be_had_the_next_one_is_taken():
    class NoGradients(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))

        def forward(self, x):
            return self.body(x).detach()

    model, x = NoGradients().eval(), torch.randn(100, 6)
    panel = pv.panel_whatif(model, [(x, torch.arange(100) % 3)])
    assert panel.controls["criterion"].value == "unit l2"
    assert panel.controls["repair"].value == "lstsq"
    panel.controls["sparsity"].value = 0.5
    assert panel.result["model"].body[0].out_features == 4
    panel.close()
    panel = pv.panel_whatif(model, [(x, None)], evaluate=lambda m: 0.0)  # no loss is known
    assert panel.controls["criterion"].value == "unit l2"
    panel.close()
    panel = pv.panel_whatif(nn.Linear(6, 3), [(x, torch.arange(100) % 3)])  # only weights can go
    assert panel.controls["repair"].value == "none"
    panel.close()


def test_units_are_removed_and_measured(panel):
    model = net()
    panel.controls["sparsity"].value = 0.5
    got = panel.result
    groups = pv.find_groups(model, data()[0][0])
    plan = pv.select(pv.score(model, "l2", groups=groups), sparsity=0.5)
    for name, keep in plan.keep.items():
        assert torch.equal(got["plan"].keep[name], keep)
    small = pv.shrink(model, plan, example_input=data()[0][0])
    assert got["model"].conv.out_channels == 4
    assert got["metric"] == pv.accuracy(small, data())
    assert got["metric_before"] == pv.accuracy(model, data())
    cost, whole = (pv.measure(m, data()[0][0]) for m in (small, model))
    assert (got["macs"], got["macs_before"]) == (cost.macs, whole.macs)
    assert (got["bytes"], got["bytes_before"]) == (cost.bytes, whole.bytes)
    want = pv.compare_accuracy(model, small, data())
    assert got["worse"].tolist() == want.worse.tolist()
    assert got["better"].tolist() == want.better.tolist()
    assert got["timing"].speedup == pytest.approx(got["speedup"])
    assert list(got["frozen"]) == ["out"]
    assert "of 20 units stay" in panel.sentence
    assert f"{len(want.worse)} examples got worse" in panel.sentence


def test_the_model_goes_home_in_the_mode_it_came(panel):
    panel.controls["sparsity"].value = 0.5
    assert all(m.training for m in panel.result["model"].modules())
    model = net().eval()
    other = pv.panel_whatif(model, data(), **PLAIN)
    for sparsity in (0.0, 0.5):
        other.controls["sparsity"].value = sparsity
        assert not any(m.training for m in other.result["model"].modules())
    other.close()


@pytest.mark.filterwarnings("ignore:repair 'lstsq' has fewer rows")
def test_the_users_model_is_not_touched():
    model = net()
    before = snapshot(model)
    state = torch.random.get_rng_state()
    panel = pv.panel_whatif(model, data(), repair="lstsq")
    panel.controls["sparsity"].value = 0.5
    panel.controls["criterion"].value = "unit obs"
    panel.close()
    after = snapshot(model)
    assert repr(after) == repr(before)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("repair", ["none", "fold", "merge", "lstsq"])
@pytest.mark.parametrize("criterion", ["unit l2", "unit obs", "unit apoz", "unit taylor"])
def test_the_code_does_the_same(panel, criterion, repair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel.controls["criterion"].value = criterion
    panel.controls["repair"].value = repair
    panel.controls["protect"].value = ("conv",)
    panel.controls["scope"].value = "global"
    panel.controls["sparsity"].value = 0.4
    same(panel)


@pytest.mark.parametrize("repair", ["none", "lstsq"])
@pytest.mark.parametrize("criterion", ["weight magnitude", "weight lamp", "weight wanda"])
def test_the_code_for_weights_does_the_same(panel, criterion, repair, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    panel.controls["criterion"].value = criterion
    panel.controls["repair"].value = repair
    panel.controls["sparsity"].value = 0.8
    same(panel)
    assert panel.result["encoding"] in ("bitmap", "csr_int16", "relative")
    assert panel.result["bytes"] < 0.6 * panel.result["bytes_before"]
    assert panel.result["speedup"] == 1  # zeros are multiplied like any other number


def same(panel):
    space = {"model": net(), "batches": data()}
    exec(panel.to_python(), space)
    got = panel.result
    for name, keep in got["plan"].keep.items():
        assert torch.equal(space["plan"].keep[name], keep)
    x = data()[0][0]
    one, other = space["small"].eval(), got["model"].eval()
    torch.testing.assert_close(one(x), other(x), rtol=1e-3, atol=1e-4)


def test_protected_layers_stay_whole(panel):
    panel.controls["sparsity"].value = 0.5
    panel.controls["protect"].value = ("conv",)
    assert bool(panel.result["plan"].keep["conv"].all())
    assert "protected: conv" in panel.sentence
    panel.controls["protect"].value = ("out",)  # nothing of it could go
    assert not bool(panel.result["plan"].keep["conv"].all())


def test_names_are_text(panel):
    panel.controls["sparsity"].value = 0.9
    assert "<img src=x" not in html(panel)
    assert "&lt;img src=x" in html(panel)
    panel._toolbar.code.value = True
    panel.controls["protect"].value = (EVIL,)
    assert "<img src=x" not in html(panel) + panel._toolbar.children[1].value


def test_training_the_smaller_model_does_not_change_what_is_measured(panel):
    panel.controls["sparsity"].value = 0.5
    first = panel.result
    with torch.no_grad():
        for p in first["model"].parameters():
            p.zero_()
    panel.controls["scope"].value = "layer"  # the same plan once more
    assert panel.result["metric"] == first["metric"]
    assert bool(panel.result["model"].conv.weight.any())


def test_what_is_collected_with_gradients_serves_repairs_too(monkeypatch):
    what, calls = WhatIf(net(), data()), []
    real = session.collected
    monkeypatch.setattr(
        session, "collected", lambda *a, **k: calls.append(k["loss"]) or real(*a, **k)
    )
    what.scores("unit", "obs")
    assert what.session.evidence() is what.session.evidence(gradients=True, squares=False)
    assert len(calls) == 1


def test_flipped_images_are_shown(panel):
    panel.controls["sparsity"].value = 0.95
    worse = panel.result["worse"]
    assert len(worse)
    assert html(panel).count("<image ") == min(len(worse), 8)
    assert "that were right and are wrong now" in html(panel)
    assert len(panel.figure().axes) == 3
    panel.controls["sparsity"].value = 0.0
    assert "<image " not in html(panel)
    assert len(panel.result["worse"]) == 0


def test_a_hand_sees_the_layers_at_once(panel, monkeypatch):
    monkeypatch.setattr(background, "CONTROL_IDLE", 60)
    panel._what.seconds = 0.0  # as on a machine that is not busy
    panel.controls["sparsity"].set_state({"value": 0.5})
    quick = panel._result
    assert quick["plan"].kept == 10
    assert quick["macs"] < quick["macs_before"]
    assert quick["metric"] is None
    assert "measuring" in html(panel)
    assert panel.result["metric"] is not None
    assert "measuring" not in html(panel)


def test_what_must_be_collected_first_does_not_delay_the_user(panel, monkeypatch):
    monkeypatch.setattr(background, "CONTROL_IDLE", 60)
    names = [value for _, value in panel.controls["criterion"].options]
    panel.controls["criterion"].set_state({"index": names.index("unit obs")})
    assert panel._result["plan"].kept == 20  # nothing is to be removed: no scores are needed
    panel.controls["sparsity"].set_state({"value": 0.5})
    assert panel._result["plan"] is None
    assert panel.result["plan"].kept == 10


def test_another_measure_than_accuracy():
    seen = []

    def loss(model):
        seen.append(model)
        with torch.no_grad():
            return -float(model(torch.ones(4, 6)).square().mean())

    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 1))
    panel = pv.panel_whatif(model, [torch.randn(10, 6)], evaluate=loss, repair="lstsq")
    panel.controls["sparsity"].value = 0.5
    assert panel.result["metric"] == loss(panel.result["model"].eval())
    assert panel.result["comparison"] is None
    assert "Metric" in panel.sentence
    assert "batches[0]" in panel.to_python()
    panel.close()


def test_a_model_whose_units_cannot_go_can_lose_weights():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(6, 3)

        def forward(self, x):
            return self.fc(x) if x.sum() > -1e9 else self.fc(-x)

    panel = pv.panel_whatif(
        Odd(), [(torch.randn(9, 6), torch.arange(9) % 3)], criterion="magnitude"
    )
    panel.controls["sparsity"].value = 0.5
    assert panel.result["plan"].kept == 9
    assert "Units cannot be removed here" in hint(panel)
    assert all(value.startswith("weight ") for _, value in panel.controls["criterion"].options)
    panel.close()


def test_inputs_in_a_dict():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x, shift):
            return self.b(torch.relu(self.a(x))) + shift

    batches = [({"x": torch.randn(7, 4), "shift": torch.zeros(7, 1)}, torch.zeros(7).long())]
    panel = pv.panel_whatif(
        Two(), batches, evaluate=lambda m: float(m(**batches[0][0]).detach().mean()), repair="fold"
    )
    panel.controls["sparsity"].value = 0.5
    assert panel.result["model"].a.out_features == 4
    panel.close()


WRONG = [
    (lambda: pv.panel_whatif(net(), []), "`batches` is empty: there is nothing to judge by"),
    (
        lambda: pv.panel_whatif(net(), [b for b, _ in data()]),
        "batch 1 of `batches` must be a pair (inputs, targets)",
    ),
    (lambda: pv.panel_whatif(net(), data(), criterion="l3"), "criterion 'l3' is unknown"),
    (lambda: pv.panel_whatif(net(), data(), sparsity=50), "`sparsity` must be"),
    (lambda: pv.panel_whatif(net(), data(), repair="glue"), "`repair` 'glue' is unknown"),
    (lambda: pv.panel_whatif("net", data()), "`model` must be"),
    (
        lambda: pv.panel_whatif(net(), [(x, torch.eye(3)[y]) for x, y in data()]),
        "One-hot labels: labels.argmax(1)",
    ),
    (
        lambda: pv.panel_whatif(net(), data(), evaluate=lambda m: float("nan")),
        "`evaluate` must return a finite number",
    ),
]


@pytest.mark.parametrize(("call", "says"), WRONG)
def test_what_is_wrong_is_said(call, says):
    with pytest.raises(pv.ArgumentError) as e:
        call()
    assert says in str(e.value)


def test_a_repair_that_weights_do_not_have_is_an_error_in_words(panel):
    panel.controls["repair"].value = "fold"
    panel.controls["sparsity"].value = 0.5
    with pytest.raises(pv.ArgumentError):
        panel.controls["criterion"].value = "weight magnitude"
    assert 'role="alert"' in panel._alert.value
    panel.undo()
    assert panel._alert.value == ""
    assert panel.result["metric"] is not None


def test_nothing_is_traced_or_scored_twice(monkeypatch):
    what = WhatIf(net(), data())
    calls = []
    monkeypatch.setattr(
        "pruneviz.pruning.session.score", lambda *a, **k: calls.append(1) or pv.score(*a, **k)
    )
    for sparsity in (0.2, 0.5, 0.7):
        plan = what.plan("unit", "l2", sparsity)
        assert what.pruned(plan) is what.pruned(plan)
    assert len(calls) == 1
    x = [x for x, _ in what.batches]
    assert images_of(x, np.array([0, 25, 59])).shape == (3, 1, 6, 6)
    assert np.allclose(images_of(x, np.array([25]))[0], data()[1][0][5])


def test_the_sentence_says_whether_the_flips_are_more_than_luck(panel):
    assert "no difference" in panel.sentence  # nothing is pruned yet
    for sparsity in (0.1, 0.25, 0.9):
        panel.controls["sparsity"].value = sparsity
        c = panel.result["comparison"]
        assert f"{len(c.better)} better: " in panel.sentence
        none = not len(c.worse) + len(c.better)
        says = "no difference" if none else ("more than noise", "inside the noise")[c.inside_noise]
        assert says in panel.sentence
    assert panel.draw(panel.result).axes[-1].get_title() == "right before; now taken for"


def test_what_is_judged_on_what_it_learned_from_is_said():
    for learn, said in ((None, True), ([x for x, _ in data()], False)):
        panel = pv.panel_whatif(net(), data(), learn=learn)
        assert ("looks better than it is" in hint(panel)) == said
        panel.close()


def ran(panel, **names):
    """Run the panel's code in an empty folder; return the model it makes."""
    import os
    import tempfile

    before = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            env = {"panel": panel, **names}
            exec(panel.to_python(), env)
            return env["small"], os.path.getsize("small.safetensors")
        finally:
            os.chdir(before)


def equal(a, b):
    pairs = zip(a.state_dict().items(), b.state_dict().items(), strict=True)
    return all(n == m and torch.equal(t, u) for (n, t), (m, u) in pairs)


class Views(nn.Module):
    """Calls view() on what it has convolved: it does not run on channels that lie side by side."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(2, 6, 3, padding=1), nn.Linear(6 * 16, 3)

    def forward(self, x):
        x = torch.relu(self.conv(x))
        return self.fc(x.view(x.shape[0], -1))


def test_a_network_that_views_its_channels_is_judged_by_every_panel():
    x, y = torch.randn(40, 2, 4, 4), torch.arange(40) % 3
    model = Views()
    judge = pv.Accuracy([(x, y)])
    assert judge(model) == pv.accuracy(model, [(x, y)])
    for panel in (
        pv.panel_whatif(model, [(x, y)], sparsity=0.5, repair="none"),
        pv.panel_weights(model, batches=[(x, y)]),
        pv.panel_neurons(model, x[:4], batches=[(x, y)]),
        pv.panel_inactive(model, [(x, y)]),
        pv.panel_redundant(model, x[:4], batches=[(x, y)]),
    ):
        assert panel.result is not None
        panel.close()


def test_one_logit_is_no_classifier():
    x = torch.randn(30, 4)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    with pytest.raises(
        pv.ArgumentError, match=r"a logit for each class.*z > 0.*Or pass `evaluate`"
    ):
        pv.panel_whatif(model, [(x, torch.arange(30) % 2)])


def test_where_no_unit_can_go_weights_are_offered_and_the_reason_is_said():
    x, y = torch.randn(30, 4), torch.arange(30) % 3
    panel = pv.panel_whatif(nn.Linear(4, 3), [(x, y)])
    assert panel.controls["criterion"].value == "weight magnitude"
    panel.close()
    with pytest.raises(
        pv.ArgumentError, match="is for units, but no unit of the model can be removed: 'weight'"
    ):
        pv.panel_whatif(nn.Linear(4, 3), [(x, y)], criterion="l2")
    with pytest.raises(pv.ArgumentError, match="criterion 'l3' is unknown"):
        pv.panel_whatif(nn.Linear(4, 3), [(x, y)], criterion="l3")


@pytest.mark.parametrize("criterion", ["unit taylor", "unit fisher", "weight taylor"])
def test_the_labels_that_one_learns_from_are_used(criterion):
    x = torch.randn(60, 4, generator=torch.Generator().manual_seed(2))
    y = torch.arange(60) % 3
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))
    learn = [(x[:30], y[:30])]
    panel = pv.panel_whatif(model, [(x, y)], learn=learn, criterion=criterion, sparsity=0.5)
    evidence = pv.collect(model, learn, loss=torch.nn.functional.cross_entropy)
    kind, name = criterion.split()
    groups = pv.find_groups(model, x[:4]) if kind == "unit" else None
    plan = pv.select(pv.score(model, name, groups=groups, evidence=evidence), sparsity=0.5)
    for n, keep in plan.keep.items():
        assert torch.equal(panel.result["plan"].keep[n], keep)
    small, _ = ran(panel, model=model, batches=[(x, y)], learn=learn)
    assert equal(small, panel.result["model"])
    panel.close()


def test_batches_that_cannot_be_read_again_are_taken_from_the_panel():
    x, y = torch.randn(60, 4), torch.arange(60) % 3
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 3))
    shuffled = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(x, y), batch_size=20, shuffle=True
    )
    for batches, learn in (
        (shuffled, None),
        (((a, b) for a, b in [(x, y)]), (a for a in [x[:30]])),
    ):
        panel = pv.panel_whatif(
            model, batches, learn=learn, criterion="unit wanda", sparsity=0.5, repair="lstsq"
        )
        code = panel.to_python()
        assert "batches = panel.batches" in code
        assert ("learn = panel.learn" in code) == (learn is not None)
        small, _ = ran(panel, model=model)
        assert equal(small, panel.result["model"])
        panel.close()


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.9])
def test_the_bytes_are_those_of_the_file_one_takes_home(sparsity):
    x, y = torch.randn(40, 64), torch.arange(40) % 3
    model = nn.Sequential(nn.Linear(64, 80), nn.ReLU(), nn.Linear(80, 3))
    panel = pv.panel_whatif(model, [(x, y)], criterion="weight magnitude", sparsity=sparsity)
    r = panel.result
    small, size = ran(panel, model=model, batches=[(x, y)])
    header = size - r["bytes"]
    assert 0 < header < 1500  # names and shapes
    assert r["bytes"] <= r["bytes_before"]
    assert equal(small, r["model"])
    panel.close()
    half = pv.panel_whatif(
        model.half(), [(x.half(), y)], criterion="weight magnitude", sparsity=sparsity
    )
    assert (half.result["bytes"], half.result["encoding"]) == (half.result["bytes_before"], "dense")
    half.close()


@pytest.mark.parametrize("wrap", [lambda a, b: (a, b), lambda a, b: {"a": a, "b": b}])
@pytest.mark.parametrize(
    ("criterion", "repair"),
    [("unit l2", "lstsq"), ("unit taylor", "fold"), ("weight wanda", "lstsq")],
)
def test_several_inputs(wrap, criterion, repair):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.left, self.right, self.out = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(8, 3)

        def forward(self, a, b):
            return self.out(torch.relu(self.left(a) + self.right(b)))

    x, model = torch.randn(40, 8), Two()
    y = model(x[:, :4], x[:, 4:]).argmax(1)
    batches = [(wrap(x[:, :4], x[:, 4:]), y)]
    panel = pv.panel_whatif(model, batches, criterion=criterion, repair=repair, sparsity=0.5)
    assert panel.result["metric_before"] == 1
    small, _ = ran(panel, model=model, batches=batches)
    assert equal(small, panel.result["model"])
    if criterion.startswith("unit"):  # one bar for two layers whose units go together
        assert ">left +1<" in panel._view.value
        assert "left, right go together" in panel._view.value
    panel.close()


@pytest.mark.parametrize("repair", ["fold", "merge"])
def test_weights_are_repaired_by_least_squares_alone(repair):
    x, y = torch.randn(40, 4), torch.arange(40) % 3
    panel = pv.panel_whatif(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), [(x, y)],
                            criterion="weight magnitude", sparsity=0.5)  # fmt: skip
    with pytest.raises(
        pv.ArgumentError, match="Choose 'least squares', 'distillation' or 'nothing'"
    ):
        panel.controls["repair"].value = repair
    panel.controls["repair"].set_state({"value": None, "index": 3})
    assert panel.result["metric"] is not None
    panel.close()


def test_after_an_error_nothing_is_said_to_be_measured(monkeypatch):
    x, y = torch.randn(40, 4), torch.arange(40) % 3
    panel = pv.panel_whatif(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3)), [(x, y)])
    monkeypatch.setattr(panel._what, "timed", lambda *a, **k: 1 / 0)
    panel.controls["sparsity"].set_state({"value": 0.5})
    assert "measuring…" in html(panel)
    with pytest.raises(ZeroDivisionError):
        panel.result  # noqa: B018
    assert "measuring…" not in html(panel)
    panel.close()


def test_a_loss_of_ones_own():
    x = torch.randn(60, 4)
    t = x.sum(1, keepdim=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 12), nn.ReLU(), nn.Linear(12, 1))
    mse = torch.nn.functional.mse_loss

    def evaluate(m):
        with torch.no_grad():
            return -float(mse(m(x), t))

    panel = pv.panel_whatif(model, [(x, t)], evaluate=evaluate)
    names = [value for _, value in panel.controls["criterion"].options]
    assert not {"unit taylor", "unit fisher", "unit obs", "weight taylor"} & set(names)
    panel.close()
    learn = [(x, t)]
    panel = pv.panel_whatif(model, [(x, t)], evaluate=evaluate, loss=mse, learn=learn,
                            criterion="taylor", scope="layer", sparsity=0.5)  # fmt: skip
    assert panel.controls["scope"].value == "layer"
    small, _ = ran(panel, model=model, batches=[(x, t)], learn=learn, loss=mse)
    assert equal(small, panel.result["model"])
    panel.close()
    with pytest.raises(pv.ArgumentError, match="`loss` needs targets"):
        pv.panel_whatif(model, [(x, t)], evaluate=evaluate, loss=mse)
    with pytest.raises(pv.ArgumentError, match="`learn` is empty"):
        pv.panel_whatif(model, [(x, t)], evaluate=evaluate, learn=[])


def test_flipped_images_say_what_they_are():
    panel = pv.panel_whatif(net(), data(), classes=["a", "b", "c"], sparsity=0.9, **PLAIN)
    worse = panel.result["worse"]
    assert len(worse)
    said = html(panel)
    for i in worse[:8].tolist():
        assert f">is: {'abc'[panel._what.labels[i]]}<" in said
    assert panel.figure().axes[0].get_title().startswith("Units by l2")
    panel.close()


def test_flipped_images_keep_their_colours():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 3)
    ).eval()  # fmt: skip
    x = torch.randn(60, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    panel = pv.panel_whatif(model, [(x, pv.predict(model, x))], sparsity=0.75)
    worse = panel.result["worse"]
    assert len(worse)
    shown = panel._flipped(panel.result)[0]
    assert np.array_equal(shown, x[worse[:8]].numpy())
    drawn = [a for a in panel.figure().axes if a.images]
    assert all(i.get_array().shape == (6, 6, 3) for a in drawn for i in a.images)
    assert drawn
    panel.close()


def normed():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 16), nn.LayerNorm(16), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3)
    ).eval()  # fmt: skip


@pytest.mark.parametrize("approximate", [False, True])
def test_units_under_a_norm_can_be_removed_on_request(approximate, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, x = normed(), torch.randn(60, 6)
    batches = [(x, pv.predict(model, x))]
    what = pv.panel_whatif(model, batches, sparsity=0.5, approximate=approximate, **PLAIN)
    neurons = pv.panel_neurons(model, x, batches=batches, sparsity=0.5, approximate=approximate)
    for panel, judged in ((what, 16), (neurons, 60)):
        env = {"model": model, "batches": batches, "x": x}
        exec(panel.to_python(), env)
        small = env["small"]
        left = 8 if approximate else 16
        assert (small[0].out_features, small[2].out_features) == (left, 6)
        assert panel.result["macs"] == pv.measure(small, x[:judged]).macs
        panel.close()
    assert "a LayerNorm runs over these units" in html(what)
    assert ("0" in what.result["frozen"]) is not approximate


class Words(nn.Module):
    """Logits (n, words, classes)."""

    def __init__(self):
        super().__init__()
        self.table, self.mix, self.head = nn.Embedding(9, 6), nn.Linear(6, 8), nn.Linear(8, 4)

    def forward(self, ids):
        return {"logits": self.head(torch.relu(self.mix(self.table(ids))))}


@pytest.mark.parametrize("criterion", ["unit l2", "unit obs"])
def test_labels_of_positions(criterion):
    torch.manual_seed(0)
    model, ids = Words(), torch.randint(9, (30, 5))
    batches = [(x, (x % 4).masked_fill(x == 8, -100)) for x in ids.split(10)]
    panel = pv.panel_whatif(model, batches, ignore_index=-100, criterion=criterion, sparsity=0.5,
                            repair="lstsq")  # fmt: skip
    result = panel.result
    assert result["metric_before"] == pv.accuracy(model, batches, ignore_index=-100)
    assert result["metric"] == pv.accuracy(result["model"], batches, ignore_index=-100)
    assert result["comparison"].examples == 30
    assert len(result["comparison"].labels) == int((ids != 8).sum())
    assert " positions got worse, " in panel.show(result)[1]
    scope = {"model": model, "batches": batches}
    code = panel.to_python().replace("pv.save(small", "(small")
    exec(code, scope)
    assert torch.equal(scope["small"](ids)["logits"], result["model"](ids)["logits"])
    panel.close()


@pytest.mark.filterwarnings("ignore:repair 'lstsq'")
def test_sizes_in_python_code_are_cut_as_a_program(tmp_path, monkeypatch):
    """nanoGPT's ``split(self.n_embd)``: nothing is left out, and the code makes the same model."""
    monkeypatch.chdir(tmp_path)
    given = task("language")
    panel = pv.panel_whatif(given.model, given.batches, sparsity=0.25, repair="lstsq",
                            criterion="unit l2", approximate=True, as_program=True)  # fmt: skip
    assert not panel.result["plan"].left_out
    small = panel.result["model"]
    assert small.get_parameter("tokens.weight").shape[1] == 12
    assert panel.result["macs"] == pv.measure(small, given.example[:1]).macs
    scope = {"model": given.model, "batches": given.batches}
    exec(panel.to_python(), scope)
    with torch.no_grad():
        assert torch.allclose(scope["small"](given.example), small(given.example), atol=1e-5)
    panel.controls["criterion"].value = "weight magnitude"
    assert panel.result["macs"] == panel.result["macs_before"]
    panel.close()

from __future__ import annotations

import random
import threading

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers import (
    CLASSES,
    MODELS,
    Odd,
    assert_untouched,
    batches,
    build,
    cnn,
    inputs,
    mlp,
    refused,
    snapshot,
)
from torch import nn

import pruneviz as pv
from pruneviz import lessons
from pruneviz.study.prefix import Prefix

SPARSITIES = [0.0, 0.3, 0.9]


def sensitivity(model, data=None, **options):
    data = batches(n=30, count=2) if data is None else data
    given = {"sparsities": SPARSITIES, "evaluate": pv.Accuracy(data), "progress": False, **options}
    return pv.sensitivity(model, inputs(), **given)


def plainly(model, judge, layer, sparsity):
    """Copy, prune, evaluate."""
    plan = pv.select(pv.score(model, "magnitude"), sparsity={layer: sparsity}, scope="layer")
    return judge(pv.mask(model, plan))


class Branches(nn.Module):
    """Two ways to one sum, and a layer that runs twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.twice = nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 36)
        self.shift = nn.Parameter(torch.ones(36))
        self.head = nn.Linear(36, CLASSES)

    def forward(self, x):
        x = x.flatten(1)
        y = self.a(x).relu() + self.b(x) * self.shift
        return self.head(self.twice(self.twice(y).relu()))


class InPlace(Branches):
    """Writes into what was computed before."""

    def forward(self, x):
        x = x.flatten(1) * 1
        y = self.a(x)
        y.relu_()
        y.add_(self.b(y))
        return self.head(F.relu(self.twice(y), inplace=True).add_(y))


class Deciding(Branches):
    """Decides by its input: torch.fx cannot follow."""

    def forward(self, x):
        y = self.a(x.flatten(1))
        return self.head(y.relu() if y.sum() > 0 else self.b(y))


class Lengths(Branches):
    """Does something else for short batches."""

    def forward(self, x):
        y = self.a(x.flatten(1))
        return self.head(y.relu() if len(x) > 10 else self.b(y))


class Optional(Branches):
    def forward(self, x, scale=None):
        y = self.a(x.flatten(1))
        return self.head(y if scale is None else y * scale)


class Forgetful(Branches):
    """Every forward is another one."""

    def forward(self, x):
        return self.head(self.a(x.flatten(1)) * random.random())


OTHERS = {
    "branches": Branches, "in place": InPlace, "deciding": Deciding, "lengths": Lengths,
    "optional": Optional,
    "transformer": lambda: nn.Sequential(
        nn.Flatten(2), nn.Flatten(0, 1), nn.Unflatten(0, (-1, 1)), nn.Linear(36, 8),
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), nn.Flatten(1), nn.Linear(8, CLASSES),
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [*sorted(set(MODELS) - {"raising", "random", "masked", "spectral"}), *OTHERS]
)
def test_the_numbers_are_those_of_the_plain_loop(name):
    torch.manual_seed(1)
    model = OTHERS[name]() if name in OTHERS else build(name)
    data = [*batches(n=30, count=2), (inputs(7), torch.arange(7) % CLASSES)]
    judge = pv.Accuracy(data)
    before = snapshot(model)
    frame = sensitivity(model, data)
    assert_untouched(model, before)
    for row in frame.itertuples():
        assert row.metric == plainly(model, judge, row.layer, row.target_sparsity), row
        assert row.dense == judge(model)


def test_random_forwards_and_other_parametrizations_run_whole():
    for name in ("random", "masked"):
        frame = sensitivity(build(name))
        assert frame["metric"].between(0, 1).all()
    with pytest.raises(pv.ArgumentError, match=r"in the row of layer '1', .* carries another"):
        sensitivity(build("spectral"))


def test_columns_and_rows():
    frame = sensitivity(mlp(), layers=["3", "1"])
    assert list(frame.columns) == [
        *("layer", "criterion", "granularity", "repair", "target_sparsity", "sparsity", "metric"),
        *("low", "high", "examples", "dense", "params", "nonzero", "bytes", "macs"),
    ]
    assert frame["layer"].tolist() == ["3"] * 3 + ["1"] * 3
    assert frame["target_sparsity"].tolist() == SPARSITIES * 2
    assert frame["sparsity"].round(2).tolist() == [0, round(7 / 24, 2), 0.92, 0, 0.3, 0.9]
    assert frame["nonzero"].tolist() == [323 - n for n in (0, 7, 22, 0, 86, 259)]
    assert (frame["metric"] == frame["dense"])[frame["sparsity"] == 0].all()
    assert frame["params"].unique().tolist() == [323]


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_units_are_silenced_group_by_group(name):
    model = build(name)
    judge = pv.Accuracy(batches(n=30, count=2))
    before = snapshot(model)
    frame = sensitivity(model, criterion="l2", evaluate=judge)
    assert_untouched(model, before)
    groups = pv.find_groups(model, inputs())
    scores = pv.score(model, "l2", groups=groups)
    assert frame["layer"].unique().tolist() == [g.name for g in groups if not g.frozen]
    for row in frame.itertuples():
        plan = pv.select(scores, sparsity={row.layer: row.target_sparsity})
        assert row.metric == judge(pv.mask(model, plan))
        small = pv.shrink(model, plan, example_input=inputs())
        assert row.macs == pv.measure(small, inputs()).macs
    pd.testing.assert_frame_equal(
        sensitivity(
            model, criterion="random", groups=groups, layers=["1" if name == "mlp" else "0"]
        ),
        sensitivity(model, criterion="random", groups=groups),
    )


def test_another_evaluate_gets_the_smaller_model():
    frame = sensitivity(mlp(), criterion="l2", evaluate=lambda m: m[1].out_features)
    assert frame["metric"].tolist() == [8, 6, 1]
    assert "low" not in frame
    weights = sensitivity(mlp(), evaluate=lambda m: float((m[1].weight != 0).sum()), layers=["1"])
    assert weights["metric"].tolist() == [288, 202, 29]


def test_repairs_and_evidence():
    model = mlp()
    data = [x for x, _ in batches(n=40)]
    judge = pv.Accuracy(batches(n=40))
    frame = sensitivity(model, criterion="l2", repair="lstsq", batches=data, evaluate=judge)
    groups = pv.find_groups(model, inputs())
    plan = pv.select(pv.score(model, "l2", groups=groups), sparsity=0.9)
    small = pv.shrink(model, plan, example_input=inputs(), repair="lstsq", batches=data)
    assert frame.loc[2, "metric"] == judge(small)
    masked = pv.mask(
        model,
        pv.select(pv.score(model, "magnitude"), sparsity={"1": 0.9}),
        repair="lstsq",
        batches=data,
    )
    frame = sensitivity(model, repair="lstsq", batches=data, evaluate=judge, layers=["1"])
    assert frame.loc[2, "metric"] == judge(masked)
    evidence = pv.collect(model, data, layers=["1"])
    frame = sensitivity(model, criterion="wanda", evidence=evidence)
    assert frame["layer"].unique().tolist() == ["1", "3.weight"]
    assert "`evidence` has nothing of it" in frame["left_out"].iloc[-1]
    with refused(
        "criterion 'wanda' needs for the layers of '3' what the layers read. Collect it: "
        "pv.collect(model, batches)."
    ):
        sensitivity(model, criterion="wanda", evidence=evidence, layers=["1", "3"])


def test_norms_over_units_are_those_of_the_smaller_model():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 8), nn.LayerNorm(8), nn.ReLU(), nn.Linear(8, CLASSES)
    )
    groups = pv.find_groups(model, inputs(), approximate=True)
    judge = pv.Accuracy(batches(n=30))
    frame = sensitivity(model, criterion="l2", groups=groups, evaluate=judge)
    plan = pv.select(pv.score(model, "l2", groups=groups), sparsity=0.3)
    assert frame.loc[1, "metric"] == judge(pv.shrink(model, plan, example_input=inputs()))


def test_it_can_be_continued_and_run_in_parallel(tmp_path):
    import joblib

    model, judge = cnn(), pv.Accuracy(batches(n=30))
    path = tmp_path / "layers.csv"
    frame = sensitivity(model, evaluate=judge, path=path)
    whole = path.read_text()
    path.write_text("".join(whole.splitlines(keepends=True)[:4])[:-3])
    with joblib.parallel_config(backend="threading", n_jobs=2):
        again = sensitivity(model, evaluate=judge, path=path)
    pd.testing.assert_frame_equal(frame, again)
    with pytest.raises(pv.ArgumentError, match=r"another call: `layers` \(was \['0', '5'\]"):
        sensitivity(model, evaluate=judge, path=path, layers=["5"])


def test_the_front_of_a_network_runs_once(monkeypatch):
    model, calls = lessons.build("batchnorm-cnn"), []

    def counted(self, x):
        calls.append(len(x))
        return F.conv2d(x, self.weight, None, 1, 1)

    monkeypatch.setattr(type(model.conv1), "forward", counted)
    x = torch.randn(200, 1, 28, 28)
    judge = pv.Accuracy([(x, torch.zeros(200).long())])
    pv.sensitivity(model, x[:1], sparsities=[0.1, 0.5, 0.9], evaluate=judge, layers=["fc1", "fc2"],
                   progress=False)  # fmt: skip
    # measured once; the whole model, the prefix, and for each layer the comparison of one batch; and
    # once more where steps are written into? No: twice three convolutions for two batches each
    assert calls.count(100) == 3 * (2 + 2 + 1 + 1)


def prefix(model, data, **options):
    return Prefix(model.eval(), [x for x, _ in data], **options)


@pytest.mark.parametrize("room", [0, 6000, 2**30])
def test_what_does_not_fit_starts_from_the_beginning(room):
    model, data = cnn(), batches(n=20, count=3)
    kept = prefix(model, data, room=room)
    for layer in ("0", "5", "0", "5"):
        plan = pv.select(pv.score(model, "magnitude"), sparsity={layer: 0.5})
        variant = pv.bake(pv.mask(model, plan))
        after = kept.after(variant)
        with pv.evaluating(variant), torch.no_grad():
            for x, _ in data:
                assert torch.equal(after(x), variant(x))
        assert sum(kept.kept) <= room
    assert [bool(n) for n in kept.kept] == {
        0: [False] * 3, 6000: [True, False, False], 2**30: [True] * 3
    }[room]  # fmt: skip


def test_what_is_kept_is_not_written_into():
    model, data = InPlace(), batches(n=20)
    kept = prefix(model, data)
    for sparsity in (0.5, 0.9):  # the first run would spoil it for the second
        plan = pv.select(pv.score(model, "magnitude"), sparsity={"b": sparsity})
        variant = pv.bake(pv.mask(model, plan))
        after = kept.after(variant)
        with torch.no_grad():
            assert all(torch.equal(after(x), variant(x)) for x, _ in data)
    assert kept.writes == {kept.place}


def test_a_forward_that_cannot_be_repeated_is_not_trusted():
    model, data = Forgetful(), batches(n=20)
    kept = prefix(model, data)
    assert (
        kept.after(pv.bake(pv.mask(model, pv.select(pv.score(model, "magnitude"), sparsity=0.5))))
        is None
    )


def test_a_model_of_another_shape_begins_where_it_differs():
    model, data = mlp(), batches(n=20)
    kept = prefix(model, data)
    small = pv.prune(model, inputs(), sparsity=0.5)
    after = kept.after(small)
    with torch.no_grad():
        assert torch.equal(after(data[0][0]), small(data[0][0]))


BAD = [
    ({"layers": ["9"]}, "layer '9' is unknown. Known: 1, 1.weight, 3, 3.weight."),
    ({"layers": "1"}, "`layers` must be a list, but '1' was passed. Try ['1']."),
    ({"layers": []}, "`layers` is empty: there is nothing to run."),
    ({"sparsities": [90]}, "`sparsities` must be a fraction in [0, 1), but 90 was passed. Did you mean 0.9? Fractions, never percentages."),
    ({"criterion": "magnitud"}, "criterion 'magnitud' is unknown. Did you mean 'magnitude'? Known: activation, apoz, fisher, l1, l2, lamp, magnitude, obs, random, taylor, wanda."),
    ({"repair": "fold"}, "repair 'fold' is for units, but criterion 'magnitude' scores single weights here. For those pass 'none', 'lstsq' or 'distil'. Or pass granularity='unit', or run two sweeps."),
    ({"seed": -1}, "`seed` must be a whole number ≥ 0, but -1 was passed."),
    ({"evaluate": None}, "`evaluate` must be a function of a model, or pv.Accuracy(batches), but None was passed."),
    ({"evaluate": lambda m: torch.ones(2)}, "in the row of layer '1', sparsity 0: `evaluate` must return a finite number, or a tensor of one, but it returned tensor([1., 1.]). Try pv.Accuracy(batches)."),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), BAD)
def test_bad_calls(bad, message):
    with refused(message):
        sensitivity(mlp(), **bad)


def test_a_layer_without_units_to_cut_is_refused():
    with pytest.raises(pv.GraphError, match="'3' cannot be"):
        sensitivity(mlp(), criterion="l2", layers=["3"])


def test_odd_forwards_fail_with_the_name_of_the_row():
    class Broken(Odd):
        def odd(self, x):
            if x.shape[0] > 10:
                raise RuntimeError("boom")
            return x

    with pytest.raises(
        pv.ArgumentError, match=r"in the row of layer 'net\.1', .* RuntimeError: boom"
    ):
        sensitivity(Broken())


def test_other_threads_run_while_one_traces():
    stop, errors = threading.Event(), []

    def forward():
        model, x = cnn().eval(), inputs(2)
        want = model(x)
        while not stop.is_set():
            try:
                assert torch.equal(model(x), want)
            except Exception as e:
                errors.append(e)
                return

    with torch.no_grad():
        thread = threading.Thread(target=forward)
        thread.start()
        try:
            for _ in range(30):
                Prefix(cnn().eval(), [inputs(2)])
        finally:
            stop.set()
            thread.join()
    assert errors == []

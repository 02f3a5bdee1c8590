from __future__ import annotations

import math
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import (
    assert_untouched,
    batches,
    build,
    inputs,
    mlp,
    plan_for,
    refused,
    snapshot,
)
from hypothesis import given
from hypothesis import strategies as st

import pruneviz as pv

COSTS = ["params", "nonzero", "bytes", "macs"]
COLUMNS = [
    *("criterion", "granularity", "scope", "repair", "seed", "target_sparsity", "sparsity"),
    *("metric", *COSTS),
]
N = (8 * 36, 3 * 8)  # weights by layer
PARAMS = sum(N) + 8 + 3


def sweep(model=None, **options):
    given = {
        "criteria": ["magnitude"],
        "sparsities": [0.5],
        "evaluate": kept,
        "progress": False,
        **options,
    }
    return pv.sweep(model or mlp(), inputs(), **given)


def kept(model):
    """Return the number of weights that are not 0."""
    return sum(int((w != 0).sum()) for w in pv.named_weights(model).values())


def test_columns_and_rows():
    frame = sweep(criteria=["random", "lamp"], sparsities=[0, 0.5, 0.9], seeds=[3, 1])
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 2 * 3 * 2
    assert frame["criterion"].tolist() == ["random"] * 6 + ["lamp"] * 6
    assert frame["seed"].tolist() == [3, 3, 3, 1, 1, 1] * 2
    assert frame["target_sparsity"].tolist() == [0, 0.5, 0.9] * 4
    assert frame.index.tolist() == list(range(12))
    assert frame.groupby("criterion")["scope"].first().to_dict() == {
        "random": "layer",
        "lamp": "global",
    }


@given(st.lists(st.floats(0, 0.999), min_size=1, max_size=3))
def test_sparsities_are_exact(sparsities):
    for scope in ("layer", "global"):
        frame = sweep(sparsities=sparsities, scope=scope)
        for row in frame.itertuples():
            s = row.target_sparsity
            if scope == "layer":
                gone = sum(min(round(s * n), n - 1) for n in N)
            else:
                gone = min(round(s * sum(N)), sum(N) - 2)
            assert row.sparsity == pytest.approx(gone / sum(N))
            assert row.metric == sum(N) - gone
            assert row.nonzero == PARAMS - gone
            assert (row.params, row.bytes, row.macs) == (PARAMS, 4 * PARAMS, sum(N))
            assert row.scope == scope


def test_every_row_starts_from_the_model():
    frame = sweep(sparsities=[0.9, 0.1])
    assert frame.loc[1, "nonzero"] > frame.loc[0, "nonzero"]
    alone = sweep(sparsities=[0.1])
    assert frame.loc[1, "nonzero"] == alone.loc[0, "nonzero"]


def total(model):
    """Return a number that depends on which weights are kept."""
    return sum(float(w.double().abs().sum()) for w in pv.named_weights(model).values())


def everything(model):
    """Return the same of all parameters."""
    return sum(float(p.detach().double().abs().sum()) for p in model.parameters())


def metrics(frame, criterion):
    return frame[frame["criterion"] == criterion].groupby("seed")["metric"].first().tolist()


def test_seeds_matter_only_to_criteria_that_draw():
    model = mlp()
    frame = sweep(model, criteria=["magnitude", "random"], seeds=[0, 1], evaluate=total)
    first, second = metrics(frame, "magnitude")
    assert first == second
    first, second = metrics(frame, "random")
    assert first != second
    again = sweep(model, criteria=["random"], seeds=[1], evaluate=total)
    assert metrics(again, "random") == [second]


def test_what_the_seed_cannot_change_is_not_run_again():
    calls = []

    def counted(model):
        calls.append(model)
        return 0.5

    sweep(
        criteria=["magnitude", "random"], sparsities=[0.5, 0.9], seeds=[0, 1, 2], evaluate=counted
    )
    assert len(calls) == 2 + 2 * 3
    calls.clear()
    sweep(seeds=[0, 1, 2], evaluate=counted, tune=lambda model: model)
    assert len(calls) == 3  # `tune` may draw


def test_the_model_that_is_judged_is_baked():
    names = []

    def evaluate(model):
        names.append(list(model.state_dict()))
        return 0.0

    sweep(evaluate=evaluate)
    assert names == [list(mlp().state_dict())]


def test_tune_gets_the_masked_model_and_its_result_is_judged():
    model = mlp()
    seen = []

    def tune(masked):
        assert "Mask(" in repr(masked)
        seen.append(pv.fit(masked, batches(), lr=0.1, progress=False))
        return seen[-1]

    frame = sweep(model, evaluate=total, tune=tune)
    assert frame.loc[0, "metric"] == total(seen[0])
    assert frame.loc[0, "metric"] != sweep(model, evaluate=total).loc[0, "metric"]
    assert frame.loc[0, "nonzero"] == PARAMS - sum(N) // 2


def test_sweep_leaves_no_trace():
    model = build("cnn")
    before = snapshot(model)
    sweep(model, criteria=["random", "lamp"], tune=lambda m: pv.fit(m, batches(), progress=False))
    assert_untouched(model, before)


def test_arguments_may_be_any_iterables():
    frame = sweep(criteria=(c for c in ["lamp"]), sparsities=np.array([0.5, 0.75]), seeds=range(2))
    pd.testing.assert_frame_equal(
        frame, sweep(criteria=["lamp"], sparsities=[0.5, 0.75], seeds=[0, 1])
    )


@pytest.mark.parametrize("value", [1, 0.25, np.float32(0.25), torch.tensor(0.25), torch.ones(1, 1)])
def test_evaluate_may_return_any_number(value):
    metric = sweep(evaluate=lambda model: value)["metric"]
    assert metric.dtype == float
    assert metric[0] == float(value)


def test_evaluate_may_return_a_tensor_with_a_history():
    frame = sweep(evaluate=lambda model: model[1].weight.sum())
    assert math.isfinite(frame.loc[0, "metric"])


ROW = "in the row of criterion 'magnitude', sparsity 0.5, seed 0:"
MUST = "`evaluate` must return a finite number, or a tensor of one, but it returned"
TRY = "Try pv.Accuracy(batches)."


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, None, "high", [0.5], torch.ones(2), torch.tensor(math.nan), 1j]
)
def test_what_is_no_finite_number_is_refused(value):
    with refused(f"{ROW} {MUST} {value!r}. {TRY}"):
        sweep(evaluate=lambda model: value)


BAD_CALLS = [
    ({"criteria": []}, "`criteria` is empty: there is nothing to run."),
    ({"criteria": "lamp"}, "`criteria` must be a list, but 'lamp' was passed. Try ['lamp']."),
    ({"criteria": ["lamp", "lampe"]}, "criterion 'lampe' is unknown. Did you mean 'lamp'? Known: activation, apoz, fisher, l1, l2, lamp, magnitude, obs, random, taylor, wanda."),
    ({"sparsities": []}, "`sparsities` is empty: there is nothing to run."),
    ({"sparsities": 0.5}, "`sparsities` must be a list, but 0.5 was passed. Try [0.5]."),
    ({"sparsities": [0.5, 90]}, "`sparsities` must be a fraction in [0, 1), but 90 was passed. Did you mean 0.9? Fractions, never percentages."),
    ({"seeds": ()}, "`seeds` is empty: there is nothing to run."),
    ({"seeds": 3}, "`seeds` must be a list, but 3 was passed. Try [3]."),
    ({"seeds": [0, -1]}, "`seeds` must be a whole number ≥ 0, but -1 was passed."),
    ({"seeds": [0.5]}, "`seeds` must be a whole number ≥ 0, but 0.5 was passed."),
    ({"granularity": "neuron"}, "`granularity` 'neuron' is unknown. Known: unit, weight."),
    ({"granularity": "unit"}, "criterion 'magnitude' scores single weights, not units. For units: activation, apoz, fisher, l1, l2, lamp, obs, random, taylor, wanda."),
    ({"criteria": ["l2"], "granularity": "weight"}, "criterion 'l2' scores units, not weights. For weights: fisher, lamp, magnitude, random, taylor, wanda; for units pass `groups`."),
    ({"groups": "conv1"}, "`groups` must be a Groups, but a str was passed. Make them: pv.find_groups(model, example_input)."),
    ({"criteria": ["l2"], "groups": pv.Groups(()), "granularity": "weight"}, "`groups` are for units, but granularity='weight' was passed. Leave out one of them."),
    ({"repair": "folds"}, "`repair` 'folds' is unknown. Did you mean 'fold'? Known: distil, fold, lstsq, merge, none."),
    ({"repair": []}, "`repair` is empty: there is nothing to run."),
    ({"repair": ["none", "merge"]}, "repair 'merge' is for units, but criterion 'magnitude' scores single weights here. For those pass 'none', 'lstsq' or 'distil'. Or pass granularity='unit', or run two sweeps."),
    ({"repair": "lstsq"}, "repair 'lstsq' needs data on what the layers read, but there is none. Pass batches=..., or evidence=pv.collect(model, batches)."),
    ({"criteria": ["wanda"]}, "criterion 'wanda' needs evidence, but none was passed. Collect it: pv.collect(model, batches)."),
    ({"batches": []}, "`batches` is empty: there is nothing to learn from. Pass an iterable of batches; a generator runs only once."),
    ({"evaluate": 0.9}, "`evaluate` must be a function of a model, or pv.Accuracy(batches), but a float was passed."),
    ({"n_jobs": 0}, "`n_jobs` must be 1 or more, or -1 for all cores, but 0 was passed."),
    ({"n_jobs": 1.5}, "`n_jobs` must be a whole number ≥ -1, but 1.5 was passed."),
    ({"scope": "local"}, "`scope` 'local' is unknown. Did you mean 'global'? Known: global, layer."),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), BAD_CALLS)
def test_a_bad_call_is_refused_before_anything_runs(bad, message, monkeypatch):
    def scored(*args, **kwargs):
        pytest.fail("a model was scored")

    monkeypatch.setattr("pruneviz.pruning.session.score", scored)
    with refused(message):
        sweep(**bad)


def test_an_example_input_that_does_not_fit_is_refused():
    with pytest.raises(pv.ArgumentError, match=r"could not run on one example"):
        pv.sweep(
            mlp(),
            torch.zeros(1, 5),
            criteria=["lamp"],
            sparsities=[0.5],
            evaluate=kept,
            progress=False,
        )


def test_progress_is_shown_only_where_asked(capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE")  # as our tests set it
    sweep()
    assert capsys.readouterr().err == ""
    sweep(progress=True)
    assert capsys.readouterr().err == ""  # a log file: nobody sees it move
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    sweep(progress=True)
    assert "/1 " in capsys.readouterr().err


def judge(**options):
    return pv.Accuracy(batches(n=20, count=3), **options)


def test_units_are_removed_and_what_is_left_is_measured():
    model = mlp()
    frame = sweep(model, criteria=["l2"], sparsities=[0, 0.5], evaluate=judge())
    assert frame["granularity"].tolist() == ["unit"] * 2
    small = pv.prune(model, inputs(), sparsity=0.5)
    cost = pv.measure(small, inputs())
    assert frame.loc[1, COSTS].tolist() == [getattr(cost, c) for c in COSTS]
    assert frame.loc[1, "metric"] == judge()(small)
    assert frame["sparsity"].tolist() == [0, 0.5]


def test_each_criterion_ranks_what_it_can():
    frame = sweep(criteria=["magnitude", "l1", "random"])
    assert frame["granularity"].tolist() == ["weight", "unit", "weight"]
    groups = pv.find_groups(mlp(), inputs())
    assert sweep(criteria=["random"], groups=groups)["granularity"].tolist() == ["unit"]
    units = sweep(criteria=["random"], granularity="unit")
    pd.testing.assert_frame_equal(units, sweep(criteria=["random"], groups=groups))


def test_repairs_are_those_of_shrink():
    model = mlp()
    data = [b for b, _ in batches(n=40)]
    frame = sweep(
        model,
        criteria=["l2"],
        repair=["none", "fold", "merge", "lstsq"],
        batches=data,
        evaluate=everything,
    )
    assert frame["repair"].tolist() == ["none", "fold", "merge", "lstsq"]
    plan = pv.select(pv.score(model, "l2", groups=pv.find_groups(model, inputs())), sparsity=0.5)
    for row in frame.itertuples():
        given = {"batches": data} if row.repair != "none" else {}
        small = pv.shrink(model, plan, example_input=inputs(), repair=row.repair, **given)
        assert row.metric == pytest.approx(everything(small), rel=1e-6)
    assert frame["metric"].nunique() == 4


@pytest.mark.parametrize("source", ["batches", "evidence"])
def test_weights_are_refitted_as_by_mask(source):
    model = mlp()
    data = [b for b, _ in batches(n=40)]
    given = {"batches": data} if source == "batches" else {"evidence": pv.collect(model, data)}
    frame = sweep(model, repair=["none", "lstsq"], evaluate=total, **given)
    masked = pv.mask(model, plan_for(model), repair="lstsq", **given)
    assert frame.loc[1, "metric"] == total(masked)
    assert frame.loc[0, "metric"] == total(pv.mask(model, plan_for(model)))
    cost = pv.measure(masked, inputs())
    assert frame.loc[1, COSTS].tolist() == [getattr(cost, c) for c in COSTS]


def test_evidence_is_collected_once_from_batches():
    model = mlp()
    evidence = pv.collect(model, batches(), loss=torch.nn.functional.cross_entropy)
    for criteria in (["wanda"], ["taylor", "obs"]):
        given = sweep(model, criteria=criteria, evidence=evidence)
        if criteria == ["wanda"]:  # the others draw labels, or use those that were passed
            pd.testing.assert_frame_equal(given, sweep(model, criteria=criteria, batches=batches()))
        assert len(sweep(model, criteria=criteria, batches=batches())) == len(criteria)


def test_tuning_units_starts_from_the_smaller_model():
    seen = []

    def tune(model):
        seen.append(pv.fit(model, batches(), lr=0.1, progress=False))
        return seen[-1]

    frame = sweep(criteria=["l2"], tune=tune, evaluate=total)
    assert seen[0][1].out_features == 4
    assert frame.loc[0, "metric"] == total(seen[0])


def test_an_accuracy_adds_its_interval():
    frame = sweep(evaluate=judge(examples=40), sparsities=[0, 0.9])
    at = COLUMNS.index("metric")
    assert list(frame.columns) == [*COLUMNS[: at + 1], "low", "high", "examples", *COSTS]
    assert frame["examples"].tolist() == [40, 40]
    for row in frame.itertuples():
        assert (row.low, row.high) == pv.accuracy_interval(round(row.metric * 40), 40)


@pytest.mark.parametrize("name", ["mlp", "cnn", "tied", "masked", "mixed", "renormalising"])
def test_the_quick_way_gives_what_the_plain_one_gives(name):
    model = build(name)
    before = snapshot(model)
    data = batches(n=20, count=2)
    both = {
        "criteria": ["magnitude", "lamp"], "sparsities": [0, 0.3, 0.9], "scope": "global",
    }  # fmt: skip
    quick = sweep(model, evaluate=pv.Accuracy(data), **both)
    assert_untouched(model, before)
    slow = sweep(model, evaluate=lambda m: pv.accuracy(m, data), **both)
    pd.testing.assert_frame_equal(quick.drop(columns=["low", "high", "examples"]), slow)


def test_random_numbers_of_a_row_come_from_its_seed():
    def evaluate(model):
        return float(torch.rand(()))

    frame = sweep(criteria=["random"], sparsities=[0.1, 0.5], seeds=[0, 1], evaluate=evaluate)
    alone = sweep(criteria=["random"], sparsities=[0.5], seeds=[1], evaluate=evaluate)
    assert frame.loc[3, "metric"] == alone.loc[0, "metric"]


def boom(model):
    if float((model[1].weight == 0).sum()) > 100:
        raise ValueError("boom")
    return 0.5


def test_an_error_names_the_row():
    with refused(f"{ROW} `evaluate` raised ValueError: boom"):
        sweep(evaluate=boom, sparsities=[0.1, 0.5])
    with refused(f"{ROW} `tune` raised ValueError: boom"):
        sweep(tune=boom)
    with refused(f"{ROW} `tune(model)` must be a Module, but a float was passed. Return the new model, as pv.fit does."):  # fmt: skip
        sweep(tune=lambda model: 0.5)
    with refused("in the row of criterion 'l2', sparsity 0.5, repair 'merge', seed 3: `evaluate` raised KeyError: 1"):  # fmt: skip
        sweep(criteria=["l2"], repair="merge", seeds=[3], evaluate=lambda m: {}[1])


def test_a_model_without_units_to_cut_is_refused():
    with pytest.raises(pv.GraphError, match="no unit of the model can be removed"):
        sweep(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(36, 3)), criteria=["l2"])

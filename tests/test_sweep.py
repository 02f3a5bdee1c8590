from __future__ import annotations

import math
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_untouched, batches, build, inputs, mlp, refused, snapshot
from hypothesis import given
from hypothesis import strategies as st

import pruneviz as pv

COLUMNS = [
    *("criterion", "scope", "seed", "target_sparsity", "sparsity", "metric"),
    *("params", "nonzero", "bytes", "macs"),
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
    """Return a number that tells which weights are left."""
    return sum(float(w.double().abs().sum()) for w in pv.named_weights(model).values())


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


MUST = "`evaluate` must return a finite number, but it returned"
TRY = "Try lambda model: pv.accuracy(model, batches)."


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, None, "high", [0.5], torch.ones(2), torch.tensor(math.nan), 1j]
)
def test_what_is_no_finite_number_is_refused(value):
    with refused(f"{MUST} {value!r}. {TRY}"):
        sweep(evaluate=lambda model: value)


BAD_CALLS = [
    ({"criteria": []}, "`criteria` is empty: there is nothing to run."),
    ({"criteria": "lamp"}, "`criteria` must be a list, but 'lamp' was passed. Try ['lamp']."),
    ({"criteria": ["lamp", "lampe"]}, "criterion 'lampe' is unknown. Did you mean 'lamp'? Known: fisher, lamp, magnitude, random, taylor, wanda."),
    ({"sparsities": []}, "`sparsities` is empty: there is nothing to run."),
    ({"sparsities": 0.5}, "`sparsities` must be a list, but 0.5 was passed. Try [0.5]."),
    ({"sparsities": [0.5, 90]}, "`sparsities` must be a fraction in [0, 1), but 90 was passed. Did you mean 0.9? Fractions, never percentages."),
    ({"seeds": ()}, "`seeds` is empty: there is nothing to run."),
    ({"seeds": 3}, "`seeds` must be a list, but 3 was passed. Try [3]."),
    ({"seeds": [0, -1]}, "`seeds` must be a whole number ≥ 0, but -1 was passed."),
    ({"seeds": [0.5]}, "`seeds` must be a whole number ≥ 0, but 0.5 was passed."),
    ({"scope": "local"}, "`scope` 'local' is unknown. Did you mean 'global'? Known: global, layer."),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), BAD_CALLS)
def test_a_bad_call_is_refused_before_anything_runs(bad, message, monkeypatch):
    def scored(*args, **kwargs):
        pytest.fail("a model was scored")

    # `pruneviz.sweep` is the verb; the module is behind it
    monkeypatch.setattr(import_module("pruneviz.sweep"), "score", scored)
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


def test_progress_is_shown_only_where_asked(capsys):
    sweep()
    assert capsys.readouterr().err == ""
    sweep(progress=True)
    assert "/1 " in capsys.readouterr().err

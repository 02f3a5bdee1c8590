"""Long tables: kept, taken up again, in parallel."""

from __future__ import annotations

import json
import os
import threading
import warnings

import joblib
import pandas as pd
import pytest
import torch
from helpers import batches, inputs, mlp, refused

import pruneviz as pv
from pruneviz.metrics.evaluator import evaluated

CALLS = []
MARK = "# pruneviz "


def kept(model):
    """Return a number that depends on which weights are kept, and draw a random number."""
    CALLS.append(1)
    return float(model[1].weight.detach().abs().sum()) + float(torch.rand(()))


def sweep(path=None, model=None, **options):
    CALLS.clear()
    given = {
        "criteria": ["magnitude", "random", "l2"],
        "sparsities": [0.25, 0.5],
        "seeds": [0, 1],
        "evaluate": kept,
        "progress": False,
        **options,
    }
    torch.manual_seed(5)
    return pv.sweep(model or mlp(), inputs(), path=path, **given)


def read(path):
    """Read what is stored; the frame has no column of what is left out, where that is nothing."""
    return pd.read_csv(path, comment="#").dropna(axis=1, how="all")


def ordered(frame):
    return frame.sort_values(list(frame.columns[:6])).reset_index(drop=True)


def test_rows_are_written_down_as_they_come(tmp_path):
    path = tmp_path / "run.csv"
    frame = sweep(path)
    pd.testing.assert_frame_equal(ordered(read(path)), ordered(frame))
    assert path.read_text().startswith(MARK)
    assert len(CALLS) == 2 + 4 + 2


def test_a_finished_table_is_only_read(tmp_path):
    path = tmp_path / "run.csv"
    first = sweep(path)
    text = path.read_text()
    pd.testing.assert_frame_equal(sweep(path), first)
    assert not CALLS
    assert path.read_text() == text


@pytest.mark.parametrize("lines", range(2, 14))
def test_a_stopped_table_is_continued(tmp_path, lines):
    path = tmp_path / "run.csv"
    frame = sweep(path)
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join(whole[:lines]))
    pd.testing.assert_frame_equal(sweep(str(path)), frame)
    assert sorted(path.read_text().splitlines()) == sorted("".join(whole).splitlines())


@pytest.mark.parametrize("cut", [1, 5, 40, 200, 300, -20])
def test_a_line_that_was_cut_off_is_made_anew(tmp_path, cut):
    path = tmp_path / "run.csv"
    frame = sweep(path)
    whole = path.read_text()
    path.write_text(whole[:cut] if cut > 0 else whole[: len(whole) + cut])
    pd.testing.assert_frame_equal(sweep(path), frame)
    assert path.read_text() == whole


class Stop:
    """Judges a few models, then fails."""

    def __init__(self, after, error):
        self.left, self.error = after, error

    def __call__(self, model):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return kept(model)


@pytest.mark.parametrize(
    ("error", "seen"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (ValueError("no"), pv.ArgumentError)],
)
def test_finished_rows_are_kept(tmp_path, monkeypatch, error, seen):
    path, left = tmp_path / "run.csv", [3]

    def stopping(evaluate, model):
        left[0] -= 1
        if left[0] < 0:
            raise error
        return evaluated(evaluate, model)

    with monkeypatch.context() as patched:
        patched.setattr("pruneviz.study.sweep.evaluated", stopping)
        with pytest.raises(seen):
            sweep(path)
    assert len(read(path)) == 2 * 2 + 1  # magnitude for both seeds, and one of random
    assert os.listdir(tmp_path) == ["run.csv"]
    frame = sweep(path)
    assert len(CALLS) == 8 - 3
    pd.testing.assert_frame_equal(frame, sweep())


def test_nan_in_the_middle(tmp_path):
    path = tmp_path / "run.csv"
    values = iter([0.5, 0.25, float("nan")])
    with refused(
        "in the row of criterion 'random', sparsity 0.25, seed 0: `evaluate` must return a finite number, "
        "or a tensor of one, but it returned nan. Try pv.Accuracy(batches)."
    ):
        sweep(path, evaluate=lambda model: next(values))
    assert read(path)["metric"].tolist() == [0.5, 0.5, 0.25, 0.25]  # both seeds


OTHERS = {
    "sparsities": {"sparsities": [0.25, 0.75]},
    "criteria": {"criteria": ["random", "magnitude", "l2"]},
    "seeds": {"seeds": [0]},
    "repair": {"repair": "merge", "criteria": ["l2"], "sparsities": [0.25, 0.5]},
    "evaluate": {"evaluate": lambda model: 0.5},
    "tune": {"tune": lambda model: model},
    "batches": {"batches": batches()},
    "scope": {"scope": "global"},
    "groups": {"groups": pv.find_groups(mlp(), inputs()), "criteria": ["l2"]},
    "model": {"model": torch.nn.Sequential(*mlp(), torch.nn.Identity())},
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_table_of_other_arguments_is_refused(tmp_path, name):
    path = tmp_path / "run.csv"
    model = mlp()
    sweep(path, model)
    text = path.read_text()
    with pytest.raises(
        pv.ArgumentError, match=f"holds the rows of another call: .*`{name}` \\(was "
    ):
        sweep(path, **{"model": model, **OTHERS[name]})
    assert path.read_text() == text
    assert not CALLS


def test_the_message_says_what_differs(tmp_path):
    path, model = tmp_path / "run.csv", mlp()
    sweep(path, model)
    with refused(
        f"`path` {str(path)!r} holds the rows of another call: `sparsities` (was [0.25, 0.5] there, is "
        "[0.5]). Name another file, or delete this one."
    ):
        sweep(path, model, sparsities=[0.5])


def test_a_model_with_other_weights_is_another_one(tmp_path):
    path, model = tmp_path / "run.csv", mlp()
    sweep(path, model)
    with torch.no_grad():
        model[3].bias[0] += 1
    with pytest.raises(pv.ArgumentError, match=r"another call: `model` \(was"):
        sweep(path, model)


NO_TABLES = [
    ("layer,metric\nfc1,0.5\n", "its first two lines are not those of such a table"),
    ("hello", "its first two lines are not those of such a table"),
    (f"{MARK}{{}}\na,b\n", "its first two lines are not those of such a table"),
    (f"{MARK}not json\n", None),
]


@pytest.mark.parametrize(("text", "why"), NO_TABLES)
def test_a_file_of_something_else_is_left_alone(tmp_path, text, why):
    path = tmp_path / "notes.csv"
    path.write_text(text)
    if why is None:  # the first of two lines: nothing was in it yet
        sweep(path)
        return
    with refused(
        f"`path` {str(path)!r} holds no table of pv.sweep, or is damaged ({why}). Name another file, or "
        "delete this one."
    ):
        sweep(path)
    assert path.read_text() == text


def test_a_table_of_another_verb_is_refused(tmp_path):
    path = tmp_path / "run.csv"
    sweep(path)
    head, names, *rows = path.read_text().splitlines()
    other = {**json.loads(head.removeprefix(MARK)), "verb": "sensitivity"}
    path.write_text("\n".join([MARK + json.dumps(other), names, *rows]) + "\n")
    with pytest.raises(pv.ArgumentError, match=r"it holds a table of pv\.sensitivity"):
        sweep(path)


def test_a_path_that_cannot_be_written_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(pv.ArgumentError, match=r"`path` .* cannot be written: "):
        sweep(tmp_path / "no such folder" / "run.csv")
    assert not CALLS


def test_threads_give_the_same_rows(tmp_path):
    model = mlp()
    first = sweep(model=model)
    with joblib.parallel_config(backend="threading", n_jobs=3):
        path = tmp_path / "run.csv"
        # `kept` draws from torch's one generator, which threads share
        judge = pv.Accuracy(batches(n=30))
        frame = sweep(path, model, evaluate=judge)
    assert list(frame.columns[:7]) == list(first.columns[:7])
    pd.testing.assert_frame_equal(frame, sweep(model=model, evaluate=judge))
    pd.testing.assert_frame_equal(frame, sweep(path, model, evaluate=judge))


def no(model):
    raise ValueError("no")


def test_processes_give_the_same_rows(tmp_path):
    model, path = mlp(), tmp_path / "run.csv"
    name = "far from a tenth"
    pv.register(name, source="mine", formula="|w - 0.1|")(lambda weight: (weight - 0.1).abs())
    try:
        criteria = [name, "random", "l2"]
        frame = sweep(path, model, n_jobs=2, criteria=criteria)
        assert not CALLS  # nothing ran here
        pd.testing.assert_frame_equal(frame, sweep(model=model, criteria=criteria))
    finally:
        del pv.CRITERIA[name]


def test_arguments_that_cannot_be_sent_are_refused():
    with pytest.raises(
        pv.ArgumentError,
        match=r"^the arguments cannot be sent to other processes \(TypeError: .*lock",
    ):
        sweep(n_jobs=2, tune=Stop(1, threading.Lock()))


def test_a_cluster_gives_the_same_rows(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # distributed's own: ports, event loops
        from distributed import Client, LocalCluster

        model, judge = mlp(), pv.Accuracy(batches(n=30))
        with (
            LocalCluster(n_workers=1, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
            Client(cluster),
            joblib.parallel_config(backend="dask"),
        ):  # fmt: skip
            frame = sweep(tmp_path / "run.csv", model, evaluate=judge)
            with pytest.raises(
                pv.ArgumentError, match=r"in the row of criterion 'l1', .*: `evaluate` raised"
            ):
                sweep(model=model, criteria=["l1"], evaluate=no)
    pd.testing.assert_frame_equal(frame, sweep(model=model, evaluate=judge))

"""Stored rows are taken up only by the call that made them, and never lost by a second writer."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from helpers import inputs, mlp, refused

import pruneviz as pv

FACTOR = 1.0


def of_global(model):
    return FACTOR


class Judge:
    def __init__(self, factor, extra=None):
        self.factor, self.extra = factor, extra

    def __call__(self, model):
        return self.factor


def sweep(path, model, evaluate, **options):
    options = {"criteria": ["magnitude"], "sparsities": [0.25, 0.5], **options}
    return pv.sweep(model, inputs(), evaluate=evaluate, path=path, progress=False, **options)


def sensitivity(path, model, evaluate, **options):
    options = {"sparsities": [0.25, 0.5], "layers": ["1"], **options}
    return pv.sensitivity(model, inputs(), evaluate=evaluate, path=path, progress=False, **options)


VERBS = [sweep, sensitivity]
both = pytest.mark.parametrize("verb", VERBS, ids=lambda f: f.__name__)


def closure(factor):
    return lambda model: factor


def default(factor):
    return lambda model, factor=factor: factor


def keyword(factor):
    return lambda model, *, factor=factor: factor


def mapping(factor):
    table = {"x": [factor]}
    return lambda model: table["x"][0]


def method(factor):
    return Judge(factor).__call__


def nested(factor):
    inner = closure(factor)
    return lambda model: max(inner(m) for m in (model,))


def code(factor):
    return (lambda model: 1.0) if factor == 1 else (lambda model: 2.0)


MAKERS = {
    closure: "evaluate, its variable factor",
    default: "evaluate",
    keyword: "evaluate",
    mapping: "evaluate, its variable table",
    Judge: "evaluate",
    method: "evaluate",
    nested: "evaluate, its variable inner",
    code: "evaluate",
}


@both
@pytest.mark.parametrize("make", MAKERS, ids=lambda f: f.__name__)
def test_rows_of_another_function_are_not_taken_up(tmp_path, verb, make):
    path, model = tmp_path / "rows.csv", mlp()
    assert set(verb(path, model, make(1.0))["metric"]) == {1.0}
    text = path.read_text()
    with pytest.raises(
        pv.ArgumentError, match=f"holds the rows of another call: `{MAKERS[make]}` \\(was "
    ):
        verb(path, model, make(2.0))
    assert path.read_text() == text
    assert set(verb(path, model, make(1.0))["metric"]) == {1.0}  # made anew, and the same
    assert path.read_text() == text


@both
def test_rows_of_another_global_variable_are_not_taken_up(tmp_path, verb, monkeypatch):
    path, model = tmp_path / "rows.csv", mlp()
    verb(path, model, of_global)
    monkeypatch.setitem(globals(), "FACTOR", 2.0)
    with pytest.raises(pv.ArgumentError, match="`evaluate, its variable FACTOR` \\(was "):
        verb(path, model, of_global)


def test_a_criterion_that_changed_is_another_one(tmp_path, monkeypatch):
    path, model, name = tmp_path / "rows.csv", mlp(), "mine, times"
    pv.register(name, source="mine", formula="|w| · f")(lambda w: w.abs() * FACTOR)
    try:
        sweep(path, model, Judge(1.0), criteria=[name])
        monkeypatch.setitem(globals(), "FACTOR", 2.0)
        with pytest.raises(pv.ArgumentError, match="`code of the criteria`"):
            sweep(path, model, Judge(1.0), criteria=[name])
    finally:
        del pv.CRITERIA[name]


@both
def test_rows_that_cannot_be_compared_are_computed_again_and_it_is_said_once(tmp_path, verb):
    path, model, calls = tmp_path / "rows.csv", mlp(), []
    lock = threading.Lock()

    def evaluate(m):
        calls.append(m)
        return 1.0 if lock else 2.0

    for _ in range(2):
        calls.clear()
        with pytest.warns(UserWarning) as said:
            verb(path, model, evaluate)
        assert [str(w.message) for w in said] == [
            "`evaluate` holds a lock. So what is stored in "
            f"{str(path)!r} cannot be taken up by another call: it is computed again. Pass functions and "
            "objects that hold only numbers, texts, tensors, models and functions."
        ]
        assert calls and len(pd.read_csv(path, comment="#")) == 2
    with pytest.warns(
        UserWarning, match="were computed with `evaluate` that could not be compared"
    ):
        verb(path, model, Judge(1.0))  # the advice
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = path.read_bytes()
        verb(path, model, Judge(1.0))
    assert path.read_bytes() == before
    with pytest.warns(UserWarning), refused(f"`path` {str(path)!r} holds the rows of another call: `sparsities` (was [0.25, 0.5] there, is [0.5]). Name another file, or delete this one."):  # fmt: skip
        verb(path, model, Judge(1.0, lock), sparsities=[0.5])


@both
def test_a_second_writer_is_refused_and_the_first_goes_on(tmp_path, verb):
    path, model = tmp_path / "rows.csv", mlp()

    def evaluate(m):
        with refused(
            f"`path` {str(path)!r} is being written by another call. Wait until it has finished, or name "
            "another file."
        ):
            verb(path, model, Judge(1.0))
        return 1.0

    assert len(verb(path, model, evaluate)) == len(pd.read_csv(path, comment="#")) == 2
    assert os.listdir(tmp_path) == ["rows.csv"]


CHILD = """
import sys, time, torch, pathlib, pruneviz as pv
def evaluate(m):
    pathlib.Path(sys.argv[2]).touch()
    time.sleep(60)
pv.sweep(torch.nn.Linear(4, 2), torch.zeros(1, 4), criteria=["magnitude"], sparsities=[0.5],
         evaluate=evaluate, path=sys.argv[1], progress=False)
"""


def test_a_writer_in_another_process_is_seen_until_it_is_killed(tmp_path):
    path, started = tmp_path / "rows.csv", tmp_path / "started"
    env = {**os.environ, "PYTHONPATH": str(Path(pv.__file__).parents[1])}
    child = subprocess.Popen([sys.executable, "-c", CHILD, path, started], env=env)
    try:
        for _ in range(600):
            if started.exists():
                break
            time.sleep(0.05)
        with pytest.raises(pv.ArgumentError, match="is being written by another call"):
            sweep(path, mlp(), of_global)
    finally:
        child.kill()
        child.wait()
    with pytest.raises(pv.ArgumentError, match="holds the rows of another call"):
        sweep(path, mlp(), of_global)  # its rows are those of the other
    path.unlink()
    sweep(path, mlp(), of_global)
    assert sorted(os.listdir(tmp_path)) == ["rows.csv", "started"]


def test_what_somebody_else_wrote_meanwhile_is_not_lost_nor_are_the_rows(tmp_path, monkeypatch):
    path, model, calls = tmp_path / "rows.csv", mlp(), []
    judge = Judge(1.0)

    def meanwhile(evaluate, m):
        calls.append(m)
        if len(calls) == 2:
            path.write_text("by hand")
        return {"metric": 1.0}

    with monkeypatch.context() as patched:
        patched.setattr("pruneviz.study.sweep.evaluated", meanwhile)
        with pytest.raises(pv.ArgumentError) as e:
            sweep(path, model, judge)
    (mine,) = {*os.listdir(tmp_path)} - {"rows.csv"}
    assert str(e.value) == (
        f"`path` {str(path)!r} was changed by somebody else while this call wrote it. The rows of this "
        f"call are in {str(tmp_path / mine)!r}: pass that as `path` to continue them."
    )
    assert path.read_text() == "by hand"
    calls.clear()
    assert len(sweep(tmp_path / mine, model, judge)) == 2  # the advice
    assert not calls


def test_a_file_that_was_deleted_meanwhile_is_written_again(tmp_path):
    path = tmp_path / "rows.csv"

    def evaluate(m):
        path.unlink(missing_ok=True)
        return 1.0

    sweep(path, mlp(), evaluate)
    assert len(pd.read_csv(path, comment="#")) == 2


def test_names_with_commas_quotes_and_lines_come_back(tmp_path):
    path = tmp_path / "rows.csv"
    model = torch.nn.Sequential()
    for name in ('a,"b"', "c\nd", "e\u2028f", "g"):
        model.add_module(name, torch.nn.Linear(4, 4))
    options = {"sparsities": [0.5], "path": path, "progress": False, "evaluate": Judge(1.0)}
    first = pv.sensitivity(model, torch.zeros(1, 4), **options)
    text = path.read_bytes()
    pd.testing.assert_frame_equal(pv.sensitivity(model, torch.zeros(1, 4), **options), first)
    assert path.read_bytes() == text

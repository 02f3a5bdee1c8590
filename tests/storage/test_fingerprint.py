"""Rows of a long run are taken up only if nothing that made them has changed."""

from __future__ import annotations

import functools
import importlib
import os
import random
import subprocess
import sys
import threading
from collections import Counter, OrderedDict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers import batches, inputs, mlp
from torch import nn

import pruneviz as pv
from pruneviz.storage.fingerprint import UNKNOWN, CannotCompareError, fingerprint, fingerprints

SCALE = 2.0
TABLE = {"a": 1}


def scaled(model):
    return SCALE


def of_scaled(model):
    return [scaled(m) for m in (model,)]


def of_table(model):
    return lambda: TABLE["a"]


class Judge:
    low = 0

    def __init__(self, n, memory=None):
        self.n, self.memory = n, memory

    def __call__(self, model):
        return self.n + SCALE

    @property
    def size(self):
        return self.n

    @staticmethod
    def half(x):
        return x / 2


class Net(nn.Module):
    def __init__(self, n=1):
        super().__init__()
        self.n, self.fc = n, nn.Linear(2, 2)

    def forward(self, x):
        return self.fc(x) * self.n


def closure(n):
    return lambda m: m + n


def test_values_are_told_apart():
    values = [
        None, 1, 1.0, "1", b"1", True, 1j, [1], (1,), {1}, frozenset({1}), {"a": 1}, {"b": 1},
        OrderedDict(a=1), Counter("a"), range(2), slice(1), ..., Fraction(1, 2), Path("a"),
        torch.zeros(2), torch.zeros(1, 2), torch.zeros(2).bfloat16(), torch.zeros(2).numpy(),
        nn.Parameter(torch.zeros(2)), torch.zeros(2, device="meta"), torch.float32, torch.Size([1]),
        np.float32(1), np.array([None, 1]), random.Random(1), random.Random(2), pd.Series([1]),
        torch.Generator().manual_seed(1), torch.Generator().manual_seed(2),
        mlp(), mlp(), nn.ReLU(), nn.ReLU().eval(), nn.LeakyReLU(0.1), nn.LeakyReLU(0.2), Net(), Net,
        pv.Accuracy(batches(n=5)), pv.Accuracy(batches(n=5), examples=3),
        pv.find_groups(mlp(), inputs()), scaled, of_scaled, Judge, Judge(1), Judge(2),
        Judge(1).__call__, Judge(1, [1, {2}]), Judge(1, scaled), len, "".join, max, math_like,
        functools.partial(scaled, 1), functools.partial(scaled, 2), closure(1), closure(2),
        lambda m: m + 1, lambda m: m + 2, lambda m, n=1: m, lambda m, n=2: m, lambda m, *, n=1: m,
        lambda m, *, n=2: m, lambda m: m in {1, 2}, lambda m: m in {1, 3}, torch.relu, np.add,
        torch.nn.functional.cross_entropy, torch.utils.data.DataLoader([1, 2]),
        torch.utils.data.DataLoader([1, 3]), os, pv,
    ]  # fmt: skip
    prints = [fingerprint(v) for v in values]
    twice = {i: j for i, p in enumerate(prints) for j in range(i) if prints[j] == p}
    assert not twice, [(values[i], values[j]) for i, j in twice.items()]
    assert [v for v, p in zip(values, prints, strict=True) if fingerprint(v) != p] == []


def math_like(x):
    return x


@pytest.mark.parametrize(
    "fn",
    [scaled, of_scaled, Judge(1), Judge(1).__call__, Judge],
    ids=["function", "a function that calls it", "object", "method", "class"],
)
def test_the_globals_that_a_function_reads_count(fn, monkeypatch):
    before = fingerprint(fn)
    monkeypatch.setitem(globals(), "TABLE", 3)  # read by none of them
    assert fingerprint(fn) == before
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert fingerprint(fn) != before


def test_what_nested_functions_and_containers_read_counts(monkeypatch):
    before = fingerprint([of_table, {"x": of_table}])
    monkeypatch.setitem(TABLE, "a", 2)
    assert fingerprint([of_table, {"x": of_table}]) != before


@pytest.mark.parametrize("change", ["attribute", "method", "property", "static", "base"])
def test_the_code_of_a_class_counts(monkeypatch, change):
    class Mine(Judge):
        pass

    value = Mine(1)
    before = fingerprint(value)
    if change == "base":
        monkeypatch.setattr(Judge, "__call__", lambda self, model: 0)
    else:
        new = {"attribute": 1, "method": lambda self: 1, "property": property(lambda self: 7),
               "static": staticmethod(abs)}[change]  # fmt: skip
        monkeypatch.setattr(Mine, {"attribute": "low"}.get(change, "half"), new, raising=False)
    assert fingerprint(value) != before


def test_the_forward_of_a_model_counts(monkeypatch):
    model = Net()
    before = fingerprint(model)
    model.n = 2
    assert fingerprint(model) != before
    model.n = 1
    assert fingerprint(model) == before
    handle = model.register_forward_hook(scaled)
    assert fingerprint(model) != before
    handle.remove()
    model.register_forward_hook(scaled).remove()  # hooks are numbered through: that is no change
    assert fingerprint(model) == before
    monkeypatch.setattr(Net, "forward", lambda self, x: x)
    assert fingerprint(model) != before


@torch.no_grad()
def decorated(model):
    return SCALE


def test_a_decorated_function_is_looked_into(monkeypatch):
    before = fingerprint(decorated)
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert fingerprint(decorated) != before


def test_own_modules_count_with_what_is_read_of_them(tmp_path, monkeypatch):
    (tmp_path / "mine_only.py").write_text("RATE = 1\ndef rate(m): return RATE\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    space: dict = {}
    exec("def inside(m):\n    import mine_only\n    return mine_only.rate(m)\n", space)
    unread = fingerprint(space["inside"])  # not imported yet: its text counts
    mine = importlib.import_module("mine_only")
    exec("import mine_only\ndef fn(m):\n    return mine_only.rate(m)\n", space)
    prints = [fingerprint(space[n]) for n in ("fn", "inside")]
    mine.RATE = 2
    assert all(a != fingerprint(space[n]) for a, n in zip(prints, ("fn", "inside"), strict=True))
    mine.RATE = 1
    (tmp_path / "mine_only.py").write_text("RATE = 1\ndef rate(m): return RATE + 1\n")
    assert fingerprint(space["fn"]) != prints[0]
    del sys.modules["mine_only"]
    assert fingerprint(space["inside"]) != unread


def test_circles_end():
    ring: list = [1]
    ring.append(ring)
    judge = Judge(1)
    judge.memory = {"me": judge}
    assert fingerprint(ring) == fingerprint(ring)
    assert fingerprint(judge) == fingerprint(judge) != fingerprint(Judge(1))


def numbers():
    yield 1


def evaluates(m):
    return eval("SCALE")


def deep():
    value: list = []
    for _ in range(100_000):
        value = [value]
    return value


NOT_COMPARED = {
    "a lock": (threading.Lock(), "holds a lock"),
    "an object with a lock": (Judge(1, threading.Lock()), "holds a lock"),
    "a closure over a lock": (closure(threading.Lock()), "holds a lock"),
    "an open file": (Judge(1, open(os.devnull)), "holds a TextIOWrapper"),  # noqa: SIM115
    "a generator": (numbers(), "holds a generator"),
    "eval": (evaluates, "calls eval, which may read anything"),
    "too deep": (deep(), "holds objects in objects, too deep to follow"),
    "too much": ([[] for _ in range(10_001)], "holds more than 10,000 objects"),
}


@pytest.mark.parametrize("name", NOT_COMPARED)
def test_what_cannot_be_compared_says_why(name, monkeypatch):
    monkeypatch.setattr(
        "pruneviz.storage.fingerprint.MOST_OBJECTS", 10_000
    )  # else it takes a second
    value, why = NOT_COMPARED[name]
    with pytest.raises(CannotCompareError, match=f"^{why}$"):
        fingerprint(value)
    with pytest.warns(UserWarning) as seen:
        found = fingerprints({"model": 1, "evaluate": value, "seeds": 1}, "run.csv")
    assert found == {"model": fingerprint(1), "evaluate": UNKNOWN, "seeds": fingerprint(1)}
    assert [str(w.message) for w in seen] == [
        f"`evaluate` {why}. So what is stored in 'run.csv' cannot be taken up by another call: it is "
        "computed again. Pass functions and objects that hold only numbers, texts, tensors, models and "
        "functions."
    ]


def test_another_process_finds_the_same(tmp_path):
    """A resumed run is another process: neither addresses nor the order of sets may count."""
    (tmp_path / "job.py").write_text(
        "import torch, pruneviz as pv\n"
        "from pruneviz.storage.fingerprint import fingerprint\n"
        "WORDS = {'a', 'b', 'c', 'd', 'e'}\n"
        "class Judge:\n"
        "    def __init__(self): self.words, self.again = WORDS, self\n"
        "    def __call__(self, m): return m in {'x', 'y', 'z'} and (1.5, 'q') and WORDS\n"
        "torch.manual_seed(0)\n"
        "model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU())\n"
        "print(fingerprint([Judge(), Judge.__call__, model, lambda m: Judge(), object]))\n"
    )
    found = {
        subprocess.run([sys.executable, tmp_path / "job.py"], capture_output=True, text=True, check=True,
                       env={**os.environ, "PYTHONHASHSEED": str(seed)}).stdout
        for seed in (1, 2)
    }  # fmt: skip
    assert len(found) == 1 and len(found.pop()) == 13

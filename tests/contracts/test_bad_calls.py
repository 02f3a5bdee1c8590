"""No argument of any function is answered with a raw error, and what is said is exact."""

from __future__ import annotations

import inspect
import math
from contextlib import AbstractContextManager

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_untouched, refused, snapshot
from torch import nn

import pruneviz as pv

X, Y = torch.randn(12, 4, generator=torch.Generator().manual_seed(3)), torch.arange(12) % 3


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


MODEL, BATCHES = net(), [(X, Y)]
GROUPS = pv.find_groups(MODEL, X)
SCORES = pv.score(MODEL, "l2", groups=GROUPS)
PLAN = pv.select(SCORES, sparsity=0.5)
WEIGHTS = pv.select(pv.score(MODEL, "magnitude"), sparsity=0.5)
EVIDENCE = pv.collect(MODEL, BATCHES, loss=F.cross_entropy, progress=False)
JUDGE = pv.Accuracy(BATCHES)
SMALL = pv.prune(MODEL, X, sparsity=0.5)
TABLE = pv.sensitivity(MODEL, X, sparsities=[0.25, 0.5], evaluate=JUDGE, progress=False)
SWEPT = pv.sweep(MODEL, X, criteria=["l2"], sparsities=[0.25, 0.5], evaluate=JUDGE, progress=False)

# each with arguments that work; one after the other is replaced by junk
CALLS = {
    "evaluating": {"model": MODEL},
    "hooked": {"model": MODEL, "layers": ["0"], "fn": lambda *call: None},
    "named_weights": {"model": MODEL},
    "weight_histogram": {"model": MODEL, "bins": 10},
    "find_groups": {"model": MODEL, "example_input": X},
    "collect": {"model": MODEL, "batches": BATCHES, "loss": F.cross_entropy, "layers": ["0"],
                "comoment": True, "max_batches": 1, "seed": 0},
    "accuracy": {"model": MODEL, "batches": BATCHES, "ignore_index": -100},
    "predict": {"model": MODEL, "x": X},
    "Accuracy": {"batches": BATCHES, "examples": 5, "seed": 0, "ignore_index": -100},
    "compare_accuracy": {"before": MODEL, "after": MODEL, "batches": BATCHES, "level": 0.95,
                         "names": ["a", "b", "c"]},
    "measure": {"model": MODEL, "example_input": X},
    "effective_macs": {"model": MODEL, "batches": [X]},
    "find_inactive": {"evidence": EVIDENCE, "groups": GROUPS, "rare": 0.01},
    "find_redundant": {"model": MODEL, "groups": GROUPS, "evidence": EVIDENCE, "top": 3},
    "bounds": {"model": MODEL, "example_input": X, "low": -1, "high": 1, "groups": GROUPS},
    "score": {"model": MODEL, "criterion": "l2", "groups": GROUPS, "evidence": EVIDENCE,
              "reduction": "mean", "seed": 0},
    "select": {"scores": SCORES, "sparsity": 0.5, "scope": "layer", "min_keep": 1,
               "protect": ["2"], "round_to": 1},
    "drop": {"groups": GROUPS, "units": {"0": [1]}},
    "drop_redundant": {"pairs": pv.find_redundant(MODEL, groups=GROUPS), "groups": GROUPS},
    "mask": {"model": MODEL, "plan": WEIGHTS, "repair": "lstsq", "batches": [X]},
    "bake": {"model": MODEL},
    "shrink": {"model": MODEL, "plan": PLAN, "example_input": X, "repair": "fold",
               "evidence": EVIDENCE},
    "prune": {"model": MODEL, "example_input": X, "macs": 0.5, "criterion": "l2", "batches": [X],
              "repair": "lstsq", "ridge": 1e-3, "scope": "layer", "protect": ["2"], "min_keep": 1,
              "round_to": 1, "seed": 0},
    "recalibrate": {"model": MODEL, "batches": [X]},
    "rescale": {"model": MODEL, "groups": GROUPS, "example_input": X, "factor": 2.0, "seed": 0},
    "lossless_plan": {"model": MODEL, "example_input": X, "evidence": EVIDENCE},
    "certify": {"before": MODEL, "after": SMALL, "batches": [X]},
    "to_csr": {"model": MODEL},
    "schedule": {"kind": "cubic", "sparsity": 0.9, "rounds": 4},
    "fit": {"model": MODEL, "batches": BATCHES, "epochs": 1, "lr": 0.1, "seed": 0,
            "loss": F.cross_entropy, "optimizer": torch.optim.Adam},
    "prune_iteratively": {"model": MODEL, "batches": BATCHES, "sparsity": 0.5, "rounds": 1},
    "sweep": {"model": MODEL, "example_input": X, "criteria": ["l2"], "sparsities": [0.5],
              "evaluate": JUDGE, "repair": ["none"], "seeds": (0,), "batches": BATCHES},
    "sensitivity": {"model": MODEL, "example_input": X, "criterion": "l2", "sparsities": [0.5],
                    "evaluate": JUDGE, "layers": ["0"], "repair": "none"},
    "allocate": {"frame": TABLE, "model": MODEL, "example_input": X, "macs": 0.5},
    "ablate": {"model": MODEL, "batches": BATCHES, "groups": GROUPS, "loss": F.cross_entropy},
    "criterion_card": {"model": MODEL, "batches": BATCHES, "groups": GROUPS, "criteria": ["l2"],
                       "seeds": (0, 1)},
    "pareto": {"data": SWEPT, "x": "macs", "y": "metric"},
    "panel_weights": {"model": MODEL},
    "panel_neurons": {"model": MODEL, "x": X},
    "panel_inactive": {"model": MODEL, "batches": BATCHES},
    "panel_tradeoff": {"data": SWEPT},
}  # fmt: skip
JUNK = {
    "None": None, "a word": "x", "an object": object(), "-1": -1, "nan": math.nan, "huge": 1e30,
    "nothing in a list": [], "None in a list": [None], "a dict": {}, "an array": np.zeros(3),
    "a tensor": torch.zeros(3), "bytes": b"x", "a frame": pd.DataFrame(),
}  # fmt: skip


def call(name: str, arguments: dict[str, object]) -> None:
    silent = (
        {"progress": False} if "progress" in inspect.signature(getattr(pv, name)).parameters else {}
    )
    found = getattr(pv, name)(**arguments, **silent)
    if isinstance(found, AbstractContextManager):
        with found:
            pass


@pytest.mark.parametrize("name", CALLS)
def test_junk_is_refused_in_words(name):
    call(name, CALLS[name])  # it works
    before = snapshot(MODEL)
    raw = []
    for argument in CALLS[name]:
        for what, junk in JUNK.items():
            try:
                call(name, {**CALLS[name], argument: junk})
            except (pv.ArgumentError, pv.GraphError) as e:
                words = str(e)
                if not words.endswith((".", ")", "?")) and ": " not in words:
                    raw.append(f"{argument} = {what}: {words}")
            except Exception as e:
                raw.append(f"{argument} = {what}: {type(e).__name__}: {e}")
    assert not raw
    assert_untouched(MODEL, before)


OTHER = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
SAID = {
    "seeds are counted": (
        lambda: pv.collect(MODEL, BATCHES, seed="x", progress=False),
        "`seed` must be a whole number ≥ 0, but 'x' was passed.",
    ),
    "a drawing that is none": (
        lambda: pv.collect(MODEL, BATCHES, loss=F.cross_entropy, draw=3, progress=False),
        "`draw` must be a function, draw(outputs, generator), but an int was passed.",
    ),
    "layers by number": (
        lambda: pv.collect(MODEL, BATCHES, layers=0, progress=False),
        "`layers` must be a name or a list of names, but an int was passed.",
    ),
    "hooks by number": (
        lambda: call("hooked", {"model": MODEL, "layers": 0, "fn": print}),
        "`layers` must be a name or a list of names, but an int was passed.",
    ),
    "protected by number": (
        lambda: pv.select(SCORES, sparsity=0.5, protect=2),
        "`protect` must be a name or a list of names, but an int was passed.",
    ),
    "a label in words": (
        lambda: pv.accuracy(MODEL, BATCHES, ignore_index="none"),
        "`ignore_index` must be a label, a whole number such as -100, but a str was passed.",
    ),
    "an optimizer in words": (
        lambda: pv.fit(MODEL, BATCHES, optimizer="adam"),
        "`optimizer` must be a function, optimizer(parameters, lr=lr), but a str was passed.",
    ),
    "an optimizer of other arguments": (
        lambda: pv.fit(MODEL, BATCHES, optimizer=nn.ReLU),
        "`optimizer` could not be called as optimizer(parameters, lr=lr): ReLU.__init__() got an "
        "unexpected keyword argument 'lr'. Pass a class of torch.optim, or "
        "functools.partial(torch.optim.SGD, momentum=0.9).",
    ),
    "a loss in words": (
        lambda: pv.fit(MODEL, BATCHES, loss="cross_entropy"),
        "`loss` must be a function, loss(outputs, targets), but a str was passed.",
    ),
    "a loss without a gradient": (
        lambda: pv.fit(MODEL, BATCHES, loss=lambda o, t: o.detach().sum(), progress=False),
        "`loss` has no gradient: the model's forward, or `loss`, detaches what it computes. Remove "
        ".detach() and torch.no_grad() there.",
    ),
    "a loss that is a number": (
        lambda: pv.fit(MODEL, BATCHES, loss=lambda o, t: 0.5, progress=False),
        "`loss` must return a tensor, but it returned a float. Compute it with torch, from the outputs "
        "of the model.",
    ),
    "a table that is none": (
        lambda: pv.pareto(3),
        "pareto needs a DataFrame, but an int was passed.",
    ),
    "a column that is none": (
        lambda: pv.pareto(SWEPT, x=["macs"]),
        "`x` must be a str, but a list was passed. Name a column, such as 'macs'.",
    ),
    "a class for a model": (
        lambda: pv.measure(nn.Linear, X),
        "`model` must be a torch.nn.Module, but the class Linear was passed. Pass an instance: "
        "Net(), not Net.",
    ),
    "a percentage": (
        lambda: pv.prune(MODEL, X, sparsity=50),
        "`sparsity` must be a fraction in [0, 1), but 50 was passed. Did you mean 0.5? Fractions, "
        "never percentages.",
    ),
    "both budgets": (
        lambda: pv.prune(MODEL, X, sparsity=0.5, macs=0.5),
        "`prune` takes one budget: `sparsity`, the share of units to remove; `macs`, `params` or "
        "`bytes`, the share to keep; `at_least` or `at_most`, the metric to hold. `sparsity` and "
        "`macs` were passed.",
    ),
}


@pytest.mark.parametrize("what", SAID)
def test_what_is_said(what):
    do, message = SAID[what]
    with refused(message):
        do()


def test_what_belongs_to_another_model_is_refused():
    groups = pv.find_groups(OTHER, X)
    plan = pv.select(pv.score(OTHER, "l2", groups=groups), sparsity=0.5)
    for do in (
        lambda: pv.shrink(MODEL, plan, example_input=X),
        lambda: pv.mask(MODEL, plan),
        lambda: pv.score(MODEL, "l2", groups=groups),
        lambda: pv.score(OTHER, "taylor", groups=groups, evidence=EVIDENCE),
        lambda: pv.ablate(MODEL, BATCHES, groups=groups, progress=False),
        lambda: pv.prune(MODEL, X, sparsity=0.5, session=pv.Session(OTHER, X)),
    ):
        with pytest.raises((pv.ArgumentError, pv.GraphError)):
            do()

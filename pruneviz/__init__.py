"""pruneviz: prune neural networks, and see what happens.

    import pruneviz as pv

Readers look at a model and return data; they leave no trace on it:

    find_groups(model, example_input)    units that only go together; what cannot go, and why
    collect(model, batches, loss=None)   what the layers read, and how the loss answers: Evidence
    activations(model, x, groups=groups, group="fc1")      what each unit does on each example
    find_sleepers(evidence)              units that never fire, never change, hardly ever fire
    find_twins(model, groups=groups)     units that do what another one does
    bounds(model, x, low=0, high=1)      what is proved of every unit for a box of inputs
    certify(before, after, batches)      whether a removal changed anything, and how that is known
    score(model, criterion, groups=None) how important each weight, or each unit, is
    measure(model, example_input)        numbers, bytes, multiply-accumulates
    accuracy(model, batches)             share of examples in the right class
    predict(model, x)                    the class of each example
    named_weights(model)                 the weights that count, by name
    weight_histogram(model)              how they are distributed, in bins
    evaluating(model), hooked(model, layers, fn)      look inside; undo themselves

Choose:

    select(scores, sparsity=0.9)         a plan: which weights stay
    drop(groups, {"fc1": [3, 5]})        a plan by hand: these units go
    free(model, x)                       a plan of what can go for nothing
    schedule(kind, sparsity, rounds=5)   how sparsity rises over rounds
    register(name, ...)                  a criterion of one's own; all of them: CRITERIA

Writers take a model and return a new one:

    mask(model, plan, repair="none")     zero what the plan drops, and hold it there
    bake(model)                          make the zeros plain values
    shrink(model, plan, example_input=x) remove the units for real; checked against the mask
                                         repair="none", "fold", "merge", "lstsq": who does the work
    prune(model, x, macs=0.5)            find, collect, score, select, shrink and repair in one call
    recalibrate(model, batches)          measure the statistics of batch norms anew
    fit(model, batches)                  train
    save(model, path), load(path, build) take the smaller model home; nothing is unpickled

Many at once, and pictures:

    sweep(model, example_input, ...)     criteria × sparsities × seeds, one table
    plot_weights, plot_layers, plot_mask, plot_groups, plot_tradeoff, plot_strip, plot_twins, plot_sleepers      data -> Axes
    panel_strip, panel_weights, panel_neurons, panel_twins, panel_sleepers      widgets that answer while you drag

Nouns: Slice, Group, Groups, Moments, Evidence, Scores, Plan, Cost, Certificate, Criterion, Panel. Errors: ArgumentError, GraphError, both ValueErrors.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pruneviz import elimination as elimination  # both register criteria that look at evidence
from pruneviz import seen as seen
from pruneviz._version import VERSION
from pruneviz.activations import activations
from pruneviz.bounds import bounds
from pruneviz.certificate import Certificate, certify
from pruneviz.collect import collect
from pruneviz.criteria import CRITERIA, Criterion, register
from pruneviz.drop import drop
from pruneviz.evidence import Evidence
from pruneviz.fit import fit
from pruneviz.free import free
from pruneviz.group import Group, Groups
from pruneviz.groups import find_groups
from pruneviz.hooks import evaluating, hooked
from pruneviz.mask import bake, mask
from pruneviz.measure import measure
from pruneviz.metrics import accuracy, predict
from pruneviz.moments import Moments
from pruneviz.prune import prune
from pruneviz.recalibrate import recalibrate
from pruneviz.schedules import schedule
from pruneviz.score import score
from pruneviz.select import select
from pruneviz.shrink import shrink
from pruneviz.sleepers import find_sleepers
from pruneviz.slices import Slice
from pruneviz.store import load, save
from pruneviz.sweep import sweep
from pruneviz.twins import find_twins
from pruneviz.types import ArgumentError, Cost, GraphError, Plan, Scores
from pruneviz.weights import named_weights, weight_histogram

if TYPE_CHECKING:
    from pruneviz.panels import (
        Panel,
        panel_neurons,
        panel_sleepers,
        panel_strip,
        panel_twins,
        panel_weights,
    )
    from pruneviz.plots import (
        plot_groups,
        plot_layers,
        plot_mask,
        plot_sleepers,
        plot_strip,
        plot_tradeoff,
        plot_twins,
        plot_weights,
    )

__version__ = VERSION


def __getattr__(name: str) -> Any:
    # what needs ipywidgets or matplotlib is imported when it is first used
    if name in __all__ and name.startswith("plot_"):
        return getattr(import_module("pruneviz.plots"), name)
    if name in __all__ and (name.startswith("panel_") or name == "Panel"):
        return getattr(import_module("pruneviz.panels"), name)
    raise AttributeError(f"module 'pruneviz' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


__all__ = [
    "CRITERIA",
    "ArgumentError",
    "Certificate",
    "Cost",
    "Criterion",
    "Evidence",
    "GraphError",
    "Group",
    "Groups",
    "Moments",
    "Panel",
    "Plan",
    "Scores",
    "Slice",
    "accuracy",
    "activations",
    "bake",
    "bounds",
    "certify",
    "collect",
    "drop",
    "evaluating",
    "find_groups",
    "find_sleepers",
    "find_twins",
    "fit",
    "free",
    "hooked",
    "load",
    "mask",
    "measure",
    "named_weights",
    "panel_neurons",
    "panel_sleepers",
    "panel_strip",
    "panel_twins",
    "panel_weights",
    "plot_groups",
    "plot_layers",
    "plot_mask",
    "plot_sleepers",
    "plot_strip",
    "plot_tradeoff",
    "plot_twins",
    "plot_weights",
    "predict",
    "prune",
    "recalibrate",
    "register",
    "save",
    "schedule",
    "score",
    "select",
    "shrink",
    "sweep",
    "weight_histogram",
]

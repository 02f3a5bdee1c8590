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
    encodings(model), break_even(shape, "csr_int32")      bytes by encoding; from which sparsity on one pays
    work(model, batches)                 multiply-accumulates without those by zero
    accuracy(model, batches)             share of examples in the right class
    interval(correct, examples)          how sure such a share is
    ablate(model, batches, groups=groups)         the loss without each unit, measured
    criterion_card(model, batches, groups=groups) every criterion beside that loss: Card
    compare_accuracy(before, after, batches)      two models on the same examples: Comparison
    compare_latency(before, after, x)    two models in turn: what the clock says beside the MACs: Timing
    predict(model, x)                    the class of each example
    named_weights(model)                 the weights that count, by name
    weight_histogram(model)              how they are distributed, in bins
    evaluating(model), hooked(model, layers, fn)      look inside; undo themselves

Choose:

    select(scores, sparsity=0.9)         a plan: which weights stay
    drop(groups, {"fc1": [3, 5]})        a plan by hand: these units go
    free(model, x)                       a plan of what can go for nothing
    one_of_each(twins, groups)           a plan in which of each pair of twins one goes
    pareto(frame), choose(frame, at_most={"bytes": 100_000})       points of a sweep that nothing beats; one of them
    schedule(kind, sparsity, rounds=5)   how sparsity rises over rounds
    register(name, ...)                  a criterion of one's own; all of them: CRITERIA

Writers take a model and return a new one:

    mask(model, plan, repair="none")     zero what the plan drops, and hold it there
    bake(model)                          make the zeros plain values
    shrink(model, plan, example_input=x) remove the units for real; checked against the mask
                                         repair="none", "fold", "merge", "lstsq": who does the work
    prune(model, x, macs=0.5)            find, collect, score, select, shrink and repair in one call
    to_csr(model)                        linear layers that multiply only what is not zero
    recalibrate(model, batches)          measure the statistics of batch norms anew
    rescaled(model, x, groups=groups)    the same function, some units louder
    prune_iteratively(model, batches)    cut a little, tune, cut a little more: Rounds
    ticket(model, plan, control="none")  an untrained network under a mask; its controls
    fit(model, batches)                  train
    save(model, path), load(path, build) take the smaller model home; nothing is unpickled; encoding="csr_int32"

Many at once, and pictures:

    sweep(model, example_input, ...)     criteria × sparsities × repairs × seeds, one table
    sensitivity(model, example_input)    one layer at a time: how far can it be pruned?
    allocate(model, frame, macs=0.5)     how much to take from each layer, for a budget
    Accuracy(batches, examples=2000)     judges many models by the same examples, with an interval
    costs(model, x, sparsity=0.9)        the same number of weights gone in several ways: bytes, MACs, the clock
    crossover(), break_evens(frame)      from which sparsity on sparse is faster: on this machine
    plot_bytes, plot_costs, plot_crossover, plot_break_evens      what it costs: data -> Axes
    plot_weights, plot_layers, plot_mask, plot_groups, plot_tradeoff, plot_pareto, plot_sensitivity, plot_strip, plot_twins, plot_sleepers, plot_damage, plot_card, plot_agreement, plot_schedule      data -> Axes
    panel_costs, panel_strip, panel_weights, panel_neurons, panel_twins, panel_sleepers, panel_card, panel_schedule, panel_tradeoff, panel_whatif      widgets that answer while you drag

Nouns: Card, Slice, Group, Groups, Moments, Evidence, Scores, Plan, Cost, Certificate, Comparison, Criterion, Panel, Rounds, Timing. Errors: ArgumentError, GraphError, both ValueErrors.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from pruneviz._version import VERSION
from pruneviz.core.errors import ArgumentError, GraphError
from pruneviz.core.groups import Group, Groups
from pruneviz.core.plan import Plan, Scores
from pruneviz.core.slices import Slice
from pruneviz.evidence.activations import activations
from pruneviz.evidence.collect import collect
from pruneviz.evidence.evidence import Evidence
from pruneviz.evidence.moments import Moments
from pruneviz.graph.find_groups import find_groups
from pruneviz.metrics.accuracy import accuracy, predict
from pruneviz.metrics.accuracy_comparison import Comparison, compare_accuracy
from pruneviz.metrics.cost import Cost, measure
from pruneviz.metrics.evaluator import Accuracy
from pruneviz.metrics.intervals import interval
from pruneviz.metrics.latency_comparison import Timing, compare_latency
from pruneviz.metrics.work import work
from pruneviz.model.hooks import evaluating, hooked
from pruneviz.model.weights import named_weights, weight_histogram
from pruneviz.pruning.certificate import Certificate, certify
from pruneviz.pruning.lossless import free
from pruneviz.pruning.mask import bake, mask
from pruneviz.pruning.prune import prune
from pruneviz.pruning.recalibrate import recalibrate
from pruneviz.pruning.rescale import rescaled
from pruneviz.pruning.shrink import shrink
from pruneviz.redundancy.bounds import bounds
from pruneviz.redundancy.inactive import find_sleepers
from pruneviz.redundancy.redundant import find_twins
from pruneviz.selection.criteria.registry import CRITERIA, Criterion, register
from pruneviz.selection.drop import drop, one_of_each
from pruneviz.selection.score import score
from pruneviz.selection.select import select
from pruneviz.storage.csr import to_csr
from pruneviz.storage.encodings import break_even, encodings
from pruneviz.storage.files import load, save
from pruneviz.study.ablation import ablate
from pruneviz.study.allocate import allocate
from pruneviz.study.costs import costs
from pruneviz.study.criterion_card import Card, criterion_card
from pruneviz.study.crossover import break_evens, crossover
from pruneviz.study.pareto import choose, pareto
from pruneviz.study.sensitivity import sensitivity
from pruneviz.study.sweep import sweep
from pruneviz.training.fit import fit
from pruneviz.training.iterative import prune_iteratively
from pruneviz.training.lottery import ticket
from pruneviz.training.rounds import Rounds
from pruneviz.training.schedules import schedule

if TYPE_CHECKING:
    from pruneviz.panels.card import panel_card
    from pruneviz.panels.costs import panel_costs
    from pruneviz.panels.inactive import panel_sleepers
    from pruneviz.panels.kit.panel import Panel
    from pruneviz.panels.neurons import panel_neurons
    from pruneviz.panels.redundant import panel_twins
    from pruneviz.panels.schedule import panel_schedule
    from pruneviz.panels.strip import panel_strip
    from pruneviz.panels.tradeoff import panel_tradeoff
    from pruneviz.panels.weights import panel_weights
    from pruneviz.panels.whatif import panel_whatif
    from pruneviz.plots.bytes import plot_bytes
    from pruneviz.plots.card import plot_agreement, plot_card
    from pruneviz.plots.comparison import plot_damage
    from pruneviz.plots.costs import plot_costs
    from pruneviz.plots.crossover import plot_break_evens, plot_crossover
    from pruneviz.plots.groups import plot_groups
    from pruneviz.plots.images import plot_mask, plot_strip
    from pruneviz.plots.inactive import plot_sleepers
    from pruneviz.plots.redundant import plot_twins
    from pruneviz.plots.schedule import plot_schedule
    from pruneviz.plots.sensitivity import plot_sensitivity
    from pruneviz.plots.tradeoff import plot_pareto, plot_tradeoff
    from pruneviz.plots.weights import plot_layers, plot_weights


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
    "Accuracy",
    "ArgumentError",
    "Card",
    "Certificate",
    "Comparison",
    "Cost",
    "Criterion",
    "Evidence",
    "GraphError",
    "Group",
    "Groups",
    "Moments",
    "Panel",
    "Plan",
    "Rounds",
    "Scores",
    "Slice",
    "Timing",
    "ablate",
    "accuracy",
    "activations",
    "allocate",
    "bake",
    "bounds",
    "break_even",
    "break_evens",
    "certify",
    "choose",
    "collect",
    "compare_accuracy",
    "compare_latency",
    "costs",
    "criterion_card",
    "crossover",
    "drop",
    "encodings",
    "evaluating",
    "find_groups",
    "find_sleepers",
    "find_twins",
    "fit",
    "free",
    "hooked",
    "interval",
    "load",
    "mask",
    "measure",
    "named_weights",
    "one_of_each",
    "panel_card",
    "panel_costs",
    "panel_neurons",
    "panel_schedule",
    "panel_sleepers",
    "panel_strip",
    "panel_tradeoff",
    "panel_twins",
    "panel_weights",
    "panel_whatif",
    "pareto",
    "plot_agreement",
    "plot_break_evens",
    "plot_bytes",
    "plot_card",
    "plot_costs",
    "plot_crossover",
    "plot_damage",
    "plot_groups",
    "plot_layers",
    "plot_mask",
    "plot_pareto",
    "plot_schedule",
    "plot_sensitivity",
    "plot_sleepers",
    "plot_strip",
    "plot_tradeoff",
    "plot_twins",
    "plot_weights",
    "predict",
    "prune",
    "prune_iteratively",
    "recalibrate",
    "register",
    "rescaled",
    "save",
    "schedule",
    "score",
    "select",
    "sensitivity",
    "shrink",
    "sweep",
    "ticket",
    "to_csr",
    "weight_histogram",
    "work",
]

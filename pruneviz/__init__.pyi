# core: what the verbs take and give back
from .core.errors import (
    ArgumentError as ArgumentError,
    GraphError as GraphError,
)
from .core.slices import Slice as Slice
from .core.groups import (
    Group as Group,
    Groups as Groups,
)
from .core.plan import (
    Plan as Plan,
    Scores as Scores,
)

# model: look into a model without a trace
from .model.hooks import (
    evaluating as evaluating,
    hooked as hooked,
)
from .model.weights import (
    named_weights as named_weights,
    weight_histogram as weight_histogram,
)

# graph: which units can only be removed together
from .graph.find_groups import find_groups as find_groups

# evidence: what the layers see on data
from .evidence.collect import collect as collect
from .evidence.evidence import Evidence as Evidence
from .evidence.activations import activations as activations

# metrics: how good, how large, how fast
from .metrics.accuracy import (
    accuracy as accuracy,
    predict as predict,
)
from .metrics.evaluator import Accuracy as Accuracy
from .metrics.intervals import interval as interval
from .metrics.accuracy_comparison import compare_accuracy as compare_accuracy
from .metrics.cost import (
    Cost as Cost,
    measure as measure,
)
from .metrics.work import work as work
from .metrics.latency_comparison import compare_latency as compare_latency

# redundancy: which units do nothing, or nothing new
from .redundancy.inactive import find_sleepers as find_sleepers
from .redundancy.redundant import find_twins as find_twins
from .redundancy.bounds import bounds as bounds

# selection: what should go
from .selection.criteria.registry import (
    CRITERIA as CRITERIA,
    register as register,
)
from .selection.score import score as score
from .selection.select import select as select
from .selection.drop import (
    drop as drop,
    one_of_each as one_of_each,
)

# pruning: remove it, repair what is left, prove the result
from .pruning.mask import (
    mask as mask,
    bake as bake,
)
from .pruning.shrink import shrink as shrink
from .pruning.prune import prune as prune
from .pruning.recalibrate import recalibrate as recalibrate
from .pruning.rescale import rescaled as rescaled
from .pruning.lossless import free as free
from .pruning.certificate import certify as certify

# storage: take it home: files, bytes, sparse layers
from .storage.files import (
    load as load,
    save as save,
)
from .storage.encodings import (
    encodings as encodings,
    break_even as break_even,
)
from .storage.csr import to_csr as to_csr

# training: gradient steps with labels
from .training.schedules import schedule as schedule
from .training.fit import fit as fit
from .training.iterative import prune_iteratively as prune_iteratively
from .training.lottery import ticket as ticket

# study: many prunings, one table
from .study.sweep import sweep as sweep
from .study.sensitivity import sensitivity as sensitivity
from .study.allocate import allocate as allocate
from .study.ablation import ablate as ablate
from .study.criterion_card import criterion_card as criterion_card
from .study.costs import costs as costs
from .study.crossover import (
    crossover as crossover,
    break_evens as break_evens,
)
from .study.pareto import (
    pareto as pareto,
    choose as choose,
)

# plots: data in, Axes out
from .plots.weights import (
    plot_weights as plot_weights,
    plot_layers as plot_layers,
)
from .plots.images import (
    plot_mask as plot_mask,
    plot_strip as plot_strip,
)
from .plots.groups import plot_groups as plot_groups
from .plots.inactive import plot_sleepers as plot_sleepers
from .plots.redundant import plot_twins as plot_twins
from .plots.tradeoff import (
    plot_tradeoff as plot_tradeoff,
    plot_pareto as plot_pareto,
)
from .plots.sensitivity import plot_sensitivity as plot_sensitivity
from .plots.comparison import plot_damage as plot_damage
from .plots.card import (
    plot_card as plot_card,
    plot_agreement as plot_agreement,
)
from .plots.schedule import plot_schedule as plot_schedule
from .plots.bytes import plot_bytes as plot_bytes
from .plots.costs import plot_costs as plot_costs
from .plots.crossover import (
    plot_crossover as plot_crossover,
    plot_break_evens as plot_break_evens,
)

# panels: widgets that answer while you drag
from .panels.weights import panel_weights as panel_weights
from .panels.strip import panel_strip as panel_strip
from .panels.neurons import panel_neurons as panel_neurons
from .panels.inactive import panel_sleepers as panel_sleepers
from .panels.redundant import panel_twins as panel_twins
from .panels.card import panel_card as panel_card
from .panels.schedule import panel_schedule as panel_schedule
from .panels.tradeoff import panel_tradeoff as panel_tradeoff
from .panels.costs import panel_costs as panel_costs
from .panels.whatif import panel_whatif as panel_whatif

__version__: str

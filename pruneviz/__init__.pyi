# core: what the functions take and return
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

# model: look into a model without changing it
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

# evidence: what the layers read
from .evidence.collect import collect as collect
from .evidence.evidence import Evidence as Evidence
from .evidence.activations import activations as activations

# metrics: how good, how large, how fast
from .metrics.accuracy import (
    accuracy as accuracy,
    predict as predict,
)
from .metrics.evaluator import Accuracy as Accuracy
from .metrics.intervals import accuracy_interval as accuracy_interval
from .metrics.accuracy_comparison import compare_accuracy as compare_accuracy
from .metrics.cost import (
    Cost as Cost,
    measure as measure,
)
from .metrics.work import effective_macs as effective_macs
from .metrics.latency_comparison import compare_latency as compare_latency

# redundancy: which units do nothing, or nothing new
from .redundancy.inactive import find_inactive as find_inactive
from .redundancy.redundant import find_redundant as find_redundant
from .redundancy.bounds import bounds as bounds

# selection: what should be removed
from .selection.criteria.registry import (
    CRITERIA as CRITERIA,
    register as register,
)
from .selection.score import score as score
from .selection.select import select as select
from .selection.drop import (
    drop as drop,
    drop_redundant as drop_redundant,
)

# pruning: remove it, repair what is kept, compare the result
from .pruning.mask import (
    mask as mask,
    bake as bake,
)
from .pruning.shrink import shrink as shrink
from .pruning.prune import prune as prune
from .pruning.repair.distil import Distillation as Distillation
from .pruning.session import Session as Session
from .pruning.recalibrate import recalibrate as recalibrate
from .pruning.rescale import rescale as rescale
from .pruning.lossless import lossless_plan as lossless_plan
from .pruning.certificate import certify as certify

# storage: files, bytes, sparse layers
from .storage.files import (
    load as load,
    save as save,
)
from .storage.encodings import (
    encodings as encodings,
    bytes_break_even as bytes_break_even,
)
from .storage.csr import to_csr as to_csr

# training: gradient steps with labels
from .training.schedules import schedule as schedule
from .training.fit import fit as fit
from .training.optimizer import carry_optimizer as carry_optimizer
from .training.iterative import prune_iteratively as prune_iteratively
from .training.lottery import lottery_ticket as lottery_ticket

# study: many prunings, one table
from .study.sweep import sweep as sweep
from .study.sensitivity import sensitivity as sensitivity
from .study.allocate import allocate as allocate
from .study.ablation import ablate as ablate
from .study.criterion_card import criterion_card as criterion_card
from .study.costs import compare_costs as compare_costs
from .study.crossover import (
    crossover as crossover,
    speed_break_evens as speed_break_evens,
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
from .plots.inactive import plot_inactive as plot_inactive
from .plots.redundant import plot_redundant as plot_redundant
from .plots.tradeoff import (
    plot_tradeoff as plot_tradeoff,
    plot_ladder as plot_ladder,
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
    plot_speed_break_evens as plot_speed_break_evens,
)

# panels: widgets that answer while you drag
from .panels.weights import panel_weights as panel_weights
from .panels.strip import panel_strip as panel_strip
from .panels.neurons import panel_neurons as panel_neurons
from .panels.inactive import panel_inactive as panel_inactive
from .panels.redundant import panel_redundant as panel_redundant
from .panels.card import panel_card as panel_card
from .panels.schedule import panel_schedule as panel_schedule
from .panels.tradeoff import panel_tradeoff as panel_tradeoff
from .panels.costs import panel_costs as panel_costs
from .panels.whatif import panel_whatif as panel_whatif

__version__: str

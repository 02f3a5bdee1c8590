"""How many MACs remain if zeros of weights and activations are skipped? Per weight tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.imports import imported
from pruneviz.metrics.cost import FORMULAS
from pruneviz.model.batches import one_example, read
from pruneviz.model.forward import run_forward
from pruneviz.model.hooks import evaluating, no_fast_path, plain_torch
from pruneviz.model.weights import weight_places

if TYPE_CHECKING:
    import pandas as pd


aten = torch.ops.aten
ADDED = frozenset({aten.addmm, aten.addmv, aten.baddbmm})  # their first operand is added
OTHER, WHOLE = "other", "whole"


@plain_torch()
def effective_macs(model: nn.Module, batches: Iterable[Any]) -> pd.DataFrame:
    """Count the multiply-accumulates of each weight tensor for one example, with and without zeros.

    This is the work of a machine that skips zeros. Ordinary kernels skip none: see
    `compare_latency`.

    Parameters
    ----------
    model : nn.Module
        Masked or not. Not changed. It runs in eval mode.
    batches : iterable
        As for `collect`; the activations are measured on them. For the dense numbers one example is
        enough: ``[x]``.

    Returns
    -------
    DataFrame
        One row per weight tensor, then ``"other"`` (products without a weight, such as those of
        attention), then ``"whole"``, the sum. Columns:

        - ``tensor``, ``shape``, ``weights``, ``sparsity`` of the weights
        - ``macs``: multiply-accumulates by the dense shapes, as `measure` counts them
        - ``flops``: 2 × ``macs``
        - ``macs_weights``: those whose weight is not 0
        - ``active``: the share of the activations multiplied with the weights that is not 0
        - ``macs_weights_activations``: ``macs_weights`` × ``active``. An estimate: it assumes that
          zeros of weights and of activations are independent.

    Raises
    ------
    ArgumentError
        If the model has no weights, there is no example, or the model's forward raises.

    References
    ----------
    Han, Pool, Tran, Dally 2015, "Learning both Weights and Connections", arXiv:1506.02626, tables 3
    and 4: FLOP% = Weights% × Act% of the layer before. Here ``active`` is measured at the layer's
    input, after pooling, and the zeros of the input image count.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> frame = pv.effective_macs(model, [torch.randn(100, 4)])
    >>> frame[["tensor", "macs", "flops"]].values.tolist()
    [['0.weight', 32, 64], ['2.weight', 16, 32], ['other', 0, 0], ['whole', 48, 96]]
    """
    pd = imported("pandas")

    model = checks.unwrapped(model)
    examples = 0
    with evaluating(model), parametrize.cached(), no_fast_path():
        weights = {n: h.visible for n, h in weight_places(model).items()}
        counts = {n: Count() for n in (*weights, OTHER)}
        owner = {w.untyped_storage().data_ptr(): n for n, w in weights.items()}
        with _Products(owner, counts):
            for batch in read(batches, "count"):
                examples += batch.examples
                outputs = tree_leaves(batch.run(model))
                if any(isinstance(t, Tensor) and bool(torch.isnan(t).any()) for t in outputs):
                    raise ArgumentError(
                        f"`model` returns NaN for {batch.place}, so it cannot be said which numbers "
                        "are zero. Look at the data and at the weights."
                    )
    n, total_nonzero = 0, 0
    rows = []
    for name, w in weights.items():
        nonzero = int(torch.count_nonzero(w))
        n, total_nonzero = n + w.numel(), total_nonzero + nonzero
        head = (name, tuple(w.shape), w.numel(), 1 - nonzero / w.numel() if w.numel() else math.nan)
        rows.append(head + counts[name].columns(examples))
    rows.append((OTHER, "", 0, math.nan, *counts[OTHER].columns(examples)))
    whole = Count(*(sum(getattr(c, f) for c in counts.values()) for f in Count.__annotations__))
    rows.append((WHOLE, "", n, 1 - total_nonzero / n if n else math.nan, *whole.columns(examples)))
    names = ["tensor", "shape", "weights", "sparsity", "macs", "flops", "macs_weights", "active",
             "macs_weights_activations"]  # fmt: skip
    return pd.DataFrame(rows, columns=names)


def macs_by_tensor(model: nn.Module, example_input: Any) -> dict[str, float]:
    """Return the MACs of one example for each weight, and of all other products under ``"other"``.

    Empty if the model cannot be counted.

    >>> macs_by_tensor(nn.Linear(4, 8), torch.zeros(1, 4))
    {'weight': 32, 'other': 0}
    """
    try:
        frame = effective_macs(model, [(example_input, None)])[:-1]  # the last row is the whole
    except ArgumentError:
        return {}
    return dict(zip(frame["tensor"], frame["macs"].tolist(), strict=True))


def idle_weights(model: nn.Module, example_input: Any) -> set[str]:
    """Return the weights that no operator reads while the example runs.

    >>> model = nn.Sequential(nn.Linear(4, 8))
    >>> model[0].spare = nn.Linear(2, 2)
    >>> idle_weights(model, torch.zeros(1, 4))
    {'0.spare.weight'}
    """
    args, kwargs = one_example(example_input)
    with evaluating(model), parametrize.cached(), no_fast_path():
        places = {
            n: h.visible.untyped_storage().data_ptr() for n, h in weight_places(model).items()
        }
        with _Reads() as reads:
            run_forward(model, args, kwargs)
    return {n for n, place in places.items() if place not in reads.places}


class _Reads(TorchDispatchMode):
    """Note the storage of every tensor that an operator reads."""

    def __init__(self) -> None:
        super().__init__()
        self.places: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.places |= {_address(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        return func(*args, **(kwargs or {}))


@dataclass
class Count:
    """Multiply-accumulates (MACs) of all examples."""

    macs: int = 0
    weights: int = 0  # MACs whose weight is not 0
    active: float = 0.0  # MACs whose activation is not 0
    both: float = 0.0  # MACs whose weight and activation are not 0, estimated

    def columns(self, examples: int) -> tuple[float, ...]:
        """Return macs, flops, macs_weights, active, macs_weights_activations of one example."""
        active = self.active / self.macs if self.macs else math.nan
        macs, weights = (_per_example(n, examples) for n in (self.macs, self.weights))
        return macs, 2 * macs, weights, active, self.both / examples


class _Products(TorchDispatchMode):
    """Count every product that runs, for the weight that is one of its factors."""

    def __init__(self, owner: Mapping[int, str], counts: Mapping[str, Count]) -> None:
        super().__init__()
        self.owner = owner
        self.counts = counts
        self.known = FlopCounterMode(display=False, custom_mapping=FORMULAS).flop_registry
        self.densities: dict[Any, float] = {}  # of each weight, or of a view of it

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        packet = getattr(func, "_overloadpacket", func)
        if packet is aten.mkldnn_rnn_layer:  # one operator with two weights
            x, *weights = args[:3]
            for w in weights:
                # the state inside is not seen: it starts at 0, and is hardly ever 0 later
                state = torch.ones((), device=x.device)
                macs = x.shape[0] * x.shape[1] * w.numel()
                self._add(packet, macs, [x if w is weights[0] else state, w])
        elif packet in self.known:
            macs = self.known[packet](*args, **(kwargs or {}), out_val=out) // 2
            self._add(packet, macs, [a for a in args if isinstance(a, Tensor)])
        return out

    def _add(self, packet: Any, macs: int, operands: list[Tensor]) -> None:
        factors = operands[1:] if packet in ADDED else operands
        names = [self.owner.get(_address(t)) for t in factors]
        name = next((n for n in names if n is not None), None)
        density = active = 1.0
        if name is not None:
            weight = factors[names.index(name)]
            key = (_address(weight), weight.storage_offset(), tuple(weight.shape))
            if key not in self.densities:
                self.densities[key] = _density(weight)
            density = self.densities[key]
            active = _density(next(t for t, n in zip(factors, names, strict=True) if n is None))
        count = self.counts[name or OTHER]
        count.macs += macs
        count.weights += round(macs * density)
        count.active += macs * active
        count.both += macs * density * active


def _address(t: Tensor) -> int:
    return t.untyped_storage().data_ptr() if t.layout == torch.strided else 0


def _density(t: Tensor) -> float:
    return int(torch.count_nonzero(t)) / t.numel() if t.numel() else 0.0


def _per_example(total: int, examples: int) -> float:
    return total // examples if total % examples == 0 else total / examples

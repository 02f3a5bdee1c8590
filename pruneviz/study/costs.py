"""Which way of removing the same number of weights saves bytes, MACs and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from pruneviz.core.errors import ArgumentError
from pruneviz.core.imports import imported
from pruneviz.metrics.cost import measure
from pruneviz.metrics.latency import calls_of, latency_of, ratio, time_in_turn
from pruneviz.model.batches import examples_in
from pruneviz.model.hooks import plain_torch
from pruneviz.model.weights import named_weights
from pruneviz.pruning.mask import bake, mask
from pruneviz.pruning.session import Session
from pruneviz.selection.select import select
from pruneviz.storage.csr import KERNELS, SparseLinear, to_csr

if TYPE_CHECKING:
    import pandas as pd


STEPS = 10  # bisections when searching a number of weights: a resolution of 1 ÷ 1024


@plain_torch()
def compare_costs(
    model: nn.Module,
    example_input: Any,
    *,
    sparsity: float,
    seconds: float = 1.0,
    threads: int | None = None,
    as_program: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Remove the same number of weights in several ways, and compare bytes, MACs and time.

    Nothing is trained or repaired: only the costs are compared.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    example_input : Tensor, tuple or dict
        Arguments of the forward. The whole batch is timed at once.
    sparsity : float
        Share of the weights to remove, in [0, 1).
    seconds : float
        About how long to measure in all. The ways are timed in turn.
    threads : int, optional
        Of torch; default: as many as it uses now.
    as_program : bool
        As for `shrink`: for models with sizes in their Python code.
    seed : int
        For the order; the caller's random state is not changed.

    Returns
    -------
    DataFrame
        One row a way; columns ``way``, ``sparsity`` (obtained), ``bytes`` and ``macs`` (as `measure`
        counts them), ``ms`` (median), ``ms_low``, ``ms_high`` (its 95 % interval), ``speedup`` (of
        MACs), ``latency_speedup`` (measured), ``low``, ``high`` (its interval), ``batch``,
        ``threads``. The ways:

        - ``"dense"``: the unchanged model
        - ``"zeros"``: the smallest weights of each layer are zero
        - ``"csr_linear"``, ``"csr_mm"``: the same, and the linear layers skip zeros, see `to_csr`;
          missing where there is no linear layer
        - ``"smaller"``: the units with the smallest L2 norm of each group are removed, until at
          most as many weights are kept, or as few as possible

    Raises
    ------
    ArgumentError, GraphError
        As `find_groups`, `score` and `shrink` do.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 8))
    >>> frame = pv.compare_costs(model, torch.randn(16, 64), sparsity=0.9, seconds=0)
    >>> frame[["way", "bytes", "macs"]].values.tolist()[2:]
    [['csr_linear', 8464, 921], ['csr_mm', 8464, 921], ['smaller', 3536, 864]]
    """
    ways = ReductionWays(model, example_input, as_program=as_program).at(sparsity)
    return compare_models(ways, example_input, seconds=seconds, threads=threads, seed=seed)


class ReductionWays:
    """One model, traced once, with its weights removed in several ways to many sparsities."""

    def __init__(self, model: nn.Module, example_input: Any, *, as_program: bool = False) -> None:
        self._session = Session(model, example_input, as_program=as_program)
        self.model = self._session.model
        self._weights = self._session.scores("magnitude", "weight")
        self._units = self._session.scores("l2")
        self._total = _count(self.model)
        self._kept: dict[float, int] = {}  # share of removed units -> number of kept weights

    @property
    def width(self) -> float:
        """Side of a square matrix as large as the largest weight, to look up in `crossover`."""
        return max(v.numel() for v in self._weights.values.values()) ** 0.5

    def at(self, sparsity: float) -> dict[str, nn.Module]:
        """Return the models by the name of the way."""
        plan = select(self._weights, sparsity=sparsity, scope="layer")
        zeros = bake(mask(self.model, plan))
        ways = {"dense": self.model, "zeros": zeros}
        if any(isinstance(m, nn.Linear) for m in zeros.modules()):
            ways |= {f"csr_{k}": to_csr(zeros, kernel=k) for k in reversed(KERNELS)}
        return ways | {"smaller": self._smaller(plan.kept)}

    def _smaller(self, most: int) -> nn.Module:
        """Remove units until at most so many weights are kept."""
        if most >= self._total:
            return self.model
        low, high = 0.0, 1 - 2**-STEPS
        for _ in range(STEPS):
            middle = (low + high) / 2
            if middle not in self._kept:  # the first steps are the same for every sparsity
                self._kept[middle] = _count(self._cut(middle))
            low, high = (low, middle) if self._kept[middle] <= most else (middle, high)
        return self._cut(high)

    def _cut(self, share: float) -> nn.Module:
        plan = select(self._units, sparsity=share, scope="layer")
        return self._session.smaller(plan, compare=False)


def compare_models(
    ways: Mapping[str, nn.Module],
    example_input: Any,
    *,
    seconds: float,
    threads: int | None = None,
    seed: int = 0,
) -> pd.DataFrame:
    """Return the table of `compare_costs` for models by name; all are compared with the first."""
    count = count_costs(ways, example_input)
    clock = time_models(ways, example_input, seconds=seconds, threads=threads, seed=seed)
    columns = ["way", "sparsity", "bytes", "macs", "ms", "ms_low", "ms_high", "speedup",
               "latency_speedup", "low", "high", "batch", "threads"]  # fmt: skip
    return count.merge(clock, on="way")[columns]


def count_costs(ways: Mapping[str, nn.Module], example_input: Any) -> pd.DataFrame:
    """Return the counted columns of `compare_models`: ``way, sparsity, bytes, macs, speedup``."""
    pd = imported("pandas")

    dense_weights, dense_macs = 0, 0
    rows: list[tuple[Any, ...]] = []
    for way, model in ways.items():
        cost, kept = measure(model, example_input), _count(model)
        if not rows:
            dense_weights, dense_macs = kept, cost.macs
        speedup = dense_macs / cost.macs if cost.macs else float("nan")
        rows.append((way, 1 - kept / dense_weights, cost.bytes, cost.macs, speedup))
    return pd.DataFrame(rows, columns=["way", "sparsity", "bytes", "macs", "speedup"])


def time_models(
    ways: Mapping[str, nn.Module],
    example_input: Any,
    *,
    seconds: float,
    threads: int | None = None,
    seed: int = 0,
    between: Callable[[], None] | None = None,
) -> pd.DataFrame:
    """Return the timed columns of `compare_models`: ``way`` and all that `count_costs` lacks."""
    pd = imported("pandas")

    n = torch.get_num_threads() if threads is None else threads
    with calls_of(ways.values(), example_input) as calls:
        times = time_in_turn(calls, seconds=seconds, threads=n, seed=seed, between=between)
    batch = examples_in(example_input)
    rows = []
    for i, way in enumerate(ways):
        ms = latency_of(times[:, i])
        rows.append((way, float(ms), ms.low, ms.high, *ratio(times[:, 0], times[:, i]), batch, n))
    columns = [
        "way",
        "ms",
        "ms_low",
        "ms_high",
        "latency_speedup",
        "low",
        "high",
        "batch",
        "threads",
    ]
    return pd.DataFrame(rows, columns=columns)


def _count(model: nn.Module) -> int:
    """Count the weights of a model that are not 0."""
    stored = sum(m.value.numel() for m in model.modules() if isinstance(m, SparseLinear))
    try:
        return stored + sum(int(torch.count_nonzero(w)) for w in named_weights(model).values())
    except ArgumentError:  # all of them are sparse
        return stored

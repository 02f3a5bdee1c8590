"""From which sparsity on a sparse layer is faster than a dense one on this machine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.imports import imported
from pruneviz.core.progress import progress_bar
from pruneviz.metrics.latency import latency_of, ratio, time_in_turn
from pruneviz.model.hooks import plain_torch
from pruneviz.storage.csr import csr_of

if TYPE_CHECKING:
    import pandas as pd


SPARSITIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
WAYS = ("dense", "zeros", "csr_linear", "csr_mm", "smaller")


@plain_torch()
def crossover(
    *,
    sparsities: Iterable[float] = SPARSITIES,
    widths: Iterable[int] = (256, 1024),
    batches: Iterable[int] = (1, 64),
    seconds: float = 0.3,
    threads: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Time a linear layer in turn: dense, with zeros, sparse, and smaller, on this machine.

    Parameters
    ----------
    sparsities : iterable of float
        Shares of the weights, drawn at random, that are zero or removed, in [0, 1).
    widths : iterable of int
        Numbers of inputs of the layer; it has as many outputs.
    batches : iterable of int
        Numbers of examples in a batch.
    seconds : float
        About how long to measure each combination of sparsity, width and batch.
    threads : int, optional
        Of torch; default: as many as it uses now.
    seed : int
        For weights, inputs and order; the caller's random state is not changed.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataFrame
        One row a width, batch, sparsity and way; columns ``width``, ``batch``, ``sparsity``, ``way``,
        ``ms`` (median), ``speedup`` (dense MACs ÷ its MACs), ``latency_speedup`` (dense ÷ its
        milliseconds), ``low``, ``high`` (interval of that at 95 %), ``threads``. The ways:

        - ``"dense"``: ``F.linear(x, w)``; ``"zeros"``: the same with zeros in ``w``
        - ``"csr_linear"``: ``F.linear(x, csr)``; ``"csr_mm"``: ``torch.mm(csr, x.T)``, both with
          indices of int32
        - ``"smaller"``: dense, with √(1 − sparsity) times the inputs and the outputs, and so with
          as many weights as the others have nonzero ones

    Raises
    ------
    ArgumentError
        If a list is empty or a value out of range.

    Examples
    --------
    >>> import pruneviz as pv
    >>> frame = pv.crossover(sparsities=[0.9], widths=[64], batches=[1], seconds=0, progress=False)
    >>> frame[["width", "way", "speedup"]].round(1).values.tolist()[3:]
    [[64, 'csr_mm', 10.0], [64, 'smaller', 10.2]]
    """
    pd = imported("pandas")

    grid = [
        (w, b, s)
        for w in _checked_list(widths, "widths", lambda v: checks.count(v, "widths", low=1))
        for b in _checked_list(batches, "batches", lambda v: checks.count(v, "batches", low=1))
        for s in _checked_list(sparsities, "sparsities", lambda v: checks.sparsity(v, "sparsities"))
    ]
    n = torch.get_num_threads() if threads is None else checks.count(threads, "threads", low=1)
    rows: list[tuple[Any, ...]] = []
    for width, batch, sparsity in progress_bar(grid, shown=progress, text="crossover"):
        calls, macs = calls_of(width, batch, sparsity, checks.count(seed, "seed"))
        with torch.no_grad():
            times = time_in_turn(list(calls.values()), seconds=seconds, threads=n, seed=seed)
        for i, way in enumerate(calls):
            value, low, high = ratio(times[:, 0], times[:, i])
            ms = latency_of(times[:, i])
            rows.append((width, batch, sparsity, way, float(ms), ms.low, ms.high,
                         width * width / macs[way] if macs[way] else math.inf,
                         value, low, high, n))  # fmt: skip
    columns = ["width", "batch", "sparsity", "way", "ms", "ms_low", "ms_high", "speedup",
               "latency_speedup", "low", "high", "threads"]  # fmt: skip
    return pd.DataFrame(rows, columns=columns)


def speed_break_evens(data: pd.DataFrame) -> pd.DataFrame:
    """Return the sparsity from which on CSR is faster than dense, by width, batch and kernel.

    Parameters
    ----------
    data : DataFrame
        From `crossover`.

    Returns
    -------
    DataFrame
        One row a width, batch and sparse way (``"csr_…"``); columns ``width``, ``batch``, ``way``, ``break_even``, and
        ``below``, ``above``: the measured sparsities next to it. From ``above`` on CSR was always
        faster. Between the two, the logarithm of the ratio is interpolated linearly over the
        logarithm of the density. If CSR is slower even at the highest sparsity, ``break_even`` and
        ``above`` are NaN. If it is faster already at the lowest, ``below`` is NaN and
        ``break_even`` is that sparsity.

    Raises
    ------
    ArgumentError
        If a column is missing.

    Examples
    --------
    >>> import pandas as pd, pruneviz as pv
    >>> data = pd.DataFrame({"width": 64, "batch": 1, "way": "csr_mm", "sparsity": [0.5, 0.9, 0.99],
    ...                      "latency_speedup": [0.2, 0.5, 2.0]})
    >>> pv.speed_break_evens(data)
       width  batch     way  break_even  below  above
    0     64      1  csr_mm    0.968377    0.9   0.99
    """
    pd = imported("pandas")

    needed = ("width", "batch", "way", "sparsity", "latency_speedup")
    checks.columns(data, dict.fromkeys(needed, "pv.crossover()"), "speed_break_evens")
    rows = []
    data = data[data["way"].str.startswith("csr")].sort_values("sparsity")
    for key, part in data.groupby(["width", "batch", "way"]):
        faster = part["latency_speedup"].to_numpy(float)
        rows.append((*key, *_crossing(part["sparsity"].to_numpy(float), faster)))
    return pd.DataFrame(rows, columns=["width", "batch", "way", "break_even", "below", "above"])


def nearest_measured(data: pd.DataFrame, width: float, batch: int) -> tuple[int, int]:
    """Return the measured width and batch that are nearest to these, by ratio.

    >>> import pandas as pd
    >>> nearest_measured(pd.DataFrame({"width": [256, 1024], "batch": [1, 64]}), 485, 20)
    (256, 64)
    """
    checks.columns(data, dict.fromkeys(("width", "batch"), "pv.crossover()"), "nearest")

    def closest(measured: Iterable[int], to: float) -> int:
        return int(min(measured, key=lambda v: abs(math.log(v / to))))

    return closest(data["width"], width), closest(data["batch"], batch)


def _crossing(sparsity: np.ndarray, faster: np.ndarray) -> tuple[float, float, float]:
    """Return (break-even, below, above); `faster` holds dense ÷ CSR times, (sparsities,)."""
    slow = np.flatnonzero(faster <= 1)
    if not len(slow):
        return float(sparsity[0]), math.nan, float(sparsity[0])
    i = int(slow[-1])
    if i == len(sparsity) - 1:
        return math.nan, float(sparsity[i]), math.nan
    x = np.log1p(-sparsity[i : i + 2])
    y = np.log(faster[i : i + 2])
    break_even = 1 - math.exp(x[0] - y[0] * (x[1] - x[0]) / (y[1] - y[0]))
    return float(break_even), float(sparsity[i]), float(sparsity[i + 1])


def calls_of(
    width: int, batch: int, sparsity: float, seed: int
) -> tuple[dict[str, Callable[[], Tensor]], dict[str, int]]:
    """Return the timed functions by the name of the way, and the MACs of each for one example."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, width, generator=g)
    w = torch.randn(width, width, generator=g)
    zeroed = torch.randperm(width * width, generator=g)[: round(sparsity * width * width)]
    zeros = w.clone()
    zeros.view(-1)[zeroed] = 0
    csr = csr_of(zeros)
    side = max(1, round(width * math.sqrt(1 - sparsity)))
    small_w, small_x = w[:side, :side].contiguous(), x[:, :side].contiguous()
    calls: dict[str, Callable[[], Tensor]] = {
        "dense": lambda: F.linear(x, w),
        "zeros": lambda: F.linear(x, zeros),
        "csr_linear": lambda: F.linear(x, csr),
        "csr_mm": lambda: torch.mm(csr, x.T),
        "smaller": lambda: F.linear(small_x, small_w),
    }
    dense, nonzero = width * width, csr.values().numel()
    macs = (dense, dense, nonzero, nonzero, side * side)
    return calls, dict(zip(WAYS, macs, strict=True))


def _checked_list(values: Iterable[Any], name: str, check: Callable[[Any], Any]) -> list[Any]:
    checked = [check(v) for v in values]
    if not checked:
        raise ArgumentError(f"`{name}` is empty: there is nothing to measure.")
    return checked

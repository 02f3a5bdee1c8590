"""How many bytes a model takes in each encoding, and how that changes with sparsity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.plots.style import GREY, KEPT, MARKERS, PALETTE, PRUNED, axes, hide_frame

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


DENSE = "dense_fp32"
LABELS = {
    DENSE: "dense, float32",
    "dense_fp16": "dense, float16",
    "csr_int64": "CSR, int64",
    "csr_int32": "CSR, int32",
    "csr_int16": "CSR, int16",
    "bitmap": "bitmap",
    "relative": "relative index",
    "gzip": "gzip",
}


def plot_bytes(data: pd.DataFrame, *, tensor: str = "whole", ax: Axes | None = None) -> Axes:
    """Draw how many bytes a model takes in each encoding.

    Parameters
    ----------
    data : DataFrame
        From `encodings`; or several such frames, of several sparsities, joined by `pandas.concat`.
    tensor : str
        Which row: ``"whole"``, or the name of a weight.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        For one model one bar for each encoding, blue where it is smaller than dense float32, which
        is the dashed line. For several models one line for each encoding over the sparsity, on a
        logarithmic scale, with a ring where it crosses dense float32. Encodings without a value are
        left out.

    Raises
    ------
    ArgumentError
        If a column or the row is missing.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> ax = pv.plot_bytes(pv.encodings(torch.nn.Linear(64, 32)))
    >>> float(ax.patches[0].get_width())
    8320.0
    """
    needed = ("tensor", "sparsity", DENSE)
    checks.columns(data, dict.fromkeys(needed, "pv.encodings(model)"), "plot_bytes")
    rows = data[data["tensor"] == tensor].sort_values("sparsity")
    if rows.empty:
        known = ", ".join(dict.fromkeys(map(str, data["tensor"])))
        raise ArgumentError(f"`tensor` {tensor!r} is not in the frame. It has: {known}.")
    sizes = {e: rows[e].astype("Float64").to_numpy(float, na_value=np.nan) for e in LABELS
             if e in rows and rows[e].notna().any()}  # fmt: skip
    if len(rows) == 1:
        ax = axes(ax, (6.4, 0.9 + 0.34 * len(sizes)))
        _bars(ax, {e: float(s[0]) for e, s in sizes.items()})
    else:
        ax = axes(ax, (7.6, 3.8))
        _curves(ax, rows["sparsity"].to_numpy(float), sizes)
    hide_frame(ax)
    return ax


def bytes_text(value: float) -> str:
    """Return a number of bytes as text.

    >>> bytes_text(940_800), bytes_text(1_066_440), bytes_text(72)
    ('941 kB', '1.07 MB', '72 B')
    """
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:.0f} B"


def _bars(ax: Axes, sizes: dict[str, float]) -> None:
    y = np.arange(len(sizes))
    dense = sizes[DENSE]
    colours = [KEPT if s < dense else (PRUNED if s > dense else GREY) for s in sizes.values()]
    ax.barh(y, list(sizes.values()), color=colours, height=0.7)
    ax.axvline(dense, color=GREY, ls="--", lw=1.2)
    top = max(sizes.values())
    for i, s in enumerate(sizes.values()):
        ax.text(s + 0.01 * top, i, bytes_text(s), va="center")
    ax.set(yticks=y, yticklabels=[LABELS[e] for e in sizes], xlabel="bytes", xlim=(0, 1.18 * top))
    ax.xaxis.set_major_formatter(lambda v, _: bytes_text(v))
    ax.xaxis.set_major_locator(_four_ticks())
    ax.invert_yaxis()


def _curves(ax: Axes, x: np.ndarray, sizes: dict[str, np.ndarray]) -> None:
    dense = sizes[DENSE]
    for e, s in sizes.items():
        i = list(LABELS).index(e)
        colour, mark = (GREY, "") if i < 2 else (PALETTE[i - 2], MARKERS[i - 2])
        linestyle = ":" if e == "dense_fp16" else "-"
        ax.plot(x, s, color=colour, marker=mark, ms=5, ls=linestyle, label=LABELS[e])
        below = np.flatnonzero((s[:-1] >= dense[:-1]) & (s[1:] < dense[1:]))
        for k in below if i >= 2 else ():
            a, b = s[k] - dense[k], dense[k + 1] - s[k + 1]
            crossing = x[k] + (x[k + 1] - x[k]) * a / (a + b)
            ax.plot(
                [crossing],
                [np.interp(crossing, x, dense)],
                "o",
                ms=11,
                mfc="none",
                mec=colour,
                mew=1.8,
            )
    ax.set(xlabel="sparsity (share of weights that are zero)", ylabel="bytes")
    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(lambda v, _: bytes_text(v))
    ax.yaxis.set_minor_formatter("")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def _four_ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(4)

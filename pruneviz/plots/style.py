"""Which colours and which empty axes all pictures share, readable for colour-blind people."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pruneviz.core.imports import imported

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


KEPT = "#0072B2"  # Okabe & Ito's blue
PRUNED = "#D55E00"  # and vermilion
GREY = "#767676"  # contrast 4.5 on white and on black
PALETTE = (KEPT, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", PRUNED, "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def plain(text: object) -> str:
    r"""Return a name as matplotlib writes it literally: it takes what stands between two $ for TeX.

    >>> plain(r"$\frac{$")
    '\\$\\frac{\\$'
    """
    return str(text).replace("$", r"\$")


def axes(ax: Axes | None, size: tuple[float, float] = (6.4, 3.6)) -> Axes:
    """Return `ax`, or the axes of a new pyplot figure of `size` inches."""
    if ax is not None:
        return ax
    plt = imported("matplotlib.pyplot")

    return plt.subplots(figsize=size, layout="constrained")[1]


@contextmanager
def figure(
    width: float, height: float, rows: tuple[float, ...] = (1,)
) -> Iterator[tuple[Figure, Any]]:
    """Yield a figure, made without pyplot so that it need not be closed, and its axes.

    `rows` are the relative heights of the rows; with several rows the axes are an array.
    """
    from matplotlib.figure import Figure

    fig = Figure(figsize=(width, height), layout="constrained")
    yield fig, fig.subplots(len(rows), 1, height_ratios=rows)


def hide_frame(ax: Axes) -> None:
    """Hide the upper and the right line of the frame."""
    ax.spines[["top", "right"]].set_visible(False)


def readable(fig: Figure) -> Figure:
    """Change black in a figure to a grey that is readable on light and on dark pages."""
    from matplotlib.colors import same_color
    from matplotlib.lines import Line2D
    from matplotlib.spines import Spine
    from matplotlib.text import Text

    # set on the axes, not on the ticks: a logarithmic axis makes its ticks when it is drawn
    for ax in fig.axes:
        ax.tick_params(which="both", color=GREY)
        ax.tick_params(which="minor", labelcolor=GREY)
    for spine in fig.findobj(Spine):
        spine.set(edgecolor=GREY)
    texts: list[Any] = [*fig.findobj(Text), *fig.findobj(Line2D)]
    for artist in texts:
        if same_color(artist.get_color(), "black"):
            artist.set_color(GREY)
    return fig

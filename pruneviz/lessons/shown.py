"""How a notebook shows a figure: with a picture, alt text and a caption."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pruneviz.core.errors import ArgumentError
from pruneviz.core.imports import imported
from pruneviz.panels.kit.html import png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def show(picture: Axes | Figure, caption: str) -> None:
    """Show a figure with a caption, which is also its alt text; then close it.

    Parameters
    ----------
    picture : Axes or Figure
        From a ``plot_`` function, or from ``panel.figure()``.
    caption : str
        One sentence with the content of the figure, also for readers who cannot see it.

    Examples
    --------
    >>> import numpy as np, pruneviz as pv
    >>> show(pv.plot_mask(np.eye(2, dtype=bool)), "The diagonal of two by two weights is kept.")
    The diagonal of two by two weights is kept.
    """
    plt = imported("matplotlib.pyplot")
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.display import display
    from matplotlib.figure import Figure

    figure = picture if isinstance(picture, Figure) else picture.get_figure(root=True)
    if not isinstance(figure, Figure):
        raise ArgumentError("`picture` must be Axes or a Figure, but these axes have no figure.")
    data = {"image/png": png(figure), "text/plain": caption}
    plt.close(figure)  # else the inline backend shows it a second time
    if not InteractiveShell.initialized():
        print(caption)
        return
    display(data, metadata={"image/png": {"alt": caption}}, raw=True)
    display({"text/markdown": f"*{caption}*", "text/plain": caption}, raw=True)

"""How a matplotlib figure gets into a panel."""

from __future__ import annotations

import base64
import io
from html import escape
from typing import TYPE_CHECKING

from pruneviz.plots.style import readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def static_image(figure: Figure, sentence: str) -> str:
    """Return HTML of a figure, at most as wide as the page; the sentence is its text alternative.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> static_image(Figure(figsize=(1, 1)), "a < b")[:20]
    '<img alt="a &lt; b" '
    """
    return (
        f'<img alt="{escape(sentence)}" src="data:image/png;base64,{png(figure)}" '
        'style="max-width: 100%">'
    )


def png(figure: Figure, dpi: int = 110) -> str:
    """Return a figure as a PNG in base64, readable on light and on dark pages."""
    file = io.BytesIO()
    readable(figure).savefig(file, format="png", dpi=dpi, transparent=True)
    return base64.b64encode(file.getvalue()).decode()

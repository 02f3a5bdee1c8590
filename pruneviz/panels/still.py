"""A matplotlib picture in a panel."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from pruneviz.panels.base import png

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def still(figure: Figure, sentence: str) -> str:
    """Return HTML of a figure, as wide as the page at most; the sentence says the same.

    Examples
    --------
    >>> from matplotlib.figure import Figure
    >>> still(Figure(figsize=(1, 1)), "a < b")[:20]
    '<img alt="a &lt; b" '
    """
    return (
        f'<img alt="{escape(sentence)}" src="data:image/png;base64,{png(figure)}" '
        'style="max-width: 100%">'
    )

"""How the panels' pictures are drawn as SVG text: in 0.1 ms, where matplotlib takes 100 ms.

Text and axes take the colour of the page (``currentColor``), so that they are readable in a light
and in a dark theme. Names are escaped: a layer called ``<img>`` shows its name.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from pruneviz.plots.images import checked_images as checked
from pruneviz.plots.images import imshow_style
from pruneviz.plots.style import KEPT, PRUNED

FONT = 'font-family="system-ui, sans-serif" font-size="12" fill="currentColor"'
LARGE = FONT.replace("12", "14")  # for wide pictures, which are scaled down on a narrow page
CURSORS = {"drag": "ew-resize", "pick": "pointer"}


def strip(
    uris: Sequence[str],
    *,
    labels: Sequence[int],
    predictions: Sequence[int],
    classes: Sequence[str],
    label: str,
    size: int = 76,
    truth: bool = False,
) -> str:
    """Draw examples in a row, and below each the predicted class: ✓ right, ✗ wrong.

    With `truth` the true class is written below that.

    Parameters
    ----------
    uris : sequence of str
        From `image_uris`.
    labels, predictions : sequence of int
        The true and the predicted classes.
    classes : sequence of str
    label : str
        Text of the picture for a screen reader.

    Examples
    --------
    >>> uris = image_uris(np.zeros((1, 2, 2)))
    >>> "✗ b&lt;c" in strip(uris, labels=[0], predictions=[1], classes=["a", "b<c"], label="x")
    True
    """
    step = size + 10
    parts = []
    for i, (href, true, predicted) in enumerate(zip(uris, labels, predictions, strict=True)):
        right = true == predicted
        colour, sign = (KEPT, "✓") if right else (PRUNED, "✗")
        x, name = i * step + 4, classes[predicted]
        lines = [(22, f"{sign} ", name), *([(38, "is: ", classes[true])] if truth else [])]
        texts = "".join(
            f'<text x="{x + size / 2}" y="{size + down}" text-anchor="middle" {FONT}>'
            f"{f'<title>{escape(n)}</title>' * (_short(n) != n)}{before}{escape(_short(n))}</text>"
            for down, before, n in lines
        )
        parts.append(
            f'<image href="{href}" x="{x}" y="4" width="{size}" height="{size}" '
            'style="image-rendering: pixelated"/>'
            f'<rect x="{x}" y="4" width="{size}" height="{size}" fill="none" '
            f'stroke="{colour}" stroke-width="3"{"" if right else _DASHES}/>'
            f"{texts}"
        )
    height = size + (48 if truth else 32)
    return f"{open_tag(step * len(uris) + 4, height, label)}{''.join(parts)}</svg>"


def _short(name: str) -> str:
    """Shorten a name that would overlap the next one."""
    return name if len(name) <= 11 else f"{name[:10].rstrip()}…"


_DASHES = ' stroke-dasharray="7 4"'


def image_uris(images: Any) -> list[str]:
    """Return images, in a shape that `plot_strip` accepts, as PNG data URIs.

    Examples
    --------
    >>> image_uris(np.zeros((1, 2, 2)))[0][:22]
    'data:image/png;base64,'
    """
    array = np.asarray(images)
    blank = [0] * len(array)
    return [uri(image, **imshow_style(image)) for image in checked(array, blank, blank)]


def uri(image: np.ndarray, **options: Any) -> str:
    """Return an image as a PNG data URI; `options` are for matplotlib's ``imsave``.

    >>> uri(np.eye(2), cmap="gray")[:22]
    'data:image/png;base64,'
    """
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, image, **options, format="png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def round_ticks(low: float, high: float, intervals: int) -> list[float]:
    """Return at most `intervals` + 1 round values in [low, high], evenly spaced.

    >>> round_ticks(-0.31, 0.31, 7)
    [-0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.3]
    """
    if high <= low:
        return [low]
    rough = (high - low) / intervals
    unit = 10.0 ** np.floor(np.log10(rough))
    step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough * 0.999)
    first = int(np.ceil(low / step - 1e-9))
    last = int(np.floor(high / step + 1e-9))
    return [float(f"{k * step:.12g}") for k in range(first, last + 1)]


def open_tag(width: float, height: float, label: str, pointer: str = "", left: float = 0) -> str:
    """Return the opening tag of a picture.

    Parameters
    ----------
    width, height : float
        In pixels.
    label : str
        Text of the picture for a screen reader.
    pointer : str
        What the pointer can do in the picture: ``"drag"``, ``"pick"`` or nothing (see
        `pruneviz.panels.kit.pointer`).
    left : float
        Position of the left edge; negative if something is drawn left of 0.

    Examples
    --------
    >>> 'data-touch="drag"' in open_tag(10, 10, "a line", "drag")
    True
    """
    css, attribute = "", ""
    if pointer:
        css = f"; cursor: {CURSORS[pointer]}; user-select: none; touch-action: pan-y"
        attribute = f' data-touch="{pointer}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:g} 0 {width - left:g} {height}" '
        f'style="max-width: {width - left:g}px; width: 100%; height: auto{css}" '
        f'role="img" aria-label="{escape(label)}"{attribute}>'
    )


def hatch(uid: str) -> str:
    """Return the pattern that marks what is removed, in addition to the colour."""
    return (
        f'<defs><pattern id="{uid}-hatch" width="5" height="5" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><rect width="5" height="5" fill="{PRUNED}"/>'
        '<path d="M0 0V5" stroke="white" stroke-width="1.6" stroke-opacity="0.7"/></pattern></defs>'
    )

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
EDGES = (78, 10)  # pixels left and right of a histogram


def histogram(
    left: np.ndarray,
    right: np.ndarray,
    count: np.ndarray,
    pruned: np.ndarray,
    *,
    label: str,
    threshold: float | None = None,
    log: bool = False,
    xlabel: str = "weight",
    width: int = 640,
    height: int = 220,
    uid: str = "pv",
) -> str:
    """Draw a pre-binned histogram; bins marked in `pruned` are orange and hatched.

    Parameters
    ----------
    left, right, count : arrays of shape (bins,)
    pruned : boolean array of shape (bins,)
    label : str
        Text of the picture for a screen reader.
    threshold : float, optional
        Dashed lines at plus and minus this value.
    log : bool
        Whether the counts are on a logarithmic scale; then a bin with one weight is visible.
    xlabel : str
        Label of the horizontal axis.
    uid : str
        Makes the pattern's id unique on the page.

    Examples
    --------
    >>> e = np.array([-1.0, 0.0, 1.0])
    >>> text = histogram(e[:-1], e[1:], np.array([3, 4]), np.array([True, False]), label="two bars")
    >>> text.startswith("<svg"), 'aria-label="two bars"' in text
    (True, True)
    """
    x0, y0, x1, y1 = _box(width, height)
    span = float(right[-1] - left[0]) or 1.0
    top = float(count.max()) or 1.0

    def px(value: Any) -> Any:
        return x0 + (value - left[0]) / span * (x1 - x0)

    def py(value: Any) -> Any:
        share = np.log(np.maximum(value, LOW) / LOW) / np.log(top / LOW) if log else value / top
        return y1 - share * (y1 - y0)

    bars = []
    for selected, fill in ((~pruned, KEPT), (pruned, f"url(#{uid}-hatch)")):
        cells = zip(px(left[selected]), px(right[selected]), py(count[selected]), strict=True)
        path = "".join(f"M{a:.1f} {y1}V{h:.1f}H{b:.1f}V{y1}Z" for a, b, h in cells)
        bars.append(f'<path d="{path}" fill="{fill}"/>')
    ticks = [
        f'<text x="{px(v):.1f}" y="{y1 + 16}" text-anchor="middle">{v:g}</text>'
        for v in round_ticks(float(left[0]), float(right[-1]), 6)
    ]
    ticks += [
        f'<text x="{x0 - 6}" y="{py(v) + 4:.1f}" text-anchor="end">{v:,.0f}</text>'
        for v in (count_ticks(top) if log else round_ticks(0, top, 4))
    ]
    lines = ""
    if threshold is not None:
        edges = {px(s * threshold) for s in (-1, 1)}
        lines = "".join(
            f'<path d="M{x:.1f} {y0}V{y1}" stroke="currentColor" stroke-dasharray="4 3"/>'
            for x in sorted(edges)
            if x0 <= x <= x1
        )
    middle = (x0 + x1) / 2
    return (
        f"{open_tag(width, height, label, 'drag')}{hatch(uid)}{''.join(bars)}{lines}"
        f'<path d="M{x0} {y0}V{y1}H{x1}" fill="none" stroke="currentColor"/>'
        f"<g {FONT}>{''.join(ticks)}"
        f'<text x="{middle}" y="{height - 6}" text-anchor="middle">{escape(xlabel)}</text>'
        f'<text transform="translate(14 {(y0 + y1) / 2}) rotate(-90)" text-anchor="middle">'
        f"number of weights</text></g>{_legend(x1 - 156, height - 17, uid)}</svg>"
    )


def _box(width: int, height: int) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of the bars."""
    return EDGES[0], 10, width - EDGES[1], height - 40


def weight_at(x: float, left: np.ndarray, right: np.ndarray, width: int = 640) -> float:
    """Return the weight at a position of a histogram, in pixels from the left.

    >>> e = np.array([-1.0, 0.0, 1.0])
    >>> weight_at(78, e[:-1], e[1:]), weight_at(630, e[:-1], e[1:])
    (-1.0, 1.0)
    """
    share = (x - EDGES[0]) / (width - EDGES[1] - EDGES[0])
    return float(left[0] + share * (right[-1] - left[0]))


def in_histogram(x: float, y: float, width: int = 640, height: int = 220) -> bool:
    """Tell whether a position is inside the histogram's axes.

    >>> in_histogram(300, 50), in_histogram(300, 210)
    (True, False)
    """
    left, top, right, bottom = _box(width, height)
    return left <= x <= right and top <= y <= bottom


LOW = 0.5  # start of a logarithmic scale of counts: below 1, so that a count of 1 has a bar


def count_ticks(top: float) -> list[float]:
    """Return the powers of ten up to a count; every second or third if there are many.

    >>> count_ticks(2_000), count_ticks(3e6)
    ([1.0, 10.0, 100.0, 1000.0], [1.0, 100.0, 10000.0, 1000000.0])
    """
    last = int(np.floor(np.log10(max(top, 1))))
    return [10.0**i for i in range(0, last + 1, last // 4 + 1)]


def layers(
    names: Sequence[str],
    kept: Sequence[int],
    total: Sequence[int],
    *,
    label: str,
    width: int = 640,
    uid: str = "pv",
) -> str:
    """Draw one bar for each layer: blue for kept weights, orange and hatched for removed ones.

    Examples
    --------
    >>> "1 of 4 kept" in layers(["<fc>"], [1], [4], label="one layer")
    True
    """
    row, x0, x1 = 22, 150, width - 190
    height = row * len(names) + 6
    parts = []
    for i, (name, k, n) in enumerate(zip(names, kept, total, strict=True)):
        y, cut = 4 + i * row, x0 + (x1 - x0) * (k / n if n else 1)  # a layer may be empty
        short = name if len(name) <= 20 else "…" + name[-19:]
        parts.append(
            f'<rect x="{x0}" y="{y}" width="{cut - x0:.1f}" height="{row - 6}" fill="{KEPT}"/>'
            f'<rect x="{cut:.1f}" y="{y}" width="{x1 - cut:.1f}" height="{row - 6}" '
            f'fill="url(#{uid}-hatch)"/><g {FONT}>'
            f'<text x="{x0 - 6}" y="{y + 12}" text-anchor="end">{escape(short or "(model)")}</text>'
            f'<text x="{x1 + 6}" y="{y + 12}">{k:,} of {n:,} kept</text></g>'
        )
    return f"{open_tag(width, height, label)}{hatch(uid)}{''.join(parts)}</svg>"


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


def _legend(x: float, y: float, uid: str) -> str:
    return "".join(
        f'<rect x="{x + dx:.0f}" y="{y}" width="14" height="12" fill="{fill}"/>'
        f'<text x="{x + dx + 20:.0f}" y="{y + 11}" {FONT}>{word}</text>'
        for dx, fill, word in ((0, KEPT, "kept"), (72, f"url(#{uid}-hatch)", "pruned"))
    )


def hatch(uid: str) -> str:
    """Return the pattern that marks what is removed, in addition to the colour."""
    return (
        f'<defs><pattern id="{uid}-hatch" width="5" height="5" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><rect width="5" height="5" fill="{PRUNED}"/>'
        '<path d="M0 0V5" stroke="white" stroke-width="1.6" stroke-opacity="0.7"/></pattern></defs>'
    )

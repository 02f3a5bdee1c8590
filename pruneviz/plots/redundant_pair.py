"""What the panel of redundant pairs draws: the pairs, the weights of one pair, and accuracies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from pruneviz.plots.redundant import PICKED, SCALE, SIMILARITY, plot_redundant, scatter_points
from pruneviz.plots.style import GREY, KEPT, PRUNED, hide_frame, plain
from pruneviz.plots.svg import FONT, LARGE, open_tag, round_ticks, uri

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


WIDTH, HEIGHT = 880, 356
GAP_COLOUR = "#56B4E9"  # Okabe & Ito's sky blue, between the kernels
BOX = (58, 16, 452, 290)  # left, top, right, bottom of the scatter
CLICK_DISTANCE = 8  # pixels between the pointer and a point that it still picks
DRAG_DISTANCE = 0.012  # similarity between the pointer and the threshold that it still drags
SIDE, IMAGES_AT = 132, (520, 716)  # of the two images
BARS = (606, 236, 812, 22)  # left, top, right, height of a row


@dataclass(frozen=True)
class View:
    """The content of the picture.

    Parameters
    ----------
    pairs : DataFrame
        As for `plot_redundant`, with ``goes``.
    threshold : float
    picked : int or None
        Number of the picked row of `pairs`.
    images : sequence of array, shape (height, width)
        The weights of the two units of the picked pair, from `weights_image`; may be empty.
    titles : sequence of str
        Title of each image.
    caption : str
        Text below both images.
    bars : mapping of str to float or None
        The accuracy for each rung of the repair; None while it is measured.
    whole : float
        The accuracy of the whole network.
    """

    pairs: pd.DataFrame
    threshold: float
    picked: int | None
    images: Sequence[np.ndarray]
    titles: Sequence[str]
    caption: str
    bars: Mapping[str, float | None] = field(default_factory=dict)
    whole: float = 0.0


def svg(view: View, *, label: str, uid: str = "pv") -> str:
    """Draw a `View` as SVG text: scatter, the weights of the two units, bars.

    Parameters
    ----------
    view : View
    label : str
        Text of the picture for a screen reader.
    uid : str
        Makes the pattern's id unique on the page.

    Examples
    --------
    >>> import pandas as pd
    >>> pairs = pd.DataFrame({"similarity": [0.9], "scale": [0.5], "goes": [True]})
    >>> view = View(pairs, 0.8, 0, [np.eye(2)] * 2, ["a stays", "<b> goes"], "", {"delete": 0.75})
    >>> text = svg(view, label="one pair")
    >>> "&lt;b&gt; goes" in text, "75.0%" in text
    (True, True)
    """
    parts = [_scatter(view), _pair_images(view), _bars(view, uid)]
    hatch = (
        f'<defs><pattern id="{uid}-lost" width="5" height="5" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><rect width="5" height="5" fill="{PRUNED}"/>'
        '<path d="M0 0V5" stroke="white" stroke-width="1.6" stroke-opacity="0.7"/></pattern></defs>'
    )
    return f"{open_tag(WIDTH, HEIGHT, label, 'drag')}{hatch}{''.join(parts)}</svg>"


def in_scatter(x: float, y: float) -> bool:
    """Tell whether a position is in the scatter, or at most `CLICK_DISTANCE` outside.

    >>> in_scatter(BOX[2], 100), in_scatter(BOX[2] + 50, 100)
    (True, False)
    """
    x0, y0, x1, y1 = BOX
    return (
        x0 - CLICK_DISTANCE <= x <= x1 + CLICK_DISTANCE
        and y0 - CLICK_DISTANCE <= y <= y1 + CLICK_DISTANCE
    )


def similarity_at(x: float) -> float:
    """Return the similarity at a position, in pixels from the left.

    >>> similarity_at(BOX[0]), similarity_at(BOX[2])
    (0.0, 1.0)
    """
    return (x - BOX[0]) / (BOX[2] - BOX[0])


def pair_at(view: View, x: float, y: float) -> int | None:
    """Return the row of the pair at a position; None if no pair is near enough.

    >>> import pandas as pd
    >>> pairs = pd.DataFrame({"similarity": [0.5, 1.0], "scale": [0.0, 1.0], "goes": [True, True]})
    >>> view = View(pairs, 0.8, 0, [], [], "")
    >>> pair_at(view, BOX[2], BOX[1]), pair_at(view, BOX[0], BOX[1])
    (1, None)
    """
    similarity, scale, _ = scatter_points(view.pairs)
    px, py = _places(scale)
    distance = np.hypot(px(similarity) - x, py(scale) - y)
    return int(distance.argmin()) if distance.size and distance.min() <= CLICK_DISTANCE else None


def static_figure(view: View) -> Figure:
    """Draw a `View` as a matplotlib figure, made without pyplot."""
    from matplotlib.figure import Figure

    fig = Figure(figsize=(WIDTH / 100, HEIGHT / 100), layout="constrained")
    grid = fig.add_gridspec(2, 3, width_ratios=(2.1, 1, 1), height_ratios=(1.5, 1))
    plot_redundant(view.pairs, threshold=view.threshold, picked=view.picked,
               ax=fig.add_subplot(grid[:, 0]))  # fmt: skip
    largest = _largest_weight(view.images)
    for i, (image, title) in enumerate(zip(view.images, view.titles, strict=True)):
        ax = fig.add_subplot(grid[0, i + 1])
        ax.imshow(image, cmap=_greys(), vmin=-largest, vmax=largest)
        ax.set_title(plain(title), fontsize=9)
        ax.set(xticks=[], yticks=[])
    ax = fig.add_subplot(grid[1, 1:])
    names = list(view.bars)
    rows = np.arange(len(names))
    values = np.array([view.bars[n] for n in names], dtype=float)
    ax.barh(rows, values, height=0.62, color=KEPT, label="right")
    lost = ax.barh(rows, np.maximum(view.whole - values, 0), left=values, height=0.62,
                   color=PRUNED, hatch="///", label="lost")  # fmt: skip
    for bar in lost:
        bar.set(edgecolor="white", linewidth=0)
    for y, value in zip(rows.tolist(), values.tolist(), strict=True):
        known = "" if np.isnan(value) else f"{value:.1%}"
        ax.text(1.02, y, known, va="center", fontsize=9, transform=ax.get_yaxis_transform())
    ax.set(yticks=rows, yticklabels=map(plain, names), xlim=(0, 1), xticks=[])
    ax.set_title(f"accuracy (whole network: {view.whole:.1%})", fontsize=9)
    ax.tick_params(labelsize=9, length=0)
    ax.invert_yaxis()
    hide_frame(ax)
    ax.spines["bottom"].set_visible(False)
    return fig


def _span(scale: np.ndarray) -> tuple[float, float]:
    """Return the lower and the upper limit of the scatter's scale axis."""
    low, high = min(0.0, *scale, 0.0), max(1.0, *scale, 1.0)
    return (min(low, -1.0) if low < 0 else low), high


def _places(scale: np.ndarray) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Return the functions from a similarity and from a scale to pixels in the scatter."""
    x0, y0, x1, y1 = BOX
    low, high = _span(scale)
    return (
        lambda value: x0 + np.clip(value, 0, 1) * (x1 - x0),
        lambda value: y1 - (value - low) / (high - low) * (y1 - y0),
    )


def _scatter(view: View) -> str:
    x0, y0, x1, y1 = BOX
    similarity, scale, goes = scatter_points(view.pairs)
    low, high = _span(scale)
    px, py = _places(scale)
    dots = "".join(
        f"M{x - 2.4:.1f} {y:.1f}a2.4 2.4 0 1 0 4.8 0a2.4 2.4 0 1 0-4.8 0"
        for x, y in zip(px(similarity[~goes]), py(scale[~goes]), strict=True)
    )
    crosses = "".join(
        f"M{x - 2.7:.1f} {y - 2.7:.1f}l5.4 5.4m0-5.4l-5.4 5.4"
        for x, y in zip(px(similarity[goes]), py(scale[goes]), strict=True)
    )
    mark = ""
    if view.picked is not None:
        x, y = px(similarity[view.picked]), py(scale[view.picked])
        mark = (
            f'<rect class="lit" x="{x - 7:.1f}" y="{y - 7:.1f}" width="14" height="14" rx="3" '
            f'fill="{PICKED}" stroke="currentColor"/>'
        )
    at = px(view.threshold)
    texts = [
        f'<text x="{px(v):.1f}" y="{y1 + 17}" text-anchor="middle">{v:g}</text>'
        for v in round_ticks(0, 1, 5)
    ]
    texts += [
        f'<text x="{x0 - 7}" y="{py(v) + 4:.1f}" text-anchor="end">{v:g}</text>'
        for v in round_ticks(low, high, 4)
    ]
    middle = (y0 + y1) / 2
    texts += [
        f'<text x="{(x0 + x1) / 2}" y="{y1 + 36}" text-anchor="middle">{SIMILARITY}</text>',
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{SCALE}</text>',
    ]
    y = HEIGHT - 9
    legend = (
        f'<path d="M{x0 + 30} {y - 4}a3 3 0 1 0 6 0a3 3 0 1 0-6 0" fill="{KEPT}"/>'
        f'<text x="{x0 + 42}" y="{y}" {LARGE}>stays</text>'
        f'<path d="M{x0 + 122} {y - 7}l6 6m0-6l-6 6" stroke="{PRUNED}" stroke-width="1.8"/>'
        f'<text x="{x0 + 134}" y="{y}" {LARGE}>goes</text>'
        f'<rect x="{x0 + 212}" y="{y - 11}" width="14" height="14" rx="3" fill="{PICKED}" '
        f'stroke="currentColor"/><text x="{x0 + 232}" y="{y}" {LARGE}>the picked pair</text>'
    )
    return (
        f'{mark}<path class="both" d="{dots}" fill="{KEPT}"/>'
        f'<path class="goes" d="{crosses}" fill="none" stroke="{PRUNED}" stroke-width="1.6"/>'
        f'<path class="threshold" d="M{at:.1f} {y0}V{y1}" stroke="currentColor" '
        'stroke-dasharray="4 3"/>'
        f'<path d="M{x0} {py(0.0):.1f}H{x1}" stroke="currentColor" stroke-opacity="0.3"/>'
        f'<path d="M{x0} {y0}V{y1}H{x1}" fill="none" stroke="currentColor"/>'
        f"<g {LARGE}>{''.join(texts)}</g>{legend}"
    )


def _pair_images(view: View) -> str:
    largest = _largest_weight(view.images)
    parts = []
    for x, image, title in zip(IMAGES_AT, view.images, view.titles, strict=False):
        height, width = image.shape
        step = SIDE / max(height, width)
        w, h = width * step, height * step
        left, top = x + (SIDE - w) / 2, 32 + (SIDE - h) / 2
        parts.append(
            f'<image href="{uri(image, cmap=_greys(), vmin=-largest, vmax=largest)}" x="{left:.1f}" y="{top:.1f}" width="{w:.1f}" '
            f'height="{h:.1f}" preserveAspectRatio="none" style="image-rendering: pixelated"/>'
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{w:.1f}" height="{h:.1f}" fill="none" '
            f'stroke="{GREY}"/><text x="{x + SIDE / 2}" y="22" text-anchor="middle" {LARGE}>'
            f"{escape(title)}</text>"
        )
    centre = (IMAGES_AT[0] + IMAGES_AT[1] + SIDE) / 2
    what, _, greys = view.caption.partition(": ")
    lines = [view.caption] if len(view.caption) <= 56 else [f"{what}:", greys]
    parts += [
        f'<text x="{centre}" y="{32 + SIDE + 20 + 16 * i}" text-anchor="middle" {FONT}>'
        f"{escape(line)}</text>"
        for i, line in enumerate(lines)
    ]
    return "".join(parts)


def _bars(view: View, uid: str) -> str:
    x0, y0, x1, row = BARS
    parts = [
        f'<text x="{x0}" y="{y0 - 10}" {LARGE}>accuracy (whole network: {view.whole:.1%})</text>'
    ]
    for i, (name, value) in enumerate(view.bars.items()):
        y = y0 + i * row
        parts.append(
            f'<text x="{x0 - 8}" y="{y + 12}" text-anchor="end" {LARGE}>{escape(name)}</text>'
        )
        if value is None:
            continue
        end, lost = x0 + (x1 - x0) * value, max(view.whole - value, 0) * (x1 - x0)
        parts.append(
            f'<rect class="bar" x="{x0}" y="{y}" width="{end - x0:.1f}" height="{row - 7}" '
            f'fill="{KEPT}"/><rect x="{end:.1f}" y="{y}" width="{lost:.1f}" height="{row - 7}" '
            f'fill="url(#{uid}-lost)"/><text x="{x1 + 8}" y="{y + 12}" {LARGE}>{value:.1%}</text>'
        )
    y = y0 + len(view.bars) * row + 6
    legend = (
        f'<rect x="{x0}" y="{y}" width="14" height="12" fill="{KEPT}"/>'
        f'<text x="{x0 + 20}" y="{y + 11}" {LARGE}>right</text>'
        f'<rect x="{x0 + 74}" y="{y}" width="14" height="12" fill="url(#{uid}-lost)"/>'
        f'<text x="{x0 + 94}" y="{y + 11}" {LARGE}>lost</text>'
    )
    return "".join(parts) + legend * bool(view.bars)


def _greys() -> Any:
    """Return a colour map from black to white, with another colour where there is no weight."""
    from matplotlib import colormaps

    return colormaps["gray"].with_extremes(bad=GAP_COLOUR)


def _largest_weight(images: Sequence[np.ndarray]) -> float:
    """Return the largest |weight| of the images, so that both have one scale and 0 is grey."""
    return max([float(np.nanmax(np.abs(i))) for i in images if i.size] + [1e-12])

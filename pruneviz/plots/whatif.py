"""What a pruned model costs relative to the whole one, and how much of each layer is kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from pruneviz.plots.style import GREY, KEPT, PRUNED, hide_frame, plain
from pruneviz.plots.svg import FONT, hatch, open_tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes


MAX_LAYERS = 24  # layers that are drawn
# where a wider interval is cut off, as a share of the full bar, so that the text beside it is
# readable
MAX_END = 1.015
ROW = 20  # pixels for each layer


@dataclass(frozen=True)
class Bar:
    """One number, relative to that of the whole model.

    Parameters
    ----------
    name, text : str
        Name of the number, and its text.
    share : float or None
        Length of the bar, as a share of the full length; None: not measured yet.
    mark : float or None
        Position of the whole model's value.
    low, high : float or None
        An interval around `share`.
    """

    name: str
    text: str
    share: float | None = None
    mark: float | None = 1.0
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class LayerBar:
    """How many units or weights of a layer are kept.

    Parameters
    ----------
    name, kept, total
    frozen : str
        The reason why none can be removed; ``""``: they can.
    protected : bool
        Whether the user protects the layer: all are kept.
    coupled : sequence of str
        Layers whose units are removed together with these.
    note : str
        A remark.
    """

    name: str
    kept: int
    total: int
    frozen: str = ""
    protected: bool = False
    coupled: Sequence[str] = ()
    note: str = ""

    @property
    def short_name(self) -> str:
        """The name, shortened to its end, and the number of coupled layers."""
        suffix = f" +{len(self.coupled)}" if self.coupled else ""
        name, length = self.name or "(model)", 20 - len(suffix)
        return (name if len(name) <= length else "…" + name[1 - length :].lstrip(".")) + suffix

    @property
    def title(self) -> str:
        """The text that is shown when the pointer is on the layer."""
        if self.frozen:
            return f"{self.name}: {self.frozen}"
        together = ", ".join([self.name, *self.coupled]) + " go together" * bool(self.coupled)
        return f"{together}; {self.note}" if self.note else together

    @property
    def caption(self) -> str:
        """How many are kept, and whether the layer is protected."""
        return f"{self.kept:,} of {self.total:,} stay" + ", protected" * self.protected


def bars(rows: Sequence[Bar], *, label: str, width: int = 680) -> str:
    """Draw one bar for each number, with a mark at the value of the whole model.

    Examples
    --------
    >>> "half of the MACs" in bars([Bar("MACs", "half of the MACs", 0.5)], label="x")
    True
    """
    row, x0, x1 = 26, 84, 372
    parts = []
    for i, b in enumerate(rows):
        y = 4 + i * row
        parts.append(
            f'<text x="{x0 - 8}" y="{y + 14}" text-anchor="end" {FONT}>{escape(b.name)}</text>'
            f'<rect x="{x0}" y="{y + 1}" width="{x1 - x0}" height="16" fill="currentColor" '
            'fill-opacity="0.08"/>'
        )
        if b.share is not None:
            length = (x1 - x0) * min(max(b.share, 0), 1)
            parts.append(
                f'<rect x="{x0}" y="{y + 1}" width="{length:.1f}" height="16" fill="{KEPT}"/>'
            )
        if b.low is not None and b.high is not None:
            left, right = (x0 + (x1 - x0) * min(max(v, 0), MAX_END) for v in (b.low, b.high))
            parts.append(
                f'<path d="M{left:.1f} {y + 5}v8m0 -4H{right:.1f}m0 -4v8" fill="none" '
                'stroke="currentColor" stroke-width="1.5"/>'
            )
        if b.mark is not None:
            x = x0 + (x1 - x0) * min(max(b.mark, 0), 1)
            parts.append(
                f'<path d="M{x:.1f} {y - 1}v20" stroke="{PRUNED}" stroke-width="2" '
                'stroke-dasharray="4 2"/>'
            )
        parts.append(f'<text x="{x1 + 12}" y="{y + 14}" {FONT}>{escape(b.text)}</text>')
    return f"{open_tag(width, 6 + row * len(rows), label)}{''.join(parts)}</svg>"


def layers(rows: Sequence[LayerBar], *, label: str, uid: str, width: int = 680) -> str:
    """Draw one bar for each layer: blue for kept, orange and hatched for removed, grey for frozen.

    Examples
    --------
    >>> text = layers([LayerBar("<fc>", 1, 4), LayerBar("out", 9, 9, "the output")], label="x", uid="u")
    >>> "1 of 4 stay" in text, "frozen: the output" in text, "&lt;fc&gt;" in text
    (True, True, True)
    """
    row, x0, x1 = ROW, 150, 372
    shown = rows[:MAX_LAYERS]
    parts = []
    for i, r in enumerate(shown):
        y = 4 + i * row
        cut = x0 + (x1 - x0) * r.kept / max(r.total, 1)
        text = r.caption
        if r.frozen:
            reason_text = f"frozen: {r.frozen}"
            text = reason_text if len(reason_text) <= 46 else reason_text[:45] + "…"
        fill = GREY if r.frozen else KEPT
        parts.append(
            f"<g><title>{escape(r.title)}</title>"
            f'<rect x="{x0}" y="{y}" width="{cut - x0:.1f}" height="{row - 6}" fill="{fill}"/>'
            f'<rect x="{cut:.1f}" y="{y}" width="{x1 - cut:.1f}" height="{row - 6}" '
            f'fill="url(#{uid}-hatch)"/><g {FONT}>'
            f'<text x="{x0 - 6}" y="{y + 11}" text-anchor="end">{escape(r.short_name)}</text>'
            f'<text x="{x1 + 12}" y="{y + 11}">{escape(text)}</text></g></g>'
        )
    if len(rows) > MAX_LAYERS:
        y = 4 + MAX_LAYERS * row
        parts.append(f'<text x="{x0}" y="{y + 11}" {FONT}>and {len(rows) - MAX_LAYERS} more</text>')
    height = 8 + row * (len(shown) + (len(rows) > MAX_LAYERS))
    return f"{open_tag(width, height, label, 'pick')}{hatch(uid)}{''.join(parts)}</svg>"


def layer_at(rows: Sequence[LayerBar], y: float) -> LayerBar | None:
    """Return the layer at a position, in pixels from the top; None if there is none.

    >>> layer_at([LayerBar("a", 1, 2), LayerBar("b", 1, 2)], 30).name, layer_at([], 30)
    ('b', None)
    """
    i = int(y - 2) // ROW
    return rows[i] if 0 <= i < min(len(rows), MAX_LAYERS) else None


def draw_bars(rows: Sequence[Bar], ax: Axes) -> None:
    """Draw the picture of `bars` with matplotlib."""
    for i, b in enumerate(rows):
        ax.barh(i, 1, color=GREY, alpha=0.15, height=0.6)
        if b.share is not None:
            ax.barh(i, b.share, color=KEPT, height=0.6)
        if b.mark is not None:
            ax.plot([b.mark] * 2, [i - 0.42, i + 0.42], color=PRUNED, linestyle="--", linewidth=1.6)
        if b.low is not None and b.high is not None:
            ends = [min(v, MAX_END) for v in (b.low, b.high)]
            ax.plot(ends, [i, i], color="black", linewidth=1.2, clip_on=False)
        ax.text(1.05, i, plain(b.text), va="center", fontsize=8, transform=ax.get_yaxis_transform())
    _rows(ax, [b.name for b in rows], 1.0)


def draw_layers(rows: Sequence[LayerBar], ax: Axes) -> None:
    """Draw the picture of `layers` with matplotlib."""
    shown = rows[:MAX_LAYERS]
    for i, r in enumerate(shown):
        share = r.kept / max(r.total, 1)
        ax.barh(i, share, color=GREY if r.frozen else KEPT, height=0.7)
        removed_bars = ax.barh(i, 1 - share, left=share, color=PRUNED, height=0.7, hatch="///")
        removed_bars[0].set(edgecolor="white", linewidth=0)
        text = "frozen" if r.frozen else r.caption
        ax.text(1.03, i, text, va="center", fontsize=8, transform=ax.get_yaxis_transform())
    _rows(ax, [r.short_name for r in shown], 1.0)


def _rows(ax: Axes, names: list[str], end: float) -> None:
    ax.set(yticks=range(len(names)), xlim=(0, end))
    ax.set_yticklabels(map(plain, names), fontsize=8)
    ax.set_xticks([])
    ax.invert_yaxis()
    hide_frame(ax)
    ax.spines["bottom"].set_visible(False)

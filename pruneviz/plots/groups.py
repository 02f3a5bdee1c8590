"""Which layers share units, and which units are frozen."""

from __future__ import annotations

import heapq
from itertools import pairwise
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.plots.style import GREY, KEPT, PALETTE, axes, plain

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


MAKES, READS = KEPT, PALETTE[2]  # blue circles make units, green squares read them
CELL = 0.27  # inches for each layer, and at least as many for each group


def plot_groups(data: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw which layers share units: one row for each layer, one column for each group.

    A circle marks a layer that makes the units of a group, a square a layer that reads them.
    Layers on one line can only be cut together. Grey and dotted: frozen, with the reason below.

    Parameters
    ----------
    data : DataFrame
        From ``groups.to_frame()``.
    ax : Axes, optional
        Where to draw; default: a new figure of the needed size.

    Returns
    -------
    Axes
        With one line for each group, and up to four collections of marks, labelled ``"makes"``,
        ``"reads"``, ``"makes, frozen"`` and ``"reads, frozen"``. The x of a mark is the number of
        its group.

    Raises
    ------
    ArgumentError
        If a column is missing, or there is no group.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> ax = pv.plot_groups(pv.find_groups(model, torch.zeros(1, 4)).to_frame())
    >>> [t.get_text() for t in ax.get_yticklabels()], [t.get_text() for t in ax.get_xticklabels()]
    (['0', '2'], ['0: 8', '2: 2'])
    >>> ax.get_xlabel()
    "frozen:  2: its units are the model's output"
    """
    needed = "group units layer tensor dim role width frozen approximate".split()
    checks.columns(data, dict.fromkeys(needed, "groups.to_frame()"), "plot_groups")
    if not len(data):
        raise ArgumentError("plot_groups got a frame without rows. Make it with groups.to_frame().")
    drawn = layer_rows(data)
    row_of = {layer: i for i, layers in enumerate(drawn) for layer in layers}
    groups = data.drop_duplicates("group").reset_index(drop=True)
    labels = [row_label(layers) for layers in drawn]
    heads = [
        f"{shortened(g or '(model)', 22)}: {n:,}{' ≈' if a else ''}"
        for g, n, a in groups[["group", "units", "approximate"]].itertuples(index=False)
    ]
    flat = max(map(len, heads)) <= 12 and len(heads) <= 6  # else the heads are written vertically
    marks = _marks(data, row_of, list(groups["group"]))
    notes = _footnotes(groups, any(width > 1 for *_, role, width in marks if role == "reads"))
    ax = axes(ax, _size(labels, heads, notes, flat))
    for x, frozen in enumerate(groups["frozen"].astype(bool)):
        ys = [m[1] for m in marks if m[0] == x]
        style: Any = {"color": GREY, "linestyle": ":"} if frozen else {"color": "black"}
        ax.plot([x, x], [min(ys), max(ys)], linewidth=1.4, zorder=1, **style)
    for (role, frozen), style in _STYLES.items():
        selected = [m for m in marks if m[2] == role and bool(groups["frozen"][m[0]]) == frozen]
        if selected:
            name = f"{role}, frozen" if frozen else role
            xs, ys = [m[0] for m in selected], [m[1] for m in selected]
            ax.scatter(xs, ys, label=name, zorder=2, **style)
    for x, y, role, width in marks:
        if width > 1 and role == "reads":  # after a flatten, `width` columns read one unit
            ax.text(x + 0.16, y + 0.02, f"×{width}", fontsize=7, va="center", ha="left")
    ax.set(xticks=range(len(heads)), yticks=range(len(labels)), yticklabels=map(plain, labels))
    ax.set_xticklabels(map(plain, heads), rotation=0 if flat else 90)
    ax.tick_params(length=0, labelsize=8.5)
    ax.xaxis.tick_top()
    ax.set(xlim=(-0.6, len(heads) - 0.4), ylim=(len(labels) - 0.4, -0.6))
    ax.grid(alpha=0.18)
    ax.set_axisbelow(True)
    ax.spines[:].set_visible(False)
    ax.set_xlabel(plain("\n".join(notes)), loc="left", fontsize=8.5, color=GREY)
    ax.xaxis.set_label_position("bottom")
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=8.5)
    return ax


def layer_rows(data: pd.DataFrame) -> list[tuple[str, ...]]:
    """Return the layers of a model in the order of its forward, as rows of the picture.

    A norm has no row of its own: it passes on the channels of the layer before it, and shares its
    row. The first name in each row is the layer with the weights.

    Parameters
    ----------
    data : DataFrame
        From ``groups.to_frame()``.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(1, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 3))
    >>> layer_rows(pv.find_groups(model, torch.zeros(2, 1, 9, 9)).to_frame())
    [('0', '1'), ('2',)]
    """
    roles = _layer_roles(data)
    groups_of: dict[str, set[str]] = {}
    for layer, group, _ in roles:
        groups_of.setdefault(layer, set()).add(group)
    home: dict[str, str] = {}
    after: dict[str, list[str]] = {layer: [] for layer in groups_of}
    for group in dict.fromkeys(g for _, g, _ in roles):
        order = [(layer, role) for layer, g, role in roles if g == group]
        for (a, _), (b, _) in pairwise(order):
            after[a].append(b)
        made: str | None = None
        for layer, role in order:
            if role != "makes":
                continue
            alone = groups_of[layer] == {group} and len(order) > 1
            if made is not None and alone:
                home[layer] = home.get(made, made)
            made = layer
    found: dict[str, list[str]] = {}
    for layer in _sorted_layers(after):
        found.setdefault(home.get(layer, layer), []).append(layer)
    return [(name, *(n for n in names if n != name)) for name, names in found.items()]


def row_label(layers: tuple[str, ...], length: int = 24) -> str:
    """Name a row: its layer, and the last part of the names of the norms that share it.

    >>> row_label(("stage1.0.conv2", "stage1.0.bn2"))
    'stage1.0.conv2, bn2'
    """
    norms = [n.rpartition(".")[2] for n in layers[1:]]
    suffix = "".join(f", {'.' * n.isdigit()}{n}" for n in norms[:1]) + (
        f" +{len(norms) - 1}" if norms[1:] else ""
    )
    return shortened(layers[0] or "(model)", length - len(suffix)) + suffix


def shortened(name: str, length: int) -> str:
    """Return a name; if it is longer than `length`, an ellipsis and its end.

    >>> shortened("layer4.1.conv2", 8)
    '…1.conv2'
    """
    return name if len(name) <= length else "…" + name[1 - length :]


_STYLES: dict[tuple[str, bool], dict[str, Any]] = {
    ("makes", False): {"marker": "o", "s": 34, "color": MAKES},
    ("reads", False): {"marker": "s", "s": 70, "facecolors": "none", "edgecolors": READS, "lw": 2},
    ("makes", True): {"marker": "o", "s": 34, "color": GREY},
    ("reads", True): {"marker": "s", "s": 70, "facecolors": "none", "edgecolors": GREY, "lw": 1},
}


def _layer_roles(data: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Return (layer, group, makes | reads) without repeats, in the order of the frame."""
    columns = data[["layer", "group", "dim", "role"]]
    lines = [tuple(line) for line in columns.itertuples(index=False)]
    own = {(layer, group, dim) for layer, group, dim, role in lines if role == "out"}
    return list(
        dict.fromkeys(
            (layer, group, "makes" if role == "out" else "reads")
            for layer, group, dim, role in lines
            # A norm's running variance has the role "in", but the norm makes these units: it is no
            # reader of them.
            if role == "out" or (layer, group, dim) not in own
        )
    )


def _marks(
    data: pd.DataFrame, row_of: dict[str, int], names: list[str]
) -> list[tuple[int, int, str, int]]:
    """Return (column, row, makes | reads, positions for each unit) of every mark."""
    lines = data[["layer", "group", "role", "width"]].itertuples(index=False)
    width = {(layer, group, role): w for layer, group, role, w in lines}
    key = {"makes": "out", "reads": "in"}
    column = {name: x for x, name in enumerate(names)}
    return list(
        dict.fromkeys(
            (column[group], row_of[layer], role, int(width[layer, group, key[role]]))
            for layer, group, role in _layer_roles(data)
        )
    )


def _sorted_layers(after: dict[str, list[str]]) -> list[str]:
    """Sort layers so that each follows its predecessors; ties keep the order of the input.

    `after`: layer name to the layers that must come after it.
    """
    place = {name: i for i, name in enumerate(after)}
    names = list(after)
    waiting = dict.fromkeys(names, 0)
    for followers in after.values():
        for name in followers:
            waiting[name] += 1
    ready = [place[n] for n in names if not waiting[n]]
    order: dict[str, None] = {}
    while len(order) < len(names):
        if not ready:  # a tied weight makes a cycle: continue with the first layer that is left
            ready = [next(place[n] for n in names if n not in order)]
        name = names[heapq.heappop(ready)]
        if name in order:
            continue
        order[name] = None
        for follower in after[name]:
            waiting[follower] -= 1
            if not waiting[follower]:
                heapq.heappush(ready, place[follower])
    return list(order)


def _footnotes(groups: pd.DataFrame, wide: bool) -> list[str]:
    """Return the footnotes: why groups are frozen or approximate, and what × means."""
    notes = ["×n:  each unit is read by n columns"] if wide else []
    for column, head in (("frozen", "frozen:  "), ("approximate", "≈:  ")):
        reasons: dict[str, list[str]] = {}
        for name, reason in zip(groups["group"], groups[column], strict=True):
            if reason:
                reasons.setdefault(reason, []).append(name or "(model)")
        for reason, names in reasons.items():
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
            notes += wrap(f"{head}{shown}: {reason}", 72, subsequent_indent="      ")
    return notes


def _size(labels: list[str], heads: list[str], notes: list[str], flat: bool) -> tuple[float, float]:
    """Return width and height of a new figure in inches."""
    column = 0.085 * max(map(len, heads)) + 0.15 if flat else CELL + 0.05
    top = 0.3 if flat else 0.085 * max(map(len, heads))
    left = 0.085 * max(map(len, labels))
    width = max(column * len(heads) + 1.5, 0.073 * max(map(len, notes), default=0), 3)
    return left + width, top + CELL * max(len(labels), 4) + 0.17 * len(notes) + 0.3

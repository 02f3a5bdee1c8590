"""Which criterion predicts best, in each layer, what removing a unit does to the loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.core import checks
from pruneviz.model.hooks import plain_torch
from pruneviz.panels.kit.html import static_image
from pruneviz.panels.kit.panel import Panel
from pruneviz.plots.card import plot_card, plot_ranks
from pruneviz.plots.style import figure
from pruneviz.study.criterion_card import TRUTH, Card
from pruneviz.study.criterion_card_intervals import WHOLE_NETWORK

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@plain_torch()
def panel_card(card: Card, *, group: str = WHOLE_NETWORK, criterion: str | None = None) -> Panel:
    """Show the card of criteria for the whole network or one layer, and the units behind one bar.

    Above are the bars of `plot_card`, without those of a rescaling. Below, each unit is a point:
    its rank by the chosen criterion, and the loss measured without it; in the whole network each
    layer has a colour.

    Parameters
    ----------
    card : Card
        From `criterion_card`.
    group : str
        Which group is shown first; default: the whole network.
    criterion : str, optional
        Which criterion is shown first; default: the best of the whole network.

    Returns
    -------
    Panel
        ``controls``: ``"group"``, ``"criterion"``.
        ``result``: ``group``, ``criterion``, ``units``, ``spearman``, ``low``, ``high``, ``best``.

    Raises
    ------
    ArgumentError
        If there is no such group or criterion.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> x, labels = torch.randn(60, 4), torch.arange(60) % 3
    >>> groups = pv.find_groups(model, x)
    >>> card = pv.criterion_card(model, [(x, labels)], groups=groups, criteria=["l2"], progress=False)
    >>> panel = pv.panel_card(card)
    >>> panel.controls["criterion"].value = "random"
    >>> panel.result["units"]
    8
    >>> panel.close()
    """
    return CardPanel(card, group, criterion)


class CardPanel(Panel):
    """The panel behind `panel_card`."""

    def __init__(self, card: Card, group: str, criterion: str | None) -> None:
        hint = "Make it: pv.criterion_card(model, batches, groups=groups)."
        checks.kind(card, "card", Card, hint)
        self._card, self._frame = card, card.correlation
        names = [c for c in card.scores if c != TRUTH]
        checks.choice(group, "group", self._frame["group"].unique(), what="group")
        chosen = self._best(WHOLE_NETWORK) if criterion is None else criterion
        checks.choice(chosen, "criterion", names, what="criterion")
        super().__init__()
        where = widgets.Dropdown(
            options=list(dict.fromkeys(self._frame["group"])), value=group, description="layer"
        )
        by = widgets.Dropdown(options=names, value=chosen, description="criterion")
        self.start({"row": self.row(where, by)}, {"group": where, "criterion": by})

    def answer(self, moved: str) -> dict[str, Any]:
        group, criterion = self._chosen()
        rows = self._frame[self._frame["group"] == group]
        row = rows[rows["criterion"] == criterion].iloc[0]
        result: dict[str, Any] = {"group": group, "criterion": criterion, "best": self._best(group)}
        return result | {n: row[n].item() for n in ("units", "spearman", "low", "high")}

    def show(self, result: dict[str, Any]) -> tuple[str, str]:
        sentence = self._say(result)
        return static_image(self.draw(result), sentence), sentence

    def draw(self, result: dict[str, Any]) -> Figure:
        group, criterion = self._chosen()
        height, whole = 0.9 + 0.2 * (len(self._card.scores) - 2), group == WHOLE_NETWORK
        with figure(8.2, height + 2.5, (height, 2.5)) as (fig, (above, below)):
            ceiling = self._card.ceiling if whole else None
            plot_card(self._frame, group=group, mark=criterion, ceiling=ceiling, ax=above)
            scores, rise = (self._card.values(c, group) for c in (criterion, TRUTH))
            units = self._card.truth.values.items() if whole else ()
            layers = [name for name, values in units for _ in values]
            plot_ranks(scores, rise, criterion=criterion, layers=layers, ax=below)
        return fig

    def to_python(self) -> str:
        group, criterion = self._chosen()
        return (
            "import pruneviz as pv\n\n"
            "frame = card.correlation\n"
            f'rows = frame[(frame["group"] == {group!r}) & (frame["criterion"] == {criterion!r})]\n'
            'print(rows[["units", "spearman", "low", "high"]])\n'
            f"ax = pv.plot_card(frame, group={group!r}, mark={criterion!r})\n"
        )

    def _chosen(self) -> tuple[str, str]:
        return self.controls["group"].value, self.controls["criterion"].value

    def _best(self, group: str) -> str:
        rows = self._frame[self._frame["group"] == group]
        return str(rows.sort_values("spearman", ascending=False)["criterion"].iloc[0])

    def _say(self, r: dict[str, Any]) -> str:
        return (
            f"{r['group']}, {r['units']:,} units: by {r['criterion']} the rank correlation with the loss "
            f"measured without each unit is {r['spearman']:.2f} ({r['low']:.2f} to {r['high']:.2f}); "
            f"the best here is {r['best']}."
        )

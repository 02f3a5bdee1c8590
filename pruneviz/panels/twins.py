"""Twins: which units do nearly the same, and who does the work of one that goes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz import _check
from pruneviz.collect import collect
from pruneviz.evidence import Evidence
from pruneviz.groups import find_groups
from pruneviz.measure import measure
from pruneviz.metrics import accuracy, ready
from pruneviz.pairs import one_of_each
from pruneviz.panels.base import Panel
from pruneviz.plots import twins as plots
from pruneviz.shrink import Shrinker
from pruneviz.twins import find_twins
from pruneviz.types import ArgumentError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from pruneviz.group import Group

MOST = 100_000  # pairs that are looked at
RUNGS = {"delete": "none", "fold": "fold", "merge": "merge", "least squares": "lstsq"}
BY = {"what they do": "activations", "their weights": "weights"}
WORDS = {"Conv": "channel", "Linear": "neuron"}
ALL = "all layers"


def panel_twins(
    model: nn.Module,
    x: Any,
    *,
    batches: Iterable[tuple[Any, Tensor]],
    evidence: Evidence | None = None,
    by: str = "activations",
    layer: str | None = None,
    threshold: float = 0.8,
    pair: int = 0,
) -> Panel:
    """Show which units repeat each other; drop one of each pair, and let others do its work.

    Each unit is a point: how similar it is to the larger unit that is most like it, and how large
    beside that one. Drag the threshold: of each pair that reaches it one goes, if its twin stays (see
    `one_of_each`). The smaller network is made for real four times, with each rung of the repair
    ladder (see `shrink`), and the four accuracies stand side by side. Pick a pair, and see the
    weights with which its two units read.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    x : Tensor, tuple or dict
        Example input: a few examples.
    batches : iterable of (inputs, labels)
        What the accuracy is measured on, four times at every move; read once.
    evidence : Evidence, optional
        From `collect` on this model: what the repairs learn from, and who is alike. Default: it is
        collected from `batches`, without their labels.
    by : str
        Where the drop-down stands at first: ``"activations"``, or ``"weights"``, which needs no data.
    layer : str, optional
        The same: name of a group, or ``"all layers"``. Default: the first group that can be cut.
    threshold : float
        Where the slider stands at first, in [0, 1].
    pair : int
        Which pair is picked at first; 0: the most similar.

    Returns
    -------
    Panel
        ``controls``: ``"threshold"``, ``"pair"``, ``"layer"``, ``"by"``. ``result``: ``plan``;
        ``gone`` and ``total`` (units of the layer), ``accuracy`` (a dict: ``"whole"``,
        ``"delete"``, ``"fold"``, ``"merge"``, ``"least squares"``), ``macs`` and ``speedup`` (of
        MACs: whole ÷ smaller) of the smaller network; ``pairs`` (how many points there are); of the
        picked pair ``group``, ``kept``, ``removed``, ``similarity``, ``scale`` and ``goes`` (None if
        there is no pair).

    Raises
    ------
    ArgumentError, GraphError
        As `find_groups`, `collect`, `find_twins` and `accuracy` do.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2))
    >>> with torch.no_grad():
    ...     _ = model[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, 0.0], [2.0, 4.0]]))
    ...     _ = model[0].bias.zero_()
    >>> x = torch.rand(50, 2)
    >>> panel = pv.panel_twins(model, x, batches=[(x, pv.predict(model, x))], threshold=0.99)
    >>> panel.result["kept"], panel.result["removed"], panel.result["accuracy"]["merge"]
    (2, 0, 1.0)
    >>> panel.close()
    """
    return TwinsPanel(model, x, batches, evidence, by, layer, threshold, pair)


class TwinsPanel(Panel):
    """The panel behind `panel_twins`."""

    def __init__(
        self,
        model: nn.Module,
        x: Any,
        batches: Iterable[tuple[Any, Tensor]],
        evidence: Evidence | None,
        by: str,
        layer: str | None,
        threshold: float,
        pair: int,
    ) -> None:
        _check.choice(by, "by", BY.values())
        threshold = _check.number(threshold, "threshold", low=0, high=1)
        pair = _check.count(pair, "pair")
        self._model, self._x = model, x
        self._groups = find_groups(model, x)
        names = [g.name for g in self._groups if not g.frozen]
        if not names:
            raise ArgumentError("`model` has no units that can be cut: nothing in it can repeat.")
        names += [ALL] * (len(names) > 1)
        layer = names[0] if layer is None else _check.choice(layer, "layer", names, what="layer")
        self._shrinker = Shrinker(model, x)
        self._batches = ready(batches)
        if evidence is None:
            evidence = collect(model, [inputs for inputs, _ in self._batches], progress=False)
        self._evidence = _check.kind(evidence, "evidence", Evidence, "Make it: pv.collect(…).")
        self._macs, self._whole = measure(model, x).macs, accuracy(model, self._batches)
        self._judged = sum(len(labels) for _, labels in self._batches)
        self._kinds = {n: type(m).__name__ for n, m in model.named_modules()}
        self._frames: dict[str, pd.DataFrame] = {}
        self._cut: dict[str, Any] = {}
        super().__init__()
        limit, self._threshold = self.slider("threshold", threshold, 0.0, 1.0, 0.01)
        picked, self._pair = self.slider("pair", pair, 0, max(pair, 1), 1, digits=0)
        self._field = picked.children[0]
        which = widgets.Dropdown(options=names, value=layer, description="layer")
        alike = widgets.Dropdown(options=list(BY.items()), value=by, description="alike by")
        self.start(
            {"threshold": limit, "pair": picked, "which": widgets.HBox([which, alike])},
            {"threshold": self._threshold, "pair": self._pair, "layer": which, "by": alike},
        )

    def answer(self, moved: str) -> tuple[dict[str, Any], str, str]:
        if moved != "pair" or not self._cut:
            self._cut = {}  # nothing old is left, should what follows fail
            frame = self._frame()
            self._cut = self._smaller(frame)
            self._points = self._nearest(frame, self._cut["plan"])
            self._bound(len(self._points) - 1)
        result = {**self._cut, "pairs": len(self._points), **self._picked()}
        sentence = self._say(result)
        return result, plots.svg(self._view_of(result), label=sentence, uid=self.uid), sentence

    def figure(self) -> Figure:
        if self.result:
            return plots.static(self._view_of(self.result))
        empty = plots.View(self._points[:0], self._threshold.value, None, [], [], "")
        return plots.static(empty)  # after an error

    def _frame(self) -> pd.DataFrame:
        """Return all pairs of the layer; found once for each way to compare."""
        by, layer = self.controls["by"].value, self.controls["layer"].value
        if by not in self._frames:
            seen = self._evidence if by == "activations" else None
            self._frames[by] = find_twins(
                self._model, groups=self._groups, evidence=seen, top=MOST, threshold=0
            )
        frame = self._frames[by]
        return frame if layer == ALL else frame[frame["group"] == layer]

    def _smaller(self, frame: pd.DataFrame) -> dict[str, Any]:
        """Choose, cut, repair in four ways, and measure."""
        alike = frame[frame["similarity"] >= self._threshold.value]
        plan = one_of_each(alike, self._groups)
        right = {"whole": self._whole}
        for name, rung in RUNGS.items():
            small = self._shrinker.quick(plan)
            if rung != "none":
                self._shrinker.repair(small, plan, rung, self._evidence, None)
            right[name] = accuracy(small, self._batches)
        layer = self.controls["layer"].value
        total = plan.total if layer == ALL else self._groups[layer].size
        macs = measure(small, self._x).macs
        return {
            "plan": plan,
            "threshold": self._threshold.value,
            "by": self.controls["by"].value,
            "layer": layer,
            "gone": plan.total - plan.kept,
            "total": total,
            "accuracy": right,
            "macs": macs,
            "speedup": self._macs / macs,
        }

    def _nearest(self, frame: pd.DataFrame, plan: Any) -> pd.DataFrame:
        """Return for each unit the larger one that is most like it."""
        keep = {n: k.tolist() for n, k in plan.keep.items()}
        best = frame.drop_duplicates(["group", "removed"]).reset_index(drop=True)
        pairs = zip(best["group"], best["removed"], strict=True)
        return best.assign(goes=[not keep[g][u] for g, u in pairs])

    def _bound(self, last: int) -> None:
        """Let the slider of the pair end where the pairs do."""
        before, self._busy = self._busy, True
        try:
            for control in (self._field, self._pair):
                control.value = max(min(control.value, last), 0)
                control.max = max(last, 1)  # a slider needs two ends
        finally:
            self._busy = before

    def _picked(self) -> dict[str, Any]:
        """Tell of the picked pair."""
        if not len(self._points):
            return dict.fromkeys(
                ("pair", "group", "kept", "removed", "similarity", "scale", "goes")
            )
        pair = min(round(self._pair.value), len(self._points) - 1)
        row = self._points.iloc[pair]
        return {
            "pair": pair,
            "group": str(row["group"]),
            "kept": int(row["kept"]),
            "removed": int(row["removed"]),
            "similarity": float(row["similarity"]),
            "scale": float(row["scale"]),
            "goes": bool(row["goes"]),
        }

    def _view_of(self, result: dict[str, Any]) -> plots.View:
        images, titles, below = [], [], ""
        if result["pair"] is not None:
            group = self._groups[result["group"]]
            for unit in (result["kept"], result["removed"]):
                image, below = self._image(group, unit)
                if image is not None:
                    stays = bool(result["plan"].keep[group.name][unit])
                    images.append(image)
                    titles.append(f"{self._word(group)} {unit} {'stays' if stays else 'goes'}")
        bars = {n: result["accuracy"][n] for n in RUNGS}
        return plots.View(
            self._points, result["threshold"], result["pair"], images, titles, below, bars,
            result["accuracy"]["whole"],
        )  # fmt: skip

    def _image(self, group: Group, unit: int) -> tuple[Any, str]:
        """Return the weights with which a unit reads, as an image, and what is seen there."""
        layer = group.producers[0]
        tensors = dict(self._model.named_parameters())
        for s in group.slices:
            if s.layer != layer or s.role != "out" or s.tensor not in tensors:
                continue
            weight = tensors[s.tensor].detach().cpu()
            if weight.ndim < 2:
                continue
            rows = weight.transpose(0, s.dim)[s.index[unit].tolist()]
            if rows.ndim == 4:
                kernels = rows.flatten(0, 1).numpy()
                n = len(kernels)
                many = f"{n} kernels, one for each channel it reads" if n > 1 else "its kernel"
                return plots.sheet(kernels), f"{many}: {GREYS}"
            pixels = self._pixels(layer, rows)
            what = "the pixels it reads" if pixels else f"its {rows.numel():,} weights in lines"
            return plots.sheet(rows.flatten().numpy(), pixels), f"{what}: {GREYS}"
        return None, ""

    def _pixels(self, layer: str, rows: Tensor) -> tuple[int, int] | None:
        """Return height and width of the input if it is what the layer reads, number by number."""
        shape: tuple[int, ...] = tuple(getattr(self._x, "shape", ()))
        if len(shape) != 4 or shape[1] != 1 or self._groups.read_by(layer):
            return None
        height, width = int(shape[2]), int(shape[3])
        return (height, width) if rows.numel() == height * width else None

    def _word(self, group: Group) -> str:
        kind = self._kinds.get(group.producers[0], "")
        return next((w for part, w in WORDS.items() if part in kind), "unit")

    def _say(self, result: dict[str, Any]) -> str:
        right = {n: f"{a:.1%}" for n, a in result["accuracy"].items()}
        layer = result["layer"]
        what = "units" if layer == ALL else f"{self._word(self._groups[layer])}s"
        text = f"Threshold {result['threshold']:.2f}: "
        text += f"{result['gone']:,} of {result['total']:,} {what} of {layer or 'the model'} go, "
        text += f"{1 / result['speedup']:.0%} of the MACs stay. Accuracy "
        text += f"(on {self._judged:,} examples): whole {right['whole']}, "
        text += ", ".join(f"{n} {right[n]}" for n in RUNGS) + "."
        if result["pair"] is None:
            return f"{text} No two units are alike."
        word = self._word(self._groups[result["group"]])
        where = f" of {result['group']}" * (layer == ALL)
        return (
            f"{text} Pair {result['pair']}: {word} {result['removed']}{where} is like {word} "
            f"{result['kept']}, similarity {result['similarity']:.2f}, scale {result['scale']:.2f}."
        )


GREYS = "white adds, black takes away, grey ignores"

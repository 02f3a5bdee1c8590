"""Which classes a network predicts for a few images while its weights are pruned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pruneviz.core import checks
from pruneviz.metrics.accuracy import accuracy, predict
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import plain_torch
from pruneviz.model.layout import fast_batches
from pruneviz.panels.kit.panel import Panel, Work
from pruneviz.panels.kit.script import batches_line
from pruneviz.plots import svg
from pruneviz.plots.images import checked_images, plot_strip
from pruneviz.plots.style import figure
from pruneviz.pruning.mask import mask
from pruneviz.selection.criteria.registry import criterion as registered
from pruneviz.selection.score import score
from pruneviz.selection.select import select

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn


@plain_torch()
def panel_strip(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    batches: Iterable[tuple[Any, Tensor]],
    classes: Sequence[str] | None = None,
    criterion: str = "magnitude",
    scope: str | None = None,
    sparsity: float = 0.0,
) -> Panel:
    """Show the classes that a network predicts for a few images, while a slider prunes its weights.

    Parameters
    ----------
    model : nn.Module
        Gives logits of shape (n, classes). Not changed.
    x : Tensor, shape (n, 1, height, width) or (n, 3, height, width)
        A few examples, grey or in colour, shown in a row.
    labels : Tensor, int64, shape (n,)
        Their classes.
    batches : iterable of (inputs, labels)
        What the accuracy is measured on; read once.
    classes : sequence of str, optional
        Name of each class; default: its number.
    criterion : str
        A name of `CRITERIA`.
    scope : str, optional
        ``"layer"`` or ``"global"``; default: the criterion's own.
    sparsity : float
        First value of the slider, in [0, 0.99].

    Returns
    -------
    Panel
        ``controls``: ``"sparsity"``. ``result``: ``sparsity``, ``accuracy``, ``predictions`` (names of
        classes), ``plan``.

    Raises
    ------
    ArgumentError
        As `score`, `select`, `accuracy` and `plot_strip` do.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> x, y = torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 0])
    >>> panel = pv.panel_strip(model, x, y, batches=[(x, y)])
    >>> panel.controls["sparsity"].value = 0.5
    >>> panel.result["sparsity"], len(panel.result["predictions"])
    (0.5, 3)
    >>> panel.close()
    """
    return StripPanel(model, x, labels, batches, classes, criterion, scope, sparsity)


class StripPanel(Panel):
    """The panel behind `panel_strip`."""

    def __init__(
        self,
        model: nn.Module,
        x: Tensor,
        labels: Tensor,
        batches: Iterable[tuple[Any, Tensor]],
        classes: Sequence[str] | None,
        criterion: str,
        scope: str | None,
        sparsity: float,
    ) -> None:
        sparsity = checks.number(sparsity, "sparsity", low=0, high=0.99)
        named = checks.classes(classes)
        checks.images_and_labels(x, labels)
        # a copy, because another thread runs it while the user works with the original
        self._model = copy_of(model).eval()
        self._x, self._labels = x, labels.tolist()
        self._scope = scope or registered(criterion).scope
        self._criterion, self._scores = criterion, score(model, criterion)
        self.batches = fast_batches(batches, model=self._model)
        self._batches_line = batches_line(batches)
        self._images = x.detach().float().cpu().numpy()
        checked_images(self._images, self._labels, self._labels)  # raises if they cannot be drawn
        self._uris = svg.image_uris(self._images)
        numbers = [str(c) for c in range(max(self._labels, default=0) + 1)]
        self._classes = numbers if named is None else named
        super().__init__()
        row, slider = self.slider("sparsity", sparsity, 0.0, 0.99, 0.01)
        self.start({"sparsity": row}, {"sparsity": slider})

    def answer(self, moved: str) -> dict[str, Any]:
        plan = select(self._scores, sparsity=self.controls["sparsity"].rounded, scope=self._scope)
        pruned = mask(self._model, plan)
        self._pruned, self._predictions = pruned, predict(pruned, self._x).tolist()
        return {
            "sparsity": plan.sparsity,
            "accuracy": None,
            "predictions": [self._name(c) for c in self._predictions],
            "plan": plan,
        }

    def later(self, result: dict[str, Any]) -> Work:
        pruned = self._pruned
        return lambda token: {"accuracy": accuracy(pruned, token.through(self.batches))}

    def show(self, result: dict[str, Any]) -> tuple[str, str]:
        names, right = result["predictions"], result["accuracy"]
        where = {"layer": "in each layer", "global": "over all layers"}[self._scope]
        sentence = (
            f"Sparsity {result['sparsity']:.2f} {where}: {_correct(self._predictions, self._labels)} of {len(names)} "
            f"images right{'' if right is None else f', accuracy {right:.0%}'}. "
            f"The network says: {', '.join(names)}."
        )
        picture = svg.strip(
            self._uris,
            labels=self._labels,
            predictions=self._predictions,
            classes=self._names(),
            label=sentence,
        )
        return picture, sentence

    def draw(self, result: dict[str, Any]) -> Figure:
        with figure(1.1 * len(self._uris), 1.5) as (fig, ax):
            plot_strip(
                self._images,
                labels=self._labels,
                predictions=self._predictions,
                classes=self._names(),
                ax=ax,
            )
        return fig

    def to_python(self) -> str:
        return (
            f"import pruneviz as pv\n\n{self._batches_line}"
            f"scores = pv.score(model, {self._criterion!r})\n"
            f"plan = pv.select(scores, sparsity={self.controls['sparsity'].rounded!r}, "
            f"scope={self._scope!r})\n"
            "pruned = pv.mask(model, plan)\n"
            "print(pv.predict(pruned, x), pv.accuracy(pruned, batches))\n"
        )

    def _names(self) -> list[str]:
        return [self._name(c) for c in range(max([*self._predictions, *self._labels]) + 1)]

    def _name(self, c: int) -> str:
        return self._classes[c] if c < len(self._classes) else str(c)


def _correct(predictions: list[int], labels: list[int]) -> int:
    return sum(s == y for s, y in zip(predictions, labels, strict=True))

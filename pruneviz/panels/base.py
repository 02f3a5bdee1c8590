"""The one base of all panels."""

from __future__ import annotations

import base64
import io
import threading
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.panels.slider import Slider
from pruneviz.plots.style import PRUNED, readable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Panel(widgets.VBox):
    """Controls, and one picture that answers while they move.

    A panel is a `VBox`: a notebook shows it, and it can stand inside other widgets. On paper and on
    GitHub it leaves a static picture and a sentence.

    Attributes
    ----------
    controls : dict of str to Widget
        By name; setting ``panel.controls["sparsity"].value`` does what a hand on the slider does.
    result : dict
        Plain data: what the present state of the controls gives.
    sentence : str
        The same in one sentence: what a screen reader says of the picture.

    Notes
    -----
    A subclass builds its controls, calls :meth:`start`, and defines :meth:`answer` and
    :meth:`figure`. An error in :meth:`answer` is shown in the panel, in words, and raised.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> panel = pv.panel_weights(torch.nn.Linear(20, 20))
    >>> panel.controls["sparsity"].value = 0.5
    >>> panel.result["sparsity"]
    0.5
    >>> panel.close()
    """

    def __init__(self) -> None:
        super().__init__()
        self.controls: dict[str, widgets.Widget] = {}
        self.result: dict[str, Any] = {}
        self.sentence = ""
        self.uid = f"pv{self.model_id[:8]}"
        # callbacks may come in another thread, even while a cell runs (ipykernel ≥ 7)
        self._lock = threading.RLock()
        self._busy = False
        self._links: list[Any] = []
        self._view = widgets.HTML()
        self._alert = widgets.HTML()
        _register(self)

    def start(self, rows: dict[str, widgets.Widget], controls: dict[str, widgets.Widget]) -> None:
        """Show the rows above the picture, listen to the controls, and answer for the first time."""
        self.controls = controls
        self.children = (*rows.values(), self._view, self._alert)
        for name, control in controls.items():
            control.observe(lambda change, name=name: self._moved(name), "value")
        try:
            self._moved("")
        except BaseException:
            self.close()
            raise

    def answer(self, moved: str) -> tuple[dict[str, Any], str, str]:
        """Return (result, HTML of the picture, sentence) for the controls as they stand.

        Parameters
        ----------
        moved : str
            Name of the control that moved; ``""`` at the start.
        """
        raise NotImplementedError

    def figure(self) -> Figure:
        """Return a static matplotlib picture of the present state; pyplot does not know of it."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the panel and everything in it; a second time does nothing."""
        # ipywidgets closes what is collected too, even a panel whose making had failed
        links = self.__dict__.get("_links", [])
        while links:
            links.pop().unlink()
        for widget in _inside(self):
            if widget is not self:
                widget.close()
        super().close()

    def slider(
        self, label: str, value: float, low: float, high: float, step: float, digits: int = 2
    ) -> tuple[widgets.HBox, Slider]:
        """Return a row with a labelled number field and a slider that follow each other; the slider.

        The handle of a slider has no name that a screen reader could say; the field has.
        """
        slider = Slider(
            value, min=low, max=high, step=step, readout=False, layout={"width": "420px"}
        )
        field = widgets.BoundedFloatText(
            slider.value, min=low, max=high, step=step, description=label, layout={"width": "180px"}
        )
        # linked here and not in the browser, which would show 0.47000000000000003
        link = widgets.dlink((slider, "value"), (field, "value"), lambda v: round(v, digits))
        field.observe(lambda change: self._typed(slider, change["new"], digits), "value")
        self._links.append(link)
        return widgets.HBox([field, slider]), slider

    def _typed(self, slider: Slider, value: float, digits: int) -> None:
        if value != round(slider.value, digits):
            slider.value = value

    def put(self, name: str, value: float) -> None:
        """Set another slider, to the nearest of its steps, without answering to it."""
        slider = self.controls[name]
        before, self._busy = self._busy, True
        try:
            slider.value = slider.min + round((value - slider.min) / slider.step) * slider.step
        finally:
            self._busy = before

    def _moved(self, name: str) -> None:
        with self._lock:
            if self._busy:
                return
            try:
                self.result, picture, self.sentence = self.answer(name)
            except Exception as e:
                self.result = {}
                self._alert.value = (
                    f'<p role="alert" style="color: {PRUNED}; white-space: pre-wrap">'
                    f"⚠ {escape(f'{type(e).__name__}: {e}')}</p>"
                )
                raise
            self._view.value = f"{picture}<p>{escape(self.sentence)}</p>"
            if self._alert.value:
                self._alert.value = ""

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Add to the widget what remains without it: a picture, and the sentence as its text."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        with self._lock:
            data["image/png"] = png(self.figure())
            data["text/plain"] = self.sentence
        return data, {**metadata, "image/png": {"alt": self.sentence}}


def png(figure: Figure, dpi: int = 110) -> str:
    """Return a figure as a PNG in base64, to be read on light and on dark pages."""
    file = io.BytesIO()
    readable(figure).savefig(file, format="png", dpi=dpi, transparent=True)
    return base64.b64encode(file.getvalue()).decode()


def _inside(widget: widgets.Widget) -> list[widgets.Widget]:
    """Return a widget with all that belongs to it: children, layouts, styles."""
    found = [widget, getattr(widget, "layout", None), getattr(widget, "style", None)]
    for child in getattr(widget, "children", None) or ():
        found += _inside(child)
    return [w for w in found if isinstance(w, widgets.Widget)]


# panels by notebook cell: running a cell again closes what its last run had shown
_by_cell: dict[str, tuple[str, list[Panel]]] = {}


def _register(panel: Panel) -> None:
    cell, run = _cell()
    if not cell:
        return
    last, panels = _by_cell.get(cell, ("", []))
    if last != run:
        for old in panels:
            old.close()
        panels = []
    _by_cell[cell] = (run, [*panels, panel])


def _cell() -> tuple[str, str]:
    """Return the id of the running notebook cell and of this run of it; ("", "") elsewhere."""
    try:
        from IPython import get_ipython

        parent = get_ipython().get_parent()
        return parent["metadata"]["cellId"], parent["header"]["msg_id"]
    except (ImportError, AttributeError, KeyError, TypeError):
        return "", ""

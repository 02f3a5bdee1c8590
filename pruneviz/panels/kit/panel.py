"""The one base of all panels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.model.hooks import beside
from pruneviz.panels.kit.cells import inside, register
from pruneviz.panels.kit.history import History, State
from pruneviz.panels.kit.html import png
from pruneviz.panels.kit.origin import by_hand, moved_by_hand
from pruneviz.panels.kit.pointer import Touch, Touched
from pruneviz.panels.kit.slider import Slider, labelled
from pruneviz.panels.kit.toolbar import Toolbar
from pruneviz.panels.kit.worker import GoOn, Job, later
from pruneviz.plots.style import PRUNED

if TYPE_CHECKING:
    from matplotlib.figure import Figure


WRAP = {"flex_flow": "row wrap"}  # on a narrow page
Work = Callable[[GoOn], dict[str, Any]]


class Panel(Touched):
    """Controls, and one picture that answers while they move.

    A panel is a `VBox`: a notebook shows it, and it can stand inside other widgets. On paper and on
    GitHub it leaves a static picture and a sentence.

    What is quick follows the hand; what needs the network follows when the hand rests, and does not
    hold up its next move. Code waits for neither: after ``panel.controls["sparsity"].value = 0.5``
    all is measured.

    Attributes
    ----------
    controls : dict of str to Widget
        By name; setting ``panel.controls["sparsity"].value`` does what a hand on the slider does.
    saved : dict of str to dict
        Plans to come back to, by name: the values of the controls.
    memory : dict
        What else a subclass must know of a state to come back to it.

    Notes
    -----
    A subclass builds its controls, calls :meth:`start`, and defines :meth:`answer`, :meth:`show`,
    :meth:`draw` and :meth:`to_python`; if something takes long, :meth:`later`; if the picture itself
    can be dragged or clicked, :meth:`touched`. It runs only models that are its own: another thread
    may be at work. An error in any of them is shown in the panel,
    in words, and raised.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> panel = pv.panel_weights(torch.nn.Linear(20, 20))
    >>> panel.controls["sparsity"].value = 0.5
    >>> panel.result["sparsity"]
    0.5
    >>> panel.undo()
    >>> panel.result["sparsity"]
    0.0
    >>> panel.close()
    """

    def __init__(self) -> None:
        super().__init__()
        self.controls: dict[str, widgets.Widget] = {}
        self.saved: dict[str, State] = {}
        self.uid = f"pv{self.model_id[:8]}"
        # callbacks may come in another thread, even while a cell runs (ipykernel ≥ 7)
        self._lock = threading.RLock()
        self._busy = False
        self._gripped = False  # whether the hand in the picture came down on something
        self._held = False  # whether it drags that
        self.memory: State = {}
        # whether nothing of what `later` gives is seen: then it is done when somebody asks for it
        self.lazy = False
        self._result: dict[str, Any] = {}
        self._sentence = self._drawn_html = ""
        self._error: Exception | None = None
        self._job: Job | None = None
        self._history: History | None = None
        self._toolbar: Toolbar | None = None
        self._links: list[Any] = []
        self._view = widgets.HTML()
        self._view.add_class("pv-picture")
        self._alert = widgets.HTML()
        self.add_class("pv-panel")
        register(self)

    def start(
        self,
        rows: dict[str, widgets.Widget],
        controls: dict[str, widgets.Widget],
        *,
        hint: str = "",
    ) -> None:
        """Show the rows above the picture, listen to the controls, and answer for the first time.

        `hint` stands below the picture: what a hand can do in it, and what else always holds.
        """
        self.controls = controls
        notes = [widgets.HTML(f'<p class="pv-hint">{escape(hint)}</p>')] if hint else []
        self.children = (*rows.values(), self._view, self._alert, *notes, Touch(self.touch))
        told = [w for row in rows.values() for w in inside(row) if hasattr(w, "value")]
        for widget in inside(self):
            by_hand(widget, told)
        for name, control in controls.items():
            control.observe(lambda change, name=name: self._moved(name), "value")
        try:
            self._moved("")
            self._history = History(self.state())
            self._toolbar = Toolbar(self)
            for widget in inside(self._toolbar):
                by_hand(widget)
            self.children = (*self.children, self._toolbar)
        except BaseException:
            self.close()
            raise

    def answer(self, moved: str) -> dict[str, Any]:
        """Return the result for the controls as they stand, as far as it is quick.

        Parameters
        ----------
        moved : str
            Name of the control that moved; ``""`` at the start and after an undo.
        """
        raise NotImplementedError

    def later(self, result: dict[str, Any]) -> Work | None:
        """Return what is not quick: ``work(go_on)`` measures, and returns what to add to the result.

        Now and then it calls ``go_on()``, which raises if the hand moved again; ``go_on.tell(part)``
        shows a part that is there. It reads no control. None: all is there.
        """
        return None

    def show(self, result: dict[str, Any]) -> tuple[str, str]:
        """Return HTML of the picture, and the sentence that says the same."""
        raise NotImplementedError

    def draw(self, result: dict[str, Any]) -> Figure:
        """Return a static matplotlib picture; the result is empty after an error."""
        raise NotImplementedError

    def to_python(self) -> str:
        """Return the code that does without the panel what its controls now say.

        It uses the names of the arguments of the panel's function: ``model``, ``batches``, …
        """
        raise NotImplementedError

    @property
    def result(self) -> dict[str, Any]:
        """Plain data: what the present state of the controls gives. Waits for what is measured."""
        self._finish()
        return self._result

    @property
    def sentence(self) -> str:
        """The same in one sentence: what a screen reader says of the picture."""
        if not self.lazy:
            self._finish()
        return self._sentence

    def figure(self) -> Figure:
        """Return a static matplotlib picture of the present state; pyplot does not know of it."""
        if not self.lazy:
            self._finish()
        with self._lock:
            return self.draw(self._result)

    def close(self) -> None:
        """Close the panel and everything in it; a second time does nothing."""
        # ipywidgets closes what is collected too, even a panel whose making had failed
        job = self.__dict__.get("_job")
        if job is not None:
            job.drop()
        links = self.__dict__.get("_links", [])
        while links:
            links.pop().unlink()
        for widget in inside(self):
            if widget is not self:
                widget.close()
        super().close()

    def slider(
        self, label: str, value: float, low: float, high: float, step: float, digits: int = 2
    ) -> tuple[widgets.HBox, Slider]:
        """Return a row with a labelled number field and a slider that follow each other; the slider.

        A screen reader says the name of the field, and of the handle what `Toolbar` gives it.
        """
        field, slider, link = labelled(label, value, low, high, step, digits)
        self._links.append(link)
        return self.row(field, slider), slider

    def row(self, *parts: widgets.Widget) -> widgets.HBox:
        """Return a row that wraps on a narrow page."""
        return widgets.HBox(parts, layout=WRAP)

    def put(self, name: str, value: float) -> None:
        """Set another slider, to the nearest of its steps, and its field, without answering to it."""
        slider = self.controls[name]
        before, self._busy = self._busy, True
        try:
            slider.put(value)
        finally:
            self._busy = before

    def _moved(self, name: str | None) -> None:
        """Answer to a control that moved; None: to a step in the history."""
        hand = moved_by_hand()
        # widgets answer in a thread of their own, if they can: a cell may be training meanwhile
        elsewhere = threading.current_thread() is not threading.main_thread()
        with self._lock, beside() if hand and elsewhere else nullcontext():
            if self._busy:
                return
            if self._job is not None:
                self._job.drop()
            self._job, self._error = None, None
            try:
                self._result = self.answer(name or "")
                work = self.later(self._result)
                self._note(name, hand)
                if work is None or hand or self.lazy:
                    self._publish(waiting=work is not None and not self.lazy)
            except Exception as e:
                self._note(name, hand)
                self._fail(e)
                self._error = None  # it is raised here
                raise
            finally:
                if name is not None:  # steps in the history are followed when they are done
                    self._refresh()
            if self._alert.value:
                self._alert.value = ""
            if work is not None:
                self._job = Job(work, self._measured, self._told if hand else None)
                if hand and not self.lazy:
                    later(self._job)
        if not hand and not self.lazy:
            self._finish()

    def _told(self, job: Job, more: dict[str, Any]) -> None:
        """Show a part of what is measured."""
        with self._lock:
            if job is self._job:
                self._result = {**self._result, **more}
                self._publish(waiting=True)
                self._recode()

    def _measured(self, job: Job, more: Any, error: Exception | None) -> None:
        """Take in what was measured, unless the hand has moved on."""
        with self._lock:
            if job is not self._job:
                return
            try:
                if error is not None:
                    raise error
                self._result = {**self._result, **more}
                self._publish()
            except Exception as e:
                self._fail(e)
            self._recode()

    def _finish(self) -> None:
        """Wait for what is measured; raise what went wrong."""
        job = self._job
        if job is not None:
            job.finish()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _publish(self, *, waiting: bool = False) -> None:
        picture, self._sentence = self.show(self._result)
        more = " <i>measuring…</i>" if waiting else ""
        self._drawn_html = f"{picture}<p>{escape(self._sentence)}</p>"
        self._view.value = f"{self._drawn_html.removesuffix('</p>')}{more}</p>"

    def _refresh(self) -> None:
        if self._toolbar is not None:
            self._toolbar.refresh()

    def _recode(self) -> None:
        """Let the code follow what was measured; a hand may be choosing a plan in this moment."""
        if self._toolbar is not None:
            self._toolbar.tell_code()

    def _fail(self, error: Exception) -> None:
        self._result, self._error = {}, error
        # the picture of before stays, pale, so that the page does not jump
        self._view.value = f'<div style="opacity: 0.3">{self._drawn_html}</div>'
        self._alert.value = (
            f'<p role="alert" style="white-space: pre-wrap"><b style="color: {PRUNED}">⚠</b> '
            f"{escape(f'{type(error).__name__}: {error}')}</p>"
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Add to the widget what remains without it: a picture, and the sentence as its text."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        data["image/png"] = png(self.figure())
        data["text/plain"] = self._sentence
        return data, {**metadata, "image/png": {"alt": self._sentence}}

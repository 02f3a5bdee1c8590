"""What all panels do: the base class, with controls, one picture, quick and slow results."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import nullcontext
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from pruneviz.model.hooks import in_background
from pruneviz.panels.kit.cells import register, widget_tree
from pruneviz.panels.kit.history import History, State
from pruneviz.panels.kit.html import png
from pruneviz.panels.kit.origin import mark_user_moves, moved_by_user
from pruneviz.panels.kit.pointer import PointerField, WithPointer
from pruneviz.panels.kit.slider import Slider, slider_with_field
from pruneviz.panels.kit.toolbar import Toolbar
from pruneviz.panels.kit.worker import CancelToken, Job, run_later
from pruneviz.plots.style import PRUNED

if TYPE_CHECKING:
    from matplotlib.figure import Figure


WRAP = {"flex_flow": "row wrap"}  # on a narrow page
Work = Callable[[CancelToken], dict[str, Any]]


class Panel(WithPointer):
    """Controls, and one picture that changes while the user moves them.

    A panel is a `VBox`: a notebook shows it, and other widgets can contain it. In print and on
    GitHub it is a static picture and a sentence.

    Quick results follow every move of the user. Results that need the network are measured when the
    control is idle, in the background, so that the next move need not wait. Code gets all results
    at once: after ``panel.controls["sparsity"].value = 0.5`` everything is measured.

    Attributes
    ----------
    controls : dict of str to Widget
        By name; setting ``panel.controls["sparsity"].value`` does what moving the slider does.
    saved : dict of str to dict
        Saved plans by name: the values of the controls.
    memory : dict
        What a subclass needs, besides the values of the controls, to restore a state.

    Notes
    -----
    A subclass builds its controls, calls :meth:`start`, and defines :meth:`answer`, :meth:`show`,
    :meth:`draw` and :meth:`to_python`; if a part of the result is slow, :meth:`later`; if the
    user can click or drag in the picture, :meth:`pointed`. A subclass runs only its own copies of
    models, because another thread may be at work. An error in any of these methods is shown in the
    panel as text, and raised.

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
        self.controls: dict[str, Any] = {}
        self.saved: dict[str, State] = {}
        self.uid = f"pv{self.model_id[:8]}"
        # callbacks may run in another thread, even while a cell runs (ipykernel ≥ 7)
        self._lock = threading.RLock()
        self._busy = False  # whether the panel itself sets controls: then it does not answer
        self._pressed_control = False  # whether the last press in the picture was on a control
        self._dragging = False  # whether the pointer drags that control now
        self.memory: State = {}
        # whether the picture shows no result of `later`: then the work is done when it is asked for
        self.lazy = False
        self._result: dict[str, Any] = {}
        self._sentence = self._drawn_html = ""
        self._error: Exception | None = None
        self._job: Job | None = None
        self._history: History | None = None
        self._toolbar: Toolbar | None = None
        self._links: list[Any] = []
        self.add_class("pv-panel")
        register(self)

    def start(
        self,
        rows: dict[str, widgets.Widget],
        controls: dict[str, widgets.Widget],
        *,
        hint: str = "",
    ) -> None:
        """Show the rows above the picture, observe the controls, and compute the first result.

        `hint` is shown below the picture: what the pointer can do there, and other lasting notes.
        """
        self._view = widgets.HTML()
        self._view.add_class("pv-picture")
        self._alert = widgets.HTML()
        notes = [widgets.HTML(f'<p class="pv-hint">{escape(hint)}</p>')] if hint else []
        self.children = (*rows.values(), self._view, self._alert, *notes, PointerField(self.touch))
        with_value = [w for row in rows.values() for w in widget_tree(row) if hasattr(w, "value")]
        for widget in widget_tree(self):
            mark_user_moves(widget, with_value)
        try:
            self._begin(controls)
            self._toolbar = Toolbar(self)
            for widget in widget_tree(self._toolbar):
                mark_user_moves(widget)
            self.children = (*self.children, self._toolbar)
        except BaseException:
            self.close()
            raise

    def _begin(self, controls: dict[str, Any]) -> None:
        """Observe the controls, and compute the first result."""
        self.controls = controls
        for name, control in controls.items():
            control.observe(lambda change, name=name: self._moved(name), "value")
        self._moved("")
        self._history = History(self.state())

    def answer(self, moved: str) -> dict[str, Any]:
        """Return the quick part of the result for the present values of the controls.

        Parameters
        ----------
        moved : str
            Name of the control that moved; ``""`` at the start and after an undo.
        """
        raise NotImplementedError

    def later(self, result: dict[str, Any]) -> Work | None:
        """Return the slow part: ``work(token)`` measures, and returns what to add to the result.

        The work calls ``token()`` now and then, which raises if the user has moved a control;
        ``token.report(part)`` shows a part that is ready. The work must not read controls: it runs
        in another thread. None: nothing is slow.
        """
        return None

    def show(self, result: dict[str, Any]) -> tuple[Any, str]:
        """Return HTML of the picture, and a sentence with the same content."""
        raise NotImplementedError

    def draw(self, result: dict[str, Any]) -> Figure:
        """Return a static matplotlib picture; the result is empty after an error."""
        raise NotImplementedError

    def to_python(self) -> str:
        """Return code that gets the present result without the panel.

        It uses the argument names of the panel's function: ``model``, ``batches``, …
        """
        raise NotImplementedError

    @property
    def result(self) -> dict[str, Any]:
        """The result for the present controls, as plain data. Waits for its slow part."""
        self._finish()
        return self._result

    @property
    def sentence(self) -> str:
        """The result in one sentence: the text of the picture for a screen reader."""
        if not self.lazy:
            self._finish()
        return self._sentence

    def figure(self) -> Figure:
        """Return a static matplotlib picture of the present state, without pyplot."""
        if not self.lazy:
            self._finish()
        with self._lock:
            return self.draw(self._result)

    def close(self) -> None:
        """Close the panel and everything in it; a second time does nothing."""
        # ipywidgets also closes a panel that is garbage-collected, even after a failed `__init__`
        job = self.__dict__.get("_job")
        if job is not None:
            job.cancel()
        links = self.__dict__.get("_links", [])
        while links:
            links.pop().unlink()
        for widget in widget_tree(self):
            if widget is not self:
                widget.close()
        super().close()

    def slider(
        self, label: str, value: float, low: float, high: float, step: float, digits: int = 2
    ) -> tuple[widgets.HBox, Slider]:
        """Return a row with a labelled number field and a slider, linked, and the slider.

        A screen reader reads the name of the field; `Toolbar` gives the handle the same name.
        """
        field, slider, link = slider_with_field(label, value, low, high, step, digits)
        self._links.append(link)
        return self.row(field, slider), slider

    def row(self, *parts: widgets.Widget) -> widgets.HBox:
        """Return a row that wraps on a narrow page."""
        return widgets.HBox(parts, layout=WRAP)

    def set_silently(self, name: str, value: float) -> None:
        """Set a slider to its nearest step, and its field, without computing a new result."""
        slider = self.controls[name]
        before, self._busy = self._busy, True
        try:
            slider.set_nearest(value)
        finally:
            self._busy = before

    def _moved(self, name: str | None) -> None:
        """Compute the result after a control moved; `name` None: after a step in the history."""
        by_user = moved_by_user()
        # callbacks run in a thread of their own where that is possible: a cell may be training
        other_thread = threading.current_thread() is not threading.main_thread()
        with self._lock, in_background() if by_user and other_thread else nullcontext():
            if self._busy:
                return
            if self._job is not None:
                self._job.cancel()
            self._job, self._error = None, None
            try:
                self._result = self.answer(name or "")
                work = self.later(self._result)
                self._note(name, by_user)
                if work is None or by_user or self.lazy:
                    self._publish(waiting=work is not None and not self.lazy)
            except Exception as e:
                self._note(name, by_user)
                self._fail(e)
                self._error = None  # it is raised here
                raise
            finally:
                if name is not None:  # `_set` refreshes after a step in the history
                    self._refresh()
            self._forget_error()
            if work is not None:
                self._job = Job(work, self._on_done, self._on_part if by_user else None)
                if by_user and not self.lazy:
                    run_later(self._job)
        if not by_user and not self.lazy:
            self._finish()

    def _on_part(self, job: Job, part: dict[str, Any]) -> None:
        """Show a part of the slow result."""
        with self._lock:
            if job is self._job:
                self._result = {**self._result, **part}
                self._publish(waiting=True)
                self._refresh_code()

    def _on_done(self, job: Job, measured: Any, error: Exception | None) -> None:
        """Add the slow result, unless a control has moved since."""
        with self._lock:
            if job is not self._job:
                return
            try:
                if error is not None:
                    raise error
                self._result = {**self._result, **measured}
                self._publish()
            except Exception as e:
                self._fail(e)
            self._refresh_code()

    def _finish(self) -> None:
        """Wait for the slow result; raise its error if there was one."""
        job = self._job
        if job is not None:
            job.finish()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _publish(self, *, waiting: bool = False) -> None:
        picture, self._sentence = self.show(self._result)
        note = " <i>measuring…</i>" if waiting else ""
        self._drawn_html = f"{picture}<p>{escape(self._sentence)}</p>"
        self._view.value = f"{self._drawn_html.removesuffix('</p>')}{note}</p>"

    def _forget_error(self) -> None:
        if self._alert.value:
            self._alert.value = ""

    def _refresh(self) -> None:
        if self._toolbar is not None:
            self._toolbar.refresh()

    def _refresh_code(self) -> None:
        """Update the code only: the user may be choosing a plan at this moment."""
        if self._toolbar is not None:
            self._toolbar.refresh_code()

    def _fail(self, error: Exception) -> None:
        self._result, self._error = {}, error
        # the earlier picture stays, pale, so that the page does not jump
        self._view.value = f'<div style="opacity: 0.3">{self._drawn_html}</div>'
        self._alert.value = (
            f'<p role="alert" style="white-space: pre-wrap"><b style="color: {PRUNED}">⚠</b> '
            f"{escape(f'{type(error).__name__}: {error}')}</p>"
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Add what is shown where widgets do not run: a picture, and the sentence as its text."""
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle, {})
        data["image/png"] = png(self.figure())
        data["text/plain"] = self._sentence
        return data, {**metadata, "image/png": {"alt": self._sentence}}

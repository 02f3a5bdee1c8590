"""How a panel is drawn in the browser: the kernel sends data, web/ draws it and moves it."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets

from pruneviz.panels.kit.controls import Control
from pruneviz.panels.kit.html import static_image
from pruneviz.panels.kit.origin import moved_by_user
from pruneviz.panels.kit.panel import Panel
from pruneviz.panels.kit.view import View

# It takes no room for as long as the module may need to draw: then the page would jump.
LATE = """<style>@keyframes pv-late { to { max-height: none; visibility: visible } }
.pv-late { max-height: 0; visibility: hidden; overflow: hidden; animation: pv-late 0s 2s forwards }
</style>"""


class WebPanel(Panel):
    """A panel whose picture the browser draws.

    A subclass calls :meth:`begin` instead of `start`, and `show` returns data instead of HTML. The
    browser answers moves of the user itself where `table` tells it how; the kernel hears of them
    ten times a second, and its answer is exact. Where no module can be loaded, a still picture and
    the sentence are shown.

    Attributes
    ----------
    view : View
        The part in the browser, alone: ``mo.ui.anywidget(panel.view)`` shows it in marimo.
    kind : str
        Which of the panels of ``web/index.js`` draws it.
    """

    kind = ""

    def begin(
        self, controls: dict[str, Control], *, data: dict[str, Any], table: bytes = b""
    ) -> None:
        """Observe the controls, compute the first result, and make the view."""
        self._shown: dict[str, Any] = {"result": {}, "sentence": "", "waiting": False, "error": ""}
        self._answered: dict[str, Any] | None = None  # the state to which that is the answer
        self._drag = 0
        self._is_displayed = self._is_drawn = False
        self._still = widgets.HTML()
        self._still.add_class("pv-still")
        described = {n: c.described() for n, c in controls.items()}
        state = {**self.memory, **{n: c.value for n, c in controls.items()}}
        self.view = View(
            self._lock,
            self._take,
            self._obey,
            kind=self.kind,
            data={"controls": described, **data},
            table=table,
            state=state,
        )
        self.children = (self._still, self.view)
        try:
            self._begin(controls)
            self._refresh()
        except BaseException:
            self.close()
            raise

    def show(self, result: dict[str, Any]) -> tuple[Any, str]:
        """Return what the browser draws, as plain data, and a sentence with the same content."""
        raise NotImplementedError

    def set_silently(self, name: str, value: float) -> None:
        """Set a control without computing a new result."""
        before, self._busy = self._busy, True
        try:
            self.controls[name].value = value
        finally:
            self._busy = before

    def _take(self, state: dict[str, Any]) -> None:
        """Do what the user did in the browser."""
        self._dragging = bool(state["drag"])
        if self._history is not None and state["drag"] != self._drag:
            self._history.end_move()
        self._drag = state["drag"]
        before, self._busy = self._busy, True
        try:
            self.memory = {name: state[name] for name in self.memory}
            for name, control in self.controls.items():
                control.value = state[name]
        finally:
            self._busy = before
        try:
            self._moved(state["moved"])
        finally:
            self._dragging = False

    def _obey(self, message: dict[str, Any]) -> None:
        """Do what a button in the browser asks for."""
        what = message["do"]
        if what == "drawn":
            self._is_drawn = True
            self._still.value = ""
        elif what == "undo":
            self.undo()
        elif what == "redo":
            self.redo()
        elif what == "save":
            self.save(message["name"].strip() or f"plan {len(self.saved) + 1}")
        elif what == "load":
            self.load(message["name"])

    def _publish(self, *, waiting: bool = False) -> None:
        result, self._sentence = self.show(self._result)
        self._answered = self.state()
        self._shown = {
            "result": result,
            "sentence": self._sentence,
            "waiting": waiting,
            "error": "",
        }
        self._tell()
        if self._is_displayed and not (self._is_drawn or moved_by_user()):
            self._draw_still()

    def _refresh(self) -> None:
        self._tell()

    def _refresh_code(self) -> None:
        self._tell()

    def _forget_error(self) -> None:
        self._shown["error"] = ""

    def _fail(self, error: Exception) -> None:
        self._result, self._error = {}, error
        text = f"{type(error).__name__}: {error}"
        self._shown = {**self._shown, "error": text, "waiting": False}
        self._tell()

    def _tell(self) -> None:
        """Send the browser what has changed."""
        state, (undo, redo) = self.state(), self.steps()
        plan = next((n for n, saved in self.saved.items() if saved == state), "")
        bar = {"undo": undo, "redo": redo, "saved": list(self.saved), "plan": plan}
        shown = {**self._shown, **bar, "code": self.to_python()}
        self.view.tell(state, shown, shown_is_new=state == self._answered)

    def _draw_still(self, image: str = "") -> None:
        image = image or static_image(self.draw(self._result), self._sentence)
        self._still.value = (
            f'{LATE}<div class="pv-late">{image}<p>{escape(self._sentence)}</p></div>'
        )

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        """Add the still picture, and draw it below the view, too: a module may not load."""
        data, metadata = super()._repr_mimebundle_(**kwargs)
        source = f"data:image/png;base64,{data['image/png']}"
        self._draw_still(
            f'<img alt="{escape(self._sentence)}" src="{source}" style="max-width: 100%">'
        )
        self._is_displayed = True
        return data, metadata

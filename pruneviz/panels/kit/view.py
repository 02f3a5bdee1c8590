"""How a panel and its picture in the browser stay one: an AnyWidget with one state, two writers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import anywidget
from traitlets import Bytes, Dict, Unicode

from pruneviz.panels.kit.origin import user_move

BUNDLE = Path(__file__).parents[1] / "static" / "panels.js"
# Each AnyWidget is sent its `_esm` and imports it anew, and no browser frees a module. So `_esm` is
# this loader; the bundle is a trait, and a page imports it once.
LOADER = """
const load = text => import(URL.createObjectURL(new Blob([text], {type: "text/javascript"})));
const bundle = m => globalThis["pruneviz " + m.get("version")] ??= load(m.get("web"));
export default {render: async c => (await bundle(c.model)).default.render(c)};
"""
Message = dict[str, Any]


@cache
def bundle() -> tuple[str, str]:
    """Return the JavaScript of all panels, and its version: the first line says it.

    >>> text, version = bundle()
    >>> text.startswith(f"/* pruneviz panels {version} */")
    True
    """
    text = BUNDLE.read_text(encoding="utf-8")
    return text, text.split(maxsplit=4)[3]


class View(anywidget.AnyWidget):
    """What the browser knows of a panel.

    The kernel and the browser both write `state`: the values of the controls, and a clock (Lamport's).
    ``n`` grows with every move, ``who`` moved. The newer state wins, on both sides; of equal ones
    the kernel's. Who gets an older one sends its own again. What ipywidgets echoes does most of
    this; the clock also holds where a host sends no echoes.

    Parameters
    ----------
    lock : RLock
        The panel's: with subshells the browser's messages come in another thread than the cell.
    on_state : callable
        ``on_state(state)``: the user has moved.
    on_command : callable
        ``on_command(message)``: a button; ``message["do"]`` says which.
    **traits
        ``kind`` (which panel), ``data`` and ``table`` (what it draws), ``state``.
    """

    _esm = LOADER
    web = Unicode().tag(sync=True)
    version = Unicode().tag(sync=True)
    kind = Unicode().tag(sync=True)
    data = Dict().tag(sync=True)
    table = Bytes().tag(sync=True)
    state = Dict().tag(sync=True)
    shown = Dict().tag(sync=True)

    def __init__(
        self,
        lock: threading.RLock,
        on_state: Callable[[Message], None],
        on_command: Callable[[Message], None],
        **traits: Any,
    ) -> None:
        self._lock, self._on_state, self._on_command = lock, on_state, on_command
        web, version = bundle()
        clock = {"n": 0, "who": "kernel", "moved": "", "drag": 0}
        traits["state"] = {**traits["state"], **clock}
        super().__init__(web=web, version=version, **traits)
        self.on_msg(self._asked)

    def set_state(self, sync_data: Message) -> None:
        """Take what the browser sent, unless the kernel's state is newer."""
        with self._lock:
            theirs = sync_data.get("state")
            newer = theirs is not None and _clock(theirs) > _clock(self.state)
            if not newer:
                sync_data = {n: v for n, v in sync_data.items() if n != "state"}
                if theirs is not None:
                    self.send_state("state")
            super().set_state(sync_data)
            if newer:
                with user_move():
                    self._on_state(self.state)

    def tell(self, values: Message, shown: Message, *, shown_is_new: bool) -> None:
        """Say where the controls stand and what is shown there, in one message.

        `shown_is_new`: whether it is the answer to these values; if not, the browser answers
        itself, as far as it can.
        """
        with self._lock, self.hold_sync():
            if any(self.state[n] != v for n, v in values.items()):
                clock = {"n": self.state["n"] + 1, "who": "kernel", "moved": "", "drag": 0}
                self.state = {**self.state, **values, **clock}
            self.shown = {**shown, "n": self.state["n"] if shown_is_new else -1}

    def _asked(self, _: Any, message: Message, buffers: Any) -> None:
        # a message overtakes a state that ipywidgets holds back, so it brings the state with it
        if "do" not in message:
            return
        if "state" in message:
            self.set_state({"state": message["state"]})
        with self._lock, user_move():
            self._on_command(message)


def _clock(state: Message) -> tuple[int, str]:
    return state["n"], state["who"]

"""Which buttons stand under every panel: undo, redo, the code, and saved plans."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets

from pruneviz.panels.kit.origin import user_move
from pruneviz.panels.kit.pointer import SCRIPT

SAVED = "saved"
ROW = {"flex_flow": "row wrap", "align_items": "center"}
# JupyterLab uses letters and arrow keys as shortcuts (dd deletes a cell), also while a drop-down
# has the focus. Inside a panel these keys belong to the panel; Ctrl+S and the like stay shortcuts.
# The attribute must be on the element that has the focus: on a parent it takes effect too late.
KEYS = """
if (!window.pvKeys) {
  window.pvKeys = true;
  window.addEventListener('keydown', e => {
    if (e.target.closest?.('.pv-panel'))
      e.target.toggleAttribute('data-lm-suppress-shortcuts', !(e.ctrlKey || e.metaKey || e.altKey));
    const name = e.key === 'Enter' && e.target.closest?.('.pv-save-as input');
    if (name && name.value) {  // ipywidgets sends Enter before it sends the typed text
      name.dispatchEvent(new Event('change', {bubbles: true}));
      name.closest('.pv-toolbar').querySelector('.pv-save').click();
    }
  }, true);
}"""
# When a button with the focus is disabled, the focus would be lost: move it to an enabled button.
FOCUS = """
const bar = this.closest('.pv-toolbar');
if (bar && !bar.pvFocus) {
  bar.pvFocus = new MutationObserver(changes => changes.forEach(({target}) => {
    if (target.disabled && target === document.activeElement)
      bar.querySelector('.pv-step:enabled')?.focus();
  }));
  bar.pvFocus.observe(bar, {subtree: true, attributeFilter: ['disabled']});
}"""
# A slider's handle has no name for a screen reader: it gets the name of the field beside it.
NAMES = """
const panel = this.closest('.pv-panel');
if (panel && !panel.pvNames) {
  panel.setAttribute('role', 'group');
  panel.setAttribute('aria-label', this.dataset.name);
  const said = document.createElement('div');  // never replaced, so a screen reader hears changes
  said.setAttribute('aria-live', 'polite');
  said.className = 'pv-said';
  panel.append(said);
  panel.pvNames = () => {
    panel.querySelectorAll('.noUi-handle').forEach(e => {
      const row = e.closest('.widget-hbox'), label = row?.querySelector('.widget-label');
      if (label) e.setAttribute('aria-label', label.textContent);
      const field = row?.querySelector('input');
      if (field) e.setAttribute('aria-valuetext', field.value);
    });
    const now = [...panel.querySelectorAll('.pv-picture p')].at(-1)?.textContent ?? '';
    if (!now.includes('measuring…') && said.textContent !== now) said.textContent = now;
  };
  panel.pvNames();
  new MutationObserver(panel.pvNames).observe(panel, {childList: true, subtree: true});
}"""
# In the dark theme JupyterLab draws the arrow of a drop-down black on black.
ARROW = (
    "%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 18 18'%3E"
    "%3Cpath fill='%23ccc' d='M5.2 5.9 9 9.7l3.8-3.8 1.2 1.2-4.9 5-4.9-5z'/%3E%3C/svg%3E"
)
LOOKS = f"""
.pv-panel .widget-html-content {{ line-height: 1.5 }}
.pv-picture {{ margin-top: 10px }}
.pv-picture p {{ margin: 6px 0 }}
.pv-hint {{ margin: 0; opacity: 0.75; font-size: 92% }}
.pv-said {{ position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%) }}
[data-jp-theme-light="false"] .pv-panel {{ --jp-widgets-dropdown-arrow: url("data:image/svg+xml,{ARROW}") }}
"""
# A <script> in a widget does not run; the `onload` of a <style> does.
ONLOAD = f'<style data-name="%s" onload="{escape(KEYS + FOCUS + NAMES + SCRIPT)}">{LOOKS}</style>'
COPY = (
    "var t=this.parentNode.querySelector('textarea');t.select();"
    "navigator.clipboard?navigator.clipboard.writeText(t.value):document.execCommand('copy');"
    "this.textContent='copied'"
)


class Toolbar(widgets.VBox):
    """Buttons that call the panel's own methods: ``undo``, ``redo``, ``save``, ``load``."""

    def __init__(self, panel: Any) -> None:
        self._panel = panel
        self._loading = False
        self.undo = _button("undo", "take the last move back", panel.undo)
        self.redo = _button("redo", "do it again", panel.redo)
        self.name = widgets.Text(
            placeholder="a name",
            description="save as",
            continuous_update=False,  # else "save" may be pressed before the last letters arrive
            layout={"width": "210px"},
        )
        self.save = _button("save", "keep where the controls stand, to come back", self._save)
        self.plans = widgets.Dropdown(
            options=[(SAVED, "")], description="go to", layout={"width": "240px"}
        )
        self.code = widgets.ToggleButton(
            False,
            description="code",
            tooltip="the code that does the same",
            layout={"width": "76px"},
        )
        self.name.add_class("pv-save-as")
        self.save.add_class("pv-save")
        for button in (self.undo, self.redo):
            button.add_class("pv-step")
        self._text = widgets.HTML()
        row = [self.undo, self.redo, self.code, self.name, self.save, self.plans]
        name = type(panel).__name__.removesuffix("Panel").lower()
        keys = widgets.HTML(ONLOAD.replace("%s", f"{name} panel"), layout={"display": "none"})
        super().__init__([widgets.HBox(row, layout=ROW), self._text, keys])
        self.add_class("pv-toolbar")
        self.plans.observe(self._load, "value")
        self.code.observe(lambda _: self.refresh_code(), "value")
        self.refresh()

    def refresh(self) -> None:
        """Update the buttons after a move, the list of plans, and the code if it is shown."""
        can_undo, can_redo = self._panel.steps()
        # enable a button before the other is disabled: the focus may move to the enabled one
        buttons = ((self.undo, can_undo), (self.redo, can_redo))
        for button, enabled in sorted(buttons, key=lambda b: not b[1]):
            button.disabled = not enabled
        saved = self._panel.saved
        options = ((SAVED, ""), *((n, n) for n in saved))
        # a plan stays selected while the controls have its values, so that the arrow keys go from
        # plan to plan
        selected = self.plans.value
        wanted = selected if saved.get(selected) == self._panel.state() else ""
        if (self.plans.options, selected) != (options, wanted):
            self._loading = True
            try:
                if self.plans.options != options:
                    self.plans.options = options
                self.plans.value = wanted
            finally:
                self._loading = False
        self.refresh_code()

    def refresh_code(self) -> None:
        """Update the code if it is shown, and nothing else: the user may be choosing a plan now."""
        text = _shown(self._panel.to_python()) if self.code.value else ""
        if self._text.value != text:
            self._text.value = text

    def _save(self) -> None:
        self._panel.save(self.name.value.strip() or f"plan {len(self._panel.saved) + 1}")
        self.name.value = ""

    def _load(self, change: dict[str, Any]) -> None:
        with self._panel._lock:  # else `_loading` may be True for a refresh in another thread
            if not self._loading and change["new"]:
                self._panel.load(change["new"])


def _button(label: str, tooltip: str, action: Any) -> widgets.Button:
    button = widgets.Button(description=label, tooltip=tooltip, layout={"width": "76px"})

    def click(_: Any) -> None:
        with user_move():
            action()

    button.on_click(click)
    return button


def _shown(code: str) -> str:
    """Return the code as HTML, to read and to copy; names in it are escaped."""
    lines = code.count("\n") + 1
    return (
        f'<div><textarea readonly rows="{lines}" wrap="off" spellcheck="false" '
        'aria-label="code that does the same" style="font-family: monospace; width: 100%; max-width: 640px; '
        'box-sizing: border-box; color: inherit; background: transparent">'
        f'{escape(code)}</textarea><br><button type="button" onclick="{COPY}">copy the code</button>'
        "</div>"
    )

"""The row of buttons under every panel: undo, redo, plans to come back to, the code."""

from __future__ import annotations

from html import escape
from typing import Any

import ipywidgets as widgets

from pruneviz.panels.kit.origin import hand
from pruneviz.panels.kit.pointer import SCRIPT

SAVED = "saved"
ROW = {"flex_flow": "row wrap", "align_items": "center"}
# JupyterLab takes letters and arrow keys for its own shortcuts (dd deletes a cell), also from a
# drop-down that has the focus: inside a panel they belong to the panel, but not Ctrl+S and its like.
# The attribute must stand on what has the focus; on a parent it comes too late.
KEYS = """
if (!window.pvKeys) {
  window.pvKeys = true;
  window.addEventListener('keydown', e => {
    if (e.target.closest?.('.pv-panel'))
      e.target.toggleAttribute('data-lm-suppress-shortcuts', !(e.ctrlKey || e.metaKey || e.altKey));
    const name = e.key === 'Enter' && e.target.closest?.('.pv-save-as input');
    if (name && name.value) {  // ipywidgets tells of Enter before it tells what was typed
      name.dispatchEvent(new Event('change', {bubbles: true}));
      name.closest('.pv-toolbar').querySelector('.pv-save').click();
    }
  }, true);
}"""
# a button that is pressed for the last time must not take the focus with it into nothing
FOCUS = """
const bar = this.closest('.pv-toolbar');
if (bar && !bar.pvFocus) {
  bar.pvFocus = new MutationObserver(changes => changes.forEach(({target}) => {
    if (target.disabled && target === document.activeElement)
      bar.querySelector('.pv-step:enabled')?.focus();
  }));
  bar.pvFocus.observe(bar, {subtree: true, attributeFilter: ['disabled']});
}"""
# the handle of a slider has no name that a screen reader could say: it gets that of the field beside it
NAMES = """
const panel = this.closest('.pv-panel');
if (panel && !panel.pvNames) {
  panel.setAttribute('role', 'group');
  panel.setAttribute('aria-label', this.dataset.name);
  const said = document.createElement('div');  // stays, so that a screen reader hears it change
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
# JupyterLab's own arrow of a drop-down is black on black in the dark theme
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
# a <script> would not run
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
        self.code.observe(lambda _: self.tell_code(), "value")
        self.refresh()

    def refresh(self) -> None:
        """Follow a move: what can be undone, which plans there are, the code if it is shown."""
        back, forth = self._panel.steps()
        # first the one that can be pressed now: the focus may have to go there
        for button, can in sorted(((self.undo, back), (self.redo, forth)), key=lambda b: not b[1]):
            button.disabled = not can
        saved = self._panel.saved
        options = ((SAVED, ""), *((n, n) for n in saved))
        # the plan where the controls stand; so the arrow keys go from plan to plan
        at = self.plans.value
        here = at if saved.get(at) == self._panel.state() else ""
        if (self.plans.options, at) != (options, here):
            self._loading = True
            try:
                if self.plans.options != options:
                    self.plans.options = options
                self.plans.value = here
            finally:
                self._loading = False
        self.tell_code()

    def tell_code(self) -> None:
        """Follow what was measured: the code if it is shown. Where the hand chooses is left alone."""
        text = _shown(self._panel.to_python()) if self.code.value else ""
        if self._text.value != text:
            self._text.value = text

    def _save(self) -> None:
        self._panel.save(self.name.value.strip() or f"plan {len(self._panel.saved) + 1}")
        self.name.value = ""

    def _load(self, change: dict[str, Any]) -> None:
        with self._panel._lock:  # else a refresh in another thread is taken for this one
            if not self._loading and change["new"]:
                self._panel.load(change["new"])


def _button(label: str, tip: str, action: Any) -> widgets.Button:
    button = widgets.Button(description=label, tooltip=tip, layout={"width": "76px"})

    def click(_: Any) -> None:
        with hand():
            action()

    button.on_click(click)
    return button


def _shown(code: str) -> str:
    """Return the code as HTML, to be read and copied; names in it stay text."""
    lines = code.count("\n") + 1
    return (
        f'<div><textarea readonly rows="{lines}" wrap="off" spellcheck="false" '
        'aria-label="code that does the same" style="font-family: monospace; width: 100%; max-width: 640px; '
        'box-sizing: border-box; color: inherit; background: transparent">'
        f'{escape(code)}</textarea><br><button type="button" onclick="{COPY}">copy the code</button>'
        "</div>"
    )

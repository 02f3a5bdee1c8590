"""The seven panels under JupyterLab, with and without subshells, by keyboard alone; and under Voila."""

import re
from pathlib import Path

import nbformat
import pytest
from lab import Page, chromium, lab, needs_a_browser, nothing_left, voila
from playwright.sync_api import expect

expect.set_options(timeout=20_000)  # a busy machine may take its time
pytestmark = needs_a_browser

WICKED = "<img src=x onerror=alert(1)>"
SETUP = f"""
import json
from collections import OrderedDict

import ipywidgets
import pandas as pd
import torch
from torch import nn

import pruneviz as pv

torch.manual_seed(0)
wicked = {WICKED!r}
model = nn.Sequential(
    OrderedDict(
        [
            ("flat", nn.Flatten()),
            (wicked, nn.Linear(36, 12)),
            ("relu", nn.ReLU()),
            ("fc", nn.Linear(12, 8)),
            ("more", nn.ReLU()),
            ("out", nn.Linear(8, 3)),
        ]
    )
)
with torch.no_grad():
    model[1].weight[3], model[1].bias[3] = 0, -1  # asleep
    model[1].weight[5], model[1].bias[5] = 2 * model[1].weight[4], 2 * model[1].bias[4]  # twins
    model[3].weight[1], model[3].bias[1] = model[3].weight[0], model[3].bias[0]
x, y = torch.rand(90, 1, 6, 6), torch.arange(90) % 3
batches, classes = [(x, y)], ["zero", wicked, "two"]
data = pd.DataFrame(
    {{
        "criterion": c,
        "seed": seed,
        "target_sparsity": s,
        "macs": 1000 * (1 - s),
        "bytes": 4000 * (1 - s) + 100,
        "metric": 0.9 - 0.3 * s * s + 0.01 * seed,
        "metric_untuned": 0.9 - 0.5 * s,
    }}
    for c in (wicked, "other")
    for seed in range(3)
    for s in (0.0, 0.25, 0.5, 0.75)
)
"""
PANELS = {
    "weights": "pv.panel_weights(model, batches=batches)",
    "strip": "pv.panel_strip(model, x[:5], y[:5], batches=batches, classes=classes)",
    "neurons": "pv.panel_neurons(model, x[:8], batches=batches)",
    "sleepers": "pv.panel_sleepers(model, batches, classes=classes)",
    "twins": "pv.panel_twins(model, x[:8], batches=batches)",
    "tradeoff": "pv.panel_tradeoff(data)",
    "whatif": "pv.panel_whatif(model, batches, classes=classes)",
}
IN_PANEL = "() => document.activeElement.closest('.pv-panel') !== null"
FOCUSABLE = "input, select, textarea, button, [tabindex]"
# what a hand can reach, in the order of the page; each gets a number to be known by
REACHABLE = f"""panel => [...panel.querySelectorAll('{FOCUSABLE}')]
    .filter(e => !e.disabled && e.checkVisibility() && e.tabIndex >= 0)
    .map((e, i) => {{ e.dataset.number = i; return i; }})"""
FOCUSED = """() => { const e = document.activeElement;
    return [Number(e.dataset.number), e.tagName + (e.type ? ':' + e.type : ''),
            e.tagName === 'SELECT' && e.selectedIndex === e.options.length - 1,
            e.getAttribute('aria-valuenow') === e.getAttribute('aria-valuemax'), e.placeholder]; }"""
# the pictures, without what the clock said
DRAWN = r"""panel => [...panel.querySelectorAll('svg[role=img], img')]
    .map(e => e.outerHTML.replace(/[\d.]+ of [\d.]+ ms[^<"]*/g, '')).join('\n')"""
WATCH = """panel => { window.__measuring = []; new MutationObserver(() => {
    const now = panel.innerText.includes('measuring…');
    if (now !== window.__measuring.at(-1)) window.__measuring.push(now);
    }).observe(panel, {childList: true, subtree: true, characterData: true}); }"""


def notebook(file, cells):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(book, file)


@pytest.fixture(scope="module", params=["subshells", "no subshells"])
def page(request, tmp_path_factory):
    home = tmp_path_factory.mktemp("lab")
    (home / "work").mkdir()
    cells = [SETUP, *(f"{name} = {code}\n{name}" for name, code in PANELS.items())]
    notebook(home / "work" / "panels.ipynb", cells)
    subshells = request.param == "subshells"
    grants = {"permissions": ["clipboard-read", "clipboard-write"]}
    with (
        nothing_left(),
        lab(home / "work", home, subshells=subshells) as served,
        chromium(home, **grants) as context,
    ):
        page = Page(context, *served)
        page.open("panels.ipynb")
        page.run_all()
        assert page.errors() == []
        page.subshells = subshells
        yield page


@pytest.fixture(autouse=True)
def quiet(request):
    """After every test: no error, no dialog, no other host, no wicked image."""
    yield
    if "page" in request.fixturenames:
        page = request.getfixturevalue("page")
        assert page.errors() == []
        assert_quiet(page)


def assert_quiet(page):
    assert page.console == []
    assert page.dialogs == []
    assert page.elsewhere == []
    assert page.page.locator("img[src=x]").count() == 0


def panel_of(page, name):
    panel = page.page.locator(".pv-panel").nth(list(PANELS).index(name))
    panel.scroll_into_view_if_needed()
    return panel


def state(page, name):
    return page.ask(f"print(json.dumps({name}.state(), sort_keys=True, default=str), end='')")


def drawn(page, name, panel):
    """The pictures, when all is measured."""
    page.ask(f"{name}.result")
    expect(panel).not_to_contain_text("measuring…")
    return panel.evaluate(DRAWN)


def key_for(tag, last, highest):
    if tag.startswith("SELECT"):
        return "ArrowUp" if last else "ArrowDown"
    if tag.startswith("DIV"):
        return "ArrowLeft" if highest else "ArrowRight"
    return {"INPUT:checkbox": "Space", "INPUT:number": "ArrowUp", "BUTTON:submit": "Enter"}[tag]


def test_widgets_answer_where_they_should(page):
    shells = "get_ipython().kernel.shell_channel_thread.manager.list_subshell()"
    assert page.ask(f"print(bool({shells}), end='')") == str(page.subshells)


@pytest.mark.parametrize("name", PANELS)
def test_by_keyboard_alone(page, name):
    keyboard, panel = page.page.keyboard, panel_of(page, name)
    buttons = {
        n: panel.get_by_role("button", name=n, exact=True) for n in ("undo", "redo", "save", "code")
    }
    first, before = state(page, name), drawn(page, name, panel)
    assert WICKED in panel.inner_text()

    # every control is reached, and answers
    panel.locator(FOCUSABLE).first.focus()
    reached, now = [], first
    while page.page.evaluate(IN_PANEL):
        panel.evaluate(REACHABLE)
        number, tag, last, highest, hint = page.page.evaluate(FOCUSED)
        reached.append(number)
        if page.page.evaluate("() => document.activeElement.closest('.pv-toolbar') === null"):
            if tag == "INPUT:text":
                keyboard.type(f"{WICKED}: 3")
                keyboard.press("Enter")
            else:
                keyboard.press(key_for(tag, last, highest))
            was, now = now, page.until(lambda: state(page, name), now)
            assert now != was, f"{tag} {hint} did not answer"
        keyboard.press("Tab")
    assert reached == panel.evaluate(REACHABLE)
    after = drawn(page, name, panel)
    assert after != before

    # undo by keyboard brings the old picture back, redo the new one
    for button, wanted, picture in (("undo", first, before), ("redo", now, after)):
        buttons[button].focus()
        for _ in range(30):
            if state(page, name) == wanted:
                break
            keyboard.press("Enter")
            page.wait_idle(0)
        assert state(page, name) == wanted
        assert drawn(page, name, panel) == picture
        expect(buttons[button]).to_be_disabled()


@pytest.mark.parametrize("name", PANELS)
def test_plans_and_code_by_keyboard(page, name):
    keyboard, panel = page.page.keyboard, panel_of(page, name)
    saved = state(page, name)
    panel.get_by_role("textbox", name="save as").focus()
    keyboard.type("mine, dd")
    keyboard.press("Tab")
    keyboard.press("Enter")
    plans = panel.get_by_role("combobox", name="go to")
    expect(plans.get_by_role("option")).to_have_text(["saved", "mine, dd"])
    panel.locator(".noUi-handle").first.focus()
    keyboard.press("PageDown" if name == "tradeoff" else "PageUp")
    assert page.until(lambda: state(page, name), saved) != saved
    plans.focus()
    keyboard.press("ArrowDown")
    moved = state(page, name)
    if moved != saved:
        assert page.until(lambda: state(page, name), moved) == saved
    expect(plans).to_have_value("saved")

    code = panel.get_by_role("button", name="code", exact=True)
    code.focus()
    keyboard.press("Space")
    text = panel.get_by_role("textbox", name="code that does the same")
    expect(text).to_have_value(re.compile("^import"))
    keyboard.press("Tab")  # save as
    page.page.evaluate("() => navigator.clipboard.writeText('')")
    copy = panel.get_by_role("button", name="copy the code")
    copy.focus()
    keyboard.press("Enter")
    expect(copy).to_have_text("copied")
    copied = page.until(lambda: page.page.evaluate("() => navigator.clipboard.readText()"), "")
    assert copied == page.ask(f"print({name}.to_python(), end='')")
    code.focus()
    keyboard.press("Space")
    expect(text).to_have_count(0)


@pytest.mark.parametrize("name", PANELS)
def test_every_control_has_a_name(page, name):
    said = panel_of(page, name).aria_snapshot()
    roles = "spinbutton|slider|combobox|listbox|checkbox|button|textbox|img"
    found = re.findall(rf"^\s*- '?({roles})\b(.*)$", said, flags=re.M)
    assert len(found) > 8
    assert [f for f in found if '"' not in f[1]] == []


def test_letters_typed_in_a_panel_are_no_shortcuts(page):
    cells = "() => jupyterapp.shell.currentWidget.content.widgets.length"
    before = page.page.evaluate(cells)
    for name in PANELS:
        panel = panel_of(page, name)
        for control in (panel.locator(".noUi-handle").first, panel.locator("button:enabled").first):
            control.focus()
            page.page.keyboard.type("ddab")
    assert page.page.evaluate(cells) == before


@pytest.mark.parametrize("name", ["strip", "whatif"])
def test_measuring_is_said_while_it_lasts(page, name):
    panel = panel_of(page, name)
    panel.evaluate(WATCH)
    panel.locator(".noUi-handle").first.focus()
    for _ in range(3):
        page.page.keyboard.press("ArrowRight")
    page.page.wait_for_function("() => window.__measuring.includes(true)")
    expect(panel).not_to_contain_text("measuring…")
    assert "accuracy" in panel.inner_text().lower()


@pytest.mark.parametrize("width", [1280, 800])
def test_nothing_is_wider_than_the_page(page, width):
    page.page.set_viewport_size({"width": width, "height": 1000})
    for name in PANELS:
        wide = panel_of(page, name).evaluate(
            "p => [p.scrollWidth, p.closest('.jp-OutputArea-output').scrollWidth]"
            " .map(w => w - p.closest('.jp-OutputArea-output').clientWidth)"
        )
        assert max(wide) <= 1, name
    page.page.set_viewport_size({"width": 1280, "height": 1000})


def test_running_the_cells_again_leaves_nothing_behind(page):
    count = "import gc; gc.collect(); print(len(ipywidgets.widgets.widget._instances), end='')"
    page.ask(f"old = [{', '.join(PANELS)}]")
    before = page.ask(count)
    page.run_all()
    assert page.ask(count) == before
    assert page.ask("print([p.comm for p in old if p.comm is not None], end='')") == "[]"
    assert page.page.locator(".pv-panel").count() == len(PANELS)


def test_voila_serves_a_panel_as_an_app(tmp_path):
    notebook(tmp_path / "app.ipynb", [SETUP, PANELS["strip"]])
    with nothing_left(), voila(tmp_path / "app.ipynb", tmp_path) as served, chromium(tmp_path) as c:
        page = Page(c, served)
        page.page.goto(served)
        panel = page.page.locator(".pv-panel")
        picture = panel.locator("svg[role=img]").first
        expect(picture).to_have_attribute("aria-label", re.compile("Sparsity 0.00: .*accuracy"))
        before = panel.evaluate(DRAWN)
        panel.get_by_role("slider", name="sparsity").focus()
        for _ in range(3):
            page.page.keyboard.press("PageUp")
        expect(picture).to_have_attribute("aria-label", re.compile("Sparsity 0.[1-9].*accuracy"))
        assert panel.evaluate(DRAWN) != before
        assert WICKED in panel.inner_text()
        assert_quiet(page)

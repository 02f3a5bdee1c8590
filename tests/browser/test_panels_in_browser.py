"""The seven panels under JupyterLab, with and without subshells, by keyboard alone; and under Voila."""

import json
import re

import nbformat
import pytest
from browser.lab import HANDLE, Page, chromium, lab, needs_a_browser, nothing_left, voila
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
batches, classes = [(x, y)], [f"{{wicked}} {{c}}" for c in range(3)]
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
    "inactive": "pv.panel_inactive(model, batches, classes=classes)",
    "twins": "pv.panel_redundant(model, x[:8], batches=batches)",
    "tradeoff": "pv.panel_tradeoff(data)",
    "whatif": "pv.panel_whatif(model, batches, classes=classes)",
}
IN_PANEL = "panel => panel.contains(document.activeElement)"
FOCUSABLE = "input, select, textarea, button, [tabindex]"
# what a hand can reach, in the order of the page; each gets a number to be known by
REACHABLE = f"""panel => [...panel.querySelectorAll('{FOCUSABLE}')]
    .filter(e => !e.disabled && e.checkVisibility() && e.tabIndex >= 0)
    .map((e, i) => {{ e.dataset.number = i; return i; }})"""
FOCUSED = """() => { const e = document.activeElement;
    return [Number(e.dataset.number), e.tagName + (e.type ? ':' + e.type : ''),
            e.tagName === 'SELECT' && e.selectedIndex === e.options.length - 1,
            e.max ? Number(e.value) >= Number(e.max)
                : e.getAttribute('aria-valuenow') === e.getAttribute('aria-valuemax')]; }"""
# the pictures; of one that shows what the clock said, what it says to a screen reader
DRAWN = r"""panel => [...panel.querySelectorAll('svg[role=img], img')].map(e =>
    / ms| as fast|no difference|clock/.test(e.textContent) ? e.getAttribute('aria-label') : e.outerHTML).join('\n')"""
FRAMES = "() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))"
WATCH = """panel => { window.__measuring = []; new MutationObserver(() => {
    const now = panel.innerText.includes('measuring…');
    if (now !== window.__measuring.at(-1)) window.__measuring.push(now);
    }).observe(panel, {childList: true, subtree: true, characterData: true}); }"""


def notebook(file, cells):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(book, file)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    grants = ["clipboard-read", "clipboard-write"]
    with nothing_left(), chromium(tmp_path_factory.mktemp("chrome"), permissions=grants) as context:
        yield context


@pytest.fixture(scope="module", params=["subshells", "no subshells"])
def page(request, browser, tmp_path_factory):
    home = tmp_path_factory.mktemp("lab")
    (home / "work").mkdir()
    cells = [SETUP, *(f"{name} = {code}\n{name}" for name, code in PANELS.items())]
    notebook(home / "work" / "panels.ipynb", cells)
    subshells = request.param == "subshells"
    with lab(home / "work", home, subshells=subshells) as served:
        page = Page(browser, *served)
        page.open("panels.ipynb")
        page.run_all()
        page.subshells = subshells
        yield page
        page.page.close()


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


def text_of(panel):
    return panel.inner_text().replace("\xa0", " ")  # as ipywidgets writes blanks in a drop-down


def state(page, name):
    return page.ask(f"print(json.dumps({name}.state(), sort_keys=True, default=str), end='')")


def drawn(page, name, panel):
    """The pictures, when all is measured."""
    page.ask(f"{name}.result")
    expect(panel).not_to_contain_text("measuring…")
    page.page.evaluate(FRAMES)
    return panel.evaluate(DRAWN)


def key_for(tag, last, highest):
    if tag.startswith("SELECT"):
        return "ArrowUp" if last else "ArrowDown"
    if tag.startswith("DIV") or tag == "INPUT:range":
        return "ArrowLeft" if highest else "ArrowRight"
    if tag == "INPUT:number":
        return "ArrowDown" if highest else "ArrowUp"
    return {"INPUT:checkbox": "Space", "BUTTON:submit": "Enter"}[tag]


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
    assert WICKED in text_of(panel)

    # every control is reached, and answers
    panel.locator(FOCUSABLE).first.focus()
    reached, now = [], first
    while panel.evaluate(IN_PANEL):
        panel.evaluate(REACHABLE)
        number, tag, last, highest = page.page.evaluate(FOCUSED)
        reached.append(number)
        if page.page.evaluate("() => document.activeElement.closest('.pv-toolbar') === null"):
            if tag == "INPUT:text":
                keyboard.type(f"{WICKED}: 3")
                keyboard.press("Enter")
            else:
                keyboard.press(key_for(tag, last, highest))
            was, now = now, page.until(lambda: state(page, name), now)
            assert now != was, f"{tag} {number} did not answer"
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
        expect(buttons["redo" if button == "undo" else "undo"]).to_be_focused()


@pytest.mark.parametrize("name", PANELS)
def test_plans_and_code_by_keyboard(page, name):
    keyboard, panel = page.page.keyboard, panel_of(page, name)
    saved = state(page, name)
    panel.get_by_role("textbox", name="save as").focus()
    keyboard.type("mine, dd")
    if name in ("strip", "twins", "whatif"):  # Enter does it, and so does the button
        keyboard.press("Tab")
    keyboard.press("Enter")
    plans = panel.get_by_role("combobox", name="go to")
    expect(plans.get_by_role("option")).to_have_text(["saved", "mine, dd"])
    panel.locator(HANDLE).first.focus()
    keyboard.press("PageDown" if name == "tradeoff" else "PageUp")
    assert page.until(lambda: state(page, name), saved) != saved
    plans.focus()
    keyboard.press("ArrowDown")
    assert page.until(lambda: state(page, name) == saved, False)
    expect(plans.locator("option:checked")).to_have_text("mine, dd")  # until the hand moves on

    code = panel.get_by_role("button", name="code", exact=True)
    code.focus()
    keyboard.press("Space")
    text = panel.get_by_role("textbox", name="code that does the same")
    expect(text).to_have_value(re.compile("^import"))
    page.page.evaluate("() => navigator.clipboard.writeText('')")
    copy = panel.locator("textarea ~ button")
    expect(copy).to_have_text("copy the code")
    copy.focus()
    keyboard.press("Enter")
    expect(copy).to_have_text("copied")
    copied = page.until(lambda: page.page.evaluate("() => navigator.clipboard.readText()"), "")
    assert copied == page.ask(f"print({name}.to_python(), end='')")
    code.focus()
    keyboard.press("Space")
    expect(text).to_have_count(0)


# where in the page places of the picture are; at once, for every move makes another picture
PLACES = """(panel, places) => {
    const picture = panel.querySelector('svg[data-touch]');
    picture.scrollIntoView({block: 'center'});
    const ctm = picture.getScreenCTM();
    return places.map(([x, y]) => new DOMPoint(x, y).matrixTransform(ctm)).map(p => [p.x, p.y]); }"""
# where in the picture a hand comes down, how far it drags, which control answers
TOUCHED = {
    "weights": ((430, 80), 120, "threshold"),
    "neurons": ((499 + 3 * 8, 30), 0, "unit"),
    "inactive": ((160, 60), 0, "seen"),
    "twins": ((70, 22), 100, "threshold"),
    "tradeoff": ((400, 100), -120, "budget"),
    "whatif": ((200, 12), 0, "protect"),
}


@pytest.mark.parametrize("name", TOUCHED)
def test_a_hand_in_the_picture(page, name):
    panel, mouse = panel_of(page, name), page.page.mouse
    first, before = state(page, name), drawn(page, name, panel)
    (x, y), far, control = TOUCHED[name]
    (x0, y0), (x1, _) = panel.evaluate(PLACES, [[x, y], [x + far, y]])
    mouse.move(x0, y0)
    mouse.down()
    pressed = page.until(lambda: state(page, name), first)
    for i in range(1, 21 if far else 0):
        mouse.move(x0 + (x1 - x0) * i / 20, y0)
        page.page.wait_for_timeout(10)
    mouse.up()
    page.wait_idle(400)
    released = state(page, name)
    assert json.loads(released)[control] != json.loads(first)[control]
    assert (released != pressed) == bool(far)
    mouse.move(x1 + 30, y0)  # the hand is up: nothing follows it any more
    page.wait_idle(200)
    assert state(page, name) == released
    assert drawn(page, name, panel) != before
    page.ask(f"{name}.undo()")  # press and drag are one move
    assert json.loads(state(page, name))[control] == json.loads(first)[control]
    expect(panel.locator("svg[data-touch]")).to_have_count(1)


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
        for control in (panel.locator(HANDLE).first, panel.locator("button:enabled").first):
            control.focus()
            page.page.keyboard.type("ddab")
    assert page.page.evaluate(cells) == before


@pytest.mark.parametrize("name", ["strip", "whatif"])
def test_measuring_is_said_while_it_lasts(page, name):
    panel = panel_of(page, name)
    panel.evaluate(WATCH)
    panel.locator(HANDLE).first.focus()
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


def test_voila_serves_a_panel_as_an_app(browser, tmp_path):
    notebook(tmp_path / "app.ipynb", [SETUP, PANELS["weights"]])
    with voila(tmp_path / "app.ipynb", tmp_path) as address:
        page = Page(browser, address)
        # every page of Voila's own asks for these; the panels need none
        icons = "https://cdn.jsdelivr.net/npm/@fortawesome/"
        page.page.route(f"{icons}**", lambda route: route.fulfill(body=""))
        page.page.goto(address)
        panel = page.page.locator(".pv-panel")
        picture = panel.locator("svg[role=img]").first
        expect(picture).to_have_attribute(
            "aria-label", re.compile("sparsity 0.000 over all layers .*, accuracy")
        )
        before = panel.evaluate(DRAWN)
        panel.get_by_role("slider", name="sparsity").focus()
        for _ in range(3):
            page.page.keyboard.press("PageUp")
        expect(picture).to_have_attribute(
            "aria-label", re.compile(r"sparsity 0\.30\d over all layers .*, accuracy")
        )
        assert panel.evaluate(DRAWN) != before
        assert WICKED in text_of(panel)
        page.elsewhere = [url for url in page.elsewhere if not url.startswith(icons)]
        assert_quiet(page)
        page.page.close()

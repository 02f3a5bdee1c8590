"""A panel that draws in the browser: keys, pointer, two writers, and pages where it cannot load."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from browser.lab import Page, chromium, lab, needs_a_browser, nothing_left
from playwright.sync_api import expect

expect.set_options(timeout=20_000)  # a busy machine may take its time
pytestmark = needs_a_browser

AXE = Path(__file__).parents[2] / ".venv" / "web" / "node_modules" / "axe-core" / "axe.min.js"
SETUP = """
import json, random, time
import torch
import pruneviz as pv

torch.manual_seed(0)
model = torch.nn.Sequential(torch.nn.Linear(300, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10))
"""
CELLS = [SETUP, "panel = pv.panel_weights(model)\npanel", "time.sleep(4)", "# last"]
STATE = "print(json.dumps({n: v for n, v in panel.state().items()}), end='')"
RAN = """() => { window.__ran_commands = [];
    jupyterapp.commands.commandExecuted.connect((_, c) => window.__ran_commands.push(c.id)); }"""
FRAMES = "() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))"
# a hand that drags in the histogram, one move a frame, and notes each picture that it sees
DRAG = """([svg, frames]) => new Promise(done => {
    const box = svg.getBoundingClientRect(), y = box.top + box.height / 3, seen = new Set();
    const at = (type, share) => svg.dispatchEvent(new PointerEvent(type, {
        bubbles: true, pointerId: 1, button: 0, buttons: 1, clientY: y,
        clientX: box.left + box.width * share}));
    svg.setPointerCapture = () => {};
    at('pointerdown', 0.6);
    let i = 0;
    const step = () => {
        at('pointermove', 0.6 + 0.35 * i / frames);
        seen.add(svg.outerHTML);
        if (++i < frames) requestAnimationFrame(step);
        else { at('pointerup', 0.95); done(seen.size); }
    };
    requestAnimationFrame(step); })"""


def notebook(file):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c) for c in CELLS])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(book, file)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with nothing_left(), chromium(tmp_path_factory.mktemp("chrome")) as context:
        yield context


@pytest.fixture(scope="module", params=["no subshells", "subshells, no echo"])
def page(request, browser, tmp_path_factory):
    home = tmp_path_factory.mktemp("lab")
    (home / "work").mkdir()
    notebook(home / "work" / "panel.ipynb")
    how = {"subshells": request.param != "no subshells", "echo": "no echo" not in request.param}
    with lab(home / "work", home, **how) as served:
        page = Page(browser, *served)
        page.open("panel.ipynb")
        page.run_all()
        page.page.evaluate(RAN)
        yield page
        page.page.close()


@pytest.fixture(autouse=True)
def quiet(request):
    yield
    if "page" in request.fixturenames:
        page = request.getfixturevalue("page")
        page.ask("panel.controls['sparsity'].value = 0.0")
        assert page.errors() == []
        assert (page.console, page.dialogs, page.elsewhere) == ([], [], [])


@pytest.fixture
def panel(page):
    panel = page.page.locator(".pv-web")
    expect(panel).to_have_count(1)
    panel.scroll_into_view_if_needed()
    return panel


def state(page):
    return json.loads(page.ask(STATE))


def slider(panel, name="sparsity"):
    return panel.get_by_role("slider", name=name)


def test_keys_stay_in_the_panel_and_ctrl_s_passes(page, panel):
    cells = "() => jupyterapp.shell.currentWidget.content.widgets.length"
    before = page.page.evaluate(cells)
    slider(panel).focus()
    page.page.evaluate("() => { window.__ran_commands.length = 0; }")
    keys = (
        "d",
        "d",
        "x",
        "ArrowRight",
        "ArrowDown",
        "ArrowUp",
        "a",
        "Enter",
        "Escape",
        "Shift+Enter",
    )
    for key in keys:
        page.page.keyboard.press(key)
    assert page.page.evaluate("() => window.__ran_commands") == []
    assert page.page.evaluate(cells) == before
    expect(slider(panel)).to_be_focused()
    page.page.keyboard.press("Control+s")
    page.page.wait_for_function("() => window.__ran_commands.includes('docmanager:save')")


def test_the_focus_stays_through_redraws(page, panel):
    slider(panel).focus()
    for _ in range(5):
        page.page.keyboard.press("ArrowRight")
    page.wait_idle(200)  # while the hand moves, its moves count and not the code's
    page.ask("panel.controls['threshold'].value = 0.02")
    page.wait_idle()
    expect(slider(panel)).to_be_focused()
    expect(panel.get_by_role("spinbutton", name="threshold")).to_have_value("0.02")


def test_the_picture_does_not_wait_for_the_kernel(page, panel):
    """A cell sleeps; the hand drags, and each frame has a picture of its own."""
    page.page.evaluate(
        "() => { const n = jupyterapp.shell.currentWidget.content; n.activeCellIndex = 2;"
        " n.deselectAll(); jupyterapp.commands.execute('notebook:run-cell'); }"
    )
    page.page.wait_for_timeout(500)
    svg = panel.locator("svg[data-touch]").element_handle()
    facts = panel.locator(".pv-facts").inner_text()
    assert page.page.evaluate(DRAG, [svg, 60]) >= 50
    assert panel.locator(".pv-facts").inner_text() != facts
    running = "() => jupyterapp.shell.currentWidget.context.sessionContext.session.kernel.status"
    assert page.page.evaluate(running) == "busy"
    page.wait_idle()
    page.page.wait_for_timeout(400)
    shown = panel.get_by_role("spinbutton", name="threshold").input_value()
    assert round(state(page)["threshold"], 4) == float(shown) > 0
    page.ask("panel.undo()")  # the whole drag is one move
    assert state(page)["sparsity"] == 0


def test_a_typed_number_gets_an_exact_answer(page, panel):
    field = panel.get_by_role("spinbutton", name="threshold")
    field.fill("0.01234")
    field.press("Enter")
    page.page.wait_for_function("() => document.querySelector('.pv-web input').value === '0.0123'")
    assert page.until(lambda: state(page)["threshold"], 0.0) == 0.01234
    page.wait_idle()
    kept = page.ask("print(f\"{panel.result['plan'].kept:,}\", end='')")
    expect(panel.locator(".pv-facts")).to_contain_text(f"{kept} of 31,000 weights stay")
    expect(panel.locator(".pv-said")).to_have_text(re.compile(f"{kept} of 31,000 weights stay"))


def test_hand_and_code_agree_in_the_end(page, panel):
    """Code sets a value while the hand moves, again and again; both end in one state."""
    differ = []
    for trial in range(30):
        slider(panel).focus()
        page.page.keyboard.press("PageUp" if trial % 7 else "Home")
        page.page.evaluate(
            """([code, ms]) => { const kernel = jupyterapp.shell.currentWidget.context
                .sessionContext.session.kernel; setTimeout(() => kernel.requestExecute(
                    {code, store_history: false}), ms); }""",
            [f"panel.controls['sparsity'].value = {trial + 1} / 50", trial],
        )
        page.page.keyboard.press("ArrowRight")
        page.wait_idle(160)
        page.page.evaluate(FRAMES)
        known = state(page)
        seen = [
            float(panel.get_by_role("spinbutton", name=n).input_value())
            for n in ("threshold", "sparsity")
        ]
        if seen != [round(known["threshold"], 4), round(known["sparsity"], 3)]:
            differ.append((trial, seen, known))
    assert differ == []


def test_undo_right_after_keys_knows_them(page, panel):
    slider(panel).focus()
    for _ in range(4):
        page.page.keyboard.press("ArrowRight")
    panel.get_by_role("button", name="undo").click()
    page.wait_idle()
    assert state(page)["sparsity"] == 0
    panel.get_by_role("button", name="redo").click()
    page.wait_idle()
    assert state(page)["sparsity"] == 0.004
    expect(panel.get_by_role("spinbutton", name="sparsity")).to_have_value("0.004")


@pytest.mark.skipif(not AXE.exists(), reason="needs make web")
def test_axe_finds_nothing(page, panel):
    panel.get_by_role("button", name="code", exact=True).click()
    page.page.add_script_tag(path=str(AXE))
    found = page.page.evaluate("() => axe.run('.pv-web').then(r => r.violations.map(v => v.id))")
    assert found == []
    panel.get_by_role("button", name="code", exact=True).click()


def test_a_closed_panel_leaves_nothing(page):
    page.ask("other = pv.panel_weights(model); other.close()")
    assert page.ask("print(other.view.comm, other.comm, end='')") == "None None"


def test_where_no_module_may_load_a_picture_and_a_sentence_stand(browser, tmp_path):
    """A content policy without blob: stops every anywidget."""
    (tmp_path / "work").mkdir()
    notebook(tmp_path / "work" / "panel.ipynb")
    with lab(tmp_path / "work", tmp_path, policy="script-src 'self' 'unsafe-eval'") as served:
        page = Page(browser, *served)
        page.open("panel.ipynb")
        page.run_all()
        picture = page.page.locator(".pv-still img")
        expect(picture).to_be_visible()
        sentence = "31,000 of 31,000 weights stay"
        expect(picture).to_have_attribute("alt", re.compile(sentence))
        expect(page.page.locator(".pv-still p")).to_contain_text(sentence)
        page.ask("panel.controls['sparsity'].value = 0.5")
        expect(page.page.locator(".pv-still p")).to_contain_text("15,500 of 31,000 weights stay")
        assert any("Content Security Policy" in text for text in page.console)
        page.page.close()

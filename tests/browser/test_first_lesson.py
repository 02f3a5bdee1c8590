"""What a newcomer sees: JupyterLab, lesson 00 run to its end, the slider moved by the keyboard."""

import re
from pathlib import Path

import pytest
from browser.lab import HANDLE, Page, chromium, lab, needs_a_browser, nothing_left
from playwright.sync_api import expect

from pruneviz.lessons import notebooks

ROOT = Path(__file__).parents[2]
# the first slider, and what its panel says when the lesson has run
LESSONS = {
    "00_start_here.ipynb": ("sparsity", "Sparsity 0.99 in each layer: 1 of 10 images right"),
    "01_weights_or_neurons.ipynb": ("sparsity", "Sparsity 0.90, batch of 64"),
    "03_neurons_by_norm.ipynb": ("unit", "made by conv1, bn1, read by conv2. All 296 units stay"),
    "04_neurons_that_sleep.ipynb": ("rare", "Rare 0.010: of the 500 units of fc1"),
    "05_neurons_that_repeat.ipynb": ("threshold", "Threshold 0.80: 21 of 300 neurons of fc1 go"),
    "02_small_weights.ipynb": ("threshold", "4,305 of 430,500 weights stay, sparsity 0.990"),
    "08_how_to_judge.ipynb": ("budget", "At most 100% of the MACs"),
}
LOWEST = {"budget": "0.01"}  # of the others 0

PICTURE = ".jupyter-widgets svg[role=img]:visible, .jupyter-widgets img:visible"
DRAWN = r"""e => e.outerHTML.replace(/(aria-label|alt)="[^"]*"/, '')"""  # without what it says

expect.set_options(timeout=20_000)  # a busy machine may take its time
pytestmark = needs_a_browser


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    home = tmp_path_factory.mktemp("lab")
    notebooks.working_copy(ROOT / "notebooks", home / "work")
    with nothing_left(), lab(home / "work", home) as served, chromium(home) as context:
        yield context, *served


@pytest.mark.parametrize(("name", "slider", "says"), [(n, *v) for n, v in LESSONS.items()])
def test_a_lesson_runs_and_its_slider_answers(server, name, slider, says):
    page = Page(*server)
    page.open(name)
    page.run_all()
    assert page.errors() == []

    field = page.page.get_by_role("spinbutton", name=slider).first
    handle = page.page.locator(HANDLE).first
    picture = page.page.locator(PICTURE).first
    said = "aria-label" if picture.get_attribute("aria-label") else "alt"
    expect(picture).to_have_attribute(said, re.compile(says))  # and no echo changed it

    handle.scroll_into_view_if_needed()
    handle.focus()
    page.page.keyboard.press("Home")
    lowest = "Sparsity 0.00[:, ]|Rare 0.000:|Threshold 0.00(00)?:|Channel 0 of|At most 1% of"
    expect(picture).to_have_attribute(said, re.compile(f"({lowest})"))
    expect(field).to_have_value(LOWEST.get(slider, "0"))
    label = picture.get_attribute(said)
    drawn = picture.evaluate(DRAWN)
    for key in ("PageUp", "End"):
        page.page.keyboard.press(key)
    expect(picture).not_to_have_attribute(said, label)  # what a screen reader says
    expect(field).not_to_have_value(LOWEST.get(slider, "0"))
    page.wait_idle()
    now = picture.evaluate(DRAWN)
    assert now != drawn  # what an eye sees

    assert page.errors() == []
    assert page.console == []
    assert page.elsewhere == []  # not one request to another host
    page.page.close()

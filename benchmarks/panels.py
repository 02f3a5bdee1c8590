"""What a hand waits for: panels in JupyterLab under Chromium, beside the usual way, in one run."""

from __future__ import annotations

import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "browser"))
from lab import HANDLE, Page, chromium, lab
from record import processor

PRESSES = 24
POLL = 50  # ms; as a default Playwright asks at every frame, and so draws every frame: 20 ms slower
CELLS = {
    "setup": """
import gc, time
import matplotlib.pyplot as plt
import numpy as np
import psutil, torch, ipywidgets as widgets
from torch import nn
import pruneviz as pv
from pruneviz import lessons
%matplotlib inline
torch.manual_seed(0)
big = nn.Sequential(nn.Linear(3162, 1581), nn.ReLU(), nn.Linear(1581, 3162))  # 1e7 weights
numbers = np.concatenate([w.numpy().ravel() for w in pv.named_weights(big).values()])
""",
    "weights": """
start = time.perf_counter()
weights = pv.panel_weights(big)
prepared = time.perf_counter() - start
start = time.perf_counter()
weights._repr_mimebundle_()  # what showing it asks for
shown = time.perf_counter() - start
weights
""",
    "naive": """
top = float(np.abs(numbers).max())
def histogram(threshold):
    fig, ax = plt.subplots(figsize=(6.4, 2.6))
    ax.hist(numbers, 120)
    ax.axvline(threshold, color="k", ls="--")
    ax.set_title(f"sparsity {np.mean(np.abs(numbers) < threshold):.3f}")
    plt.show()
slow = widgets.FloatSlider(0, min=0, max=top, step=top / 1000)
widgets.VBox([slow, widgets.interactive_output(histogram, {"threshold": slow})])
""",
    "binned": """
counts, edges = np.histogram(numbers, 120)
def bars(threshold):
    fig, ax = plt.subplots(figsize=(6.4, 2.6))
    ax.stairs(counts, edges, fill=True)
    ax.axvline(threshold, color="k", ls="--")
    ax.set_title(f"sparsity {np.mean(np.abs(numbers) < threshold):.3f}")
    plt.show()
quick = widgets.FloatSlider(0, min=0, max=top, step=top / 1000)
widgets.VBox([quick, widgets.interactive_output(bars, {"threshold": quick})])
""",
    "whatif": """
data = lessons.fashion_mnist()
judge = list(data.validation.batches(500))[:4]
whatif = pv.panel_whatif(lessons.load("batchnorm-cnn"), judge,
                         classes=data.test.classes, sparsity=0.3)
whatif
""",
    "others": """
import pandas as pd
lenet, x = lessons.load("lenet-300-100"), judge[0][0][:16]
strip = pv.panel_strip(lenet, x[:8], judge[0][1][:8], batches=judge)
neurons = pv.panel_neurons(lenet, x, batches=judge)
inactive = pv.panel_inactive(lenet, judge)
redundant = pv.panel_redundant(lenet, x, batches=judge)
tradeoff = pv.panel_tradeoff(pd.read_csv(CURVES))
widgets.VBox([strip, neurons, inactive, redundant, tradeoff])
""".replace("CURVES", repr(str(Path(__file__).parents[1] / "data" / "curves" / "tradeoff.csv"))),
}
# the slider of each panel, its upper end, and after how many moves the hand rests and all is measured
MOVES = {
    "weights": ("sparsity", 0.99, 0),
    "strip": ("sparsity", 0.99, 5),
    "neurons": ("sparsity", 0.9, 5),
    "inactive": ("rare", 0.5, 5),
    "redundant": ("threshold", 1.0, 5),
    "tradeoff": ("budget", 1.0, 0),
    "whatif": ("sparsity", 0.9, 5),
}
# from the key to the first frame in which another picture stands
WATCH = """([box, what]) => {
    const old = window.__watch; if (old) { old[0].disconnect();
        document.removeEventListener('keydown', old[1], true); }
    window.__took = []; let down = null, before = null;
    const picture = () => box.querySelector(what)?.outerHTML;
    const pressed = () => { down = performance.now(); before = picture(); };
    document.addEventListener('keydown', pressed, true);
    const seen = new MutationObserver(() => { const now = picture();
        if (down === null || !now || now === before) return;
        const since = down; down = null;
        requestAnimationFrame(() => window.__took.push(performance.now() - since)); });
    seen.observe(box, {childList: true, subtree: true, attributes: true});
    window.__watch = [seen, pressed]; }"""
# from the key until the row of the accuracy, which was "…", has a number
RESTED = """box => {
    const old = window.__watch; if (old) { old[0].disconnect();
        document.removeEventListener('keydown', old[1], true); }
    window.__took = []; let down = null, gone = false;
    const pressed = () => { down = performance.now(); gone = false; };
    document.addEventListener('keydown', pressed, true);
    const seen = new MutationObserver(() => { if (down === null) return;
        const text = box.querySelector('svg[role=img]').textContent;
        if (text.includes('… (before')) gone = true;
        else if (gone) { window.__took.push(performance.now() - down); down = null; } });
    seen.observe(box, {childList: true, subtree: true});
    window.__watch = [seen, pressed]; }"""
DRAG = """box => { window.__drag = {frames: 0, blank: 0, pictures: 0, on: true}; let last = '';
    const look = () => { const d = window.__drag; if (!d.on) return; d.frames++;
        const now = box.querySelector('svg[role=img]')?.outerHTML ?? '';
        if (!now) d.blank++; else if (now !== last) { d.pictures++; last = now; }
        requestAnimationFrame(look); };
    requestAnimationFrame(look); }"""
# A timer in the page is starved by painting, and Playwright's mouse is slow: a hand of one move a frame
BY_FRAME = """([box, n]) => new Promise(done => {
    const svg = () => box?.querySelector('svg[data-touch]');
    svg()?.scrollIntoView({block: 'center'});
    const at = (type, share) => { const s = svg(), r = s.getBoundingClientRect();
        s.setPointerCapture = () => {};  // no real pointer is down
        s.dispatchEvent(new PointerEvent(type, {bubbles: true, pointerId: 1, button: 0, buttons: 1,
            clientX: r.left + r.width * share, clientY: r.top + r.height * 0.4})); };
    const gaps = []; let i = -30, last = 0, seen = '', pictures = 0;
    const step = now => {
        if (i > 0) gaps.push(now - last);
        last = now;
        if (box && i >= 0) {
            at(i ? 'pointermove' : 'pointerdown', 0.6 + 0.3 * i / n);
            const now = svg().outerHTML;
            if (now !== seen) pictures++;
            seen = now;
        } else if (!box && i > 0) pictures++;
        if (i++ < n) requestAnimationFrame(step);
        else { if (box) at('pointerup', 0.9); done({gaps, pictures}); }
    };
    requestAnimationFrame(step); })"""
MEMORY = """
def _rss():
    time.sleep(7)  # the hand has left: the panels' thread has given back what it could
    gc.collect()
    return psutil.Process().memory_info().rss / 2**20
def _hand(panel, control, value):
    if not hasattr(panel, "view"):  # the first engine
        return panel.controls[control].set_state({{"value": value}})
    state, clock = panel.view.state, {{"who": "browser", "moved": control, "drag": 0}}
    moved = {{**state, control: value, "by": control, **clock, "n": state["n"] + 1}}
    panel.view.set_state({{"state": moved}})
def _moves(panel, control, high, rests, n):
    repair = panel.controls.get("repair")
    if repair is not None:  # what the panel does most work for
        repair.value = {{"whatif": "lstsq"}}.get("{panel}", "fold")
    for i in range(n):
        _hand(panel, control, round(i * 37 % 101 / 101 * high, 3))
        if rests and i % rests == 0:
            time.sleep(0.3)  # the hand rests, and the thread begins
            panel.result
_start = _rss()
_moves({panel}, {control!r}, {high}, {rests}, 50); _before = _rss()
_moves({panel}, {control!r}, {high}, {rests}, 500)
print(_before - _start, _rss() - _before, len(plt.get_fignums()))
"""
AGAIN = """async i => { const notebook = jupyterapp.shell.currentWidget.content;
    notebook.activeCellIndex = i; notebook.deselectAll();
    await jupyterapp.commands.execute('notebook:run-cell'); }"""
COUNT = "from ipywidgets.widgets.widget import _instances; print(len(_instances), end='')"


def presses(page: Page, cell: Any, picture: str, n: int = PRESSES) -> tuple[float, float]:
    """Return median and 95th percentile of milliseconds from a key press to the changed picture."""
    page.page.evaluate(WATCH, [cell.element_handle(), picture])
    handle = cell.locator(HANDLE).first
    handle.scroll_into_view_if_needed()
    handle.focus()
    for i in range(n):
        page.page.keyboard.press("PageUp" if i < 3 else "ArrowRight")
        page.page.wait_for_function(
            "n => window.__took.length > n", arg=i, timeout=60_000, polling=POLL
        )
        page.wait_idle(150)
    took = page.page.evaluate("() => window.__took")
    return statistics.median(took), statistics.quantiles(took, n=20)[-1]


def by_frame(page: Page, cell: Any, frames: int = 180) -> tuple[float, float, int]:
    """Drag in the picture of a cell, one move a frame; without a cell: an idle page.

    Return pictures a second, the 95th percentile of the gaps between frames in ms, and how many
    of them were longer than 25 ms.
    """
    box = None if cell is None else cell.element_handle()
    found = page.page.evaluate(BY_FRAME, [box, frames])
    gaps = found["gaps"]
    p95 = statistics.quantiles(gaps, n=20)[-1]
    return found["pictures"] / sum(gaps) * 1000, p95, sum(g > 25 for g in gaps)


def framed(what: str, found: tuple[float, float, int]) -> tuple[str, str]:
    """Return a row of the table."""
    pictures, p95, late = found
    return what, f"{pictures:.0f} (95 of 100 frames within {p95:.0f} ms, {late} of 180 over 25 ms)"


def dragged(
    page: Page, cell: Any, inside: bool, seconds: float = 4.0
) -> tuple[float, float, int, int]:
    """Drag the first slider, or `inside` the picture what can be dragged there.

    Return pictures a second, frames a second, blank frames, moves.
    """
    cell.locator(HANDLE).first.scroll_into_view_if_needed()
    mouse = page.page.mouse
    if inside:
        box = cell.locator("svg[data-touch]").bounding_box()
        left, y = box["x"] + 0.6 * box["width"], box["y"] + 0.4 * box["height"]
        wide = 0.35 * box["width"]
    else:
        box = cell.locator(".noUi-connects").first.bounding_box()
        handle = cell.locator(HANDLE).first.bounding_box()
        mouse.move(handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2)
        left, y = box["x"] + 0.05 * box["width"], handle["y"] + handle["height"] / 2
        wide = 0.5 * box["width"]
    if inside:
        mouse.move(left, y)
    mouse.down()
    page.page.evaluate(DRAG, cell.element_handle())
    start, moves = time.monotonic(), 0
    while (now := time.monotonic() - start) < seconds:
        mouse.move(left + wide * now / seconds, y)
        moves += 1
        time.sleep(0.01)
    found = page.page.evaluate("() => { window.__drag.on = false; return window.__drag; }")
    took = time.monotonic() - start
    mouse.up()
    return found["pictures"] / took, found["frames"] / took, found["blank"], moves


def rested(page: Page, cell: Any, n: int = 5) -> float:
    """Return the median of seconds from a key press to the new accuracy."""
    page.page.evaluate(RESTED, cell.element_handle())
    handle = cell.locator(HANDLE).first
    handle.scroll_into_view_if_needed()
    handle.focus()
    for i in range(n):
        page.page.keyboard.press("ArrowRight")
        page.page.wait_for_function(
            "n => window.__took.length > n", arg=i, timeout=60_000, polling=POLL
        )
        page.page.wait_for_function("() => !document.body.innerText.includes('measuring…')")
        page.wait_idle(300)
    took = page.page.evaluate("() => window.__took")
    assert len(took) == n, took
    return statistics.median(took) / 1000


def rows(page: Page) -> Iterator[tuple[str, str]]:
    """Measure everything; what is said comes as soon as it is known."""
    cells = {name: page.page.locator(".jp-Cell").nth(i) for i, name in enumerate(CELLS)}
    yield "panel_weights, 1e7 weights: prepared, s", page.ask("print(f'{prepared:.2f}')")
    yield "shown for the first time, static picture included, s", page.ask("print(f'{shown:.2f}')")
    panel, late = presses(page, cells["weights"], "svg[role=img]")
    naive, _ = presses(page, cells["naive"], ".jp-OutputArea-output img", 8)
    binned, _ = presses(page, cells["binned"], ".jp-OutputArea-output img", 8)
    yield (
        "panel_weights: key press to changed picture, ms (median; 95 of 100)",
        f"{panel:.1f}; {late:.1f}",
    )
    yield framed("an idle page: frames a second", by_frame(page, None))
    yield framed("the threshold is dragged, a move a frame: pictures a second",
                 by_frame(page, cells["weights"]))  # fmt: skip
    yield "ax.hist in an inline callback, ms", f"{naive:.0f} ({naive / panel:.1f} times)"
    yield "the same, binned once, ms", f"{binned:.0f} ({binned / panel:.1f} times)"
    for where, inside in (("the slider", False), ("the threshold in the picture", True)):
        pictures, frames, blank, moves = dragged(page, cells["weights"], inside)
        yield (
            f"while {where} is dragged: new pictures a second",
            (
                f"{pictures:.0f} (of {frames:.0f} frames; blank: {blank}; moves of the mouse: {moves})"
            ),
        )
    page.ask("whatif.controls['repair'].value = 'none'")
    plain = rested(page, cells["whatif"])
    page.ask("whatif.controls['repair'].value = 'lstsq'")
    mended = rested(page, cells["whatif"])
    yield "panel_whatif, BatchNorm CNN, 2,000 images: key press to new accuracy, s", f"{plain:.2f}"
    yield "the same with least squares, s", f"{mended:.2f}"
    for name, (control, high, rests) in MOVES.items():
        code = MEMORY.format(panel=name, control=control, high=high, rests=rests)
        first, grown, figures = page.ask(code).split()
        yield (
            f"panel_{name}: 500 moves, the kernel's memory grows by, MB",
            f"{float(grown):.1f} (50 moves before: {float(first):.1f}; figures open: {figures})",
        )
    before = int(page.ask(COUNT))
    page.page.evaluate(AGAIN, list(CELLS).index("whatif"))
    page.wait_idle()
    again = int(page.ask(COUNT)) - before
    page.ask("whatif.close()")
    bare = int(page.ask(COUNT))
    page.ask("pv.panel_whatif(lessons.load('batchnorm-cnn'), judge[:1]).close()")
    left = int(page.ask(COUNT)) - bare
    yield "widgets left behind: cell run again; a panel made and closed", f"{again}, {left}"


def busy_rows(page: Page) -> Iterator[tuple[str, str]]:
    """Measure `panel_weights` while a cell runs and the kernel answers nothing: no subshells."""
    cell = page.page.locator(".jp-Cell").nth(1)
    page.page.evaluate(AGAIN.replace("await jupyterapp", "jupyterapp"), 2)
    page.page.wait_for_timeout(500)
    yield framed("the same while a cell runs, without subshells", by_frame(page, cell))
    page.wait_idle()


def served_notebook(home: Path, cells: list[str]) -> None:
    """Write the notebook."""
    (home / "work").mkdir()
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(c.strip()) for c in cells])
    book.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(book, home / "work" / "panels.ipynb")


def main() -> None:
    """Print the table."""
    print(f"{platform.platform()}, {processor()}, {os.cpu_count()} cores, load "
          f"{os.getloadavg()[0]:.1f}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")  # fmt: skip
    print(f"`python benchmarks/{Path(sys.argv[0]).name}`\n")
    busy = [CELLS["setup"], CELLS["weights"], "time.sleep(8)"]
    parts = ((True, list(CELLS.values()), rows), (False, busy, busy_rows))
    print("| what | |\n|---|---|")
    for subshells, cells, measured in parts:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            served_notebook(home, cells)
            with (
                lab(home / "work", home, subshells=subshells) as served,
                chromium(home) as context,
            ):
                page = Page(context, *served)
                page.open("panels.ipynb")
                page.run_all()
                assert page.errors() == [], page.errors()
                for what, value in measured(page):
                    print(f"| {what} | {value.strip()} |", flush=True)


if __name__ == "__main__":
    main()

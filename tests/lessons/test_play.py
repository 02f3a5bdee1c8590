"""A learner plays: the rest of a lesson says the same wherever they left its panels' controls."""

import inspect
from pathlib import Path

import nbformat
import pytest

from pruneviz.lessons import notebooks

FOLDER = Path(__file__).parents[2] / "notebooks"


def move_all(shown, high):
    """Move all controls of the panels on the page to one end; this runs in the kernel."""
    from pruneviz.panels.kit.panel import Panel

    panels = [p for p in shown if isinstance(p, Panel)]
    assert panels
    for panel in panels:
        panel.lazy = True  # what lies on the way need not be measured
        ends = {}
        for name, control in 2 * [*panel.controls.items()]:  # again: one can widen another
            if hasattr(control, "index"):  # a drop-down
                ends[name] = "index", len(control.options) - 1 if high else 0
            elif hasattr(control, "max"):  # a slider, a number
                ends[name] = "value", control.max if high else control.min
            elif isinstance(control.value, bool):
                ends[name] = "value", high
            if name in ends:
                setattr(control, *ends[name])
        panel.lazy = False
        assert ends and all(getattr(panel.controls[n], at) == end for n, (at, end) in ends.items())


def code(source, **metadata):
    return nbformat.v4.new_code_cell(source, metadata=metadata)


def makes_a_panel(cell):
    return "pv.panel_" in cell.source


def played(cells, high):
    """Return the cells, and behind each panel one that does what a learner does with it."""
    made = []
    for cell in cells:
        made.append(code(cell.source, **cell.metadata))
        if makes_a_panel(cell):
            made.append(code(f"move_all(Out.values(), {high})"))
    return made


def said(cells):
    """Return the texts below the cells, but for those that nbval leaves alone too."""
    stay = [c for c in cells if "nbval-ignore-output" not in c.metadata.get("tags", [])]
    return [o.get("text") or o.get("data", {}).get("text/plain") for c in stay for o in c.outputs]


@pytest.mark.parametrize("name", ["03_neurons_by_norm", "05_neurons_that_repeat"])
def test_the_rest_says_the_same_wherever_a_learner_left_the_panels(name):
    cells = [c for c in nbformat.read(FOLDER / f"{name}.ipynb", 4).cells if c.cell_type == "code"]
    first = [makes_a_panel(c) for c in cells].index(True)
    # both ends in one kernel, as "run all below" does: the cells before take half of the time
    low, high = (played(cells[first:], end) for end in [False, True])
    start = [code(inspect.getsource(move_all)), *cells[:first]]
    notebooks.run(nbformat.v4.new_notebook(cells=start + low + high), FOLDER)
    assert said(low) == said(high)

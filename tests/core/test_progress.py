"""A bar is drawn where somebody sees it move: on a terminal, or in a notebook."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import pruneviz
from pruneviz.core.progress import in_notebook, progress_bar


@pytest.mark.parametrize("terminal", [False, True])
@pytest.mark.parametrize("notebook", [False, True])
@pytest.mark.parametrize("shown", [False, True])
@pytest.mark.parametrize("disable", ["", "0", "1"])
def test_where_a_bar_is_drawn(terminal, notebook, shown, disable, capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", disable)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    shell = SimpleNamespace(kernel=None) if notebook else SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert in_notebook() == notebook
    bar = progress_bar([1, 2], shown=shown, text="count")
    assert bar.disable != (shown and disable != "1" and (terminal or notebook))
    assert list(bar) == [1, 2]


def test_no_kernel_is_no_notebook(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: None))
    assert not in_notebook()
    monkeypatch.delitem(sys.modules, "IPython")
    assert not in_notebook()


def test_every_bar_is_this_one():
    files = Path(pruneviz.__file__).parent.rglob("*.py")
    uses = [f.name for f in files if re.search(r"\btqdm\b.*import|import tqdm", f.read_text())]
    assert uses == ["progress.py"]

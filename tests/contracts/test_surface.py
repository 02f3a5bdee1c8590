"""The public surface: one list, lazy, in the order of the pipeline, and whole in a wheel."""

from __future__ import annotations

import ast
import os
import pickle
import pydoc
import re
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from setuptools import build_meta

import pruneviz as pv
from pruneviz import lessons

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pruneviz"
STUB = ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8"))
LISTED = {
    alias.name: node.module
    for node in STUB.body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}
# in 0.1.0 these got the field's own words; nothing may speak the old ones
OLD = {
    "find_sleepers": "find_inactive",
    "find_twins": "find_redundant",
    "one_of_each": "drop_redundant",
    "free": "lossless_plan",
    "work": "effective_macs",
    "ticket": "lottery_ticket",
    "rescaled": "rescale",
    "interval": "accuracy_interval",
    "costs": "compare_costs",
    "break_even": "bytes_break_even",
    "break_evens": "speed_break_evens",
    "panel_sleepers": "panel_inactive",
    "plot_sleepers": "plot_inactive",
    "panel_twins": "panel_redundant",
    "plot_twins": "plot_redundant",
    "plot_break_evens": "plot_speed_break_evens",
}
# names that nothing else has: alone they already are the old function
UNIQUE = [n for n in OLD if n.startswith(("find_", "plot_", "panel_")) or n == "break_evens"]
TOLD = [
    path
    for pattern in (
        *("pruneviz/**/*.py", "tests/**/*.py", "benchmarks/*.py", "notebooks/*.ipynb"),
        *("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "*/README.md"),
    )
    for path in ROOT.glob(pattern)
    if path != Path(__file__)
]


def python(code: str, **environment: str) -> str:
    """Run code in a fresh Python, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("name", LISTED)
def test_a_public_name_lives_where_the_stub_says(name):
    value = getattr(pv, name)
    assert value is getattr(import_module(f"pruneviz.{LISTED[name]}"), name)
    if hasattr(value, "__module__") and not isinstance(value, dict):
        assert value.__module__ in (f"pruneviz.{LISTED[name]}", "pruneviz")


def test_the_stub_is_the_only_list():
    assert sorted(LISTED) == pv.__all__ == dir(pv)
    nouns = "Card Certificate Comparison Criterion Moments Panel Rounds Timing".split()
    assert not {*nouns, *OLD} & set(LISTED), "results that nobody constructs stay in their files"
    with pytest.raises(AttributeError, match="No pruneviz attribute prune_everything"):
        _ = pv.prune_everything


def test_a_block_for_each_room_in_the_order_of_the_pipeline():
    text = (PACKAGE / "__init__.pyi").read_text(encoding="utf-8")
    blocks = re.findall(r"^# (\w+): (.+)$|^from \.(\w+)\.", text, re.M)
    room, rooms = "", []
    for title, line, imported in blocks:
        if title:
            assert line, f"{title} says nothing"
            room = title
            rooms.append(title)
        else:
            assert imported == room
    pipeline = (
        "core model graph evidence metrics redundancy selection pruning storage training study"
    )
    assert rooms == [*pipeline.split(), "plots", "panels"]


def test_help_shows_all_of_it_in_that_order():
    said = pydoc.render_doc(pv, renderer=pydoc.plaintext)
    overview = said[said.index("DESCRIPTION") : said.index("PACKAGE CONTENTS")]
    shown = re.findall(r"\b\w+\b", overview[overview.index("Every public name") :])
    assert [n for n in shown if n in LISTED] == list(LISTED)


@pytest.mark.parametrize("package", [pv, lessons], ids=["pruneviz", "lessons"])
def test_no_public_name_is_that_of_a_file_beside_the_init_that_exports_it(package):
    # or `pruneviz.costs` would be a function or a module, whichever was imported last
    beside = {p.stem for p in Path(package.__file__).parent.iterdir()}
    assert not beside & set(package.__all__)


def test_a_bare_import_loads_nothing():
    code = "import sys; import pruneviz; print([m for m in {} if m in sys.modules])"
    heavy = [
        "torch",
        "numpy",
        "pandas",
        "matplotlib",
        "seaborn",
        "ipywidgets",
        "anywidget",
        "IPython",
        "sklearn",
    ]
    assert python(code.format(heavy)) == "[]"
    code = "import sys; import pruneviz; print(*sorted(m for m in sys.modules if m.split('.')[0] == 'pruneviz'))"
    assert python(code) == "pruneviz pruneviz._version"


def test_pruning_loads_no_widgets_and_no_plots():
    heavy = ["ipywidgets", "matplotlib", "seaborn", "pandas", "IPython", "sklearn", "nbformat"]
    code = f"import sys, torch; before = set(sys.modules); import pruneviz as pv; pv.prune; \
        pv.measure; pv.find_groups; print(sorted(set({heavy}) & (set(sys.modules) - before)))"
    assert python(code) == "[]"


def test_all_of_it_can_be_imported_at_once():
    code = "import pruneviz, sys; print('pruneviz.panels.whatif' in sys.modules)"
    assert python(code, EAGER_IMPORT="1") == "True"


def test_the_criteria_are_all_there_after_a_bare_import():
    assert python("import pruneviz as pv; print(*sorted(pv.CRITERIA))") == (
        "activation apoz fisher l1 l2 lamp magnitude obs random taylor wanda"
    )


@pytest.mark.parametrize("error", [pv.ArgumentError, pv.GraphError])
def test_an_error_names_what_users_import(error):
    assert f"{error.__module__}.{error.__qualname__}" == f"pruneviz.{error.__name__}"
    assert type(pickle.loads(pickle.dumps(error("x")))) is error


@pytest.mark.parametrize("path", TOLD, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_speaks_the_old_names(path):
    text = path.read_text(encoding="utf-8")
    old = "|".join(map(re.escape, sorted(OLD, key=len, reverse=True)))
    patterns = [rf"\bpv\.({old})\b", rf"\b({'|'.join(UNIQUE)})\b"]
    patterns += [rf"from pruneviz[\w.]* import [^\n]*\b({old})\b(?! as)"]
    assert not [m.group(0) for pattern in patterns for m in re.finditer(pattern, text)]


def test_the_wheel_holds_the_stub_and_every_file(tmp_path, monkeypatch):
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / "pruneviz").symlink_to(PACKAGE)
    monkeypatch.chdir(tmp_path)
    wheel = build_meta.build_wheel(str(tmp_path))
    inside = set(zipfile.ZipFile(tmp_path / wheel).namelist())
    files = {*PACKAGE.rglob("*.py"), PACKAGE / "__init__.pyi", PACKAGE / "py.typed"}
    files |= {PACKAGE / "panels" / "static" / "panels.js"}
    assert {str(p.relative_to(ROOT)) for p in files} <= inside
    assert not [n for n in inside if "__pycache__" in n or "/web/" in n]
    installed = tmp_path / "installed"
    monkeypatch.chdir(tmp_path.parent)
    zipfile.ZipFile(tmp_path / wheel).extractall(installed)
    code = "import torch, pruneviz as pv; p = pv.panel_weights(torch.nn.Linear(3, 3)); \
        print(pv.__file__, len(p.view.web))"
    where, size = python(code, PYTHONPATH=str(installed)).split()
    assert where.startswith(str(installed)) and int(size) > 10_000

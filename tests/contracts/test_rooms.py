"""The house: imports point down only, no circles, every file in its room, every test beside its file."""

from __future__ import annotations

import ast
import importlib
import runpy
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pruneviz"
# from the ground up; rooms of one row do not know each other
FLOORS = [
    *(["core"], ["model"], ["graph", "evidence", "metrics"], ["redundancy", "selection"]),
    *(
        ["pruning"],
        ["storage"],
        ["training", "study"],
        ["panels"],
        ["report"],
        ["lessons"],
        ["cli"],
    ),
]
CODE_LINES = runpy.run_path(str(ROOT / "benchmarks" / "lines.py"))["code_lines"]
FLOOR = {room: i for i, rooms in enumerate(FLOORS) for room in rooms}
SUBROOMS = {
    # words that other rooms use: the table of criteria, what one of them needs, the rungs
    "selection.criteria.registry": {"panels", "pruning", "study", "training", "lessons"},
    "selection.criteria.requirements": {"study"},
    "pruning.repair.ladder": {"study"},
    "pruning.repair.distil": {"study", "training"},
    "pruning.repair.gradient": {"training"},  # the loop that training shares
    "pruning.surgery.cut": {"storage"},  # a file is cut as a model is
    "panels.kit.html": {"lessons"},  # pictures without a kernel
}


def name_of(path: Path) -> str:
    """Name of a file's module below the package: "graph.walk"; "" for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {name_of(p): p for p in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path, *, typing: bool = True) -> list[tuple[str, str]]:
    """Return (module, name) of each import from the package; `typing`: also those for annotations."""
    found = []
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING" and not typing:
            continue
        todo += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            found += [(a.name, "") for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found += [(node.module or "", a.name) for a in node.names]
    return found


def own(path: Path, *, typing: bool = True) -> list[tuple[str, str]]:
    """Return the (module, name) that a file imports from the package, a module's name as module."""
    inside = []
    for module, name in imports(path, typing=typing):
        if module.split(".")[0] == "pruneviz":
            below = module.removeprefix("pruneviz").lstrip(".")
            full = f"{below}.{name}".lstrip(".")
            inside.append((full, "") if full in FILES else (below, name))
    return inside


HOUSE = [n for n in FILES if n not in ("", "_version")]


@pytest.mark.parametrize("name", HOUSE)
def test_imports_point_down(name):
    room = name.split(".")[0]
    for other, _ in own(FILES[name]):
        there, *deep = other.split(".")
        if other == "_version" or there == room:
            continue
        assert there, f"{name} imports from the root: import from the file that defines"
        if room == "plots":
            assert there == "core", f"{name}: plots know words only, not {other}"
        elif there == "plots":
            assert room in ("panels", "report", "lessons"), f"{name} computes, and does not draw"
        else:
            assert FLOOR[there] < FLOOR[room], f"{name} imports {other}, which stands above it"
        if len(deep) > 1:
            assert room in SUBROOMS.get(other, ()), f"{name} reaches into {other}"


def test_no_circle_of_imports():
    graph = {n: {o for o, _ in own(FILES[n], typing=False)} - {n} for n in FILES}
    # a sub-room that registers what its files define knows them, and they know it not
    for n in graph:
        graph[n] = {o for o in graph[n] if not n.startswith(f"{o}.")}
    TopologicalSorter(graph).prepare()  # raises CycleError, and names the circle


@pytest.mark.parametrize("name", FILES)
def test_no_private_name_crosses_a_file(name):
    for module, what in own(FILES[name]):
        assert not what.startswith("_"), f"{name} imports {what} from {module}"
        assert not module.split(".")[-1].startswith("_") or module == "_version"
    modules = {m.split(".")[-1] for m, what in own(FILES[name]) if not what}
    for node in ast.walk(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            crosses = node.value.id in modules and node.attr.startswith("_")
            assert not crosses, f"{name} reads {node.value.id}.{node.attr}"


def test_the_exceptions_are_needed():
    used = {(o, n.split(".")[0]) for n in HOUSE for o, _ in own(FILES[n])}
    assert {(o, room) for o, rooms in SUBROOMS.items() for room in rooms} <= used


def test_the_house_can_be_surveyed():
    folders = [PACKAGE, *(p for p in PACKAGE.rglob("*") if p.is_dir())]
    for folder in folders:
        inside = [p for p in folder.iterdir() if p.name != "__pycache__"]
        assert len(inside) <= (22 if folder == PACKAGE else 20), folder


@pytest.mark.parametrize("name", FILES)
def test_no_function_is_long(name):
    text = FILES[name].read_text(encoding="utf-8")
    code = CODE_LINES(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            own_lines = code & {*range(node.lineno, (node.end_lineno or 0) + 1)}
            assert len(own_lines) <= 60, f"{name}.{node.name} has {len(own_lines)} lines of code"


def test_each_room_says_what_it_answers():
    for folder in PACKAGE.rglob("*"):
        if folder.is_dir() and folder.name != "__pycache__" and any(folder.glob("*.py")):
            tree = ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))
            assert ast.get_docstring(tree), folder
            if folder.name not in ("lessons", "rules", "criteria"):  # these export, or register
                assert len(tree.body) == 1, f"{folder}: a docstring only"


@pytest.mark.parametrize("name", [n for n in HOUSE if n.split(".")[0] == "plots"])
def test_plots_never_see_a_tensor(name):
    assert "torch" not in {m.split(".")[0] for m, _ in imports(FILES[name])}


@pytest.mark.parametrize("name", [n for n in HOUSE if n.split(".")[0] == "panels"])
def test_panels_hold_no_maths(name):
    found = {m.split(".")[0] for m, _ in imports(FILES[name], typing=False)}
    assert not found & {"torch", "numpy"}


def test_only_panels_make_widgets():
    makers = {
        n.split(".")[0]
        for n in HOUSE
        for m, _ in imports(FILES[n], typing=False)
        if m.split(".")[0] in ("ipywidgets", "anywidget")
    }
    assert makers == {"panels"}


@pytest.mark.parametrize("name", FILES)
def test_every_file_can_be_imported(name):
    importlib.import_module(f"pruneviz.{name}".rstrip("."))


def test_tests_stand_beside_what_they_test():
    tests = ROOT / "tests"
    apart = {
        "contracts",
        "zoo",
        "tasks",
        "browser",
        "helpers",
        "lessons",
    }  # lessons: of the notebooks, too
    for path in tests.rglob("test_*.py"):
        room = path.relative_to(tests).parent
        if room.parts[0] in apart:
            continue
        subject = path.stem.removeprefix("test_")  # or a file's name and one aspect of it
        files = {p.stem for p in (PACKAGE / room).glob("*.py")}
        assert any(subject == f or subject.startswith(f"{f}_") for f in files), path

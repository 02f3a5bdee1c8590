"""Imports point down only (design: layers), and `import pruneviz` stays cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "pruneviz"

# from the ground up; a module may import what stands in a lower row, or in its own
LAYERS = [
    {"_version", "types", "slices", "group", "_check", "_json", "moments"},
    {
        "_inputs",
        "_copy",
        "criteria",
        "schedules",
        "similarity",
        "uncertainty",
        "correlations",
        *("fingerprint", "runs"),
        "repair",
        "obs",
        "_intervals",
        "_interval_rules",
        "packing",
        "handwritten",
    },
    {"seen"},
    {
        "select",
        "ranked",
        "drop",
        "amend",
        "pairs",
        "hooks",
        "evidence",
        "streams",
        "losses",
        "squares",
    },
    {"weights", "tensors", "_attention", "sleepers", "prefix"},
    {"consumers", "gradients", "collect", "facts", "elimination", "activations"},
    {
        *(
            "groups.atoms",
            "groups.forward",
            "groups.trace",
            "groups.values",
            "groups.walk",
            "groups.rules",
            "groups.moves",
        ),
        *("groups.rulebook", "groups.products", "groups.norms", "groups.shapes"),
        *("groups.fate", "groups.run", "groups.build", "groups.silence", "groups"),
    },
    {
        "score",
        "latency",
        "measure",
        "metrics",
        "judge",
        "paired",
        "ablation",
        "work",
        "timing",
        "bounds",
        "incoming",
        "twins",
    },
    {"surgery"},
    {
        "fit",
        "removal",
        "folds",
        "sizes",
        "proof",
        "sites",
        "fitting",
        "refit",
        "refit_weights",
        "recalibrate",
        "blind",
        "compare",
        "rescale",
    },
    {"mask", "shrink", "sparse"},
    {"targets", "rounds", "ticket"},
    {"prune", "store", "free", "certificate", "spread", "card", "variants", "encodings"},
    {"iterate", "question", "sweep", "sensitivity", "allocate", "tradeoff", "costs", "crossover"},
    {"examples"},
    {"whatif"},
    {
        *("plots", "plots.style", "plots.weights", "plots.images", "plots.curves", "plots.svg"),
        "plots.schedule",
        *(
            "plots.groups",
            "plots.network",
            "plots.twins",
            "plots.pair",
            "plots.heat",
            "plots.sleepers",
            "plots.card",
            "plots.damage",
            "plots.tradeoff",
            "plots.sensitivity",
            "plots.bytes",
            "plots.crossover",
            "plots.costs",
            "plots.whatif",
        ),
    },
    {
        *("panels.schedule", "panels.whatif", "panels.background", "panels.hand"),
        *(
            "panels.history",
            "panels.remembering",
            "panels.toolbar",
            "panels.touch",
            "panels.touched",
            "panels.cells",
            "panels.choice",
        ),
        *(
            "panels.slider",
            *("panels.base", "panels.still"),
            "panels.strip",
            "panels.weights",
            "panels.neurons",
            *("panels.unit", "panels.asleep"),
            *("panels.twins", "panels.pair"),
        ),
        *("panels.sleepers", "panels.card", "panels.tradeoff", "panels.costs", "panels"),
    },
    {
        *("lessons", "lessons.data", "lessons.models", "lessons.checkpoints", "lessons.train"),
        *("lessons.guess", "lessons.exercises", "lessons.answers", "lessons.show"),
        *(
            "lessons.notebooks",
            "lessons.curves",
            "lessons.answers_judge",
            "lessons.answers_sleepers",
            "lessons.answers_twins",
            "lessons.answers_criteria",
            "lessons.answers_rounds",
        ),
        "lessons.answers_costs",
    },
    {""},
]
RANK = {name: i for i, names in enumerate(LAYERS) for name in names}
FILES = {
    ".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix("__init__").rstrip("."): p
    for p in PACKAGE.rglob("*.py")
}


def imported(path: Path) -> set[str]:
    """Modules that a file imports when it runs: those under TYPE_CHECKING do not count."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{a.name}" for a in node.names}
    return found


def own(names: set[str]) -> set[str]:
    """The package's own modules among them, by their names in the table."""
    inside = {n.removeprefix("pruneviz").lstrip(".") for n in names if n.startswith("pruneviz")}
    return {n if n in RANK else n.rpartition(".")[0] for n in inside}


def test_every_module_has_its_place():
    assert set(FILES) == set(RANK)


@pytest.mark.parametrize("name", sorted(FILES))
def test_imports_point_down(name):
    for other in own(imported(FILES[name])):
        assert RANK[other] <= RANK[name], f"{name} imports {other}, which stands above it"


@pytest.mark.parametrize("name", [n for n in sorted(FILES) if n.startswith("plots")])
def test_plots_know_words_and_plots_only(name):
    names = imported(FILES[name])
    assert not {n for n in names if n.split(".")[0] == "torch"}
    assert {n for n in own(names) if not n.startswith("plots")} <= {"types", "_check"}


@pytest.mark.parametrize("name", [n for n in sorted(FILES) if n.startswith("panels")])
def test_panels_hold_no_maths(name):
    assert not {n for n in imported(FILES[name]) if n.split(".")[0] in {"torch", "numpy"}}


def test_import_is_cheap():
    heavy = ["ipywidgets", "matplotlib", "seaborn", "pandas", "IPython", "sklearn", "nbformat"]
    code = f"import sys, torch; before = set(sys.modules); import pruneviz; \
        print(sorted(set({heavy}) & (set(sys.modules) - before)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_the_public_surface_is_documented_and_there():
    import pruneviz as pv

    for name in pv.__all__:
        assert getattr(pv, name) is not None
        assert name in pv.__doc__, f"{name} is missing in the package's docstring"
    with pytest.raises(AttributeError, match="no attribute 'prune_everything'"):
        _ = pv.prune_everything
    assert dir(pv) == sorted(pv.__all__)

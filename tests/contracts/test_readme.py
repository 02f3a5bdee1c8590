"""The README tells the truth (its example is a doctest of its own)."""

import re
from pathlib import Path

import pytest
import torch

import pruneviz as pv
from pruneviz import lessons

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(pv.CRITERIA))
def test_the_table_of_criteria_is_the_registry(name):
    c = pv.CRITERIA[name]
    where = {"layer": "within the layer", "global": "over all layers"}[c.scope]
    formula = c.formula.replace("|", "\\|")
    assert f"| `{name}` | {formula.removeprefix('score ')} | {where} | {c.source} |" in TEXT


@pytest.mark.parametrize("name", sorted(lessons.NETWORKS))
def test_the_table_of_networks(name):
    model = lessons.build(name)
    weights = sum(w.numel() for w in pv.named_weights(model).values())
    macs = pv.measure(model, torch.zeros(1, 1, 28, 28)).macs
    right = lessons.record(name)["test_accuracy"]
    assert f"| `{name}` | {weights:,} | {macs:,} | {right:.3f} |" in TEXT


def test_every_lesson_is_listed_and_every_target_is_there():
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        assert f"(notebooks/{path.name})" in TEXT
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("lab", "test"):
        assert f"make {target}" in TEXT and f"\n{target}:" in targets


def test_the_walk_through_the_code_is_true():
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 150
    sources = [*ROOT.glob("pruneviz/**/*.py"), *ROOT.glob("tests/contracts/*.py")]
    files = {str(p.relative_to(ROOT)): p.read_text("utf-8") for p in sources}
    for quoted in re.findall(r"`([^`\n]+)`", text):
        if re.fullmatch(r"[\w/]+\.py", quoted):  # of its room, or of the repository
            assert (ROOT / quoted).is_file() or any(f.endswith(f"/{quoted}") for f in files), quoted
        elif re.fullmatch(r"tests/[\w/]+", quoted):
            assert (ROOT / quoted).is_dir(), quoted
        elif re.fullmatch(r"\w+(\.\w+)?", quoted):  # a name that stands in the code
            name = quoted.rpartition(".")[2]
            assert any(re.search(rf"\b{name}\b", code) for code in files.values()), quoted
    targets = (ROOT / "Makefile").read_text(encoding="utf-8")
    for page in ("ARCHITECTURE.md", "CONTRIBUTING.md"):
        for target in re.findall(r"\bmake (\w+)", (ROOT / page).read_text(encoding="utf-8")):
            assert f"\n{target}:" in targets, target

"""The README tells the truth (its example is a doctest of its own)."""

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

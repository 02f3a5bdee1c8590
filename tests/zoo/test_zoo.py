"""Every model of the zoo: cut rightly, or refused with a reason; never wrong, never a raw traceback."""

from __future__ import annotations

import re

import pytest

from .awkward import AWKWARD
from .borrowed import FOLDER
from .case import Case
from .conftest import ENOUGH, share
from .judge import PROGRAM, Verdict, judge
from .language import TRANSFORMERS
from .vision import TIMM, TORCHVISION

QUICK = "bert-sdpa gpt2 llama t5 whisper mamba vit swin".split()
SEEN: list[dict] = []


def told(record_property, part: str, case: Case, approximate: bool, v: Verdict) -> None:
    """Leave a line for the table at the end of the run."""
    shown = [re.sub(r"'[^']*'|[\d.e+-]*\d", "…", why)[:110] for why in v.frozen.values()]
    shown += [re.sub(r" at .*", "", why)[:60] for what, why in v.refused.items() if what != "all"]
    program = [n for n in v.cut if n.endswith(PROGRAM) and n != f"all{PROGRAM}"]
    row = {
        "list": part,
        "name": case.name,
        "approximate": approximate,
        "exported": v.exported,
        # some awkward modules are there to be refused
        "possible": bool(case.cuts or case.approximate or part != "awkward"),
        "own": v.groups - len(program),
        "program": len(program),
        "refused": sum(n.endswith(PROGRAM) for n in v.refused),
        "wrong": len(v.wrong),
        "reasons": shown,
    }
    record_property("verdict", row)
    SEEN.append(row)


def check(record_property, part: str, case: Case) -> None:
    v = judge(case)
    told(record_property, part, case, True, v)
    assert not v.trouble, v.trouble
    if case.approximate or any(how == "approximate" for how in v.cut.values()):
        v = judge(case, approximate=False)
        told(record_property, part, case, False, v)
        assert not v.trouble, v.trouble


@pytest.mark.parametrize("case", AWKWARD, ids=lambda case: case.name)
def test_awkward(case, record_property):
    check(record_property, "awkward", case)


def test_enough_of_the_awkward_ones_are_cut():
    rows = [r for r in SEEN if r["approximate"] and r["list"] == "awkward"]
    if len(rows) < len(AWKWARD):
        pytest.skip("some of them ran elsewhere, or not at all")
    assert share(rows) >= ENOUGH


some = [
    pytest.param(c, id=c.name, marks=() if c.program or i % 6 == 0 else pytest.mark.zoo)
    for i, c in enumerate(AWKWARD)
]


@pytest.mark.parametrize("case", some)
def test_awkward_as_a_program(case):
    v = judge(case, programs=True)
    assert not v.trouble, v.trouble


def slow(cases: list[Case]):
    quick = {case.name: () for case in TRANSFORMERS if case.name in QUICK}
    return [pytest.param(c, id=c.name, marks=quick.get(c.name, pytest.mark.zoo)) for c in cases]


def test_the_quick_ones_are_there():
    assert set(QUICK) <= {case.name for case in TRANSFORMERS}


@pytest.mark.parametrize("case", slow(TRANSFORMERS))
def test_transformers(case, record_property):
    check(record_property, "transformers", case)


needs_folder = pytest.mark.skipif(not FOLDER.exists(), reason="`make zoo` fetches them")


@needs_folder
@pytest.mark.parametrize("case", slow(TORCHVISION))
def test_torchvision(case, record_property):
    check(record_property, "torchvision", case)


@needs_folder
@pytest.mark.parametrize("case", slow(TIMM))
def test_timm(case, record_property):
    check(record_property, "timm", case)

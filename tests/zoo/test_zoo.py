"""Every model of the zoo is cut correctly, or refused with a reason: never wrong, never a traceback.

`make test` runs the small modules and some transformers; `make zoo` runs all, and prints a table.
"""

from __future__ import annotations

import os

import pytest

from .awkward import AWKWARD
from .case import Case
from .judge import Verdict, judge
from .language import TRANSFORMERS
from .vision import TIMM, TORCHVISION

QUICK = """bert-sdpa gpt2 llama t5 whisper mamba vit swin convnext all-MiniLM-L6-v2""".split()
SLOW = [*TRANSFORMERS, *TORCHVISION, *TIMM]
VERDICTS: list[Verdict] = []


def cases() -> list[object]:
    small = [pytest.param(c, id=c.name) for c in AWKWARD]
    quick = [pytest.param(c, id=c.name) for c in SLOW if c.name in QUICK]
    slow = [pytest.param(c, id=c.name, marks=pytest.mark.zoo) for c in SLOW if c.name not in QUICK]
    return [*small, *quick, *slow]


@pytest.mark.filterwarnings("ignore")  # other people's models warn
@pytest.mark.parametrize("case", cases())
def test_right_or_refused(case: Case):
    small = case in AWKWARD
    verdict = judge(case, singly=small)
    VERDICTS.append(verdict)
    assert not verdict.wrong, "\n".join(verdict.wrong)
    assert not (small and verdict.missed), "\n".join(verdict.missed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [c for c in AWKWARD if c.approximate], ids=lambda c: c.name)
def test_norms_over_units_stay_unless_asked(case: Case):
    verdict = judge(case, approximate=False)
    assert not verdict.wrong, "\n".join(verdict.wrong)


def report(verdicts: list[Verdict]) -> str:
    """One line a model that was not simply cut, and the sums."""
    known = [v for v in verdicts if v.exported]
    cut = [v for v in known if v.cut]
    lines = [f"{v.name}: {'; '.join([*v.refused.values(), *v.frozen.values()])[:160]}"
             for v in verdicts if not v.cut]  # fmt: skip
    return "\n".join([
        *lines,
        f"{len(verdicts)} models, {len(known)} traced, {len(cut)} cut in at least one group "
        f"({len(cut) / max(1, len(known)):.1%}), {sum(bool(v.wrong) for v in verdicts)} wrong",
    ])  # fmt: skip


def test_nearly_all_are_cut():
    """The last test of the file: at least 95 % of the models that can be traced lose something."""
    known = [v for v in VERDICTS if v.exported]
    if len(known) < 20:
        pytest.skip("run together with the cases")
    text = report(VERDICTS)
    folder = os.environ.get("ZOO_REPORT")
    if folder:
        with open(folder, "a", encoding="utf-8") as file:
            file.write(text + "\n")
    print(text)
    hidden = [v for v in known if v.cut or has_hidden(v)]
    assert sum(bool(v.cut) for v in hidden) >= 0.95 * len(hidden), text


def has_hidden(v: Verdict) -> bool:
    """Whether there was a group that is not frozen by the case's own design."""
    return v.name not in {c.name for c in AWKWARD if not c.cuts and not c.approximate}

"""A table of all that was judged, after the tests; with too few models cut the run fails."""

from __future__ import annotations

from collections import Counter
from typing import Any

ENOUGH = 0.95
_rows: list[dict[str, Any]] = []


def pytest_runtest_logreport(report):
    if report.when == "call":
        _rows.extend(value for name, value in report.user_properties if name == "verdict")


def share(rows: list[dict[str, Any]]) -> float:
    """Of the models that export and have a unit that can go, those with at least one hidden group cut."""
    exported = [r for r in rows if r["exported"] and r["possible"]]
    return sum(bool(r["own"] or r["program"]) for r in exported) / max(1, len(exported))


def pytest_sessionfinish(session):
    if hasattr(session.config, "workerinput"):
        return
    parts = Counter(r["list"] for r in _rows if r["approximate"])
    whole = all(n >= 50 for n in parts.values())  # not for some picked by -k
    if whole and any(share(_of(part)) < ENOUGH for part in parts):
        session.exitstatus = 1


def pytest_terminal_summary(terminalreporter):
    rows = [r for r in _rows if r["approximate"]]
    if not rows:
        return
    write = terminalreporter.write_line
    terminalreporter.section("the zoo")
    write(
        f"{'':12} models  exported  cut  only as a program  nothing cut  groups cut  refused  wrong"
    )
    for part in dict.fromkeys(r["list"] for r in rows):
        these = _of(part)
        sums = {
            "models": len(these),
            "exported": sum(r["exported"] for r in these),
            "cut": sum(bool(r["own"]) for r in these),
            "program": sum(not r["own"] and bool(r["program"]) for r in these),
            "nothing": sum(r["exported"] and not (r["own"] or r["program"]) for r in these),
            "groups": sum(r["own"] + r["program"] for r in these),
            "refused": sum(r["refused"] for r in these),
            "wrong": sum(r["wrong"] for r in these),
        }
        widths = (6, 9, 4, 18, 12, 11, 8, 6)
        line = " ".join(f"{n:>{w}}" for n, w in zip(sums.values(), widths, strict=True))
        write(f"{part:12} {line}   {100 * share(these):.1f} % of those with units to cut")
    reasons = Counter(why for r in rows for why in r["reasons"])
    write("why groups were frozen or refused:")
    for why, n in reasons.most_common(25):
        write(f"  {n:5}  {why}")
    none = [r["name"] for r in rows if r["exported"] and not (r["own"] or r["program"])]
    write(f"nothing cut in: {', '.join(none)}")
    write(f"not exported: {', '.join(r['name'] for r in rows if not r['exported'])}")


def _of(part: str) -> list[dict[str, Any]]:
    return [r for r in _rows if r["approximate"] and r["list"] == part]

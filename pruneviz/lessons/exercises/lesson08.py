"""Which exercises lesson 08 has, on judging a result: checks, hints, solutions."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from scipy.stats import binomtest

from pruneviz.lessons.exercises.exercise import exercise
from pruneviz.lessons.recorded import curves
from pruneviz.study.pareto import choose, pareto

FLIPS = (  # (9, 2): a one-sided test would give p = 0.03; 1.96 standard deviations would be 6.5
    *((17, 10), (10, 17), (191, 128), (128, 191), (3, 0), (0, 3)),
    *((0, 9), (9, 0), (9, 2), (2, 9), (5, 5), (0, 0)),
)
LIMITS: dict[str, dict[str, Any]] = {
    "phone": {"at_most": {"bytes": 250_000}},
    "server": {"at_least": {"metric": 0.88}, "best": "-macs"},
    "toy": {"at_most": {"macs": 20_000, "bytes": 100_000}},
}


@exercise(
    "08-noise",
    hints=(
        "the sum is in the lesson: of worse + better coins, how likely is it that at most the "
        "smaller number falls on its side? Both sides count, so twice that.",
        "tail = sum(math.comb(n, k) for k in range(min(worse, better) + 1)) / 2**n, with "
        "n = worse + better; compare 2 * tail with 0.05.",
    ),
    solution="""\
def is_noise(worse, better):
    n = worse + better
    tail = sum(math.comb(n, k) for k in range(min(worse, better) + 1)) / 2**n
    return 2 * tail > 0.05
""",
)
def noise(answer: Any) -> str:
    """Check a function that tells whether flips are no more uneven than those of a fair coin."""
    for worse, better in FLIPS:
        got = answer(worse, better)
        if got not in (True, False):
            return "It must return True (noise) or False (more than noise)."
        truth = not worse + better or binomtest(worse, worse + better).pvalue > 0.05
        if bool(got) == truth:
            continue
        if not worse + better:
            return "Where nothing flipped there is no difference: noise."
        if worse < better:
            return f"{worse} worse and {better} better: luck can help as well as hurt, count both."
        if (worse, better) == (9, 2):
            return "9 worse and 2 better is noise: uneven the other way counts too, so double it."
        word = "noise" if truth else "more than noise"
        return f"{worse} worse and {better} better is {word}: look at the flipped images only."
    return ""


@exercise(
    "08-customers",
    hints=(
        "one call for each: what may not be exceeded goes into at_most, what must be reached into "
        "at_least; best names the column that decides among the rest, '-macs' for the fewest.",
        'the phone: pv.choose(points, at_most={"bytes": 250_000}). The metric decides by itself.',
    ),
    solution="""\
answer = {
    "phone": pv.choose(points, at_most={"bytes": 250_000}),
    "server": pv.choose(points, at_least={"metric": 0.88}, best="-macs"),
    "toy": pv.choose(points, at_most={"macs": 20_000, "bytes": 100_000}),
}
""",
)
def customers(answer: Any) -> str:
    """Check the operating points of three customers."""
    if not isinstance(answer, Mapping):
        return 'The answer is a dict: {"phone": row, "server": row, "toy": row}.'
    truth = _customers()
    for name, best_row in truth.items():
        if name not in answer:
            return f"The {name} is missing."
        row = answer[name]
        try:
            values = {column: float(row[column]) for column in ("macs", "bytes", "metric")}
        except (KeyError, TypeError, ValueError, IndexError):
            return f"The {name} needs a row of points, such as pv.choose(points, ...) returns."
        limits = LIMITS[name]
        for column, highest in limits.get("at_most", {}).items():
            if values[column] > highest:
                return f"The {name} gets {values[column]:,.0f} {column}: more than {highest:,}."
        for column, lowest in limits.get("at_least", {}).items():
            if values[column] < lowest:
                return f"The {name} gets a {column} of {values[column]:.3f}: less than {lowest:g}."
        best = limits.get("best", "metric").removeprefix("-")
        if abs(values[best] - best_row[best]) > 1e-6 * abs(best_row[best]):
            return f"The {name} could have a better {best} within its limits."
    return ""


@cache
def _customers() -> dict[str, Any]:
    frame = curves("tradeoff")
    keys = ["criterion", "repair", "target_sparsity"]
    size = frame.groupby(keys, as_index=False)["bytes"].mean()
    points = pareto(frame).merge(size, on=keys)
    return {name: choose(points, **limits) for name, limits in LIMITS.items()}

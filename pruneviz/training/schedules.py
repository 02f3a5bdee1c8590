"""How the sparsity rises over the rounds of iterative pruning."""

from __future__ import annotations

from collections.abc import Callable

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError

# density at time t in (0, 1], on the way from density a to density b
SCHEDULES: dict[str, Callable[[float, float, float], float]] = {
    "one-shot": lambda a, b, t: b,
    "linear": lambda a, b, t: a + (b - a) * t,
    "cubic": lambda a, b, t: b + (a - b) * (1 - t) ** 3,
    "geometric": lambda a, b, t: a * (b / a) ** t,
}


def schedule(kind: str, sparsity: float, *, rounds: int = 1, start: float = 0.0) -> list[float]:
    """Return the sparsity to reach in each round; the last one is `sparsity`.

    Parameters
    ----------
    kind : str
        ``"one-shot"``: all in one round. ``"linear"``: equal steps of sparsity. ``"cubic"``: large
        steps first, s + (start - s)(1 - t)³. ``"geometric"``: each round drops the same share of
        what is still kept.
    sparsity : float
        Sparsity of the last round, in [0, 1).
    rounds : int
        Number of rounds; a one-shot schedule has one.
    start : float
        Sparsity before the first round, in [0, `sparsity`].

    Returns
    -------
    list of float
        The sparsity of each round; it never falls.

    Raises
    ------
    ArgumentError
        If the kind is unknown, a value is out of range, or the schedule would fall.

    References
    ----------
    Zhu & Gupta 2017, "To prune, or not to prune", arXiv:1710.01878, eq. 1 (cubic).
    Frankle & Carbin 2019, "The Lottery Ticket Hypothesis", arXiv:1803.03635 (geometric).

    Examples
    --------
    >>> import pruneviz as pv
    >>> pv.schedule("geometric", 0.75, rounds=2)
    [0.5, 0.75]
    >>> [round(s, 3) for s in pv.schedule("cubic", 0.8, rounds=4)]
    [0.463, 0.7, 0.788, 0.8]
    """
    shape = SCHEDULES[checks.choice(kind, "kind", SCHEDULES, what="schedule")]
    end = checks.sparsity(sparsity)
    begin = checks.sparsity(start, "start")
    rounds = checks.count(rounds, "rounds", low=1)
    if begin > end:
        raise ArgumentError(
            f"`start` must not be above `sparsity`, but {begin:g} is above {end:g}: a schedule "
            "never falls. Pass a smaller `start`."
        )
    if kind == "one-shot" and rounds != 1:
        raise ArgumentError(
            f"a one-shot schedule has one round, but rounds={rounds} was passed. "
            "Try 'geometric' or 'cubic'."
        )
    rising = [1 - shape(1 - begin, 1 - end, t / rounds) for t in range(1, rounds)]
    return [*rising, end]

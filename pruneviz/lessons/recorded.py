"""Runs that take too long for a lesson, recorded once: tables in ``data/curves/``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.lessons.data import data_dir

if TYPE_CHECKING:
    import pandas as pd


def curves(name: str) -> pd.DataFrame:
    """Return a recorded run, one row a measurement.

    Parameters
    ----------
    name : str
        Such as ``"tradeoff"``: a file of ``data/curves/`` without its ending.

    Raises
    ------
    ArgumentError
        If there is no such run, or its file is damaged.

    Examples
    --------
    >>> curves("tradeoff")["seed"].nunique() >= 3
    True
    """
    import pandas as pd

    path = data_dir() / "curves" / f"{_known(name)}.csv"
    try:
        return pd.read_csv(path)
    except ValueError as e:
        raise ArgumentError(
            f"{path} is no table ({e}). Take it from the repository again: git checkout {path.name}."
        ) from e


def curves_record(name: str) -> dict[str, Any]:
    """Return what was noted with a recorded run: machine, versions, the command.

    Examples
    --------
    >>> curves_record("tradeoff")["command"].startswith("python benchmarks/")
    True
    """
    path = data_dir() / "curves" / f"{_known(name)}.json"
    if not path.is_file():
        raise ArgumentError(
            f"the notes of the run {name!r} must lie in {path}, but it is not there."
        )
    notes: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notes


def _known(name: str) -> str:
    known = [p.stem for p in (data_dir() / "curves").glob("*.csv")]
    return checks.choice(name, "name", known, what="recorded run")

"""Which runs are recorded because they take too long for a lesson: tables in ``data/curves/``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.imports import imported
from pruneviz.lessons.data import data_dir

if TYPE_CHECKING:
    import pandas as pd


def curves(name: str) -> pd.DataFrame:
    """Return a recorded run, one row a measurement.

    Parameters
    ----------
    name : str
        Name of a file in ``data/curves/`` without its extension, such as ``"tradeoff"``.

    Raises
    ------
    ArgumentError
        If there is no such run, or its file is damaged.

    Examples
    --------
    >>> curves("tradeoff")["seed"].nunique() >= 3
    True
    """
    pd = imported("pandas")

    path = data_dir() / "curves" / f"{_known(name)}.csv"
    try:
        return pd.read_csv(path)
    except ValueError as e:
        raise ArgumentError(
            f"{path} is not a readable table ({e}). Restore it: git checkout -- {path}."
        ) from e


def curves_record(name: str) -> dict[str, Any]:
    """Return the notes of a recorded run: machine, versions, command.

    Examples
    --------
    >>> curves_record("tradeoff")["command"].startswith("python benchmarks/")
    True
    """
    path = data_dir() / "curves" / f"{_known(name)}.json"
    if not path.is_file():
        raise ArgumentError(
            f"the notes of the run {name!r} must be in {path}, but there is no such file. "
            f"Restore it: git checkout -- {path}."
        )
    notes: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return notes


def _known(name: str) -> str:
    known = [p.stem for p in (data_dir() / "curves").glob("*.csv")]
    return checks.choice(name, "name", known, what="recorded run")

"""Many rows, one after the other or side by side: kept as they come, and taken up again."""

from __future__ import annotations

import csv
import json
import pickle
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, GraphError

Row = dict[str, Any]
MARK = "# pruneviz "


class Job(Protocol):
    """What is the same for all rows. It is sent to other processes: it holds arguments only."""

    def start(self) -> Callable[[Row], Row]:
        """Return what makes a row: from the columns that ask, to those that answer."""


@dataclass(frozen=True)
class Table:
    """The columns of a table, and where it is kept.

    Parameters
    ----------
    verb : str
        Who makes it.
    asks, answers : mapping of str to type
        Columns that say what a row is, and columns that come of it: `int`, `float` or `str`.
    path : Path or None
        Of a CSV.
    arguments : mapping of str to JSON
        What another call must agree in to go on from there.
    """

    verb: str
    asks: Mapping[str, type]
    answers: Mapping[str, type]
    path: Path | None
    arguments: Mapping[str, Any]

    def key(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return what tells a row from the others."""
        return tuple(kind(row[c]) for c, kind in self.asks.items())

    def read(self) -> list[Row]:
        """Return the rows that the CSV holds, after taking away a line that was cut off; or raise."""
        if self.path is None or not self.path.exists() or not self.path.stat().st_size:
            return []
        columns = {**self.asks, **self.answers}
        try:
            text = self.path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            head, names, *lines = [*whole.splitlines(), "", ""]
            if not names and MARK.startswith(text[: len(MARK)]):  # stopped in the first two lines
                whole, lines = "", []
            else:
                if not head.startswith(MARK) or names != ",".join(columns):
                    raise ValueError("it does not begin as such a table does")
                before = json.loads(head.removeprefix(MARK))
                if before["verb"] != self.verb:
                    raise ValueError(f"it holds a table of pv.{before['verb']}")
                self._compare(before["arguments"])
            rows = [
                {c: kind(v) for (c, kind), v in zip(columns.items(), values, strict=True)}
                for values in csv.reader(filter(None, lines))
            ]
        except ArgumentError:
            raise
        except (OSError, KeyError, TypeError, ValueError) as e:
            raise ArgumentError(
                f"`path` {str(self.path)!r} holds no table of pv.{self.verb}, or is damaged ({e}). "
                "Name another file, or delete this one."
            ) from e
        if whole != text:
            self.path.write_text(whole, encoding="utf-8")
        return rows

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows to the CSV."""
        if self.path is None:
            return
        columns = [*self.asks, *self.answers]
        try:
            with self.path.open("a", encoding="utf-8", newline="") as f:
                out = csv.writer(f, lineterminator="\n")
                if not f.tell():
                    f.write(f"{MARK}{self._head()}\n")
                    out.writerow(columns)
                out.writerows([repr(v) if isinstance(v, float) else v for v in map(row.get, columns)]
                              for row in rows)  # fmt: skip
        except OSError as e:
            raise ArgumentError(f"`path` {str(self.path)!r} cannot be written: {e}.") from e

    def _head(self) -> str:
        return json.dumps({"verb": self.verb, "arguments": self.arguments})

    def _compare(self, before: Mapping[str, Any]) -> None:
        now = json.loads(json.dumps(dict(self.arguments)))
        other = [k for k in {**now, **before} if now.get(k) != before.get(k)]
        if other:
            was = ", ".join(
                f"`{k}` (was {before.get(k)!r} there, is {now.get(k)!r})" for k in other
            )
            raise ArgumentError(
                f"`path` {str(self.path)!r} holds the rows of another call: {was}. "
                "Name another file, or delete this one."
            )


def all_rows(
    job: Job,
    asked: Sequence[Row],
    table: Table,
    *,
    same: Callable[[Row], Row] = lambda row: row,
    n_jobs: int | None = None,
    progress: bool = True,
) -> list[Row]:
    """Return all rows, in the order in which they were asked for.

    Rows that the table's CSV holds are not made again, others are written into it as they come; so
    are, of rows of which `same` says that they come out the same, all but one.

    Raises
    ------
    ArgumentError, GraphError
        If a row fails: with its name. Rows made before are in the CSV.
    """
    import joblib
    from tqdm.auto import tqdm

    jobs = None if n_jobs is None else checks.count(n_jobs, "n_jobs", low=-1)
    if jobs == 0:
        raise ArgumentError("`n_jobs` must be 1 or more, or -1 for all cores, but 0 was passed.")
    alike: dict[tuple[Any, ...], list[Row]] = {}  # what has to be made -> the rows it answers
    for row in asked:
        alike.setdefault(table.key(same(row)), []).append(row)
    answers: dict[tuple[Any, ...], Row] = {}
    kept = {table.key(row): row for row in table.read()}
    for key, rows in alike.items():
        here = [kept[k] for k in map(table.key, rows) if k in kept]
        if here:
            answers[key] = {c: here[0][c] for c in table.answers}
            table.write([{**r, **answers[key]} for r in rows if table.key(r) not in kept])
    table.write([])  # now, not after the first row, one learns that it cannot be written
    todo = [(key, same(rows[0])) for key, rows in alike.items() if key not in answers]
    shared = _Shared(job)
    if _elsewhere(jobs):
        shared.pack()  # here, where an error can be raised
    with tqdm(
        total=len(asked), initial=sum(len(alike[k]) for k in answers),
        desc=table.verb, disable=not progress, leave=False, unit="row",
    ) as bar:  # fmt: skip
        parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
        try:
            for key, answer in parallel(joblib.delayed(_made)(shared, k, r) for k, r in todo):
                answers[key] = {c: kind(answer[c]) for c, kind in table.answers.items()}
                table.write([{**r, **answers[key]} for r in alike[key]])
                bar.update(len(alike[key]))
        finally:
            _started.__dict__.clear()
    return [{**row, **answers[table.key(same(row))]} for row in asked]


def failed(what: str, e: Exception) -> Exception:
    """Return an error that says in which row it happened, of the same kind where it is one of ours."""
    kind = type(e) if isinstance(e, (ArgumentError, GraphError)) else ArgumentError
    said = str(e) if kind is type(e) else f"{type(e).__name__}: {e}"
    return kind(f"in the row of {what}: {said}")


def several(values: Any, name: str) -> list[Any]:
    """Return an argument that must be a list as one; or raise.

    >>> several(0.5, "sparsities")
    Traceback (most recent call last):
    ...
    pruneviz.ArgumentError: `sparsities` must be a list, but 0.5 was passed. Try [0.5].
    """
    if isinstance(values, (str, float, int)) or not isinstance(values, Iterable):
        raise ArgumentError(
            f"`{name}` must be a list, but {values!r} was passed. Try [{values!r}]."
        )
    listed = list(values)
    if not listed:
        raise ArgumentError(f"`{name}` is empty: there is nothing to run.")
    return listed


def _elsewhere(jobs: int | None) -> bool:
    """Whether rows are made in other processes."""
    import joblib
    from joblib.parallel import get_active_backend

    backend = get_active_backend()[0]
    alone = joblib.effective_n_jobs(jobs) == 1 and "dask" not in type(backend).__module__
    return not (alone or getattr(backend, "supports_sharedmem", False))


class _Shared:
    """The job, sent to each process once: as bytes, which joblib maps and Dask scatters."""

    def __init__(self, job: Job, token: str = "") -> None:
        self.job, self.token = job, token or uuid.uuid4().hex
        self.packed: np.ndarray | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (self.token, self.pack())

    def __sizeof__(self) -> int:
        return self.pack().nbytes

    def pack(self) -> np.ndarray:
        """Return the job as bytes; or raise."""
        import joblib

        if self.packed is None:
            try:  # by cloudpickle: also what stands in a notebook
                job = joblib.wrap_non_picklable_objects(self.job, keep_wrapper=False)
                self.packed = np.frombuffer(pickle.dumps(job), np.uint8)
            except Exception as e:
                raise ArgumentError(
                    f"what was passed cannot be sent to other processes ({type(e).__name__}: {e}). "
                    "Leave `n_jobs` out, or run threads: joblib.parallel_config(backend='threading')."
                ) from e
        return self.packed


_started = threading.local()  # the job that this thread has started, by its token


def _received(token: str, packed: np.ndarray) -> _Shared:
    if getattr(_started, "token", "") == token:
        return _started.shared
    return _Shared(pickle.loads(packed.tobytes()), token)


def _made(shared: _Shared, key: tuple[Any, ...], row: Row) -> tuple[tuple[Any, ...], Row]:
    if getattr(_started, "token", "") != shared.token:
        _started.make, _started.shared = shared.job.start(), shared
        _started.token = shared.token
    return key, _started.make(row)

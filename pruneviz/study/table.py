"""How rows are computed, in sequence or in parallel, stored in a CSV, and continued from it."""

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
from pruneviz.core.progress import progress_bar

Row = dict[str, Any]
MARK = "# pruneviz "


class Job(Protocol):
    """The arguments that all rows share, and nothing else: it is sent to other processes."""

    def start(self) -> Callable[[Row], Row]:
        """Return the function that computes a row: from its key columns to its result columns."""


@dataclass(frozen=True)
class Table:
    """The columns of a table, and the CSV in which it is stored.

    Parameters
    ----------
    verb : str
        Name of the public function that makes it.
    key_columns, result_columns : mapping of str to type
        Key columns, which identify a row, and result columns: `int`, `float` or `str`.
    path : Path or None
        Path of the CSV.
    arguments : mapping of str to JSON
        Arguments in which another call must agree to continue the table.
    """

    verb: str
    key_columns: Mapping[str, type]
    result_columns: Mapping[str, type]
    path: Path | None
    arguments: Mapping[str, Any]

    def key(self, row: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the values of the key columns of a row."""
        return tuple(kind(row[c]) for c, kind in self.key_columns.items())

    def read(self) -> list[Row]:
        """Return the rows of the CSV; remove an incomplete last line from it. Or raise."""
        if self.path is None or not self.path.exists() or not self.path.stat().st_size:
            return []
        columns = {**self.key_columns, **self.result_columns}
        try:
            text = self.path.read_text(encoding="utf-8")
            complete = text[: text.rfind("\n") + 1]
            head, names, *lines = [*complete.splitlines(), "", ""]
            if not names and MARK.startswith(text[: len(MARK)]):  # stopped in the first two lines
                complete, lines = "", []
            else:
                if not head.startswith(MARK) or names != ",".join(columns):
                    raise ValueError("its first two lines are not those of such a table")
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
        if complete != text:
            self.path.write_text(complete, encoding="utf-8")
        return rows

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows to the CSV."""
        if self.path is None:
            return
        columns = [*self.key_columns, *self.result_columns]
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
        """Raise if the arguments of the stored table differ from those of this call."""
        now = json.loads(json.dumps(dict(self.arguments)))
        differing = [k for k in {**now, **before} if now.get(k) != before.get(k)]
        if differing:
            was = ", ".join(
                f"`{k}` (was {before.get(k)!r} there, is {now.get(k)!r})" for k in differing
            )
            raise ArgumentError(
                f"`path` {str(self.path)!r} holds the rows of another call: {was}. "
                "Name another file, or delete this one."
            )


def all_rows(
    job: Job,
    asked_rows: Sequence[Row],
    table: Table,
    *,
    same: Callable[[Row], Row] = lambda row: row,
    n_jobs: int | None = None,
    progress: bool = True,
) -> list[Row]:
    """Return all rows, complete with their results, in the order of `asked_rows`.

    Rows that are in the table's CSV are not computed again. Other rows are appended to it when they
    are ready. `same` maps rows with equal results to one row, and only this one is computed.

    Raises
    ------
    ArgumentError, GraphError
        If a row fails; the message names the row. Rows computed before it are in the CSV.
    """
    import joblib

    jobs = None if n_jobs is None else checks.count(n_jobs, "n_jobs", low=-1)
    if jobs == 0:
        raise ArgumentError("`n_jobs` must be 1 or more, or -1 for all cores, but 0 was passed.")
    equal: dict[tuple[Any, ...], list[Row]] = {}  # key of a computed row -> rows with its results
    for row in asked_rows:
        equal.setdefault(table.key(same(row)), []).append(row)
    results: dict[tuple[Any, ...], Row] = {}
    stored = {table.key(row): row for row in table.read()}
    for key, rows in equal.items():
        found = [stored[k] for k in map(table.key, rows) if k in stored]
        if found:
            results[key] = {c: found[0][c] for c in table.result_columns}
            table.write([{**r, **results[key]} for r in rows if table.key(r) not in stored])
    table.write([])  # raises now, not after the first row, if the file cannot be written
    todo = [(key, same(rows[0])) for key, rows in equal.items() if key not in results]
    shared = _Shared(job)
    if _in_other_processes(jobs):
        shared.pack()  # in this process, which can raise the error to the caller
    initial = sum(len(equal[k]) for k in results)
    with progress_bar(
        total=len(asked_rows), initial=initial, shown=progress, text=table.verb, unit="row"
    ) as bar:
        parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
        try:
            for key, answer in parallel(joblib.delayed(_compute)(shared, k, r) for k, r in todo):
                results[key] = {c: kind(answer[c]) for c, kind in table.result_columns.items()}
                table.write([{**r, **results[key]} for r in equal[key]])
                bar.update(len(equal[key]))
        finally:
            _started.__dict__.clear()
    return [{**row, **results[table.key(same(row))]} for row in asked_rows]


def row_error(what: str, e: Exception) -> Exception:
    """Return an error that names the row: a `GraphError`, or else an `ArgumentError`."""
    kind = type(e) if isinstance(e, (ArgumentError, GraphError)) else ArgumentError
    message = str(e) if kind is type(e) else f"{type(e).__name__}: {e}"
    return kind(f"in the row of {what}: {message}")


def as_list(values: Any, name: str) -> list[Any]:
    """Return an argument as a list; raise if it is a single value or empty.

    >>> as_list(0.5, "sparsities")
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


def _in_other_processes(jobs: int | None) -> bool:
    """Whether rows are computed in other processes."""
    import joblib
    from joblib.parallel import get_active_backend

    backend = get_active_backend()[0]
    one_process = joblib.effective_n_jobs(jobs) == 1 and "dask" not in type(backend).__module__
    return not (one_process or getattr(backend, "supports_sharedmem", False))


class _Shared:
    """The job as bytes, sent to each process once; joblib memory-maps them, Dask scatters them."""

    def __init__(self, job: Job, token: str = "") -> None:
        self.job, self.token = job, token or uuid.uuid4().hex
        self.packed: np.ndarray | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpack, (self.token, self.pack())

    def __sizeof__(self) -> int:
        return self.pack().nbytes

    def pack(self) -> np.ndarray:
        """Return the job as bytes; or raise."""
        import joblib

        if self.packed is None:
            try:  # by cloudpickle: also functions of a notebook
                job = joblib.wrap_non_picklable_objects(self.job, keep_wrapper=False)
                self.packed = np.frombuffer(pickle.dumps(job), np.uint8)
            except Exception as e:
                raise ArgumentError(
                    f"the arguments cannot be sent to other processes ({type(e).__name__}: {e}). "
                    "Leave `n_jobs` out, or run threads: joblib.parallel_config(backend='threading')."
                ) from e
        return self.packed


_started = threading.local()  # the job that this thread has started, and its token


def _unpack(token: str, packed: np.ndarray) -> _Shared:
    if getattr(_started, "token", "") == token:
        return _started.shared
    return _Shared(pickle.loads(packed.tobytes()), token)


def _compute(shared: _Shared, key: tuple[Any, ...], row: Row) -> tuple[tuple[Any, ...], Row]:
    if getattr(_started, "token", "") != shared.token:
        _started.make, _started.shared = shared.job.start(), shared
        _started.token = shared.token
    return key, _started.make(row)

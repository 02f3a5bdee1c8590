"""How are rows computed? In sequence or in parallel; those that are stored are taken up."""

from __future__ import annotations

import pickle
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, GraphError
from pruneviz.core.imports import imported
from pruneviz.core.progress import progress_bar
from pruneviz.study.stored import Row, Stored, Table

if TYPE_CHECKING:
    import pandas as pd


class Job(Protocol):
    """The arguments that all rows share, and nothing else: it is sent to other processes."""

    def start(self) -> Callable[[Row], Row]:
        """Return the function that computes a row: from its key columns to its result columns."""


def with_better(asked_rows: list[Row], key_columns: dict[str, type], better: str) -> list[Row]:
    """Return the rows, and add a key column, if lower metrics are better: the table says it."""
    if better == "higher":
        return asked_rows
    key_columns["better"] = str
    return [{**row, "better": better} for row in asked_rows]


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
    jobs = None if n_jobs is None else checks.count(n_jobs, "n_jobs", low=-1)
    if jobs == 0:
        raise ArgumentError("`n_jobs` must be 1 or more, or -1 for all cores, but 0 was passed.")
    equal: dict[tuple[Any, ...], list[Row]] = {}  # key of a computed row -> rows with its results
    for row in asked_rows:
        equal.setdefault(table.key(same(row)), []).append(row)
    with table.opened() as stored:
        results = _taken_up(table, stored, equal)
        todo = [(key, same(rows[0])) for key, rows in equal.items() if key not in results]
        initial = sum(len(equal[k]) for k in results)
        with progress_bar(
            total=len(asked_rows), initial=initial, shown=progress, text=table.verb, unit="row"
        ) as bar:
            for key, answer in _computed(job, todo, jobs):
                results[key] = {c: kind(answer[c]) for c, kind in table.result_columns.items()}
                stored.add([{**r, **results[key]} for r in equal[key]])
                bar.update(len(equal[key]))
    return [{**row, **results[table.key(same(row))]} for row in asked_rows]


def _taken_up(
    table: Table, stored: Stored, equal: dict[tuple[Any, ...], list[Row]]
) -> dict[tuple[Any, ...], Row]:
    """Return the results that are stored, by the key of the row that would be computed."""
    results: dict[tuple[Any, ...], Row] = {}
    there = {table.key(row): row for row in stored.rows}
    asked = {table.key(row) for rows in equal.values() for row in rows}
    for key in there.keys() - asked:
        raise ArgumentError(
            f"`path` {str(table.path)!r} holds a row that this call does not ask for, {key}. Name "
            "another file, or delete this one."
        )
    for key, rows in equal.items():
        found = [there[k] for k in map(table.key, rows) if k in there]
        if found:
            results[key] = {c: found[0][c] for c in table.result_columns}
            stored.add([{**r, **results[key]} for r in rows if table.key(r) not in there])
    return results


def _computed(
    job: Job, todo: list[tuple[tuple[Any, ...], Row]], jobs: int | None
) -> Iterator[tuple[tuple[Any, ...], Row]]:
    """Yield the key and the results of each row, as they become ready."""
    joblib = imported("joblib")

    shared = _Shared(job)
    if _in_other_processes(jobs):
        shared.pack()  # in this process, which can raise the error to the caller
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    try:
        yield from parallel(joblib.delayed(_compute)(shared, k, r) for k, r in todo)
    finally:
        _started.__dict__.clear()


def row_error(what: str, e: Exception) -> Exception:
    """Return an error that names the row: a `GraphError`, or else an `ArgumentError`."""
    kind = type(e) if isinstance(e, (ArgumentError, GraphError)) else ArgumentError
    message = str(e) if kind is type(e) else f"{type(e).__name__}: {e}"
    return kind(f"in the row of {what}: {message}")


def without_empty(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a frame without a column of texts if all of them are empty."""
    return frame if frame[column].any() else frame.drop(columns=column)


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
    joblib = imported("joblib")
    get_active_backend = joblib.parallel.get_active_backend

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
        joblib = imported("joblib")

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

"""How are the rows of a table stored in a CSV, and when are they believed again? By fingerprints."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import secrets
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pruneviz.core import strict_json
from pruneviz.core.errors import ArgumentError
from pruneviz.core.tensor_file import damage
from pruneviz.core.whole_file import sole_writer, write_whole
from pruneviz.storage.fingerprint import UNKNOWN, differing

Row = dict[str, Any]
MARK = "# pruneviz "
SHARES = {"sparsity", "target_sparsity", "low", "high"}
COUNTS = {"seed", "examples", "params", "nonzero", "bytes", "macs"}


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

    @contextmanager
    def opened(self) -> Iterator[Stored]:
        """Read the rows of the CSV, and keep others from writing it inside `with`; or raise."""
        if self.path is None:
            yield Stored(self, self.path, [])
            return
        with sole_writer(self.path):
            stored = Stored(self, self.path, self._read(self.path))
            stored.start()
            yield stored

    def text(self, rows: Iterable[Row], *, head: bool = False) -> str:
        """Return rows as they stand in the CSV."""
        columns = [*self.key_columns, *self.result_columns]
        out = io.StringIO(newline="")
        lines = csv.writer(out, lineterminator="\n")
        if head:
            out.write(f"{MARK}{json.dumps({'verb': self.verb, 'arguments': self.arguments})}\n")
            lines.writerow(columns)
        lines.writerows([repr(v) if isinstance(v, float) else v for v in map(row.get, columns)]
                        for row in rows)  # fmt: skip
        return out.getvalue()

    def _read(self, path: Path) -> list[Row]:
        """Return the rows of the CSV, without an incomplete last line; or raise."""
        columns = [*self.key_columns, *self.result_columns]
        try:
            text = path.read_bytes().decode() if path.exists() else ""
            head, names, lines = [*text[: text.rfind("\n") + 1].split("\n", 2), "", "", ""][:3]
            if not names and MARK.startswith(text[: len(MARK)]):  # stopped in the first two lines
                return []
            if not head.startswith(MARK) or names != ",".join(columns):
                raise ValueError("its first two lines are not those of such a table")
            before = strict_json.parsed(head.removeprefix(MARK))
            if before["verb"] != self.verb:
                raise ValueError(f"it holds a table of pv.{before['verb']}")
            if not self._is_same_call(before["arguments"]):
                return []
            rows = [self._row(columns, v) for v in csv.reader(io.StringIO(lines, newline="")) if v]
            if len({self.key(row) for row in rows}) < len(rows):
                raise ValueError("it holds a row twice")
            return rows
        except ArgumentError:
            raise
        except (OSError, LookupError, TypeError, ValueError, AttributeError, csv.Error) as e:
            raise ArgumentError(
                f"`path` {str(path)!r} holds no table of pv.{self.verb}, or is damaged "
                f"({damage(e)}). Name another file, or delete this one."
            ) from e

    def _row(self, columns: list[str], values: list[str]) -> Row:
        """Return one row; raise ValueError if a number is none that this table can hold."""
        kinds = {**self.key_columns, **self.result_columns}
        if len(values) != len(columns):
            raise ValueError(f"a row has {len(values)} cells, not {len(columns)}")
        row = {}
        for column, text in zip(columns, values, strict=True):
            try:
                row[column] = kinds[column](text)
            except ValueError:
                what = "whole number" if kinds[column] is int else "number"
                raise ValueError(f"{column} is {text!r}, not a {what}") from None
        judged = "examples" in row  # by an `Accuracy`: then the metric is a share, too
        for column, value in row.items():
            share = column in SHARES or (judged and column in ("metric", "dense"))
            number = value if isinstance(value, (int, float)) else 0
            low, high = 0 if share or column in COUNTS else -math.inf, 1 if share else math.inf
            if not math.isfinite(number) or not low <= number <= high:
                where = (
                    "between 0 and 1" if share else "0 or more" if column in COUNTS else "finite"
                )
                raise ValueError(f"{column} is {value}, not {where}")
        if judged and not row["low"] - 1e-9 <= row["metric"] <= row["high"] + 1e-9:
            raise ValueError(
                f"metric is {row['metric']}, not between {row['low']} and {row['high']}"
            )
        return row

    def _is_same_call(self, before: Mapping[str, Any]) -> bool:
        """Whether the stored rows are those of this call; raise if they are those of another one."""
        now = json.loads(json.dumps(dict(self.arguments)))
        other = differing(before, now)
        if other:
            was = ", ".join(f"`{k}` (was {a!r} there, is {b!r})" for k, (a, b) in other.items())
            raise ArgumentError(
                f"`path` {str(self.path)!r} holds the rows of another call: {was}. "
                "Name another file, or delete this one."
            )
        unknown = [k for k, v in before.items() if v == UNKNOWN]
        if unknown and UNKNOWN not in now.values():  # else it was said when they were looked at
            warnings.warn(
                f"the rows in {str(self.path)!r} were computed with `{'`, `'.join(unknown)}` that could "
                "not be compared with that of another call: they are computed again.",
                stacklevel=2,
            )
        return not unknown and UNKNOWN not in now.values()


class Stored:
    """The rows of a table that are ready, and their file, which is always whole."""

    def __init__(self, table: Table, path: Path | None, rows: list[Row]) -> None:
        self.table, self.path, self.rows = table, path, rows
        self.text = table.text(rows, head=True)
        self.stamp = _stamp(path)

    def start(self) -> None:
        """Write a new file now, so that what prevents it is not found after the first row."""
        if self.stamp is None or not self.stamp[1]:
            self._write()

    def add(self, rows: list[Row]) -> None:
        """Store rows."""
        self.rows += rows
        self.text += self.table.text(rows)
        if rows:
            self._write()

    def _write(self) -> None:
        if self.path is None:
            return
        data = self.text.encode()
        now = _stamp(self.path)
        if now is not None and now != self.stamp:  # what deleted it, lost nothing of its own
            name = f"{self.path.stem}-{secrets.token_hex(3)}{self.path.suffix}"
            write_whole(self.path.with_name(name), data)
            raise ArgumentError(
                f"`path` {str(self.path)!r} was changed by somebody else while this call wrote it. "
                f"The rows of this call are in {str(self.path.with_name(name))!r}: pass that as `path` "
                "to continue them."
            )
        write_whole(self.path, data)
        self.stamp = _stamp(self.path)


def _stamp(path: Path | None) -> tuple[int, int, int] | None:
    """Return what changes whenever a file is written; None if there is none."""
    try:
        found = os.stat(path or "")
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns

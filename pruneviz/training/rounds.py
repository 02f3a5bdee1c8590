"""What iterative pruning returns, and how finished rounds are stored in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from pruneviz.core.errors import ArgumentError
from pruneviz.core.imports import imported
from pruneviz.core.plan import Plan, of_all_text
from pruneviz.core.tensor_file import DAMAGED, damage, opened, write_tensors
from pruneviz.pruning.mask import mask
from pruneviz.storage.fingerprint import UNKNOWN, differing

if TYPE_CHECKING:
    import pandas as pd


KEY = "pruneviz.rounds"
VERSION_OF_FILES = 2  # without a version: early files, which have no checksum


@dataclass(frozen=True, repr=False, eq=False)
class Rounds:
    """Result of `prune_iteratively`: the pruned model, and the plan and metric of each round.

    Parameters
    ----------
    model : nn.Module
        The model after the last round, tuned and still masked. `bake` turns the masks into zeros.
    plans : tuple of Plan
        For each round: what is kept after it.
    frame : DataFrame
        One row for each round, and one for the start: ``round, target_sparsity, sparsity``; with
        `evaluate` also ``metric_untuned``, before tuning, and ``metric``, after tuning.

    Examples
    --------
    See `prune_iteratively`.
    """

    model: nn.Module
    plans: tuple[Plan, ...]
    frame: pd.DataFrame

    @property
    def plan(self) -> Plan:
        """What is kept after the last round."""
        return self.plans[-1]

    def __repr__(self) -> str:
        n = len(self.plans)
        text = f"{n} round{'' if n == 1 else 's'} to sparsity {self.plan.sparsity:.3f}"
        text += of_all_text(self.plan.kept, self.plan.total, self.plan.left_out)
        if "metric" in self.frame:
            first, last = self.frame["metric"].iloc[[0, -1]]
            text += f": metric {first:.3f} → {last:.3f}"
        return text


def write_rounds(path: Path, rounds: Rounds, arguments: Mapping[str, Any]) -> None:
    """Write finished rounds to one safetensors file, completely or not at all.

    `arguments` are those in which another call must agree to continue from the file.
    """
    head = {
        "version": VERSION_OF_FILES,
        "arguments": arguments,
        "frame": rounds.frame.to_dict("list"),
        "plans": [plan.to_json() for plan in rounds.plans],
    }
    state = {k: v.detach().cpu().clone() for k, v in rounds.model.state_dict().items()}
    write_tensors(path, state, head, KEY)


def read_rounds(path: Path, model: nn.Module, arguments: Mapping[str, Any]) -> Rounds | None:
    """Return the rounds of a file; None if there is no file, or they cannot be compared.

    `model` is the model before the first round.
    """
    pd = imported("pandas")

    if not path.exists():
        return None
    try:
        with opened(path, KEY, VERSION_OF_FILES) as file:
            if file.head is None:
                raise ValueError("it holds something else")
            before = file.head["arguments"]
            _check_frame(file.head["frame"], len(file.head["plans"]))
            other = differing(before, json.loads(json.dumps(dict(arguments))))
            if other:
                raise _OtherCall
            if UNKNOWN in (*before.values(), *arguments.values()):
                return None
            plans = tuple(Plan.from_json(text) for text in file.head["plans"])
            frame = pd.DataFrame(file.head["frame"])
            new = mask(model, plans[-1])
            sizes = {n: (t.dtype, tuple(t.shape)) for n, t in new.state_dict().items()}
            if sizes != dict(file.entries):
                raise ValueError("its tensors are not those of the model")
            new.load_state_dict(file.tensors())  # not before their sizes are known
    except _OtherCall:
        raise ArgumentError(
            f"`path` {str(path)!r} holds the rounds of another call: {', '.join(other)} differ"
            f"{'s' if len(other) == 1 else ''}. Name another file, or delete this one."
        ) from None
    except DAMAGED as e:
        raise ArgumentError(
            f"`path` {str(path)!r} holds no rounds, or is damaged ({damage(e)}). "
            "Name another file, or delete this one."
        ) from e
    return Rounds(new, plans, frame)


class _OtherCall(Exception):
    """The rounds of a file are those of another call."""


def _check_frame(columns: Mapping[str, list[Any]], rounds: int) -> None:
    """Raise unless the columns can be those of so many rounds, and of the start."""
    for name, values in columns.items():
        share = "sparsity" in name
        for value in values:
            if type(value) not in (int, float) or (share and not 0 <= value <= 1):
                where = "between 0 and 1" if share else "a number"
                raise ValueError(f"{name} is {value!r}, not {where}")
        if len(values) != rounds + 1:
            raise ValueError(f"it holds {rounds} plans and {len(values)} values of {name}")

"""What iterative pruning returns, and how finished rounds are stored in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from pruneviz.core.errors import ArgumentError
from pruneviz.core.plan import Plan, of_all_text
from pruneviz.core.tensor_file import DAMAGED, read_tensors, write_tensors
from pruneviz.pruning.mask import mask

if TYPE_CHECKING:
    import pandas as pd


KEY = "pruneviz.rounds"


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
    text = json.dumps(
        {
            "arguments": arguments,
            "frame": rounds.frame.to_dict("list"),
            "plans": [plan.to_json() for plan in rounds.plans],
        }
    )
    state = {k: v.detach().cpu().clone() for k, v in rounds.model.state_dict().items()}
    write_tensors(path, state, {KEY: text})


def read_rounds(path: Path, model: nn.Module, arguments: Mapping[str, Any]) -> Rounds | None:
    """Return the rounds of a file; None if there is no file.

    `model` is the model before the first round.
    """
    import pandas as pd

    if not path.exists():
        return None
    try:
        data, state = read_tensors(path, KEY)
        before = data["arguments"]
        plans = tuple(Plan.from_json(text) for text in data["plans"])
        frame = pd.DataFrame(data["frame"])
    except DAMAGED as e:
        raise ArgumentError(
            f"`path` {str(path)!r} holds no rounds, or is damaged ({type(e).__name__}). "
            "Name another file, or delete this one."
        ) from e
    now = json.loads(json.dumps(dict(arguments)))
    differing = [k for k in {**now, **before} if now.get(k) != before.get(k)]
    if differing:
        raise ArgumentError(
            f"`path` {str(path)!r} holds the rounds of another call: {', '.join(differing)} differ"
            f"{'s' if len(differing) == 1 else ''}. Name another file, or delete this one."
        )
    new = mask(model, plans[-1])
    new.load_state_dict(state)
    return Rounds(new, plans, frame)

"""What pruning in rounds gives, and the file in which finished rounds are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from pruneviz.core.errors import ArgumentError
from pruneviz.core.plan import Plan
from pruneviz.pruning.mask import mask

if TYPE_CHECKING:
    import pandas as pd


KEY = "pruneviz.rounds"


@dataclass(frozen=True, repr=False, eq=False)
class Rounds:
    """A network that was pruned in rounds, and what each round gave.

    Parameters
    ----------
    model : nn.Module
        After the last round, tuned; its masks still hold. `bake` makes the zeros plain values.
    plans : tuple of Plan
        One a round: what stays after it.
    frame : DataFrame
        One row a round, and one before the first: ``round, target_sparsity, sparsity``; with
        `evaluate` also ``metric_untuned``, right after the cut, and ``metric``, after tuning.

    Examples
    --------
    See `prune_iteratively`.
    """

    model: nn.Module
    plans: tuple[Plan, ...]
    frame: pd.DataFrame

    @property
    def plan(self) -> Plan:
        """What stays in the end."""
        return self.plans[-1]

    def __repr__(self) -> str:
        n = len(self.plans)
        text = f"{n} round{'' if n == 1 else 's'} to sparsity {self.plan.sparsity:.3f}"
        if "metric" in self.frame:
            first, last = self.frame["metric"].iloc[[0, -1]]
            text += f": metric {first:.3f} → {last:.3f}"
        return text


def write(path: Path, rounds: Rounds, arguments: Mapping[str, Any]) -> None:
    """Write finished rounds to one safetensors file: whole, or not at all.

    `arguments` are what another call must agree in to go on from there.
    """
    text = json.dumps(
        {
            "arguments": arguments,
            "frame": rounds.frame.to_dict("list"),
            "plans": [plan.to_json() for plan in rounds.plans],
        }
    )
    state = {k: v.detach().cpu().clone() for k, v in rounds.model.state_dict().items()}
    part = path.with_name(f"{path.name}.part")
    try:
        save_file(state, part, metadata={KEY: text})
        part.replace(path)
    except (OSError, SafetensorError) as e:
        raise ArgumentError(f"`path` {str(path)!r} cannot be written: {e}.") from e
    finally:
        part.unlink(missing_ok=True)


def read(path: Path, model: nn.Module, arguments: Mapping[str, Any]) -> Rounds | None:
    """Return the rounds that a file holds, None if there is no file; or raise.

    `model` is what they began with.
    """
    import pandas as pd

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as f:
            data = json.loads((f.metadata() or {})[KEY])
            state = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118, not a dict
        had = data["arguments"]
        plans = tuple(Plan.from_json(text) for text in data["plans"])
        frame = pd.DataFrame(data["frame"])
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as e:
        raise ArgumentError(
            f"`path` {str(path)!r} holds no rounds, or is damaged ({type(e).__name__}). "
            "Name another file, or delete this one."
        ) from e
    want = json.loads(json.dumps(dict(arguments)))
    other = [k for k in {**want, **had} if want.get(k) != had.get(k)]
    if other:
        raise ArgumentError(
            f"`path` {str(path)!r} holds the rounds of another call: {', '.join(other)} differ"
            f"{'s' if len(other) == 1 else ''}. Name another file, or delete this one."
        )
    new = mask(model, plans[-1])
    new.load_state_dict(state)
    return Rounds(new, plans, frame)

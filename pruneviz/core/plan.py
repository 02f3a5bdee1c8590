"""Which weights or units are kept? `score` makes `Scores`, `select` makes a `Plan` from them."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pruneviz.core import plan_json, strict_json
from pruneviz.core.errors import ArgumentError
from pruneviz.core.imports import imported
from pruneviz.core.names import layer_name

if TYPE_CHECKING:
    import pandas as pd

    from pruneviz.core.groups import Groups


@dataclass(frozen=True, repr=False, eq=False)
class Scores:
    """The importance of each weight, or of each unit: one tensor of scores per tensor or group.

    Parameters
    ----------
    values : mapping of str to Tensor
        Name of a weight tensor, such as ``"fc1.weight"``, to its scores: same shape, higher = more
        important. Or name of a group to the scores of its units: shape (units,).
    criterion : str
        Name of the criterion that made them.
    groups : Groups or None
        The groups whose units were scored; None for scores of single weights.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> layer = torch.nn.Linear(3, 2)
    >>> pv.score(layer, "magnitude")
    Scores by 'magnitude': 6 weights in 1 layer
    """

    values: Mapping[str, Tensor]
    criterion: str
    groups: Groups | None = None

    def __repr__(self) -> str:
        n = sum(v.numel() for v in self.values.values())
        return f"Scores by {self.criterion!r}: {_count_text(n, len(self.values), self.groups)}"


@dataclass(frozen=True, repr=False, eq=False)
class Plan:
    """The weights, or units, to keep: one boolean tensor per tensor or group, True = keep.

    Parameters
    ----------
    keep : mapping of str to Tensor
        Name of a weight tensor to a boolean tensor of its shape. Or name of a group to a boolean
        tensor of shape (units,), for groups that can be cut only.
    groups : Groups or None
        All groups of the model; None for a plan for single weights.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> plan = pv.Plan({"weight": torch.tensor([[True, False, True, True]])})
    >>> plan
    Plan for 4 weights in 1 layer: keeps 3, sparsity 0.250
    >>> pv.Plan.from_json(plan.to_json()).keep["weight"]
    tensor([[ True, False,  True,  True]])
    """

    keep: Mapping[str, Tensor]
    groups: Groups | None = None

    def __repr__(self) -> str:
        head = f"Plan for {_count_text(self.total, len(self.keep), self.groups)}"
        return f"{head}: keeps {self.kept:,}, sparsity {self.sparsity:.3f}"

    @property
    def total(self) -> int:
        """Number of all weights, or units, in the plan."""
        return sum(k.numel() for k in self.keep.values())

    @property
    def kept(self) -> int:
        """Number of kept weights, or units."""
        return sum(int(k.sum()) for k in self.keep.values())

    @property
    def sparsity(self) -> float:
        """Removed ÷ total, in [0, 1]."""
        return 1 - self.kept / self.total if self.total else 0.0

    def to_frame(self) -> pd.DataFrame:
        """Return ``layer`` or ``group``, ``total``, ``kept`` and ``sparsity``, one row for each.

        Examples
        --------
        >>> import torch, pruneviz as pv
        >>> pv.Plan({"fc.weight": torch.tensor([[True, False]])}).to_frame()
          layer  total  kept  sparsity
        0    fc      2     1       0.5
        """
        pd = imported("pandas")

        by, name = ("layer", layer_name) if self.groups is None else ("group", str)
        rows = [(name(n), k.numel(), int(k.sum())) for n, k in self.keep.items()]
        frame = pd.DataFrame(rows, columns=[by, "total", "kept"])
        frame = frame.groupby(by, sort=False, as_index=False).sum()
        frame["sparsity"] = 1 - frame["kept"] / frame["total"]
        return frame

    def to_json(self) -> str:
        """Return the plan as JSON text: numbers and bits are packed, deflated and in base64.

        A checksum stands at its end, so that a plan that was edited or damaged is not read.
        """
        data: dict[str, Any] = {"pruneviz": "plan", "version": 2, "granularity": "weight"}
        if self.groups is not None:
            data |= {"granularity": "unit", "groups": plan_json.pack_groups(self.groups)}
        data["keep"] = {n: plan_json.pack_bits(k) for n, k in self.keep.items()}
        return json.dumps({**data, "checksum": plan_json.checksum(data)})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan that :meth:`to_json` wrote.

        Plans of early versions of pruneviz have no checksum; they are read with all other checks.

        Raises
        ------
        ArgumentError
            If the text is not a plan, or is damaged.
        """
        try:
            data = strict_json.parsed(text)
            if data["pruneviz"] != "plan" or data["version"] not in (1, 2):
                raise KeyError("version")
            wanted = data.pop("checksum", None)
            if (wanted is not None or data["version"] == 2) and wanted != plan_json.checksum(data):
                raise ValueError("its checksum is that of another plan")
            keep = {name: plan_json.unpack_bits(entry) for name, entry in data["keep"].items()}
            if data["granularity"] == "weight":
                return cls(keep)
            if data["granularity"] != "unit":
                raise KeyError("granularity")
            groups = plan_json.unpack_groups(data["groups"])
            for name, k in keep.items():
                if k.shape != (groups[name].size,):
                    raise ValueError(f"{tuple(k.shape)} is not the shape of group {name!r}")
                if groups[name].frozen:
                    raise ValueError(f"it names group {name!r}, which cannot be cut")
            return cls(keep, groups)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as e:
            raise ArgumentError(
                f"`text` must be JSON written by Plan.to_json(), but it could not be read ({e!r}). "
                "Pass what plan.to_json() returned."
            ) from e
        except (zlib.error, ValueError, OverflowError, MemoryError) as e:
            raise ArgumentError(
                f"the plan is damaged: {str(e).rstrip('.')}. Write it again: plan.to_json()."
            ) from e


def keep_all(groups: Groups) -> dict[str, Tensor]:
    """Return what a plan keeps before anything is removed: all units that could be removed."""
    return {g.name: torch.ones(g.size, dtype=torch.bool) for g in groups.cuttable}


def _count_text(n: int, parts: int, groups: Groups | None) -> str:
    things, part = ("weights", "layer") if groups is None else ("units", "group")
    return f"{n:,} {things} in {parts} {part}" + ("" if parts == 1 else "s")

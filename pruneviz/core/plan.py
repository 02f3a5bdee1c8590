"""Which weights or units are kept? `score` makes `Scores`, `select` makes a `Plan` from them."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
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


@dataclass(frozen=True)
class LeftOut:
    """A parameter, or a group of units, that no plan made from the scores drops any of.

    Parameters
    ----------
    shape : tuple of int
        Of the parameter; ``(units,)`` of a group.
    why : str
        Why it was left out.
    macs : float, optional
        The share of the model's MACs that is spent in making the units of the group.

    Examples
    --------
    >>> LeftOut((2, 3), "a table of positions").numbers
    6
    >>> print(LeftOut((8,), "its code uses an old size", macs=0.125))
    12 % of the MACs: its code uses an old size
    """

    shape: tuple[int, ...]
    why: str
    macs: float | None = None

    def __str__(self) -> str:
        share = f"{self.numbers:,} numbers" if self.macs is None else share_text(self.macs)
        return f"{share}: {self.why}"

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def is_named(self) -> bool:
        """Whether plans, frames and panels name it: biases and norms are only counted."""
        return len(self.shape) > 1 or self.macs is not None


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
    left_out : mapping of str to LeftOut
        The parameters, or groups, without scores, and why; empty if it is unknown.

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
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)

    def __repr__(self) -> str:
        n = sum(v.numel() for v in self.values.values())
        text = f"Scores by {self.criterion!r}: {_count_text(n, self.values, self.groups)}"
        return text + left_out_text(self.left_out, "\nleft out: ")


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
    left_out : mapping of str to LeftOut
        The parameters that the plan is silent about, and why; for a plan for units, the groups that
        could not be cut or scored. Empty if it is unknown.

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
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)

    def __repr__(self) -> str:
        head = f"Plan for {_count_text(self.total, self.keep, self.groups)}"
        text = f"{head}: keeps {self.kept:,}, sparsity {self.sparsity:.3f}"
        text += of_all_text(self.kept, self.total, self.left_out)
        return text + left_out_text(self.left_out, "\nleft out: ")

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
        """Removed ÷ total, in [0, 1]: of the weights, or units, in the plan."""
        return 1 - self.kept / self.total if self.total else 0.0

    def to_frame(self) -> pd.DataFrame:
        """Return ``layer`` or ``group``, ``total``, ``kept`` and ``sparsity``, one row for each.

        If the plan leaves out groups, or parameters of two or more dimensions, each of them has a
        row, and a column ``left_out`` says why; of groups with their share of the MACs.

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
        frame["sparsity"] = (1 - frame["kept"] / frame["total"]).fillna(0.0)  # 0 of 0
        rest = [(n, p) for n, p in self.left_out.items() if p.is_named]
        if rest:
            named = pd.DataFrame(
                [(layer_name(n), p.numbers, p.numbers, 0.0, f"{n} ({p})") for n, p in rest],
                columns=[*frame.columns, "left_out"],
            )
            frame = pd.concat([frame.assign(left_out=""), named], ignore_index=True)
        return frame

    def to_json(self) -> str:
        """Return the plan as JSON text: numbers and bits are packed, deflated and in base64.

        A checksum stands at its end, so that a plan that was edited or damaged is not read.
        """
        data: dict[str, Any] = {"pruneviz": "plan", "version": 2, "granularity": "weight"}
        if self.groups is not None:
            data |= {"granularity": "unit", "groups": plan_json.pack_groups(self.groups)}
        data["keep"] = {n: plan_json.pack_bits(k) for n, k in self.keep.items()}
        data["left_out"] = {n: [list(p.shape), p.why, p.macs] for n, p in self.left_out.items()}
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
            rest = {
                name: LeftOut(
                    tuple(map(strict_json.whole, shape)),
                    str(why),
                    None if macs is None else float(macs),
                )
                for name, (shape, why, macs) in data.get("left_out", {}).items()
            }
            if data["granularity"] == "weight":
                return cls(keep, None, rest)
            if data["granularity"] != "unit":
                raise KeyError("granularity")
            groups = plan_json.unpack_groups(data["groups"])
            for name, k in keep.items():
                if k.shape != (groups[name].size,):
                    raise ValueError(f"{tuple(k.shape)} is not the shape of group {name!r}")
                if groups[name].frozen and groups[name].unused != "unrun":
                    raise ValueError(f"it names group {name!r}, which cannot be cut")
            return cls(keep, groups, rest)
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


def share_text(macs: float) -> str:
    """Say a share of the MACs.

    >>> share_text(0.125), share_text(0.0004)
    ('12 % of the MACs', 'less than 1 % of the MACs')
    """
    return f"{100 * macs:.0f} % of the MACs" if macs >= 0.01 else "less than 1 % of the MACs"


def of_all_text(kept: int, total: int, left_out: Mapping[str, LeftOut]) -> str:
    """Say which share of *all* the model's numbers is dropped; "" if it is unknown.

    >>> of_all_text(1, 2, {"b": LeftOut((6,), "a bias")})
    ' (0.125 of all 8 numbers)'
    """
    numbers = all_numbers(total, left_out)
    return f" ({(total - kept) / numbers:.3f} of all {numbers:,} numbers)" if numbers else ""


def all_numbers(total: int, left_out: Mapping[str, LeftOut]) -> int:
    """Count *all* the model's numbers; 0 if that is unknown, or if nothing was left out.

    >>> all_numbers(2, {"b": LeftOut((6,), "a bias")})
    8
    """
    if not left_out or any(p.macs is not None for p in left_out.values()):
        return 0
    return total + sum(p.numbers for p in left_out.values())


def left_out_text(left_out: Mapping[str, LeftOut], before: str = "") -> str:
    """Name the groups, or parameters of two or more dimensions, that were left out; or return "".

    >>> left_out_text({"b": LeftOut((6,), "a bias"), "t": LeftOut((2, 3), "a table")})
    't (6 numbers: a table)'
    """
    named = [f"{n} ({p})" for n, p in left_out.items() if p.is_named]
    if not named:
        return ""
    more = f", and {len(named) - 3} more: .left_out" if len(named) > 3 else ""
    return before + "; ".join(named[:3]) + more


def _count_text(n: int, names: Iterable[str], groups: Groups | None) -> str:
    things, part = ("weights", "layer") if groups is None else ("units", "group")
    parts = len({layer_name(name) if groups is None else name for name in names})
    return f"{n:,} {things} in {parts} {part}" + ("" if parts == 1 else "s")

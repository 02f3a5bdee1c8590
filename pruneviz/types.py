"""The nouns: what the verbs take and give back."""

from __future__ import annotations

import binascii
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd

    from pruneviz.group import Groups


class ArgumentError(ValueError):
    """A caller passed something that cannot work; the message says what would.

    Examples
    --------
    >>> import pruneviz as pv
    >>> issubclass(pv.ArgumentError, ValueError)
    True
    """


class GraphError(ValueError):
    """A model cannot be traced, or a layer is frozen, or a removal was refused.

    Examples
    --------
    >>> import pruneviz as pv
    >>> issubclass(pv.GraphError, ValueError)
    True
    """


@dataclass(frozen=True, repr=False, eq=False)
class Scores:
    """How important each weight is, or each unit: one tensor of scores for each tensor or group.

    Parameters
    ----------
    values : mapping of str to Tensor
        Name of a weight tensor, such as ``"fc1.weight"``, to its scores: same shape, higher = more
        important. Or name of a group to the scores of its units: shape (units,).
    criterion : str
        Name of the criterion that gave them.
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
        return f"Scores by {self.criterion!r}: {_what(n, len(self.values), self.groups)}"


@dataclass(frozen=True, repr=False, eq=False)
class Plan:
    """Which weights stay, or which units: one boolean tensor for each tensor or group, True = keep.

    Parameters
    ----------
    keep : mapping of str to Tensor
        Name of a weight tensor to a boolean tensor of its shape. Or name of a group to a boolean
        tensor of shape (units,); only groups that can be cut are in it.
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
        head = f"Plan for {_what(self.total, len(self.keep), self.groups)}"
        return f"{head}: keeps {self.kept:,}, sparsity {self.sparsity:.3f}"

    @property
    def total(self) -> int:
        """Number of weights, or units, that the plan speaks of."""
        return sum(k.numel() for k in self.keep.values())

    @property
    def kept(self) -> int:
        """Number of weights, or units, that stay."""
        return sum(int(k.sum()) for k in self.keep.values())

    @property
    def sparsity(self) -> float:
        """Dropped ÷ all of them, in [0, 1]."""
        return 1 - self.kept / self.total if self.total else 0.0

    def to_frame(self) -> pd.DataFrame:
        """Return one row a layer, or group: ``layer`` or ``group``, ``total``, ``kept``, ``sparsity``.

        Examples
        --------
        >>> import torch, pruneviz as pv
        >>> pv.Plan({"fc.weight": torch.tensor([[True, False]])}).to_frame()
          layer  total  kept  sparsity
        0    fc      2     1       0.5
        """
        import pandas as pd

        by, name = ("layer", layer_name) if self.groups is None else ("group", str)
        rows = [(name(n), k.numel(), int(k.sum())) for n, k in self.keep.items()]
        frame = pd.DataFrame(rows, columns=[by, "total", "kept"])
        frame = frame.groupby(by, sort=False, as_index=False).sum()
        frame["sparsity"] = 1 - frame["kept"] / frame["total"]
        return frame

    def to_json(self) -> str:
        """Write the plan as JSON text: numbers and bits packed, deflated and in base64."""
        from pruneviz import _json

        data: dict[str, Any] = {"pruneviz": "plan", "version": 1, "granularity": "weight"}
        if self.groups is not None:
            data |= {"granularity": "unit", "groups": _json.pack_groups(self.groups)}
        return json.dumps(data | {"keep": {n: _json.pack_bits(k) for n, k in self.keep.items()}})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan that :meth:`to_json` wrote.

        Raises
        ------
        ArgumentError
            If the text is no plan, or is damaged.
        """
        from pruneviz import _json

        try:
            data = json.loads(text)
            if data["pruneviz"] != "plan" or data["version"] != 1:
                raise KeyError("version")
            keep = {name: _json.unpack_bits(entry) for name, entry in data["keep"].items()}
            if data["granularity"] == "weight":
                return cls(keep)
            if data["granularity"] != "unit":
                raise KeyError("granularity")
            groups = _json.unpack_groups(data["groups"])
            for name, k in keep.items():
                if k.shape != (groups[name].size,):
                    raise ValueError(f"{tuple(k.shape)} is not the shape of group {name!r}")
            return cls(keep, groups)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as e:
            raise ArgumentError(
                f"`text` must be JSON written by Plan.to_json(), but it could not be read ({e!r})."
            ) from e
        except (zlib.error, binascii.Error, ValueError, OverflowError) as e:
            raise ArgumentError(f"the plan is damaged: {e}. Write it anew: plan.to_json().") from e


@dataclass(frozen=True)
class Cost:
    """What a model costs: stored numbers, bytes, and the work for one example.

    Parameters
    ----------
    params : int
        Numbers in all parameters; a tensor that two layers share counts once.
    nonzero : int
        Those of them that are not 0, masks applied. This is no sparsity: a dense network has zeros
        too.
    bytes : int
        Bytes of parameters and buffers, stored dense in their own dtype.
    macs : int
        Multiply-accumulates for one example in matrix products, convolutions and attention. Zeros
        are multiplied like any other number.
    uncounted : tuple of str
        Operators that ran and that nobody could count: their work is missing in `macs`.
    latency_ms : float or None
        Milliseconds for one forward pass, where it was measured.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> cost = pv.measure(torch.nn.Linear(300, 100), torch.zeros(1, 300))
    >>> cost.macs, cost.flops, cost.params
    (30000, 60000, 30100)
    """

    params: int
    nonzero: int
    bytes: int
    macs: int
    uncounted: tuple[str, ...] = field(default=())
    latency_ms: float | None = None

    @property
    def flops(self) -> int:
        """Floating-point operations for one example: a multiply-accumulate is two."""
        return 2 * self.macs


# what a parametrization keeps: "fc.parametrizations.weight.original", "….weight.0.keep"
_PARAMETRIZED = re.compile(r"(^|\.)parametrizations\.[^.]+\.(original\d*|\d+\..+)$")


def layer_name(tensor: str) -> str:
    """Name of the layer that holds a tensor: ``"fc1.weight"`` → ``"fc1"``; of the model itself: ``""``.

    >>> layer_name("block.0.conv.weight"), layer_name("attn.in_proj_weight"), layer_name("weight")
    ('block.0.conv', 'attn', '')
    >>> layer_name("fc.parametrizations.weight.original"), layer_name("parametrizations.weight.0.keep")
    ('fc', '')
    """
    inside = _PARAMETRIZED.search(tensor)
    return tensor[: inside.start()] if inside else tensor.rpartition(".")[0]


def tensor_name(layer: str, attribute: str = "weight") -> str:
    """Name of a tensor of a layer: ``"fc1"`` → ``"fc1.weight"``; of the model itself: ``"weight"``.

    >>> tensor_name("fc1"), tensor_name("", "bias")
    ('fc1.weight', 'bias')
    """
    return f"{layer}.{attribute}" if layer else attribute


def _what(n: int, parts: int, groups: Groups | None) -> str:
    things, part = ("weights", "layer") if groups is None else ("units", "group")
    return f"{n:,} {things} in {parts} {part}" + ("" if parts == 1 else "s")

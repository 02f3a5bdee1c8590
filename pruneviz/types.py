"""The nouns: what the verbs take and give back."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    import pandas as pd


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
    """How important each weight is: one tensor of scores for each weight tensor.

    Parameters
    ----------
    values : mapping of str to Tensor
        Name of a weight tensor, such as ``"fc1.weight"``, to its scores: same shape, higher = more
        important.
    criterion : str
        Name of the criterion that gave them.
    groups : None
        Scores of single weights have no groups.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> layer = torch.nn.Linear(3, 2)
    >>> pv.score(layer, "magnitude")
    Scores by 'magnitude': 6 weights in 1 layer
    """

    values: Mapping[str, Tensor]
    criterion: str
    groups: None = None

    def __repr__(self) -> str:
        n = sum(v.numel() for v in self.values.values())
        return f"Scores by {self.criterion!r}: {n:,} weights in {_layers(len(self.values))}"


@dataclass(frozen=True, repr=False, eq=False)
class Plan:
    """Which weights stay: one boolean tensor for each weight tensor, True = keep.

    Parameters
    ----------
    keep : mapping of str to Tensor
        Name of a weight tensor to a boolean tensor of its shape.
    groups : None
        A plan for single weights has no groups.

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
    groups: None = None

    def __repr__(self) -> str:
        head = f"Plan for {self.total:,} weights in {_layers(len(self.keep))}"
        return f"{head}: keeps {self.kept:,}, sparsity {self.sparsity:.3f}"

    @property
    def total(self) -> int:
        """Number of weights that the plan speaks of."""
        return sum(k.numel() for k in self.keep.values())

    @property
    def kept(self) -> int:
        """Number of weights that stay."""
        return sum(int(k.sum()) for k in self.keep.values())

    @property
    def sparsity(self) -> float:
        """Dropped weights ÷ all weights, in [0, 1]."""
        return 1 - self.kept / self.total if self.total else 0.0

    def to_frame(self) -> pd.DataFrame:
        """Return one row a layer: ``layer``, ``total``, ``kept``, ``sparsity``.

        Examples
        --------
        >>> import torch, pruneviz as pv
        >>> pv.Plan({"fc.weight": torch.tensor([[True, False]])}).to_frame()
          layer  total  kept  sparsity
        0    fc      2     1       0.5
        """
        import pandas as pd

        rows = [(layer_name(n), k.numel(), int(k.sum())) for n, k in self.keep.items()]
        frame = pd.DataFrame(rows, columns=["layer", "total", "kept"])
        frame = frame.groupby("layer", sort=False, as_index=False).sum()
        frame["sparsity"] = 1 - frame["kept"] / frame["total"]
        return frame

    def to_json(self) -> str:
        """Write the plan as JSON text: shapes, and the bits packed, deflated and in base64."""
        keep = {}
        for name, k in self.keep.items():
            bits = np.packbits(k.cpu().numpy().reshape(-1))
            text = base64.b64encode(zlib.compress(bits.tobytes(), 9)).decode()
            keep[name] = {"shape": list(k.shape), "bits": text}
        return json.dumps({"pruneviz": "plan", "version": 1, "granularity": "weight", "keep": keep})

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Read a plan that :meth:`to_json` wrote.

        Raises
        ------
        ArgumentError
            If the text is no plan, or is damaged.
        """
        try:
            data = json.loads(text)
            if data["pruneviz"] != "plan" or data["version"] != 1:
                raise KeyError("version")
            return cls({name: _unpack(entry) for name, entry in data["keep"].items()})
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


def layer_name(tensor: str) -> str:
    """Name of the layer that holds a tensor: ``"fc1.weight"`` → ``"fc1"``; of the model itself: ``""``.

    >>> layer_name("block.0.conv.weight"), layer_name("attn.in_proj_weight"), layer_name("weight")
    ('block.0.conv', 'attn', '')
    """
    return tensor.rpartition(".")[0]


def _layers(n: int) -> str:
    return f"{n} layer" if n == 1 else f"{n} layers"


def _unpack(entry: Mapping[str, Any]) -> Tensor:
    shape = tuple(int(s) for s in entry["shape"])
    n = int(np.prod(shape, dtype=np.int64))
    raw = zlib.decompress(base64.b64decode(entry["bits"], validate=True))
    bits = np.frombuffer(raw, dtype=np.uint8)
    if len(bits) != (n + 7) // 8:
        raise ValueError(f"{len(bits)} bytes of bits for shape {shape}")
    return torch.from_numpy(np.unpackbits(bits, count=n).astype(bool).reshape(shape))

"""How many bytes a model takes, encoding by encoding, and from which sparsity on one pays."""

from __future__ import annotations

import gzip as gz
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.torch import save as serialised
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruneviz.core import checks
from pruneviz.model.hooks import evaluating
from pruneviz.model.weights import Mask, Place, places, steps
from pruneviz.pruning.mask import bake
from pruneviz.storage.files import contents
from pruneviz.storage.packing import DENSE, ENCODINGS, VALUE, relative_bits, size_of, to_relative

if TYPE_CHECKING:
    import pandas as pd


HEAD = ("tensor", "shape", "weights", "nonzero", "sparsity")
REST, WHOLE = "rest", "whole"
LEVEL = 6  # what `gzip FILE` does


def encodings(model: nn.Module, *, gzip: bool = True) -> pd.DataFrame:
    """Count the bytes of a model in each encoding: exactly, tensor by tensor and as a whole.

    What is not a weight (biases, norms, buffers) is counted dense in every encoding. Zeros, masked or
    not, save nothing in the dense ones.

    Parameters
    ----------
    model : nn.Module
        Masked or not. Not changed.
    gzip : bool
        Also pack with gzip, which takes a second for 30 million weights.

    Returns
    -------
    DataFrame
        One row a weight tensor, then ``"rest"`` (all that is no weight), then ``"whole"``, the sum.
        Columns: ``tensor``, ``shape``, ``weights``, ``nonzero``, ``sparsity`` (share of zeros among
        the weights), and bytes, values always as float32 but in ``dense_fp16``:

        - ``dense_fp32``, ``dense_fp16``: every number.
        - ``csr_int64``, ``csr_int32``, ``csr_int16``: a matrix of (outputs, everything else); for each
          value its column, for each row where it begins. <NA> where the indices do not fit.
        - ``bitmap``: a bit for each weight, and the values.
        - ``relative``: for each value the number of zeros before it, in 5 bits, in convolutions 8;
          where more zeros follow one another than that can say, a zero is written too (padding).
          Whole bytes for each tensor.
        - ``gzip``: of a tensor the dense float32 numbers, packed; of the whole the file that `save`
          writes, header included, packed as by ``gzip FILE``. Not the sum of the rows.

        ``save`` writes the dense file and CSR: 8 bytes, a header whose length they give, and exactly
        the bytes of the row ``"whole"``, for a model in float32.

    Raises
    ------
    ArgumentError
        If the model has no weights.

    References
    ----------
    Han, Pool, Tran, Dally 2015, "Learning both Weights and Connections", arXiv:1506.02626, section
    5: relative indices of 5 and 8 bits.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> layer = torch.nn.Linear(8, 4)
    >>> masked = pv.mask(layer, pv.select(pv.score(layer, "magnitude"), sparsity=0.75))
    >>> frame = pv.encodings(masked).set_index("tensor")
    >>> frame.loc["whole", ["nonzero", "dense_fp32", "csr_int32", "bitmap"]].tolist()
    [8, 144, 100, 52]
    """
    import pandas as pd

    model = checks.unwrapped(model)
    with evaluating(model):
        found = places(model)
        rows = [_row(name, place.tensor, gzip) for name, place in found.items()]
        rest = list(_rest(model, found.values()))
    n, nonzero = (sum(r[what] for r in rows) for what in ("weights", "nonzero"))
    rows.append(_head(REST, "", 0, 0) | {e: _dense(e, rest) for e in ENCODINGS})
    whole = _head(WHOLE, "", n, nonzero) | {e: _sum(r[e] for r in rows) for e in ENCODINGS}
    if gzip:
        data, metadata = contents(bake(model))
        whole["gzip"] = len(gz.compress(serialised(data, metadata=metadata), LEVEL, mtime=0))
    frame = pd.DataFrame([*rows, whole])
    return frame.astype({c: "Int64" for c in frame.columns if c not in HEAD})


def bytes_break_even(shape: Iterable[int], encoding: str) -> float:
    """Return the smallest sparsity at which an encoding of a tensor is smaller than dense float32.

    Parameters
    ----------
    shape : tuple of int
        Of the weight, such as ``(300, 784)``: outputs first.
    encoding : str
        A column of `encodings`: ``"csr_int32"``, ``"bitmap"``, ….

    Returns
    -------
    float
        zeros ÷ weights, exactly: one zero less, and it is not smaller. About (i + 4 / columns) ÷
        (i + 4) for CSR with indices of i bytes, 1/32 for a bitmap. For ``"relative"`` it holds
        wherever the zeros stand. NaN if it is smaller at no sparsity below 1.

    Raises
    ------
    ArgumentError
        If the encoding is unknown or the shape holds no number.

    Examples
    --------
    >>> import pruneviz as pv
    >>> [round(pv.bytes_break_even((300, 784), e), 4) for e in ("csr_int64", "csr_int32", "bitmap")]
    [0.6675, 0.5006, 0.0313]
    """
    checks.choice(encoding, "encoding", ENCODINGS)
    sides = tuple(checks.count(s, "shape", low=1) for s in shape)
    n = math.prod(sides)

    def smaller(zeros: int) -> bool:
        padding = zeros // 2 ** relative_bits(sides)  # the most that there can be
        size = size_of(encoding, sides, n - zeros, padding)
        return size is not None and size < VALUE * n

    zeros = bisect_left(range(n), True, key=smaller)
    return zeros / n if zeros < n else math.nan


def _row(name: str, weight: Tensor, gzip: bool) -> dict[str, Any]:
    flat, shape = weight.float().cpu().numpy().reshape(-1), tuple(weight.shape)
    nonzero = int(np.count_nonzero(flat))
    padding = len(to_relative(flat, relative_bits(shape))[0]) - nonzero
    row = _head(name, shape, flat.size, nonzero)
    row |= {e: size_of(e, shape, nonzero, padding) for e in ENCODINGS}
    return row | ({"gzip": len(gz.compress(flat.tobytes(), LEVEL, mtime=0))} if gzip else {})


def _head(tensor: str, shape: Any, weights: int, nonzero: int) -> dict[str, Any]:
    sparsity = 1 - nonzero / weights if weights else math.nan
    return dict(zip(HEAD, (tensor, shape, weights, nonzero, sparsity), strict=True))


def _rest(model: nn.Module, weights: Iterable[Place]) -> Iterator[Tensor]:
    """Give each tensor that `save` writes and that is no weight; tied ones once."""
    seen = {id(m.keep) for m in model.modules() if isinstance(m, Mask)}
    for module, attribute in (h for place in weights for h in place.holders):
        if parametrize.is_parametrized(module, attribute):
            seen |= {id(t) for t in steps(module, attribute).state_dict(keep_vars=True).values()}
        else:
            seen.add(id(getattr(module, attribute)))
    for t in model.state_dict(keep_vars=True).values():
        if isinstance(t, Tensor) and id(t) not in seen:
            seen.add(id(t))
            yield t


def _dense(encoding: str, tensors: Iterable[Tensor]) -> int:
    width = DENSE.get(encoding, VALUE)
    return sum(t.numel() * (width if t.is_floating_point() else t.element_size()) for t in tensors)


def _sum(sizes: Iterable[int | None]) -> int | None:
    total = 0
    for size in sizes:
        if size is None:
            return None
        total += size
    return total

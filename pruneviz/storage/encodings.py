"""How many bytes a model takes in each encoding, and from which sparsity on one is smaller."""

from __future__ import annotations

import gzip as gz
import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruneviz.core import checks
from pruneviz.core.imports import imported
from pruneviz.core.tensor_file import file_bytes
from pruneviz.model.hooks import evaluating, plain_torch
from pruneviz.model.tensors import Held
from pruneviz.model.weights import Mask, check_real, steps, weight_places
from pruneviz.pruning.mask import bake
from pruneviz.storage.files import contents
from pruneviz.storage.packing import DENSE, ENCODINGS, VALUE, relative_bits, size_of, to_relative

if TYPE_CHECKING:
    import pandas as pd


WEIGHT_COLUMNS = ("tensor", "shape", "weights", "nonzero", "sparsity")
REST, WHOLE = "rest", "whole"
LEVEL = 6  # the default of `gzip FILE`


@plain_torch()
def encodings(model: nn.Module, *, gzip: bool = True) -> pd.DataFrame:
    """Count the exact bytes of a model in each encoding, for each tensor and for the whole model.

    Tensors that are not weights (biases, norms, buffers) are counted dense in every encoding.
    Zeros, masked or not, save nothing in the dense encodings.

    Parameters
    ----------
    model : nn.Module
        Masked or not. Not changed.
    gzip : bool
        Also compress with gzip, which takes a second for 30 million weights.

    Returns
    -------
    DataFrame
        One row for each weight tensor, then ``"rest"`` (all other tensors), then ``"whole"``, the
        sum. Columns: ``tensor``, ``shape``, ``weights``, ``nonzero``, ``sparsity`` (share of zeros
        among the weights), and bytes, with values in float32 except in ``dense_fp16``:

        - ``dense_fp32``, ``dense_fp16``: every number.
        - ``csr_int64``, ``csr_int32``, ``csr_int16``: a matrix of shape (outputs, other
          dimensions); for each nonzero value its column, for each row its start. <NA> if the
          indices do not fit.
        - ``bitmap``: one bit for each weight, and the nonzero values.
        - ``relative``: for each nonzero value the number of zeros before it, in 5 bits, in
          convolutions 8. A longer run of zeros needs extra entries of value 0 (padding). Rounded up
          to whole bytes for each tensor.
        - ``gzip``: for a tensor its dense float32 numbers, compressed; for the whole the file that
          `save` writes, header included, compressed as by ``gzip FILE``. Not the sum of the rows.

        ``save`` writes dense and CSR files: 8 bytes with the length of the header, the header, and
        for a model in float32 exactly the bytes of the row ``"whole"``.

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
    pd = imported("pandas")

    model = checks.unwrapped(model)
    with evaluating(model):
        found = weight_places(model)
        rows = [_row(name, held.visible, gzip) for name, held in found.items()]
        rest = list(_other_tensors(model, found.values()))
    n, nonzero = (sum(r[column] for r in rows) for column in ("weights", "nonzero"))
    rows.append(_weight_columns(REST, "", 0, 0) | {e: _dense_bytes(e, rest) for e in ENCODINGS})
    whole = _weight_columns(WHOLE, "", n, nonzero) | {
        e: _sum_or_none(r[e] for r in rows) for e in ENCODINGS
    }
    if gzip:
        data = file_bytes(*contents(bake(model)))
        whole["gzip"] = len(gz.compress(data, LEVEL, mtime=0))
    frame = pd.DataFrame([*rows, whole])
    return frame.astype({c: "Int64" for c in frame.columns if c not in WEIGHT_COLUMNS})


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
        zeros ÷ weights; with one zero less the encoding is not smaller. About (i + 4 / columns) ÷
        (i + 4) for CSR with indices of i bytes, 1/32 for a bitmap. For ``"relative"`` it holds for
        any positions of the zeros. NaN if the encoding is smaller at no sparsity below 1.

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
        padding = zeros // 2 ** relative_bits(sides)  # the largest possible number
        size = size_of(encoding, sides, n - zeros, padding)
        return size is not None and size < VALUE * n

    zeros = bisect_left(range(n), True, key=smaller)
    return zeros / n if zeros < n else math.nan


def _row(name: str, weight: Tensor, gzip: bool) -> dict[str, Any]:
    check_real(name, weight)
    flat, shape = weight.float().cpu().numpy().reshape(-1), tuple(weight.shape)
    nonzero = int(np.count_nonzero(flat))
    padding = len(to_relative(flat, relative_bits(shape))[0]) - nonzero
    row = _weight_columns(name, shape, flat.size, nonzero)
    row |= {e: size_of(e, shape, nonzero, padding) for e in ENCODINGS}
    return row | ({"gzip": len(gz.compress(flat.tobytes(), LEVEL, mtime=0))} if gzip else {})


def _weight_columns(tensor: str, shape: Any, weights: int, nonzero: int) -> dict[str, Any]:
    sparsity = 1 - nonzero / weights if weights else math.nan
    return dict(zip(WEIGHT_COLUMNS, (tensor, shape, weights, nonzero, sparsity), strict=True))


def _other_tensors(model: nn.Module, weights: Iterable[Held]) -> Iterator[Tensor]:
    """Yield each tensor that `save` writes and that is not a weight; shared ones once."""
    seen = {id(m.keep) for m in model.modules() if isinstance(m, Mask)}
    for module, attribute in (h for held in weights for h in held.holders):
        if parametrize.is_parametrized(module, attribute):
            seen |= {id(t) for t in steps(module, attribute).state_dict(keep_vars=True).values()}
        else:
            seen.add(id(getattr(module, attribute)))
    for t in model.state_dict(keep_vars=True).values():
        if isinstance(t, Tensor) and id(t) not in seen:
            seen.add(id(t))
            yield t


def _dense_bytes(encoding: str, tensors: Iterable[Tensor]) -> int:
    width = DENSE.get(encoding, VALUE)
    return sum(t.numel() * (width if t.is_floating_point() else t.element_size()) for t in tensors)


def _sum_or_none(sizes: Iterable[int | None]) -> int | None:
    total = 0
    for size in sizes:
        if size is None:
            return None
        total += size
    return total

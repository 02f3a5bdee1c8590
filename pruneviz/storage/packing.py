"""How a sparse matrix is encoded, and in how many bytes: CSR, bitmap, relative index."""

from __future__ import annotations

import warnings
from functools import cache

import numpy as np
import torch
from torch import Tensor

from pruneviz.core.errors import ArgumentError

VALUE = 4  # bytes of one float32
DENSE = {"dense_fp32": 4, "dense_fp16": 2}
CSR = {"csr_int64": torch.int64, "csr_int32": torch.int32, "csr_int16": torch.int16}
ENCODINGS = (*DENSE, *CSR, "bitmap", "relative")


def fits(rows: int, columns: int, nonzero: int, index: torch.dtype) -> bool:
    """Whether the indices of such a matrix fit into an integer type.

    >>> fits(300, 784, 23_520, torch.int16), fits(300, 784, 40_000, torch.int16)
    (True, False)
    """
    return max(nonzero, columns - 1) <= torch.iinfo(index).max


def compressed(matrix: Tensor, index: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return a matrix as compressed sparse rows (CSR): the starts of rows, the columns, the values.

    Raises
    ------
    ArgumentError
        If the indices do not fit.

    >>> compressed(torch.tensor([[0, 5], [0, 0], [7, 8]]), torch.int16)[0]
    tensor([0, 1, 1, 3], dtype=torch.int16)
    """
    suppress_beta_warning()
    csr = matrix.to_sparse_csr()
    rows, columns = matrix.shape
    if not fits(rows, columns, len(csr.values()), index):
        name = str(index).removeprefix("torch.")
        raise ArgumentError(
            f"a matrix of shape {(rows, columns)} with {len(csr.values()):,} nonzero values has indices "
            f"beyond {torch.iinfo(index).max:,}: they do not fit {name}. Take a wider type."
        )
    return csr.crow_indices().to(index), csr.col_indices().to(index), csr.values()


def decompressed(crow: Tensor, col: Tensor, value: Tensor, columns: int) -> Tensor:
    """Return the matrix, (rows, columns), from its compressed sparse rows.

    Raises
    ------
    ValueError
        If the three contradict each other.

    >>> decompressed(*compressed(torch.eye(2), torch.int16), 2).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    suppress_beta_warning()
    parts = crow.long(), col.long(), value
    try:
        csr = torch.sparse_csr_tensor(*parts, (len(crow) - 1, columns), check_invariants=True)
    except RuntimeError as e:
        raise ValueError("rows, columns and values do not fit one another") from e
    return csr.to_dense()


@cache
def suppress_beta_warning() -> None:
    """Suppress the warning, given once a process, that CSR tensors are in beta."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        torch.eye(1).to_sparse_csr()


def to_relative(flat: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (gaps, values): the number of zeros before each value, at most 2**bits - 1.

    In a longer run of zeros every 2**bits-th zero becomes an entry of value 0 (padding). Zeros
    after the last value are not written.

    References
    ----------
    Han, Mao, Dally 2016, "Deep Compression", arXiv:1510.00149, fig. 2.

    >>> to_relative(np.array([0, 3.4, 0, 0, 0.9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1.7]), 3)
    (array([1, 2, 7, 2]), array([3.4, 0.9, 0. , 1.7]))
    """
    span = 2**bits
    positions = np.flatnonzero(flat)
    zeros = np.diff(positions, prepend=-1) - 1  # before each value
    padding = zeros // span  # padding entries before each value
    entry = np.cumsum(padding + 1) - 1  # index of the entry of each value
    gaps = np.full(int(padding.sum()) + len(positions), span - 1)
    values = np.zeros(len(gaps), flat.dtype)
    gaps[entry], values[entry] = zeros % span, flat[positions]
    return gaps, values


def relative_bits(shape: tuple[int, ...]) -> int:
    """Bits of a gap: 5 in a fully connected layer, 8 in a convolution, as in Han et al. 2015."""
    return 5 if len(shape) <= 2 else 8


def size_of(encoding: str, shape: tuple[int, ...], nonzero: int, padding: int = 0) -> int | None:
    """Return the bytes of a float32 tensor in an encoding; None if its indices do not fit.

    `padding`: number of zeros that the relative index must write.

    >>> [size_of(e, (2, 4), 3) for e in ENCODINGS]
    [32, 16, 60, 36, 24, 13, 14]
    """
    rows, n = shape[0], int(np.prod(shape))
    if encoding in DENSE:
        return n * DENSE[encoding]
    if encoding in CSR:
        index = CSR[encoding]
        if not fits(rows, n // rows, nonzero, index):
            return None
        return (rows + 1) * index.itemsize + nonzero * (index.itemsize + VALUE)
    if encoding == "bitmap":
        return -(-n // 8) + nonzero * VALUE
    return -(-(nonzero + padding) * (relative_bits(shape) + 8 * VALUE) // 8)

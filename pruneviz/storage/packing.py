"""How a sparse matrix is encoded, and in how many bytes: CSR, bitmap, relative index."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruneviz.core.errors import ArgumentError

VALUE = 4  # bytes of one float32
DENSE = {"dense_fp32": 4, "dense_fp16": 2}
CSR = {"csr_int64": np.int64, "csr_int32": np.int32, "csr_int16": np.int16}
ENCODINGS = (*DENSE, *CSR, "bitmap", "relative")


@dataclass(frozen=True, eq=False)
class Csr:
    """A matrix as compressed sparse rows: the start, the columns and the values of each row.

    >>> c = to_csr(np.array([[0.0, 5.0], [0.0, 0.0], [7.0, 8.0]]), np.int32)
    >>> c.crow.tolist(), c.col.tolist(), c.value.tolist()
    ([0, 1, 1, 3], [1, 0, 1], [5.0, 7.0, 8.0])
    """

    crow: np.ndarray  # (rows + 1,)
    col: np.ndarray  # (nonzero,)
    value: np.ndarray  # (nonzero,)

    @property
    def bytes(self) -> int:
        """Bytes of the three arrays."""
        return self.crow.nbytes + self.col.nbytes + self.value.nbytes


def fits(rows: int, columns: int, nonzero: int, index: type) -> bool:
    """Whether the indices of such a matrix fit into an integer type.

    >>> fits(300, 784, 23_520, np.int16), fits(300, 784, 40_000, np.int16)
    (True, False)
    """
    return max(nonzero, columns - 1) <= np.iinfo(index).max


def to_csr(matrix: np.ndarray, index: type) -> Csr:
    """Return a matrix as CSR with indices of an integer type.

    Raises
    ------
    ArgumentError
        If the indices do not fit.
    """
    row, col = np.nonzero(matrix)
    rows, columns = matrix.shape
    if not fits(rows, columns, len(col), index):
        raise ArgumentError(
            f"a matrix of shape {matrix.shape} with {len(col):,} nonzero values has indices "
            f"beyond {np.iinfo(index).max:,}: they do not fit {np.dtype(index).name}. Take a wider type."
        )
    crow: np.ndarray = np.zeros(rows + 1, index)
    crow[1:] = np.bincount(row, minlength=rows).cumsum()
    return Csr(crow, col.astype(index), matrix[row, col])


def from_csr(c: Csr, columns: int) -> np.ndarray:
    """Return the matrix, (rows, columns), from its CSR.

    Raises
    ------
    ValueError
        If the arrays contradict each other.

    >>> a = np.array([[0.0, 5.0], [0.0, 0.0]])
    >>> from_csr(to_csr(a, np.int32), 2).tolist()
    [[0.0, 5.0], [0.0, 0.0]]
    """
    counts = np.diff(c.crow)  # (rows,)
    valid = c.crow[0] == 0 and c.crow[-1] == len(c.col) == len(c.value) and (counts >= 0).all()
    if not valid or (len(c.col) and not 0 <= c.col.min() <= c.col.max() < columns):
        raise ValueError("rows, columns and values do not fit one another")
    matrix = np.zeros((len(counts), columns), c.value.dtype)
    matrix[np.repeat(np.arange(len(counts)), counts), c.col] = c.value
    return matrix


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


def from_relative(gaps: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """Return the flat array of `size` numbers from its gaps and values.

    >>> from_relative(np.array([1, 0]), np.array([5.0, 6.0]), 4).tolist()
    [0.0, 5.0, 6.0, 0.0]
    """
    flat = np.zeros(size, values.dtype)
    flat[np.cumsum(gaps + 1) - 1] = values
    return flat


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
        width = np.dtype(index).itemsize
        return (rows + 1) * width + nonzero * (width + VALUE)
    if encoding == "bitmap":
        return -(-n // 8) + nonzero * VALUE
    return -(-(nonzero + padding) * (relative_bits(shape) + 8 * VALUE) // 8)

"""Where do units lie in one tensor? A slice says it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pruneviz.core.names import layer_name, reader_name

ROLES = ("out", "in")


@dataclass(frozen=True, eq=False, repr=False)
class Slice:
    """The places of a group's units in one tensor.

    Parameters
    ----------
    tensor : str
        Name of a parameter or buffer, as in `named_parameters`; of a tied tensor, one of its names.
    dim : int
        The dimension along which the units lie.
    index : ndarray of int, shape (units, k)
        For each unit its k positions along `dim`.
    role : str
        ``"out"``: part of a producer (rows, bias, norm affine); `mask` zeroes it, `shrink` deletes
        it. ``"in"``: part of a consumer (columns), or a tensor that must not be 0 (a running
        variance); only `shrink` deletes it.
    blocks : int
        1, except for the columns of a grouped convolution: then its number of groups. Each block of
        rows has its own columns, and `index` counts the input channels, block after block.

    Examples
    --------
    >>> import numpy as np, pruneviz as pv
    >>> pv.Slice("fc1.weight", 0, np.arange(3)[:, None], "out")
    Slice of 'fc1.weight': 3 units along dimension 0, role out
    """

    tensor: str
    dim: int
    index: np.ndarray
    role: str
    blocks: int = 1

    @property
    def layer(self) -> str:
        """Name of the layer that holds the tensor."""
        return layer_name(self.tensor)

    @property
    def reader(self) -> str:
        """The name under which evidence has what this tensor multiplies; mostly that of the layer."""
        return reader_name(self.tensor)

    @property
    def width(self) -> int:
        """Number of positions of each unit."""
        return int(self.index.shape[1])

    def __repr__(self) -> str:
        width = f" of {self.width} positions" if self.width > 1 else ""
        head = f"Slice of {self.tensor!r}: {units_text(len(self.index))}{width} along dimension {self.dim}"
        return f"{head}, role {self.role}" + (f", {self.blocks} blocks" * (self.blocks > 1))

    def mark(self, shape: tuple[int, ...], units: np.ndarray) -> np.ndarray:
        """Return a boolean array of the tensor's shape: True at the places of the chosen units.

        Parameters
        ----------
        shape : tuple of int
            Shape of the tensor.
        units : ndarray of bool, shape (units,)
            True for the chosen units.

        Examples
        --------
        >>> import numpy as np, pruneviz as pv
        >>> columns = pv.Slice("fc2.weight", 1, np.arange(3)[:, None], "in")
        >>> columns.mark((2, 3), np.array([False, True, False]))
        array([[False,  True, False],
               [False,  True, False]])
        """
        n = shape[self.dim]
        marked = np.zeros(self.blocks * n, bool)
        marked[self.index[units]] = True
        if self.blocks == 1:
            return np.broadcast_to(marked.reshape(_along(self.dim, n, len(shape))), shape)
        rows, *rest = shape  # each block of rows has its own columns
        split = (self.blocks, rows // self.blocks, *rest)
        per_block = (self.blocks, *_along(self.dim, n, len(shape)))
        return np.broadcast_to(marked.reshape(per_block), split).reshape(shape)


def units_text(n: int) -> str:
    """Return the number of units in words: "1 unit", "1,200 units"."""
    return f"{n:,} unit" if n == 1 else f"{n:,} units"


def _along(dim: int, n: int, ndim: int) -> tuple[int, ...]:
    return tuple(n if d == dim else 1 for d in range(ndim))

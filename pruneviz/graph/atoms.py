"""Which indices must be cut together? An atom is one index of one dimension of one tensor."""

from __future__ import annotations

import numpy as np


class Atoms:
    """A union-find over atoms, in arrays: no Python object for an index, no loop for a pair.

    Each atom has a root; atoms with the same root are one class and can only be cut together. An
    atom may carry the reason why it cannot be cut (`freeze`), or why a cut is only `approximate`.

    Examples
    --------
    >>> atoms = Atoms()
    >>> a, b = atoms.new(3), atoms.new(3)
    >>> atoms.tie(a, b[::-1])
    >>> atoms.roots(b)
    array([2, 1, 0])
    """

    def __init__(self) -> None:
        self.size = 0
        self._parent = np.empty(1024, np.int64)
        self._frozen = np.zeros(1024, np.int32)  # number of the reason; 0: none
        self._approximate = np.zeros(1024, np.int32)
        self._uniform = np.zeros(1024, bool)  # of a root: its class holds only uniform fill
        self._reasons = {"": 0}  # reason -> its number

    def new(self, n: int, *, uniform: bool = False) -> np.ndarray:
        """Return n new atoms, each a class of its own; `uniform`: all hold one value (zeros(n))."""
        start, self.size = self.size, self.size + n
        while self.size > self._parent.size:
            for name in ("_parent", "_frozen", "_approximate", "_uniform"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros_like(old)]))
        ids = np.arange(start, self.size)
        self._parent[ids] = ids
        self._uniform[ids] = uniform
        return ids

    def roots(self, ids: np.ndarray) -> np.ndarray:
        """Return the root of each atom; an array of the same shape."""
        root = self._parent[ids]
        while True:
            above = self._parent[root]
            if np.array_equal(above, root):
                break
            root = above
        self._parent[ids] = root  # shorter paths next time
        return root

    def tie(self, a: np.ndarray, b: np.ndarray) -> None:
        """Join the classes of a[i] and b[i], for all i at once."""
        while True:
            ra, rb = self.roots(a), self.roots(b)
            low, high = np.minimum(ra, rb), np.maximum(ra, rb)
            differ = low != high
            if not differ.any():
                return
            low, high = low[differ], high[differ]
            np.logical_and.at(self._uniform, low, self._uniform[high])
            # where several pairs share one `high`, the last one wins; the loop joins the others
            self._parent[high] = low

    def freeze(self, ids: np.ndarray, reason: str) -> None:
        """Note why these atoms cannot be cut; an earlier reason is kept."""
        self._mark(self._frozen, ids, reason)

    def approximate(self, ids: np.ndarray, reason: str) -> None:
        """Note why a cut of these atoms is only approximate; an earlier reason is kept."""
        self._mark(self._approximate, ids, reason)

    def uniform(self, ids: np.ndarray) -> bool:
        """Whether the classes of these atoms hold only uniform fill."""
        return bool(self._uniform[self.roots(ids)].all())

    def reasons(self) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Return for each root the numbers of its reasons (frozen, approximate), and the reasons."""
        ids = np.arange(self.size)
        roots = self.roots(ids)
        found = []
        for marks in (self._frozen, self._approximate):
            first = np.full(self.size, np.iinfo(np.int32).max, np.int32)
            marked = marks[: self.size] > 0
            np.minimum.at(first, roots[marked], marks[: self.size][marked])
            first[first == np.iinfo(np.int32).max] = 0
            found.append(first)
        return found[0], found[1], list(self._reasons)

    def _mark(self, marks: np.ndarray, ids: np.ndarray, reason: str) -> None:
        number = self._reasons.setdefault(reason, len(self._reasons))
        marks[ids] = np.where(marks[ids] == 0, number, marks[ids])

"""Do the rows that a layer reads in two models belong together? By what has chosen them."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

# operators that choose rows by numbers or booleans, and where these stand in their arguments
CHOOSE = {"index": 1, "index_select": 2, "gather": 2, "take": 1, "masked_select": 1}
# operators that write into their first argument: rows go back to where they were chosen from
WRITE = ("index_put", "_index_put_impl", "index_add", "index_copy", "scatter", "scatter_add",
         "scatter_reduce", "masked_scatter", "slice_scatter", "select_scatter")  # fmt: skip

Choice = tuple[int, str]  # how many, and a digest of which
Choices = tuple[Choice, ...]


class Tracking(TorchDispatchMode):
    """While it is active, notes for each tensor computed from a batch what has chosen its rows.

    A gate that sends tokens to experts picks rows by an index that it has computed. In a smaller
    model the same gate picks others, perhaps as many. Two tensors belong together, row by row, if
    the same numbers have chosen them.
    """

    def __init__(self, inputs: Any) -> None:
        super().__init__()
        self.known = WeakTensorKeyDictionary()
        for t in tree_leaves(inputs):
            if isinstance(t, Tensor):
                self.known[t] = ()

    def choices(self, x: Tensor) -> Choices:
        """Return what has chosen the rows of a tensor."""
        found: Choices = self.known.get(x, ())
        return found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = func.overloadpacket.__name__.rstrip("_")
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        sources = tensors[:1] if name in WRITE else tensors
        known = [self.known[t] for t in sources if t in self.known]
        if known:
            fresh = name.startswith("new_") or name.endswith("_like")
            choices = () if fresh else tuple(dict.fromkeys(c for k in known for c in k))
            if tensors[0] in self.known:
                choices += self._made_here(name, args, out)
            for t in tree_leaves(out):
                if isinstance(t, Tensor):
                    self.known[t] = choices
        return out

    def _made_here(self, name: str, args: Any, out: Any) -> Choices:
        """Return the choice that an operator makes; none, mostly."""
        if name in ("select", "slice") and len(args) > 2 and args[1] == 0:  # x[i], x[i:j]
            whole = name == "slice" and len(out) == len(args[0])
            return () if whole else ((0, f"{name} {args[2:]}"),)
        if name not in CHOOSE or len(args) <= CHOOSE[name]:
            return ()
        found = args[CHOOSE[name]]
        parts = found if isinstance(found, (list, tuple)) else [found]
        # an index that is not computed from the batch chooses the same in every model
        return tuple(_digest(t) for t in parts if isinstance(t, Tensor) and t in self.known)


def chosen_alike(before: Choices, now: Choices) -> bool:
    """Whether the same rows were chosen in two runs.

    Where the numbers of chosen rows differ, so do the counts of rows, unless it was not rows that
    were chosen but units, of which the smaller model has fewer.

    >>> chosen_alike(((2, "a"),), ((2, "b"),)), chosen_alike(((2, "a"),), ((1, "b"),))
    (False, True)
    """
    same_length = len(before) == len(now)
    return same_length and all(a == b or a[0] != b[0] for a, b in zip(before, now, strict=True))


def _digest(index: Tensor) -> Choice:
    """Return how many rows an index chooses, and a digest of which."""
    index = index.detach()
    while index.ndim > 1 and index.dtype != torch.bool and _repeats(index):
        index = index[..., 0]  # repeated for each column: that is no choice of rows
    data = index.contiguous().cpu().numpy().tobytes()
    return index.numel(), hashlib.blake2b(data, digest_size=16).hexdigest()


def _repeats(index: Tensor) -> bool:
    return index.shape[-1] > 0 and bool((index == index[..., :1]).all())

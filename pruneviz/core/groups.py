"""Which slices of which tensors must be removed together with a unit? A group lists them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, overload

import numpy as np

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, GraphError
from pruneviz.core.imports import imported
from pruneviz.core.slices import Slice, units_text

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Group:
    """Units of several layers that can only be cut together, unit by unit.

    Parameters
    ----------
    name : str
        The name of its first producer's layer.
    size : int
        Number of units.
    slices : tuple of Slice
        All slices that are removed with the units, in the order of the forward.
    frozen : str
        Why no unit can be cut; ``""`` if they can be cut.
    approximate : str
        Why cutting is exact only up to re-normalisation; ``""`` if it is exact.
    even : ndarray of int, shape (size,), or None
        The part to which each unit belongs: the same number of units must be removed from each part
        (the groups of a grouped convolution or GroupNorm, equal parts of a split).
    unused : str
        ``"unread"``: its units are computed, but no output needs them (an auxiliary head whose
        result is not returned). ``"unrun"``: its layer did not run on the example. ``""`` otherwise.

    Examples
    --------
    >>> import numpy as np, pruneviz as pv
    >>> units = np.arange(3)[:, None]
    >>> rows = pv.Slice("fc1.weight", 0, units, "out"), pv.Slice("fc1.bias", 0, units, "out")
    >>> pv.Group("fc1", 3, (*rows, pv.Slice("fc2.weight", 1, units, "in")))
    Group 'fc1': 3 units of fc1, read by fc2
    """

    name: str
    size: int
    slices: tuple[Slice, ...]
    frozen: str = ""
    approximate: str = ""
    even: np.ndarray | None = field(default=None)
    unused: str = ""

    @property
    def even_parts(self) -> list[np.ndarray]:
        """The units of each part from which as many must be removed; a single part if `even` is None."""
        labels = np.zeros(self.size, int) if self.even is None else self.even
        return [np.flatnonzero(labels == label) for label in np.unique(labels)]

    @property
    def producers(self) -> tuple[str, ...]:
        """Names of the layers that produce the units."""
        return tuple(dict.fromkeys(s.layer for s in self.slices if s.role == "out"))

    @property
    def reads(self) -> tuple[Slice, ...]:
        """The slices with which layers read the units."""
        # an "in" slice of a producer, such as a running variance, does not make it a consumer
        own = {(s.layer, s.dim) for s in self.slices if s.role == "out"}
        return tuple(s for s in self.slices if s.role == "in" and (s.layer, s.dim) not in own)

    @property
    def consumers(self) -> tuple[str, ...]:
        """Names of the layers that read the units."""
        return tuple(dict.fromkeys(s.layer for s in self.reads))

    def __repr__(self) -> str:
        text = f"Group {self.name!r}: {units_text(self.size)} of {_some(self.producers)}"
        text += f", read by {_some(self.consumers)}" if self.consumers else ""
        if self.even is not None:
            text += f"; remove the same number from each of {len(np.unique(self.even))} parts"
        text += f"; approximate: {self.approximate}" if self.approximate else ""
        return text + (f"; frozen: {self.frozen}" if self.frozen else "")


@dataclass(frozen=True, eq=False, repr=False)
class Groups:
    """All groups of a model, from `find_groups`: a sequence, with one name each.

    Parameters
    ----------
    groups : tuple of Group
        In the order of the forward, frozen groups included.

    Raises
    ------
    ArgumentError
        If two groups have one name, or a name is unknown: ``groups["fc11"]``.

    Examples
    --------
    >>> import numpy as np, pruneviz as pv
    >>> def part(tensor, dim, role, n=3):
    ...     return pv.Slice(tensor, dim, np.arange(n)[:, None], role)
    >>> hidden = pv.Group("fc1", 3, (part("fc1.weight", 0, "out"), part("fc2.weight", 1, "in")))
    >>> last = pv.Group("fc2", 3, (part("fc2.weight", 0, "out"),), "its units are the model's output")
    >>> groups = pv.Groups((hidden, last))
    >>> groups
    Groups: 1 of 2 can be cut, 3 units
      fc1  3 units; read by fc2
    frozen:
      fc2  its units are the model's output
    >>> groups["fc1"].size, groups[0].name, len(groups[1:])
    (3, 'fc1', 1)
    """

    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        duplicates = [n for n in self.names if self.names.count(n) > 1]
        if duplicates:
            raise ArgumentError(
                f"two groups have the name {duplicates[0]!r}. Give each group a name of its own."
            )

    def __len__(self) -> int:
        return len(self.groups)

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    @overload
    def __getitem__(self, key: int | str) -> Group: ...
    @overload
    def __getitem__(self, key: slice) -> Groups: ...
    def __getitem__(self, key: int | str | slice) -> Group | Groups:
        if isinstance(key, slice):
            return Groups(self.groups[key])
        if isinstance(key, str):
            key = self.names.index(checks.choice(key, "group", self.names, what="group"))
        return self.groups[key]

    def __repr__(self) -> str:
        most = 12
        cut = self.cuttable
        frozen = [g for g in self if g.frozen]
        n = sum(g.size for g in cut)
        width = max((len(g.name) for g in [*cut[:most], *frozen[:most]]), default=0)
        lines = [f"Groups: {len(cut)} of {len(self)} can be cut, {units_text(n)}"]
        for g in cut[:most]:
            others = [p for p in g.producers if p != g.name]
            parts = [
                units_text(g.size),
                f"shared with {_some(others)}" if others else "",
                f"read by {_some(g.consumers)}" if g.consumers else "",
                "remove the same number from each part" if g.even is not None else "",
                "approximate" if g.approximate else "",
                "no output needs them" if g.unused == "unread" else "",
            ]
            lines.append(f"  {g.name:{width}}  {'; '.join(filter(None, parts))}")
        lines += [f"  … and {len(cut) - most} more: .to_frame()"] if len(cut) > most else []
        lines += ["frozen:"] if frozen else []
        lines += [f"  {g.name:{width}}  {_short(g.frozen)}" for g in frozen[:most]]
        lines += [f"  … and {len(frozen) - most} more: .to_frame()"] if len(frozen) > most else []
        return "\n".join(line.rstrip() for line in lines)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups."""
        return tuple(g.name for g in self.groups)

    @property
    def cuttable(self) -> list[Group]:
        """The groups that are not frozen."""
        return [g for g in self if not g.frozen]

    def groups_of(self, name: str) -> list[Group]:
        """Return the groups to which the output units of a layer belong.

        Parameters
        ----------
        name : str
            Name of a layer, of one of its tensors, or of a group.

        Raises
        ------
        ArgumentError
            If nothing that has units has this name.
        """
        return list({g.name: g for g, _ in self._places(name)}.values())

    def without(self, reasons: Mapping[str, str]) -> Groups:
        """Return the groups with some of them frozen, by name and reason."""
        if not reasons:
            return self
        return Groups(tuple(
            replace(g, frozen=reasons[g.name]) if g.name in reasons else g for g in self))  # fmt: skip

    def units_of(self, name: str) -> list[tuple[Group, int]]:
        """Return the output units of a layer: for each its group, and its number in that group.

        Parameters
        ----------
        name : str
            Name of a layer, of one of its tensors, or of a group; if a layer and a group have this
            name, the layer. A layer's units come in the order of its weight, whatever their groups:
            unit i of a convolution is channel i.

        Raises
        ------
        ArgumentError
            If nothing that has units has this name.

        Examples
        --------
        >>> import numpy as np, pruneviz as pv
        >>> def part(name, *channels):
        ...     index = np.array(channels)[:, None]
        ...     return pv.Group(name, len(index), (pv.Slice("conv.weight", 0, index, "out"),))
        >>> groups = pv.Groups((part("conv", 1, 2), part("conv, part 2", 0, 3)))
        >>> [(group.name, unit) for group, unit in groups.units_of("conv")]
        [('conv, part 2', 0), ('conv', 0), ('conv', 1), ('conv, part 2', 1)]
        """
        return [(g, u) for _, g, u in self._numbered(name)]

    def numbers_of(self, name: str) -> list[np.ndarray]:
        """Return, for each of `units_of`, the numbers that the layer itself gives to it.

        Mostly one number each: neuron 3 of a Linear, channel 3 of a Conv. Before a pixel shuffle, a
        chunk or a split into heads several channels of one layer make one unit. The heads of an
        `nn.MultiheadAttention`, and the units of a group that is named, are counted one by one.

        Examples
        --------
        >>> import numpy as np, pruneviz as pv
        >>> chunked = pv.Slice("fc.weight", 0, np.array([[0, 2], [1, 3]]), "out")
        >>> pv.Groups((pv.Group("fc", 2, (chunked,)),)).numbers_of("fc")
        [array([0, 2]), array([1, 3])]
        """
        return [
            np.array([i]) if own is None else own
            for i, (own, _, _) in enumerate(self._numbered(name))
        ]

    def _numbered(self, name: str) -> list[tuple[np.ndarray | None, Group, int]]:
        """Return the units of a layer in its own order, each with its numbers in the layer if any."""
        places = self._places(name)
        if len({g.name for g, _ in places}) == 1 and not any(
            name in (s.layer, s.tensor) for _, s in places
        ):  # the name of a group only: its units in their own order
            return [(None, places[0][0], u) for u in range(places[0][0].size)]
        # a layer may hold several tensors, with units along several dimensions: take the first that
        # can be cut
        main = next((s for g, s in places if not g.frozen), places[0][1])
        chosen: dict[str, tuple[Group, Slice]] = {}
        for g, s in places:
            if (s.tensor, s.dim) == (main.tensor, main.dim):
                chosen.setdefault(g.name, (g, s))
        found = [(np.sort(p), g, u) for g, s in chosen.values() for u, p in enumerate(s.index)]
        found.sort(key=lambda unit: int(unit[0][0]))
        # rows of an in-projection, or the gates of an LSTM, are no outputs that anyone counts
        counted = main.tensor in (f"{main.layer}.weight", "weight")
        every = np.sort(np.concatenate([p for p, _, _ in found]))
        counted = counted and bool((every == np.arange(len(every))).all())
        return [(p if counted else None, g, u) for p, g, u in found]

    def read_by(self, name: str) -> list[tuple[Group, int]]:
        """Return the units that a layer reads: for each its group, and its number in that group.

        Parameters
        ----------
        name : str
            Name of a layer. Its inputs come in the order of its columns. Inputs that belong to no
            group, such as the pixels of an image, are left out: the list of a first layer is empty.

        Examples
        --------
        >>> import torch, pruneviz as pv
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> groups = pv.find_groups(model, torch.zeros(1, 4))
        >>> [(group.name, unit) for group, unit in groups.read_by("2")], groups.read_by("0")
        ([('0', 0), ('0', 1)], [])
        """
        found = [(g, s) for g in self if name in g.consumers for s in g.slices if s.layer == name]
        read = [(g, s) for g, s in found if s.role == "in"]
        main = read[0][1].tensor if read else ""
        first = [
            (int(p), g, u)
            for g, s in read
            if s.tensor == main
            for u, p in enumerate(s.index.min(1))
        ]
        return [(g, u) for _, g, u in sorted(first, key=lambda unit: unit[0])]

    def to_frame(self) -> pd.DataFrame:
        """Return one row per slice.

        Returns
        -------
        DataFrame
            ``group``, ``units``, ``layer``, ``tensor``, ``dim``, ``role``, ``width`` (positions of
            each unit), ``frozen`` and ``approximate`` (the reasons, or ``""``), ``unused``.

        Examples
        --------
        >>> import numpy as np, pruneviz as pv
        >>> rows = pv.Slice("fc.weight", 0, np.arange(3)[:, None], "out")
        >>> pv.Groups((pv.Group("fc", 3, (rows,)),)).to_frame()[["group", "units", "tensor", "role"]]
          group  units     tensor role
        0    fc      3  fc.weight  out
        """
        pd = imported("pandas")

        columns = "group units layer tensor dim role width frozen approximate unused".split()
        rows = [
            (
                g.name,
                g.size,
                s.layer,
                s.tensor,
                s.dim,
                s.role,
                s.width,
                g.frozen,
                g.approximate,
                g.unused,
            )
            for g in self
            for s in g.slices
        ]
        return pd.DataFrame(rows, columns=columns)

    def _places(self, name: str) -> list[tuple[Group, Slice]]:
        """Return every `out` slice of a layer, tensor or group of this name, or raise."""
        out = [(g, s) for g in self for s in g.slices if s.role == "out"]
        of_layer = [(g, s) for g, s in out if s.layer == name]
        of_tensor = [(g, s) for g, s in out if s.tensor == name]
        of_group = [(g, s) for g, s in out if g.name == name]
        if not (of_layer or of_tensor or of_group):
            return self._places(checks.layer(name, {s.layer for _, s in out}))
        return of_layer or of_tensor or of_group


def _some(names: tuple[str, ...] | list[str], most: int = 2) -> str:
    shown = ", ".join(n or "the model itself" for n in names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown


def _short(text: str, most: int = 90) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def check_some_cuttable(groups: Groups) -> None:
    """Raise if no group can be cut, and say why.

    Raises
    ------
    GraphError
        With the reasons of up to three groups.
    """
    if not groups.cuttable:
        why = "; ".join(f"{g.name!r}: {g.frozen}" for g in list(groups)[:3])
        raise GraphError(f"no unit of the model can be removed: {why or 'it has no units'}.")

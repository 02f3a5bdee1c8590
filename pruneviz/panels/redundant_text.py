"""What the two units of a picked pair are called, and what their input weights are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pruneviz.plots.redundant import weights_image

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

    from pruneviz.core.groups import Group, Groups


WORDS = {"Conv": "channel", "Linear": "neuron"}
GREYS = "white adds, black takes away, grey ignores"
PAIR_KEYS = ("pair", "group", "kept", "removed", "similarity", "scale", "goes")


def pair_facts(points: pd.DataFrame, pair: int) -> dict[str, Any]:
    """Return facts about a pair; about the last pair if `pair` is too large; None without pairs.

    >>> import pandas as pd
    >>> pair_facts(pd.DataFrame(), 3)["pair"] is None
    True
    """
    if not len(points):
        return dict.fromkeys(PAIR_KEYS)
    pair = min(pair, len(points) - 1)
    row = points.iloc[pair]
    return {
        "pair": pair,
        "group": str(row["group"]),
        "kept": int(row["kept"]),
        "removed": int(row["removed"]),
        "similarity": float(row["similarity"]),
        "scale": float(row["scale"]),
        "goes": bool(row["goes"]),
    }


class UnitWeights:
    """The input weights of the units of a model, as images.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    groups : Groups
    x : Tensor, tuple or dict
        Example input. Where a layer reads the pixels of an image, its weights have the same shape.
    """

    def __init__(self, model: nn.Module, groups: Groups, x: Any) -> None:
        self._tensors = dict(model.named_parameters())
        self._kinds = {n: type(m).__name__ for n, m in model.named_modules()}
        self._groups = groups
        self._shape: tuple[int, ...] = tuple(getattr(x, "shape", ()))

    def word(self, group: Group) -> str:
        """Return what a unit of the group is called: neuron, channel, unit."""
        layer = group.producers[0]
        widths = [s.width for s in group.slices if s.layer == layer and s.role == "out"]
        if min(widths, default=1) > 1:  # an attention head, or a pair that is cut together
            return "unit"
        kind = self._kinds.get(layer, "")
        return next((w for part, w in WORDS.items() if part in kind), "unit")

    def images(
        self, group: Group, units: tuple[int, int], keep: Tensor
    ) -> tuple[list[Any], list[str], str]:
        """Return the images of the two units, their titles, and the caption below both."""
        images = [self.image(group, unit) for unit in units]
        titles = [f"{self.word(group)} {u} {'stays' if keep[u] else 'goes'}" for u in units]
        if any(image is None for image, _ in images):
            return [], [], ""
        return [image for image, _ in images], titles, images[-1][1]

    def image(self, group: Group, unit: int) -> tuple[Any, str]:
        """Return the input weights of a unit as an image, and a caption."""
        layer = group.producers[0]
        for s in group.slices:
            if s.layer != layer or s.role != "out" or s.tensor not in self._tensors:
                continue
            weight = self._tensors[s.tensor].detach().cpu().float()
            if weight.ndim < 2:
                continue
            rows = weight.transpose(0, s.dim)[s.index[unit].tolist()]
            if rows.ndim == 4:
                kernels = rows.flatten(0, 1).numpy()
                n = len(kernels)
                what = f"{n} kernels, one for each channel it reads" if n > 1 else "its kernel"
                return weights_image(kernels), f"{what}: {GREYS}"
            pixels = self._pixels(layer, rows)
            what = "the pixels it reads" if pixels else f"its {rows.numel():,} weights in lines"
            return weights_image(rows.flatten().numpy(), pixels), f"{what}: {GREYS}"
        return None, ""

    def _pixels(self, layer: str, rows: Tensor) -> tuple[int, int] | None:
        """Return height and width of the input if the layer reads its pixels one by one."""
        if len(self._shape) != 4 or self._shape[1] != 1 or self._groups.read_by(layer):
            return None
        height, width = self._shape[2:]
        return (height, width) if rows.numel() == height * width else None

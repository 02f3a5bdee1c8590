"""Groups written by hand, for models that are small enough to see through."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import pruneviz as pv

OUTPUT = "its units are the model's output"


def where(tensor: str, dim: int, role: str, index: object, blocks: int = 1) -> pv.Slice:
    """Return a slice; `index`: the number of units, or for each unit its position or positions."""
    positions = np.arange(index) if isinstance(index, int) else np.array(index)
    return pv.Slice(tensor, dim, positions.reshape(len(positions), -1), role, blocks)


def rows(layer: str, index: object, *names: str) -> tuple[pv.Slice, ...]:
    return tuple(where(f"{layer}.{name}", 0, "out", index) for name in names or ("weight", "bias"))


def mlp() -> nn.Module:
    """fc1 (6 units), fc2 (4), fc3: the output."""
    torch.manual_seed(0)
    names = {"fc1": nn.Linear(5, 6), "relu1": nn.ReLU(), "fc2": nn.Linear(6, 4), "relu2": nn.ReLU()}
    model = nn.Sequential()
    for name, module in {**names, "fc3": nn.Linear(4, 3)}.items():
        model.add_module(name, module)
    return model


def mlp_groups() -> pv.Groups:
    return pv.Groups(
        (
            pv.Group("fc1", 6, (*rows("fc1", 6), where("fc2.weight", 1, "in", 6))),
            pv.Group("fc2", 4, (*rows("fc2", 4), where("fc3.weight", 1, "in", 4))),
            pv.Group("fc3", 3, rows("fc3", 3), OUTPUT),
        )
    )


class ConvNet(nn.Module):
    """A stem and a residual block around a grouped convolution, then a flatten.

    Channels of `stem` and `conv2` go together; of `conv1` as many from each half, for `conv2` comes
    in two groups.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.conv1 = nn.Conv2d(4, 8, 3, padding=1)
        self.conv2 = nn.Conv2d(8, 4, 3, padding=1, groups=2)
        self.head = nn.Linear(4 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = x + self.conv2(self.conv1(x).relu())
        return self.head(x.flatten(1))


def conv() -> nn.Module:
    torch.manual_seed(0)
    model = ConvNet()
    with torch.no_grad():
        for t in (model.norm.weight, model.norm.bias, model.norm.running_mean):
            t.uniform_(0.5, 1.5)
    return model.eval()


def conv_groups() -> pv.Groups:
    norm = ("weight", "bias", "running_mean")
    flat = np.arange(4 * 9).reshape(4, 9)
    stem = pv.Group(
        "stem",
        4,
        (
            *rows("stem", 4, "weight"),
            *rows("norm", 4, *norm),
            where("norm.running_var", 0, "in", 4),  # to be deleted, but never zeroed
            where("conv1.weight", 1, "in", 4),
            *rows("conv2", 4),
            where("head.weight", 1, "in", flat),
        ),
        even=np.array([0, 0, 1, 1]),  # conv2 gives two channels a group
    )
    conv1 = pv.Group(
        "conv1",
        8,
        (*rows("conv1", 8), where("conv2.weight", 1, "in", 8, blocks=2)),
        even=np.array([0, 0, 0, 0, 1, 1, 1, 1]),
    )
    return pv.Groups((stem, conv1, pv.Group("head", 3, rows("head", 3), OUTPUT)))


def spread() -> pv.Groups:
    """One convolution whose channels belong to three groups, one of them frozen."""
    return pv.Groups(
        (
            pv.Group("conv", 2, rows("conv", [1, 4]), "they meet the model's input"),
            pv.Group("conv, part 2", 2, (*rows("conv", [5, 0]), where("a.weight", 1, "in", 2))),
            pv.Group("conv, part 3", 2, (*rows("conv", [2, 3]), where("b.weight", 1, "in", 2))),
        )
    )


def heads() -> pv.Groups:
    """Two heads of width 3 in a fused q, k, v: 18 rows."""
    index = np.arange(18).reshape(3, 2, 3).transpose(1, 0, 2).reshape(2, 9)
    out = tuple(where(f"attn.in_proj_{n}", 0, "out", index) for n in ("weight", "bias"))
    back = where("attn.out_proj.weight", 1, "in", np.arange(6).reshape(2, 3))
    return pv.Groups((pv.Group("attn", 2, (*out, back)),))

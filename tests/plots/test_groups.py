"""Which layers share units, in one picture: the marks carry the frame."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import nn

import pruneviz as pv


class Block(nn.Module):
    def __init__(self, inside: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.down = nn.Sequential()
        if stride > 1:
            self.down = nn.Sequential(nn.Conv2d(inside, out, 1, stride), nn.BatchNorm2d(out))

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.down(x))


def resnet18() -> nn.Module:
    sizes = [(8, 8, 1), (8, 8, 1), (8, 16, 2), (16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1)]  # fmt: skip
    blocks = [Block(*s) for s in sizes]
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), *blocks, nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(32, 5))  # fmt: skip


@pytest.fixture(scope="module")
def groups():
    return pv.find_groups(resnet18(), torch.zeros(1, 3, 32, 32))


def marks(ax):
    return {c.get_label(): c.get_offsets() for c in ax.collections}


def test_every_group_has_its_column_and_its_marks(groups):
    ax = pv.plot_groups(groups.to_frame())
    assert [t.get_text() for t in ax.get_xticklabels()] == [f"{g.name}: {g.size}" for g in groups]
    found = marks(ax)
    for i, g in enumerate(groups):
        makes = found["makes, frozen" if g.frozen else "makes"]
        assert 0 < sum(x == i for x, _ in makes) <= len(g.producers)
        reads = found.get("reads, frozen" if g.frozen else "reads", [])
        assert sum(x == i for x, _ in reads) <= len(g.consumers)
    stem = groups.groups_of("0")[0]
    assert set(stem.producers) >= {"0", "2.conv2", "3.conv2"}  # one stream through the stage
    assert "its units are the model's output" in ax.get_xlabel()


def test_a_resnet18_is_readable(groups):
    ax = pv.plot_groups(groups.to_frame())
    ax.figure.canvas.draw()
    for axis in (ax.get_xticklabels(), ax.get_yticklabels()):
        boxes = [t.get_window_extent() for t in axis if t.get_text()]
        assert not any(a.overlaps(b) for a, b in pairwise(boxes))


def test_given_ax_and_missing_columns(groups):
    ax = Figure().subplots()
    assert pv.plot_groups(groups.to_frame(), ax=ax) is ax
    with pytest.raises(pv.ArgumentError, match="plot_groups needs a column 'role'"):
        pv.plot_groups(groups.to_frame().drop(columns="role"))
    with pytest.raises(pv.ArgumentError, match="without rows"):
        pv.plot_groups(groups.to_frame()[:0])

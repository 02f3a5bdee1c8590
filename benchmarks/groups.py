"""What finding groups and shrinking cost, beside what `torch.export` costs anyway. Ratios in one run."""

from __future__ import annotations

import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pruneviz as pv
from pruneviz.graph.trace import trace
from pruneviz.graph.walk import walk


class Bottleneck(nn.Module):
    """The block of ResNet-50 (He et al. 2016)."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        out = 4 * width
        self.conv1 = nn.Conv2d(inside, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if inside != out or stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """From (n, inside, height, width) to (n, 4 · width, …)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


def resnet50() -> nn.Module:
    """ResNet-50 as published: 25.6 million parameters."""
    blocks, inside = [], 64
    for width, count, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for i in range(count):
            blocks.append(Bottleneck(inside, width, stride if i == 0 else 1))
            inside = 4 * width
    stem = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
    ]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2048, 1000)]
    return nn.Sequential(*stem, *blocks, *head).eval()


def seconds(run: Callable[[], object]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def walk_bytes(width: int) -> float:
    """Peak bytes that walking an MLP allocates, for each place of its parameters' dimensions."""
    layers = [nn.Linear(width, width) for _ in range(8)]
    traced = trace(nn.Sequential(*layers), torch.zeros(1, width))
    tracemalloc.start()
    walk(traced)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / (8 * 3 * width)


def main() -> None:
    """Print the tables."""
    model, x = resnet50(), torch.randn(1, 3, 224, 224)

    def export() -> object:
        with torch.no_grad():
            return torch.export.export(model, (x,), strict=False)

    export()  # the first one also imports
    exports, finds = [], []
    for _ in range(7):
        exports.append(seconds(export))
        finds.append(seconds(lambda: pv.find_groups(model, x)))
    groups = pv.find_groups(model, x)
    plan = pv.select(pv.score(model, "l2", groups=groups), sparsity=0.3)
    shrunk = seconds(lambda: pv.shrink(model, plan, example_input=x))
    once, found = statistics.median(exports), statistics.median(finds)

    print(f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| ResNet-50, one image of 224 × 224 | s | ÷ export |\n|---|---|---|")
    print(f"| `torch.export` alone | {once:.2f} | 1 |")
    print(f"| `find_groups`, export included | {found:.2f} | {found / once:.2f} |")
    print(
        f"| `shrink`, proof on 8 images in float64 included | {shrunk:.2f} | {shrunk / once:.1f} |"
    )
    print("\n| width of an MLP of 8 layers | bytes a place |\n|---|---|")
    for width in (256, 1024, 4096, 16384):
        print(f"| {width:,} | {walk_bytes(width):.0f} |")


if __name__ == "__main__":
    main()

"""What collecting evidence costs beside a plain forward of the same batches; ratios in one run."""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import pruneviz as pv
from pruneviz import lessons
from pruneviz.model.forward import arguments

ROUNDS = 7


class Block(nn.Module):
    """The block of ResNet-18 (He et al. 2016)."""

    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inside, width, 3, stride, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.shortcut: nn.Module = nn.Identity()
        if inside != width or stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inside, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        """From (n, inside, height, width) to (n, width, …)."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        return torch.relu(y + self.shortcut(x))


def resnet18() -> nn.Module:
    """ResNet-18 as published."""
    parts: list[nn.Module] = [
        nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)
    ]  # fmt: skip
    inside = 64
    for width, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        parts += [Block(inside, width, stride), Block(width, width, 1)]
        inside = width
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000)).eval()


def minilm() -> tuple[nn.Module, list[Any]]:
    """Build a sentence encoder of MiniLM's size (6 layers, width 384), and batches of 32 × 64 tokens."""
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
                        intermediate_size=1536)  # fmt: skip
    ids = [torch.randint(0, 30000, (32, 64)) for _ in range(2)]
    return BertModel(config).eval(), [
        {"input_ids": i, "attention_mask": torch.ones_like(i)} for i in ids
    ]


def plainly(model: nn.Module, batches: list[Any]) -> None:
    """Run the model over the batches."""
    with pv.evaluating(model):
        for b in batches:
            args, kwargs = arguments(b)
            model(*args, **kwargs)


def stored(model: nn.Module, batches: list[Any]) -> None:
    """Keep every input of every layer: the usual way to have statistics afterwards."""
    kept: list[Tensor] = []
    layers = [n for n, m in model.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    with pv.evaluating(model), pv.hooked(model, layers, lambda n, x, y: kept.append(x[0].clone())):
        for b in batches:
            args, kwargs = arguments(b)
            model(*args, **kwargs)
    for x in kept:
        rows = x.flatten(2) if x.ndim == 4 else x.reshape(1, -1, x.shape[-1]).mT
        rows.mean((0, 2)), (rows == 0).sum((0, 2)), rows.std((0, 2))


def cases() -> dict[str, Callable[[], tuple[nn.Module, list[Any]]]]:
    """Return what makes each network and its batches, by name."""

    def images(n: int, size: int) -> list[Any]:
        return list(lessons.fashion_mnist().train[:n].x.split(size))

    return {
        "lenet-300-100, batches of 500": lambda: (lessons.load("lenet-300-100"), images(4000, 500)),
        "lenet-300-100, batches of 100": lambda: (lessons.load("lenet-300-100"), images(4000, 100)),
        "lenet-5, batches of 100": lambda: (lessons.load("lenet-5"), images(1000, 100)),
        "batchnorm-cnn, batches of 100": lambda: (lessons.load("batchnorm-cnn"), images(1000, 100)),
        "ResNet-18, 8 images of 224 × 224": lambda: (resnet18(), [torch.randn(8, 3, 224, 224)]),
        "size of MiniLM, 32 × 64 tokens": minilm,
    }


def peak(name: str, way: str, times: int) -> None:
    """Run over the batches so many times; print the most memory that this process held, in MB."""
    model, batches = cases()[name]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = batches * times
        plainly(model, batches[:1])
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of reading the data (Linux)
        if way == "plain":
            plainly(model, run)
        else:
            pv.collect(model, run, comoment=False, progress=False)
    lines = Path("/proc/self/status").read_text().splitlines()
    print(next(int(n.split()[1]) for n in lines if n.startswith("VmHWM")) / 1024)


def memory() -> None:
    """Print how much more memory `collect` needs than a plain forward: a process of its own for each."""
    print("\n| MB more than a plain forward | once over the batches | eight times |")
    print("|---|---|---|")
    for name in cases():
        found = {
            (way, times): statistics.median(
                float(
                    subprocess.run(
                        [sys.executable, __file__, "--peak", name, way, str(times)],
                        capture_output=True, text=True, check=True,
                    ).stdout
                )
                for _ in range(3)
            )
            for way in ("plain", "cheap") for times in (1, 8)
        }  # fmt: skip
        more = [f"{found['cheap', t] - found['plain', t]:.0f}" for t in (1, 8)]
        print(f"| {name} | {' | '.join(more)} |", flush=True)


def main() -> None:
    """Print the tables."""
    if sys.argv[1:2] == ["--peak"]:
        peak(sys.argv[2], sys.argv[3], int(sys.argv[4]))
        return
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print(
        "| ÷ plain forward | forward, ms | without co-moments | with | gradients, too | all stored |"
    )
    print("|---|---|---|---|---|---|")
    for name, make in cases().items():
        model, batches = make()
        ways: dict[str, Callable[[], object]] = {
            "plain": lambda m=model, b=batches: plainly(m, b),
            "cheap": lambda m=model, b=batches: pv.collect(m, b, comoment=False, progress=False),
            "whole": lambda m=model, b=batches: pv.collect(m, b, progress=False),
            "stored": lambda m=model, b=batches: stored(m, b),
        }
        if "lenet" in name or "cnn" in name:
            loss = torch.nn.functional.cross_entropy
            ways["loss"] = lambda m=model, b=batches, f=loss: pv.collect(
                m, b, loss=f, progress=False
            )
        took: dict[str, list[float]] = {way: [] for way in ways}
        for i in range(ROUNDS + 1):  # in turn, so that drift does not decide; the first warms up
            for way, run in ways.items():
                if way in ("whole", "loss") and i > 2:
                    continue
                start = time.perf_counter()
                run()
                if i:
                    took[way].append(time.perf_counter() - start)
        ms = {way: 1000 * statistics.median(t) for way, t in took.items()}
        cells = [
            f"{ms[w] / ms['plain']:.2f}" if w in ms else ""
            for w in ("cheap", "whole", "loss", "stored")
        ]
        print(f"| {name} | {ms['plain']:.0f} | {' | '.join(cells)} |", flush=True)
    memory()


if __name__ == "__main__":
    main()

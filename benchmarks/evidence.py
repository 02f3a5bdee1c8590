"""What collecting evidence costs beside a plain forward of the same batches; ratios in one run."""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import pruneviz as pv
from pruneviz import lessons
from pruneviz._inputs import arguments

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


def main() -> None:
    """Print the table."""
    print(f"{platform.platform()}, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    images = lessons.fashion_mnist().train[:4000].x
    bert, tokens = minilm()
    cases: list[tuple[str, nn.Module, list[Any]]] = [
        ("lenet-300-100, batches of 500", lessons.load("lenet-300-100"), list(images.split(500))),
        ("lenet-300-100, batches of 100", lessons.load("lenet-300-100"), list(images.split(100))),
        ("lenet-5, batches of 100", lessons.load("lenet-5"), list(images[:1000].split(100))),
        (
            "batchnorm-cnn, batches of 100",
            lessons.load("batchnorm-cnn"),
            list(images[:1000].split(100)),
        ),
        ("ResNet-18, 8 images of 224 × 224", resnet18(), [torch.randn(8, 3, 224, 224)]),
        ("size of MiniLM, 32 × 64 tokens", bert, tokens),
    ]
    print(
        "| ÷ plain forward | forward, ms | without co-moments | with | gradients, too | all stored |"
    )
    print("|---|---|---|---|---|---|")
    for name, model, batches in cases:
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


if __name__ == "__main__":
    main()

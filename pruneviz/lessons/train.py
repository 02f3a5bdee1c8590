"""How a network of the lessons is trained: ``python -m pruneviz.lessons.train NAME``."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.lessons.checkpoints import checkpoint, save
from pruneviz.lessons.data import Dataset, fashion_mnist
from pruneviz.lessons.models import NETWORKS, build
from pruneviz.metrics.accuracy import accuracy
from pruneviz.model.hooks import seeded
from pruneviz.training.fit import fit


@dataclass(frozen=True)
class Recipe:
    """Settings of a training: AdamW with a learning rate that falls to 0 along a cosine."""

    epochs: int
    lr: float
    batch_size: int = 100
    weight_decay: float = 0.01


RECIPES = {
    "lenet-300-100": Recipe(epochs=15, lr=1e-3, batch_size=50, weight_decay=0.05),
    "lenet-5": Recipe(epochs=10, lr=1e-3),
    "batchnorm-cnn": Recipe(epochs=8, lr=2e-3),
    "residual-net": Recipe(epochs=8, lr=3e-3),
    "image-transformer": Recipe(epochs=12, lr=1e-3),
}


def train(
    name: str, data: Dataset, *, seed: int = 0, epochs: int | None = None, progress: bool = True
) -> tuple[nn.Module, dict[str, Any]]:
    """Train a network from scratch; return it with the notes of the run.

    Parameters
    ----------
    name : str
        One of ``sorted(NETWORKS)``.
    data : Dataset
    seed : int
        Determines the initial weights and the order of the batches.
    epochs : int, optional
        Default: those of the network's `Recipe`.
    """
    recipe = RECIPES[checks.choice(name, "network", NETWORKS)]
    epochs = recipe.epochs if epochs is None else checks.count(epochs, "epochs", low=1)
    start = time.perf_counter()
    with seeded(seed):
        model = build(name).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = data.train.batches(recipe.batch_size, shuffle=True)
    optimizer = partial(torch.optim.AdamW, weight_decay=recipe.weight_decay)
    options: dict[str, Any] = {"epochs": epochs, "lr": recipe.lr, "seed": seed}
    model = fit(model, batches, optimizer=optimizer, progress=progress, **options).eval()
    notes = {
        "network": name,
        "data": data.name,
        "validation_accuracy": accuracy(model, data.validation.batches()),
        "test_accuracy": accuracy(model, data.test.batches()),
        **options,
        "batch_size": recipe.batch_size,
        "weight_decay": recipe.weight_decay,
        "seconds": round(time.perf_counter() - start, 1),
        "threads": torch.get_num_threads(),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "command": f"python -m pruneviz.lessons.train {name} --seed {seed} --epochs {epochs}",
    }
    return model, notes


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m pruneviz.lessons.train",
        description="Train a network of the lessons on Fashion-MNIST and save its checkpoint.",
    )
    parser.add_argument("name", metavar="NAME", help=", ".join(sorted(NETWORKS)))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="default: the network's recipe")
    parser.add_argument("--out", type=Path, help="folder; default: data/checkpoints")
    parser.add_argument("--no-progress", action="store_true")
    args = parser.parse_args(argv)
    try:
        model, notes = train(
            args.name,
            fashion_mnist(),
            seed=args.seed,
            epochs=args.epochs,
            progress=not args.no_progress,
        )
        path = checkpoint(args.name, args.seed, args.out)
        save(model, path, notes)
    except ArgumentError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(f"{path}: test accuracy {notes['test_accuracy']:.4f} in {notes['seconds']} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())

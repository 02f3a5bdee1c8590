"""How the trained networks of the lessons are loaded and saved: ``data/checkpoints/``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.tensor_file import DAMAGED, read_tensors, write_tensors
from pruneviz.core.whole_file import write_whole
from pruneviz.lessons.data import data_dir
from pruneviz.lessons.models import NETWORKS, build
from pruneviz.model.hooks import seeded


def load(name: str, *, seed: int = 0) -> nn.Module:
    """Return one of the lessons' trained networks, in eval mode.

    Parameters
    ----------
    name : str
        One of ``sorted(NETWORKS)``.
    seed : int
        Seed of the training run; only seed 0 is in the repository.

    Raises
    ------
    ArgumentError
        If the network is unknown, or its checkpoint is missing, damaged, or of another network.

    Examples
    --------
    >>> load("lenet-300-100")
    LeNet300(
      (fc1): Linear(in_features=784, out_features=300, bias=True)
      (fc2): Linear(in_features=300, out_features=100, bias=True)
      (fc3): Linear(in_features=100, out_features=10, bias=True)
    )
    """
    with seeded(None):  # building draws random weights
        model = build(name)
    load_into(model, checkpoint(name, seed))
    return model.eval()


def record(name: str, *, seed: int = 0) -> dict[str, Any]:
    """Return the notes of a network's training: accuracies, epochs, seed, versions.

    Examples
    --------
    >>> record("lenet-300-100")["seed"]
    0
    """
    checks.choice(name, "network", NETWORKS)
    path = checkpoint(name, seed).with_suffix(".json")
    if not path.is_file():
        raise ArgumentError(
            f"there is no record {path}. Train it: python -m pruneviz.lessons.train {name}."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def checkpoint(name: str, seed: int = 0, folder: Path | None = None) -> Path:
    """Return the path of a network's checkpoint.

    >>> checkpoint("lenet-5", 2).name
    'lenet-5.seed2.safetensors'
    """
    stem = name if seed == 0 else f"{name}.seed{seed}"
    return (folder or data_dir() / "checkpoints") / f"{stem}.safetensors"


def load_into(model: nn.Module, path: str | Path) -> None:
    """Load a checkpoint into a model; if a tensor does not match, nothing is changed.

    Raises
    ------
    ArgumentError
        If the file is missing, damaged, or of another network.
    """
    path = Path(path)
    if not path.is_file():
        raise ArgumentError(
            f"there is no checkpoint {path}. Train it: python -m pruneviz.lessons.train NAME."
        )
    try:
        _, state = read_tensors(path)
    except DAMAGED as e:
        raise ArgumentError(
            f"checkpoint {path} is damaged ({e}). Restore it: git checkout -- {path}."
        ) from e
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    for key in [*expected, *found]:
        if expected.get(key) != found.get(key):
            raise ArgumentError(
                f"checkpoint {path} is of another network than {type(model).__name__}: {key!r} is "
                f"{found.get(key, 'missing')} in the file and {expected.get(key, 'missing')} in the model."
            )
    model.load_state_dict(state)


def save(model: nn.Module, path: Path, notes: dict[str, Any]) -> None:
    """Write a checkpoint, and the notes as a JSON file in the same folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    write_tensors(path, state)
    text = json.dumps(notes, indent=2, ensure_ascii=False)
    write_whole(path.with_suffix(".json"), f"{text}\n".encode())

"""What the notebooks need: data, networks, checkpoints, guesses, checks."""

from __future__ import annotations

from pruneviz.lessons.checkpoints import load, record
from pruneviz.lessons.data import Dataset, Split, digits, fashion_mnist
from pruneviz.lessons.models import NETWORKS, build

__all__ = ["NETWORKS", "Dataset", "Split", "build", "digits", "fashion_mnist", "load", "record"]

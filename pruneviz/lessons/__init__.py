"""What the notebooks need: data, networks, checkpoints, guesses, exercises."""

from __future__ import annotations

from pruneviz.lessons.checkpoints import load, record
from pruneviz.lessons.data import Dataset, Split, digits, fashion_mnist
from pruneviz.lessons.exercises.exercise import check, hint, solution
from pruneviz.lessons.guesses import Guess, guess
from pruneviz.lessons.models import NETWORKS, build
from pruneviz.lessons.recorded import curves, curves_record
from pruneviz.lessons.shown import show

__all__ = [
    "NETWORKS",
    "Dataset",
    "Guess",
    "Split",
    "build",
    "check",
    "curves",
    "curves_record",
    "digits",
    "fashion_mnist",
    "guess",
    "hint",
    "load",
    "record",
    "show",
    "solution",
]

"""Which data sets the lessons use: all of Fashion-MNIST, and scikit-learn's digits."""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError

# sha256 of the unpacked content, which does not depend on how the archive was packed
CONTENT = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
GARMENTS = (
    *("T-shirt", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)


class Batches:
    """Batches of a split as (float images, labels); they can be iterated several times.

    Shuffled batches draw their order from torch's global generator, as a DataLoader does; `fit`
    seeds and restores it.
    """

    def __init__(self, split: Split, size: int, shuffle: bool) -> None:
        self.split, self.size, self.shuffle = split, size, shuffle

    def __len__(self) -> int:
        return -(-len(self.split) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        n = len(self.split)
        order = torch.randperm(n) if self.shuffle else torch.arange(n)
        for index in order.split(self.size):
            part = self.split[index]
            yield part.x, part.labels


@dataclass(frozen=True)
class Split:
    """Images stored as bytes, and their labels; images are converted to floats when they are read.

    Parameters
    ----------
    images : Tensor, uint8, shape (n, 1, height, width)
    labels : Tensor, int64, shape (n,)
    classes : tuple of str
        Name of each class.
    mean, std, top : float
        An image becomes ``(bytes / top - mean) / std``.

    Examples
    --------
    >>> split = digits().test
    >>> len(split), split.x.shape, split[:2].labels.shape
    (300, torch.Size([300, 1, 8, 8]), torch.Size([2]))
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    mean: float
    std: float
    top: float

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: slice | Tensor) -> Split:
        shared = (self.classes, self.mean, self.std, self.top)
        return Split(self.images[index], self.labels[index], *shared)

    def __repr__(self) -> str:
        height, width = self.images.shape[2:]
        return f"Split of {len(self):,} images of {height}×{width} in {len(self.classes)} classes"

    @property
    def x(self) -> Tensor:
        """All images as normalised floats, shape (n, 1, height, width)."""
        return (self.images.float() / self.top - self.mean) / self.std

    def batches(self, size: int = 1000, *, shuffle: bool = False) -> Batches:
        """Return the batches (float images, labels) of at most `size` examples.

        Examples
        --------
        >>> [len(y) for x, y in digits().test.batches(128)]
        [128, 128, 44]
        """
        return Batches(self, checks.count(size, "size", low=1), shuffle)

    def one_of_each(self) -> Split:
        """Return the first image of each class, in the order of the classes.

        Raises
        ------
        ArgumentError
            If a class has no image in this split.

        Examples
        --------
        >>> digits().test.one_of_each().labels.tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]
        """
        labels = self.labels.tolist()
        missing = [name for c, name in enumerate(self.classes) if c not in labels]
        if missing:
            raise ArgumentError(
                f"there is no image of {', '.join(missing)} among these {len(self):,}. "
                "Call one_of_each on a larger split."
            )
        return self[torch.tensor([labels.index(c) for c in range(len(self.classes))])]


class Dataset:
    """Three splits, `train`, `validation` and `test`, each read at its first use.

    Make choices on the validation split, and report results on the test split.
    """

    def __init__(self, name: str, read: Callable[[str], Split]) -> None:
        self.name, self._read = name, read

    def __repr__(self) -> str:
        return f"Dataset {self.name!r}: .train, .validation, .test"

    @cached_property
    def train(self) -> Split:
        """The split for training."""
        return self._read("train")

    @cached_property
    def validation(self) -> Split:
        """The split for choices, such as that of a sparsity."""
        return self._read("validation")

    @cached_property
    def test(self) -> Split:
        """The split for the reported results."""
        return self._read("test")


def data_dir() -> Path:
    """Return the folder of the data: ``$PRUNEVIZ_DATA``, or ``data/`` beside the package.

    Raises
    ------
    ArgumentError
        If there is no such folder.

    Examples
    --------
    >>> (data_dir() / "fashion-mnist").is_dir()
    True
    """
    given = os.environ.get("PRUNEVIZ_DATA")
    path = Path(given) if given else Path(__file__).parents[2] / "data"
    if path.is_dir():
        return path
    raise ArgumentError(
        f"the data of the lessons must be in {path}, but there is no such folder. "
        "Work in a clone of the repository, or set PRUNEVIZ_DATA to its data/ folder."
    )


def fashion_mnist(folder: str | Path | None = None) -> Dataset:
    """Return Fashion-MNIST (Xiao et al. 2017): 70,000 garments, 28×28 grey, 10 classes.

    Train: the first 50,000; validation: the last 10,000 of the 60,000; test: the 10,000 test
    images. Each split is read at its first use.

    Parameters
    ----------
    folder : path, optional
        Folder of the four ``.gz`` files; default: ``data/fashion-mnist``.

    Raises
    ------
    ArgumentError
        At the first use of a split, if its file is missing or damaged (sha256 of the content).

    References
    ----------
    Xiao, Rasul, Vollgraf 2017, "Fashion-MNIST", arXiv:1708.07747.

    Examples
    --------
    >>> fashion_mnist().test
    Split of 10,000 images of 28×28 in 10 classes
    """
    path = Path(folder) if folder is not None else data_dir() / "fashion-mnist"
    cuts = {"train": slice(0, 50_000), "validation": slice(50_000, None), "test": slice(None)}
    cache: dict[str, Split] = {}  # train and validation are in the same file

    def read(split: str) -> Split:
        part = "t10k" if split == "test" else "train"
        if part not in cache:
            images = _idx(path / f"{part}-images-idx3-ubyte.gz", header=16)
            labels = _idx(path / f"{part}-labels-idx1-ubyte.gz", header=8)
            shaped = images.view(-1, 1, 28, 28)
            cache[part] = Split(shaped, labels.long(), GARMENTS, 0.2860, 0.3530, 255.0)
        return cache[part][cuts[split]]

    return Dataset("fashion-mnist", read)


def digits() -> Dataset:
    """Return scikit-learn's digits: 1,797 handwritten digits, 8×8 grey (0 to 16), 10 classes.

    Train: the first 1,197; validation: the next 300; test: the last 300.

    Examples
    --------
    >>> digits().train
    Split of 1,197 images of 8×8 in 10 classes
    """
    cuts = {"train": slice(0, 1197), "validation": slice(1197, 1497), "test": slice(1497, None)}

    def read(split: str) -> Split:
        from sklearn.datasets import load_digits

        raw = load_digits()
        images = torch.from_numpy(raw.images.astype(np.uint8)).view(-1, 1, 8, 8)
        names = tuple(str(d) for d in raw.target_names)
        labels = torch.from_numpy(raw.target.astype(np.int64))
        whole = Split(images, labels, names, 0.3063, 0.3755, 16.0)
        return whole[cuts[split]]

    return Dataset("digits", read)


def _idx(path: Path, header: int) -> Tensor:
    """Read one idx file: a header of `header` bytes, then the data."""
    advice = f"Restore it: git checkout -- {path} (data/README.md says where it comes from)."
    if not path.is_file():
        raise ArgumentError(f"data file {path} is missing. {advice}")
    try:
        with gzip.open(path) as f:
            raw = f.read()
    except (OSError, EOFError, zlib.error) as e:
        raise ArgumentError(f"data file {path} is damaged ({e}). {advice}") from e
    got, want = hashlib.sha256(raw).hexdigest(), CONTENT[path.name.removesuffix(".gz")]
    if got != want:
        raise ArgumentError(
            f"data file {path} is damaged: the sha256 of its content is {got[:12]}…, "
            f"expected {want[:12]}…. {advice}"
        )
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8, offset=header)

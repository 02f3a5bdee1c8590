"""How masks and examples are drawn as images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pruneviz.core.errors import ArgumentError
from pruneviz.plots.style import KEPT, PRUNED, axes, plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_mask(data: Any, *, ax: Axes | None = None) -> Axes:
    """Draw a mask: blue where a weight is kept, white where it is removed.

    Parameters
    ----------
    data : array-like, bool
        ``plan.keep[name]``, of shape (rows, columns). With more dimensions, all but the first are
        flattened into columns; one dimension becomes one row.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        With one image, 1 = kept.

    Raises
    ------
    ArgumentError
        If it is not boolean or empty.

    Examples
    --------
    >>> import numpy as np, pruneviz as pv
    >>> pv.plot_mask(np.eye(3, dtype=bool)).images[0].get_array().shape
    (3, 3)
    """
    from matplotlib.colors import ListedColormap

    keep = np.asarray(data)
    if keep.dtype != bool or keep.size == 0:
        raise ArgumentError(
            f"plot_mask draws a boolean array, but {keep.dtype} of shape {keep.shape} was passed. "
            "Take it from a plan: plan.keep['fc1.weight']."
        )
    keep = keep.reshape(1, -1) if keep.ndim < 2 else keep.reshape(len(keep), -1)
    ax = axes(ax, (6.4, 3.2))
    ax.imshow(
        keep.astype(np.uint8),
        cmap=ListedColormap(["white", KEPT]),
        vmin=0,
        vmax=1,
        aspect="auto",
        interpolation="antialiased" if keep.size > 10_000 else "nearest",
    )
    kept = int(keep.sum())
    ax.set(
        xlabel="input (index)",
        ylabel="output (index)",
        title=f"{kept:,} of {keep.size:,} weights kept (blue)",
    )
    return ax


def plot_strip(
    data: Any,
    *,
    labels: Sequence[int],
    predictions: Sequence[int],
    classes: Sequence[str],
    ax: Axes | None = None,
) -> Axes:
    """Draw examples in a row, and below each the predicted class: ✓ right, ✗ wrong.

    Parameters
    ----------
    data : array-like, shape (n, height, width), (n, 1, height, width) or (n, 3, height, width)
        Grey images, drawn dark on white, or RGB images. Each is scaled to its own minimum and
        maximum, so normalised images are visible, too.
    labels, predictions : sequence of int, length n
        The true and the predicted classes.
    classes : sequence of str
        Name of each class.
    ax : Axes, optional
        Where to draw; default: a new figure.

    Returns
    -------
    Axes
        With n images and n texts.

    Raises
    ------
    ArgumentError
        If the lengths differ, or there is no image.

    Examples
    --------
    >>> import numpy as np, pruneviz as pv
    >>> ax = pv.plot_strip(np.zeros((2, 4, 4)), labels=[0, 1], predictions=[0, 0],
    ...                    classes=["cat", "dog"])
    >>> [t.get_text() for t in ax.texts]
    ['✓ cat', '✗ cat']
    """
    images = checked_images(data, labels, predictions)
    n, height, width = images.shape[:3]
    ax = axes(ax, (1.1 * n, 1.5))
    for i, (image, label, predicted) in enumerate(zip(images, labels, predictions, strict=True)):
        x = i * 1.15
        ax.imshow(
            image, **imshow_style(image), extent=(x, x + 1, 0, height / width), aspect="equal"
        )
        right = label == predicted
        ax.text(
            x + 0.5,
            -0.06,
            f"{'✓' if right else '✗'} {plain(classes[predicted])}",
            ha="center",
            va="top",
            fontsize=8,
            color=KEPT if right else PRUNED,
        )
    ax.set(xlim=(-0.05, 1.15 * n), ylim=(-0.35, height / width + 0.05))
    ax.axis("off")
    return ax


def imshow_style(image: np.ndarray) -> dict[str, Any]:
    """Return the options of ``imshow`` for an image: a grey one is drawn dark on white.

    >>> imshow_style(np.zeros((2, 2))), imshow_style(np.zeros((2, 2, 3)))
    ({'cmap': 'gray_r'}, {})
    """
    return {"cmap": "gray_r"} if image.ndim == 2 else {}


def checked_images(data: Any, labels: Sequence[int], predictions: Sequence[int]) -> np.ndarray:
    """Return the images as an array of shape (n, height, width), or raise.

    RGB images: shape (n, height, width, 3), each scaled to [0, 1].

    >>> checked_images(np.arange(12).reshape(1, 3, 2, 2), [0], [0])[0, :, :, 0].round(2).tolist()
    [[0.0, 0.09], [0.18, 0.27]]
    """
    images = np.asarray(data)
    if images.ndim == 4 and images.shape[1] == 1:
        images = images[:, 0]
    coloured = images.ndim == 4 and images.shape[1] == 3
    if not (images.ndim == 3 or coloured) or not images.size:
        raise ArgumentError(
            "a strip needs grey images of shape (n, height, width), n ≥ 1, or in colour of shape "
            f"(n, 3, height, width), but their shape is {images.shape}."
        )
    if not len(images) == len(labels) == len(predictions):
        raise ArgumentError(
            f"a strip needs one label and one prediction for each image, but there are {len(images)} "
            f"images, {len(labels)} labels and {len(predictions)} predictions."
        )
    if not coloured:
        return images
    images = images.transpose(0, 2, 3, 1).astype(float)
    low, high = (f(images, axis=(1, 2, 3), keepdims=True) for f in (np.min, np.max))
    return (images - low) / np.where(high > low, high - low, 1)

"""What is the loss of each example? For given labels, or for labels drawn from the predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from pruneviz.core.errors import ArgumentError, first_line
from pruneviz.model.batches import cut_examples
from pruneviz.model.forward import moved, shape_text

CLASSES = ("cross_entropy", "CrossEntropyLoss")


class Losses:
    """Computes losses of single examples, for given and for drawn labels.

    Parameters
    ----------
    loss, draw : callable
        As for `collect`.
    seed : int
    """

    def __init__(
        self,
        loss: Callable[[Any, Any], Tensor],
        draw: Callable[[Any, torch.Generator], Any] | None,
        seed: int,
    ) -> None:
        self.loss, self.draw = loss, draw
        inner = loss.func if isinstance(loss, partial) else loss
        self.name = getattr(inner, "__name__", type(inner).__name__)
        self.generator = torch.Generator().manual_seed(seed)

    def of_each(self, outputs: Any, labels: Any, n: int) -> Tensor:
        """Return the loss of each example, whatever reduction the loss uses; shape (n,)."""
        if self.name in CLASSES and isinstance(outputs, Tensor) and outputs.ndim == 2:
            check_class_labels(labels, outputs.shape[1], getattr(self.loss, "ignore_index", -100))
        labels = on_device_of(labels, outputs)
        try:
            if self.loss is F.cross_entropy and isinstance(outputs, Tensor) and outputs.ndim == 2:
                losses = F.cross_entropy(outputs, labels, reduction="none")
            else:
                losses = torch.stack([
                    self._scalar(self.loss(*cut_examples((outputs, labels), slice(i, i + 1), n)))
                    for i in range(n)])  # fmt: skip
        except ArgumentError:
            raise
        except Exception as e:
            raise ArgumentError(
                f"`loss` could not be computed from outputs {shape_text(outputs)} and targets "
                f"{shape_text(labels)}: {type(e).__name__}: {first_line(e)[:200]}"
            ) from e
        if not torch.isfinite(losses).all():
            raise ArgumentError(
                "`loss` gave NaN or infinity for an example. Look at the data, the labels, and the weights."
            )
        if not losses.requires_grad:
            raise ArgumentError(
                "`loss` has no gradient: the model's forward, or the loss, detaches what it computes. "
                "Collect without `loss`."
            )
        return losses

    def _scalar(self, value: Any) -> Tensor:
        if not isinstance(value, Tensor) or value.numel() != 1:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ArgumentError(f"`loss` must return one number, but it returned {got}.")
        return value.reshape(())

    def drawn(self, outputs: Any, targets: Any) -> Any:
        """Draw targets from the model's predictions; return the given ones if none can be drawn."""
        logits = getattr(outputs, "logits", outputs)
        numbers = isinstance(targets, Tensor) and targets.is_floating_point()
        with torch.no_grad():
            if self.draw is not None:
                return self.draw(outputs, self.generator)
            if not isinstance(logits, Tensor):
                pass
            elif self.name in ("mse_loss", "MSELoss"):
                return logits + torch.special.ndtri(self._uniform(logits.shape)).to(logits)
            # floats are not classes, unless cross-entropy takes them as probabilities
            elif logits.ndim == 2 and logits.shape[1] > 1 and (
                not numbers or self.name in CLASSES
            ):  # fmt: skip
                p = logits.double().softmax(1).cpu()
                if not torch.isfinite(p).all():
                    raise ArgumentError(
                        "`model` returns NaN or infinity, so no label can be drawn. Look at the data and "
                        "at the weights."
                    )
                p = p.cumsum(1)
                drawn = torch.searchsorted(p, self._uniform((len(p), 1)) * p[:, -1:], right=True)
                return drawn[:, 0].clamp(max=p.shape[1] - 1).to(logits.device)
        if targets is None:
            raise ArgumentError(
                "there are no targets, and none can be drawn from these outputs, which are not of shape "
                "(n, classes). Pass draw=..., or batches of (inputs, targets)."
            )
        return targets

    def _uniform(self, shape: Iterable[int]) -> Tensor:
        """Return numbers in (0, 1), the same however the examples are split into batches."""
        u = torch.rand(tuple(shape), generator=self.generator, dtype=torch.float64)
        return u.clamp(min=2**-54)


def first_of(outputs: Any) -> Tensor:
    """Return the first tensor of a model's output."""
    found = [t for t in pytree.tree_leaves(outputs) if isinstance(t, Tensor) and t.ndim]
    if not found:
        raise ArgumentError(
            "`model` must return a tensor whose first dimension is the examples, but it returns none. "
            "Wrap it in a module that does."
        )
    return found[0]


def check_class_labels(labels: Any, classes: int, ignored: int) -> None:
    """Raise if a label is not a class. On a GPU the loss itself would abort the process."""
    if isinstance(labels, Tensor) and labels.numel() and not labels.is_floating_point():
        wrong = labels[(labels != ignored) & ((labels < 0) | (labels >= classes))]
        if len(wrong):
            raise ArgumentError(
                f"targets must be classes from 0 to {classes - 1}, as many as the model has outputs, but "
                f"{int(wrong[0])} is among them."
            )


def on_device_of(values: Any, outputs: Any) -> Any:
    """Return values with their tensors on the device of the outputs."""
    return moved(values, first_of(outputs).device)

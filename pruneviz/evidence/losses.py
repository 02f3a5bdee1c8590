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
from pruneviz.model.batches import Batch, check_labels, class_dimension, cut_examples
from pruneviz.model.forward import moved, shape_text
from pruneviz.model.outputs import logits_of

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
        self.name = _name(loss)
        self.generator = torch.Generator().manual_seed(seed)

    def of_each(self, outputs: Any, batch: Batch, labels: Any) -> Tensor:
        """Return the loss of each example, whatever reduction the loss uses; shape (n,)."""
        n = batch.examples
        outputs = _for_loss(self.loss, outputs, labels, batch.place)
        if _gives_each(self.loss, outputs):
            losses = loss_of(self.loss, outputs, batch.with_(batch.inputs, labels), each=True)
        else:
            labels = on_device_of(labels, outputs)
            parts = [cut_examples((outputs, labels), slice(i, i + 1), n) for i in range(n)]
            losses = torch.stack([
                self._scalar(loss_of(self.loss, out, batch.with_(batch.inputs, target)))
                for out, target in parts])  # fmt: skip
        if not torch.isfinite(losses).all():
            raise ArgumentError(
                f"`loss` gave NaN or infinity for an example of {batch.place}. Look at the data, the "
                "labels, and the weights."
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
        """Draw targets from the model's predictions; return the given ones if none can be drawn.

        Where each position of an example has a label, a position without one gets none.
        """
        logits = logits_of(outputs)
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
                return self._classes(logits, 1)
            elif logits.ndim > 2 and self.name in CLASSES and not numbers:
                if targets is not None:
                    dim = class_dimension(tuple(logits.shape), targets, "the batches")
                    ignored = ignored_label(self.loss) or 0
                    unlabelled = on_device_of(targets, logits) == ignored
                    return self._classes(logits, dim).masked_fill(unlabelled, ignored)
                if logits.ndim > 3:  # images, as torch has them; a text may be either way
                    return self._classes(logits, 1)
        if targets is None:
            raise ArgumentError(
                f"there are no targets, and none can be drawn from these outputs, {shape_text(logits)}, "
                "which are not of shape (n, classes). Pass draw=..., or the `loss` and batches of "
                "(inputs, targets)."
            )
        return targets

    def _classes(self, logits: Tensor, dim: int) -> Tensor:
        """Draw a class at each position of logits; `dim`: the dimension of the classes."""
        logits = logits.movedim(dim, -1)
        p = logits.flatten(0, -2).double().softmax(1).cpu()
        if not torch.isfinite(p).all():
            raise ArgumentError(
                "`model` returns NaN or infinity, so no label can be drawn. Look at the data and "
                "at the weights."
            )
        p = p.cumsum(1)
        drawn = torch.searchsorted(p, self._uniform((len(p), 1)) * p[:, -1:], right=True)
        return drawn.clamp(max=p.shape[1] - 1).reshape(logits.shape[:-1]).to(logits.device)

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


def loss_of(
    loss: Callable[[Any, Any], Any], outputs: Any, batch: Batch, *, each: bool = False
) -> Any:
    """Return what a loss returns for the targets of a batch; an error names the batch.

    Cross-entropy gets the logits of an output that holds more, their classes in the second
    dimension. `each`: it is returned for each example, (n,): the mean over its labels, if it has
    several.
    """
    targets = batch.targets
    outputs = _for_loss(loss, outputs, targets, batch.place)
    dims = outputs.ndim if isinstance(outputs, Tensor) else 0
    labels = isinstance(targets, Tensor) and not targets.is_floating_point()
    if _is_of_classes(loss) and dims > 1 and labels:
        check_labels(targets, batch.place, outputs.shape[1], ignored_label(loss))
    each = each and _gives_each(loss, outputs)
    given = on_device_of(targets, outputs)
    try:
        value = loss(outputs, given, **({"reduction": "none"} if each else {}))
        if each and value.ndim > 1:  # as of one example alone: those that it ignores do not count
            value = value.flatten(1).sum(1) / (given != ignored_label(loss)).flatten(1).sum(1)
        return value
    except ArgumentError:
        raise
    except Exception as e:
        raise ArgumentError(
            f"`loss` could not be computed for {batch.place}, from outputs {shape_text(outputs)} and "
            f"targets {shape_text(targets)}: {type(e).__name__}: {first_line(e)[:200]}"
        ) from e


def _gives_each(loss: Callable[[Any, Any], Any], outputs: Any) -> bool:
    """Whether a loss can be had for all examples at once."""
    return loss is F.cross_entropy and isinstance(outputs, Tensor) and outputs.ndim > 1


def _for_loss(loss: Callable[[Any, Any], Any], outputs: Any, targets: Any, place: str) -> Any:
    """Return what a loss reads: of the outputs for cross-entropy, the logits as it wants them."""
    if not _is_of_classes(loss):
        return outputs
    logits = logits_of(outputs)
    labels = isinstance(targets, Tensor) and not targets.is_floating_point()
    if labels and isinstance(logits, Tensor) and logits.ndim > 2:
        return logits.movedim(class_dimension(tuple(logits.shape), targets, place), 1)
    return logits


def ignored_label(loss: Callable[..., Any]) -> int | None:
    """Return the label that a loss leaves out; None if it leaves out none.

    >>> ignored_label(F.cross_entropy), ignored_label(F.mse_loss)
    (-100, None)
    """
    if not _is_of_classes(loss):
        return None
    keywords = loss.keywords if isinstance(loss, partial) else {}
    return int(keywords.get("ignore_index", getattr(loss, "ignore_index", -100)))


def _is_of_classes(loss: Callable[..., Any]) -> bool:
    return _name(loss) in CLASSES


def _name(loss: Callable[..., Any]) -> str:
    inner = loss.func if isinstance(loss, partial) else loss
    return str(getattr(inner, "__name__", type(inner).__name__))


def on_device_of(values: Any, outputs: Any) -> Any:
    """Return values with their tensors on the device of the outputs."""
    first = next((t for t in pytree.tree_leaves(outputs) if isinstance(t, Tensor)), None)
    return values if first is None else moved(values, first.device)

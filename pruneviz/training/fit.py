"""How a model is trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from itertools import count, repeat
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.progress import progress_bar
from pruneviz.evidence.losses import ignored_label, loss_of
from pruneviz.model.batches import Batch, read
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import device_of_forward, plain_torch, seeded
from pruneviz.pruning.repair.gradient import checked_value, descend, half_cosine


@plain_torch()
def fit(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    epochs: int = 1,
    lr: float = 1e-3,
    seed: int = 0,
    loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    progress: bool = True,
) -> nn.Module:
    """Train a copy of the model and return it.

    The learning rate falls from `lr` to 0 along half a cosine over all epochs, after each batch; if
    the number of batches is unknown, after each epoch. Weights that a mask holds at zero stay zero,
    also with momentum and weight decay.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    batches : iterable of (inputs, targets)
        As for `collect`, with targets. Read once an epoch. If it shuffles by torch's global
        generator, `seed` decides the order, and the caller's random state is not changed. Examples
        of a label that the loss ignores (-100 for `cross_entropy`) are left out.
    epochs : int
    lr : float
        Learning rate at the start.
    seed : int
        For all random numbers, such as the order of shuffled batches and dropout.
    loss : callable
        ``loss(model(inputs), targets)``, a scalar tensor.
    optimizer : callable
        ``optimizer(parameters, lr=lr)``; set other arguments with ``functools.partial``.
    progress : bool
        Show a progress bar.

    Returns
    -------
    nn.Module
        A new model with the `training` flags of `model`.

    Raises
    ------
    ArgumentError
        If there is nothing to train (no parameters, no batches), or the loss is not finite.

    References
    ----------
    Loshchilov & Hutter 2017, "SGDR", arXiv:1608.03983, eq. 5 (one cycle).

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> x = torch.linspace(-1, 1, 64).view(64, 1)
    >>> model = torch.nn.Linear(1, 2)
    >>> fitted = pv.fit(model, [(x, (x[:, 0] > 0).long())], epochs=50, lr=0.1, progress=False)
    >>> pv.accuracy(fitted, [(x, (x[:, 0] > 0).long())]) > 0.95
    True
    """
    epochs = checks.count(epochs, "epochs")
    lr, seed = checks.number(lr, "lr", low=0), checks.count(seed, "seed")
    checks.function(loss, "loss", "loss(outputs, targets)")
    checks.function(optimizer, "optimizer", "optimizer(parameters, lr=lr)")
    new = copy_of(model)
    params = [p for p in new.parameters() if p.requires_grad]
    if not params:
        raise ArgumentError(
            "`model` has no parameter to train. Set requires_grad to True on some of them."
        )
    try:
        opt = optimizer(params, lr=lr)
    except TypeError as e:
        raise ArgumentError(
            f"`optimizer` could not be called as optimizer(parameters, lr=lr): {e}. Pass a class of "
            "torch.optim, or functools.partial(torch.optim.SGD, momentum=0.9)."
        ) from e
    flags = [(m, m.training) for m in new.modules()]
    steps, ignored = _number_of_batches(batches), ignored_label(loss)
    devices = {p.device for p in params}
    with seeded(seed, devices), torch.enable_grad(), device_of_forward(new):
        new.train()
        for epoch in range(epochs):
            read_once = read(
                batches, f"train on in epoch {epoch + 1}", targets=True, ignore_index=ignored
            )
            # all steps of an epoch at its first rate, if their number is unknown
            done = (i / steps for i in count(epoch * steps)) if steps else repeat(epoch)
            rates = (lr * half_cosine(share / epochs) for share in done)
            bar = _with_progress(read_once, steps, epoch, epochs, progress)
            for _ in descend(opt, bar, partial(_value, new, loss, epoch), rates):
                pass
    for m, training in flags:
        m.training = training
    return new


def _value(
    model: nn.Module, loss: Callable[[Any, Any], Tensor], epoch: int, batch: Batch
) -> Tensor:
    found = loss_of(loss, batch.run(model), batch)
    return checked_value(found, "loss", f"in epoch {epoch + 1}, {batch.place}")


def _number_of_batches(batches: Iterable[Any]) -> int:
    """Return the number of batches, or 0 if it is unknown."""
    try:
        return len(batches)  # type: ignore[arg-type]
    except TypeError:  # a generator, or a DataLoader over a stream
        return 0


def _with_progress(
    batches: Iterable[Batch], steps: int, epoch: int, epochs: int, progress: bool
) -> Iterable[Batch]:
    text = f"epoch {epoch + 1} of {epochs}"
    return progress_bar(batches, shown=progress, text=text, total=steps or None, unit="batch")

"""How the running statistics of batch norms are re-estimated after a removal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.model.batches import read
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import evaluating, plain_torch


@plain_torch()
def recalibrate(model: nn.Module, batches: Iterable[Any]) -> nn.Module:
    """Return a copy whose batch norms have the mean and variance of their present inputs.

    After a removal the inputs of a batch norm have another mean and variance than the statistics
    that it stored. Every batch has the same weight. No label is needed, and no weight changes.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    batches : iterable
        As for `collect`; targets are ignored. A batch of one example is refused: it has no
        variance.

    Returns
    -------
    nn.Module
        A new model. A model without batch norms is copied.

    Raises
    ------
    ArgumentError
        If there is no batch, or the model's forward raises.

    References
    ----------
    Li, Wu, Su, Wang 2020, "EagleEye", arXiv:2007.02491, §3.3: adaptive batch normalisation of pruned
    networks.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3))
    >>> x = torch.randn(64, 2)
    >>> new = pv.recalibrate(model, [x])
    >>> bool(torch.allclose(new[1].running_mean, model[0](x).mean(0), atol=1e-6))
    True
    """
    new = copy_of(checks.unwrapped(model))
    norms = [m for m in new.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]
    sums: dict[nn.Module, list[Any]] = {m: [0, 0.0, 0.0] for m in norms}
    before = [m.momentum for m in norms]
    with evaluating(new):
        for m in norms:
            m.training, m.momentum = True, 1.0  # after a forward it stores that batch's statistics
        for batch in read(batches, "measure"):
            batch.run(new)
            for m in norms:
                total = sums[m]
                total[0] += 1
                total[1] = total[1] + m.running_mean.double()  # type: ignore[union-attr]
                total[2] = total[2] + m.running_var.double()  # type: ignore[union-attr]
    with torch.no_grad():
        for m, momentum in zip(norms, before, strict=True):
            m.momentum = momentum
            n, mean, var = sums[m]
            if not (torch.isfinite(mean).all() and torch.isfinite(var).all()):
                name = next(name for name, module in new.named_modules() if module is m)
                raise ArgumentError(
                    f"layer {name!r} read NaN or infinity. Look at the data and at the weights before it."
                )
            m.running_mean.copy_(mean / n)  # type: ignore[union-attr]
            m.running_var.copy_(var / n)  # type: ignore[union-attr]
    return new

"""Random weights that leave no unit silent and no bias at zero."""

from __future__ import annotations

import torch
from torch import nn


@torch.no_grad()
def alive(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """Return the same model, in eval mode, with weights under which every operator matters.

    Libraries start biases at 0, norms at 1, layer scales at 1e-5 and embeddings at a standard
    deviation of 0.02. Then f(0) = 0, attention is uniform and a removal that is wrong is too
    small to see. So vectors and constant tensors get noise, small matrices are scaled up to a
    standard deviation of 1/√fan_in, and running statistics are moved.
    """
    noise = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        if not p.is_floating_point():
            continue
        spread = float(p.std()) if p.numel() > 1 else 0.0
        wanted = (p.shape[0] / p.numel()) ** 0.5 if p.ndim > 1 else 0.0
        if p.ndim < 2 or spread < 1e-4:
            p += 0.2 * torch.randn(p.shape, generator=noise)
        elif spread < wanted / 2:
            p *= wanted / spread
    for m in model.modules():
        if isinstance(getattr(m, "running_var", None), torch.Tensor):
            m.running_mean += 0.2 * torch.randn(m.running_mean.shape, generator=noise)
            m.running_var *= 0.7 + 0.6 * torch.rand(m.running_var.shape, generator=noise)
    return model.eval()


@torch.no_grad()
def calibrate(model: nn.Module, x: torch.Tensor) -> nn.Module:
    """Return the same model, whose batch norms took their statistics from that input.

    Without it a deep network with random weights answers 1e9: each norm divides by a variance that
    its input does not have.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    before = [m.momentum for m in norms]
    for m in norms:
        m.train()
        m.momentum = 1.0
    model(x)
    for m, momentum in zip(norms, before, strict=True):
        m.eval()
        m.momentum = momentum
        if m.running_var is not None:
            m.running_var.clamp_(min=0.1)
    return model

"""Which tokens of a batch are padding? Its masks say so."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pruneviz.model.batches import Batch
from pruneviz.model.layers import is_convolution

# keyword arguments with one number a token: those of `transformers` are 0 at padding, those of
# torch True
REAL = ("attention_mask", "decoder_attention_mask", "encoder_attention_mask")
PADDED = ("key_padding_mask", "src_key_padding_mask", "tgt_key_padding_mask",
          "memory_key_padding_mask")  # fmt: skip


def real_tokens(batch: Batch) -> list[Tensor]:
    """Return, for each mask of a batch, which tokens are no padding: bool, (examples, tokens).

    >>> import torch
    >>> batch = Batch({"x": torch.zeros(1, 3, 2), "attention_mask": torch.tensor([[1, 1, 0]])})
    >>> real_tokens(batch)
    [tensor([[ True,  True, False]])]
    """
    named: dict[str, Any] = batch.arguments[1]
    found = [named[n] != 0 for n in REAL if _is_mask(named.get(n))]
    found += [named[n] == 0 for n in PADDED if _is_mask(named.get(n))]
    return [m for m in found if not bool(m.all())]


def real_rows(masks: list[Tensor], module: nn.Module, x: Tensor) -> Tensor | None:
    """Return which tokens of a layer's input, (examples, tokens, n), are no padding; None: all."""
    if x.ndim != 3 or is_convolution(module):
        return None
    return next((m.to(x.device) for m in masks if m.shape == x.shape[:2]), None)


def _is_mask(value: Any) -> bool:
    # masks added to the attention have -inf at padding, or more dimensions
    return (isinstance(value, Tensor) and value.ndim == 2 and not value.is_floating_point()) or (
        isinstance(value, Tensor) and value.ndim == 2 and bool(((value == 0) | (value == 1)).all())
    )

"""How does torch's multi-head attention run after heads were removed? In a class of our own.

torch requires ``embed_dim == num_heads * head_dim``, which does not hold then.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def use_slim_attention(module: nn.MultiheadAttention) -> None:
    """Make an attention layer run after its tensors were cut; in place, with the same keys."""
    packed = module.in_proj_weight is not None
    rows = module.in_proj_weight.shape[0] // 3 if packed else module.q_proj_weight.shape[0]
    module.embed_dim = module.out_proj.weight.shape[0]
    module.out_proj.out_features, module.out_proj.in_features = module.out_proj.weight.shape
    module.kdim = module.in_proj_weight.shape[1] if packed else module.k_proj_weight.shape[1]
    module.vdim = module.in_proj_weight.shape[1] if packed else module.v_proj_weight.shape[1]
    module.num_heads = rows // module.head_dim
    module._qkv_same_embed_dim = False  # torch's fused encoder, which assumes one width, stays off
    module.__class__ = SlimAttention


class SlimAttention(nn.MultiheadAttention):
    """`nn.MultiheadAttention` after heads, or columns of its input, were removed.

    The arguments and results of its forward, and its state_dict keys, are those of torch's class.
    ``head_dim`` is unchanged, so ``num_heads * head_dim`` may be smaller than ``embed_dim``.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        batched = query.dim() == 3
        if not batched:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
        elif not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        heads, width = self.num_heads, self.head_dim
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = self.in_proj_bias.chunk(3) if self.in_proj_bias is not None else (None,) * 3
        q, k, v = (
            F.linear(t, w, b) for t, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.expand(k.shape[0], -1, -1)], 1)
            v = torch.cat([v, self.bias_v.expand(v.shape[0], -1, -1)], 1)
        if self.add_zero_attn:
            k, v = (F.pad(t, (0, 0, 0, 1)) for t in (k, v))
        q, k, v = (
            t.unflatten(-1, (heads, width)).transpose(1, 2) for t in (q, k, v)
        )  # (B, H, L, D)
        mask = self._mask(q, k, key_padding_mask if batched or key_padding_mask is None
                          else key_padding_mask.unsqueeze(0), attn_mask)  # fmt: skip
        drop = self.dropout if self.training else 0.0
        if need_weights:
            scores = q @ k.transpose(-2, -1) / width**0.5
            weight = F.dropout((scores if mask is None else scores + mask).softmax(-1), drop)
            out = weight @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=drop)
        out = self.out_proj(out.transpose(1, 2).flatten(2))
        if not batched:
            out = out.squeeze(0)
        elif not self.batch_first:
            out = out.transpose(0, 1)
        if not need_weights:
            return out, None
        weight = weight.mean(1) if average_attn_weights else weight
        return out, weight if batched else weight.squeeze(0)

    def _mask(
        self, q: Tensor, k: Tensor, padding: Tensor | None, mask: Tensor | None
    ) -> Tensor | None:
        """Add up both masks: -inf where attention is forbidden, 0 for keys appended by `add_*`."""
        total: Tensor | None = None
        batch, heads = q.shape[:2]
        for m, shape in ((mask, (batch, heads)), (padding, None)):
            if m is None:
                continue
            if m.dtype == torch.bool:
                m = torch.zeros_like(m, dtype=q.dtype).masked_fill(m, float("-inf"))
            if shape is None:
                m = m[:, None, None]  # (B, 1, 1, S)
            elif m.dim() == 3:
                if m.shape[0] != batch * heads:
                    raise ValueError(
                        f"`attn_mask` of 3 dimensions must have one mask for each example and kept "
                        f"head, {batch} * {heads} here, but it has {m.shape[0]}. Leave out the masks "
                        "of the removed heads."
                    )
                m = m.unflatten(0, (batch, heads))  # (B, H, L, S)
            m = F.pad(m, (0, k.shape[-2] - m.shape[-1]))
            total = m if total is None else total + m
        return total

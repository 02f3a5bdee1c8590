"""How does torch's multi-head attention run after heads were removed? In a class of our own.

torch requires ``embed_dim == num_heads * head_dim``, which does not hold then. The same class lets
hooks see the projections inside, which torch computes in one function.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruneviz.model.hooks import no_fast_path


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
        batched, same = query.dim() == 3, (query is key, key is value)
        if not batched:
            query, key, value = (t.unsqueeze(0) for t in (query, key, value))
        elif not self.batch_first:
            query, key, value = (t.transpose(0, 1) for t in (query, key, value))
        heads, width = self.num_heads, self.head_dim
        q, k, v = self._projected(query, key, value, same)
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

    def _projected(
        self, query: Tensor, key: Tensor, value: Tensor, same: tuple[bool, bool]
    ) -> tuple[Tensor, ...]:
        """Return q, k and v; through layers that can be hooked, while the attention is open."""
        found = _open[self].projections if self in _open else []
        inputs = (query, key, value)
        if len(found) == 3:
            return tuple(p(t) for p, t in zip(found, inputs, strict=True))
        if found:  # a packed weight: all of it reads each different input
            q = found[0](query)
            k = q if same[0] else found[0](key)
            v = k if same[1] else found[0](value)
            return tuple(t.chunk(3, -1)[i] for i, t in enumerate((q, k, v)))
        if self.in_proj_weight is not None:
            weights = self.in_proj_weight.chunk(3)
        else:
            weights = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = self.in_proj_bias.chunk(3) if self.in_proj_bias is not None else (None,) * 3
        own = zip(inputs, weights, biases, strict=True)
        return tuple(F.linear(t, w, b) for t, w, b in own)

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


class InProjection(nn.Module):
    """The matrix by which an attention layer makes queries, keys or values, seen as a Linear layer.

    A packed one makes all three, from each of the different inputs.

    Parameters
    ----------
    attention : nn.MultiheadAttention
    part : str
        ``"in_proj"``, or ``"q_proj"``, ``"k_proj"``, ``"v_proj"`` of an attention with other widths.
    """

    def __init__(self, attention: nn.MultiheadAttention, part: str) -> None:
        super().__init__()
        self.__dict__["attention"] = attention  # no child: the weight stays where it is
        self.part = part

    @property
    def weight(self) -> Tensor:
        """The weight, (outputs, inputs)."""
        weight: Tensor = getattr(self.__dict__["attention"], f"{self.part}_weight")
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The part of the attention's bias that is added here."""
        bias: Tensor | None = self.__dict__["attention"].in_proj_bias
        if bias is None or self.part == "in_proj":
            return bias
        return bias.chunk(3)["qkv".index(self.part[0])]

    def forward(self, x: Tensor) -> Tensor:
        """Project one input."""
        return F.linear(x, self.weight, self.bias)


def is_attention(module: nn.Module) -> bool:
    """Whether a layer is torch's attention, also after a cut or with masked weights; no subclass."""
    cls = type(module).__bases__[0] if parametrize.is_parametrized(module) else type(module)
    return cls in (nn.MultiheadAttention, SlimAttention)


def _slim_class(module: nn.Module) -> type:
    """Return the class of an opened attention layer; a parametrized one has a class of its own."""
    cls = type(module)
    if not parametrize.is_parametrized(module):
        return SlimAttention
    return type(cls.__name__, (SlimAttention,), dict(cls.__dict__))


class _Opened:
    """An attention layer that is open now: how many times, its own class, and its projections."""

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        self.times, self.own_class = 0, type(attention)
        self.projections = in_projections(attention)


_open_lock = threading.Lock()
_open: dict[nn.Module, _Opened] = {}


def in_projections(attention: nn.MultiheadAttention) -> list[InProjection]:
    """Return the in-projections of an attention layer: one, or three; those that hooks see now."""
    if attention in _open:
        return _open[attention].projections
    packed = attention.in_proj_weight is not None
    parts = ("in_proj",) if packed else ("q_proj", "k_proj", "v_proj")
    return [InProjection(attention, p) for p in parts]


@contextmanager
def open_attention(model: nn.Module) -> Iterator[None]:
    """Let torch's attention layers call their projections as layers, so that hooks see them.

    torch passes the projections' tensors to one function, so no hook of a projection runs.
    `SlimAttention` computes the same layer by layer. The last thread that leaves undoes it.
    """
    with _open_lock:
        found = [cast(nn.MultiheadAttention, m) for m in model.modules() if is_attention(m)]
        for m in found:
            if m not in _open:
                _open[m] = _Opened(m)
                m.__class__ = _slim_class(m)
            _open[m].times += 1
    try:
        with no_fast_path():
            yield
    finally:
        with _open_lock:
            for m in found:
                _open[m].times -= 1
                if not _open[m].times:
                    m.__class__ = _open.pop(m).own_class

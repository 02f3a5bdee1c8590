"""How the kept single weights of a masked layer are re-fitted to its old outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruneviz.core.names import tensor_name
from pruneviz.evidence.evidence import Evidence
from pruneviz.model.batches import Batch, listed
from pruneviz.model.hooks import evaluating, hooked
from pruneviz.model.layers import blocks_of, consumers, is_conv1d, open_attention, shaped
from pruneviz.model.tensors import Held, tensors_by_name
from pruneviz.pruning.repair.ladder import refit_rows
from pruneviz.pruning.repair.least_squares import fits
from pruneviz.pruning.repair.units import check_finite


def refit_weights(
    model: nn.Module,
    new: nn.Module,
    keep: Mapping[str, Tensor],
    evidence: Evidence | None,
    batches: Iterable[Any] | None,
    ridge: float,
) -> None:
    """Give the weights that a mask keeps new values, and add the rest to the biases; in place.

    With batches the layers are re-fitted one after the other, in forward order, each on its inputs
    in the masked model. Otherwise each layer is re-fitted on the moments of its inputs in the dense
    model.
    """
    tensors, layers = tensors_by_name(new), consumers(model)
    chosen = [n for n in layers
              if tensor_name(n) in keep and len(tensors[tensor_name(n)].holders) == 1]  # fmt: skip
    data = None if batches is None else listed(batches, "fit to")
    if data is not None:
        chosen = in_forward_order(model, chosen, data[0])
    for layer in chosen:
        module, bias = layers[layer], _bias(tensors, layer)
        with evaluating(model), torch.no_grad():
            old = blocks_of(module).cpu()  # (groups, outputs, n)
        kept = keep[tensor_name(layer)].cpu()
        kept = (kept.T if is_conv1d(module) else kept.flatten(1)).reshape(old.shape)
        fit_bias = bias is not None
        if data is not None:
            with torch.inference_mode(False), torch.no_grad():
                found = fits(model, new, layer, data)
            pairs = [
                f.solve_rows(w, k, ridge, fit_bias)
                for f, w, k in zip(found, old, kept, strict=True)
            ]
        elif evidence is not None and layer in evidence.inputs and evidence.columns(layer).full:
            m, (groups, _, n) = evidence.columns(layer), old.shape
            mean, square = m.mean.reshape(groups, n), m.covariance.reshape(groups, n, n)
            pairs = [
                refit_rows(w, a, c, k, ridge=ridge, fit_bias=fit_bias)
                for w, a, c, k in zip(old, mean, square, kept, strict=True)
            ]
        else:
            continue
        weight, bias_change = torch.cat([w for w, _ in pairs]), torch.cat([g for _, g in pairs])
        check_finite(layer, weight, bias_change)
        with torch.no_grad():
            tensors[tensor_name(layer)].tensor.copy_(shaped(module, weight))
            if bias is not None:
                bias += bias_change.to(bias)


def in_forward_order(model: nn.Module, layers: list[str], batch: Batch) -> list[str]:
    """Sort layers by their first call in a forward; layers without a call are left out."""
    order: dict[str, None] = {}

    def record(name: str, inputs: tuple[Any, ...], output: Any) -> None:
        order.setdefault(name)

    with evaluating(model), open_attention(model), hooked(model, layers, record):
        batch.run(model)
    return list(order)


def _bias(tensors: Mapping[str, Held], layer: str) -> Tensor | None:
    """Return the bias of a layer; None if it has none, or shares it with another layer."""
    h = tensors.get(tensor_name(layer, "bias"))
    return h.tensor if h is not None and len(h.holders) == 1 else None

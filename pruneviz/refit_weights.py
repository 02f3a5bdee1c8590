"""Re-fit single weights that stay to the outputs that the whole rows gave."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruneviz._inputs import arguments
from pruneviz.collect import parts
from pruneviz.consumers import consumers, matrix_of, open_attention, shaped, turned
from pruneviz.evidence import Evidence
from pruneviz.hooks import evaluating, hooked
from pruneviz.refit import Fit, ran, seen
from pruneviz.repair import refit_rows
from pruneviz.tensors import Held, held
from pruneviz.types import ArgumentError


def refit_weights(
    model: nn.Module,
    new: nn.Module,
    keep: Mapping[str, Tensor],
    evidence: Evidence | None,
    batches: Iterable[Any] | None,
    ridge: float,
) -> None:
    """Give the weights that a mask keeps new values, in place; biases take up the remainder.

    With batches layer by layer in the order of the forward, each on what it reads in the masked
    model; else on the moments of the dense one.
    """
    there, layers = held(new), consumers(model)
    names = {n: f"{n}.weight" if n else "weight" for n in layers}
    chosen = [n for n in layers if names[n] in keep and len(there[names[n]].holders) == 1]
    if batches is not None:
        data = [arguments(inputs) for inputs, _ in parts(batches)]
        if not data:
            raise ArgumentError(
                "`batches` is empty: there is nothing to fit to. Pass an iterable of batches; a "
                "generator runs only once."
            )
        chosen = in_order(model, chosen, data[0])
    for layer in chosen:
        module = layers[layer]
        with evaluating(model), torch.no_grad():
            old = _blocks(matrix_of(module)).cpu()  # (groups, outputs, n)
            stays = keep[names[layer]].cpu()
            stays = (stays.T if turned(module) else stays.flatten(1)).reshape(old.shape)
        free = _bias(there, layer) is not None
        if batches is not None:
            fits, calls = [Fit() for _ in old], 0
            reader = consumers(new)[layer]
            with torch.inference_mode(False), torch.no_grad():
                for args, kwargs in data:
                    want = ran(model, layer, module, args, kwargs, target=True, calls=calls)
                    have = ran(new, layer, reader, args, kwargs, target=False, calls=calls)
                    calls = len(want)
                    for z, x in zip(want, have, strict=True):
                        for b, fit in enumerate(fits):
                            fit.add(x[b], z[b])
                pairs = [
                    f.solve_rows(w, k, ridge, free)
                    for f, w, k in zip(fits, old, stays, strict=True)
                ]
        elif evidence is not None and layer in evidence.inputs and evidence.columns(layer).full:
            m = evidence.columns(layer)
            mean, square = _blocks(m.mean, 1), _blocks(m.covariance)
            pairs = [
                refit_rows(w, a, c, k, ridge=ridge, free=free)
                for w, a, c, k in zip(old, mean, square, stays, strict=True)
            ]
        else:
            continue
        weight = torch.cat([w for w, _ in pairs])  # (outputs, n)
        if not torch.isfinite(weight).all():
            raise ArgumentError(
                f"the repair of layer {layer!r} gave NaN or infinity. Collect from more examples, or "
                "use a larger `ridge`."
            )
        with torch.no_grad():
            there[names[layer]].tensor.copy_(shaped(module, weight))
            bias = _bias(there, layer)
            if bias is not None:
                bias += torch.cat([g for _, g in pairs]).to(bias)


def in_order(model: nn.Module, layers: list[str], data: tuple[Any, Any]) -> list[str]:
    """Sort layers by when they first run; those that do not run are left out."""
    order: dict[str, None] = {}

    def note(name: str, inputs: tuple[Any, ...], output: Any) -> None:
        order.setdefault(name)

    with evaluating(model), open_attention(model), hooked(model, layers, note):
        seen(model, *data)
    return list(order)


def _bias(there: Mapping[str, Held], layer: str) -> Tensor | None:
    h = there.get(f"{layer}.bias" if layer else "bias")
    return h.tensor if h is not None and len(h.holders) == 1 else None


def _blocks(t: Tensor, dims: int = 2) -> Tensor:
    return t if t.ndim > dims else t.unsqueeze(0)

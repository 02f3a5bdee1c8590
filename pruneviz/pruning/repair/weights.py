"""How the kept single weights of a masked layer are re-fitted to its old outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pruneviz.evidence.evidence import Evidence
from pruneviz.model.batches import listed
from pruneviz.model.hooks import evaluating
from pruneviz.model.layers import (
    bias_name,
    blocks_in,
    blocks_of,
    consumers,
    shaped,
    weight_name,
)
from pruneviz.model.tensors import Held, tensors_by_name
from pruneviz.pruning.repair.ladder import refit_rows
from pruneviz.pruning.repair.least_squares import WIDEST, Solution
from pruneviz.pruning.repair.refit import Examples, best, refit
from pruneviz.pruning.repair.rows import NotPaired
from pruneviz.pruning.repair.said import Said
from pruneviz.pruning.repair.units import check_finite


def refit_weights(
    model: nn.Module,
    new: nn.Module,
    keep: Mapping[str, Tensor],
    evidence: Evidence | None,
    batches: Iterable[Any] | None,
    ridge: float,
    said: Said,
) -> None:
    """Give the weights that a mask keeps new values, and add the rest to the biases; in place.

    With batches the layers are re-fitted one after the other, in forward order, each on its inputs
    in the masked model. Otherwise each layer is re-fitted on the moments of its inputs in the dense
    model.
    """
    tensors, layers = tensors_by_name(new), consumers(model)
    chosen = []
    for layer, module in layers.items():
        name = weight_name(layer, module)
        if name in keep and len(tensors[name].holders) > 1:
            said.left(layer, "its weight belongs to another layer, too")
        elif name in keep:
            chosen.append(layer)
    data = None if batches is None else listed(batches, "fit to")
    with torch.inference_mode(False), torch.no_grad():
        examples = None if data is None else Examples(model, chosen, data)
        ran = chosen if examples is None else [*examples.surveys]  # in forward order
        for layer in [*ran, *(n for n in chosen if n not in ran)]:
            module = layers[layer]
            bias = _bias(tensors, bias_name(layer, module))
            with evaluating(model):
                old = blocks_of(module).cpu()  # (groups, outputs, n)
            kept = blocks_in(module, keep[weight_name(layer, module)].cpu())
            if examples is not None:
                pairs = _fitted(model, new, layer, examples, old, kept, ridge, bias, said)
            elif evidence is not None and layer in evidence.inputs and evidence.columns(layer).full:
                m, (groups, _, n) = evidence.columns(layer), old.shape
                mean, square = m.mean.reshape(groups, n), m.covariance.reshape(groups, n, n)
                pairs = [
                    refit_rows(w, a, c, k, ridge=ridge, fit_bias=bias is not None)
                    for w, a, c, k in zip(old, mean, square, kept, strict=True)
                ]
            else:
                said.left(layer, "`evidence` has no co-moment of it")
                continue
            if not pairs:
                continue
            weight, bias_change = torch.cat([w for w, _ in pairs]), torch.cat([g for _, g in pairs])
            check_finite(layer, weight, bias_change)
            tensors[weight_name(layer, module)].tensor.copy_(shaped(module, weight))
            if bias is not None:
                bias += bias_change.to(bias)


def _fitted(
    model: nn.Module, new: nn.Module, layer: str, examples: Examples, old: Tensor, kept: Tensor,
    ridge: float, bias: Tensor | None, said: Said,
) -> list[Solution]:  # fmt: skip
    """Return the new weights of a layer, for each group; none if it stays as it is."""
    groups, outputs, n = old.shape
    if n > WIDEST:
        said.left(layer, f"of {n:,} columns; {WIDEST:,} can be fitted row by row")
        return []
    try:
        found = refit(model, new, layer, examples, groups, n, outputs, narrow=True)
    except NotPaired as e:
        said.left(layer, str(e))
        return []
    masked = [torch.where(k, w, 0.0).double() for w, k in zip(old, kept, strict=True)]
    solvers = [
        f.row_solver(w, k, bias is not None) for f, w, k in zip(found.fits, old, kept, strict=True)
    ]
    below = {"none": [(w, torch.zeros(len(w)).double()) for w in masked]}
    if bias is not None:
        below["fold"] = [(w, s.fold) for w, s in zip(masked, solvers, strict=True)]
    rung, solved = best(found, solvers, below, ridge, [None] * groups)
    if rung != "lstsq":
        said.worse(layer, rung)
    return [] if rung == "none" else solved


def _bias(tensors: Mapping[str, Held], name: str) -> Tensor | None:
    """Return the bias of a layer; None if it has none, or shares it with another layer."""
    h = tensors.get(name)
    return h.tensor if h is not None and len(h.holders) == 1 else None

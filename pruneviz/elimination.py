"""The second-order choice of units for a model: who reads whom, and in which order units go."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from pruneviz.consumers import consumers, matrix_of, turned
from pruneviz.criteria import register
from pruneviz.evidence import Evidence
from pruneviz.group import Group
from pruneviz.obs import Layer, Reader, eliminate
from pruneviz.tensors import Held, held, plain
from pruneviz.types import ArgumentError


@register(
    "obs",
    source="Hassibi & Stork 1992, Optimal Brain Surgeon, eq. 5, for units",
    formula="place in the elimination by tr(Wₚᵀ F Wₚ ([H⁻¹]ₚₚ)⁻¹) ÷ MACs",
    needs=("model",),
    scope="global",
    granularity="unit",
)
def obs_scores(model: nn.Module, groups: Iterable[Group], evidence: Evidence) -> dict[str, Tensor]:
    """Score the units of some groups by their place in one elimination over all of them.

    Raises
    ------
    ArgumentError
        If the evidence has no gradients, or not the co-moment of any layer that reads a group.
    """
    if not evidence.output_grad:
        raise ArgumentError(
            "criterion 'obs' needs gradients, but `evidence` has none. Collect them: "
            "pv.collect(model, batches, loss=F.cross_entropy)."
        )
    groups, known, have = list(groups), consumers(model), held(model)
    layers = {n: m for n, m in known.items() if n in evidence.inputs and n in evidence.output_grad}
    makes, reads = _places(groups, layers, have)
    readers = {}
    for g in groups:
        found = [_reader(g, layers[n], n, blocks, evidence) for n, blocks in reads[g.name]]
        usable = [r for many in found for r in many]
        if not usable:
            raise ArgumentError(
                f"criterion 'obs' needs the co-moment of what reads group {g.name!r} "
                f"({', '.join(g.consumers) or 'nobody'}), but `evidence` has none. Protect the group, or "
                "collect with comoment='all'."
            )
        readers[g.name] = usable
    made = {n: (g, rows) for g, names in makes.items() for n, rows in names.items()}
    read = {n: g for g, names in reads.items() for n, _ in names}
    work = [
        Layer(n, _macs(n, m, evidence), made.get(n, ("", None))[0], read.get(n, ""),
              made.get(n, ("", None))[1])
        for n, m in layers.items()
    ]  # fmt: skip
    return eliminate(readers, work)


def _places(
    groups: list[Group], layers: dict[str, nn.Module], have: dict[str, Held]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, list[tuple[str, int]]]]:
    """For each group the layers that make it, and those that read it, with their blocks."""
    by_tensor: dict[int, list[str]] = {}
    for name, module in layers.items():
        key = id(have[plain(f"{name}.weight" if name else "weight")].tensor)
        by_tensor.setdefault(key, []).append(name)
        assert module is not None
    makes: dict[str, dict[str, Tensor]] = {g.name: {} for g in groups}
    reads: dict[str, list[tuple[str, int]]] = {g.name: [] for g in groups}
    for g in groups:
        for s in g.slices:
            for name in by_tensor.get(id(have[plain(s.tensor)].tensor), ()):
                inputs = 0 if turned(layers[name]) else 1
                if s.dim == inputs and (name, s.blocks) not in reads[g.name]:
                    reads[g.name].append((name, s.blocks))
                elif s.dim == 1 - inputs and name not in makes[g.name]:
                    makes[g.name][name] = torch.from_numpy(s.index.astype("int64"))
    return makes, reads


def _reader(
    group: Group, module: nn.Module, name: str, blocks: int, evidence: Evidence
) -> list[Reader]:
    """Return what one layer reads of a group: nothing where its co-moment is missing or it has blocks."""
    seen, weight = evidence.columns(name), matrix_of(module)
    if not seen.full or seen.mean.ndim > 1 or weight.ndim > 2:
        return []
    dim = 0 if turned(module) else 1
    tensor = plain(f"{name}.weight" if name else "weight")
    found = []
    for s in group.slices:
        if plain(s.tensor) != tensor or s.dim != dim or s.blocks != blocks:
            continue
        taps = weight.shape[1] // evidence.inputs[name].mean.shape[-1]
        places = torch.from_numpy(s.index.astype("int64"))  # (units, k)
        columns = (places.unsqueeze(-1) * taps + torch.arange(taps)).flatten(1)
        flat = columns.flatten()
        square = seen.covariance[flat][:, flat]
        index = torch.arange(len(flat)).reshape(columns.shape)
        grad = evidence.output_grad[name].double()
        found.append(Reader(weight.double().cpu()[:, flat], square, grad, index, name))
    return found


def _macs(name: str, module: nn.Module, evidence: Evidence) -> float:
    """Multiply-accumulates of a layer for one example."""
    positions = evidence.columns(name).count / max(1, evidence.examples)
    return positions * module.weight.numel()  # type: ignore[operator]

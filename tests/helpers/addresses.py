"""Models whose numbers carry their own address in their low bits."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from zoo.case import Case
from zoo.judge import call, wide

PLACES, LOW = 22, 32


def named(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every floating-point tensor by each of its names."""
    params = model.named_parameters(remove_duplicate=False)
    found = {**dict(params), **dict(model.named_buffers(remove_duplicate=False))}
    return {name: t for name, t in found.items() if t.dtype == torch.float64}


def write(model: nn.Module) -> dict[int, int]:
    """Write its address into each number; the number of each tensor by its identity."""
    numbers: dict[int, int] = {}
    for t in named(model).values():
        if id(t) in numbers:
            continue
        k = numbers[id(t)] = len(numbers)
        assert k < 2 ** (LOW - PLACES)
        assert t.numel() <= 2**PLACES
        bits = t.data.contiguous().view(torch.int64)
        place = torch.arange(t.numel()).view(t.shape)
        bits = (bits >> LOW << LOW) | k << PLACES | place
        t.data.copy_(bits.view(torch.float64))
    return numbers


def read(t: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Tensor and place that each number came from."""
    low = t.detach().contiguous().view(torch.int64).numpy() & (2**LOW - 1)
    return low >> PLACES, low & (2**PLACES - 1)


def left(shape: tuple[int, ...], lost: dict[tuple[int, int], set[int]]) -> np.ndarray:
    """Places that stay in a tensor; lost: by (dimension, blocks) the positions that go."""
    places = np.arange(int(np.prod(shape))).reshape(shape)
    # columns first: they come in blocks of rows
    for (dim, blocks), gone in sorted(lost.items(), key=lambda item: -item[0][1]):
        if blocks == 1:
            places = np.delete(places, sorted(gone), dim)
            continue
        parts = np.split(places, blocks)
        width = shape[dim]
        own = [[g - b * width for g in gone if g // width == b] for b in range(blocks)]
        places = np.concatenate([np.delete(p, g, dim) for p, g in zip(parts, own, strict=True)])
    return places


def addressed(case: Case) -> nn.Module | None:
    """The case's model in float64 with addresses in its numbers; None if it cannot run so."""
    torch.manual_seed(0)
    model, x = case.build().eval().double(), wide(case.inputs())
    write(model)
    try:
        found = call(model, x)
    except Exception:
        return None
    return model if all(t.dtype != torch.float32 for t in found) else None

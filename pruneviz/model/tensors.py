"""Which tensors does a model hold, and where? Also whether given groups belong to this model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Group, Groups
from pruneviz.core.names import layer_name, tensor_name, unmasked_name
from pruneviz.core.slices import Slice


@dataclass(frozen=True, eq=False)
class Held:
    """One parameter or buffer, and every (layer, attribute) that holds it: several if it is tied.

    `part` is ``""`` if the attribute is the tensor itself. If a parametrization computes the
    attribute from the tensor, `part` is its name there: ``"original"``, ``"original0"``, ….
    """

    tensor: Tensor
    part: str = ""
    holders: tuple[tuple[nn.Module, str], ...] = ()

    @property
    def visible(self) -> Tensor:
        """The tensor that the forward uses: masks applied, detached, not copied."""
        module, attribute = self.holders[0]
        return getattr(module, attribute).detach()

    def held_by(self, *holder: Any) -> Held:
        """Return the same with one more (layer, attribute); a layer that is used twice counts once."""
        known = holder in self.holders
        return self if known else replace(self, holders=(*self.holders, holder))


def tensors_by_name(model: nn.Module) -> dict[str, Held]:
    """Return every parameter and buffer by its plain name; a tied tensor under each of its names.

    >>> list(tensors_by_name(nn.BatchNorm1d(2)))
    ['weight', 'bias', 'running_mean', 'running_var', 'num_batches_tracked']
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    found: dict[int, Held] = {}
    ids: dict[str, int] = {}
    for path, module in modules.items():
        for attribute, tensor in (*module._parameters.items(), *module._buffers.items()):
            if tensor is None:
                continue
            name = tensor_name(path, attribute)
            holder, part = (module, attribute), ""
            if isinstance(module, parametrize.ParametrizationList):
                holder, part = (modules[layer_name(name)], path.rpartition(".")[2]), attribute
            ids[unmasked_name(name)] = key = id(tensor)
            found[key] = found.get(key, Held(tensor, part)).held_by(*holder)
    return {name: found[key] for name, key in ids.items()}


def check_keep(name: str, keep: Tensor, shape: tuple[int, ...]) -> None:
    """Raise unless a plan's `keep` for a weight or group is a boolean tensor of its shape."""
    checks.kind(keep, f"plan.keep[{name!r}]", Tensor)
    if tuple(keep.shape) != shape or keep.dtype != torch.bool:
        raise ArgumentError(
            f"`plan` is of another model: for {name!r} it has {keep.dtype} of shape "
            f"{tuple(keep.shape)}, but needs torch.bool of {shape}."
        )


def check_fit(groups: Groups, chosen: Iterable[Group], have: dict[str, Held], what: str) -> None:
    """Raise unless the slices of the chosen groups lie within the tensors that a model has."""
    covered: dict[tuple[str, int], int] = {}  # number of positions that the groups name in total
    for g in groups:
        for key, index in {(s.tensor, s.dim): s.index for s in g.slices if s.role == "out"}.items():
            covered[key] = covered.get(key, 0) + index.size
    for g in chosen:
        for s in g.slices:
            problem = _misfit(s, have, covered)
            if problem:
                raise ArgumentError(f"`{what}` is of another model: {problem}.")


def _misfit(s: Slice, have: dict[str, Held], covered: dict[tuple[str, int], int]) -> str:
    name = unmasked_name(s.tensor)
    if name not in have:
        known = ", ".join(list(have)[:6])
        return f"it names {name!r}, but the tensors here are: {known}"
    shape = tuple(have[name].tensor.shape)
    if s.dim >= len(shape) or (s.blocks > 1 and shape[0] % s.blocks):
        return f"{name!r} has the shape {shape} here"
    n, last = shape[s.dim] * s.blocks, int(s.index.max()) + 1
    # groups of a smaller model name the first positions without a gap, but not the last ones
    too_few = s.role == "out" and covered.get((s.tensor, s.dim)) == last < n
    if last > n or too_few:
        return f"its units reach to {last} along dimension {s.dim} of {name!r}, which has {n} here"
    return ""


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers under each of their names, as in the state_dict."""
    parameters = model.named_parameters(remove_duplicate=False)
    return {**dict(parameters), **dict(model.named_buffers(remove_duplicate=False))}


def matrix(weight: Tensor, where: Slice) -> Tensor:
    """Return each unit's numbers in a weight: a copy of shape (units, numbers).

    >>> import numpy as np
    >>> matrix(torch.arange(6.0).view(2, 3), Slice("fc2.weight", 1, np.array([[0], [2]]), "in"))
    tensor([[0., 3.],
            [2., 5.]])
    """
    if where.blocks > 1:  # input channel b * n + j is column j of the rows in block b
        split = weight.unflatten(0, (where.blocks, -1))  # (blocks, rows / blocks, ..., n, ...)
        lines = split.movedim(where.dim + 1, 1).flatten(0, 1)  # (blocks * n, rows / blocks, ...)
    else:
        lines = weight.movedim(where.dim, 0)  # (n, ...)
    index = torch.from_numpy(where.index.astype("int64")).to(weight.device)  # a copy, writable
    numbers = lines[index].flatten(1)  # (units, k, ...) -> (units, numbers)
    return numbers.float() if numbers.dtype in (torch.float16, torch.bfloat16) else numbers

"""How does an optimizer go on after a mask was added? Its state is carried over by name."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.names import unmasked_name


def carry_optimizer(
    optimizer: torch.optim.Optimizer, before: nn.Module, after: nn.Module
) -> torch.optim.Optimizer:
    """Return an optimizer of a masked (or baked) model that goes on where the old one stopped.

    A mask moves a weight to the end of its layer's parameters, so the state that an optimizer keeps
    by position, such as momentum, would meet other weights. Here it follows the names.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        Of the parameters of `before`. Not changed.
    before, after : nn.Module
        `after` has the parameters of `before`, with or without masks: from `mask`, `bake`, or a
        copy. Not changed.

    Returns
    -------
    torch.optim.Optimizer
        A new one of the same class, with the same options and a copy of the state. Give a
        learning-rate scheduler the new one, too.

    Raises
    ------
    ArgumentError
        If the optimizer has parameters that `before` has not, or if a parameter is missing in
        `after` or has another shape there.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Linear(4, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> model(torch.ones(1, 4)).sum().backward()
    >>> optimizer.step()
    >>> masked = pv.mask(model, pv.select(pv.score(model, "magnitude"), sparsity=0.5))
    >>> [tuple(p.shape) for p in model.parameters()], [tuple(p.shape) for p in masked.parameters()]
    ([(2, 4), (2,)], [(2,), (2, 4)])
    >>> optimizer = pv.carry_optimizer(optimizer, model, masked)
    >>> [tuple(p.shape) for p in optimizer.param_groups[0]["params"]]
    [(2, 4), (2,)]
    """
    checks.kind(optimizer, "optimizer", torch.optim.Optimizer, "Pass the one that was in use.")
    names = {id(p): unmasked_name(n) for n, p in checks.unwrapped(before).named_parameters()}
    there = {
        unmasked_name(n): p
        for n, p in checks.unwrapped(after).named_parameters(remove_duplicate=False)
    }
    new_of: dict[int, Tensor] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            new_of[id(p)] = _counterpart(p, names.get(id(p)), there)
    new = copy.copy(optimizer)  # its state is that of its class: no constructor runs
    new.state = defaultdict(dict)
    for p, state in optimizer.state.items():
        new.state[new_of[id(p)]] = {k: _copied(v, new_of[id(p)]) for k, v in state.items()}
    new.param_groups = [
        {**group, "params": [new_of[id(p)] for p in group["params"]]}
        for group in optimizer.param_groups
    ]
    return new


def _counterpart(p: Tensor, name: str | None, there: dict[str, nn.Parameter]) -> Tensor:
    if name is None:
        raise ArgumentError(
            f"`optimizer` has a parameter of shape {tuple(p.shape)} that `before` has not. Pass the "
            "model whose parameters it was made with."
        )
    if name not in there or there[name].shape != p.shape:
        has = f"has the shape {tuple(there[name].shape)}" if name in there else "is missing"
        raise ArgumentError(
            f"{name!r} {has} in `after`, but has the shape {tuple(p.shape)} in `before`. For a smaller "
            "model make a new optimizer: torch.optim.SGD(after.parameters(), lr=0.1)."
        )
    return there[name]


def _copied(value: Any, p: Tensor) -> Any:
    if not isinstance(value, Tensor):
        return copy.deepcopy(value)
    return value.clone().to(p.device) if value.shape == p.shape else value.clone()

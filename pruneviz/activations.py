"""What single units do on single examples, where they are read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruneviz import _check
from pruneviz._inputs import arguments, run
from pruneviz.consumers import consumers, open_attention
from pruneviz.group import Group, Groups
from pruneviz.hooks import evaluating, hooked
from pruneviz.slices import Slice
from pruneviz.streams import batched
from pruneviz.types import ArgumentError, Plan

Labelled = Iterable[tuple[Any, Tensor]]


def activations(model: nn.Module, x: Any, *, groups: Groups, group: str) -> Tensor:
    """Return each unit's activation on each example, where the first layer that reads it does so.

    Parameters
    ----------
    model : nn.Module
        Not changed. It runs in eval mode.
    x : Tensor, tuple or dict
        Examples: arguments of the forward; the first dimension is that of the examples.
    groups : Groups
        From `find_groups` on the same model.
    group : str
        Name of one of them; or of a layer whose units are one of them.

    Returns
    -------
    Tensor, shape (units, examples), on the CPU
        The mean over the positions of a unit: over the pixels of a channel, over tokens.

    Raises
    ------
    ArgumentError
        If there is no such group, no Linear or Conv layer reads it, or the forward raises.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
    >>> x = torch.randn(5, 2)
    >>> a = pv.activations(model, x, groups=pv.find_groups(model, x), group="0")
    >>> a.shape, bool(torch.allclose(a, torch.relu(model[0](x)).T))
    (torch.Size([3, 5]), True)
    """
    model = _check.unwrapped(model)
    _check.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
    where, known = _read(groups, group), consumers(model)
    reader = next((s for s in where.reads if s.layer in known), None)
    if reader is None:
        raise ArgumentError(
            f"no Linear or Conv layer of `model` reads group {where.name!r} "
            f"({', '.join(where.consumers) or 'nobody does'}). Take one of another: "
            f"{', '.join(g.name for g in groups if g.consumers) or 'there is none'}."
        )
    seen: list[Tensor] = []

    def watch(name: str, inputs: tuple[Any, ...], output: Any) -> None:
        if not seen:  # a layer that runs several times: what it read first
            seen.append(inputs[0].detach())

    args, kwargs = arguments(x)
    with (
        torch.inference_mode(False),
        evaluating(model),
        open_attention(model),
        hooked(model, [reader.layer], watch),
    ):
        run(model, args, kwargs)
    if not seen:
        raise ArgumentError(
            f"layer {reader.layer!r} never ran as a layer: what it reads cannot be seen."
        )
    return _of_units(known[reader.layer], seen[0], reader)


def of_all(model: nn.Module, parts: Iterable[Tensor], *, groups: Groups, group: str) -> np.ndarray:
    """Return the activations on examples of several shapes, side by side; (units, examples).

    >>> import pruneviz as pv
    >>> model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> groups = pv.find_groups(model, torch.zeros(2, 2))
    >>> of_all(model, [torch.zeros(2, 2), torch.zeros(5, 2)], groups=groups, group="0").shape
    (3, 7)
    """
    each = [activations(model, x, groups=groups, group=group) for x in parts]
    return torch.cat(each, 1).float().numpy()


def _read(groups: Groups, name: str) -> Group:
    """Return the group of that name; else the one group of the layer of that name."""
    if name in groups.names:
        return groups[name]
    found = groups.groups_of(name)
    if len(found) > 1:
        raise ArgumentError(
            f"the units of layer {name!r} are in {len(found)} groups. Name one of them: "
            f"{', '.join(repr(g.name) for g in found)}."
        )
    return found[0]


def _of_units(module: nn.Module, x: Tensor, reader: Slice) -> Tensor:
    columns = batched(module, x).flatten(2) if isinstance(module, _ConvNd) else x
    if columns.ndim == 1:
        columns = columns.unsqueeze(0)
    if isinstance(module, _ConvNd):
        means = columns.mean(2)  # (examples, channels)
    else:
        means = columns.flatten(1, -2).mean(1) if columns.ndim > 2 else columns
    at = torch.from_numpy(reader.index.astype("int64")).to(means.device)  # (units, k)
    if int(at.max()) >= means.shape[1]:
        raise ArgumentError(
            f"layer {reader.layer!r} reads {means.shape[1]} columns, but `groups` know of column "
            f"{int(at.max())}. They are of another model: pv.find_groups(model, example_input)."
        )
    return means[:, at].mean(2).T.contiguous().cpu()


def by_class(batches: Labelled) -> dict[int, list[tuple[Tensor, Tensor]]]:
    """Return the batches of each class by itself; raise if there is none.

    >>> x, y = torch.arange(4.0), torch.tensor([1, 0, 1, 1])
    >>> {c: [x.tolist() for x, _ in parts] for c, parts in by_class([(x, y)]).items()}
    {0: [[1.0]], 1: [[0.0, 2.0, 3.0]]}
    """
    found: dict[int, list[tuple[Tensor, Tensor]]] = {}
    for x, labels in batches:
        fit = isinstance(x, Tensor) and isinstance(labels, Tensor) and labels.ndim == 1
        if not fit or not x.ndim or len(x) != len(labels):
            raise ArgumentError(
                "a batch must be a pair of tensors, inputs and labels, with one class an example. "
                f"{_what(x, labels)}"
            )
        if len(labels) and int(labels.min()) < 0:
            raise ArgumentError(
                f"a label is {int(labels.min())}, but classes are counted from 0. Leave out examples "
                "that have no class: x[labels >= 0], labels[labels >= 0]."
            )
        for c in labels.unique().tolist():
            found.setdefault(c, []).append((x[labels == c], labels[labels == c]))
    if not found:
        raise ArgumentError(
            "`batches` is empty: there is nothing to look at. "
            "Pass an iterable of (inputs, labels); a generator runs only once."
        )
    return {c: found[c] for c in sorted(found)}


def _what(x: Any, labels: Any) -> str:
    if not isinstance(x, Tensor) or not x.ndim:
        return "These inputs are no tensor whose first dimension is that of the examples."
    return _check.advice(labels, (len(x),))


def some_of_each(
    classes: dict[int, list[tuple[Tensor, Tensor]]], most: int
) -> tuple[list[Tensor], list[int]]:
    """Return about `most` examples and their labels, as many of each class, class after class.

    Those of one shape are one tensor; if there are several, so are the tensors.

    >>> x, labels = some_of_each(by_class([(torch.arange(4.0), torch.tensor([1, 0, 1, 1]))]), 4)
    >>> [part.tolist() for part in x], labels
    ([[1.0, 0.0, 2.0]], [0, 1, 1])
    """
    each = max(1, most // max(1, len(classes)))
    parts: list[Tensor] = []
    labels: list[int] = []
    for c, batches in classes.items():
        left = each
        for x, _ in batches:
            parts += [x[:left]] if left else []
            left -= len(x[:left])
        labels += [c] * (each - left)
    return [torch.cat(parts)] if len({x.shape[1:] for x in parts}) == 1 else parts, labels


def without(groups: Groups, group: str, units: Iterable[int]) -> Plan:
    """Return the plan that drops these units of one group, all but the last if they are all.

    >>> import numpy as np
    >>> rows = Slice("fc.weight", 0, np.arange(3)[:, None], "out")
    >>> without(Groups((Group("fc", 3, (rows,)),)), "fc", [2, 0, 1]).keep["fc"]
    tensor([False,  True, False])
    """
    keep = {g.name: torch.ones(g.size, dtype=torch.bool) for g in groups if not g.frozen}
    gone = list(units)
    keep[group][gone[:-1] if len(gone) == groups[group].size else gone] = False
    return Plan(keep, groups)

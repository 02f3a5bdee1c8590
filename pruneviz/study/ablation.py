"""How much each unit matters: the measured loss without it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.groups import Group, Groups
from pruneviz.core.names import unmasked_name
from pruneviz.core.plan import Scores
from pruneviz.core.progress import progress_bar
from pruneviz.core.slices import Slice
from pruneviz.evidence.losses import ignored_label, loss_of
from pruneviz.model.batches import Batch
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import evaluating, plain_torch, seeded
from pruneviz.model.layout import fast_batches
from pruneviz.model.outputs import outputs_of
from pruneviz.model.tensors import Held, check_fit, tensors_by_name
from pruneviz.study.prefix import Prefix

SAME_SILENCE = 1e-5  # max|Δ| ÷ max|output| between silencing in the consumers and in the producers

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True, eq=False)
class Ablation:
    """The losses of a model with all units, and without each unit.

    Parameters
    ----------
    dense : ndarray, shape (parts,)
        Loss of each example; of each batch if the loss function returns one number a batch.
    without : mapping of str to ndarray, shape (units, parts)
        For each group: the same without each unit.
    weights : ndarray, shape (parts,)
        Number of examples in each part.
    """

    dense: np.ndarray
    without: Mapping[str, np.ndarray]
    weights: np.ndarray

    @property
    def examples(self) -> int:
        """Number of examples."""
        return int(self.weights.sum())

    def rise(self, counts: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return the rise of the mean loss without each unit; `counts`: how often a part counts."""
        w = self.weights if counts is None else self.weights * counts  # (parts,)
        return {g: (losses - self.dense) @ w / w.sum() for g, losses in self.without.items()}


@plain_torch()
def ablate(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    groups: Groups,
    loss: Loss = F.cross_entropy,
    progress: bool = True,
) -> Scores:
    """Measure how much the loss rises without each single unit.

    Every criterion tries to predict this. A unit is silenced as `mask` does it, and the same
    examples run again from the first operator that reads the unit.

    Parameters
    ----------
    model : nn.Module
        Not changed. It runs in eval mode.
    batches : iterable of (inputs, targets)
        As for `collect`. Read once.
    groups : Groups
        From `find_groups` on the same model. Each unit of each group that is not frozen is ablated.
    loss : callable
        ``loss(outputs, targets)``: one number, the mean over the batch, as the losses of torch
        return; or one number an example.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Scores
        Mean loss without the unit − mean loss with all units, float64; its criterion is "ablation".
        Below 0 the loss is lower without the unit. `select` takes these scores like any others.

    Raises
    ------
    ArgumentError
        If there is no example or no unit, `groups` are of another model, or the loss is not finite.

    References
    ----------
    Molchanov, Tyree, Karras, Aila, Kautz 2017, "Pruning Convolutional Neural Networks for Resource
    Efficient Inference", arXiv:1611.06440, §3.1: the "oracle", |ΔC| for each unit alone; here with
    its sign.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
    >>> with torch.no_grad():
    ...     for layer, weight in ((model[0], [[1.0, 0], [0, 1]]), (model[2], [[3.0, 1]])):
    ...         _ = layer.weight.copy_(torch.tensor(weight)), layer.bias.zero_()
    >>> x = torch.ones(1, 2)
    >>> groups = pv.find_groups(model, x)
    >>> mse = torch.nn.functional.mse_loss
    >>> pv.ablate(model, [(x, model(x))], groups=groups, loss=mse, progress=False).values["0"]
    tensor([9., 1.], dtype=torch.float64)
    """
    found = losses_without(model, batches, groups=groups, loss=loss, progress=progress)
    rise = {g: torch.from_numpy(values) for g, values in found.rise().items()}
    return Scores(rise, "ablation", groups)


def losses_without(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    groups: Groups,
    loss: Loss = F.cross_entropy,
    progress: bool = True,
) -> Ablation:
    """Return the loss of each example, with all units and without each; arguments as for `ablate`."""
    model = checks.unwrapped(model)
    checks.kind(groups, "groups", Groups, "Make them: pv.find_groups(model, example_input).")
    cut = groups.cuttable
    if not cut:
        raise ArgumentError("no group of `groups` can be cut: there is no unit to ablate.")
    with torch.inference_mode(False), evaluating(model):
        check_fit(groups, cut, tensors_by_name(model), "groups")
        data = fast_batches(
            batches, model=model, purpose="measure the loss on", ignore_index=ignored_label(loss)
        )
        runner = _Runner(model, data, loss)
        dense, weights = runner.losses(None)
        without = {}
        units = sum(g.size for g in cut)
        with progress_bar(total=units, shown=progress, text="ablate", unit="unit") as bar:
            for g in cut:
                slices = runner.slices_of(g)
                rows = np.empty((g.size, len(dense)))
                for u in range(g.size):
                    with slices.silenced(np.arange(g.size) == u):
                        rows[u] = runner.losses(slices)[0]
                    bar.update()
                without[g.name] = rows
    for name, losses in {"": dense[None], **without}.items():
        if not np.isfinite(losses).all():
            unit = int(np.flatnonzero(~np.isfinite(losses).all(1))[0])
            where = f" without unit {unit} of group {name!r}" if name else ""
            raise ArgumentError(
                f"`loss` gave NaN or infinity{where}. Look at the data, the labels, and the weights."
            )
    return Ablation(dense, without, weights)


class _Slices:
    """The slices of a group in a copy of the model, which are set to 0 to silence its units."""

    def __init__(self, group: Group, slices: list[Slice], have: Mapping[str, Held]) -> None:
        tensors = [(s, have[unmasked_name(s.tensor)].tensor) for s in slices]
        self.slices = [(s, t) for s, t in tensors if t.is_floating_point()]
        self.group = group

    @contextmanager
    def silenced(self, units: np.ndarray) -> Iterator[None]:
        """Set the slices of the marked units to 0 inside `with`, and restore them afterwards."""
        marks = [torch.from_numpy(s.mark(tuple(t.shape), units).copy()) for s, t in self.slices]
        with torch.no_grad():
            saved = []
            for (_, t), mark in zip(self.slices, marks, strict=True):
                silent = mark.to(t.device)
                saved.append((t, silent, t[silent]))
                t[silent] = 0
            try:
                yield
            finally:  # in reverse order, because a tensor may occur twice
                for t, silent, old in reversed(saved):
                    t[silent] = old


class _Runner:
    """Runs a copy of the model, with units silenced, and computes losses."""

    def __init__(self, model: nn.Module, data: list[Batch], loss: Loss) -> None:
        self.new, self.data, self.loss = copy_of(model), data, loss
        self.tensors = tensors_by_name(self.new)
        self.prefix: Prefix | None = None
        if all(isinstance(x, Tensor) for x, _ in data):
            with suppress(Exception):  # torch.fx cannot trace it: then every forward runs in full
                self.prefix = Prefix(model, [x for x, _ in data])

    def slices_of(self, group: Group) -> _Slices:
        """Return the slices to silence: the consumers' if that gives the same outputs.

        Silencing the consumers is cheaper: the prefix then also contains the producers.
        """
        producers = _Slices(group, [s for s in group.slices if s.role == "out"], self.tensors)
        columns = list(group.reads)
        if not columns or group.approximate:
            return producers
        consumers = _Slices(group, columns, self.tensors)
        one = np.arange(group.size) == 0  # compared with one unit silenced, and with all
        same = all(self._same_outputs(producers, consumers, units) for units in (one, one | True))
        return consumers if same else producers

    def _same_outputs(self, a: _Slices, b: _Slices, units: np.ndarray) -> bool:
        found = []
        for slices in (a, b):
            with slices.silenced(units), evaluating(self.new), seeded(0):
                found.append(outputs_of(self.data[0].run(self.new)).tensors.values())
        for p, q in zip(*found, strict=True):
            if float((p - q).abs().max()) > SAME_SILENCE * float(p.abs().max()):
                return False
        return True

    def _after(self) -> nn.Module | None:
        """Return a module that runs from the first silenced layer on; None if there is none."""
        try:
            return None if self.prefix is None else self.prefix.after(self.new)
        except Exception:  # if the model itself fails, its full forward raises the error again
            self.prefix = None
            return None

    def losses(self, slices: _Slices | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the loss of each part, (parts,), and its number of examples, (parts,)."""
        after = None if slices is None else self._after()
        module = self.new if after is None else after
        values, sizes = [], []
        with evaluating(module), seeded(0):
            for batch in self.data:
                value = loss_of(self.loss, batch.run(module), batch, each=True)
                each = _checked(value, batch.examples)
                values.append(each.double().cpu().numpy())
                sizes.append(np.full(len(each), batch.examples / len(each)))
        return np.concatenate(values), np.concatenate(sizes)


def _checked(value: Any, n: int) -> Tensor:
    """Return the loss of each example, or of the batch if the loss function returns one number."""
    if not isinstance(value, Tensor) or value.shape not in ((), (1,), (n,)):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(
            f"`loss` must return one number, or one an example, shape ({n},), but it returned {got}."
        )
    return value.detach().reshape(-1)

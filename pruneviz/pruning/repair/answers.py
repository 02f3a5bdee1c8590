"""What does the whole model answer? Inputs and answers, drawn at random or in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pruneviz.core.errors import ArgumentError
from pruneviz.model.batches import Batch, cut_examples
from pruneviz.model.hooks import evaluating
from pruneviz.model.outputs import outputs_of, places_not_finite

AT_ONCE = 125  # examples of one step
SMALLEST = 32
KEPT = 1 << 27  # numbers of answers in memory; more are computed again when they are needed


@dataclass(frozen=True, eq=False)
class Answer:
    """Inputs and what the whole model answers to them.

    Parameters
    ----------
    batch : Batch
    tensors : dict of str to Tensor
        The floating-point tensors of the output by their place; or, for a match of the caller's, the
        output itself under the key "". Empty: not kept.
    whole : nn.Module
    own : bool
        Whether it is for a match of the caller's.
    """

    batch: Batch
    tensors: dict[str, Any]
    whole: nn.Module
    own: bool

    def outputs(self) -> dict[str, Any]:
        """Return the answers, computed if they were not kept."""
        return self.tensors or _answer(self.whole, self.batch, self.own)

    def of(self, model: nn.Module) -> dict[str, Any]:
        """Return what another model answers, in the same form."""
        return _in_form(self.batch.run(model), self.own)


def answers_to(whole: nn.Module, batches: list[Batch], *, own: bool) -> list[Answer]:
    """Return what the whole model answers to each batch.

    Raises
    ------
    ArgumentError
        If it answers NaN or infinity, or nothing that has a gradient.
    """
    found: list[Answer] = []
    kept = 0
    for batch in batches:
        inputs = pytree.tree_map_only(Tensor, _trainable, batch.inputs)
        y = batch.targets  # only their form is looked at
        of_each = isinstance(y, Tensor) and y.ndim and len(y) == batch.examples
        batch = batch.with_(inputs, y if of_each else None)
        tensors = _answer(whole, batch, own)
        if not own:
            bad = places_not_finite(tensors)
            if bad:
                raise ArgumentError(
                    f"repair 'distil' learns the answers of `model`, but for {batch.place} {bad[0]} holds "
                    "NaN or infinity. Leave these examples out, or pass pv.Distillation(match=...), "
                    "which compares only what is finite."
                )
            if not tensors:
                raise ArgumentError(
                    "repair 'distil' learns the floating-point tensors of the output of `model`, but there "
                    "are none. Let the model return what it computes before it chooses a class."
                )
        kept += sum(t.numel() for t in pytree.tree_leaves(tensors) if isinstance(t, Tensor))
        found.append(Answer(batch, tensors if kept <= KEPT or not found else {}, whole, own))
    return found


def _trainable(t: Tensor) -> Tensor:
    return t.clone() if t.is_inference() else t  # a tensor of inference mode has no gradients


def _answer(whole: nn.Module, batch: Batch, own: bool) -> dict[str, Any]:
    with evaluating(whole):
        return _in_form(batch.run(whole), own)


def _in_form(output: Any, own: bool) -> dict[str, Any]:
    if own:
        return {"": output}
    return {p: t for p, t in outputs_of(output).tensors.items() if t.is_floating_point()}


class Answered:
    """Examples with their answers, drawn at random without end, or in order.

    Batches of one form are joined, so that the examples are mixed anew; others are drawn as they are.

    Parameters
    ----------
    answers : list of Answer
    seed : int
    """

    def __init__(self, answers: list[Answer], seed: int) -> None:
        self.answers = answers
        self.seed = seed
        self.joined = _joined(answers)

    def drawn(self) -> Iterator[Answer]:
        """Yield examples in a random order, again and again; the same at each call."""
        generator = torch.Generator().manual_seed(self.seed)
        if self.joined is None:
            while True:
                for i in torch.randperm(len(self.answers), generator=generator).tolist():
                    yield self.answers[i]
        n = self.joined.batch.examples
        size = min(AT_ONCE, max(n // 10, min(n, SMALLEST)))
        while True:
            order = torch.randperm(n, generator=generator)
            for part in order[: n - n % size].split(size):
                yield _part(self.joined, part, n)

    def in_order(self) -> Iterator[Answer]:
        """Yield all examples once."""
        if self.joined is None:
            yield from self.answers
            return
        n = self.joined.batch.examples
        for part in torch.arange(n).split(AT_ONCE):
            yield _part(self.joined, part, n)


def _part(answer: Answer, part: Tensor, n: int) -> Answer:
    inputs, targets, tensors = cut_examples(
        (answer.batch.inputs, answer.batch.targets, answer.tensors), part, n
    )
    return replace(answer, batch=answer.batch.with_(inputs, targets), tensors=tensors)


def _joined(answers: list[Answer]) -> Answer | None:
    """Return all examples as one batch; None if they do not fit together."""
    sizes = [a.batch.examples for a in answers]
    trees = [(a.batch.inputs, a.batch.targets, a.tensors) for a in answers]
    if not all(a.tensors for a in answers):
        trees = [(inputs, targets, {}) for inputs, targets, _ in trees]
    flat = [pytree.tree_flatten(t) for t in trees]
    if any(spec != flat[0][1] for _, spec in flat):
        return None
    leaves = []
    for column in zip(*(values for values, _ in flat), strict=True):
        if all(isinstance(v, Tensor) for v in column):
            each = [v.ndim and len(v) == n for v, n in zip(column, sizes, strict=True)]
            if not all(each) or len({(v.shape[1:], v.dtype, v.device) for v in column}) > 1:
                return None
            leaves.append(torch.cat(column) if len(column) > 1 else column[0])
        elif all(isinstance(v, (type(None), bool, int, float, str)) for v in column):
            if len(set(column)) > 1:
                return None
            leaves.append(column[0])
        else:  # something that cannot be cut
            return None
    inputs, targets, tensors = pytree.tree_unflatten(leaves, flat[0][1])
    return replace(answers[0], batch=answers[0].batch.with_(inputs, targets), tensors=tensors)

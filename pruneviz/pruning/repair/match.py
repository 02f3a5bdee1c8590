"""How far is a model from giving the whole model's answers? A number that becomes small."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruneviz.core.errors import ArgumentError
from pruneviz.model.padding import real_tokens
from pruneviz.pruning.repair.answers import Answer
from pruneviz.pruning.repair.gradient import checked_value

FLOOR = 1e-4  # least variance of an output, as a share of its mean square
MEASURED = 1 << 22  # numbers from which the variances are measured


class Match:
    """The default: divergence of the softmaxed logits, and squared error as a share of the variance.

    The divergence alone does not see a shift of all logits, and means nothing for numbers that are no
    logits; the squared error alone weighs classes that cannot be right as much as the others. Their
    sum is 0 only where the answers are equal. (Measured: benchmarks/README.md, distil.py.)

    Parameters
    ----------
    answers : list of Answer
        From these it takes the variances, and whether the targets are numbers.
    """

    def __init__(self, answers: list[Answer]) -> None:
        targets = [a.batch.targets for a in answers]
        self.numbers = any(isinstance(y, Tensor) and y.is_floating_point() for y in targets)
        seen: dict[str, list[Tensor]] = {}
        total = 0
        for answer in answers:
            for place, t in answer.outputs().items():
                seen.setdefault(place, []).append(_columns(t, answer).double())
                total += t.numel()
            if total > MEASURED:
                break
        self.variance = {place: _variance(torch.cat(parts)) for place, parts in seen.items()}

    def value(self, model: nn.Module, answer: Answer) -> Tensor:
        """Return how far the answers are apart: a scalar with a gradient."""
        parts = [self._parts(now, whole, self.variance[place])[0]
                 for place, now, whole in self._pairs(model, answer)]  # fmt: skip
        value = torch.stack(parts).mean()
        if not value.requires_grad:
            raise ArgumentError(
                "repair 'distil' moves weights, but the outputs of the pruned model depend on none that "
                "may change. Let the forward compute with gradients (no .detach(), no torch.no_grad()), "
                "or unfreeze its layers: model.requires_grad_()."
            )
        return value

    def judge(self, model: nn.Module, answers: Iterable[Answer]) -> tuple[float, float]:
        """Return how far the answers are apart, and the agreement; means over all examples."""
        sums, total = torch.zeros(2, dtype=torch.float64), 0
        for answer in answers:
            parts = [self._parts(now, whole, self.variance[place])
                     for place, now, whole in self._pairs(model, answer)]  # fmt: skip
            n = answer.batch.examples
            sums += n * torch.stack([torch.stack(p) for p in parts]).mean(0).double().cpu()
            total += n
        return float(sums[0]) / total, float(sums[1]) / total

    def _pairs(self, model: nn.Module, answer: Answer) -> list[tuple[str, Tensor, Tensor]]:
        now, whole = answer.of(model), answer.outputs()
        for place, t in whole.items():
            if place not in now or now[place].shape != t.shape:
                got = f"of shape {tuple(now[place].shape)}" if place in now else "missing"
                raise ArgumentError(
                    f"{place} is {got} in the pruned model, and of shape {tuple(t.shape)} in the whole "
                    "one: they cannot be matched. Pass pv.Distillation(match=...), which compares only "
                    "what has the same shape."
                )
        return [(p, _columns(now[p], answer), _columns(t, answer)) for p, t in whole.items()]

    def _parts(self, now: Tensor, whole: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mismatch and the agreement of two outputs, (rows, columns)."""
        error = ((now - whole) ** 2 / variance.to(now)).mean()
        if self.numbers or now.shape[1] == 1:
            return error, 1 - error.detach()
        apart = F.kl_div(
            F.log_softmax(now, 1), F.log_softmax(whole, 1), log_target=True, reduction="batchmean"
        )
        return apart + error, (now.argmax(1) == whole.argmax(1)).to(error).mean()


class OwnMatch:
    """A match of the caller's.

    Parameters
    ----------
    match : callable
    """

    def __init__(self, match: Callable[[Any, Any], Any]) -> None:
        self.match = match

    def value(self, model: nn.Module, answer: Answer) -> Tensor:
        """Return what the caller's function returns: a scalar with a gradient."""
        return self._apart(model, answer)

    def judge(self, model: nn.Module, answers: Iterable[Answer]) -> tuple[float, float]:
        """Return the mean over all examples, and as the agreement its negative."""
        apart, total = 0.0, 0
        for answer in answers:
            n = answer.batch.examples
            apart += n * float(self._apart(model, answer, graded=False))
            total += n
        return apart / total, -apart / total

    def _apart(self, model: nn.Module, answer: Answer, *, graded: bool = True) -> Tensor:
        found = self.match(answer.of(model)[""], answer.outputs()[""])
        return checked_value(found, "match", f"for {answer.batch.place}", graded=graded)


def _columns(t: Tensor, answer: Answer) -> Tensor:
    """Return an output as (rows, columns), without padded tokens; the columns may be classes."""
    if t.ndim < 2:
        return t.reshape(-1, 1)
    if t.ndim > 2:
        for mask in real_tokens(answer.batch):
            if mask.shape == t.shape[:2]:
                return t[mask.to(t.device)].flatten(1)
        labels = answer.batch.targets
        text = t.ndim == 3 and tuple(getattr(labels, "shape", ())) != (t.shape[0], t.shape[2])
        t = t if text else t.movedim(1, -1)  # images, as torch has them: the second is the classes
    return t.flatten(0, -2)


def _variance(rows: Tensor) -> Tensor:
    """Return the variance of each column, (columns,), not much smaller than its mean square."""
    square = (rows**2).mean(0)
    found = torch.maximum(rows.var(0, correction=0), FLOOR * square)
    return torch.where(found > 0, found, 1.0)

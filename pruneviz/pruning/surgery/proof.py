"""Whether a shrunken model computes what the masked model computes.

Three runs on the same examples are compared: *dense*, the exported graph with all its weights;
*masked*, the same graph with the producers of the removed units silenced; *shrunken*, the new
model. The shrunken model must equal the masked one: ``max|shrunken − masked|`` is compared with
the size of the outputs and with ``max|masked − dense|``, the effect of the mask. The second limit
is needed because a wrong cut of units with little effect would pass the first.

All runs are in float64, because in float32 a wrong cut can be as small as rounding: a stale number
of heads once changed the outputs by only 1e-5. In float64 rounding stays below 1e-10. If an
operator has no float64 kernel, the runs are in the model's own type, with a wider limit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from pruneviz.core.errors import GraphError, IncomparableError
from pruneviz.graph.interpreter import promoted, promoted_types, run_graph, silenced
from pruneviz.graph.state import Walk
from pruneviz.graph.values import draws_random_numbers
from pruneviz.model.forward import copy_of, quiet
from pruneviz.model.hooks import evaluating, seeded
from pruneviz.model.outputs import first_difference, outputs_of, places_not_finite
from pruneviz.model.tensors import tensors_of

LIMIT = 1e-10  # largest max|Δ| ÷ max|output| in float64
LIMIT_FLOAT32 = 1e-4  # the same in float32, where an operator has no float64 kernel
EXAMPLES = 8  # least number of compared examples


@dataclass(frozen=True)
class Proof:
    """Result of the comparison of a shrunken model with the masked one.

    Parameters
    ----------
    error : float
        max|shrunken − masked| over all outputs.
    scale : float
        max|masked|.
    effect : float
        max|masked − dense|: how much the mask changes the outputs; 0: the proof is vacuous.
    in_float64 : bool
        Whether the models ran in float64.
    """

    error: float
    scale: float
    effect: float
    in_float64: bool

    @property
    def holds(self) -> bool:
        """Whether the difference is only rounding, compared with the outputs and the effect."""
        if not math.isfinite(self.error):
            return False
        limit = (LIMIT if self.in_float64 else LIMIT_FLOAT32) * self.scale
        # a difference below this is rounding, even if the effect is 0
        floor = (1e-13 if self.in_float64 else 1e-6) * self.scale
        return self.error <= max(floor, min(limit, 1e-3 * self.effect))


@dataclass(eq=False)
class Reference:
    """Outputs of the masked graph on some examples: what a shrunken model must compute.

    Parameters
    ----------
    inputs : list of (tuple, dict)
        Arguments of the examples, positional and by name.
    masked : list of list of Tensor
        Outputs of the masked graph, for each example.
    others : mapping of str to object
        What the whole model returns beside its tensors: None, text, whole numbers. A mask does not
        change that.
    effect : float
        max|masked − dense|.
    in_float64 : bool
        Whether the graph ran in float64.
    same_draws : callable
        Context that seeds random operators, so that both runs draw the same numbers.
    """

    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]]
    masked: list[list[Tensor]]
    others: Mapping[str, Any]
    effect: float
    in_float64: bool
    same_draws: Callable[[], AbstractContextManager[None]] = nullcontext

    def compare(self, model: nn.Module) -> Proof:
        """Run a shrunken model on the same examples; its exceptions are not caught."""
        error, scale = 0.0, 0.0
        with quiet(), evaluating(model), at_precision(self.in_float64):
            for (args, kwargs), want in zip(self.inputs, self.masked, strict=True):
                with self.same_draws():
                    got = outputs_of(model(*copied(args), **copied(kwargs)))
                different = first_difference(got.others, self.others)
                if different:
                    raise ValueError(f"{different}, as in the whole model.")
                error = max(error, difference([*got.tensors.values()], want))
                scale = max([scale, *(_largest(t) for t in want)])
                if not math.isfinite(error) or error > LIMIT_FLOAT32 * scale:
                    break  # the model is wrong, whatever the other examples give
        return Proof(error, scale, self.effect, self.in_float64)


def reference(
    w: Walk,
    example: tuple[tuple[Any, ...], dict[str, Any]],
    removed: np.ndarray,
    roles: dict[Any, str],
    watch: Callable[..., None] | None = None,
) -> Reference:
    """Run the graph dense and masked, in float64 if every operator has a kernel for it.

    `watch` sees the nodes of the first masked run.
    """
    try:
        return _reference(w, example, removed, roles, watch, True)
    except (NotImplementedError, RuntimeError):  # no float64 kernel; others are raised again
        return _reference(w, example, removed, roles, watch, False)


def _reference(
    w: Walk, example: Any, removed: Any, roles: Any, watch: Any, in_float64: bool
) -> Reference:
    tensors = tensors_of(w.traced.model)
    inputs: list[Any] = []
    masked: list[list[Tensor]] = []
    others: Mapping[str, Any] = {}
    effect = 0.0
    with quiet(), evaluating(w.traced.model), at_precision(in_float64):
        silent_tensors = silenced(w, tensors, removed, roles)
        for args, kwargs in variations(example):
            args, kwargs = promoted_all((args, kwargs)) if in_float64 else (args, kwargs)
            flat = pytree.tree_leaves((args, kwargs))
            with same_draws(w):
                out = run_graph(
                    w,
                    silent_tensors,
                    flat,
                    removed=removed,
                    double=in_float64,
                    watch=None if inputs else watch,
                )
            finite = all(bool(torch.isfinite(t).all()) for t in out)
            if inputs and not finite:
                continue  # the model has no finite output here, such as the logarithm of < 0
            if effect == 0:  # one example with an effect is enough; later ones need no dense run
                with same_draws(w):
                    dense = run_graph(w, tensors, flat, double=in_float64)
                if not inputs:
                    others = _check_graph(w, args, kwargs, dense, in_float64)
                    if not finite:
                        raise GraphError(
                            "without these units `model` returns NaN or infinity on the example, so "
                            "the cut could not be checked. Remove fewer units, or pass another example."
                        )
                effect = difference(out, dense)
            inputs.append((args, kwargs))
            masked.append(out)
    return Reference(inputs, masked, others, effect, in_float64, partial(same_draws, w))


def _check_graph(
    w: Walk, args: Any, kwargs: Any, dense: list[Tensor], in_float64: bool
) -> Mapping[str, Any]:
    """Raise unless the model's own Python code computes the outputs of its exported graph.

    Returns what the model returns beside tensors.
    """
    model = copy_of(w.traced.model)
    model = model.double() if in_float64 else model
    with same_draws(w):
        got = outputs_of(model(*copied(args), **copied(kwargs)))
    not_finite = places_not_finite(got.tensors)
    if not_finite:
        raise IncomparableError(
            f"`model` returns NaN or infinity on the example, at {not_finite[0]}, so no cut could be "
            "checked. Pass another example, or wrap the model to return what it computes before a mask."
        )
    scale = max([0.0, *(_largest(t) for t in dense)])
    error = difference([*got.tensors.values()], dense)
    if in_float64 and LIMIT * scale < error <= LIMIT_FLOAT32 * scale:
        raise NotImplementedError("constants of the graph are float32: compare in float32")
    if not Proof(error, scale, scale, in_float64).holds:
        raise IncomparableError(
            "`model` does not compute what its exported graph does: outputs differ by "
            f"{error:.1e} (of at most {scale:.1e}), so no cut could be checked. Does it draw "
            "random numbers, or keep a state between calls? Remove that first."
        )
    return got.others


def variations(example: tuple[tuple[Any, ...], dict[str, Any]]) -> Iterator[Any]:
    """Yield the example and variations of it, until there are at least eight examples.

    Floating-point tensors are drawn from a normal distribution with the example's mean and standard
    deviation; integers are shuffled. Masks (0 and 1, booleans, infinities) are not changed.
    """
    leaves, spec = pytree.tree_flatten(example)
    first = next((t for t in leaves if isinstance(t, Tensor) and t.ndim), None)
    batch = max(1, first.shape[0]) if first is not None else 1
    yield example
    for k in range(1, max(2, math.ceil(EXAMPLES / batch))):
        generator = torch.Generator().manual_seed(k)
        yield pytree.tree_unflatten([_varied(t, generator) for t in leaves], spec)


def _varied(t: Any, generator: torch.Generator) -> Any:
    if not isinstance(t, Tensor) or t.dtype == torch.bool or t.numel() == 0 or t.is_complex():
        return t
    if t.is_floating_point():
        if not torch.isfinite(t).all():
            return t
        spread = float(t.double().std()) if t.numel() > 1 else 0.0
        noise = torch.randn(t.shape, generator=generator, dtype=torch.float64)
        return (float(t.double().mean()) + (spread or 1.0) * noise).to(t)
    if int(t.min()) >= 0 and int(t.max()) <= 1:
        return t
    order = torch.randperm(t.numel(), generator=generator).to(t.device)
    return t.reshape(-1)[order].reshape(t.shape)


def difference(got: list[Tensor], want: list[Tensor]) -> float:
    """Return max|got − want| over all tensors; infinite if their shapes differ.

    It is infinite, too, if one of them holds NaN or infinity: these are equal to nothing.
    """
    if len(got) != len(want) or any(a.shape != b.shape for a, b in zip(got, want, strict=True)):
        return math.inf
    worst = 0.0
    for a, b in zip(got, want, strict=True):
        if not a.is_floating_point() and not a.is_complex():
            delta = float((a != b).any())
        elif a.numel():
            delta = float((a - b).abs().max())
            delta = math.inf if math.isnan(delta) else delta  # ∞ − ∞ is NaN, too
        else:
            delta = 0.0
        worst = max(worst, delta)
    return worst


def _largest(t: Tensor) -> float:
    t = t[torch.isfinite(t)] if t.is_floating_point() else t
    return float(t.abs().max()) if t.numel() and t.dtype != torch.bool else 0.0


def copied(values: Any) -> Any:
    """Copy all tensors in nested values, because a model may write into its input."""
    return pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, values)


def promoted_all(values: Any) -> Any:
    """Convert all floating-point tensors in nested values to float64."""
    return pytree.tree_map(promoted, values)


class _Double(TorchFunctionMode):
    """Compute in float64, also where the code asks for a smaller type or creates a new tensor.

    torch's default type is not used for this: it holds for all threads, and another thread may be
    training.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("float", "half", "bfloat16") and args and isinstance(args[0], Tensor):
            return args[0].double()
        args, kwargs = promoted_types(tuple(args)), promoted_types(dict(kwargs or {}))
        return promoted_all(func(*args, **kwargs))


@contextmanager
def at_precision(in_float64: bool) -> Iterator[None]:
    """If `in_float64`, run everything inside in float64, in this thread only.

    >>> with at_precision(True):
    ...     torch.zeros(1).dtype, (torch.arange(3) / 2).dtype, torch.arange(3).dtype
    (torch.float64, torch.float64, torch.int64)
    """
    with _Double() if in_float64 else nullcontext():
        yield


def same_draws(w: Walk) -> AbstractContextManager[None]:
    """Return a context in which a model with random operators draws the same numbers each time."""
    return seeded(0) if any(draws_random_numbers(n) for n in w.traced.live) else nullcontext()

"""The theorem, run: a shrunken model computes what the masked one computes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from pruneviz.core.errors import GraphError
from pruneviz.graph.interpreter import promoted, promoted_types, run_graph, silenced
from pruneviz.graph.state import Walk
from pruneviz.model.forward import copy_of, outputs_of, quiet
from pruneviz.model.hooks import evaluating, seeded
from pruneviz.model.tensors import tensors_of

EXACT = 1e-10  # max|Δ| ÷ max|output| in float64
ROUGH = 1e-4  # the same in float32, where an operator has no float64 kernel
EXAMPLES = 8


@dataclass(frozen=True)
class Proof:
    """How far a shrunken model is from the masked one.

    Parameters
    ----------
    error : float
        max|shrunk − masked| over all outputs.
    scale : float
        max|masked|.
    effect : float
        max|masked − dense|: how much the mask itself changes; 0: the proof is vacuous.
    exact : bool
        In float64.
    """

    error: float
    scale: float
    effect: float
    exact: bool

    @property
    def holds(self) -> bool:
        """Whether the difference is rounding: small beside the outputs, and beside the effect."""
        if not math.isfinite(self.error):
            return False
        limit = (EXACT if self.exact else ROUGH) * self.scale
        floor = (1e-13 if self.exact else 1e-6) * self.scale
        return self.error <= max(floor, min(limit, 1e-3 * self.effect))


@dataclass(eq=False)
class Reference:
    """Outputs of the masked and the dense model on some examples, to compare others with."""

    inputs: list[tuple[tuple[Any, ...], dict[str, Any]]]
    masked: list[list[Tensor]]
    effect: float
    exact: bool
    drawn: Callable[[], AbstractContextManager[None]] = nullcontext

    def compare(self, model: nn.Module) -> Proof:
        """Run a model on the same examples; whatever it raises goes through."""
        error, scale = 0.0, 0.0
        with quiet(), evaluating(model), at_precision(self.exact):
            for (args, kwargs), want in zip(self.inputs, self.masked, strict=True):
                with self.drawn():
                    got = outputs_of(model(*copied(args), **copied(kwargs)))
                error = max(error, difference(got, want))
                scale = max([scale, *(_top(t) for t in want)])
                if not math.isfinite(error) or error > ROUGH * scale:
                    break  # nothing that follows could mend it
        return Proof(error, scale, self.effect, self.exact)


def reference(
    w: Walk,
    example: tuple[tuple[Any, ...], dict[str, Any]],
    gone: np.ndarray,
    roles: dict[Any, str],
    watch: Callable[..., None] | None = None,
) -> Reference:
    """Run the graph dense and masked, in float64 where every operator has a kernel for it."""
    try:
        return _reference(w, example, gone, roles, watch, True)
    except (NotImplementedError, RuntimeError):  # no kernel for float64; another error comes again
        return _reference(w, example, gone, roles, watch, False)


def _reference(w: Walk, example: Any, gone: Any, roles: Any, watch: Any, exact: bool) -> Reference:
    tensors = tensors_of(w.traced.model)
    silent = silenced(w, tensors, gone, roles)
    inputs: list[Any] = []
    masked: list[list[Tensor]] = []
    effect = 0.0
    with quiet(), evaluating(w.traced.model), at_precision(exact):
        for args, kwargs in variations(example):
            args, kwargs = promoted_all((args, kwargs)) if exact else (args, kwargs)
            flat = pytree.tree_leaves((args, kwargs))
            with drawn(w):
                out = run_graph(
                    w, silent, flat, gone=gone, double=exact, watch=None if inputs else watch
                )
            if inputs and not all(torch.isfinite(t).all() for t in out if t.is_floating_point()):
                continue  # the variation left the model's domain
            inputs.append((args, kwargs))
            masked.append(out)
            if effect == 0:  # one example on which the mask changes something will do
                with drawn(w):
                    dense = run_graph(w, tensors, flat, double=exact)
                effect = difference(out, dense)
                if len(inputs) == 1:
                    _same(w, args, kwargs, dense, exact)
    return Reference(inputs, masked, effect, exact, partial(drawn, w))


def _same(w: Walk, args: Any, kwargs: Any, dense: list[Tensor], exact: bool) -> None:
    """Raise unless the model's own Python computes what its graph does."""
    twin = copy_of(w.traced.model)
    twin = twin.double() if exact else twin
    with drawn(w):
        got = outputs_of(twin(*copied(args), **copied(kwargs)))
    scale = max([0.0, *(_top(t) for t in dense)])
    error = difference(got, dense)
    if exact and EXACT * scale < error <= ROUGH * scale:
        raise NotImplementedError("constants of the graph are float32: compare in float32")
    if not Proof(error, scale, scale, exact).holds:
        raise GraphError(
            "`model` does not compute what its exported graph does: outputs differ by "
            f"{error:.1e} (of at most {scale:.1e}). Does it draw random numbers, or keep a state "
            "between calls? Nothing that is cut from it could be checked."
        )


def variations(example: tuple[tuple[Any, ...], dict[str, Any]]) -> Iterator[Any]:
    """Yield the example itself, and others like it, until there are at least eight.

    Floating-point numbers are drawn anew with the example's mean and spread, whole numbers are
    shuffled; masks (0 and 1, booleans, infinities) stay.
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
    """Return max|got − want| over all tensors; infinite if they do not even have the same shapes."""
    if len(got) != len(want) or any(a.shape != b.shape for a, b in zip(got, want, strict=True)):
        return math.inf
    worst = 0.0
    for a, b in zip(got, want, strict=True):
        if not a.is_floating_point() and not a.is_complex():
            delta = float((a != b).any())
        elif a.numel():
            same = (a == b) | (a.isnan() & b.isnan())  # infinities of a mask
            delta = float(torch.where(same, 0, (a - b).abs()).max())
            delta = math.inf if math.isnan(delta) else delta
        else:
            delta = 0.0
        worst = max(worst, delta)
    return worst


def _top(t: Tensor) -> float:
    t = t[torch.isfinite(t)] if t.is_floating_point() else t
    return float(t.abs().max()) if t.numel() and t.dtype != torch.bool else 0.0


def copied(values: Any) -> Any:
    """Copy all tensors within: a model may write into its input."""
    return pytree.tree_map(lambda v: v.clone() if isinstance(v, Tensor) else v, values)


def promoted_all(values: Any) -> Any:
    """All floating-point tensors within in float64."""
    return pytree.tree_map(promoted, values)


class _Double(TorchFunctionMode):
    """Compute in float64 even where the code asks for a smaller type, or for none.

    Not by torch's default type: that is the same in all threads, and another one may be training.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("float", "half", "bfloat16") and args and isinstance(args[0], Tensor):
            return args[0].double()
        args, kwargs = promoted_types(tuple(args)), promoted_types(dict(kwargs or {}))
        return promoted_all(func(*args, **kwargs))


@contextmanager
def at_precision(exact: bool) -> Iterator[None]:
    """Make float64 the type of everything inside, if `exact`; in this thread alone.

    >>> with at_precision(True):
    ...     torch.zeros(1).dtype, (torch.arange(3) / 2).dtype, torch.arange(3).dtype
    (torch.float64, torch.float64, torch.int64)
    """
    with _Double() if exact else nullcontext():
        yield


def drawn(w: Walk) -> AbstractContextManager[None]:
    """Seed what the model draws, so that two runs draw the same; touch nothing if it draws nothing."""
    return seeded(0) if any(draws(n) for n in w.traced.live) else nullcontext()


def draws(node: Node) -> bool:
    """Tell whether an operator draws random numbers: a dropout that is switched off draws none."""
    if torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ()):
        return False
    named = node.target._schema.arguments  # type: ignore[union-attr]
    given = {a.name: a.default_value for a in named if a.has_default_value()}
    given |= {a.name: v for a, v in zip(named, node.args, strict=False)} | node.kwargs
    return not (given.get("train", given.get("training")) is False or given.get("dropout_p") == 0)

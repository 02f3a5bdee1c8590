"""What a case of the zoo says about its model, and short words to write one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Case:
    """A small model and what a correct tool can and cannot cut of it, derived by hand.

    A name of a module stands for its output units. A name that is in none of the fields may be
    cut or refused, but never wrongly cut. Tags: ``hard`` (to refuse one of `cuts` is a pity, not
    an error), ``may-refuse`` (the same for `approximate`), ``attribute`` (forward reads a size from
    an attribute that the cut must change), ``no-export`` (torch.export cannot return the output),
    ``float32`` (forward computes in float32 whatever the model's dtype), ``random`` (forward draws),
    ``nested-input`` (a list or dict among the arguments: may be refused), ``unseen`` (on the example
    input a silent unit looks constant, on other data it is not).
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    cuts: tuple[str, ...] = ()
    approximate: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    together: tuple[frozenset[str], ...] = ()
    program: bool = False  # to cut one of `cuts` needs the exported program
    tags: tuple[str, ...] = ()


def stir(model: nn.Module) -> nn.Module:
    """Give biases, norms and running statistics values that are neither 0 nor 1."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.3)
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 1.5)
    return model


def register(cases: list[Case]) -> Callable[..., Any]:
    """Make a decorator that turns a function which builds a model into a case of that list."""

    def case(
        inputs: Callable[[], Any],
        *,
        name: str = "",
        together: str | tuple[str, ...] = (),
        **says: Any,
    ) -> Callable[..., Any]:
        def add(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
            lists = {k: tuple(v.split()) if isinstance(v, str) else v for k, v in says.items()}
            groups = (together,) if isinstance(together, str) else together
            cases.append(
                Case(
                    name or build.__name__.replace("_", "-"),
                    lambda: stir(build()),
                    inputs,
                    together=tuple(frozenset(group.split()) for group in groups),
                    **lists,
                )
            )
            return build

        return add

    return case


def net(forward: Callable[..., Any], **parts: Any) -> nn.Module:
    """Make a module with that forward; tensors among its parts become buffers."""
    model = type("Net", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
            model.register_buffer(name, part)
        else:
            setattr(model, name, part)
    return model


def param(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / shape[-1] ** 0.5)


def vector(size: int = 12) -> Callable[[], torch.Tensor]:
    return lambda: torch.randn(2, size)


def tokens(count: int = 6, size: int = 16) -> Callable[[], torch.Tensor]:
    return lambda: torch.randn(2, count, size)


def image(channels: int = 3, side: int = 8) -> Callable[[], torch.Tensor]:
    return lambda: torch.randn(2, channels, side, side)


def ids(count: int = 6, vocabulary: int = 20) -> Callable[[], torch.Tensor]:
    return lambda: torch.randint(vocabulary, (2, count))


def gap(x: torch.Tensor) -> torch.Tensor:
    return x.mean((2, 3))

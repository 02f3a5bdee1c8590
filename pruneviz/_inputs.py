"""Example inputs: a tensor, a tuple of arguments, or a dict of keyword arguments."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pruneviz.types import ArgumentError


def arguments(example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return (positional, keyword) arguments for the model's forward, or raise.

    >>> import torch
    >>> arguments(torch.zeros(2))
    ((tensor([0., 0.]),), {})
    """
    if isinstance(example_input, Tensor):
        return (example_input,), {}
    if isinstance(example_input, (tuple, list)):
        args, kwargs = tuple(example_input), {}
    elif isinstance(example_input, Mapping):
        args, kwargs = (), dict(example_input)
    else:
        raise _wrong(f"a {type(example_input).__name__} was passed")
    if not any(isinstance(v, Tensor) for v in tree_leaves((args, kwargs))):
        raise _wrong(f"a {type(example_input).__name__} without a tensor was passed")
    return args, kwargs


def one_example(example_input: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments cut to the first example: the first dimension is that of the examples.

    >>> import torch
    >>> one_example(torch.zeros(2, 3))[0][0].shape
    torch.Size([1, 3])
    """
    args, kwargs = arguments(example_input)
    first = next(v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor))
    if first.ndim == 0 or first.shape[0] == 0:
        raise _wrong(f"the first tensor has shape {tuple(first.shape)}: it holds no example")
    n = first.shape[0]

    def cut(v: Any) -> Any:
        return v[:1] if isinstance(v, Tensor) and v.ndim and v.shape[0] == n else v

    return tree_map(cut, (args, kwargs))


def run(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the model; an error of its forward becomes one that names the shapes it was given."""
    device = next((t.device for t in (*model.parameters(), *model.buffers())), None)

    def move(v: Any) -> Any:
        return v.to(device) if isinstance(v, Tensor) and device is not None else v

    try:
        args, kwargs = tree_map(move, (args, kwargs))
        return model(*args, **kwargs)
    except Exception as e:
        given = [*map(_shape, args), *(f"{k}={_shape(v)}" for k, v in kwargs.items())]
        text = str(e).strip().splitlines() or [""]
        raise ArgumentError(
            f"`model` ({type(model).__name__}) could not run on one example of `example_input`, "
            f"{', '.join(given)}: {type(e).__name__}: {text[0][:200]} "
            "(the first dimension must be that of the examples)."
        ) from e


def _shape(v: Any) -> str:
    if isinstance(v, Tensor):
        return f"{str(v.dtype).removeprefix('torch.')}{list(v.shape)}"
    return type(v).__name__


def _wrong(got: str) -> ArgumentError:
    return ArgumentError(
        "`example_input` must be a tensor, a tuple of arguments or a dict of keyword arguments, "
        f"its first dimension the examples, but {got}."
    )

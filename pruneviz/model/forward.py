"""How is a model's forward run? Example inputs, copies, outputs, and no logs or warnings."""

from __future__ import annotations

import copy
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves, tree_map_only

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, first_line
from pruneviz.model.hooks import evaluating, is_in_background, no_fast_path, switch_for_all_threads
from pruneviz.model.weights import check_masks_are_ours, computed_weights


def arguments(
    example_input: Any, name: str = "`example_input`"
) -> tuple[tuple[Any, ...], dict[str, Any]]:
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
        raise wrong_input(f"{checks.described(example_input)} was passed", name)
    if not any(isinstance(v, Tensor) for v in tree_leaves((args, kwargs))):
        raise wrong_input(f"{checks.described(example_input)} without a tensor was passed", name)
    return args, kwargs


def run_forward(
    model: nn.Module,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    place: str = "one example of `example_input`",
) -> Any:
    """Run the model; if its forward raises, raise an error with the shapes of the arguments."""
    try:
        device = device_of(model)
        kwargs = moved(kwargs, device) if kwargs else kwargs
        return model(*(moved(v, device) for v in args), **kwargs)
    except Exception as e:
        given = [*map(shape_text, args), *(f"{k}={shape_text(v)}" for k, v in kwargs.items())]
        raise ArgumentError(
            f"`model` ({type(model).__name__}) could not run on {place}, "
            f"{', '.join(given)}: {type(e).__name__}: {first_line(e)[:200]} "
            f"({_advice(model, [*args, *kwargs.values()], str(e))})."
        ) from e


def _advice(model: nn.Module, inputs: list[Any], error: str) -> str:
    """Return what to change, if the inputs look as if they were prepared for another model."""
    floats = [p.dtype for p in model.parameters() if p.is_floating_point()]
    tensors = [t for t in inputs if isinstance(t, Tensor)]
    dtype = str(floats[0]) if floats else "torch.float32"
    others = [t for t in tensors if t.dtype not in floats and t.dtype != torch.bool]
    if others and re.search(r"type|Byte|Char|Long|Int|Double|Half", error):
        return f"its weights are {dtype}: pass x.to({dtype}), scaled as in training"
    if "channels" in error and any(t.ndim > 2 and t.shape[-1] <= 4 < t.shape[1] for t in tensors):
        return "channels come before height and width: pass x.movedim(-1, 1)"
    if "is not compatible with input tensor's size" in error:
        return "its forward calls view: pass x.contiguous(), or let it call reshape"
    return "the first dimension must be that of the examples"


def device_of(model: nn.Module) -> torch.device | None:
    """Return the device of a model; None if it has no tensors."""
    return next((t.device for t in chain(model.parameters(), model.buffers())), None)


def moved(values: Any, device: torch.device | None) -> Any:
    """Return values with their tensors on a device; None: where they are."""
    if device is None or isinstance(values, Tensor):  # the usual case: no tree to walk through
        return values if device is None else values.to(device)
    return tree_map_only(Tensor, lambda v: v.to(device), values)


def shape_text(v: Any) -> str:
    """Return the dtype and shape of a tensor, or the type of anything else."""
    if isinstance(v, Tensor):
        return f"{str(v.dtype).removeprefix('torch.')}{list(v.shape)}"
    return type(v).__name__


def wrong_input(got: str, name: str = "`example_input`") -> ArgumentError:
    """Return the error that says what inputs must be."""
    return ArgumentError(
        f"{name} must be a tensor, a tuple of arguments or a dict of keyword arguments, "
        f"its first dimension the examples, but {got}."
    )


def copy_of(model: nn.Module) -> nn.Module:
    """Return a copy of the model that shares nothing with it, parametrizations included.

    Raises
    ------
    ArgumentError
        If the model cannot be copied.

    Examples
    --------
    >>> a = nn.Linear(2, 1)
    >>> b = copy_of(a)
    >>> b.weight is a.weight, bool((b.weight == a.weight).all())
    (False, True)
    """
    checks.model(model)
    try:
        # torch warns of its own way to copy a program; the other thread's warnings are left alone
        program = isinstance(model, GraphModule) and not is_in_background()
        # a copy made inside inference mode could never be trained
        with torch.inference_mode(False), _silence() if program else nullcontext():
            new = copy.deepcopy(model)
            # a module may cache what its forward computed from the weights (timm's tables of
            # attention biases). In a copy whose weights change that is wrong; `_apply` clears it
            new._apply(_same)
    except (RuntimeError, TypeError) as e:
        check_masks_are_ours(model)
        for layer, (kind, remove) in computed_weights(model).items():
            if "remove_parametrizations" not in remove:  # of the old kind
                raise ArgumentError(
                    f"`model` cannot be copied, because {kind} of the old kind keeps the weight of "
                    f"layer {layer or type(model).__name__!r} as a result. Take it off first: {remove}."
                ) from e
        raise ArgumentError(
            f"`model` cannot be copied ({e}). Only parameters and buffers may be tensors of a model: "
            "move what forward computed out of its attributes, or detach it."
        ) from e
    for module in new.modules():
        if parametrize.is_parametrized(module):
            # torch gives each parametrized module a class of its own, but a deep copy shares it:
            # removing a parametrization from the copy would remove the property from the original
            cls = type(module)
            module.__class__ = type(cls.__name__, cls.__bases__, dict(cls.__dict__))
    return new


def _same(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def copied_inputs(values: Any, model: nn.Module) -> Any:
    """Copy all tensors in `values` to the model's device, as ordinary tensors in any mode; or raise."""
    if any(isinstance(v, Tensor) and v.is_meta for v in tree_leaves(values)):
        raise ArgumentError(
            "`example_input` holds a tensor on the device 'meta': it has a shape, but no numbers. Make "
            "it on another device: torch.zeros(shape)."
        )
    return moved(tree_map_only(Tensor, lambda v: v.detach().clone(), values), device_of(model))


@contextmanager
def quiet() -> Iterator[None]:
    """Run attention as single operators, and suppress torch's logs and warnings.

    Inside an `in_background` block logs and warnings are not suppressed: all threads share them.
    """
    with no_fast_path(), nullcontext() if is_in_background() else _silence():
        yield


@switch_for_all_threads
def _silence() -> Iterator[None]:
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def check_runs(model: nn.Module, example_input: Any) -> None:
    """Raise an ArgumentError, with the shapes of the arguments, if a model fails on its example."""
    model = checks.unwrapped(model)
    with quiet(), torch.inference_mode(False), evaluating(model):
        model_copy = copy_of(model)
        with evaluating(model_copy):
            run_forward(model_copy, *copied_inputs(arguments(example_input), model_copy))

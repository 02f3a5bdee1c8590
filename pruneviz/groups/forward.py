"""A model's forward: what goes in, what comes out, and running it in quiet."""

from __future__ import annotations

import dataclasses
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from pruneviz import _check
from pruneviz._copy import copy_of
from pruneviz._inputs import arguments, run
from pruneviz.hooks import evaluating, is_beside, no_fast_path, turned


def outputs_of(output: Any) -> list[Tensor]:
    """All tensors of a model's output, in a fixed order, whatever holds them.

    >>> outputs_of({"a": torch.zeros(2), "b": [torch.ones(1), None]})
    [tensor([0., 0.]), tensor([1.])]
    """
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        parts = list(output.values())
    elif isinstance(output, (tuple, list)):
        parts = list(output)
    elif dataclasses.is_dataclass(output) or hasattr(output, "__dict__"):
        parts = list(vars(output).values())
    else:
        parts = []
    return [t for part in parts for t in outputs_of(part)]


def plain(values: Any, model: nn.Module) -> Any:
    """Copy all tensors within, to the model's device: ordinary ones under any mode."""
    device = next((t.device for t in (*model.parameters(), *model.buffers())), None)

    def copied(v: Any) -> Any:
        return v.detach().clone().to(device) if isinstance(v, Tensor) else v

    return pytree.tree_map(copied, values)


@contextmanager
def quiet() -> Iterator[None]:
    """Run attention as single operators, and keep what torch logs and warns of to itself.

    Beside another thread (see `hooks.beside`) its logs and warnings stay as they are: they are the
    same in all threads.
    """
    with no_fast_path(), nullcontext() if is_beside() else _silence():
        yield


@turned
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
    """Raise an ArgumentError, with the shapes it was given, if a model cannot run on its example."""
    model = _check.unwrapped(model)
    with quiet(), torch.inference_mode(False), evaluating(model):
        twin = copy_of(model)
        with evaluating(twin):
            run(twin, *plain(arguments(example_input), twin))

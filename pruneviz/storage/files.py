"""How a model is saved and loaded: tensors in safetensors, its cuts as JSON; no pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule

from pruneviz._version import VERSION
from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, GraphError
from pruneviz.core.strict_json import whole
from pruneviz.core.tensor_file import DAMAGED, TensorFile, damage, opened, write_tensors
from pruneviz.core.whole_file import checked_path
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import plain_torch
from pruneviz.model.tensors import tensors_by_name
from pruneviz.model.weights import weight_places
from pruneviz.pruning.surgery.cut import cut, cuts_of, record_cut
from pruneviz.storage.cut_json import cut_from_json, cut_to_json
from pruneviz.storage.loadable import check_loadable
from pruneviz.storage.packing import CSR, compressed, decompressed

VERSION_OF_FILES = 3  # 1 and 2 have no checksum
CSR_PARTS = ("crow", "col", "value")


@plain_torch()
def save(model: nn.Module, path: str | Path, *, encoding: str = "dense") -> None:
    """Write a model to one file: its tensors, and what `shrink` removed from it.

    Parameters
    ----------
    model : nn.Module
        From `shrink` or `prune`, trained further or not, also after several cuts. A model without
        cuts can be saved, too, and a program (`shrink` with ``as_program=True``). Not changed.
    path : str or Path
        A safetensors file, such as ``"small.safetensors"``; written completely or not at all, with
        a checksum. A link stays a link.
    encoding : str
        ``"dense"``, or ``"csr_int64"``, ``"csr_int32"``, ``"csr_int16"``: every weight as compressed
        sparse rows, without its zeros. `encodings` returns the bytes beforehand. `load` returns
        equal numbers.

    Raises
    ------
    ArgumentError
        If `load` could not restore the model: it has masks or CSR layers, or was cut by another tool. If the indices of a weight do not fit, or the file cannot be
        written.

    Examples
    --------
    >>> import tempfile, torch, pruneviz as pv
    >>> def build():
    ...     return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.randn(3, 4)
    >>> small = pv.prune(build(), x, sparsity=0.5)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pv.save(small, f"{folder}/small.safetensors")
    ...     again = pv.load(f"{folder}/small.safetensors", build)
    >>> bool(torch.equal(again(x), small(x)))
    True
    """
    checks.choice(encoding, "encoding", ("dense", *CSR))
    path = checked_path(path, "small.safetensors")
    model = checks.unwrapped(model)
    check_loadable(model)
    write_tensors(path, *contents(model, encoding))


def contents(model: nn.Module, encoding: str = "dense") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return what `save` writes: tensors by name, and the head with the cuts."""
    first: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise ArgumentError(f"state_dict entry {name!r} is not a tensor and cannot be saved.")
        first_name = first.setdefault(id(value), name)
        if first_name == name:
            tensors[name] = value.detach().cpu().contiguous().clone()
        else:
            aliases[name] = first_name
    data = {"version": VERSION_OF_FILES, "by": VERSION, "cuts": _cuts(model), "aliases": aliases}
    if isinstance(model, GraphModule):
        data |= {"program": True}
    if encoding != "dense":
        names = [n for n in weight_places(model) if n in tensors]
        data |= {"csr": {n: tuple(tensors[n].shape) for n in names}}
        for name in names:
            tensors |= _as_csr(name, tensors.pop(name), encoding)
    return tensors, data


def _cuts(model: nn.Module) -> list[dict[str, Any]]:
    return [cut_to_json(c, set(tensors_by_name(model))) for c in cuts_of(model)]


@plain_torch()
def load(path: str | Path, build: Callable[[], nn.Module]) -> nn.Module:
    """Build the original model, cut it as the saved one was cut, and load the saved tensors.

    A file may come from anybody: nothing is unpickled, and nothing in it is believed. The file holds
    tensors and JSON; it may make tensors and integer sizes of the built model smaller, and fill them
    with numbers. All sizes are compared with those of the model before memory is taken for them, and
    the checksum before the numbers are used. Files of early versions of pruneviz have no checksum;
    they are loaded with all other checks.

    Parameters
    ----------
    path : str or Path
        From `save`.
    build : callable
        Returns the model as it was before it was shrunk. Its weights do not matter. For a program: the
        program of such a model, cut by the same plan, such as ``lambda: pv.shrink(Net(), plan,
        example_input=x, as_program=True)``; a plan is kept by ``Plan.to_json``.

    Returns
    -------
    nn.Module
        A new model, in the mode, with the dtypes and on the device that `build` chose.

    Raises
    ------
    ArgumentError
        If the file is missing or damaged, or `build` returns another model.

    Examples
    --------
    See `save`.
    """
    if isinstance(build, nn.Module) or not callable(build):
        raise ArgumentError(
            "`build` must be a function that returns the model before it was shrunk, such as the "
            f"class Net or lambda: Net(10), but {type(build).__name__} was passed."
        )
    path = checked_path(path, "small.safetensors")
    if not path.is_file():
        raise ArgumentError(f"`path` {str(path)!r} is not a file. Write one: pv.save(model, path).")
    with ExitStack() as stack:
        with _in_words(path):
            file = stack.enter_context(opened(path, version=VERSION_OF_FILES))
            _check_version(file.head, path)
        model = copy_of(checks.kind(build(), "build()", nn.Module, "Return the model."))
        if any(isinstance(t, Tensor) and t.is_meta for t in model.state_dict().values()):
            raise ArgumentError(
                "`build` makes a model on the device 'meta', which holds no numbers. Let it make one on "
                "the CPU, and move that: pv.load(path, build).to(device)."
            )
        with _in_words(path):
            _restore(model, file)
    return model


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Say of what a file makes us raise that it is damaged, or of another model."""
    try:
        yield
    except ArgumentError:
        raise
    except GraphError as e:
        raise ArgumentError(f"`build` makes another model than the saved one: {e}.") from e
    except DAMAGED as e:
        raise ArgumentError(
            f"{str(path)!r} is damaged ({damage(e)}). Write it anew: pv.save(model, path)."
        ) from e


def _check_version(head: Any, path: Path) -> None:
    if head is None:
        raise ArgumentError(f"{str(path)!r} was not written by pv.save: it holds no cuts.")
    if whole(head["version"], 1) > VERSION_OF_FILES:
        by = str(head["by"])[:40]
        raise ArgumentError(
            f"{str(path)!r} was written by a newer pruneviz ({by}): update this one."
        )


def _restore(model: nn.Module, file: TensorFile) -> None:
    """Cut a model as the saved one was cut, and load the saved tensors; in place."""
    if bool(file.head.get("program", False)) or isinstance(model, GraphModule):
        _check_program(model, file.head)
    for record in [] if isinstance(model, GraphModule) else file.head["cuts"]:
        what = cut_from_json(record, model)
        cut(model, what)
        record_cut(model, what, model)
    shapes = _csr_shapes(file.head.get("csr", {}), model)
    aliases = file.head["aliases"]
    _check_entries(file, model.state_dict(keep_vars=True), shapes, aliases)
    tensors = file.tensors()  # not before all sizes are known to be those of the model
    for name, shape in shapes.items():
        crow, col, value = (tensors.pop(f"{name}.{part}") for part in CSR_PARTS)
        tensors[name] = decompressed(crow, col, value, math.prod(shape[1:])).reshape(shape)
    model.load_state_dict(tensors | {name: tensors[other] for name, other in aliases.items()})


def _check_program(model: nn.Module, head: Mapping[str, Any]) -> None:
    """Raise unless both are programs, and cut alike: the graph of another one has other sizes."""
    if isinstance(model, GraphModule) and head.get("program") is True:
        if json.loads(json.dumps(_cuts(model))) == head["cuts"]:
            return
        raise GraphError("a program that was cut by another plan. Pass the plan of the saved one")
    saved, built = ("a program", "none") if head.get("program") else ("no program", "one")
    raise ArgumentError(
        f"{saved} was saved, but `build` returns {built}. Let it return what was saved: of a program, "
        "lambda: pv.shrink(Net(), plan, example_input=x, as_program=True) with the same plan."
    )


def _csr_shapes(shapes: Mapping[str, Any], model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights that are stored as compressed sparse rows."""
    state = model.state_dict(keep_vars=True)
    found = {name: tuple(whole(n) for n in shape) for name, shape in shapes.items()}
    for name, shape in found.items():
        here = tuple(state[name].shape) if name in state else None
        if here != shape:
            raise GraphError(_differs(name, shape, here))
        if len(shape) < 2:
            raise ValueError(f"{name!r} is no matrix that could have sparse rows")
    return found


def _check_entries(
    file: TensorFile,
    state: Mapping[str, Tensor],
    csr: Mapping[str, Any],
    aliases: Mapping[str, str],
) -> None:
    """Raise unless the file holds exactly the tensors of the model, by name, dtype and shape."""
    expected = {n: (t.dtype, tuple(t.shape)) for n, t in state.items() if n not in aliases}
    entries = dict(file.entries)
    for name, shape in csr.items():
        parts = [entries.pop(f"{name}.{part}") for part in CSR_PARTS]
        (crow, starts), (col, columns), (dtype, values) = parts
        stored = math.prod(values)
        if starts != (shape[0] + 1,) or columns != values or len(values) != 1:
            raise ValueError(f"rows, columns and values of {name!r} do not fit one another")
        if crow != col or crow not in CSR.values() or stored > math.prod(shape):
            raise ValueError(f"the columns of {name!r} are no indices, or too many")
        entries[name] = dtype, shape
    for name, other in aliases.items():
        if name not in state or other not in entries:
            raise GraphError(f"it has no tensor {name!r} that is also {str(other)[:80]!r}")
    for name in [*expected, *entries]:
        here, there = expected.get(name), entries.get(name)
        if here != there:
            smaller = not file.head["cuts"] and here and there and here[0] == there[0]
            hint = ". If another tool made it smaller, let `build` return the smaller model"
            raise GraphError(_differs(name, there, here) + (hint if smaller else ""))


def _differs(name: str, there: Any, here: Any) -> str:
    def text(entry: Any) -> str:
        if entry is None:
            return "missing"
        dtype, shape = entry if len(entry) == 2 and isinstance(entry[1], tuple) else ("", entry)
        return f"{str(dtype).removeprefix('torch.')}{list(shape)}"

    return f"{name!r} is {text(there)} in the file and {text(here)} in the model"


def _as_csr(name: str, weight: Tensor, encoding: str) -> dict[str, Tensor]:
    try:
        parts = compressed(weight.flatten(1), CSR[encoding])
    except ArgumentError as e:
        raise ArgumentError(f"{name!r} cannot be written as {encoding}: {e}") from None
    return {f"{name}.{part}": t for part, t in zip(CSR_PARTS, parts, strict=True)}

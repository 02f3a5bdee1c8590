"""How a model is saved and loaded: tensors in safetensors, its cuts as JSON; no pickle."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from pruneviz._version import VERSION
from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError, GraphError
from pruneviz.core.names import unmasked_name
from pruneviz.core.plan_json import deflated, inflated
from pruneviz.core.tensor_file import DAMAGED, read_tensors, write_tensors
from pruneviz.model.forward import copy_of
from pruneviz.model.hooks import plain_torch
from pruneviz.model.tensors import tensors_by_name
from pruneviz.model.weights import Mask, weight_places
from pruneviz.pruning.shrink import CUTS_ATTRIBUTE
from pruneviz.pruning.surgery.cut import Cut, cut
from pruneviz.storage.packing import CSR, compressed, decompressed

KEY = "pruneviz"
CSR_PARTS = ("crow", "col", "value")


@plain_torch()
def save(model: nn.Module, path: str | Path, *, encoding: str = "dense") -> None:
    """Write a model to one file: its tensors, and what `shrink` removed from it.

    Parameters
    ----------
    model : nn.Module
        From `shrink` or `prune`, trained further or not, also after several cuts. A model without
        cuts can be saved, too. Not changed.
    path : str or Path
        A safetensors file, such as ``"small.safetensors"``; written completely or not at all.
    encoding : str
        ``"dense"``, or ``"csr_int64"``, ``"csr_int32"``, ``"csr_int16"``: every weight as compressed
        sparse rows, without its zeros. `encodings` returns the bytes beforehand. `load` returns
        equal numbers.

    Raises
    ------
    ArgumentError
        If the model is a shrunken program or has a mask, the indices of a weight do not fit, or the
        file cannot be written.

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
    tensors, metadata = contents(model, encoding)
    write_tensors(path, tensors, metadata)


def contents(model: nn.Module, encoding: str = "dense") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return what `save` writes: tensors by name, and the metadata with the cuts."""
    checks.model(model)
    if hasattr(model, "graph") and hasattr(model, "code"):
        raise ArgumentError(
            "`save` writes tensors that `load` puts into a model built by its own code, but a "
            "shrunken program has no such code. Export it: "
            "torch.export.save(torch.export.export(program, args), path)."
        )
    if any(isinstance(m, Mask) for m in model.modules()):
        raise ArgumentError(
            "`model` has masks, which `load` could not restore. Turn them into plain zeros first: "
            "pv.bake(model)."
        )
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
    records = [
        _cut_to_json(c, set(tensors_by_name(model))) for c in getattr(model, CUTS_ATTRIBUTE, ())
    ]
    data = {"version": 1, "by": VERSION, "cuts": records, "aliases": aliases}
    if encoding != "dense":
        names = [n for n in weight_places(model) if n in tensors]
        data |= {"version": 2, "csr": {n: tuple(tensors[n].shape) for n in names}}
        for name in names:
            tensors |= _as_csr(name, tensors.pop(name), encoding)
    return tensors, {KEY: json.dumps(data)}


@plain_torch()
def load(path: str | Path, build: Callable[[], nn.Module]) -> nn.Module:
    """Build the original model, cut it as the saved one was cut, and load the saved tensors.

    Nothing is unpickled: the file holds tensors and JSON.

    Parameters
    ----------
    path : str or Path
        From `save`.
    build : callable
        Returns the model as it was before it was shrunk. Its weights do not matter.

    Returns
    -------
    nn.Module
        A new model, in the mode and on the device that `build` chose.

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
    path = Path(path)
    if not path.is_file():
        raise ArgumentError(f"`path` {str(path)!r} is not a file. Write one: pv.save(model, path).")
    try:
        data, tensors = read_tensors(path, KEY)
        if data is None:
            raise ArgumentError(f"{str(path)!r} was not written by pv.save: it holds no cuts.")
        if data["version"] not in (1, 2):
            raise ArgumentError(
                f"{str(path)!r} was written by a newer pruneviz ({data['by']}): update this one."
            )
        cuts = [_cut_from_json(c) for c in data["cuts"]]
        for name, shape in data.get("csr", {}).items():
            parts = [tensors.pop(f"{name}.{part}") for part in CSR_PARTS]
            tensors[name] = _from_csr(name, parts, shape)
    except ArgumentError:
        raise
    except DAMAGED as e:
        raise ArgumentError(
            f"{str(path)!r} is damaged ({e}). Write it anew: pv.save(model, path)."
        ) from e
    model = copy_of(checks.model(build()))
    for one in cuts:
        try:
            cut(model, one)
        except (GraphError, RuntimeError, IndexError) as e:
            raise ArgumentError(f"`build` makes another model than the saved one: {e}") from e
        model.__dict__[CUTS_ATTRIBUTE] = (*getattr(model, CUTS_ATTRIBUTE, ()), one)
    tensors |= {name: tensors[other] for name, other in data["aliases"].items()}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as e:
        lines = [line.strip() for line in str(e).splitlines()[1:]] or [str(e)]
        raise ArgumentError(f"`build` makes another model than the saved one: {lines[0]}") from e
    return model


def _as_csr(name: str, weight: Tensor, encoding: str) -> dict[str, Tensor]:
    try:
        parts = compressed(weight.flatten(1), CSR[encoding])
    except ArgumentError as e:
        raise ArgumentError(f"{name!r} cannot be written as {encoding}: {e}") from None
    return {f"{name}.{part}": t for part, t in zip(CSR_PARTS, parts, strict=True)}


def _from_csr(name: str, parts: list[Tensor], shape: list[int]) -> Tensor:
    crow, col, value = parts
    try:
        return decompressed(crow, col, value, math.prod(shape[1:])).reshape(shape)
    except (ValueError, RuntimeError) as e:
        raise ArgumentError(
            f"{name!r} is damaged in the file ({e}). Write it anew: pv.save(model, path)."
        ) from e


def _cut_to_json(what: Cut, known: set[str]) -> dict[str, Any]:
    """Return a cut as JSON values; of tensors in `known` only."""
    keep = [
        {"tensor": unmasked_name(name), "dim": dim, "blocks": blocks, "size": k.size,
         "bits": deflated(np.packbits(k))}
        for name, dim, blocks, k in what.keep
        if unmasked_name(name) in known  # without masks that were baked since the cut
    ]  # fmt: skip
    return {
        "keep": keep,
        "attributes": [[*a[:2], _as_list(a[2]), type(a[2]).__name__] for a in what.attributes],
    }


def _cut_from_json(data: dict[str, Any]) -> Cut:
    """Return a cut from its JSON values."""
    keep = []
    for k in data["keep"]:
        packed = np.frombuffer(inflated(k["bits"]), np.uint8)
        bits = np.unpackbits(packed, count=k["size"]).astype(bool)
        keep.append((str(k["tensor"]), int(k["dim"]), int(k["blocks"]), bits))
    attributes = [(layer, name, tuple(v) if kind == "tuple" else v)
                  for layer, name, v, kind in data["attributes"]]  # fmt: skip
    return Cut(tuple(keep), tuple(attributes))


def _as_list(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, list)) else value

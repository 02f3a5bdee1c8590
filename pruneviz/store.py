"""Take the smaller model home: numbers in safetensors, and what was cut as text; no pickle."""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from pruneviz import _check
from pruneviz._copy import copy_of
from pruneviz._version import VERSION
from pruneviz.shrink import RECORD
from pruneviz.surgery import Cut, cut, holders_of
from pruneviz.tensors import plain
from pruneviz.types import ArgumentError, GraphError
from pruneviz.weights import Mask

KEY = "pruneviz"


def save(model: nn.Module, path: str | Path) -> None:
    """Write a model to one file: its tensors, and what `shrink` took out of it.

    Parameters
    ----------
    model : nn.Module
        From `shrink` or `prune`, trained further or not; several rounds are fine. An uncut model
        can be saved too. Not changed.
    path : str or Path
        A safetensors file, such as ``"small.safetensors"``; written whole or not at all.

    Raises
    ------
    ArgumentError
        If the model is a shrunk program or carries a mask, or the file cannot be written.

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
    _check.model(model)
    if hasattr(model, "graph") and hasattr(model, "code"):
        raise ArgumentError(
            "`save` writes what a model's own code can be filled with, but a shrunk program has no "
            "code of its own. Export it: torch.export.save(torch.export.export(program, args), path)."
        )
    if any(isinstance(m, Mask) for m in model.modules()):
        raise ArgumentError(
            "`model` carries masks, which `load` could not give back. Make the zeros plain values "
            "first: pv.bake(model)."
        )
    first: dict[int, str] = {}
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor):
            raise ArgumentError(f"state_dict entry {name!r} is no tensor: it cannot be saved.")
        same = first.setdefault(id(value), name)
        if same == name:
            tensors[name] = value.detach().cpu().contiguous().clone()
        else:
            aliases[name] = same
    known = {plain(name) for name in holders_of(model)}
    records = [_packed(c, known) for c in getattr(model, RECORD, ())]
    text = json.dumps({"version": 1, "by": VERSION, "cuts": records, "aliases": aliases})
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        save_file(tensors, part, metadata={KEY: text})
        part.replace(path)
    except (OSError, SafetensorError) as e:
        raise ArgumentError(f"`path` {str(path)!r} cannot be written: {e}.") from e
    finally:
        part.unlink(missing_ok=True)


def load(path: str | Path, build: Callable[[], nn.Module]) -> nn.Module:
    """Build the original model anew, cut it as the saved one was, and fill in the saved numbers.

    Nothing is unpickled: the file holds numbers and text.

    Parameters
    ----------
    path : str or Path
        From `save`.
    build : callable
        Returns the model as it was before it was shrunk; its numbers do not matter.

    Returns
    -------
    nn.Module
        In the mode, and on the device, in which `build` made it.

    Raises
    ------
    ArgumentError
        If the file is not there, is damaged, or `build` makes another model.

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
        with safe_open(path, framework="pt") as f:
            text = (f.metadata() or {}).get(KEY)
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
        if text is None:
            raise ArgumentError(
                f"{str(path)!r} was not written by pv.save: it says nothing of cuts."
            )
        data = json.loads(text)
        if data["version"] != 1:
            raise ArgumentError(
                f"{str(path)!r} is of a newer pruneviz ({data['by']}): update this one."
            )
        cuts = [_unpacked(c) for c in data["cuts"]]
    except (
        SafetensorError,
        json.JSONDecodeError,
        KeyError,
        TypeError,
        zlib.error,
        binascii.Error,
    ) as e:
        raise ArgumentError(
            f"{str(path)!r} is damaged ({e}). Write it anew: pv.save(model, path)."
        ) from e
    model = copy_of(_check.model(build()))
    for what in cuts:
        try:
            cut(model, what)
        except (GraphError, RuntimeError, IndexError) as e:
            raise ArgumentError(f"`build` makes another model than the saved one: {e}") from e
        model.__dict__[RECORD] = (*getattr(model, RECORD, ()), what)
    tensors |= {name: tensors[other] for name, other in data["aliases"].items()}
    try:
        model.load_state_dict(tensors)
    except RuntimeError as e:
        lines = [line.strip() for line in str(e).splitlines()[1:]] or [str(e)]
        raise ArgumentError(f"`build` makes another model than the saved one: {lines[0]}") from e
    return model


def _packed(what: Cut, known: set[str]) -> dict[str, Any]:
    keep = [
        {"tensor": plain(name), "dim": dim, "blocks": blocks, "size": k.size,
         "bits": base64.b64encode(zlib.compress(np.packbits(k).tobytes(), 9)).decode()}
        for name, dim, blocks, k in what.keep
        if plain(name) in known  # not what a mask kept that is baked by now
    ]  # fmt: skip
    return {
        "keep": keep,
        "attributes": [[*a[:2], _plain(a[2]), type(a[2]).__name__] for a in what.attributes],
    }


def _unpacked(data: dict[str, Any]) -> Cut:
    keep = []
    for k in data["keep"]:
        raw = zlib.decompress(base64.b64decode(k["bits"], validate=True))
        bits = np.unpackbits(np.frombuffer(raw, np.uint8), count=k["size"]).astype(bool)
        keep.append((str(k["tensor"]), int(k["dim"]), int(k["blocks"]), bits))
    attributes = [(layer, name, tuple(v) if kind == "tuple" else v)
                  for layer, name, v, kind in data["attributes"]]  # fmt: skip
    return Cut(tuple(keep), tuple(attributes))


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, (tuple, list)) else value

"""How are tensors kept in a file? In the format of safetensors, with a head in JSON; no pickle."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pruneviz.core.errors import ArgumentError

# what reading a damaged file, or the values of its head, may raise
DAMAGED = (SafetensorError, OSError, zlib.error, KeyError, TypeError, ValueError)


def write_tensors(
    path: str | Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write tensors by name, and texts by name, to one file: completely or not at all.

    Raises
    ------
    ArgumentError
        If the file cannot be written.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    try:
        save_file(tensors, part, metadata=metadata)
        part.replace(path)
    except (OSError, SafetensorError) as e:
        raise ArgumentError(f"`path` {str(path)!r} cannot be written: {e}.") from e
    finally:
        part.unlink(missing_ok=True)


def read_tensors(path: str | Path, head: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Return the JSON that a file holds under the name `head`, or None, and its tensors by name.

    Examples
    --------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(f"{folder}/t", {"a": torch.zeros(2)}, {"head": "[1, 2]"})
    ...     read_tensors(f"{folder}/t", "head")
    ([1, 2], {'a': tensor([0., 0.])})
    """
    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(head)
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
    return None if text is None else json.loads(text), tensors

"""How are tensors kept in a file? In the format of safetensors, with a head in JSON; no pickle."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from pruneviz.core import strict_json
from pruneviz.core.errors import first_line
from pruneviz.core.whole_file import checked_path, write_whole

# what reading a damaged file, or the values of its head, may raise
DAMAGED = (SafetensorError, OSError, zlib.error, LookupError, TypeError, ValueError,
           AttributeError, ArithmeticError, RuntimeError, MemoryError)  # fmt: skip
KEY, CHECKSUM = "pruneviz", "checksum"
NAMES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
         "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
         "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
         "BOOL": torch.bool, "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn,
         "F8_E5M2": torch.float8_e5m2, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
         "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "F8_E8M0": torch.float8_e8m0fnu}  # fmt: skip


def write_tensors(
    path: Any, tensors: dict[str, Tensor], head: Mapping[str, Any] | None = None, key: str = KEY
) -> None:
    """Write tensors by name, and a head of JSON values, to one file: completely or not at all.

    Raises
    ------
    ArgumentError
        If the file cannot be written.
    """
    write_whole(checked_path(path, "name.safetensors"), file_bytes(tensors, head, key))


def file_bytes(
    tensors: dict[str, Tensor], head: Mapping[str, Any] | None = None, key: str = KEY
) -> bytes:
    """Return the bytes of such a file, with the checksums of its head and its numbers."""
    entries = {name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}
    sums = f"{_head_sum(head or {}, entries)} {_data_sum(tensors)}"
    # one text, because safetensors writes several in any order
    texts = {CHECKSUM: sums} if head is None else {key: json.dumps({**head, CHECKSUM: sums})}
    return serialised(tensors, metadata=texts)


@dataclass(frozen=True, eq=False)
class TensorFile:
    """An open file of tensors, of which only the head has been read.

    Parameters
    ----------
    head : dict of JSON values
        Without the checksum; None if there is no head.
    entries : mapping of str to (dtype, shape)
        The tensors, by name. An unusual dtype is given by its name in the file, such as ``"F8_E4M3"``.
    file : safe_open
    data_sum : str
        Checksum of the numbers; "" if the file was written by an early pruneviz, or something else.
    """

    head: Any
    entries: Mapping[str, tuple[torch.dtype | str, tuple[int, ...]]]
    file: Any
    data_sum: str

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name; only here memory is taken for them.

        Raises
        ------
        ValueError
            If a number is not the one that was written.
        """
        found = {name: self.file.get_tensor(name) for name in self.entries}
        if self.data_sum and self.data_sum != _data_sum(found):
            raise ValueError("its checksum is that of other numbers")
        return found


@contextmanager
def opened(path: str | Path, key: str = KEY, version: int = 0) -> Iterator[TensorFile]:
    """Open a file of tensors, whose head stands under the name `key`.

    A file with a checksum must agree with it; a head of this `version` must have one. Other files,
    from early versions of pruneviz or from others, are read without.

    Examples
    --------
    >>> import tempfile, torch
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_tensors(f"{folder}/t", {"a": torch.zeros(2)}, {"of": [1, 2]})
    ...     with opened(f"{folder}/t") as file:
    ...         file.head, file.entries, file.tensors()
    ({'of': [1, 2]}, {'a': (torch.float32, (2,))}, {'a': tensor([0., 0.])})
    """
    with safe_open(path, framework="pt") as file:
        texts = file.metadata() or {}
        entries = {}
        for name in file.keys():  # noqa: SIM118, not a dict
            part = file.get_slice(name)
            dtype = part.get_dtype()
            entries[name] = (NAMES.get(dtype, dtype), tuple(part.get_shape()))
        head = strict_json.parsed(texts[key]) if key in texts else None
        if head is not None and not isinstance(head, dict):
            raise ValueError("its head is no mapping")
        sums = str((texts if head is None else head).get(CHECKSUM, ""))
        plain = {k: v for k, v in (head or {}).items() if k != CHECKSUM}
        head_sum, _, data_sum = sums.partition(" ")
        if sums and head_sum != _head_sum(plain, entries):
            raise ValueError("its checksum is that of another head")
        if not data_sum and (sums or (version and plain.get("version") == version)):
            raise ValueError("its checksum is missing")
        yield TensorFile(None if head is None else plain, entries, file, data_sum)


def read_tensors(
    path: str | Path, key: str = KEY, version: int = 0
) -> tuple[Any, dict[str, Tensor]]:
    """Return the head of a file, or None, and its tensors by name."""
    with opened(path, key, version) as file:
        return file.head, file.tensors()


def damage(e: BaseException) -> str:
    """Return in words what is wrong with a file, from what reading it raised.

    >>> damage(KeyError("cuts")), damage(ValueError("it is short.")), damage(TypeError("unhashable"))
    ("it lacks 'cuts'", 'it is short', 'its head is not of the form that is written')
    """
    if isinstance(e, KeyError):
        return f"it lacks {str(e.args[0])[:80]!r}"
    if isinstance(e, (ValueError, OSError, SafetensorError, zlib.error)):
        text = first_line(e).removeprefix("Error while deserializing header: ")
        return text.rstrip(".")[:200]
    if isinstance(e, MemoryError):
        return "it is too large for the memory"
    return "its head is not of the form that is written"


def _head_sum(head: Mapping[str, Any], entries: Mapping[str, Any]) -> str:
    parts = [(name, shape) for name, (_, shape) in entries.items()]
    return _sum([json.dumps(head).encode(), repr(sorted(parts)).encode()])


def _data_sum(tensors: Mapping[str, Tensor]) -> str:
    flat = (tensors[name].detach().cpu().contiguous().reshape(-1) for name in sorted(tensors))
    return _sum(p for t in flat for p in (str(t.dtype).encode(), t.view(torch.uint8).numpy().data))


def _sum(parts: Iterable[Any]) -> str:
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        total.update(part)
    return total.hexdigest()

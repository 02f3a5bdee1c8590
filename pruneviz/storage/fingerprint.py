"""How are the arguments of a long run identified? By a short hash of everything that they hold."""

from __future__ import annotations

import builtins
import copyreg
import dis
import functools
import hashlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pruneviz._version import VERSION
from pruneviz.core import checks

VARIABLE = ", its variable "
UNKNOWN = "?"  # the fingerprint of what cannot be compared
MOST_OBJECTS = 300_000  # a second of work
SCALARS = (type(None), bool, int, float, complex, str, bytes)
# run code or read names that no look at a function can find
READS = {"LOAD_GLOBAL": 0, "LOAD_NAME": 0, "IMPORT_NAME": 1, "LOAD_ATTR": 2, "LOAD_METHOD": 2,
         "IMPORT_FROM": 2}  # fmt: skip
UNSEEN = {"eval", "exec", "globals", "__import__", "import_module"}
NO_PART_OF_A_CLASS = {
    "__dict__", "__weakref__", "__slotnames__", "__doc__", "__module__", "__annotations__", "__abstractmethods__",
    "__firstlineno__", "__static_attributes__", "__parameters__", "__orig_bases__", "_abc_impl",
    "__annotate_func__", "__annotations_cache__", "__dataclass_fields__", "__dataclass_params__",
}  # fmt: skip


class CannotCompareError(ValueError):
    """Something was met that nobody can compare with what it will be in another call."""


def fingerprint(value: Any) -> str:
    """Return twelve letters that are equal for equal values and differ for others.

    Everything that a value holds is looked at: numbers, tensors, models with the code of their
    classes, the attributes of any other object; of a function its code, its defaults, the variables
    around it, and the global ones that it reads, and so on. Of installed packages only the version is
    looked at. What a function reads from files or the clock is not seen.

    Raises
    ------
    CannotCompareError
        If something cannot be compared, such as an open file, or there is too much.

    Examples
    --------
    >>> import torch
    >>> fingerprint([torch.zeros(2), "a"]) == fingerprint([torch.zeros(2), "a"])
    True
    >>> fingerprint(torch.zeros(2)) == fingerprint(torch.zeros(2, 1))
    False
    >>> fingerprint(lambda m: m + 1) == fingerprint(lambda m: m + 2)
    False
    >>> a, b = ((lambda m, n=n: m + n) for n in (1, 2))
    >>> fingerprint(a) == fingerprint(b)
    False
    """
    return _Look().fingerprint(value)


def fingerprints(values: Mapping[str, Any], path: Any) -> dict[str, str]:
    """Return the fingerprint of each argument; `UNKNOWN`, with a warning, if that is impossible.

    The variables of a function have fingerprints of their own, so that one can say which changed.
    """
    look, reasons = _Look(), []
    found: dict[str, str] = {}
    for name, value in values.items():
        try:
            found[name] = look.fingerprint(value)
            if isinstance(value, types.FunctionType):
                own = {f"{name}{VARIABLE}{n}": look.fingerprint(v) for n, v in _variables(value)}
                found |= own
        except CannotCompareError as e:
            found[name] = UNKNOWN
            reasons.append(f"`{name}` {e}")
    if reasons:
        warnings.warn(
            f"{'; '.join(reasons)}. So what is stored in {str(path)!r} cannot be taken up by another "
            "call: it is computed again. Pass functions and objects that hold only numbers, texts, "
            "tensors, models and functions.",
            stacklevel=3,
        )
    return found


def differing(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return the arguments that differ, and both of their values.

    What could not be compared is left out. A function of which a variable is named is left out, too.

    >>> differing({"n": 1, "f": "a", "f, its variable x": "b"}, {"n": 1, "f": "c", "f, its variable x": "d"})
    {'f, its variable x': ('b', 'd')}
    """
    pairs = {k: (before.get(k), now.get(k)) for k in {**now, **before}}
    unknown = {k for k, pair in pairs.items() if UNKNOWN in pair}
    found = {
        k: (was, now)
        for k, (was, now) in pairs.items()
        if was != now
        and k.partition(VARIABLE)[0] not in unknown
        and not (VARIABLE in k and None in (was, now))  # then the code is another, too
    }
    return {
        k: pair for k, pair in found.items() if not any(o.startswith(k + VARIABLE) for o in found)
    }


def _variables(fn: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """Yield the variables outside a function that it reads: name, value."""
    names = _names(fn.__code__)[0] & fn.__globals__.keys()
    yield from ((name, fn.__globals__[name]) for name in sorted(names))
    for name, cell in zip(fn.__code__.co_freevars, fn.__closure__ or (), strict=True):
        with suppress(ValueError):  # empty
            yield name, cell.cell_contents


class _Look:
    """One look at a value, which remembers what it has seen."""

    def __init__(self) -> None:
        self.known: dict[
            int, tuple[bytes, Any]
        ] = {}  # id -> digest, and the object, to keep its id
        self.open: dict[int, int] = {}  # id of an object that is being looked at -> its depth
        self.left = MOST_OBJECTS

    def fingerprint(self, value: Any) -> str:
        """Return the digest of a value as text."""
        self.open.clear()  # of a look that could not be finished
        self.left = MOST_OBJECTS
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of attributes that are only looked at
                return self.digest(value).hex()[:12]
        except RecursionError:
            raise CannotCompareError("holds objects in objects, too deep to follow") from None

    def digest(self, value: Any) -> bytes:
        """Return the digest of a value."""
        if type(value) in SCALARS:
            return _sum("scalar", type(value).__name__, repr(value))
        key = id(value)
        if key in self.known:
            return self.known[key][0]
        if key in self.open:
            return _sum("again", len(self.open) - self.open[key])
        self.left -= 1
        if self.left < 0:
            raise CannotCompareError(f"holds more than {MOST_OBJECTS:,} objects")
        self.open[key] = len(self.open)
        found = _sum(*self._parts(value))
        del self.open[key]
        self.known[key] = found, value
        return found

    def _parts(self, value: Any) -> Iterator[Any]:
        """Yield what makes a value: texts and digests."""
        kind = type(value)
        yield kind.__name__
        if isinstance(value, Tensor):
            yield from _tensor(value)
        elif kind is np.ndarray and value.dtype != object:
            yield from (str(value.dtype), value.shape, np.ascontiguousarray(value).tobytes())
        elif kind in (list, tuple):
            yield from self._each(value)
        elif kind in (set, frozenset):
            yield from sorted(self.digest(v) for v in value)
        elif kind in (dict, types.MappingProxyType):
            yield from self._each(part for pair in value.items() for part in pair)
        elif isinstance(value, nn.Module):
            yield from self._module(value)
        elif isinstance(value, type):
            yield from self._class(value)
        elif kind is types.FunctionType:
            yield from self._function(value)
        elif kind is types.CodeType:
            yield from self._code(value)
        elif kind is types.MethodType:
            yield from self._each((value.__func__, value.__self__))
        elif kind is types.ModuleType:
            yield from _package(value.__name__)
        else:
            yield from self._object(value)

    def _each(self, values: Iterable[Any]) -> Iterator[bytes]:
        listed = list(values)
        if all(type(v) in SCALARS for v in listed):
            yield repr(listed).encode()
        else:
            yield from map(self.digest, listed)

    def _module(self, module: nn.Module) -> Iterator[Any]:
        yield self.digest(type(module))
        for name, value in vars(module).items():
            if name in ("_graph", "meta"):  # of torch.fx; its code is an attribute, too
                continue
            yield name
            # the keys of hooks are numbers that count all hooks of the process
            hooks = name.endswith("hooks") and isinstance(value, Mapping)
            yield self.digest(list(value.values()) if hooks else value)

    def _class(self, cls: type) -> Iterator[Any]:
        yield f"{cls.__module__}.{cls.__qualname__}"
        version = _version(cls.__module__)
        if version is not None:
            yield version
            return
        yield from map(self.digest, cls.__bases__)
        for name, value in vars(cls).items():
            if name not in NO_PART_OF_A_CLASS:
                yield name
                yield from self._member(value)

    def _member(self, value: Any) -> Iterator[Any]:
        """Yield what makes a member of a class; descriptors cannot be pickled."""
        if isinstance(value, property):
            yield from self._each((value.fget, value.fset, value.fdel))
        elif isinstance(value, (staticmethod, classmethod)):
            yield self.digest(value.__func__)
        elif isinstance(value, functools.cached_property):
            yield self.digest(value.func)
        elif isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType)):
            yield value.__name__
        else:
            yield self.digest(value)

    def _function(self, fn: types.FunctionType) -> Iterator[Any]:
        yield fn.__qualname__
        yield self.digest(fn.__code__)
        yield from self._each((fn.__defaults__, fn.__kwdefaults__, vars(fn)))
        for cell in fn.__closure__ or ():
            try:
                yield self.digest(cell.cell_contents)
            except ValueError as e:
                if isinstance(e, CannotCompareError):
                    raise
                yield "empty"
        version = _version(str(fn.__globals__.get("__name__", "")))
        if version is None:
            yield from self._globals(fn)
        else:
            yield version

    def _globals(self, fn: types.FunctionType) -> Iterator[Any]:
        """Yield the global variables that a function reads, and what it reads of modules."""
        names, imported, attributes = _names(fn.__code__)
        unseen = (names | attributes) & UNSEEN
        if unseen:
            raise CannotCompareError(f"calls {min(unseen)}, which may read anything")
        for name in sorted(imported):
            yield from self._of_module(name, attributes)
        for name in sorted(names):
            yield name
            if name not in fn.__globals__:
                yield "builtin" if hasattr(builtins, name) else "missing"
                continue
            value = fn.__globals__[name]
            if isinstance(value, types.ModuleType):
                yield from self._of_module(value.__name__, attributes)
            else:
                yield self.digest(value)

    def _of_module(self, name: str, attributes: set[str]) -> Iterator[Any]:
        """Yield what identifies a module, and of the user's own ones what is read of it."""
        yield from _package(name)
        if _version(name) is None and name in sys.modules:
            held = vars(sys.modules[name])
            for attribute in sorted(attributes & held.keys()):
                yield attribute
                yield self.digest(held[attribute])

    def _code(self, code: types.CodeType) -> Iterator[Any]:
        # without its place in the file: a comment above it changes nothing
        yield code.co_code
        yield code.co_exceptiontable
        yield repr((code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars,
                    code.co_argcount, code.co_kwonlyargcount, code.co_flags))  # fmt: skip
        yield from self._each(code.co_consts)

    def _object(self, value: Any) -> Iterator[Any]:
        """Yield what pickle would keep of any other object."""
        if hasattr(value, "__wrapped__"):
            yield self.digest(value.__wrapped__)
        try:
            registered = copyreg.dispatch_table.get(type(value))
            kept = value.__reduce_ex__(4) if registered is None else registered(value)
        except Exception as e:
            raise CannotCompareError(f"holds {checks.described(value)}") from e
        if isinstance(kept, str):  # a name by which it can be imported
            yield from (kept, *_package(str(getattr(value, "__module__", ""))))
            return
        make, args, *rest = kept
        yield from self._each(
            (make, args, *(list(r) if isinstance(r, Iterator) else r for r in rest))
        )


def _tensor(t: Tensor) -> Iterator[Any]:
    yield from (str(t.dtype), tuple(t.shape), t.requires_grad)
    if t.is_meta:
        return
    plain = t.detach().cpu()
    plain = plain.dequantize() if plain.is_quantized else plain
    plain = (
        (plain if plain.layout == torch.strided else plain.to_dense()).resolve_conj().resolve_neg()
    )
    yield plain.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _names(code: types.CodeType) -> tuple[set[str], set[str], set[str]]:
    """Return the global names that code reads, the modules it imports, and the attributes it reads."""
    found: tuple[set[str], set[str], set[str]] = (set(), set(), set())
    for step in dis.get_instructions(code):
        for kind, which in READS.items():
            if step.opname.startswith(kind):
                found[which].add(str(step.argval))
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            for mine, inner in zip(found, _names(const), strict=True):
                mine |= inner
    return found


def _package(name: str) -> Iterator[Any]:
    """Yield what identifies a module: its version, or the text of its file."""
    yield name
    version = _version(name)
    file = _file(name) if version is None else ""
    yield Path(file).read_bytes() if file else str(version)


@functools.cache
def _version(module: str) -> str | None:
    """Return the version of an installed package; None for code of the user's."""
    top = module.partition(".")[0]
    if top == "__main__":  # a script or a notebook, whoever started it
        return None
    if top == "pruneviz":
        return VERSION
    if top in sys.stdlib_module_names:
        return "{}.{}".format(*sys.version_info)
    installed = {"site-packages", "dist-packages"} & {*Path(_file(top)).parts}
    return str(getattr(sys.modules.get(top), "__version__", "")) if installed else None


def _file(module: str) -> str:
    """Return the file of a module, imported or not; "" if it has none, as a notebook."""
    if module in sys.modules:
        return getattr(sys.modules[module], "__file__", None) or ""
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return ""
    return (spec.origin if spec and spec.has_location else None) or ""


def _sum(*parts: Any) -> bytes:
    total = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = (
            part
            if isinstance(part, (bytes, memoryview))
            else repr(part).encode(errors="backslashreplace")
        )
        total.update(memoryview(data).nbytes.to_bytes(8, "little"))
        total.update(data)
    return total.digest()

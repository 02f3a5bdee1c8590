"""How does one look inside a model without a trace? Context managers that undo themselves."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError

AUTOCAST = ("cpu", "cuda", "mps", "xpu")  # devices that have it


@contextmanager
def seeded(seed: int | None, devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """Seed torch's random numbers inside the block; restore the caller's random state afterwards.

    Parameters
    ----------
    seed : int or None
        None: seed nothing, only restore the caller's random state afterwards.
    devices : iterable of torch.device
        CUDA devices whose generators are seeded and restored as well.

    Examples
    --------
    >>> import torch
    >>> with seeded(0):
    ...     a = torch.rand(1)
    >>> with seeded(0):
    ...     b = torch.rand(1)
    >>> bool(a == b)
    True
    """
    if seed is None and is_in_background():
        yield
        return
    cuda = sorted({d.index or 0 for d in devices if d.type == "cuda"})
    with torch.random.fork_rng(devices=cuda):
        if seed is not None:
            torch.manual_seed(seed)
        yield


_here = threading.local()


def is_in_background() -> bool:
    """Whether this thread is inside an `in_background` block."""
    return getattr(_here, "in_background", False)


@contextmanager
def in_background() -> Iterator[None]:
    """Inside the block, do not touch torch's random state: another thread may be drawing from it.

    All threads share the random state. If a function restored it afterwards while another thread
    trains, the training would draw the same numbers twice.
    """
    before, _here.in_background = is_in_background(), True
    try:
        yield
    finally:
        _here.in_background = before


@contextmanager
def plain_torch() -> Iterator[None]:
    """Switch off what a caller may have set around a call: inference mode, autocast, a default device.

    Under inference mode nothing that is computed can be trained later, under autocast products are
    rounded to half precision, and with a default device new tensors are made there. Also a decorator.

    Examples
    --------
    >>> a = torch.eye(2) / 3
    >>> with torch.autocast("cpu"), plain_torch():
    ...     (a @ a).dtype
    torch.float32
    """
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        for kind in AUTOCAST:
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
            before, _here.other_device = getattr(_here, "other_device", False), True
            stack.callback(setattr, _here, "other_device", before)
        yield


def device_of_forward(model: nn.Module) -> AbstractContextManager[Any]:
    """Return the context in which a model's forward makes new tensors.

    Nothing changes, unless a default device was set: then it is the device of the model, because
    `plain_torch` has switched off the caller's.
    """
    if not getattr(_here, "other_device", False):
        return nullcontext()
    return next((t.device for t in chain(model.parameters(), model.buffers())), nullcontext())


_flags_lock = threading.Lock()
# id of a module that is in eval mode -> its own flag, and the threads that evaluate it
_flags: dict[int, tuple[bool, list[int]]] = {}


@contextmanager
def _eval_mode(modules: list[nn.Module]) -> Iterator[None]:
    """Set all `training` flags to False; the last thread that leaves restores them.

    Otherwise the thread that leaves first would set them to True while another one still runs the
    model, and its dropout and batch norms would work as in training.
    """
    thread = threading.get_ident()
    with _flags_lock:
        found = [m.training for m in modules]
        for m in modules:
            _flags.setdefault(id(m), (m.training, []))[1].append(thread)
            m.training = False
    try:
        yield
    finally:
        with _flags_lock:
            for m, before in zip(modules, found, strict=True):
                own, inside = _flags[id(m)]
                inside.remove(thread)
                if not inside:
                    del _flags[id(m)]
                    m.training = own
                elif set(inside) == {thread}:  # nested
                    m.training = before


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put the model into eval mode, without gradients; undo everything afterwards, also on error.

    Restored are the `training` flag of every module, buffers that the forward rewrote or replaced,
    the weights of embeddings with ``max_norm``, and torch's random state. The flags are set
    directly: `train()` and `eval()` are not called, since a model may override them. If several
    threads evaluate one model, it stays in eval mode until the last of them has finished.

    Parameters
    ----------
    model : nn.Module
        Not changed.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Dropout(0.5)
    >>> with pv.evaluating(model):
    ...     model(torch.ones(3))
    tensor([1., 1., 1.])
    >>> model.training
    True
    """
    modules = list(checks.model(model).modules())
    tensors = [t for m in modules for t in (*m.parameters(False), *m.buffers(False))]
    for name, m in model.named_modules():
        if any(is_lazy(t) for t in (*m.parameters(False), *m.buffers(False))):
            raise ArgumentError(
                f"layer {(name or type(m).__name__)!r} has no shape yet (a lazy layer). "
                "Run the model once, then prune it."
            )
        if any(t.is_meta for t in (*m.parameters(False), *m.buffers(False))):
            raise ArgumentError(
                f"layer {(name or type(m).__name__)!r} is on the device 'meta': it has shapes, but no "
                "numbers. Give it some: model.to_empty(device='cpu'), then model.load_state_dict(…)."
            )
    # an embedding with max_norm rewrites its own weight in the forward
    embeddings = [m for m in modules if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    rewritten = [m.weight for m in embeddings if m.max_norm is not None]
    buffers = [(m, dict(m._buffers)) for m in modules]
    watched = [*rewritten, *(b for _, own in buffers for b in own.values() if b is not None)]
    before = [t.detach().clone() for t in watched]
    try:
        with (
            seeded(None, {t.device for t in tensors}),
            torch.no_grad(),
            device_of_forward(model),
            _eval_mode(modules),
        ):
            yield model
    finally:
        for m, own in buffers:
            # only if the forward replaced a buffer: another thread may be copying the model
            now = m._buffers
            if list(now) != list(own) or any(now[n] is not t for n, t in own.items()):
                m._buffers.clear()
                m._buffers.update(own)
        with torch.no_grad():
            for t, old in zip(watched, before, strict=True):
                if not torch.equal(t, old):
                    t.copy_(old)


@contextmanager
def hooked(
    model: nn.Module,
    layers: Iterable[str] | None,
    fn: Callable[[str, tuple[Any, ...], Any], Tensor | None],
) -> Iterator[nn.Module]:
    """Call ``fn(name, inputs, output)`` after each run of one of the layers; unhook afterwards.

    Only runs of this thread count: another one may run the same model at the same time.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    layers : iterable of str, or None
        Names as in ``model.named_modules()``, with or without the prefix of DataParallel
        (``module.``) or torch.compile (``_orig_mod.``); None: every module without children.
    fn : callable
        Called with the layer's name, without such a prefix, the tuple of its inputs, and its output.
        Inputs passed by name (``linear(input=x)``) stand where the layer's forward has them. If it
        returns a tensor, this replaces the output.

    Raises
    ------
    ArgumentError
        If the model has no layer of that name.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    >>> with pv.hooked(model, ["1"], lambda name, inputs, output: print(name, output.shape)):
    ...     _ = model(torch.zeros(5, 2))
    1 torch.Size([5, 3])
    """
    modules = dict(checks.unwrapped(model).named_modules())
    if layers is None:
        names = [n for n, m in modules.items() if next(m.children(), None) is None]
    else:
        names = [checks.layer(n, modules) for n in checks.names(layers, "layers")]

    with hooked_modules({n: modules[n] for n in names}, fn):
        yield model


@contextmanager
def hooked_modules(
    modules: Mapping[str, nn.Module],
    fn: Callable[[str, tuple[Any, ...], Any], Tensor | None],
) -> Iterator[None]:
    """Call ``fn(name, inputs, output)`` after each run of one of the modules, as `hooked` does."""
    thread = threading.get_ident()

    def hook(name: str) -> Callable[..., Tensor | None]:
        def called(module: nn.Module, *call: Any) -> Tensor | None:
            if threading.get_ident() != thread:
                # if the other thread is just removing the hook, torch no longer passes keywords
                return None
            args, kwargs, output = call
            return fn(name, _in_order(module, args, kwargs), output)

        return called

    handles = []
    try:
        for name, module in modules.items():
            handles.append(module.register_forward_hook(hook(name), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _in_order(
    module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[Any, ...]:
    """Return the inputs of a call; those passed by name where the forward has them.

    >>> _in_order(nn.Linear(2, 2), (), {"input": 3})
    (3,)
    """
    if not kwargs:
        return args
    try:
        found = inspect.signature(module.forward).bind(*args, **kwargs).args
    except (TypeError, ValueError):  # a forward without a signature, such as one written in C
        found = args
    return found or tuple(kwargs.values())


def switch_for_all_threads(
    switch: Callable[[], Iterator[None]],
) -> Callable[[], AbstractContextManager[None]]:
    """Make a context manager from a switch that is shared by all threads.

    The first thread that enters switches it, and the last one that leaves switches it back. If each
    thread restored what it found, a second thread would find the switched state and restore that.

    Examples
    --------
    >>> @switch_for_all_threads
    ... def light():
    ...     print("on")
    ...     yield
    ...     print("off")
    >>> with light(), light():
    ...     print("both")
    on
    both
    off
    """
    lock, inside, manager = threading.Lock(), [0], contextmanager(switch)
    active: list[AbstractContextManager[None]] = []

    @contextmanager
    def shared() -> Iterator[None]:
        with lock:
            if not inside[0]:
                active[:] = [manager()]
                active[0].__enter__()
            inside[0] += 1
        try:
            yield
        finally:
            with lock:
                inside[0] -= 1
                if not inside[0]:
                    active[0].__exit__(None, None, None)

    return shared


@switch_for_all_threads
def no_fast_path() -> Iterator[None]:
    """Let attention run as single operators: hooks and counters cannot see its fused path."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)

"""Look inside a model without leaving a trace."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError


@contextmanager
def seeded(seed: int | None, devices: Iterable[torch.device] = ()) -> Iterator[None]:
    """Seed torch's random numbers inside the block; the caller's own go on as if nothing had been.

    Parameters
    ----------
    seed : int or None
        None: only keep the caller's random state, seed nothing.
    devices : iterable of torch.device
        CUDA devices whose generators are seeded and kept as well.

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
    if seed is None and is_beside():
        yield
        return
    cuda = sorted({d.index or 0 for d in devices if d.type == "cuda"})
    with torch.random.fork_rng(devices=cuda):
        if seed is not None:
            torch.manual_seed(seed)
        yield


_here = threading.local()


def is_beside() -> bool:
    """Tell whether this thread runs `beside` another one."""
    return getattr(_here, "beside", False)


@contextmanager
def beside() -> Iterator[None]:
    """Leave torch's random state alone in this thread: another one may be drawing from it.

    Readers put it back when they are done; beside a training that would turn its numbers back.
    """
    before, _here.beside = is_beside(), True
    try:
        yield
    finally:
        _here.beside = before


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Put the model into eval mode, without gradients; undo everything afterwards, also on error.

    What is put back: the `training` flag of every single module, buffers that the forward rewrote
    or replaced, the weights of embeddings with ``max_norm``, torch's random state. The flags are set directly: `train()` and `eval()`, which a model may
    override with side effects, are not called.

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
    flags = [(m, m.training) for m in modules]
    # an embedding with max_norm rewrites its own weight in the forward
    embeddings = [m for m in modules if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    rewritten = [m.weight for m in embeddings if m.max_norm is not None]
    held = [(m, dict(m._buffers)) for m in modules]
    watched = [*rewritten, *(b for _, kept in held for b in kept.values() if b is not None)]
    before = [t.detach().clone() for t in watched]
    try:
        with seeded(None, {t.device for t in tensors}), torch.no_grad():
            for m in modules:
                m.training = False
            yield model
    finally:
        for m, training in flags:
            m.training = training
        for m, kept in held:
            # only where the forward replaced one: another thread may be copying the model
            now = m._buffers
            if list(now) != list(kept) or any(now[n] is not t for n, t in kept.items()):
                m._buffers.clear()
                m._buffers.update(kept)
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
    """Call ``fn(name, inputs, output)`` whenever one of the layers has run; unhook afterwards.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    layers : iterable of str, or None
        Names as in ``model.named_modules()``; None: every module without children.
    fn : callable
        Called with the layer's name, the tuple of its positional inputs, and its output. What it
        returns, unless None, takes the place of the output: so one can also intervene.

    Raises
    ------
    ArgumentError
        If the model has no layer of such a name.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU())
    >>> with pv.hooked(model, ["1"], lambda name, inputs, output: print(name, output.shape)):
    ...     _ = model(torch.zeros(5, 2))
    1 torch.Size([5, 3])
    """
    modules = dict(checks.model(model).named_modules())
    if layers is None:
        names = [n for n, m in modules.items() if next(m.children(), None) is None]
    else:
        names = [checks.choice(n, "layer", modules, what="layer") for n in layers]

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], Tensor | None]:
        return lambda module, inputs, output: fn(name, inputs, output)

    handles = []
    try:
        for name in names:
            handles.append(modules[name].register_forward_hook(hook(name)))
        yield model
    finally:
        for handle in handles:
            handle.remove()


def switch_for_all_threads(
    switch: Callable[[], Iterator[None]],
) -> Callable[[], AbstractContextManager[None]]:
    """Make a context manager of a switch that is the same in all threads.

    The first thread that comes in turns it, the last one that leaves turns it back: else the one that
    came second would put back what it found, and it would stay turned.

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
    lock, inside, made = threading.Lock(), [0], contextmanager(switch)
    held: list[AbstractContextManager[None]] = []

    @contextmanager
    def both() -> Iterator[None]:
        with lock:
            if not inside[0]:
                held[:] = [made()]
                held[0].__enter__()
            inside[0] += 1
        try:
            yield
        finally:
            with lock:
                inside[0] -= 1
                if not inside[0]:
                    held[0].__exit__(None, None, None)

    return both


@switch_for_all_threads
def no_fast_path() -> Iterator[None]:
    """Let attention run as single operators: its fused fast path hides them from every counter."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)

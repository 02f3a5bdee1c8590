"""What do the layers of a model read? `collect` gathers evidence over many batches, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.core.names import at_least_float32
from pruneviz.core.progress import progress_bar
from pruneviz.evidence.evidence import Evidence
from pruneviz.evidence.gradients import Gradients
from pruneviz.evidence.losses import ignored_label
from pruneviz.evidence.streams import Patches, Stream, input_rows
from pruneviz.model.batches import Batch, read
from pruneviz.model.hooks import evaluating, plain_torch
from pruneviz.model.layers import blocks_of, consumers, watched, weight_of
from pruneviz.model.padding import real_rows, real_tokens
from pruneviz.model.patches import batched, reads_neighbours
from pruneviz.model.weights import check_not_quantised

WIDE = 4096  # columns: beyond, a co-moment takes more than 128 MiB
WIDEST = 32_768  # columns: 8 GiB


@plain_torch()
def collect(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss: Callable[[Any, Any], Tensor] | None = None,
    layers: Iterable[str] | None = None,
    comoment: bool | str = True,
    max_batches: int | None = None,
    draw: Callable[[Any, torch.Generator], Any] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Evidence:
    """Run a model over batches once; return the moments of its layers' inputs, and gradients.

    Parameters
    ----------
    model : nn.Module
        Not changed. It runs in eval mode.
    batches : iterable
        Batches: a DataLoader, a list or a generator; or one tensor. A batch is inputs, or a pair of
        inputs and targets. Inputs are a tensor, a tuple of arguments, or a mapping of keyword
        arguments, such as the encodings of `transformers`. The first dimension is the examples.
        Tokens at which a mask of the batch says padding (``attention_mask`` is 0,
        ``key_padding_mask`` True) are left out. A tuple of two is always such a pair: two inputs without targets are ``((a, b), None)``.
    loss : callable, optional
        ``loss(outputs, targets)``, such as ``F.cross_entropy``: also collect gradients of single
        examples. Without targets, only those for drawn labels. Examples, or positions, of a label that
        the loss ignores (-100 for `cross_entropy`) are left out. Cross-entropy gets the logits as it
        wants them, whatever holds them; see `accuracy`. A loss of your own gets the outputs.
    layers : iterable of str, optional
        Names of layers that multiply their input with a weight: Linear, convolutions (also
        transposed), GPT-2's Conv1D, and the in-projection of attention, ``"attn.in_proj"``.
        Default: all that run.
    comoment : bool or "all"
        Whether to keep the co-moment of each layer's input, if it has at most 4,096 columns (for a
        convolution: weights of a filter); ``"all"``: up to 32,768 columns (8 GiB a layer). False:
        only its diagonal, which costs little more than the forward itself.
    max_batches : int, optional
        Read no more batches than this.
    draw : callable, optional
        ``draw(outputs, generator)`` returns targets drawn from the model's predictions, for the
        Fisher information. Default: classes by the softmax of outputs of shape (n, classes), or for
        `cross_entropy` at each position that has a label; for `mse_loss`, the outputs plus standard
        normal noise; for other outputs, or targets that are
        not classes, the given targets.
    seed : int
        For drawing. The caller's random state is not changed.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Evidence

    Raises
    ------
    ArgumentError
        If there is no example, a layer of `layers` is unknown or never ran, no layer ran, the
        model's forward raises, a layer reads NaN or infinity, or the loss is not finite.

    References
    ----------
    Martens 2014, "New insights and perspectives on the natural gradient method", arXiv:1412.1193,
    §9.2: labels have to be drawn from the model's predictions; otherwise the result is not the
    Fisher information.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> evidence = pv.collect(model, [torch.randn(16, 4), torch.randn(5, 4)])
    >>> evidence
    Evidence from 21 examples on 2 layers
    >>> evidence.inputs["2"]
    Moments of 8 columns over 21 rows
    """
    return collected(
        model, batches, loss=loss, layers=layers, comoment=comoment, max_batches=max_batches, draw=draw,
        seed=seed, progress=progress,
    )  # fmt: skip


def collected(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    loss: Callable[[Any, Any], Tensor] | None = None,
    layers: Iterable[str] | None = None,
    comoment: bool | str = True,
    max_batches: int | None = None,
    draw: Callable[[Any, torch.Generator], Any] | None = None,
    squares: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> Evidence:
    """As `collect`; without `squares` the evidence has no squared gradient of weights.

    These mostly take longest. What is at the outputs of the layers is the same.
    """
    model = checks.unwrapped(model)
    known = consumers(model)
    if not known:
        check_not_quantised(model)
        raise ArgumentError(
            f"`model` ({type(model).__name__}) has no Linear or Conv layer: there is nothing to watch. "
            "Pass a model with such layers."
        )
    names = list(known) if layers is None else list(dict.fromkeys(
        checks.layer(n, known) for n in checks.names(layers, "layers")))  # fmt: skip
    if not names:
        raise ArgumentError(
            "`layers` is empty: there is nothing to watch. Leave it out to watch all of them."
        )
    if not isinstance(comoment, (int, str)) or comoment not in (True, False, "all"):
        raise ArgumentError(
            f"`comoment` must be True, False or 'all', but {comoment!r} was passed."
        )
    comoment = comoment if comoment == "all" else bool(comoment)
    most = None if max_batches is None else checks.count(max_batches, "max_batches", low=1)
    seed = checks.count(seed, "seed")
    if draw is not None:
        checks.function(draw, "draw", "draw(outputs, generator)")
    if loss is not None:
        checks.function(loss, "loss", "loss(outputs, targets)")
    ignored = None if loss is None else ignored_label(loss)
    batches_read = read(batches, "collect", ignore_index=ignored)
    return gathered(
        model, islice(batches_read, most), names, comoment=comoment, loss=loss, draw=draw, seed=seed,
        squares=squares, named=layers is not None, progress=progress,
    )  # fmt: skip


def gathered(
    model: nn.Module,
    batches: Iterable[Batch],
    names: Iterable[str],
    *,
    comoment: bool | str = True,
    loss: Callable[[Any, Any], Tensor] | None = None,
    draw: Callable[[Any, torch.Generator], Any] | None = None,
    seed: int = 0,
    squares: bool = True,
    named: bool = False,
    progress: bool = False,
) -> Evidence:
    """Return the evidence on some layers, checked arguments given.

    A layer that never runs is left out, unless the user named it: then an error says so.
    """
    known = consumers(model)
    watch = Watch({n: known[n] for n in names}, comoment)
    gradients = None if loss is None else Gradients(model, names, loss, draw, seed, squares)
    examples = 0
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(evaluating(model))
        if gradients is None:
            stack.enter_context(watched(model, names, watch))
        for batch in progress_bar(batches, shown=progress, text="collect", unit="batch"):
            examples += batch.examples
            watch.masks = real_tokens(batch)
            if gradients is None:
                batch.run(model)
            else:
                gradients.add(batch, watch)
        evidence = watch.evidence(examples, named)
        return evidence if gradients is None else gradients.join(evidence)


class Watch:
    """A hook that adds up the moments of each layer's input."""

    def __init__(self, modules: Mapping[str, nn.Module], comoment: bool | str) -> None:
        self.modules = modules
        self.comoment = comoment
        self.inputs: dict[str, Stream] = {}
        self.patches: dict[str, Patches] = {}
        self.masks: list[Tensor] = []  # of the batch that runs: which tokens are no padding

    def __call__(self, name: str, inputs: tuple[Any, ...], output: Any) -> None:
        """Add the input of a layer."""
        module, x = self.modules[name], inputs[0].detach()
        if not x.numel():
            return
        if x.is_complex():
            raise ArgumentError(
                f"layer {name!r} reads complex numbers, of which no moments are collected. Leave it "
                "out: name the others in `layers`."
            )
        rows = at_least_float32(input_rows(module, x, real_rows(self.masks, module, x)))
        if not rows.numel():
            return
        if name not in self.inputs:
            self._start(name, module, rows.shape[1])
        self.inputs[name].add(rows)
        if name in self.patches:
            self.patches[name].add(at_least_float32(x), _size(module, output))

    def _start(self, name: str, module: nn.Module, n: int) -> None:
        conv = isinstance(module, _ConvNd) and (reads_neighbours(module) or module.groups > 1)
        # of a transposed one both: its patches mix positions with the zeros between them
        transposed = getattr(module, "transposed", False)
        self.inputs[name] = Stream(self._whole(n) and (transposed or not conv))
        # with one input channel per group (depthwise) no co-moment is needed: nothing is re-fitted
        if isinstance(module, _ConvNd) and conv and self.comoment:
            taps = blocks_of(module).shape[-1]
            if self._whole(taps) and (module.groups == 1 or module.groups < n):
                self.patches[name] = Patches(module, True)

    def _whole(self, n: int) -> bool:
        if self.comoment == "all" and n > WIDEST:
            raise ArgumentError(
                f"the co-moment of {n:,} columns takes {8 * n * n / 2**30:,.0f} GiB, and a layer may have "
                f"{WIDEST:,} at most. Leave out comoment='all': it is kept where it fits."
            )
        return self.comoment == "all" or (self.comoment is True and n <= WIDE)

    def evidence(self, examples: int, named: bool) -> Evidence:
        """Return the evidence of all batches; `named`: every layer must have run."""
        for name, module in self.modules.items():
            if name not in self.inputs and (named or not self.inputs):
                advice = "Leave it out of `layers`." if named else "So did no other layer."
                raise ArgumentError(
                    f"layer {name!r} ({type(module).__name__}) never ran as a layer on these batches. "
                    f"{advice}"
                )
        inputs = {n: s.result() for n, s in self.inputs.items()}
        patches = {n: p.result() for n, p in self.patches.items()}
        for name, m in (*inputs.items(), *patches.items()):
            fields = m.mean, m.max, m.comoment
            if not all(bool(torch.isfinite(t).all()) for t in fields):
                large = all(bool(torch.isfinite(t).all()) for t in (m.low, m.high))
                what = "numbers too large to be squared" if large else "NaN or infinity"
                raise ArgumentError(
                    f"layer {name!r} read {what}. Look at the data and at the weights before it."
                )
        shapes = {n: tuple(weight_of(m).shape) for n, m in self.modules.items()}
        return Evidence(inputs, patches, examples=examples, shapes=shapes)


def _size(module: nn.Module, output: Tensor) -> tuple[int, ...]:
    """Return the size of a convolution's output, (height, width)."""
    assert isinstance(module, _ConvNd)
    return tuple(batched(module, output).shape[2:])

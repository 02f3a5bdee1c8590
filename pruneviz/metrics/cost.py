"""What does a model cost? Numbers, bytes, and MACs for one example."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from pruneviz.core import checks
from pruneviz.metrics.latency import Latency, calls_of, latency_of, time_in_turn
from pruneviz.model.batches import one_example
from pruneviz.model.forward import run_forward
from pruneviz.model.hooks import evaluating, no_fast_path, plain_torch
from pruneviz.model.weights import (
    Mask,
    check_not_quantised,
    masks_of_others,
    steps,
)

aten = torch.ops.aten
COMPRESSED = (torch.sparse_csr, torch.sparse_csc)


@plain_torch()
def measure(model: nn.Module, example_input: Any, *, latency: bool = False) -> Cost:
    """Count the numbers that a model stores, and its multiply-accumulates for one example.

    Parameters
    ----------
    model : nn.Module
        Not changed.
    example_input : Tensor, tuple or dict
        Arguments of the forward. The first dimension is the examples, and only the first example is
        used. A tuple holds positional arguments, a dict keyword arguments.
    latency : bool
        Also measure the latency, for 0.2 seconds: ``latency_ms`` is the median time of a forward
        with all of `example_input` at once, in eval mode, on this machine at this moment, with its
        95 % interval (``latency_ms.low``, ``.high``). To compare two models use `compare_latency`.

    Returns
    -------
    Cost
        ``macs`` counts matrix products, convolutions, attention and LSTMs by their dense shapes,
        masked or not; a sparse CSR matrix (see `to_csr`) counts by its stored numbers. By
        convention additions, norms, pooling and activations are not counted. Any other operator
        that could not be counted is named in ``uncounted``; so is a product of complex numbers,
        which ``macs`` counts as one and not as the four real products that it is.

    Raises
    ------
    ArgumentError
        If the example input does not fit, the model's forward raises, or the model is quantised.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> conv = torch.nn.Conv2d(1, 2, 3, bias=False)
    >>> pv.measure(conv, torch.zeros(7, 1, 4, 4))
    Cost(params=18, nonzero=18, bytes=72, macs=72, uncounted=(), latency_ms=None)
    """
    check_not_quantised(checks.model(model))
    args, kwargs = one_example(example_input)
    with evaluating(model):
        params, nonzero, size = _stored(model)
        with (
            no_fast_path(),
            _OperatorLog() as log,
            _Counter() as counter,
        ):
            run_forward(model, args, kwargs)
        known = counter.flop_registry
    complex_products = {
        f"{op} of complex numbers: 3 of 4 products" for op in log.complex if op in known
    }
    unknown = {str(op) for op in log.ops if op not in known and not _is_free(op, log)}
    unknown |= complex_products
    ms = None
    if latency:
        with calls_of([model], example_input) as calls:
            ms = latency_of(time_in_turn(calls, seconds=0.2)[:, 0])
    return Cost(params, nonzero, size, counter.get_total_flops() // 2, tuple(sorted(unknown)), ms)


def _stored(model: nn.Module) -> tuple[int, int, int]:
    """Return (params, nonzero, bytes), without the buffers of masks: ours and torch's own."""
    masks = {id(m.keep) for m in model.modules() if isinstance(m, Mask)}
    params = list(model.parameters())  # each tied parameter once
    masked: dict[int, Tensor] = {}
    for module in model.modules():
        own = getattr(module, "parametrizations", ()) if parametrize.is_parametrized(module) else ()
        for attribute in own:
            original = getattr(steps(module, attribute), "original", None)
            if original is not None:
                masked[id(original)] = getattr(module, attribute)
    for _, module, attribute in masks_of_others(model):
        original, mask = (getattr(module, f"{attribute}_{part}") for part in ("orig", "mask"))
        masks.add(id(mask))
        masked[id(original)] = original * mask
    buffers = [b for b in model.buffers() if id(b) not in masks]
    nonzero = sum(int((masked.get(id(p), p) != 0).sum()) for p in params)
    size = sum(t.numel() * t.element_size() for t in (*params, *buffers))
    return sum(p.numel() for p in params), nonzero, size


class _Counter(FlopCounterMode):
    """Count without module names: torch's tracker would hook all modules of the process."""

    def __init__(self) -> None:
        super().__init__(display=False, custom_mapping=FORMULAS)
        no_tracker: Any = nullcontext()
        no_tracker.parents = {"Global"}
        self.mod_tracker = no_tracker


class _OperatorLog(TorchDispatchMode):
    """Record every operator that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: dict[Any, Any] = {}  # packet -> one of its overloads
        self.complex: set[Any] = set()  # packets of those that had complex operands

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        packet = getattr(func, "_overloadpacket", func)
        self.ops[packet] = func
        if any(isinstance(a, Tensor) and a.is_complex() for a in args):
            self.complex.add(packet)
        return func(*args, **(kwargs or {}))


def _sdpa(q: Any, k: Any, v: Any, *args: Any, **kwargs: Any) -> int:
    *batch, queries, width = q
    return 2 * prod(batch) * queries * k[-2] * (width + v[-1])  # q kᵀ, and weights times v


def _matvec(*shapes: Any, **kwargs: Any) -> int:
    return 2 * prod(shapes[-2])  # the matrix; before it, in addmv, what is added


def _lstm(x: Any, w_input: Any, w_hidden: Any, *args: Any, **kwargs: Any) -> int:
    time, batch, _ = x
    return 2 * time * batch * (prod(w_input) + prod(w_hidden))


def _bilinear(x: Any, weight: Any, y: Any, *args: Any, **kwargs: Any) -> int:
    return 2 * x[0] * prod(weight)  # x (batch, i), weight (o, i, j), y (batch, j)


def _product(*operands: Any, **kwargs: Any) -> int:
    a, b = operands[-2:]
    if b.layout in COMPRESSED:  # F.linear(x, csr) multiplies with the transpose of the CSR matrix
        return 2 * a.shape[0] * b._nnz()
    stored = a._nnz() if a.layout in COMPRESSED else a.numel()
    return 2 * stored * b.shape[1]


_product._get_raw = True  # type: ignore[attr-defined]  # pass tensors, not shapes

# operators that torch's counter does not know, and products that may have a sparse factor
FORMULAS: dict[Any, Callable[..., int]] = {
    aten._scaled_dot_product_flash_attention_for_cpu: _sdpa,
    aten.mm: _product,
    aten.addmm: _product,
    aten.mv: _matvec,
    aten.dot: _matvec,
    aten.vdot: _matvec,
    aten.addmv: _matvec,
    aten.mkldnn_rnn_layer: _lstm,
    aten._trilinear: _bilinear,
}

# operators that by convention cost nothing: they move, look up, compare, pool or normalise
FREE = frozenset(
    """
    _adaptive_avg_pool2d _adaptive_avg_pool3d _assert_async _assert_scalar
    _assert_tensor_metadata _batch_norm_no_update _conj _embedding_bag
    _embedding_bag_forward_only _fused_dropout _fused_rms_norm _local_scalar_dense _log_softmax
    _native_batch_norm_legit _native_batch_norm_legit_functional
    _native_batch_norm_legit_no_training _pack_padded_sequence _pad_packed_sequence
    _prelu_kernel _safe_softmax _softmax _thnn_fused_gru_cell _thnn_fused_lstm_cell _to_copy
    _unique2 _unsafe_index _unsafe_index_put _unsafe_view _upsample_bicubic2d_aa
    _upsample_bilinear2d_aa _weight_norm_interface adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d affine_grid_generator alias all amax amin aminmax any arange argmax
    argmin argsort as_strided avg_pool1d avg_pool2d avg_pool3d bernoulli bincount bucketize cat
    celu channel_shuffle clone col2im complex constant_pad_nd contiguous copy cudnn_batch_norm
    cummax cummin cumprod cumsum detach diag_embed dropout elu embedding empty empty_like
    empty_strided equal expand exponential eye fill flip fractional_max_pool2d
    fractional_max_pool3d full full_like gather gelu glu grid_sampler_2d grid_sampler_3d
    hardshrink hardsigmoid hardswish hardtanh im2col index index_add index_copy index_fill
    index_put index_select instance_norm is_nonzero isin item leaky_relu lift_fresh
    linalg_vector_norm linspace log_sigmoid_forward logsumexp masked_fill masked_scatter
    masked_select max max_pool2d_with_indices max_pool3d_with_indices max_unpool2d max_unpool3d
    mean median min miopen_batch_norm mish mkldnn_max_pool2d mode multinomial native_batch_norm
    native_batch_norm_backward native_channel_shuffle native_dropout native_group_norm
    native_layer_norm new_empty new_empty_strided new_full new_ones new_zeros nonzero
    nonzero_static norm normal one_hot ones ones_like permute pixel_shuffle pixel_unshuffle
    prelu prod quantile rand rand_like randint randint_like randn randn_like random_ randperm
    reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d resize_ roll rot90 rrelu
    rrelu_with_noise scalar_tensor scatter scatter_add scatter_reduce searchsorted
    select_scatter selu set_ silu slice_scatter softplus softshrink sort squeeze stack std
    std_mean sum threshold topk transpose tril tril_indices triu triu_indices unfold uniform
    unique_consecutive unique_dim unsafe_split unsafe_split_with_sizes upsample_bicubic2d
    upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d upsample_trilinear3d var var_mean view where zero zeros zeros_like
    """.split()
)


def _is_free(packet: Any, log: _OperatorLog) -> bool:
    op = log.ops[packet]
    if not isinstance(op, torch._ops.OpOverload):
        return False
    tags = set(op.tags)
    if tags & {torch.Tag.pointwise, torch.Tag.reduction, torch.Tag.inplace_view}:
        return True
    if op.is_view or op.namespace == "prim":
        return True
    name = op._schema.name.removeprefix("aten::")
    return name in FREE or name.removesuffix("_") in FREE


@dataclass(frozen=True)
class Cost:
    """The cost of a model: stored numbers, bytes, and the work for one example.

    Parameters
    ----------
    params : int
        Numbers in all parameters; a tensor that two layers share counts once.
    nonzero : int
        The numbers among them that are not 0, masks applied. This does not give the sparsity: a
        dense network contains zeros, too.
    bytes : int
        Bytes of parameters and buffers, stored dense in their own dtype.
    macs : int
        Multiply-accumulates for one example in matrix products, convolutions and attention. Zeros
        are multiplied like any other number.
    uncounted : tuple of str
        Operators that ran but could not be counted: their work is missing in `macs`.
    latency_ms : Latency or None
        Milliseconds for one forward pass, a float with ``low`` and ``high``; None if it was not
        measured.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> cost = pv.measure(torch.nn.Linear(300, 100), torch.zeros(1, 300))
    >>> cost.macs, cost.flops, cost.params
    (30000, 60000, 30100)
    """

    params: int
    nonzero: int
    bytes: int
    macs: int
    uncounted: tuple[str, ...] = field(default=())
    latency_ms: Latency | None = None

    @property
    def flops(self) -> int:
        """Floating-point operations for one example: a multiply-accumulate is two."""
        return 2 * self.macs

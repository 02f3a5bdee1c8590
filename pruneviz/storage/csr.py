"""How zeros are skipped: linear layers that multiply with compressed sparse rows (CSR)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pruneviz.core import checks
from pruneviz.core.errors import ArgumentError
from pruneviz.model.hooks import plain_torch
from pruneviz.pruning.mask import bake
from pruneviz.storage.packing import CSR, compressed, suppress_beta_warning

KERNELS = ("mm", "linear")
INDICES = {e: CSR[e] for e in ("csr_int64", "csr_int32")}  # torch multiplies with no others


@plain_torch()
def to_csr(model: nn.Module, *, kernel: str = "mm", encoding: str = "csr_int32") -> nn.Module:
    """Return a copy of a model whose linear layers store and multiply only the nonzero weights.

    For inference only. Whether it is faster depends on the sparsity, the layer, the batch, the
    kernel and the machine: `compare_latency` and `crossover` measure it.

    Parameters
    ----------
    model : nn.Module
        Masked or not. Not changed.
    kernel : str
        ``"mm"``: ``torch.mm(csr, x.T).T``; ``"linear"``: ``F.linear(x, csr)``, which also runs if
        the weight of an `nn.Linear` is replaced by a CSR tensor.
    encoding : str
        ``"csr_int32"`` or ``"csr_int64"``: the type of the indices.

    Returns
    -------
    nn.Module
        A new model. Each `nn.Linear` is replaced by a `SparseLinear` with the same outputs, up to
        rounding. Convolutions and attention are not changed: torch has no sparse kernel for them.
        `measure` counts the bytes and MACs of the sparse layers.

    Raises
    ------
    ArgumentError
        If the model has no `nn.Linear`, or an argument is unknown.

    Examples
    --------
    >>> import torch, pruneviz as pv
    >>> layer = torch.nn.Linear(100, 50)
    >>> masked = pv.mask(layer, pv.select(pv.score(layer, "magnitude"), sparsity=0.9))
    >>> sparse, x = pv.to_csr(masked), torch.randn(3, 100)
    >>> sparse
    SparseLinear(in_features=100, out_features=50, stored=500, kernel=mm)
    >>> pv.measure(sparse, x).macs, pv.measure(masked, x).macs
    (500, 5000)
    >>> bool(torch.allclose(sparse(x), masked(x), atol=1e-5))
    True
    """
    checks.choice(kernel, "kernel", KERNELS)
    checks.choice(encoding, "encoding", INDICES)
    new = bake(model)
    if isinstance(new, nn.Linear):
        return SparseLinear(new, kernel, INDICES[encoding])
    found = False
    # attention reads the weight of its output projection directly
    projections = {id(m.out_proj) for m in new.modules() if isinstance(m, nn.MultiheadAttention)}
    for module in list(new.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and id(child) not in projections:
                setattr(module, name, SparseLinear(child, kernel, INDICES[encoding]))
                found = True
    if not found:
        raise ArgumentError(
            f"`model` ({type(model).__name__}) has no nn.Linear layer: torch multiplies sparse matrices, "
            "but has no sparse convolution or attention. Shrink it instead: pv.prune(model, x, macs=0.5)."
        )
    return new


class SparseLinear(nn.Module):
    """A linear layer that stores its weight as compressed sparse rows.

    Parameters
    ----------
    layer : nn.Linear
    kernel : str
        ``"mm"`` or ``"linear"``.
    index : torch.dtype
        int32 or int64.
    """

    crow: Tensor
    col: Tensor

    def __init__(
        self, layer: nn.Linear, kernel: str = "mm", index: torch.dtype = torch.int32
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = layer.weight.shape
        self.kernel = kernel
        crow, col, value = compressed(layer.weight.detach(), index)
        self.register_buffer("crow", crow)
        self.register_buffer("col", col)
        self.value = nn.Parameter(value, requires_grad=False)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach(), False)
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return x Wᵀ + b for x of shape (..., in_features)."""
        suppress_beta_warning()
        shape = (self.out_features, self.in_features)
        # Made in each call (3 µs): hooks, state_dict and copies can handle only dense tensors.
        w = torch.sparse_csr_tensor(self.crow, self.col, self.value, shape, check_invariants=False)
        flat = x if x.ndim == 2 else x.reshape(-1, self.in_features)
        bias = self.bias
        if self.kernel == "linear":
            y = F.linear(flat, w, bias)
        elif bias is None:
            y = torch.mm(w, flat.T).T.contiguous()
        else:
            y = torch.addmm(bias.unsqueeze(1), w, flat.T).T.contiguous()
        return y if x.ndim == 2 else y.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Return the text inside the layer's repr."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"stored={self.value.numel()}, kernel={self.kernel}"
        )


def csr_of(weight: Tensor, index: torch.dtype = torch.int32) -> Tensor:
    """Return a matrix as a CSR tensor of torch with indices of the type `index`.

    >>> csr_of(torch.eye(2)).col_indices()
    tensor([0, 1], dtype=torch.int32)
    """
    return torch.sparse_csr_tensor(*compressed(weight, index), weight.shape, check_invariants=False)

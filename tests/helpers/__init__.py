"""Models that could easily be caught leaving a trace, and what to compare before and after."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pruneviz as pv

CLASSES = 3


def by_units(groups: pv.Groups, units: dict) -> dict[str, list[int]]:
    """Name every output of these units of a layer, such as heads; `drop` counts outputs."""
    return {
        name: [int(n) for u in numbers for n in groups.numbers_of(name)[u]]
        for name, numbers in units.items()
    }


def inputs(n: int = 5) -> Tensor:
    return torch.randn(n, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def labels(n: int = 5) -> Tensor:
    return torch.arange(n) % CLASSES


def batches(n: int = 5, count: int = 2) -> list[tuple[Tensor, Tensor]]:
    return [(inputs(n) + i, labels(n)) for i in range(count)]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def cnn() -> nn.Module:
    """BatchNorm and dropout, in train mode: a forward that is not guarded changes it."""
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()),
        nn.Linear(64, CLASSES),
    )


def mixed() -> nn.Module:
    """Some submodules in eval mode inside others in train mode, and the other way round."""
    model = nn.Sequential(cnn()[:4], nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES)))
    model[0][1].eval()
    model[1].training = False
    model[1][1].training = True
    return model


def masked() -> nn.Module:
    model = cnn()
    return pv.mask(model, pv.select(pv.score(model, "magnitude"), sparsity=0.5))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(36, 36)
        self.fc2 = nn.Linear(36, 36)
        self.fc2.weight = self.fc1.weight
        self.head = nn.Linear(36, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.fc2(F.relu(self.fc1(x.flatten(1))))))


class Odd(nn.Module):
    """A network whose forward does one odd thing first."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp()

    def odd(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.odd(x))


class Raising(Odd):
    """Raises after BatchNorm has seen the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def odd(self, x: Tensor) -> Tensor:
        self.norm(x)
        raise RuntimeError("boom")


class Random(Odd):
    def odd(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x) + torch.randint(3, (1,))


class Counting(Odd):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))

    def odd(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return x


class Replacing(Counting):
    """Counts up as well, but puts a new tensor in the buffer's place."""

    def odd(self, x: Tensor) -> Tensor:
        self.seen = self.seen + len(x)
        return x


class Caching(Odd):
    """Fills an empty buffer at the first forward, as tables of positions do."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", None)

    def odd(self, x: Tensor) -> Tensor:
        if self.table is None:
            self.table = torch.ones(6)
        return x * self.table


class Renormalising(Odd):
    """An Embedding with `max_norm` rewrites its own weight, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = nn.Embedding(2, 6, max_norm=0.1)

    def odd(self, x: Tensor) -> Tensor:
        return x + self.shift(torch.zeros((), dtype=torch.int64))


def spectral() -> nn.Module:
    """In train mode every look at the weight moves the buffers of the power iteration."""
    model = mlp()
    nn.utils.parametrizations.spectral_norm(model[1])
    return model


MODELS = {
    "mlp": mlp,
    "cnn": cnn,
    "mixed": mixed,
    "masked": masked,
    "tied": Tied,
    "raising": Raising,
    "random": Random,
    "counting": Counting,
    "replacing": Replacing,
    "caching": Caching,
    "renormalising": Renormalising,
    "spectral": spectral,
}


def build(name: str) -> nn.Module:
    """Build one of MODELS; some parameters have gradients, and one is frozen."""
    torch.manual_seed(0)
    model = MODELS[name]()
    params = list(model.parameters())
    for p in params[::2]:
        p.grad = torch.full_like(p, 0.5)
    params[-1].requires_grad_(False)
    return model


def bits(tensor: Tensor) -> str:
    """Return a text that is the same for equal tensors only, NaN included."""
    flat = tensor.detach().clone().reshape(-1).view(torch.uint8)
    content = hashlib.sha1(flat.numpy().tobytes()).hexdigest()[:12]
    return f"{tensor.dtype} {tuple(tensor.shape)} {content}"


HOOKS = [
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_state_dict_hooks", "_state_dict_pre_hooks"),
    *("_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
]
GLOBAL_HOOKS = ["_global_forward_hooks", "_global_forward_pre_hooks", "_global_backward_hooks"]


def snapshot(model: nn.Module) -> dict[str, object]:
    """Return everything that a reader must leave as it was, as plain values by name."""
    params = dict(model.named_parameters(remove_duplicate=False))
    modules = dict(model.named_modules())
    return {
        **{f"value of {k}": bits(v) for k, v in model.state_dict().items()},
        **{f"identity of {k}": id(p) for k, p in params.items()},
        **{f"grad of {k}": None if p.grad is None else bits(p.grad) for k, p in params.items()},
        **{f"requires_grad of {k}": p.requires_grad for k, p in params.items()},
        **{f"training of {n!r}": m.training for n, m in modules.items()},
        **{f"class of {n!r}": type(m) for n, m in modules.items()},
        **{f"{h} of {n!r}": list(getattr(m, h)) for n, m in modules.items() for h in HOOKS},
        **{h: list(getattr(nn.modules.module, h)) for h in GLOBAL_HOOKS},
        "random state": bits(torch.get_rng_state()),
        "grad mode": torch.is_grad_enabled(),
        "attention's fast path": torch.backends.mha.get_fastpath_enabled(),
    }


def differences(before: dict[str, object], after: dict[str, object]) -> list[str]:
    return [k for k in {**before, **after} if before.get(k, "none") != after.get(k, "none")]


def assert_untouched(model: nn.Module, before: dict[str, object]) -> None:
    changed = differences(before, snapshot(model))
    assert not changed, f"changed: {changed}"


def state(model: nn.Module) -> dict[str, str]:
    return {k: bits(v) for k, v in model.state_dict().items()}


def storages(model: nn.Module) -> set[int]:
    tensors = (*model.parameters(), *model.buffers())
    return {t.untyped_storage().data_ptr() for t in tensors if t.numel()}


def refused(message: str) -> pytest.RaisesExc:
    """Expect an ArgumentError with exactly this message."""
    return pytest.raises(pv.ArgumentError, match=f"^{re.escape(message)}$")


def plan_for(model: nn.Module, sparsity: float = 0.5) -> pv.Plan:
    return pv.select(pv.score(model, "magnitude"), sparsity=sparsity)


def numbers(value: object) -> list[float]:
    """Return all numbers of a result, whatever it is."""
    if isinstance(value, nn.Module):
        return [v for t in value.state_dict().values() for v in t.double().flatten().tolist()]
    if isinstance(value, pd.DataFrame):
        value = value.select_dtypes("number").to_numpy()
    if isinstance(value, Tensor | np.ndarray):
        return np.asarray(value, dtype=float).ravel().tolist()
    if isinstance(value, dict):
        return [v for part in value.values() for v in numbers(part)]
    if isinstance(value, list | tuple):
        return [v for part in value for v in numbers(part)]
    return [float(value)]  # type: ignore[arg-type]

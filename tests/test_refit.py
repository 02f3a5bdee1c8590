"""`shrink` with a repair: exact where the ladder says so, better rung by rung, for every kind of reader."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_untouched, refused, snapshot, storages
from torch import Tensor, nn
from zoo.case import net, stir

import pruneviz as pv

RUNGS = ("fold", "merge", "lstsq")


def data(*shape: int) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64)


def ready(model: nn.Module) -> nn.Module:
    """Float64, eval mode, biases and norms that are neither 0 nor 1."""
    return stir(model).double().eval()


def cut(model: nn.Module, units: dict[str, list[int]], x: Tensor, **options) -> nn.Module:
    """Shrink with evidence from `x`, unless batches are given."""
    options.setdefault("repair", "lstsq")
    if "batches" not in options:
        options.setdefault("evidence", pv.collect(model, [x], progress=False))
    plan = pv.drop(pv.find_groups(model, x), units)
    return pv.shrink(model, plan, example_input=x, **options)


def error(new: nn.Module, model: nn.Module, x: Tensor) -> float:
    """Mean square of what the outputs differ by."""
    with torch.no_grad():
        return float((new(x) - model(x)).square().mean())


def gap(new: nn.Module, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((new(x) - model(x)).abs().max() / model(x).abs().max())


# -- exact where the ladder says so --------------------------------------------------------------


class Residual(nn.Module):
    """The stem's units, which `conv2` makes too, are read by `conv1` and `head`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3)
        self.conv1 = nn.Conv2d(5, 4, 1)
        self.conv2 = nn.Conv2d(4, 5, 1)
        self.head = nn.Linear(5 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.conv2(self.conv1(x).relu())).relu().flatten(1))


def heads(q: nn.Module, k: nn.Module, v: nn.Module, proj: nn.Module) -> nn.Module:
    """Attention by hand: four heads of three."""

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).unflatten(-1, (-1, 3)).transpose(1, 2) for m in (self.q, self.k, self.v))
        y = F.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).flatten(2))

    return net(forward, q=q, k=k, v=v, proj=proj)


def torch_heads() -> nn.Module:
    attention = nn.MultiheadAttention(12, 4, batch_first=True)
    return net(
        lambda self, x: self.fc(self.attn(x, x, x)[0].relu()), attn=attention, fc=nn.Linear(12, 3)
    )


def grouped() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(2, 10, 3), nn.ReLU(), nn.Conv2d(10, 4, 3, groups=2))
    return nn.Sequential(*model, nn.ReLU(), nn.Flatten(), nn.Linear(4, 3))


def normed(**options) -> nn.Module:
    first = nn.Conv2d(2, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU()
    second = nn.Conv2d(5, 4, 3, **options), nn.BatchNorm2d(4), nn.ReLU()
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(4, 3))


# how to build it, its input, the layer that makes the units, and which of them go
NETS = {
    "mlp": (
        lambda: nn.Sequential(
            *(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
        ),
        (40, 6),
        {"0": [4]},
    ),
    "tokens": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)),
        (9, 5, 6),
        {"0": [4]},
    ),
    "conv": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(4, 3)),
        ),
        (100, 2, 5, 5),
        {"0": [4]},
    ),
    "conv1d with a stride": (
        lambda: nn.Sequential(nn.Conv1d(2, 5, 1), nn.ReLU(), nn.Conv1d(5, 3, 2, stride=2)),
        (30, 2, 7),
        {"0": [4]},
    ),
    "batch norm": (normed, (100, 2, 5, 5), {"0": [4]}),
    "batch norm behind no bias": (lambda: normed(bias=False), (100, 2, 5, 5), {"0": [4]}),
    "grouped conv": (grouped, (100, 2, 5, 5), {"0": [4, 9]}),
    "flatten": (
        lambda: nn.Sequential(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)),
        (60, 2, 4, 4),
        {"0": [4]},
    ),
    "residual": (Residual, (100, 2, 5, 5), {"stem": [4]}),
    "heads": (
        lambda: heads(*(nn.Linear(12, 12) for _ in range(3)), nn.Linear(12, 3)),
        (30, 5, 12),
        {"q": [3]},
    ),
    "torch's heads": (torch_heads, (30, 5, 12), {"attn": [3]}),
}


def plant(model: nn.Module, x: Tensor, units: dict[str, list[int]], what: str) -> None:
    """Make each unit a constant, twice the unit 4 (heads: 3) before it, or a sum of that and the next.

    With positive weights no ReLU clips anything; equal queries and keys let heads add up.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for t in tensors.values():
        t.data.abs_()
    (layer,) = units
    g = next(g for g in pv.find_groups(model, x) if layer in g.name.split(","))
    back = 3 if g.size == 4 else 4
    for s in g.slices:
        if s.role == "in" and not s.tensor.endswith("running_var"):
            continue
        t, at = tensors[s.tensor].data, torch.from_numpy(s.index)
        for p in units[layer]:
            a, b = at[p - back], at[p - back + 1]
            same = t.ndim == 1 and s.tensor.endswith(("weight", "running_var"))  # of a norm
            if s.layer in ("q", "k"):
                t[at] = t[a].expand(g.size, *t[a].shape).clone()
            elif s.layer == "attn":  # queries, keys, values
                t[at[:, :6]] = t[a[:6]].expand(g.size, *t[a[:6]].shape).clone()
                t[at[p, 6:]] = planted(t[a[6:]], t[b[6:]], what)
            elif same:
                t[at[p]] = t[a]
            elif what == "constant" and s.tensor.endswith("running_mean"):
                t[at[p]] = 0
            else:
                t[at[p]] = planted(t[a], t[b], what)


def planted(a: Tensor, b: Tensor, what: str) -> Tensor:
    if what == "constant":
        return torch.full_like(a, 0.5 if a.ndim == 1 else 0.0)
    return 2 * a if what == "twin" else a + b / 2


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize(
    ("what", "rung"),
    [
        ("constant", "fold"),
        ("constant", "merge"),
        ("constant", "lstsq"),
        ("twin", "merge"),
        ("twin", "lstsq"),
        ("combination", "lstsq"),
    ],
)
@pytest.mark.parametrize("name", NETS)
def test_what_is_planted_goes_without_a_trace(name, what, rung, batches):
    build, shape, units = NETS[name]
    model, x = ready(build()), data(*shape)
    plant(model, x, units, what)
    source = {"batches": [x[:20], x[20:]]} if batches else {}
    new = cut(model, units, x, repair=rung, ridge=0, **source)
    assert gap(new, model, data(*shape)) < 1e-10
    assert gap(cut(model, units, x, repair="none"), model, data(*shape)) > 1e-3
    if what == "combination":
        assert gap(cut(model, units, x, repair="merge"), model, data(*shape)) > 1e-5


# -- each rung at least as good as the one below, at what reads the units ------------------------

READERS = {
    "linear": (lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), (40, 6)),
    "without a bias": (
        lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)),
        (40, 6),
    ),
    "flatten": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)),
        (50, 2, 4, 4),
    ),
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 3)),
        (20, 2, 6, 6),
    ),
    "one position": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 3)),
        (40, 2, 3, 3),
    ),
    "stride and dilation": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, (3, 2), stride=2, dilation=2)
        ),
        (20, 2, 8, 7),
    ),
    "one by one": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 1)),
        (9, 2, 5, 5),
    ),
    "conv1d": (
        lambda: nn.Sequential(nn.Conv1d(2, 8, 1), nn.ReLU(), nn.Conv1d(8, 3, 3)),
        (20, 2, 6),
    ),
    "grouped": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 2, groups=2)),
        (20, 2, 5, 5),
    ),
    "circular": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 8, 1), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1, padding_mode="circular")
        ),
        (9, 2, 5, 5),
    ),
    "batch norm": (
        lambda: nn.Sequential(
            *(nn.Conv2d(2, 8, 1), nn.ReLU()),
            *(nn.Conv2d(8, 3, 3, bias=False), nn.BatchNorm2d(3, affine=False)),
        ),
        (20, 2, 5, 5),
    ),
}


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", READERS)
def test_on_the_data_seen_each_rung_is_at_least_as_good_as_the_one_below(name, seed):
    torch.manual_seed(seed)
    build, shape = READERS[name]
    model, x = ready(build()), data(*shape)
    if x.ndim > 2:
        x[..., 0] += 2 * (torch.rand(1) - 0.5)  # the border is unlike the rest
    units = {"0": [0, 2, 5, 7]}
    off = {r: error(cut(model, units, x, repair=r, ridge=0), model, x) for r in ("none", *RUNGS)}
    slack = 1e-12
    assert off["fold"] <= off["none"] + slack
    assert off["lstsq"] <= min(off.values()) + slack
    whole = cut(model, units, x, batches=[x], ridge=0)  # the first reader: the same fit
    assert error(whole, model, x) == pytest.approx(off["lstsq"], rel=1e-6, abs=slack)
    held = error(cut(model, units, x, ridge=0.1), model, x)
    assert off["lstsq"] <= held + slack
    assert held <= off["fold" if name != "without a bias" else "none"] + slack

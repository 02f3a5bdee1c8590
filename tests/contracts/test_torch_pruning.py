"""An oracle: where torch-pruning removes a layer's units rightly, it removes what we remove.

Rightly: its pruned model runs, and computes what the masked one does. What went is read from the
numbers that survive in both models (see test_mantissa). Where it is right and we refuse, the layer
is in a list here, with the reason.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from helpers.addresses import addressed, named, read, write
from torch import Tensor, nn
from zoo.awkward import AWKWARD
from zoo.judge import apart, call, third, top, unlike, wide

import pruneviz as pv
from pruneviz.lessons.models import build

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch_pruning as tp

LAYERS = (nn.Linear, nn.modules.conv._ConvNd)


class Residual(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.short = nn.Identity()
        if stride > 1 or inputs != width:
            self.short = nn.Sequential(
                nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.short(x))


class Dense(nn.Module):
    def __init__(self, inputs: int, growth: int, count: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            nn.Sequential(
                nn.BatchNorm2d(inputs + i * growth),
                nn.ReLU(),
                nn.Conv2d(inputs + i * growth, growth, 3, padding=1, bias=False),
            )
            for i in range(count)
        )

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = torch.cat([x, part(x)], 1)
        return x


def resnet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        Residual(8, 8),
        Residual(8, 12, 2),
        Residual(12, 12),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )


def densenet() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        Dense(6, 4, 3),
        nn.BatchNorm2d(18),
        nn.ReLU(),
        nn.Conv2d(18, 8, 1),
        nn.AvgPool2d(2),
        Dense(8, 4, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 16, 5),
    )


def mobilenet() -> nn.Module:
    def block(a: int, b: int) -> nn.Sequential:
        return nn.Sequential(
            *(nn.Conv2d(a, 3 * a, 1, bias=False), nn.BatchNorm2d(3 * a), nn.ReLU6()),
            *(nn.Conv2d(3 * a, 3 * a, 3, padding=1, groups=3 * a), nn.BatchNorm2d(3 * a)),
            *(nn.ReLU6(), nn.Conv2d(3 * a, b, 1, bias=False), nn.BatchNorm2d(b)),
        )

    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), block(6, 8), block(8, 10)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 5)),
    )


def vgg() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(6, 9, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(36, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 5)),
    )


@dataclass(frozen=True)
class Own:
    """As a case of the zoo, for what is written here."""

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]


def image() -> Tensor:
    return torch.randn(2, 3, 8, 8)


def digits() -> Tensor:
    return torch.randn(2, 1, 28, 28)


LESSONS = "lenet-300-100 lenet-5 batchnorm-cnn residual-net image-transformer".split()
OWN = [
    *(Own(f.__name__, f, image) for f in (resnet, densenet, mobilenet, vgg)),
    *(Own(name, lambda name=name: build(name), digits) for name in LESSONS),
]
CASES = [*OWN, *AWKWARD]
SEEN: list[tuple[str, str, str]] = []  # (case, layer, what came of it)

HANGS = {"interaction-of-tables"}  # torch-pruning, in an endless loop
# torch-pruning is right there, and we refuse
REFUSED = {
    "fft-over-space: conv1": "operators of torch.fft have no rule",
    "fourier-mixing-of-tokens: fc1": "operators of torch.fft have no rule",
    "distance-matrix-of-towers: a": "cdist has no rule",
    "distance-matrix-of-towers: b": "cdist has no rule",
    "message-passing: fc1": "index_add_ has no rule",
}


def graph_of(model: nn.Module, x: object) -> tp.DependencyGraph | None:
    """What torch-pruning finds; None if it fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return tp.DependencyGraph().build_dependency(model, x, verbose=False)
        except Exception:
            return None


def pruned(model: nn.Module, x: object, layer: str, rows: list[int]) -> nn.Module | None:
    """Let torch-pruning remove units of a layer, in a copy; None if it fails.

    With the units silenced first where it says they are made: for a layer that we refuse.
    """
    copied = copy.deepcopy(model)
    graph = graph_of(copied, x)
    if graph is None:
        return None
    module = copied.get_submodule(layer)
    try:
        prune = (
            tp.prune_linear_out_channels
            if isinstance(module, nn.Linear)
            else tp.prune_conv_out_channels
        )
        group = graph.get_pruning_group(module, prune, rows)
        group.prune()
    except Exception:
        return None
    return copied


def silenced(model: nn.Module, x: object, layer: str, rows: list[int]) -> nn.Module | None:
    """Zero what torch-pruning says are producers of these units, in a copy."""
    copied = copy.deepcopy(model)
    graph = graph_of(copied, x)
    if graph is None:
        return None
    module = copied.get_submodule(layer)
    prune = (
        tp.prune_linear_out_channels
        if isinstance(module, nn.Linear)
        else tp.prune_conv_out_channels
    )
    try:
        group = graph.get_pruning_group(module, prune, rows)
    except Exception:
        return None
    with torch.no_grad(), contextlib.suppress(IndexError):
        for dep, idxs in group:
            if "out_channels" not in dep.handler.__name__:
                continue
            target = dep.target.module
            transposed = isinstance(target, nn.modules.conv._ConvTransposeNd)
            for name in ("weight", "bias", "running_mean"):
                t = getattr(target, name, None)
                if isinstance(t, nn.Parameter):
                    t.movedim(1 if transposed and t.ndim > 1 else 0, 0)[idxs] = 0
    return copied


def same(model: nn.Module | None, masked: nn.Module | None, x: object) -> bool:
    if model is None or masked is None:
        return False
    for data in [x, *unlike(masked, x, batch=24)]:
        try:
            want, got = call(masked, data), call(model, data)
        except Exception:
            return False
        if not apart(got, want) <= 1e-10 * top(want):
            return False
    return True


def right(model: nn.Module, x: object, layer: str, row: int) -> bool:
    """Whether torch-pruning removes one unit so that its effect goes and nothing else."""
    theirs = pruned(model, x, layer, [row])
    if theirs is None or not same(theirs, theirs, x) or not all(map(len, theirs.parameters())):
        return False
    masked = silenced(model, x, layer, [row])
    return same(theirs, masked, x) and not same(masked, model, x)


def addresses(model: nn.Module) -> dict[str, list]:
    return {name: [t.shape, read(t)[1].ravel().tolist()] for name, t in named(model).items()}


def compare(case, model: nn.Module, x: object, layer: str, groups: pv.Groups) -> str:
    """Cut units of a layer in both ways; "agree", "disagree", "refused" or "failed" (torch-pruning)."""
    transposed = isinstance(model.get_submodule(layer), nn.modules.conv._ConvTransposeNd)
    dim = int(transposed)
    mine = [(g, s) for g in groups for s in g.slices
            if s.tensor == f"{layer}.weight" and s.dim == dim and s.role == "out"]  # fmt: skip
    free = [(g, s) for g, s in mine if not g.frozen and not g.approximate]
    if free:
        group, where = free[0]
        plan = third(groups, [group.name])
        rows = sorted(int(i) for i in where.index[~plan.keep[group.name].numpy()].ravel())
        try:
            ours = pv.shrink(model, plan, example_input=x)
        except pv.GraphError:
            free = []
    if not free:
        size = model.get_submodule(layer).weight.shape[dim]
        each = [right(model, x, layer, row) for row in range(min(size, 4))]
        return "refused" if size > 1 and all(each) else "failed"
    theirs = pruned(model, x, layer, rows)
    if not same(theirs, pv.mask(model, plan), x):
        return "failed"
    return "agree" if addresses(theirs) == addresses(ours) else "disagree"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_agrees(case):
    model = addressed(case)
    if model is None:
        pytest.skip("does not run in float64")
    x = wide(case.inputs())
    try:
        groups = pv.find_groups(model, x)
    except pv.GraphError:
        pytest.skip("cannot be traced")
    if case.name in HANGS or graph_of(copy.deepcopy(model), x) is None:
        SEEN.append((case.name, "", "failed"))
        return
    bad = []
    for layer, module in model.named_modules():
        if (
            not isinstance(module, LAYERS)
            or type(module).__name__ == "NonDynamicallyQuantizableLinear"
        ):
            continue
        what = compare(case, model, x, layer, groups)
        SEEN.append((case.name, layer, what))
        if what == "disagree" or (what == "refused" and f"{case.name}: {layer}" not in REFUSED):
            bad.append((layer, what))
    assert not bad


def test_the_oracle_had_something_to_say():
    if len({name for name, _, _ in SEEN}) < 0.9 * len(CASES):
        pytest.skip("some of them ran elsewhere, or not at all")
    right = {name for name, _, what in SEEN if what == "agree"}
    assert len(right) >= 100, f"torch-pruning is right on {len(right)} models"


def test_a_disagreement_would_be_seen():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    write(model)
    x = torch.randn(2, 4, dtype=torch.float64)
    plan = pv.drop(pv.find_groups(model, x), {"0": [1]})
    ours = pv.shrink(model, plan, example_input=x)
    assert addresses(pruned(model, x, "0", [1])) == addresses(ours)
    assert addresses(pruned(model, x, "0", [2])) != addresses(ours)

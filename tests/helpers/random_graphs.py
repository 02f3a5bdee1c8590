"""Small networks drawn at random."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo.case import stir

ACTS: list[Callable[[Tensor], Tensor]] = [
    *(torch.relu, torch.sigmoid, torch.tanh, F.gelu, F.silu, F.softplus),
    *(torch.cos, torch.abs, lambda x: x * 2 - 1, lambda x: x * x.sigmoid()),
]


WIDTHS = [4, 6, 8, 12]


Step = Callable[..., Any]


class Drawn(nn.Module):
    """Runs steps; each takes earlier values by number, and gives one or several more."""

    def __init__(
        self, steps: list[tuple[Step, list[int]]], leaves: list[int], head: nn.Module
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            p for s, _ in steps if isinstance(p := getattr(s, "part", None), nn.Module)
        )
        self.steps, self.leaves, self.head = steps, leaves, head

    def forward(self, x: Tensor) -> Tensor:
        values, parts = [x], iter(self.parts)
        for step, at in self.steps:
            given = [values[i] for i in at]
            got = step(next(parts), *given) if hasattr(step, "part") else step(*given)
            values.extend(got if isinstance(got, (tuple, list)) else [got])
        return self.head(torch.cat([self.flat(values[i]) for i in self.leaves], -1))

    def flat(self, x: Tensor) -> Tensor:
        return x.mean((2, 3)) if x.shape[-1] > 2 and x.ndim == 4 else x.flatten(1)


class With:
    """A step that calls a layer, which lies in the model."""

    def __init__(self, part: nn.Module, call: Step = lambda part, *x: part(*x)) -> None:
        self.part, self.call = part, call

    def __call__(self, part: nn.Module, *x: Tensor) -> Any:
        return self.call(part, *x)

    def __deepcopy__(self, memo: Any) -> With:
        return self  # the layer of the copied model is handed in


class Scale(nn.Module):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(shape))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def divisors(*sizes: int) -> list[int]:
    return [n for n in (1, 2, 3, 4) if all(s % n == 0 for s in sizes)]


def shuffled(x: Tensor, g: int) -> Tensor:
    return x.unflatten(1, (g, -1)).transpose(1, 2).flatten(1, 2)


def of_image(kind: int, a: int, b: int, x: Tensor, others: list[Tensor]) -> tuple[Any, int] | None:
    """Return a step for an image, and whether it takes a second value; None if nothing fits."""
    c, side, width = x.shape[1], x.shape[2], WIDTHS[a % len(WIDTHS)]
    conv = nn.Conv2d
    match kind:
        case 0 | 1 | 2:
            groups = divisors(c, width)
            k = 3 if side >= 3 and b % 2 else 1
            options = {"padding": (b // 2) % 2 * (k // 2), "bias": b % 5 > 0}
            return With(conv(c, width, k, groups=groups[b // 3 % len(groups)], **options)), 1
        case 3:
            return With(conv(c, c * (1 + a % 2), 3, padding=1, groups=c)), 1
        case 4:
            return With(nn.BatchNorm2d(c)), 1
        case 5 if side > 1:
            norms = [
                nn.InstanceNorm2d(c, affine=True),
                nn.GroupNorm(divisors(c)[b % len(divisors(c))], c),
            ]
            return With(norms[a % 2]), 1
        case 6 | 7:
            return functools.partial(lambda x, act: act(x), act=ACTS[a % len(ACTS)]), 1
        case 8:
            same = [i for i, o in enumerate(others) if o.shape[2:] == x.shape[2:]]
            return (lambda x, y: torch.cat([x, y], 1)), -1 - same[a % len(same)]
        case 9:
            same = [i for i, o in enumerate(others) if o.shape == x.shape]
            act = [torch.add, torch.mul, torch.sub][b % 3]
            return (lambda x, y: act(x, y)), -1 - same[a % len(same)]
        case 10 if c % 2 == 0 and c > 2:
            return (lambda x: tuple(x.chunk(2, 1))), 1
        case 11 if c % 2 == 0 and c > 2:
            return functools.partial(F.glu, dim=1), 1
        case 12 if c % 2 == 0 and c > 2:
            return functools.partial(shuffled, g=2), 1
        case 13 if c > 2:
            low = b % 2 * (c // 2)
            return (lambda x: x[:, low : low + x.shape[1] // 2]), 1
        case 14 if side >= 4:
            pool = [F.max_pool2d, F.avg_pool2d][a % 2]
            return (lambda x: pool(x, 2)), 1
        case 15:
            gate = nn.Sequential(nn.Linear(c, 4), nn.ReLU(), nn.Linear(4, c), nn.Sigmoid())
            return With(gate, lambda gate, x: x * gate(x.mean((2, 3)))[:, :, None, None]), 1
        case 16:
            return With(Scale((c, 1, 1))), 1
        case 17 if c % 4 == 0 and c > 4 and side < 8:
            return functools.partial(F.pixel_shuffle, upscale_factor=2), 1
        case 18:
            return With(nn.ConvTranspose2d(c, width, 2, stride=1 + b % 2)), 1 if side < 8 else None
        case 19:
            return (lambda x: x.transpose(2, 3)), 1
        case 20:
            return (
                lambda x: (
                    x.flatten(2)
                    .transpose(1, 2)
                    .reshape(x.shape[0], *x.shape[2:], -1)
                    .permute(0, 3, 1, 2)
                )
            ), 1
    return None


def of_tokens(kind: int, a: int, b: int, x: Tensor, others: list[Tensor]) -> tuple[Any, int] | None:
    """The same for tokens, (batch, tokens, width)."""
    c, width = x.shape[-1], WIDTHS[a % len(WIDTHS)]
    match kind:
        case 0 | 1 | 2 | 3:
            return With(nn.Linear(c, width, bias=b % 4 > 0)), 1
        case 4:
            return With(nn.LayerNorm(c)), 1
        case 5 | 6:
            return functools.partial(lambda x, act: act(x), act=ACTS[a % len(ACTS)]), 1
        case 7:
            same = [i for i, o in enumerate(others) if o.shape[:-1] == x.shape[:-1]]
            return (lambda x, y: torch.cat([x, y], -1)), -1 - same[a % len(same)]
        case 8 | 9:
            same = [i for i, o in enumerate(others) if o.shape == x.shape]
            act = [torch.add, torch.mul, torch.sub][b % 3]
            return (lambda x, y: act(x, y)), -1 - same[a % len(same)]
        case 10 if c % 2 == 0 and c > 2:
            return (lambda x: tuple(x.chunk(2, -1))), 1
        case 11 if c % 2 == 0 and c > 2:
            return functools.partial(F.glu, dim=-1), 1
        case 12 if c % 4 == 0:
            return With(
                nn.MultiheadAttention(c, 2, batch_first=True), lambda m, x: m(x, x, x)[0]
            ), 1
        case 13 if c % 4 == 0:

            def heads(qkv: nn.Module, x: Tensor) -> Tensor:
                q, k, v = (t.unflatten(-1, (-1, 4)).transpose(1, 2) for t in qkv(x).chunk(3, -1))
                return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

            return With(nn.Linear(c, 3 * c), heads), 1
        case 14:
            return With(Scale((c,))), 1
        case 15:
            return (lambda x: x.softmax(1)), 1
        case 16:
            return (lambda x: x.mean(1, keepdim=True) + x), 1
        case 17:
            return With(nn.Conv1d(c, width, 3, padding=1), lambda m, x: m(x.mT).mT), 1
        case 18 if c % 2 == 0 and c > 2:
            return (lambda x: torch.einsum("btgd->btdg", x.unflatten(-1, (2, -1))).flatten(2)), 1
        case 19:
            return With(nn.Linear(x.shape[1], x.shape[1]), lambda m, x: m(x.mT).mT), 1
        case 20:
            return With(nn.Dropout(0.5)), 1
    return None


def built(numbers: list[tuple[int, int, int, int]], make: Any, x: Tensor) -> Drawn:
    """A network from numbers: (which value, what is done, and two choices)."""
    torch.manual_seed(len(numbers))
    values, steps, used = [x], [], set()
    for which, kind, a, b in numbers:
        at = len(values) - 1 - which % min(len(values), 4)
        others = values[::-1]  # the last first
        found = make(kind, a, b, values[at], others)
        if found is None or found[1] is None:
            continue
        step, second = found
        inputs = [at] if second == 1 else [at, len(values) - 1 - (-1 - second)]
        given = [values[i] for i in inputs]
        with torch.no_grad():
            got = step(step.part, *given) if isinstance(step, With) else step(*given)
        steps.append((step, inputs))
        used |= set(inputs)
        values.extend(got if isinstance(got, (tuple, list)) else [got])
    leaves = [i for i in range(len(values)) if i not in used]
    model = Drawn(steps, leaves, nn.Identity())
    with torch.no_grad():
        width = model(x).shape[1]
    model.head = nn.Linear(width, 3)
    return stir(model).double()


small = st.integers(0, 11)


recipes = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 20), small, small), min_size=3, max_size=11
)

"""The exercises of the lessons: checks, hints, solutions."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from pruneviz.activations import activations
from pruneviz.drop import drop
from pruneviz.groups import find_groups
from pruneviz.lessons.checkpoints import load
from pruneviz.lessons.data import fashion_mnist
from pruneviz.lessons.exercises import NOTHING, exercise
from pruneviz.mask import mask
from pruneviz.metrics import accuracy
from pruneviz.score import score
from pruneviz.select import select
from pruneviz.shrink import shrink
from pruneviz.types import ArgumentError

BUDGET = 43_050  # a tenth of LeNet-5's weights


@exercise(
    "00-cliff",
    hints=(
        "try sparsities in steps of 0.01 and keep the first whose accuracy is below 0.50.",
        "move the panel from Python: panel.controls['sparsity'].value = 0.80, then look at "
        "panel.result['accuracy']; a for loop does the rest.",
    ),
    solution="""\
for answer in [s / 100 for s in range(100)]:
    panel.controls["sparsity"].value = answer
    if panel.result["accuracy"] < 0.50:
        break
""",
)
def cliff(answer: Any) -> str:
    """Check the first sparsity, in steps of 0.01, at which the accuracy is below 0.50."""
    if isinstance(answer, bool) or not isinstance(answer, (int, float)):
        return "The answer is one number, such as 0.5."
    if not 0 <= answer < 1:
        return "A sparsity is a fraction between 0 and 1, never a percentage."
    truth = _cliff()
    if abs(answer - truth) < 0.015:  # the neighbour counts: another CPU may round elsewhere
        return ""
    if answer < truth:
        return f"At {answer:g} the accuracy is still 0.50 or more."
    return f"At {answer:g} the accuracy is below 0.50, but it is so at a smaller sparsity already."


@exercise(
    "02-magnitude",
    hints=(
        "a tensor has a method that takes the sign away.",
        "weight.abs() is all there is to it.",
    ),
    solution="""\
def my_score(weight):
    return weight.abs()
""",
)
def magnitude(answer: Any) -> str:
    """Check a function from a weight tensor to scores by magnitude."""
    weight = torch.tensor([[-3.0, 1.0], [0.5, -0.25]])
    got = answer(weight.clone())
    if got is None or got is ...:
        return NOTHING
    if not isinstance(got, Tensor) or got.shape != weight.shape:
        return "It must return a tensor of the weight's shape: one score a weight."
    if not bool(got[0, 0] > got[0, 1]):
        return (
            "A weight of -3 must score higher than one of 1: "
            "its sign does not matter, its size does."
        )
    order = got.flatten().argsort().tolist()
    return "" if order == [3, 2, 1, 0] else "The larger |w|, the higher the score: for all weights."


@exercise(
    "02-exactly",
    hints=(
        "a threshold keeps too many when several scores are equal: rank the positions instead.",
        "torch.argsort(scores.flatten(), descending=True)[:n] are the positions that stay; "
        "set them to True in a tensor of False.",
    ),
    solution="""\
def keep_exactly(scores, n):
    keep = torch.zeros(scores.numel(), dtype=torch.bool)
    keep[torch.argsort(scores.flatten(), descending=True)[:n]] = True
    return keep.view(scores.shape)
""",
)
def exactly(answer: Callable[[Tensor, int], Any]) -> str:
    """Check a function (scores, n) to a boolean tensor that keeps the n highest."""
    scores = torch.tensor([[3.0, 1.0, 2.0], [2.0, 2.0, 0.5]])
    for n in (1, 3, 6, 0):
        got = answer(scores.clone(), n)
        if got is None or got is ...:
            return NOTHING
        if not isinstance(got, Tensor) or got.dtype != torch.bool or got.shape != scores.shape:
            return "It must return a boolean tensor of the scores' shape: True = keep."
        if int(got.sum()) != n:
            return f"Asked for {n} of six weights, it keeps {int(got.sum())}. Mind equal scores."
        if 0 < n < 6 and scores[got].min() < scores[~got].max():
            return "It keeps a weight with a lower score than one that it drops."
    return ""


@exercise(
    "02-budget",
    hints=(
        "fc1 holds 400,000 of the 430,500 weights: it must pay nearly all of the bill.",
        "conv1 has only 500 weights, and everything goes through them: hardly touch it. "
        "Then conv2 and fc2 can keep about half.",
    ),
    solution="""\
answer = {"conv1": 0.05, "conv2": 0.53, "fc1": 0.932, "fc2": 0.28}
""",
)
def budget(answer: Any) -> str:
    """Check sparsities, layer by layer, that keep at most a tenth of LeNet-5 and its accuracy."""
    if not isinstance(answer, Mapping):
        return 'The answer is a dict: {"conv1": 0.1, "conv2": 0.5, ...}.'
    model = load("lenet-5")
    try:
        plan = select(score(model, "magnitude"), sparsity=answer)
    except ArgumentError as e:
        return str(e)
    if plan.kept > BUDGET:
        return f"It keeps {plan.kept:,} weights; the budget is {BUDGET:,}."
    right = accuracy(mask(model, plan), fashion_mnist().validation[:2000].batches(500))
    if right < 0.80:
        return (
            f"Within the budget, but the accuracy is {right:.0%}. Shift the load to other layers."
        )
    return ""


@exercise(
    "03-by-hand",
    hints=(
        "keep everything but one row of weight, one number of bias, one column of next_weight.",
        "torch.arange(len(bias)) != neuron is True for all that stay; it can index rows, and columns "
        "as next_weight[:, stay].",
    ),
    solution="""\
def cut(weight, bias, next_weight, neuron):
    stay = torch.arange(len(bias)) != neuron
    return weight[stay], bias[stay], next_weight[:, stay]
""",
)
def by_hand(answer: Callable[[Tensor, Tensor, Tensor, int], Any]) -> str:
    """Check a function that cuts a neuron from the three tensors it lives in, against `shrink`."""
    torch_seed = torch.Generator().manual_seed(3)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=torch_seed)
    x = torch.ones(1, 4)
    groups = find_groups(model, x)
    weight, bias, after = (t.detach() for t in list(model.parameters())[:3])
    for neuron in (2, 0, 5):
        got = answer(weight.clone(), bias.clone(), after.clone(), neuron)
        if got is None or got is ...:
            return NOTHING
        if not isinstance(got, (tuple, list)) or len(got) != 3:
            return "It must return three tensors: (weight, bias, next_weight)."
        small = shrink(model, drop(groups, {"0": [neuron]}), example_input=x)
        for name, a, b in zip(
            ("weight", "bias", "next_weight"), got, small.parameters(), strict=False
        ):
            if not isinstance(a, Tensor) or a.shape != b.shape:
                shape = tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__
                return (
                    f"Without one of 6 neurons {name} has the shape {tuple(b.shape)}, not {shape}."
                )
            if not torch.equal(a, b):
                return f"{name} has the right shape, but it has lost another neuron than {neuron}."
    return ""


@exercise(
    "03-columns",
    hints=(
        "channel 0 has the columns 0 to size - 1; where does channel 1 begin?",
        "they are consecutive: list(range(first, first + size)), and first depends on c.",
    ),
    solution="""\
def columns(c, size):
    return list(range(c * size, (c + 1) * size))
""",
)
def columns(answer: Callable[[int, int], Any]) -> str:
    """Check which columns behind a flattened image belong to a channel, against `find_groups`."""
    for channels, side in ((5, 2), (3, 3)):
        model = nn.Sequential(
            nn.Conv2d(1, channels, 1), nn.Flatten(), nn.Linear(channels * side**2, 2)
        )
        (group,) = find_groups(model, torch.zeros(1, 1, side, side)).groups_of("0")
        truth = next(s.index for s in group.slices if s.role == "in").tolist()
        for c in (0, 1, channels - 1):
            got = answer(c, side**2)
            if got is None or got is ...:
                return NOTHING
            got = sorted(int(i) for i in got)
            if len(got) != side**2:
                return f"A channel of {side**2} numbers has {side**2} columns, not {len(got)}."
            if got != truth[c]:
                return (
                    f"With {side**2} numbers a channel, channel {c} has other columns than {got}."
                )
    return ""


@exercise(
    "04-sandal",
    hints=(
        "data.validation[data.validation.labels == 5].x are the sandals; pv.activations(model, sandals, "
        "groups=groups, group='fc1') is one row a neuron, one column a sandal.",
        "dead: (of_sandals == 0).all(1). Awake on shirts: (of_shirts > 0).float().mean(1) >= 0.2. "
        "Both at once with &, and torch.where says where.",
    ),
    solution="""\
of_sandals, of_shirts = (
    pv.activations(model, seen[seen.labels == c].x, groups=groups, group="fc1") for c in (5, 6)
)
both = (of_sandals == 0).all(1) & ((of_shirts > 0).float().mean(1) >= 0.2)
answer = torch.where(both)[0].item()
""",
)
def sandal(answer: Any) -> str:
    """Check the number of a neuron that is dead on sandals and awake on shirts."""
    if isinstance(answer, Tensor) and answer.numel() == 1:
        answer = answer.item()
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < 500:
        return "The answer is the number of one neuron of fc1, from 0 to 499."
    sandals, shirts = (int(t[answer]) for t in _fired())
    if sandals:
        return f"Neuron {answer} is active on {sandals} of the sandals: it must be on none."
    if shirts < 200:  # of about 1,000
        return f"Neuron {answer} sleeps on all sandals, but it is active on {shirts} shirts only."
    return ""


@exercise(
    "04-fold",
    hints=(
        "what does the next layer lose when the neuron goes? Its column times the value, for each "
        "output one number.",
        "bias + value * weight[:, neuron] is the new bias; then cut the column, as in lesson 03.",
    ),
    solution="""\
def fold(weight, bias, neuron, value):
    stay = torch.arange(weight.shape[1]) != neuron
    return weight[:, stay], bias + value * weight[:, neuron]
""",
)
def folding(answer: Callable[[Tensor, Tensor, int, float], Any]) -> str:
    """Check a function that folds a constant neuron into the next layer."""
    generator = torch.Generator().manual_seed(4)
    weight, bias = torch.randn(2, 4, generator=generator), torch.randn(2, generator=generator)
    seen = torch.randn(5, 4, generator=generator)
    for neuron, value in ((1, 0.0), (3, 2.0), (0, -1.5)):
        got = answer(weight.clone(), bias.clone(), neuron, value)
        if got is None or got is ...:
            return NOTHING
        shapes = [tuple(t.shape) for t in got if isinstance(t, Tensor)]
        if shapes != [(2, 3), (2,)]:
            return "It must return two tensors: the weight with one column less, and the bias."
        stay = [i for i in range(4) if i != neuron]
        if not torch.equal(got[0], weight[:, stay]):
            return f"The weight has the right shape, but not the columns of those but {neuron}."
        seen[:, neuron] = value
        off = got[0] @ seen[:, stay].T + got[1].unsqueeze(1) - weight @ seen.T - bias.unsqueeze(1)
        if float(off.abs().max()) > 1e-4:
            return f"A neuron that always gives {value:g} goes, and the output is another one."
    return ""


@exercise(
    "05-merge",
    hints=(
        "how many times the one that stays is the other one? Its row is so many times longer: "
        "weight[removed].norm() / weight[kept].norm().",
        "the next layer's column of the one that stays gains that many times the column of the other; "
        "then cut as in lesson 03. Change a copy: next_weight.clone().",
    ),
    solution="""\
def merge(weight, bias, next_weight, kept, removed):
    scale = weight[removed].norm() / weight[kept].norm()
    next_weight = next_weight.clone()
    next_weight[:, kept] += scale * next_weight[:, removed]
    stay = torch.arange(len(bias)) != removed
    return weight[stay], bias[stay], next_weight[:, stay]
""",
)
def merged(answer: Callable[[Tensor, Tensor, Tensor, int, int], Any]) -> str:
    """Check a function that merges two exact twins, against `shrink` with ``repair="merge"``."""
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    generator = torch.Generator().manual_seed(5)
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator)
    weight, bias, after, _ = (t.detach() for t in model.parameters())
    weight[4], bias[4] = 2.5 * weight[1], 2.5 * bias[1]
    x = torch.ones(1, 4)
    groups = find_groups(model, x)
    for kept, removed in ((4, 1), (1, 4)):
        got = answer(weight.clone(), bias.clone(), after.clone(), kept, removed)
        if got is None or got is ...:
            return NOTHING
        if not isinstance(got, (tuple, list)) or len(got) != 3:
            return "It must return three tensors: (weight, bias, next_weight)."
        plan = drop(groups, {"0": [removed]})
        small = shrink(model, plan, example_input=x, repair="merge")
        for name, a, b in zip(
            ("weight", "bias", "next_weight"), got, small.parameters(), strict=False
        ):
            if not isinstance(a, Tensor) or a.shape != b.shape:
                shape = tuple(a.shape) if isinstance(a, Tensor) else type(a).__name__
                return (
                    f"Without one of 6 neurons {name} has the shape {tuple(b.shape)}, not {shape}."
                )
            if not torch.allclose(a, b, atol=1e-5):
                if name != "next_weight":
                    return f"{name} has the right shape, but not the numbers of those that stay."
                return _wrong_share(a, after, kept, removed)
    return ""


def _wrong_share(got: Tensor, after: Tensor, kept: int, removed: int) -> str:
    """Say what is wrong with the next layer's weights, of the right shape, after a merge."""
    stay = [i for i in range(after.shape[1]) if i != removed]
    asked = (
        f"Neuron {removed} went, neuron {kept} stays: how many times neuron {kept} was neuron "
        f"{removed}?"
    )
    scale = 2.5 if removed == 4 else 0.4  # 4 is 2.5 times 1

    def shared(share: float) -> bool:
        there = after.clone()
        there[:, kept] += share * after[:, removed]
        return torch.allclose(got, there[:, stay], atol=1e-5)

    if shared(0):
        return "That is a clean cut, but nobody does the work of the one that went."
    if shared(1):
        return f"The column of the one that went is added as it is, without a scale. {asked}"
    if shared(1 / scale):
        return f"The scale is upside down. {asked}"
    return f"next_weight has the right shape, but the output would be another one. {asked}"


@exercise(
    "05-offset",
    hints=(
        "put scale · a_kept + offset in the place of a_removed, and multiply out: one part goes "
        "with a_kept, the other depends on no input.",
        "the weights gain scale * next_weight[:, removed], the bias gains "
        "offset * next_weight[:, removed].",
    ),
    solution="""\
def take_over(next_weight, next_bias, kept, removed, scale, offset):
    column = next_weight[:, removed]
    next_weight = next_weight.clone()
    next_weight[:, kept] += scale * column
    stay = torch.arange(next_weight.shape[1]) != removed
    return next_weight[:, stay], next_bias + offset * column
""",
)
def take_over(answer: Callable[[Tensor, Tensor, int, int, float, float], Any]) -> str:
    """Check how the next layer changes where a neuron is a multiple of another plus a constant."""
    generator = torch.Generator().manual_seed(6)
    after, bias = torch.randn(2, 4, generator=generator), torch.randn(2, generator=generator)
    for kept, removed, scale, offset in ((0, 2, 0.5, 0.0), (3, 1, 2.0, -1.5), (1, 0, 0.0, 3.0)):
        got = answer(after.clone(), bias.clone(), kept, removed, scale, offset)
        if got is None or got is ...:
            return NOTHING
        shapes = [tuple(t.shape) for t in got if isinstance(t, Tensor)]
        if shapes != [(2, 3), (2,)]:
            return "It must return two tensors: next_weight without a column, and next_bias."
        seen = torch.randn(5, 4, generator=generator)
        seen[:, removed] = scale * seen[:, kept] + offset
        stay = [i for i in range(4) if i != removed]
        off = got[0] @ seen[:, stay].T + got[1].unsqueeze(1) - after @ seen.T - bias.unsqueeze(1)
        if float(off.abs().max()) > 1e-4:
            weights = after.clone()
            weights[:, kept] += scale * after[:, removed]
            wrong = (
                "The weights are right, the bias is not."
                if torch.allclose(got[0], weights[:, stay], atol=1e-5)
                else "The weights are not right yet."
            )
            return (
                f"With scale {scale:g} and offset {offset:g} the next layer gives something else "
                f"than before. {wrong}"
            )
    return ""


@cache
def _fired() -> tuple[Tensor, Tensor]:
    """Count, for each neuron of LeNet-5's fc1, on how many sandals and on how many shirts it fires."""
    model, seen = load("lenet-5"), fashion_mnist().validation
    groups = find_groups(model, seen[:8].x)
    of = [activations(model, seen[seen.labels == c].x, groups=groups, group="fc1") for c in (5, 6)]
    return (of[0] > 0).sum(1), (of[1] > 0).sum(1)


@cache
def _cliff() -> float:
    model = load("lenet-300-100")
    scores, batches = score(model, "magnitude"), list(fashion_mnist().validation.batches())
    for step in range(100):
        plan = select(scores, sparsity=step / 100)
        if accuracy(mask(model, plan), batches) < 0.50:
            return step / 100
    return 1.0

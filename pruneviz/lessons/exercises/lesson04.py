"""Which exercises lesson 04 has, on inactive neurons: checks, hints, solutions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from pruneviz.evidence.activations import activations
from pruneviz.graph.find_groups import find_groups
from pruneviz.lessons.checkpoints import load
from pruneviz.lessons.data import fashion_mnist
from pruneviz.lessons.exercises.exercise import exercise


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
    """Check the number of a neuron that is dead on sandals and active on shirts."""
    if isinstance(answer, Tensor) and answer.numel() == 1:
        answer = answer.item()
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < 500:
        return "The answer is the number of one neuron of fc1, from 0 to 499."
    sandals, shirts = (int(t[answer]) for t in _times_active())
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
    inputs = torch.randn(5, 4, generator=generator)
    for neuron, value in ((1, 0.0), (3, 2.0), (0, -1.5)):
        got = answer(weight.clone(), bias.clone(), neuron, value)
        shapes = [tuple(t.shape) for t in got if isinstance(t, Tensor)]
        if shapes != [(2, 3), (2,)]:
            return "It must return two tensors: the weight with one column less, and the bias."
        kept = [i for i in range(4) if i != neuron]
        if not torch.equal(got[0], weight[:, kept]):
            return f"The weight has the right shape, but not the columns of those but {neuron}."
        inputs[:, neuron] = value
        error = (
            got[0] @ inputs[:, kept].T + got[1].unsqueeze(1) - weight @ inputs.T - bias.unsqueeze(1)
        )
        if float(error.abs().max()) > 1e-4:
            return f"A neuron that always gives {value:g} goes, and the output is another one."
    return ""


@cache
def _times_active() -> tuple[Tensor, Tensor]:
    """Count the sandals and the shirts on which each neuron of LeNet-5's fc1 is active."""
    model, images = load("lenet-5"), fashion_mnist().validation
    groups = find_groups(model, images[:8].x)
    sandals, shirts = (
        activations(model, images[images.labels == c].x, groups=groups, group="fc1") for c in (5, 6)
    )
    return (sandals > 0).sum(1), (shirts > 0).sum(1)

"""Small networks drawn at random: the theorem in float64 for a random plan, or a refusal in words."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from helpers.random_graphs import (
    built,
    of_image,
    of_tokens,
    recipes,
)
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from zoo.case import Case
from zoo.judge import PROGRAM, Bench, Verdict

import pruneviz as pv


def random_plan(groups: pv.Groups, seed: int) -> pv.Plan:
    """Drop a random number of random units of each group that can be cut, evenly where it must be."""
    rng = np.random.default_rng(seed)
    keep = {}
    for g in groups:
        if g.frozen:
            continue
        parts = np.zeros(g.size, int) if g.even is None else g.even
        count = rng.integers(0, np.unique(parts, return_counts=True)[1].min())
        kept = np.ones(g.size, bool)
        for part in np.unique(parts):
            kept[rng.choice(np.flatnonzero(parts == part), count, replace=False)] = False
        keep[g.name] = torch.from_numpy(kept)
    return pv.Plan(keep, groups)


OUTCOMES: list[str] = []


def holds(numbers: list[tuple[int, int, int, int]], seed: int, make: Any, x: Tensor) -> None:
    x = x.double()
    model = built(numbers, make, x.float())
    groups = pv.find_groups(model, x, approximate=bool(seed % 2))
    plan = random_plan(groups, seed)
    v = Verdict("drawn")
    if plan.kept < plan.total:
        case = Case("drawn", lambda: model, lambda: x)
        bench = Bench(case, model, x, groups, False, v)
        bench.cut("all", plan, functools.partial(pv.shrink, model, example_input=x))
    assert not v.wrong, v.wrong
    how = next(iter(v.cut), "refused" if v.refused else "nothing to cut")
    OUTCOMES.append("as a program" if how.endswith(PROGRAM) else how)


profile = functools.partial(
    settings,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
)


@profile(max_examples=70)
@given(recipes, st.integers(0, 9))
@example([(0, 0, 1, 0), (0, 12, 0, 0), (0, 0, 2, 1)], 3)
def test_images(numbers, seed):
    holds(
        numbers, seed, of_image, torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1))
    )


@profile(max_examples=70)
@given(recipes, st.integers(0, 9))
@example([(0, 0, 2, 1), (0, 13, 0, 0), (0, 0, 1, 1)], 3)
def test_tokens(numbers, seed):
    holds(
        numbers, seed, of_tokens, torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))
    )


def test_most_were_cut():
    if len(OUTCOMES) < 100:
        pytest.skip("the two tests above ran elsewhere, or not at all")
    assert OUTCOMES.count("all") > 0.5 * len(OUTCOMES), OUTCOMES

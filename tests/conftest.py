from __future__ import annotations

import os
import sys

import helpers
import matplotlib
import pytest
import torch
from hypothesis import settings

matplotlib.use("Agg")
os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars are for people
# the same examples in every run: a failure must be there again when one looks for it
settings.register_profile("pruneviz", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("pruneviz")


@pytest.fixture(autouse=True)
def close_figures():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.fixture
def small_model():
    return helpers.mlp()


@pytest.fixture
def x():
    return helpers.inputs()


@pytest.fixture
def batches():
    return helpers.batches()

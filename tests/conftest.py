from __future__ import annotations

import sys

import helpers
import matplotlib
import pytest
import torch
from hypothesis import settings

matplotlib.use("Agg")
# the same examples in every run: a failure must be there again when one looks for it
settings.register_profile("pruneviz", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("pruneviz")


# found by these tests and not mended yet: numbers of the bug list in issue 3's closing note.
# Strict: whoever mends one has to take it off.
KNOWN = {
    "test_find_groups.py::test_several_groups_of_one_layer_are_named_by_their_rows": 9,
    "test_find_groups.py::test_no_trace[caching]": 10,
    "test_find_groups.py::test_recurrent_layers_freeze_what_they_touch": 6,
    "test_shrink.py::test_wrappers[DataParallel]": 7,
    "test_shrink.py::test_wrappers[<lambda>]": 7,
    "test_shrink.py::test_attention_that_is_asked_for_another_number_of_masks": 14,
    "test_shrink.py::test_an_encoder[self_attn-options0]": 13,
    "test_shrink.py::test_an_encoder[self_attn-options2]": 13,
    "test_shrink.py::test_refused_arguments[too short]": 5,
    "test_shrink.py::test_refused_arguments[no booleans]": 5,
    "test_shrink.py::test_nan_in_a_buffer": 8,
    "test_shrink.py::test_a_program_gives_what_the_model_gives": 15,
    "test_shrink.py::test_the_model_is_untouched[caching]": 10,
}


def pytest_collection_modifyitems(items):
    for item in items:
        number = KNOWN.get(item.nodeid.removeprefix("tests/"))
        if number:
            item.add_marker(pytest.mark.xfail(reason=f"bug {number} of issue 3", strict=True))


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

"""Controls hold values between limits, and say what they are."""

import pytest

import pruneviz as pv
from pruneviz.panels.kit.controls import Check, Choice, Range


def test_a_range_stays_between_its_ends():
    control = Range("x", 1.0, 2.0, 0.25, digits=2, value=1.5)
    seen = []
    control.observe(lambda change: seen.append(change["new"]), "value")
    for value in (7, -7, 1.3):
        control.value = value
    assert seen == [2.0, 1.0, 1.3]
    assert control.steps() == [1.0, 1.25, 1.5, 1.75, 2.0]
    assert control.described() == {
        "kind": "slider", "label": "x", "min": 1.0, "max": 2.0, "step": 0.25, "digits": 2,
    }  # fmt: skip


def test_a_choice_takes_what_it_knows():
    control = Choice("layer", {"all": "*", "(model)": ""})
    control.value = ""
    with pytest.raises(pv.ArgumentError, match="`layer` 'x' is unknown"):
        control.value = "x"
    assert control.value == ""


def test_a_check_is_yes_or_no():
    control = Check("log", True)
    control.value = False
    assert control.value is False

"""A line of text that names units, and back."""

import pytest
from helpers import refused
from hypothesis import given
from hypothesis import strategies as st

from pruneviz.selection.notation import HOW, MAX_RANGE, read_units, write_units

NAMES = st.text(st.characters(blacklist_characters=";", blacklist_categories=["Cs"]), max_size=8)
UNITS = st.dictionaries(st.integers(0, 60), st.booleans(), min_size=1)


@given(st.dictionaries(NAMES.filter(lambda n: n == n.strip()), UNITS))
def test_what_is_written_is_read(units):
    assert read_units(write_units(units)) == units


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("", {}),
        (" ; ", {}),
        ("a: 0", {"a": {0: False}}),
        ("a: -0", {"a": {0: True}}),
        ("a:1,2 ; b : - 3 - 5", {"a": {1: False, 2: False}, "b": {3: True, 4: True, 5: True}}),
        ("a: 4-4; a: 5, 5", {"a": {4: False, 5: False}}),
        ("a: −7–8", {"a": {7: True, 8: True}}),  # as a book would print it
        ("conv, part 2: 1", {"conv, part 2": {1: False}}),
        ("a:b: 1", {"a:b": {1: False}}),
        ("(model): 1", {"": {1: False}}),
        ("<img src=x onerror=alert(1)>: 2", {"<img src=x onerror=alert(1)>": {2: False}}),
    ],
)
def test_lines_that_can_be_read(text, units):
    assert read_units(text) == units


BAD = [
    ("conv1", f"'conv1' names no units. {HOW}"),
    ("3, 5", f"'3, 5' names no units. {HOW}"),
    ("a: 1; : 3", f"': 3' names no units. {HOW}"),
    ("a: 1; b:", f"'b:' names no units. {HOW}"),
    ("a: 1,, 2", f"'', after 'a', is not the number of a unit. {HOW}"),
    ("a: 1.5", f"'1.5', after 'a', is not the number of a unit. {HOW}"),
    ("a: --1", f"'--1', after 'a', is not the number of a unit. {HOW}"),
    ("a: 3-5-7", f"'3-5-7', after 'a', is not the number of a unit. {HOW}"),
    ("a: x", f"'x', after 'a', is not the number of a unit. {HOW}"),
    ("a: 7-5", f"'7-5', after 'a', must run from a number to a larger one, and name at most {MAX_RANGE:,} units."),
    ("a: 0-999999999", f"'0-999999999', after 'a', must run from a number to a larger one, and name at most {MAX_RANGE:,} units."),
    ("a: 1-5, -3", "unit 3 of 'a' is named twice, once to remove and once to keep. Leave one out."),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD)
def test_other_lines_are_refused(text, message):
    with refused(message):
        read_units(text)


@pytest.mark.parametrize("name", ["a;b", "a "])
def test_a_name_that_could_not_be_read_is_not_written(name):
    with refused(
        f"layer {name!r} cannot be written by hand: its name has a semicolon, or ends in a space. "
        "Rename it, or pass its units to pv.drop."
    ):
        write_units({name: {0: False}})

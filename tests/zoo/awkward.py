"""The awkward modules, all of them."""

from .awkward_attention import CASES as ATTENTION
from .awkward_conv import CASES as CONV
from .awkward_shapes import CASES as SHAPES
from .awkward_units import CASES as UNITS
from .awkward_weights import CASES as WEIGHTS
from .case import Case

AWKWARD: list[Case] = [*WEIGHTS, *UNITS, *SHAPES, *CONV, *ATTENTION]

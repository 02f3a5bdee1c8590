"""Which criteria are there? Importing this package registers them in `CRITERIA`."""

from pruneviz.selection.criteria import data as data
from pruneviz.selection.criteria import obs_units as obs_units
from pruneviz.selection.criteria import weights as weights

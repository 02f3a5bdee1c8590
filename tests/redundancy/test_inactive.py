from __future__ import annotations

import pytest
import torch

import pruneviz as pv


def test_groups_that_no_watched_layer_reads_are_left_out():
    model = torch.nn.Sequential(
        torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 5), torch.nn.ReLU(),
        torch.nn.Linear(5, 2),
    )  # fmt: skip
    x = torch.randn(20, 4)
    groups = pv.find_groups(model, x)
    evidence = pv.collect(model, [x], layers=["2"], progress=False)
    with pytest.warns(UserWarning, match="left out: 2 .`evidence` has no layer that reads them"):
        frame = pv.find_inactive(evidence, groups=groups, rare=0.99)
    assert set(frame["group"]) == {"0"}
    with pytest.raises(pv.ArgumentError, match="has no layer that reads group '2'"):
        pv.find_inactive(evidence, groups=groups, strict=True)

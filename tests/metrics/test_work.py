"""Work with and without zeros: against `measure`, against Han et al. 2015, against counting by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from helpers import MODELS, assert_untouched, build, inputs, mlp, plan_for, refused, snapshot
from torch import nn

import pruneviz as pv
from pruneviz.lessons import NETWORKS
from pruneviz.lessons import build as lesson

IMAGES = torch.randn(3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
# Han et al. 2015, tables 3 and 4: weights, FLOP, Act%, Weights%, FLOP% (in thousands and per cent)
HAN = {
    "lenet-300-100": {
        "fc1": (235, 470, 38, 8, 8),
        "fc2": (30, 60, 65, 9, 4),
        "fc3": (1, 2, 100, 26, 17),
        "total": (266, 532, 46, 8, 8),
    },
    "lenet-5": {
        "conv1": (0.5, 576, 82, 66, 66),
        "conv2": (25, 3200, 72, 12, 10),
        "fc1": (400, 800, 55, 8, 6),
        "fc2": (5, 10, 100, 19, 10),
        "total": (431, 4586, 77, 8, 16),
    },
}


def whole(frame):
    return frame.set_index("tensor").loc["whole"]


@pytest.mark.parametrize("name", HAN)
def test_the_tables_of_han_et_al(name):
    model = lesson(name)
    layers = [n for n in HAN[name] if n != "total"]
    left = {n: HAN[name][n][3] / 100 for n in layers}
    plan = pv.select(pv.score(model, "magnitude"), sparsity={n: 1 - s for n, s in left.items()})
    frame = pv.effective_macs(pv.mask(model, plan), [IMAGES]).set_index("tensor")
    before, flops = 1.0, 0.0  # they count the image as dense
    for layer in layers:
        row, (weights, flop, active, _, share) = frame.loc[f"{layer}.weight"], HAN[name][layer]
        assert abs(row["weights"] / 1000 - weights) <= 0.5
        assert abs(row["flops"] / 1000 - flop) <= 0.5
        # their column: weights that are not 0, times what was active in the layer before
        ours = row["macs_weights"] / row["macs"] * before
        assert abs(100 * ours - share) <= 1
        before, flops = active / 100, flops + ours * row["flops"]
    total = HAN[name]["total"]
    assert abs(frame.loc["whole", "weights"] / 1000 - total[0]) <= 0.5
    assert abs(frame.loc["whole", "flops"] / 1000 - total[1]) <= 0.5
    assert abs(100 * flops / frame.loc["whole", "flops"] - total[4]) <= 1


@pytest.mark.parametrize("name", NETWORKS)
def test_dense_it_is_what_measure_counts(name):
    model = lesson(name)
    frame = pv.effective_macs(model, [IMAGES, IMAGES[:1]])
    assert whole(frame)["macs"] == pv.measure(model, IMAGES).macs
    assert (frame["flops"] == 2 * frame["macs"]).all()
    assert (frame["macs_weights"] == frame["macs"]).all()  # no weight is exactly 0
    assert list(frame["tensor"]) == [*pv.named_weights(model), "other", "whole"]


@pytest.mark.parametrize("name", NETWORKS)
def test_masked_as_much_is_left_as_weights(name):
    model = lesson(name)
    masked = pv.mask(model, plan_for(model, 0.9))
    for pruned in (masked, pv.bake(masked)):
        frame = pv.effective_macs(pruned, [IMAGES])
        assert whole(frame)["macs"] == pv.measure(model, IMAGES).macs
        rows = frame[:-2]
        assert (rows["macs_weights"] / rows["macs"] - (1 - rows["sparsity"])).abs().max() < 1e-9
        assert (frame["macs_weights_activations"] <= frame["macs_weights"] + 1e-9).all()
        for column in ("macs", "macs_weights", "macs_weights_activations"):
            assert math.isclose(whole(frame)[column], frame[column][:-1].sum())


def test_activations_by_hand():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    x = torch.tensor([[1.0, -1.0], [2.0, 3.0], [0.0, 0.0], [-1.0, -4.0]])
    frame = pv.effective_macs(model, [x]).set_index("tensor")
    assert frame.loc["0.weight", "macs_weights"] == 2
    assert frame.loc["0.weight", "active"] == 6 / 8
    assert frame.loc["0.weight", "macs_weights_activations"] == 2 * 6 / 8
    assert frame.loc["2.weight", "active"] == 3 / 8  # 1 and 0; 2 and 3; 0 and 0; 0 and 0
    assert frame.loc["2.weight", "macs_weights_activations"] == 2 * 3 / 8
    several = pv.effective_macs(
        model, [(x[:1], torch.zeros(1)), (x[1:], torch.zeros(3))]
    ).set_index("tensor")
    assert several.equals(frame)


def test_what_is_skipped_where_zeros_are_independent():
    torch.manual_seed(3)
    layer = nn.Linear(400, 300, bias=False)
    masked = pv.mask(layer, pv.select(pv.score(layer, "random"), sparsity=0.8))
    x = torch.randn(50, 400).relu()
    really = torch.count_nonzero(x, 0) @ torch.count_nonzero(masked.weight, 0) / 50
    estimate = whole(pv.effective_macs(masked, [x]))["macs_weights_activations"]
    assert abs(estimate / really - 1) < 0.01


LAYERS = [
    (nn.Conv2d(4, 8, 3, padding=1, groups=2), (4, 6, 6)),
    (nn.ConvTranspose2d(4, 6, 3, stride=2), (4, 5, 5)),
    (nn.Conv1d(2, 5, 3), (2, 8)),
    (nn.Conv3d(2, 3, 2), (2, 4, 4, 4)),
    (nn.Linear(5, 7), (3, 5)),
    (nn.Linear(5, 7, bias=False), (5,)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_layers(layer, shape):
    masked = pv.mask(layer, plan_for(layer, 0.75))
    x = torch.randn(3, *shape)
    x[:, :1] = 0
    frame = pv.effective_macs(masked, [x])
    row = frame.iloc[0]
    assert row["macs"] == pv.measure(layer, x).macs == whole(frame)["macs"]
    assert math.isclose(row["macs_weights"], row["macs"] * (1 - row["sparsity"]))
    assert math.isclose(row["active"], float((x != 0).float().mean()), rel_tol=1e-6)


def test_attention_and_its_projections():
    t, d = 5, 8
    model = nn.MultiheadAttention(d, 2, batch_first=True)
    x = torch.randn(3, t, d)
    plan = plan_for(model, 0.5)
    for m in (model, pv.mask(model, plan)):
        frame = pv.effective_macs(m, [((x, x, x), None)]).set_index("tensor")
        assert frame["macs"].to_dict() == {
            "in_proj_weight": 3 * t * d * d, "out_proj.weight": t * d * d,
            "other": 2 * t * t * d, "whole": 4 * t * d * d + 2 * t * t * d,
        }  # fmt: skip
    kept = plan.keep["in_proj_weight"].sum()
    assert frame.loc["in_proj_weight", "macs_weights"] == t * kept


def test_a_tied_weight_works_twice():
    frame = pv.effective_macs(build("tied"), [inputs()]).set_index("tensor")
    assert frame.loc["fc1.weight", "macs"] == 2 * 36 * 36
    assert "fc2.weight" not in frame.index


def test_what_looks_up_and_what_never_runs_is_no_work():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.idle, self.fc = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(F.relu(self.table(x)))

    frame = pv.effective_macs(Net(), [torch.tensor([1, 2, 3])]).set_index("tensor")
    assert frame["macs"].to_dict() == {
        "table.weight": 0, "idle.weight": 0, "fc.weight": 8, "other": 0, "whole": 8,
    }  # fmt: skip
    assert math.isnan(frame.loc["idle.weight", "active"])


@pytest.mark.parametrize("name", MODELS)
def test_it_leaves_no_trace(name):
    model = build(name)
    before = snapshot(model)
    if name == "raising":
        with pytest.raises(pv.ArgumentError, match="boom"):
            pv.effective_macs(model, [inputs()])
    else:
        frame = pv.effective_macs(model, [inputs()])
        if name != "spectral":  # what makes a weight is done once, and no work of the weight
            assert whole(frame)["macs"] == pv.measure(model, inputs()).macs
    assert_untouched(model, before)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: pv.effective_macs(mlp(), []),
            "`batches` is empty: there is nothing to count. Pass an iterable of batches; a generator "
            "runs only once.",
        ),
        (
            lambda: pv.effective_macs(nn.ReLU(), [inputs()]),
            "`model` (ReLU) has no parameters: it needs a Linear, Conv, Embedding, attention or recurrent layer. There is "
            "nothing to prune.",
        ),
        (
            lambda: pv.effective_macs(mlp(), 3),
            "`batches` must be an iterable of batches, such as a list of tensors or a DataLoader, "
            "but an int was passed.",
        ),
    ],
)
def test_bad_input(call, message):
    with refused(message):
        call()

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers import MODELS, assert_untouched, build, handmade, inputs, refused, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import pruneviz as pv
from pruneviz.evidence.evidence import Evidence
from pruneviz.evidence.moments import Moments
from pruneviz.evidence.streams import Patches
from pruneviz.lessons.models import ResidualNet
from pruneviz.redundancy.redundant import find_redundant

COLUMNS = ["group", "layer", "kept", "removed", "similarity", "scale", "offset"]
MLP = handmade.mlp_groups()
CONV = handmade.conv_groups()


def pairs(frame):
    """(group, kept, removed) of each row."""
    return list(zip(frame.group, frame.kept, frame.removed, strict=True))


def seen(model, x, *layers, full=True):
    """Evidence of what layers read: columns; of a convolution patches, and channels' diagonal."""
    rows: dict[str, Tensor] = {}
    whole, patches, shapes = {}, {}, {}
    with pv.evaluating(model), pv.hooked(model, layers, lambda n, i, o: rows.update({n: i[0]})):
        model(x)
    for n, r in rows.items():
        module = model.get_submodule(n)
        conv = isinstance(module, nn.Conv2d)
        flat = r.movedim(1, -1).flatten(0, -2)
        whole[n] = Moments.of(flat, comoment=full and not conv)
        shapes[n] = tuple(module.weight.shape)
        if conv and full:
            stream = Patches(module, True)
            stream.add(r)
            patches[n] = stream.result()
    return Evidence(whole, patches, examples=len(x), shapes=shapes)


@torch.no_grad()
def copy_rows(layer, kept, removed, scale=1.0, *names):
    for name in names or ("weight", "bias"):
        t = getattr(layer, name)
        if t is not None:
            t[removed] = scale * t[kept]


@torch.no_grad()
def randomised(model):
    """Norms with statistics of their own."""
    torch.manual_seed(1)
    for m in model.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.normal_()
            m.running_var.uniform_(0.5, 2)
            if m.affine:
                m.weight.uniform_(0.5, 2)
                m.bias.normal_()
    return model.eval()


# what units compute: by weights


def test_a_hand_computation():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 4.0], [0.0, 3.0]]))
        model[0].bias.copy_(torch.tensor([1.0, 2.0, 4.0]))
    frame = find_redundant(model, groups=pv.find_groups(model, torch.zeros(2, 2)))
    assert list(frame.columns) == COLUMNS
    # (0, 4, 2) and (0, 3, 4): 20 / (√20 · 5); (2, 0, 1): 4 / (√5 · 5), 2 / (√5 · √20)
    want = [
        ("0", "0", 2, 1, 20 / (20**0.5 * 5), 20**0.5 / 5, 0.0),
        ("0", "0", 2, 0, 4 / (5**0.5 * 5), 5**0.5 / 5, 0.0),
        ("0", "0", 1, 0, 2 / (5**0.5 * 20**0.5), 0.5, 0.0),
    ]
    pd.testing.assert_frame_equal(frame, pd.DataFrame(want, columns=COLUMNS))


def test_planted_neurons_are_found_and_none_invented():
    model = handmade.mlp()
    copy_rows(model.fc1, 1, 4)
    copy_rows(model.fc2, 3, 0, 2.5)
    frame = find_redundant(model, groups=MLP, threshold=1 - 1e-9)
    assert pairs(frame) == [("fc1", 1, 4), ("fc2", 0, 3)]
    np.testing.assert_allclose(frame.scale, [1, 0.4], rtol=1e-6)
    assert (frame.offset == 0).all()


def test_a_negative_multiple_is_not_redundant():
    model = handmade.mlp()
    copy_rows(model.fc1, 1, 4, -1.0)
    frame = find_redundant(model, groups=MLP)
    assert frame.similarity.iloc[0] < 0.99
    assert frame[frame.group == "fc1"].similarity.iloc[-1] == -1


def test_the_bias_counts():
    model = handmade.mlp()
    copy_rows(model.fc1, 1, 4)
    model.fc1.bias.data[4] += 1
    assert find_redundant(model, groups=MLP, threshold=0.999).empty


@pytest.mark.parametrize("affine", [True, False])
def test_channels_are_compared_as_they_are_behind_a_batch_norm(affine):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(2, 6, 3, bias=affine), nn.BatchNorm2d(6, affine=affine), nn.ReLU()),
        *(nn.Conv2d(6, 3, 3), nn.Flatten(), nn.Linear(12, 2)),
    ).double()
    conv, norm = randomised(model)[:2]
    with torch.no_grad():
        # the same function behind the norm, whatever scale stands before it
        conv.weight[4] = 5 * conv.weight[1]
        if affine:
            conv.bias[4] = 5 * conv.bias[1] + 3
            norm.weight[4], norm.bias[4] = 2 * norm.weight[1], 2 * norm.bias[1]
        norm.running_mean[4] = 5 * norm.running_mean[1] + 3 * affine
        norm.running_var[4] = 25 * (norm.running_var[1] + norm.eps) - norm.eps
        # the same filter, but not the same channel
        conv.weight[5] = conv.weight[2]
    x = torch.randn(3, 2, 6, 6).double()
    behind = model[:3](x)
    scale = 2.0 if affine else 1.0
    torch.testing.assert_close(behind[:, 4], scale * behind[:, 1])
    groups = pv.find_groups(model, x)
    frame = find_redundant(model, groups=groups, threshold=1 - 1e-9)
    assert pairs(frame) == [("0", 4, 1) if affine else ("0", 1, 4)]
    assert frame.scale[0] == pytest.approx(1 / scale)


class Sum(nn.Module):
    """Two convolutions, one with a norm, added; then what a test puts there."""

    def __init__(self, after: nn.Module | None = None) -> None:
        super().__init__()
        self.a = nn.Conv2d(1, 5, 3, bias=False)
        self.norm = nn.BatchNorm2d(5)
        self.b = nn.Conv2d(1, 5, 3)
        self.after = after or nn.Identity()
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.a(x)) + self.b(x)
        return self.head(self.after(x.relu()).mean((2, 3)))


def summed(after=None):
    torch.manual_seed(0)
    model = randomised(Sum(after).double())
    x = torch.randn(4, 1, 6, 6).double()
    return model, x, pv.find_groups(model, x)


def test_all_producers_must_agree_in_one_scale():
    model, _x, groups = summed()
    copy_rows(model.norm, 0, 3, 2.0)
    copy_rows(model.a, 0, 3)
    copy_rows(model.norm, 0, 3, 1.0, "running_mean", "running_var")
    assert find_redundant(model, groups=groups, threshold=1 - 1e-9).empty
    copy_rows(model.b, 0, 3, 3.0)
    assert find_redundant(model, groups=groups, threshold=1 - 1e-9).empty
    copy_rows(model.b, 0, 3, 2.0)
    frame = find_redundant(model, groups=groups, threshold=1 - 1e-9)
    assert pairs(frame) == [("a", 3, 0)]
    assert frame.scale[0] == pytest.approx(0.5)


def same_sum(model):
    copy_rows(model.a, 0, 3)
    copy_rows(model.norm, 0, 3, 1.0, "weight", "bias", "running_mean", "running_var")
    copy_rows(model.b, 0, 3)


@pytest.mark.parametrize(
    "after", [nn.BatchNorm2d(5), nn.PReLU(5), nn.Conv2d(5, 5, 3, groups=5)], ids=repr
)
def test_what_comes_later_must_agree_too(after):
    model, x, groups = summed(after)
    after = model.after
    names = [n for n, t in (*after.named_parameters(), *after.named_buffers()) if t.ndim]
    with torch.no_grad():
        for n in names:
            getattr(after, n).uniform_(0.2, 2)
    same_sum(model)
    assert find_redundant(model, groups=groups, threshold=1 - 1e-9).empty
    copy_rows(after, 0, 3, 1.0, *names)
    frame = find_redundant(model, groups=groups, threshold=1 - 1e-9)
    assert pairs(frame) == [("a", 0, 3)]
    assert frame.scale[0] == pytest.approx(1)
    # twice the sum stays twice as much in a PReLU, and where what is added is twice as much as well
    for layer, name in ((model.norm, "weight"), (model.norm, "bias"), (model.b, "weight")):
        getattr(layer, name).data[3] *= 2
    model.b.bias.data[3] *= 2
    if "bias" in names:
        assert find_redundant(model, groups=groups, threshold=1 - 1e-9).empty
        after.bias.data[3] *= 2
        if isinstance(after, nn.BatchNorm2d):
            # β − γ μ ÷ σ is twice as much
            after.running_mean.data[3] *= 2
    frame = find_redundant(model, groups=groups, threshold=1 - 1e-9)
    assert pairs(frame) == [("a", 3, 0)]
    assert frame.scale[0] == pytest.approx(0.5)
    read = {}
    with pv.hooked(model, ["after"], lambda n, i, o: read.update(out=o)):
        model(x)
    torch.testing.assert_close(read["out"][:, 0], 0.5 * read["out"][:, 3])


def test_a_residual_net():
    torch.manual_seed(0)
    model = randomised(ResidualNet())
    x = torch.randn(2, 1, 28, 28)
    groups = pv.find_groups(model, x)
    assert find_redundant(model, groups=groups, threshold=0.99).empty
    norm = ("weight", "bias", "running_mean", "running_var")
    inner = model.stage2[0]
    copy_rows(inner.conv1, 3, 30)
    copy_rows(inner.bn1, 3, 30, 1.0, *norm)
    # the stream of the last stage: every layer that adds to it
    first, second = model.stage3
    for conv, bn in ((first.conv2, first.bn2), (first.shortcut[0], first.shortcut[1]),
                     (second.conv2, second.bn2)):  # fmt: skip
        copy_rows(conv, 60, 7)
        copy_rows(bn, 60, 7, 1.0, *norm)
    frame = find_redundant(model, groups=groups, threshold=1 - 1e-9)
    assert sorted(pairs(frame)) == [("stage2.0.conv1", 3, 30), ("stage3.0.conv2", 7, 60)]
    np.testing.assert_allclose(frame.scale, 1)
    plan = pv.drop(groups, {"stage2.0.conv1": [30]})
    assert plan.keep["stage2.0.conv1"].sum() == 31


@pytest.mark.parametrize("transposed", [False, True])
def test_filters_of_different_blocks_read_different_channels(transposed):
    torch.manual_seed(0)
    Conv = nn.ConvTranspose2d if transposed else nn.Conv2d
    model = nn.Sequential(
        *(nn.Conv2d(1, 4, 3), nn.ReLU(), Conv(4, 8, 3, groups=2, bias=False), nn.ReLU()),
        *(nn.Conv2d(8, 6, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)),
    ).eval()
    x = torch.randn(2, 1, 9, 9)
    model(x)
    groups = pv.find_groups(model, x)
    middle = next(g for g in groups if "2" in g.producers)
    assert not middle.frozen
    w = model[2].weight.data
    if transposed:  # (4 inputs, 8 / 2 outputs, ...)
        w[2:, 0] = w[:2, 0]  # channels 0 and 4
        w[:2, 3] = 2 * w[:2, 1]  # channels 1 and 3
    else:
        w[4] = w[0]
        w[3] = 2 * w[1]
    frame = find_redundant(model, groups=groups, threshold=1 - 1e-9)
    assert pairs(frame) == [(middle.name, 3, 1)]


def test_a_gated_unit_has_two_rows():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 10), nn.GLU(), nn.Linear(5, 2))
    copy_rows(model[0], 1, 4)
    groups = pv.find_groups(model, torch.zeros(2, 4))
    assert find_redundant(model, groups=groups, threshold=0.999).empty
    copy_rows(model[0], 6, 9)
    assert pairs(find_redundant(model, groups=groups, threshold=0.999)) == [("0", 1, 4)]


def test_attention_heads():
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(12, 3, 16, batch_first=True).eval()
    groups = pv.find_groups(model, torch.zeros(2, 5, 12))
    with torch.no_grad():
        model.self_attn.in_proj_bias.normal_()
        for t in (model.self_attn.in_proj_weight, model.self_attn.in_proj_bias):
            parts = t.view(3, 3, 4, *t.shape[1:])  # q, k, v; heads
            parts[:, 2] = parts[:, 0]
    frame = find_redundant(model, groups=groups, threshold=0.999)
    assert pairs(frame) == [("self_attn", 0, 2)]


@pytest.mark.parametrize("wrap", ["weight_norm", "masked"])
def test_weights_count_as_the_forward_sees_them(wrap):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    copy_rows(model[0], 1, 4, 2.0)
    if wrap == "weight_norm":
        nn.utils.parametrizations.weight_norm(model[0])
        groups = pv.find_groups(model, torch.zeros(2, 4))
    else:
        groups = pv.find_groups(model, torch.zeros(2, 4))
        keep = torch.ones(6, 4, dtype=torch.bool)
        keep[[2, 3], :2] = False
        model[0].weight.data[2, 2:] = model[0].weight.data[3, 2:]
        model[0].bias.data[2] = model[0].bias.data[3]
        model = pv.mask(model, pv.Plan({"0.weight": keep}))
    frame = find_redundant(model, groups=groups, threshold=1 - 1e-9)
    assert sorted(pairs(frame)) == [("0", 2, 3)] * (wrap == "masked") + [("0", 4, 1)]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_precision(dtype):
    model = nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1))
    randomised(model)
    groups = pv.find_groups(model, torch.zeros(2, 1, 5, 5))
    for layer in model[:2]:
        copy_rows(layer, 2, 4)
    copy_rows(model[1], 2, 4, 1.0, "running_mean", "running_var")
    frame = find_redundant(model.to(dtype), groups=groups, threshold=1 - 1e-9)
    assert pairs(frame) == [("0", 2, 4)]


def test_frozen_groups_have_none():
    model = handmade.mlp()
    copy_rows(model.fc3, 0, 1)
    assert "fc3" not in set(find_redundant(model, groups=MLP).group)


def test_a_unit_of_zeros_is_in_no_pair():
    model = handmade.mlp()
    for unit in (2, 3):
        model.fc1.weight.data[unit] = 0
        model.fc1.bias.data[unit] = 0
    frame = find_redundant(model, groups=MLP)
    assert not {2, 3} & {*frame[frame.group == "fc1"].kept, *frame[frame.group == "fc1"].removed}


def test_top_counts_over_all_groups_and_a_hundred_is_what_comes_without():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(5, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 2)
    )
    groups = pv.find_groups(model, torch.zeros(2, 5))
    every = find_redundant(model, groups=groups, threshold=-1)
    assert len(every) == 30 * 29 // 2 + 20 * 19 // 2
    assert every.similarity.is_monotonic_decreasing
    for frame, n in (
        (find_redundant(model, groups=groups), 100),
        (find_redundant(model, groups=groups, top=7), 7),
    ):
        pd.testing.assert_frame_equal(frame, every.head(n))
    both = find_redundant(model, groups=groups, top=7, threshold=every.similarity[3])
    pd.testing.assert_frame_equal(both, every.head(4))


def test_no_pair_gives_an_empty_frame_of_the_same_types():
    some, none = (
        find_redundant(handmade.mlp(), groups=MLP),
        find_redundant(handmade.mlp(), groups=MLP, threshold=1),
    )
    assert none.empty
    assert list(none.columns) == COLUMNS
    assert list(none.dtypes[2:]) == list(some.dtypes[2:])
    only = pv.Groups((MLP["fc3"],))
    assert find_redundant(handmade.mlp(), groups=only).empty


# what units did: by evidence


def test_by_activations_a_hand_computation():
    model = nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 1))
    groups = pv.Groups(
        (pv.Group("0", 3, (*handmade.rows("0", 3), handmade.where("1.weight", 1, "in", 3))),)
    )
    rows = torch.tensor([[0.0, 7.0, 1.0], [1.0, 3.0, 1.0], [3.0, -5.0, 1.0], [0.0, 7.0, 1.0]])
    frame = find_redundant(model, groups=groups, evidence=Evidence({"1": Moments.of(rows)}))
    # unit 1 = 7 − 4 · unit 0; unit 2 is constant
    want = [("0", "0", 1, 0, 1.0, -0.25, 1.75)]
    pd.testing.assert_frame_equal(frame, pd.DataFrame(want, columns=COLUMNS))


def test_by_activations_as_numpy_has_it():
    model = handmade.mlp()
    x = torch.randn(200, 5)
    frame = find_redundant(model, groups=MLP, evidence=seen(model, x, "fc2", "fc3"), top=1000)
    with torch.no_grad():
        a = F.relu(model.fc1(x)).double().numpy()
    alive = a.std(0) > 0
    fc1 = frame[frame.group == "fc1"]
    assert len(fc1) == alive.sum() * (alive.sum() - 1) // 2
    for row in fc1.itertuples():
        kept, removed = a[:, row.kept], a[:, row.removed]
        scale, offset = np.polyfit(kept, removed, 1)
        assert row.similarity == pytest.approx(abs(np.corrcoef(kept, removed)[0, 1]), abs=1e-5)
        assert (row.scale, row.offset) == pytest.approx((scale, offset), abs=1e-5)
        assert kept.var() >= removed.var() * (1 - 1e-6)


def test_by_activations_planted_neurons_are_found_and_none_invented():
    model = handmade.mlp().double()
    copy_rows(model.fc1, 1, 4)
    copy_rows(model.fc2, 3, 0, 2.5)
    x = torch.randn(300, 5).double()
    evidence = seen(model, x, "fc2", "fc3")
    frame = find_redundant(model, groups=MLP, evidence=evidence, threshold=1 - 1e-9)
    assert pairs(frame) == [("fc1", 1, 4), ("fc2", 0, 3)]
    np.testing.assert_allclose(frame.scale, [1, 0.4])
    np.testing.assert_allclose(frame.offset, 0, atol=1e-12)


def convolutional(padding=1):
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU()),
        *(nn.Conv2d(6, 5, 3, padding=padding), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 16, 2)),
    )
    return randomised(model.double()), torch.randn(50, 1, 4, 4).double()


def test_by_activations_the_middle_of_a_kernel_and_the_pixels_of_a_flatten():
    model, x = convolutional()
    copy_rows(model[0], 1, 4, 3.0)
    copy_rows(model[1], 1, 4, 2.0, "weight", "bias")
    copy_rows(model[1], 1, 4, 3.0, "running_mean")
    model[1].running_var[4] = 9 * (model[1].running_var[1] + model[1].eps) - model[1].eps
    copy_rows(model[3], 0, 3, 0.5)
    evidence = seen(model, x, "3", "6")
    assert not evidence.inputs["3"].full
    frame = find_redundant(
        model, groups=pv.find_groups(model, x), evidence=evidence, threshold=1 - 1e-9
    )
    assert sorted(pairs(frame)) == [("0", 4, 1), ("3", 0, 3)]
    np.testing.assert_allclose(frame.scale, 0.5)
    np.testing.assert_allclose(frame.offset, 0, atol=1e-10)


def test_by_activations_all_positions_are_pooled():
    model, x = convolutional()
    evidence = seen(model, x, "6")  # no evidence of layer 3: its group is left out
    frame = find_redundant(model, groups=pv.find_groups(model, x), evidence=evidence)
    assert set(frame.group) == {"3"}
    with torch.no_grad():
        a = model[:5](x).movedim(1, 0).flatten(1).numpy()  # (channels, examples · pixels)
    for row in frame.itertuples():
        want = np.corrcoef(a[row.kept], a[row.removed])[0, 1]
        assert row.similarity == pytest.approx(abs(want))
        assert (row.scale, row.offset) == pytest.approx(
            tuple(np.polyfit(a[row.kept], a[row.removed], 1))
        )


def test_by_activations_within_the_blocks_of_a_grouped_consumer():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3, groups=2), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(16, 2)),
    ).double()
    x = torch.randn(30, 1, 6, 6).double()
    groups = pv.find_groups(model, x)
    copy_rows(model[0], 5, 7, 0.5)  # of one block
    copy_rows(model[0], 1, 6)  # of two blocks: 1 cannot replace 6
    for evidence in (seen(model, x, "2", "5"), None):
        frame = find_redundant(model, groups=groups, evidence=evidence, threshold=1 - 1e-9)
        assert pairs(frame) == [("0", 5, 7)]
        np.testing.assert_allclose(frame.scale, 0.5)


def test_by_activations_a_constant_unit_is_in_no_pair():
    model = handmade.mlp()
    for unit in (2, 3):
        model.fc1.weight.data[unit] = 0
        model.fc1.bias.data[unit] = 0.1
    frame = find_redundant(
        model, groups=MLP, evidence=seen(model, torch.randn(99, 5), "fc2", "fc3")
    )
    fc1 = frame[frame.group == "fc1"]
    assert not {2, 3} & {*fc1.kept, *fc1.removed}


def test_with_evidence_as_it_is_collected():
    from pruneviz.evidence.collect import collect

    model, x = convolutional()
    groups = pv.find_groups(model, x)
    frame = find_redundant(
        model, groups=groups, evidence=collect(model, x.split(20), progress=False)
    )
    want = find_redundant(model, groups=groups, evidence=seen(model, x, "3", "6"))
    pd.testing.assert_frame_equal(frame, want, rtol=1e-4, atol=1e-6)


@given(
    width=st.integers(2, 9),
    inputs=st.integers(1, 5),
    scale=st.floats(0.1, 10),
    data=st.data(),
)
@settings(deadline=None, max_examples=40)
def test_any_planted_pair_is_found(width, inputs, scale, data):
    i, j = data.draw(st.lists(st.integers(0, width - 1), min_size=2, max_size=2, unique=True))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    layers = {"fc1": nn.Linear(inputs, width), "relu": nn.ReLU(), "fc2": nn.Linear(width, 2)}
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    copy_rows(model.fc1, i, j, scale)
    hidden = (*handmade.rows("fc1", width), handmade.where("fc2.weight", 1, "in", width))
    groups = pv.Groups((pv.Group("fc1", width, hidden),))
    frame = find_redundant(model, groups=groups, threshold=1.0)
    found = {
        frozenset((a, b)): s for a, b, s in zip(frame.kept, frame.removed, frame.scale, strict=True)
    }
    assert found[frozenset((i, j))] == pytest.approx(min(scale, 1 / scale), rel=1e-5)
    assert (frame.scale <= 1 + 1e-6).all()


# what must not be, and what is left behind


@pytest.mark.parametrize("name", [n for n in MODELS if n not in ("raising", "random")])
def test_no_trace(name):
    model = build(name)
    try:
        groups = pv.find_groups(model, inputs())
    except ValueError:
        pytest.skip("it has no groups")
    before = snapshot(model)
    find_redundant(model, groups=groups)
    assert_untouched(model, before)
    with pytest.raises(pv.ArgumentError):
        find_redundant(model, groups=groups, threshold=95)
    assert_untouched(model, before)


def test_data_parallel_is_taken_off():
    model = handmade.mlp()
    frame = find_redundant(nn.DataParallel(model), groups=MLP)
    pd.testing.assert_frame_equal(frame, find_redundant(model, groups=MLP))


def test_a_norm_of_the_batch_s_own_statistics():
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(1, 5, 3, bias=False), nn.BatchNorm2d(5, track_running_stats=False), nn.ReLU()),
        nn.Conv2d(5, 2, 1),
    )
    with torch.no_grad():
        model[1].weight.uniform_(0.5, 2)
        model[1].bias.normal_()
    groups = pv.find_groups(model, torch.randn(4, 1, 5, 5))
    if groups["0"].frozen:
        pytest.skip(groups["0"].frozen)
    copy_rows(model[0], 0, 3)
    copy_rows(model[1], 0, 3)
    assert pairs(find_redundant(model, groups=groups, threshold=1 - 1e-9)) == [("0", 0, 3)]


def spoiled(value, name="weight"):
    model = handmade.conv()
    getattr(model.norm, name).data[1] = value
    return model


def of_conv():
    return Evidence({"a": Moments.of(torch.rand(3, 2))}, shapes={"a": (7, 2)})


NAN = (
    "the weights or norms of group 'stem' contain NaN or infinity: they cannot be compared. "
    "Train the model anew, or load a sound checkpoint."
)
BAD = Evidence({"fc2": Moments.of(torch.tensor([[1.0] * 6, [torch.inf] * 6]))})
HINT = "Collect it: pv.collect(model, batches)."


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m: find_redundant(m, groups=MLP, threshold=95),
            "`threshold` must be a similarity in [-1, 1], but 95 was passed. Did you mean 0.95? "
            "Similarities, never percentages.",
        ),
        (
            lambda m: find_redundant(m, groups=MLP, evidence=of_conv(), threshold=-0.5),
            "`threshold` must be a similarity in [0, 1], but -0.5 was passed.",
        ),
        (
            lambda m: find_redundant(m, groups=MLP, top=0),
            "`top` must be a whole number ≥ 1, but 0 was passed.",
        ),
        (
            lambda m: find_redundant(m, groups=list(MLP)),
            "`groups` must be a Groups, but a list was passed. Make them: "
            "pv.find_groups(model, example_input).",
        ),
        (
            lambda m: find_redundant(m, groups=CONV),
            "`groups` is of another model: it names 'stem.weight', but the tensors here are: "
            "fc1.weight, fc1.bias, fc2.weight, fc2.bias, fc3.weight, fc3.bias.",
        ),
        (
            lambda m: find_redundant(m, groups=MLP, evidence={}),
            f"`evidence` must be an Evidence, but a dict was passed. {HINT}",
        ),
        (
            lambda m: find_redundant(m, groups=MLP, evidence=of_conv()),
            "`evidence` is of another model: it has a weight of shape (7, 2) in layer 'a', which is "
            f"not there here. {HINT}",
        ),
        (
            lambda m: find_redundant(
                m, groups=MLP, evidence=Evidence({"fc2": Moments.of(torch.rand(3, 5))})
            ),
            "`evidence` is of another model: it saw 5 inputs where group 'fc1' is read, but here the "
            "units reach to 6.",
        ),
        (
            lambda m: find_redundant(
                m, groups=MLP, evidence=seen(m, torch.rand(9, 5), "fc2", full=False)
            ),
            "`evidence` has no whole co-moment for a consumer of any group, so nothing can be "
            "correlated. Collect it: pv.collect(model, batches, comoment=True).",
        ),
        (
            lambda m: find_redundant(m, groups=MLP, evidence=BAD),
            "`evidence` of what reads group 'fc1' contains NaN or infinity. Look for the batch that "
            "holds them, and collect it anew.",
        ),
        (lambda m: find_redundant(spoiled(torch.nan), groups=CONV), NAN),
        (lambda m: find_redundant(spoiled(torch.inf), groups=CONV), NAN),
        (lambda m: find_redundant(spoiled(-1.0, "running_var"), groups=CONV), NAN),
        (
            lambda m: find_redundant("model", groups=MLP),
            "`model` must be a torch.nn.Module, but a str was passed.",
        ),
    ],
)
def test_bad_calls(call, message):
    with refused(message):
        call(handmade.mlp())


def test_evidence_of_attention_is_of_this_model():
    """Its in-projection is a consumer without a module of its own."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.att = nn.Linear(6, 8), nn.MultiheadAttention(8, 2, batch_first=True)
            self.out = nn.Linear(8, 3)

        def forward(self, x):
            x = torch.relu(self.first(x))
            return self.out(self.att(x, x, x, need_weights=False)[0])

    torch.manual_seed(0)
    model, x = Block().eval(), torch.randn(20, 5, 6)
    with torch.no_grad():
        model.first.weight[1], model.first.bias[1] = model.first.weight[0], model.first.bias[0]
    evidence = pv.collect(model, [x], progress=False)
    groups = pv.find_groups(model, x)
    found = pv.find_redundant(model, groups=groups, evidence=evidence, threshold=0.999)
    assert found[["group", "kept", "removed"]].values.tolist() == [["first", 0, 1]]

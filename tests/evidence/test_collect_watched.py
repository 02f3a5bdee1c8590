"""Whatever multiplies its input with a weight is watched: transposed convolutions, attention, keywords."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_untouched, refused, snapshot
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo.case import net

import pruneviz as pv
from pruneviz.model.layers import blocks_of, consumers, shaped
from pruneviz.model.padding import real_tokens
from pruneviz.model.patches import patches, reads_border

KINDS = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@st.composite
def transposed(draw):
    dims, groups = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    each = [
        (draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(1, 2)))
        for _ in range(dims)
    ]
    kernel, stride, dilation = zip(*each, strict=True)
    reach = [d * (k - 1) for k, _, d in each]
    padding = tuple(draw(st.integers(0, min(2, r))) for r in reach)
    extra = tuple(draw(st.integers(0, max(s, d) - 1)) for _, s, d in each)
    conv = KINDS[dims](
        2 * groups, 3 * groups, kernel, stride, padding, extra, groups, dilation=dilation
    ).double()
    x = torch.randn(2, 2 * groups, *(draw(st.integers(2, 4)) for _ in range(dims))).double()
    return conv, x


@settings(max_examples=60, deadline=None)
@given(transposed())
def test_patches_times_weights_are_a_transposed_convolution(case):
    conv, x = case
    rows = torch.stack(patches(conv, x).chunk(conv.groups, -1))  # (groups, n, positions, columns)
    y = rows @ blocks_of(conv).unsqueeze(1).mT  # (groups, n, positions, outputs)
    want = conv(x) - conv.bias.reshape(-1, *[1] * (x.ndim - 2))
    torch.testing.assert_close(torch.cat([*y], -1).mT, want.flatten(2))
    assert torch.equal(shaped(conv, blocks_of(conv)), conv.weight)
    size = want.shape[2:]  # also one that the user asks for
    assert torch.equal(patches(conv, x, size), patches(conv, x))


@settings(max_examples=40, deadline=None)
@given(transposed())
def test_a_constant_is_the_same_everywhere_unless_it_is_said(case):
    conv, x = case
    if any(s > 1 for s in conv.stride):
        return
    y = conv(torch.ones_like(x)).flatten(2)
    spread = (y - y[..., :1]).abs().max()
    assert bool(spread > 1e-9) <= reads_border(conv)


def test_an_output_size_that_is_asked_for_is_seen():
    def forward(self, x):
        return self.up(self.a(x).relu(), output_size=(10, 9))

    model = net(forward, a=nn.Conv2d(2, 4, 1), up=nn.ConvTranspose2d(4, 3, 3, stride=2)).double()
    x = torch.randn(5, 2, 4, 4).double()
    evidence = pv.collect(model, [x], progress=False)
    assert evidence.patches["up"].count == 5 * 10 * 9
    h = model.a(x).relu()
    want = patches(model.up, h, (10, 9)).flatten(0, 1)
    torch.testing.assert_close(evidence.patches["up"].mean, want.mean(0).detach())
    torch.testing.assert_close(
        evidence.patches["up"].covariance, torch.cov(want.T, correction=0).detach()
    )
    torch.testing.assert_close(
        evidence.inputs["up"].mean, h.transpose(0, 1).flatten(1).mean(1).detach()
    )


def test_the_gradients_of_a_transposed_convolution():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.ConvTranspose2d(2, 4, 3, 2, 1, groups=2), nn.Flatten(), nn.Linear(36, 3)
    )
    model, x, y = model.double(), torch.randn(5, 2, 2, 2).double(), torch.arange(5) % 3
    evidence = pv.collect(model, [(x, y)], loss=F.cross_entropy, progress=False)
    want, outer = torch.zeros_like(model[0].weight), torch.zeros(4, 4).double()
    for i in range(5):
        h = model[0](x[i : i + 1])
        loss = F.cross_entropy(model[1:](h), y[i : i + 1])
        want += torch.autograd.grad(loss, model[0].weight)[0] ** 2 / 5
    torch.testing.assert_close(evidence.grad_sq["0.weight"], want.detach())
    assert evidence.output_grad["0"].shape == outer.shape


# -- attention -----------------------------------------------------------------------------------


class Cross(nn.Module):
    def __init__(self, **options) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(8, 2, **{"batch_first": True, **options})

    def forward(self, x, memory):
        return self.attn(query=x, key=memory, value=memory)[0]


@pytest.mark.parametrize("kdim", [None, 5])
def test_the_in_projection_reads_queries_keys_and_values(kdim):
    model = Cross(kdim=kdim, vdim=kdim).double().eval()
    x, memory = torch.randn(4, 3, 8).double(), torch.randn(4, 6, kdim or 8).double()
    before, want = snapshot(model), model(x, memory)
    evidence = pv.collect(model, [((x, memory), None)], progress=False)
    assert_untouched(model, before)
    if kdim is None:
        rows = torch.cat([x.reshape(-1, 8), memory.reshape(-1, 8)])
        assert list(evidence.inputs) == ["attn.in_proj", "attn.out_proj"]
        torch.testing.assert_close(evidence.inputs["attn.in_proj"].mean, rows.mean(0))
    else:
        for part, read in (("q", x), ("k", memory), ("v", memory)):
            found = evidence.inputs[f"attn.{part}_proj"].mean
            torch.testing.assert_close(found, read.flatten(0, 1).mean(0))
    assert torch.equal(model(x, memory), want)


def test_output_gradients_of_the_in_projection():
    torch.manual_seed(0)
    model = net(lambda self, x: self.attn(x, x, x)[0].mean(1), attn=nn.MultiheadAttention(4, 2, batch_first=True)).double()  # fmt: skip
    x, y = torch.randn(6, 3, 4).double(), torch.randn(6, 4).double()
    evidence = pv.collect(model, [(x, y)], loss=F.mse_loss, draw=lambda out, g: y, progress=False)
    twin = copy.deepcopy(model)  # the projection as a layer of its own in front of one that adds 0
    want = torch.zeros(12, 12).double()
    for i in range(6):
        z = F.linear(x[i], twin.attn.in_proj_weight, twin.attn.in_proj_bias).detach()
        z.requires_grad_()
        q, k, v = (t.unflatten(-1, (2, 2)).transpose(0, 1) for t in z.chunk(3, -1))
        h = F.scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)
        loss = F.mse_loss(twin.attn.out_proj(h).mean(0), y[i])
        g = torch.autograd.grad(loss, z)[0]
        want += g.T @ g / 6
    torch.testing.assert_close(evidence.output_grad["attn.in_proj"], want)


def test_obs_and_wanda_rank_units_that_only_an_in_projection_reads():
    torch.manual_seed(0)
    model = net(
        lambda self, x: self.head(self.attn(*[self.a(x).relu()] * 3)[0].mean(1)),
        a=nn.Linear(5, 8), attn=nn.MultiheadAttention(8, 2, batch_first=True), head=nn.Linear(8, 3),
    ).eval()  # fmt: skip
    x, y = torch.randn(20, 4, 5), torch.arange(20) % 3
    groups = pv.find_groups(model, x)
    evidence = pv.collect(model, [(x, y)], loss=F.cross_entropy, progress=False)
    for criterion in ("obs", "activation", "wanda"):
        scores = pv.score(model, criterion, groups=groups, evidence=evidence)
        assert all(bool(torch.isfinite(v).all()) for v in scores.values.values())


# -- how a layer is called -----------------------------------------------------------------------


def test_keyword_inputs_are_inputs():
    def forward(self, x):
        h = self.conv(input=x.unsqueeze(1)).relu().mean(1)
        return self.fc(input=self.a(input=h).relu())

    model = net(forward, conv=nn.Conv1d(1, 2, 3, padding=1), a=nn.Linear(4, 6), fc=nn.Linear(6, 2))
    x = torch.randn(7, 4)
    given: dict[str, tuple] = {}
    with pv.hooked(model, None, lambda name, inputs, output: given.update({name: inputs})):
        model(x)
    assert {n: tuple(i[0].shape) for n, i in given.items()} == {
        "conv": (7, 1, 4), "a": (7, 4), "fc": (7, 6)
    }  # fmt: skip
    evidence = pv.collect(model, [(x, torch.arange(7) % 2)], loss=F.cross_entropy, progress=False)
    assert set(evidence.inputs) == {"conv", "a", "fc"} == set(evidence.output_grad)
    groups = pv.find_groups(model, x)
    assert pv.activations(model, x, groups=groups, group="a").shape == (6, 7)
    plan = pv.drop(groups, {"a": [1, 2]})
    assert pv.shrink(model, plan, example_input=x, repair="lstsq", batches=[x]).a.out_features == 4


def test_keyword_inputs_stand_where_the_forward_has_them():
    seen = []
    model = Cross().eval()
    with pv.hooked(model, ["attn"], lambda name, inputs, output: seen.append(len(inputs))):
        model(torch.zeros(1, 2, 8), torch.zeros(1, 3, 8))
    assert seen == [3]


class Unread(nn.Module):
    """A layer that never runs, and one whose result nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Linear(4, 6), nn.Linear(6, 2)
        self.spare, self.unread = nn.Linear(6, 3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).relu()
        self.unread(h)
        return self.fc(h)


def test_a_layer_that_does_not_run_is_no_obstacle():
    model, x, y = Unread(), torch.randn(30, 4), torch.arange(30) % 2
    for loss in (None, F.cross_entropy):
        evidence = pv.collect(model, [(x, y)], loss=loss, progress=False)
        assert set(evidence.inputs) == {"a", "fc", "unread"}
    with refused(
        "layer 'spare' (Linear) never ran as a layer on these batches. Leave it out of `layers`."
    ):
        pv.collect(model, [x], layers=["a", "spare"], progress=False)
    assert set(pv.collect(model, [x], layers=["a"], progress=False).inputs) == {"a"}  # the advice


def test_what_ran_in_one_pass_only_is_merged():
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            return self.a(x) if x.mean() > 0 else self.b(x)

    model, x = Sometimes(), torch.rand(8, 3)
    parts = [pv.collect(model, [t], progress=False) for t in (x, -x)]
    whole = pv.collect(model, [x, -x], progress=False)
    for merged in (parts[0].merge(parts[1]), parts[1].merge(parts[0])):
        assert set(merged.inputs) == {"a", "b"}
        for name, m in merged.inputs.items():
            torch.testing.assert_close(m.mean, whole.inputs[name].mean)
            torch.testing.assert_close(m.comoment, whole.inputs[name].comoment)
    with pytest.raises(pv.ArgumentError, match="evidence of different layers cannot be merged"):
        parts[0].merge(pv.collect(model, [x], layers=["a"], progress=False))


# -- padding -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"), [("attention_mask", 1), ("src_key_padding_mask", False)]
)
def test_padded_tokens_are_left_out(name, value):
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x, **masks):
            return self.b(self.a(x).relu())

    torch.manual_seed(0)
    model, x = Tokens().double(), torch.randn(5, 7, 4).double()
    lengths = torch.tensor([7, 3, 1, 5, 2])
    real = torch.arange(7) < lengths[:, None]
    mask = real.long() if value == 1 else ~real
    x[~real] = 100
    evidence = pv.collect(model, [{"x": x, name: mask}], progress=False)
    want = model.a(x[real]).relu().detach()
    assert evidence.inputs["b"].count == int(lengths.sum())
    torch.testing.assert_close(evidence.inputs["b"].mean, want.mean(0))
    torch.testing.assert_close(evidence.inputs["b"].covariance, torch.cov(want.T, correction=0))
    whole = pv.collect(model, [{"x": x, name: torch.full_like(mask, value)}], progress=False)
    assert whole.inputs["b"].count == 35


def test_a_mask_of_another_shape_says_nothing():
    from pruneviz.model.batches import Batch

    x = torch.zeros(2, 3, 4)
    masks = {"additive": torch.full((2, 3), -torch.inf), "four": torch.ones(2, 1, 3, 3)}
    for mask in masks.values():
        assert real_tokens(Batch({"x": x, "attention_mask": mask})) == []
    assert real_tokens(Batch((x, torch.ones(2, 3)))) == []


def test_a_subclass_of_attention_runs_as_it_is():
    class Own(nn.MultiheadAttention):
        pass

    model = net(lambda self, x: self.fc(self.attn(x, x, x)[0]), attn=Own(8, 2, batch_first=True), fc=nn.Linear(8, 2)).eval()  # fmt: skip
    evidence = pv.collect(model, [torch.randn(3, 4, 8)], progress=False)
    assert set(evidence.inputs) == {"fc"}
    assert "attn.in_proj" not in consumers(model)
    assert type(copy.deepcopy(model).attn) is Own

"""Units that transposed convolutions, attention and transformers' Conv1D read are repaired."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo.case import net, stir

import pruneviz as pv

RUNGS = ("fold", "merge", "lstsq")


def ready(model: nn.Module) -> nn.Module:
    return stir(model).double().eval()


def cut(model: nn.Module, units: dict[str, list[int]], x: Tensor, **options) -> nn.Module:
    plan = pv.drop(pv.find_groups(model, x), units)
    return pv.shrink(model, plan, example_input=x, **options)


def error(new: nn.Module, model: nn.Module, *x: Tensor) -> float:
    with torch.no_grad():
        return float((new(*x) - model(*x)).square().mean())


def up(groups: int = 1, **options) -> nn.Module:
    """Six channels, read by a transposed convolution."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.ReLU(), nn.ConvTranspose2d(6, 4, groups=groups, **options)
    )


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 3), st.integers(1, 2), st.booleans(), st.booleans(),
    st.integers(0, 99),
)  # fmt: skip
def test_least_squares_is_that_of_torch_on_the_linear_operator(
    kernel, stride, groups, bias, batches, seed
):
    torch.manual_seed(seed)
    model = up(groups, kernel_size=kernel, stride=stride, bias=bias).double()
    x = torch.rand(9, 2, 3, 4).double()
    units = {"0": [1, 4]}
    source = {"batches": [x]} if batches else {"evidence": pv.collect(model, [x], progress=False)}
    new = cut(model, units, x, repair="lstsq", ridge=0, **source)
    # the operator itself: one column for each number of the weight and of the bias
    h, conv = model[1](model[0](x))[:, [0, 2, 3, 5]].detach(), new[2]
    shapes = [conv.weight.shape, *([conv.bias.shape] if bias else [])]
    columns = []
    for i, shape in enumerate(shapes):
        for j in range(shape.numel()):
            parts = [torch.zeros(s).double() for s in shapes]
            parts[i].view(-1)[j] = 1
            weight, offset = (*parts, None)[:2]
            columns.append(
                F.conv_transpose2d(h, weight, offset, stride=stride, groups=groups).flatten()
            )
    target = model(x).detach().flatten().unsqueeze(1)
    a = torch.stack(columns, 1)
    least = target - a @ torch.linalg.lstsq(a, target, driver="gelsd").solution
    off = error(new, model, x) * target.numel()
    assert off <= float(least.square().sum()) * (1 + 1e-6) + 1e-12


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("options", [
    {"kernel_size": 2, "stride": 2}, {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1},
    {"kernel_size": 3, "padding": 1}, {"kernel_size": 2, "stride": 2, "groups": 2},
    {"kernel_size": 3, "dilation": 2},
])  # fmt: skip
def test_planted_units_go_without_a_difference(options, rung, batches):
    torch.manual_seed(0)
    model, x = ready(up(**options)), torch.rand(20, 2, 4, 4).double()
    with torch.no_grad():
        first = model[0]
        if rung == "fold":  # a dead one; a constant one is not the same everywhere here
            first.bias[2] = -50
        else:  # a multiple of another one of its group
            first.weight[2], first.bias[2] = 2 * first.weight[1], 2 * first.bias[1]
    source = {"batches": [x]} if batches else {"evidence": pv.collect(model, [x], progress=False)}
    new = cut(
        model, {"0": [2, 5] if "groups" in options else [2]}, x, repair=rung, ridge=0, **source
    )
    if "groups" in options:  # 5 goes from the other group: what it carried is lost in part
        assert error(new, model, x) <= error(cut(model, {"0": [2, 5]}, x), model, x)
    else:
        assert error(new, model, torch.rand(3, 2, 4, 4).double()) < 1e-18


@pytest.mark.parametrize("rung", RUNGS)
def test_each_rung_is_better_than_none_behind_a_stride(rung):
    torch.manual_seed(1)
    model, x = ready(up(kernel_size=2, stride=2)), torch.rand(40, 2, 4, 4).double()
    none = error(cut(model, {"0": [0, 3]}, x), model, x)
    for source in ({"batches": [x]}, {"evidence": pv.collect(model, [x], progress=False)}):
        assert error(cut(model, {"0": [0, 3]}, x, repair=rung, **source), model, x) < none


def test_a_constant_before_a_transposed_convolution_without_stride_is_exact_off_the_border():
    torch.manual_seed(0)
    model, x = ready(up(kernel_size=3)), torch.rand(20, 2, 6, 6).double()
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 0, 1.5
    evidence = pv.collect(model, [x], progress=False)
    new = cut(model, {"0": [2]}, x, repair="fold", evidence=evidence)
    off = (new(x) - model(x)).abs().amax((0, 1)).detach()
    assert float(off[2:-2, 2:-2].max()) < 1e-12 < float(off.max())


def test_behind_a_stride_the_folded_constant_is_the_mean_over_all_positions():
    torch.manual_seed(0)
    model, x = ready(up(kernel_size=3, stride=2)), torch.rand(20, 2, 3, 3).double()
    evidence = pv.collect(model, [x], progress=False)
    new = cut(model, {"0": [2]}, x, repair="fold", evidence=evidence)
    plain = cut(model, {"0": [2]}, x)
    want = (model(x) - plain(x)).mean((0, 2, 3))
    torch.testing.assert_close(new[2].bias - plain[2].bias, want)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up, self.last = nn.ConvTranspose2d(16, 8, 2, stride=2), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down1(x).relu()
        b = self.down2(F.max_pool2d(a, 2)).relu()
        return self.last(torch.cat([a, self.up(b).relu()], 1))


@pytest.mark.parametrize(
    "criterion", ["l2", "activation", "apoz", "taylor", "fisher", "wanda", "obs"]
)
def test_a_u_net_by_every_criterion(criterion):
    torch.manual_seed(0)
    model, x = UNet().eval(), torch.randn(60, 1, 8, 8)
    y = torch.randint(3, (60, 8, 8))
    session = pv.Session(model, x[:2], batches=[(x, y)], loss=F.cross_entropy)
    small, none = (
        pv.prune(
            model,
            x[:2],
            sparsity=0.25,
            scope="layer",
            criterion=criterion,
            repair=r,
            session=session,
        )
        for r in ("lstsq", "none")
    )
    fresh = torch.randn(20, 1, 8, 8)
    assert small.up.weight.shape == (12, 6, 2, 2)
    assert error(small, model, fresh) < 0.5 * error(none, model, fresh)


def test_redundant_units_that_a_transposed_convolution_reads_are_observed():
    torch.manual_seed(0)
    model, x = ready(up(kernel_size=2, stride=2)), torch.rand(30, 2, 4, 4).double()
    with torch.no_grad():  # nearly constant and unrelated: no pair
        model[0].weight[:2] = 1e-3 * torch.eye(2)[..., None, None]
        model[0].bias[:2] = 2
        model[0].weight[3:5] = torch.tensor([[1.0, 2.0], [3.0, 6.0]])[..., None, None]
        model[0].bias[3:5] = torch.tensor([0.5, 1.5])
    groups, evidence = pv.find_groups(model, x), pv.collect(model, [x], progress=False)
    found = pv.find_redundant(model, groups=groups, evidence=evidence, threshold=0.999)
    assert {(r.kept, r.removed) for r in found.itertuples()} == {(4, 3)}


# -- attention -----------------------------------------------------------------------------------


def attending(**options) -> nn.Module:
    attention = nn.MultiheadAttention(8, 2, batch_first=True, **options)
    return ready(
        net(
            lambda self, x: self.head(self.attn(*[self.a(x).relu()] * 3)[0]),
            a=nn.Linear(5, 8), attn=attention, head=nn.Linear(8, 3),
        )
    )  # fmt: skip


@pytest.mark.parametrize("batches", [False, True])
@pytest.mark.parametrize("rung", RUNGS)
def test_what_an_in_projection_reads_is_repaired(rung, batches):
    torch.manual_seed(0)
    model, x = attending(), torch.rand(30, 4, 5).double()
    with torch.no_grad():
        if rung == "fold":
            model.a.weight[2], model.a.bias[2] = 0, 0.7
        else:
            model.a.weight[1].abs_()
            model.a.weight[2], model.a.bias[2] = 2 * model.a.weight[1], 2 * model.a.bias[1]
    source = {"batches": [x]} if batches else {"evidence": pv.collect(model, [x], progress=False)}
    new = cut(model, {"a": [2]}, x, repair=rung, ridge=0, **source)
    assert new.attn.in_proj_weight.shape == (24, 7)
    fresh = torch.rand(3, 4, 5).double()
    assert error(new, model, fresh) < 1e-18 < error(cut(model, {"a": [2]}, x), model, fresh)


@pytest.mark.parametrize("batches", [False, True])
def test_separate_projections_of_other_widths_are_repaired(batches):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, kdim=6, vdim=6, bias=False, batch_first=True)

    def forward(self, x):
        memory = self.a(x).relu()
        return self.head(self.attn(self.q(x), memory, memory)[0])

    model = ready(net(forward, a=nn.Linear(5, 6), q=nn.Linear(5, 8), attn=attention, head=nn.Linear(8, 3)))  # fmt: skip
    x = torch.rand(30, 4, 5).double()
    with torch.no_grad():
        model.a.weight[2], model.a.bias[2] = 2 * model.a.weight[1], 2 * model.a.bias[1]
    source = {"batches": [x]} if batches else {"evidence": pv.collect(model, [x], progress=False)}
    new = cut(model, {"a": [2]}, x, repair="lstsq", ridge=0, **source)
    assert error(new, model, x) < 1e-18 < error(cut(model, {"a": [2]}, x), model, x)


def test_masked_weights_of_an_in_projection_are_refitted():
    torch.manual_seed(0)
    model, x = attending(), torch.rand(200, 4, 5).double()
    plan = pv.select(pv.score(model, "magnitude"), sparsity=0.3)
    plain, fitted = pv.mask(model, plan), pv.mask(model, plan, repair="lstsq", batches=[x])
    assert bool((fitted.attn.in_proj_weight[~plan.keep["attn.in_proj_weight"]] == 0).all())
    assert error(fitted, model, x) < 0.7 * error(plain, model, x)


def test_gpt2s_conv1d_is_fitted_whatever_it_is_called_with():
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    model = ready(net(lambda self, x: self.b(x=self.a(x=x).relu()), a=Conv1D(8, 5), b=Conv1D(3, 8)))
    x = torch.rand(40, 4, 5).double()
    with torch.no_grad():
        model.a.weight[:, 1].abs_()
        model.a.weight[:, 2], model.a.bias[2] = 2 * model.a.weight[:, 1], 2 * model.a.bias[1]
    for source in ({"batches": [x]}, {"evidence": pv.collect(model, [x], progress=False)}):
        new = cut(model, {"a": [2]}, x, repair="lstsq", ridge=0, **source)
        assert error(new, model, x) < 1e-18 < error(cut(model, {"a": [2]}, x), model, x)

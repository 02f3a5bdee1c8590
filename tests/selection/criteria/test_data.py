"""Criteria that look at evidence, by hand: single weights and units, layer by layer."""

from __future__ import annotations

import pytest
import torch
from helpers import Tied, assert_untouched, inputs, refused, snapshot
from helpers.handmade import rows, where
from torch import Tensor, nn
from zoo.case import net

import pruneviz as pv
from pruneviz.selection.criteria.weights import lamp


def with_weights(layer: nn.Module, weight: list, bias: list | None = None) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight).reshape(layer.weight.shape))
        if layer.bias is not None:
            layer.bias.copy_(torch.zeros_like(layer.bias) if bias is None else torch.tensor(bias))
    return layer


def linear(weight: list[list[float]], bias: list | None = None) -> nn.Module:
    return with_weights(nn.Linear(len(weight[0]), len(weight)), weight, bias)


def conv1(*args: int, weight: list, **options) -> nn.Module:
    return with_weights(nn.Conv1d(*args, bias=False, **options), weight)


def times(outputs: Tensor, targets: Tensor) -> Tensor:
    """Weigh each example's outputs: a loss whose gradient at them is the target."""
    return (outputs * targets.reshape(-1, *[1] * (outputs.ndim - 1))).sum()


def seen(model: nn.Module, x: Tensor, targets: list[float] | None = None, **options) -> pv.Evidence:
    """Collect; with targets also gradients, and 1 is drawn for the Fisher information."""
    if targets is not None:
        options |= {"loss": times, "draw": lambda outputs, generator: torch.ones(len(outputs))}
        batches = [(x, torch.tensor(targets))]
    else:
        batches = [x]
    return pv.collect(model, batches, progress=False, **options)


def scored(model: nn.Module, criterion: str, evidence: pv.Evidence | None, **options) -> dict:
    return pv.score(model, criterion, evidence=evidence, **options).values


def close(got: Tensor, want: list) -> None:
    torch.testing.assert_close(got.double(), torch.tensor(want).double(), rtol=1e-6, atol=1e-9)


X = torch.tensor([[1.0, 2.0], [3.0, -4.0]])  # mean squares 5 and 10

# -- single weights ------------------------------------------------------------------------------


def test_wanda_of_a_linear_layer():
    model = linear([[-2.0, 1.0], [0.5, 0.0]])
    got = scored(model, "wanda", seen(model, X))["weight"]
    close(got, [[2 * 5**0.5, 10**0.5], [0.5 * 5**0.5, 0.0]])


def test_taylor_and_fisher_of_a_linear_layer():
    model = linear([[-2.0, 1.0]])
    evidence = seen(model, X, [1.0, 2.0])  # gradients (1, 2) and (6, -8); drawn: the inputs
    close(scored(model, "taylor", evidence)["weight"], [[18.5 * 4, 34.0]])
    close(scored(model, "fisher", evidence)["weight"], [[5.0 * 4 / 2, 10 / 2]])


LINE = torch.tensor([[[1.0, 2.0, 4.0]]])


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ({}, [(1 + 4) / 2, (4 + 16) / 2]),  # it reads (1, 2) and (2, 4)
        ({"padding": 1}, [(0 + 1 + 4 + 16) / 4, (1 + 4 + 16 + 0) / 4]),
        ({"stride": 2}, [1.0, 4.0]),
        ({"dilation": 2}, [1.0, 16.0]),
    ],
)
def test_wanda_of_a_convolution(options, want):
    model = conv1(1, 1, 2, weight=[3.0, -1.0], **options)
    got = scored(model, "wanda", seen(model, LINE))["weight"]
    close(got, [[[3 * want[0] ** 0.5, want[1] ** 0.5]]])


def test_without_co_moments_all_taps_of_a_channel_have_one_mean_square():
    model = conv1(1, 1, 2, weight=[3.0, -1.0])
    got = scored(model, "wanda", seen(model, LINE, comoment=False))["weight"]
    close(got, [[[3 * 7**0.5, 7**0.5]]])


def test_wanda_of_a_grouped_convolution():
    x = torch.tensor([[[1.0, 2.0], [3.0, 1.0], [0.0, 2.0], [5.0, 1.0]]])
    model = conv1(4, 2, 1, groups=2, weight=[1.0, 2.0, 3.0, 4.0])
    got = scored(model, "wanda", seen(model, x))["weight"]
    square = [2.5, 5.0, 2.0, 13.0]
    close(got[:, :, 0], [[2.5**0.5, 2 * 5**0.5], [3 * 2**0.5, 4 * square[3] ** 0.5]])


def test_wanda_of_a_depthwise_convolution():
    x = torch.tensor([[[1.0, 2.0, 4.0], [3.0, 0.0, 0.0]]])
    model = conv1(2, 2, 2, groups=2, weight=[1.0, 2.0, 3.0, 4.0])
    got = scored(model, "wanda", seen(model, x))["weight"]
    close(got[:, 0], [[7**0.5, 2 * 7**0.5], [3 * 3**0.5, 4 * 3**0.5]])


def test_taylor_of_a_convolution_adds_up_the_positions_of_one_example():
    model = conv1(1, 1, 2, weight=[3.0, -1.0])
    x = torch.cat([LINE, torch.ones(1, 1, 3)])
    evidence = seen(model, x, [1.0, -2.0])  # gradients (1 + 2, 2 + 4) and -2 (2, 2)
    close(scored(model, "taylor", evidence)["weight"], [[[(9 + 16) / 2 * 9, (36 + 16) / 2]]])
    close(scored(model, "fisher", evidence)["weight"], [[[(9 + 4) / 4 * 9, (36 + 4) / 4]]])


def test_an_embedding_has_gradients_but_reads_nothing():
    def forward(self, ids):
        x = self.table(ids)
        return self.attn(x, x, x)[0].sum((1, 2))

    torch.manual_seed(0)
    model = net(forward, table=nn.Embedding(7, 4), attn=nn.MultiheadAttention(4, 2, batch_first=True))  # fmt: skip
    ids = torch.tensor([[0, 1, 2], [2, 3, 5]])
    evidence = seen(model, ids, [1.0, 2.0])
    assert set(scored(model, "wanda", evidence)) == {"attn.in_proj_weight", "attn.out_proj.weight"}
    got = scored(model, "taylor", evidence)
    assert set(got) == {"table.weight", "attn.in_proj_weight", "attn.out_proj.weight"}
    want = {name: torch.zeros_like(v) for name, v in got.items()}
    for i, t in zip(ids, (1.0, 2.0), strict=True):
        model.zero_grad()
        (t * model(i[None])).sum().backward()
        for name, p in model.named_parameters():
            if name in want:
                want[name] += p.grad**2 * p.detach() ** 2 / 2
    for name, v in want.items():
        close(got[name], v.tolist())


def test_of_a_masked_model_what_is_zero_scores_zero():
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    model = pv.mask(dense, pv.select(pv.score(dense, "magnitude"), sparsity=0.5))
    evidence = seen(model, X, [1.0, 2.0])
    for criterion in ("wanda", "taylor", "fisher"):
        got = scored(model, criterion, evidence)
        assert list(got) == ["0.weight", "2.weight"]
        assert not any(v[model[int(n[0])].weight == 0].any() for n, v in got.items())


def test_tied_weights_are_known_under_any_name():
    torch.manual_seed(0)
    model = Tied()
    evidence = seen(model, inputs(), [1.0] * 5)
    for criterion in ("wanda", "taylor", "fisher"):
        assert list(scored(model, criterion, evidence)) == ["fc1.weight", "head.weight"]


# -- units ---------------------------------------------------------------------------------------


def two() -> tuple[nn.Module, pv.Groups]:
    """Units relu(x0 + x1) and relu(x0 - x1); on X they are (3, 0) and (0, 7)."""
    model = nn.Sequential(linear([[1.0, 1.0], [1.0, -1.0]]), nn.ReLU(), linear([[2.0, -3.0]]))
    return model, pv.Groups((pv.Group("0", 2, (*rows("0", 2), where("2.weight", 1, "in", 2))),))


@pytest.mark.parametrize(
    ("criterion", "want"),
    [("activation", [1.5, 3.5]), ("apoz", [0.5, 0.5])],
)
def test_what_units_did(criterion, want):
    model, groups = two()
    close(scored(model, criterion, seen(model, X), groups=groups)["0"], want)


@pytest.mark.parametrize("reduction", ["mean", "sum", "max", "min", "first"])
@pytest.mark.parametrize("criterion", ["wanda", "taylor", "fisher", "lamp"])
def test_units_by_their_rows_and_columns(criterion, reduction):
    model, groups = two()
    evidence = seen(model, X, [1.0, 2.0])
    # gradients of the first example: rows 2 (1, 2) and 0, columns 3 and 0;
    # of the second: rows 0 and 2 · -3 (3, -4), columns 0 and 14; drawn: half of that
    want = {
        "wanda": ([15**0.5, 15**0.5], [2 * 4.5**0.5, 3 * 24.5**0.5]),
        "taylor": ([(4 + 16) / 2, (18**2 + 24**2) / 2], [9 / 2 * 4, 14**2 / 2 * 9]),
        "fisher": ([(4 + 16) / 4, (9**2 + 12**2) / 4], [9 / 4 * 4, 49 / 4 * 9]),
        "lamp": ([2 / 4, 2 / 2], [4 / 13, 9 / 9]),
    }[criterion]
    both = torch.tensor(want).double()
    reduced = {"mean": both.mean(0), "sum": both.sum(0), "max": both.amax(0),
               "min": both.amin(0), "first": both[0]}[reduction]  # fmt: skip
    got = scored(model, criterion, evidence, groups=groups, reduction=reduction)["0"]
    close(got, reduced.tolist())


def test_lamp_of_units_ranks_their_norms():
    matrix = torch.tensor([[3.0, 4.0], [0.0, 1.0], [0.0, 2.0]])
    torch.testing.assert_close(pv.CRITERIA["lamp"].unit(matrix), lamp(torch.tensor([5.0, 1.0, 2.0])))  # fmt: skip
    close(pv.CRITERIA["lamp"].unit(matrix), [1.0, 1 / 30, 4 / 29])


def read_by(reader: nn.Module, *between: nn.Module) -> tuple[nn.Module, Tensor]:
    """Four channels, x, 2 - x, 2 x and 5, cut at 0, of which `reader` reads."""
    first = with_weights(nn.Conv1d(1, 4, 1), [1.0, -1.0, 2.0, 0.0], [0.0, 2.0, 0.0, 5.0])
    x = torch.tensor([[[1.0, 3.0]], [[0.0, -1.0]]])  # (1, 3, 0, 0), (1, 0, 2, 3), …
    return nn.Sequential(first, nn.ReLU(), *between, reader), x


READERS = {
    "conv": (nn.Conv1d(4, 1, 1),),
    "wide conv": (nn.Conv1d(4, 1, 2),),
    "padded conv": (nn.Conv1d(4, 1, 3, padding=1),),
    "grouped conv": (nn.Conv1d(4, 2, 2, groups=2),),
    "flatten": (nn.Linear(8, 3), nn.Flatten()),
}


@pytest.mark.parametrize("name", READERS)
def test_what_channels_did_whoever_reads_them(name):
    model, x = read_by(*READERS[name])
    groups, evidence = pv.find_groups(model, x), seen(model, x)
    close(scored(model, "activation", evidence, groups=groups)["0"], [1.0, 1.5, 2.0, 5.0])
    close(scored(model, "apoz", evidence, groups=groups)["0"], [2 / 4, 3 / 4, 2 / 4, 1.0])


def conv1d() -> tuple[nn.Module, Tensor]:
    """GPT-2's: two inputs, three outputs; its weight has the shape (inputs, outputs)."""
    from transformers.pytorch_utils import Conv1D

    return with_weights(Conv1D(3, 2), [[-2.0, 1.0, 0.0], [0.5, 3.0, 1.0]]), X


def test_what_units_of_gpt2s_conv1d_did():
    last, x = conv1d()
    model = nn.Sequential(linear([[1.0, 1.0], [1.0, -1.0]]), nn.ReLU(), last)
    got = scored(model, "activation", seen(model, x), groups=pv.find_groups(model, x))
    close(got["0"], [1.5, 3.5])


@pytest.mark.parametrize("criterion", ["wanda", "taylor", "fisher"])
@pytest.mark.parametrize("name", ["wide conv", "grouped conv", "flatten"])
def test_units_are_scored_by_the_sums_of_their_single_weights(name, criterion):
    torch.manual_seed(0)
    model, x = read_by(*READERS[name])
    evidence = seen(model, x, [1.0, 2.0])
    single = scored(model, criterion, evidence)
    square = 2 if criterion == "wanda" else 1  # a root of a sum of squares
    own = (single["0.weight"] ** square).flatten(1).sum(1)
    last = f"{len(model) - 1}.weight"
    theirs = single[last] ** square
    units = theirs if name == "grouped conv" else theirs.transpose(0, 1)
    want = own ** (1 / square) + units.reshape(4, -1).sum(1) ** (1 / square)
    got = scored(model, criterion, evidence, groups=pv.find_groups(model, x), reduction="sum")
    close(got["0"], want.tolist())


def test_wanda_of_units_that_gpt2s_conv1d_makes_and_reads():
    (first, _), (last, _) = conv1d(), conv1d()  # the weights of each have the shape (2, 3)
    model = nn.Sequential(last, nn.ReLU(), linear([[1.0, 1.0, 1.0]] * 2), nn.ReLU(), first)
    groups, evidence = pv.find_groups(model, X), seen(model, X)
    made = scored(model, "wanda", evidence, groups=groups, reduction="first")["0"]
    square = last.weight.detach() ** 2 * torch.tensor([[5.0], [10.0]])
    close(made, square.sum(0).sqrt().tolist())
    read = evidence.inputs["4"].square
    both = scored(model, "wanda", evidence, groups=groups, reduction="sum")["2"]
    own = evidence.inputs["2"].square.sum().sqrt()
    close(both, (own + (first.weight.detach() ** 2).sum(1).sqrt() * read.sqrt()).tolist())


def test_taylor_of_units_that_gpt2s_conv1d_makes():
    first, _ = conv1d()
    model = nn.Sequential(first, nn.ReLU(), linear([[1.0, 1.0, 1.0]]))
    groups, evidence = pv.find_groups(model, X), seen(model, X, [1.0, 1.0])
    got = scored(model, "taylor", evidence, groups=groups, reduction="first")["0"]
    want = torch.zeros(3)
    for x in X:
        model.zero_grad()
        model(x).sum().backward()
        want += (first.weight.grad**2 * first.weight.detach() ** 2).sum(0) / 2
    close(got, want.tolist())


def test_heads_are_scored_by_what_the_projection_reads():
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(4, 2, batch_first=True)
    model = net(lambda self, x: self.fc(self.attn(x, x, x)[0]), attn=attention, fc=nn.Linear(4, 2))
    x = torch.randn(5, 3, 4)
    groups, evidence = pv.find_groups(model, x), seen(model, x)
    got = scored(model, "activation", evidence, groups=groups)["attn"]
    close(got, evidence.inputs["attn.out_proj"].mean.reshape(2, 2).mean(1).tolist())
    assert scored(model, "apoz", evidence, groups=groups)["attn"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("criterion", ["taylor", "fisher", "wanda", "activation", "apoz", "lamp"])
def test_the_model_is_not_changed(criterion):
    model, groups = two()
    evidence, before = seen(model, X, [1.0, 2.0]), snapshot(model)
    pv.score(model, criterion, groups=groups, evidence=evidence)
    assert_untouched(model, before)


# -- layers that were not watched ----------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["wanda", "taylor", "fisher"])
def test_nothing_is_removed_from_a_layer_without_evidence(criterion):
    model = nn.Sequential(linear([[1.0, 1.0], [1.0, -1.0]]), nn.ReLU(), linear([[2.0, -3.0]]))
    evidence = seen(model, X, [1.0, 2.0], layers=["2"])
    scores = pv.score(model, criterion, evidence=evidence)
    assert list(scores.values) == ["2.weight"]
    new = pv.mask(model, pv.select(scores, sparsity=0.5))
    assert torch.equal(new[0].weight, model[0].weight)
    assert new[2].weight.tolist() == [[0.0, -3.0]]


def test_units_are_scored_by_the_layers_that_were_watched():
    model, groups = two()
    evidence = seen(model, X, layers=["2"])
    close(scored(model, "wanda", evidence, groups=groups)["0"], [2 * 4.5**0.5, 3 * 24.5**0.5])


# -- refused -------------------------------------------------------------------------------------

NEEDS = {
    "taylor": ", loss=F.cross_entropy",
    "fisher": ", loss=F.cross_entropy",
    "wanda": "",
    "activation": "",
    "apoz": "",
}


@pytest.mark.parametrize("criterion", NEEDS)
def test_without_evidence(criterion):
    model, groups = two()
    text = f"pv.collect(model, batches{NEEDS[criterion]})."
    with refused(
        f"criterion {criterion!r} needs evidence, but none was passed. Collect it: {text}"
    ):
        pv.score(model, criterion, groups=groups)


def test_lamp_needs_none():
    model, groups = two()
    assert pv.score(model, "lamp", groups=groups).criterion == "lamp"


@pytest.mark.parametrize("granularity", ["weight", "unit"])
@pytest.mark.parametrize("criterion", ["taylor", "fisher"])
def test_without_gradients(criterion, granularity):
    model, groups = two()
    with refused(
        f"criterion {criterion!r} needs gradients, but `evidence` has none. Collect them: "
        "pv.collect(model, batches, loss=F.cross_entropy)."
    ):
        options = {"groups": groups} if granularity == "unit" else {}
        pv.score(model, criterion, evidence=seen(model, X), **options)


def deep() -> nn.Module:
    return nn.Sequential(
        *(nn.Linear(2, 2), nn.ReLU()) * 1, nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)
    )


@pytest.mark.parametrize(
    ("criterion", "text"),
    [
        (
            "activation",
            "`evidence` has no layer that reads group '0' (2). Collect it from all layers: "
            "pv.collect(model, batches).",
        ),
        (
            "wanda",
            "criterion 'wanda' needs for the layers of group '0' what the layers read. Collect it: "
            "pv.collect(model, batches).",
        ),
    ],
)
def test_a_group_without_evidence(criterion, text):
    model = deep()
    groups = pv.find_groups(model, X)
    evidence = seen(model, X, layers=["4"])
    with refused(text):
        pv.score(model, criterion, groups=groups, evidence=evidence, strict=True)
    scores = pv.score(model, criterion, groups=groups, evidence=evidence)
    assert set(scores.left_out) == {"0"} and set(scores.values) == {"2"}
    why = f"`evidence` has nothing of it that {criterion!r} could use"
    assert scores.left_out["0"].why == why
    assert pv.select(scores, sparsity=0.5).left_out == scores.left_out


@pytest.mark.parametrize("criterion", ["taylor", "fisher", "wanda", "activation", "apoz"])
def test_evidence_of_another_model(criterion):
    model, groups = two()
    other = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    text = (
        "`evidence` is of another model: it has a weight of shape (4, 2) in layer '0', which has the "
        "shape (2, 2) here. Collect it: pv.collect(model, batches)."
    )
    with refused(text):
        pv.score(model, criterion, groups=groups, evidence=seen(other, X, [1.0, 2.0]))
    strange = net(lambda self, x: self.fc(x), fc=nn.Linear(2, 2))
    text = text.replace("(4, 2) in layer '0'", "(2, 2) in layer 'fc'").replace(
        "has the shape (2, 2)", "is not there"
    )
    with refused(text):
        pv.score(model, criterion, groups=groups, evidence=seen(strange, X, [1.0, 2.0]))


@pytest.mark.parametrize("criterion", ["activation", "apoz"])
def test_what_units_did_says_nothing_of_single_weights(criterion):
    model, _ = two()
    with pytest.raises(pv.ArgumentError, match=f"^criterion '{criterion}' scores units, not wei"):
        pv.score(model, criterion, evidence=seen(model, X))

"""A repair never hurts in silence: held-out rows, padding, routed rows, few rows, many columns."""

from __future__ import annotations

import copy
import time
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from zoo.case import net, stir

import pruneviz as pv
from pruneviz.model.batches import listed
from pruneviz.pruning.repair import refit as refit_file
from pruneviz.pruning.repair.least_squares import Fit, WideFit
from pruneviz.pruning.repair.pairing import Tracking, chosen_alike
from pruneviz.pruning.repair.refit import Examples, is_worse, refit
from pruneviz.pruning.repair.rows import NotPaired, held_out


def cut(model: nn.Module, units: dict[str, list[int]], x, **options) -> nn.Module:
    plan = pv.drop(pv.find_groups(model, x), units)
    options.setdefault("repair", "lstsq")
    return pv.shrink(model, plan, example_input=x, **options)


def error(new: nn.Module, model: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        return float((new(x) - model(x)).square().mean())


# -- the fit -------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30), st.integers(1, 12), st.integers(1, 3), st.booleans(),
    st.sampled_from([0.0, 0.01, 1.0]), st.integers(0, 999),
)  # fmt: skip
def test_the_wide_fit_is_the_same_fit(rows, n, outputs, fit_bias, ridge, seed):
    g = torch.Generator().manual_seed(seed)
    x, z = (torch.randn(rows, k, generator=g, dtype=torch.float64) for k in (n, outputs))
    old = torch.randn(outputs, n, generator=g, dtype=torch.float64)
    found = []
    for kind in (Fit, WideFit):
        fit = kind()
        for part in zip(x.split(7), z.split(7), strict=True):
            fit.add(*part)
        solver = fit.solver(old, fit_bias)
        found.append((*solver.at(ridge), solver.fold if fit_bias else old))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


def test_a_layer_of_8192_columns_in_seconds():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(8, 512, 1), nn.ReLU(), nn.Conv2d(512, 64, 4)).eval()
    x = torch.randn(150, 8, 9, 9)
    units = {"0": list(range(0, 512, 2))}
    none = cut(model, units, x[:8], repair="none")
    start = time.process_time()
    new = cut(model, units, x[:8], batches=x)
    assert time.process_time() - start < 12  # 3 s alone; the machine may be busy
    assert error(new, model, x) < 0.1 * error(none, model, x)


def test_a_layer_of_150000_columns_takes_the_memory_of_its_rows():
    model = nn.Sequential(nn.Linear(4, 150_000), nn.ReLU(), nn.Linear(150_000, 2))
    with torch.no_grad():
        for p in model.parameters():
            p.normal_(std=0.01)
    x = torch.randn(60, 4)
    units = {"0": list(range(0, 150_000, 2))}
    with pytest.warns(UserWarning, match="fewer rows than columns to fit in 1 layer: '2'"):
        new = cut(model, units, x[:2], batches=x)  # 22 GiB by products, 18 MB by rows
    assert error(new, model, x) < 0.1 * error(cut(model, units, x[:2], repair="none"), model, x)


# -- held-out examples ---------------------------------------------------------------------------


@given(st.lists(st.integers(1, 25), min_size=1, max_size=5))
def test_every_tenth_example_is_held_out(sizes):
    x = torch.arange(float(sum(sizes)))
    fit, rest = held_out(listed(x.split(sizes), "fit to"))
    seen = torch.cat([b.inputs for b in fit] + [b.inputs for b in rest])
    assert sorted(seen.tolist()) == x.tolist()
    assert [v for b in rest for v in b.inputs.tolist()] == x[9::10].tolist()


def test_no_fit_sees_what_is_held_out():
    model = stir(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
    x = torch.rand(100, 4)
    spoiled = x.clone()
    spoiled[9::10] *= 1.01
    one, other = (cut(model, {"0": [1]}, x, batches=t) for t in (x, spoiled))
    assert torch.equal(one[2].weight, other[2].weight)


def test_a_repair_that_is_worse_on_held_out_examples_is_not_applied():
    torch.manual_seed(0)
    # what is removed says nothing of what is kept; the fit, of 108 rows and 40 columns, learns noise
    model = nn.Sequential(nn.Linear(60, 60, bias=False), nn.Linear(60, 3)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(60))
        model[1].weight[:, :20] *= 3
    x = torch.randn(120, 60).double()
    units = {"0": list(range(20))}
    fresh = torch.randn(500, 60).double()
    none = cut(model, units, x, repair="none")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        new = cut(model, units, x, batches=x, ridge=1e-9)
        assert error(new, model, fresh) <= 1.05 * error(none, model, fresh)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refit_file, "is_worse", lambda *args: False)
        patch.setattr(refit_file, "STRONGER", ())
        worse = cut(model, units, x, batches=x, ridge=1e-9)
    assert error(worse, model, fresh) > 1.5 * error(none, model, fresh)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refit_file, "STRONGER", ())
        said = r"repair 'lstsq' was not applied to some layers\. '1': on held-out examples ('fold' is better, and is applied|no repair is better)\."
        with pytest.warns(UserWarning, match=said):
            new = cut(model, units, x, batches=x, ridge=1e-9)
    assert error(new, model, fresh) <= 1.05 * error(none, model, fresh)


def test_few_rows_ask_for_a_stronger_ridge():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 200), nn.ReLU(), nn.Linear(200, 3))
    x, fresh = torch.randn(60, 10), torch.randn(500, 10)
    units = {"0": list(range(100))}
    with pytest.warns(UserWarning, match=r"'2' \(54 for 100\)\. Pass 2 times as many examples\."):
        new = cut(model, units, x, batches=x)
    none = cut(model, units, x, repair="none")
    assert error(new, model, fresh) < error(none, model, fresh)
    cut(model, units, x, batches=torch.randn(120, 10))  # the advice
    with pytest.warns(UserWarning, match=r"'2' \(60 for 100\)"):
        cut(model, units, x, evidence=pv.collect(model, x, progress=False))


def test_a_model_that_takes_no_other_number_of_examples_is_fitted_to_all():
    model = net(
        lambda self, x: self.b(self.a(x.view(20, 4)).relu()), a=nn.Linear(4, 8), b=nn.Linear(8, 2)
    )
    x = torch.randn(20, 4)
    plan = pv.drop(pv.find_groups(model, x), {"a": [1]})
    new = pv.shrink(model, plan, example_input=x, repair="lstsq", batches=[x, x + 1])
    assert error(new, model, x) < error(pv.shrink(model, plan, example_input=x), model, x)


def test_one_row_does_not_decide():
    assert is_worse(torch.full((20,), 1.2), torch.ones(20) + 0.01 * torch.rand(20))
    assert not is_worse(torch.tensor([*[0.5] * 19, 30.0]), torch.ones(20))
    assert not is_worse(torch.ones(20), torch.ones(20))
    assert not is_worse(torch.full((9,), 2.0), torch.ones(9))  # nothing can be said


# -- padding -------------------------------------------------------------------------------------


class Sentences(nn.Module):
    """Tokens, two layers for each, and the mean of those that are no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.a, self.b = nn.Embedding(30, 12), nn.Linear(12, 48), nn.Linear(48, 12)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x = self.table(input_ids)
        x = x + self.b(self.a(x).relu())
        m = attention_mask.unsqueeze(-1).to(x)
        return (x * m).sum(1) / m.sum(1)


def sentences(n: int, seed: int) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 30, (n, 16), generator=g)
    mask = (torch.arange(16) < torch.randint(2, 6, (n, 1), generator=g)).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def test_padded_tokens_are_no_rows_of_a_fit():
    torch.manual_seed(0)
    model = Sentences().double()
    given_ = sentences(100, 0)
    garbage = dict(given_)
    garbage["input_ids"] = torch.where(given_["attention_mask"] > 0, given_["input_ids"], 7)
    example = sentences(4, 9)
    units = {"a": list(range(0, 48, 2))}
    one, other = (cut(model, units, example, batches=[b]) for b in (given_, garbage))
    assert torch.equal(one.b.weight, other.b.weight)
    real = given_["attention_mask"].bool()
    real[9::10] = False
    keep = torch.arange(1, 48, 2)  # by hand, in float64
    x = model.a(model.table(given_["input_ids"][real])).relu().detach()
    z = x @ model.b.weight.T.detach()
    xc, zc = x[:, keep] - x[:, keep].mean(0), z - z.mean(0)
    c = xc.T @ xc / len(xc)
    c = c + 0.01 * c.diagonal().mean() * torch.eye(24)
    old = model.b.weight[:, keep].detach()
    want = old + torch.linalg.solve(c, xc.T @ (zc - xc @ old.T) / len(xc)).T
    torch.testing.assert_close(one.b.weight.detach(), want)


# -- routed rows ---------------------------------------------------------------------------------


class Experts(nn.Module):
    """A gate behind `pre` sends tokens to two experts; the result goes back to its tokens."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.pre = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 16))
        self.gate = nn.Linear(16, 2)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 16)) for _ in range(2)
        )
        self.post, self.head = nn.Linear(16, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.pre(x).relu()
        g = self.gate(h)
        out = torch.zeros_like(h)
        for i, expert in enumerate(self.experts):
            if self.how == "mask":  # as many tokens as choose this expert
                chosen = g.argmax(1) == i
                out[chosen] = out[chosen] + expert(h[chosen])
            elif self.how == "capacity":  # always the same number of tokens
                rows = g[:, i].topk(len(h) // 2).indices
                out = out.index_add(0, rows, expert(h[rows]))
            elif self.how == "gather":
                rows = g[:, i].topk(len(h) // 2).indices.unsqueeze(1).expand(-1, h.shape[1])
                out = out.scatter_add(0, rows, expert(h.gather(0, rows)))
            else:  # "all": every expert reads every token
                out = out + g.softmax(1)[:, i : i + 1] * expert(h)
        return self.head(self.post(h + out).relu())


def routed(how: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return Experts(how).double().eval(), torch.randn(200, 6).double()


@pytest.mark.parametrize("how", ["mask", "capacity", "gather"])
def test_rows_that_a_gate_sends_elsewhere_are_not_paired(how):
    model, x = routed(how)
    small = copy.deepcopy(model)
    with torch.no_grad():
        small.gate.weight.add_(torch.randn_like(small.gate.weight))
    # the gate of the smaller model chooses others: what the experts read does not belong together
    layers = ["pre.0", "gate", "experts.0.0", "experts.0.2", "experts.1.2", "post", "head"]
    with torch.no_grad():
        examples = Examples(model, layers, listed(x, "fit to"))
        assert list(examples.surveys) == layers
        assert [s.routed for s in examples.surveys.values()] == [n.startswith("e") for n in layers]
        for layer in layers:
            n, o = (model.get_submodule(layer).in_features, model.get_submodule(layer).out_features)
            if layer.startswith("experts"):
                with pytest.raises(NotPaired, match="other rows are sent to it"):
                    refit(model, small, layer, examples, 1, n, o)
                refit(model, model, layer, examples, 1, n, o)  # the same gate: they do
            else:
                refit(model, small, layer, examples, 1, n, o)


@pytest.mark.parametrize("how", ["mask", "capacity", "gather"])
def test_experts_stay_as_they_are_and_it_is_said_once(how):
    model, x = routed(how)
    units = list(range(0, 20, 2))
    plan = pv.drop(
        pv.find_groups(model, x), {"pre.0": units, "experts.0.0": units, "experts.1.0": units}
    )
    plain = pv.shrink(model, plan, example_input=x)
    with pytest.warns(UserWarning) as said:
        new = pv.shrink(model, plan, example_input=x, repair="lstsq", batches=x)
    assert [str(w.message) for w in said] == [
        "repair 'lstsq' was not applied to some layers. 'experts.0.2', 'experts.1.2': other rows are "
        "sent to it in the smaller model."
    ]
    for a, b in zip(new.experts.parameters(), plain.experts.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(new.pre[2].weight, plain.pre[2].weight)
    assert error(new, model, x) < error(plain, model, x)


@pytest.mark.parametrize("how", ["mask", "capacity", "gather", "all"])
def test_a_routed_model_is_repaired_but_for_its_experts(how):
    model, x = routed(how)
    plan = pv.drop(pv.find_groups(model, x), {"post": [0, 3, 6]})
    new = pv.shrink(
        model, plan, example_input=x, repair="lstsq", batches=x
    )  # head: nothing is said
    plain = pv.shrink(model, plan, example_input=x)
    assert error(new, model, x) < error(plain, model, x)


def test_a_call_for_each_example_is_followed():
    class OneByOne(Experts):
        def forward(self, x):
            h = self.pre(x).relu()
            rows = [self.experts[int(g.argmax())](h[i : i + 1]) for i, g in enumerate(self.gate(h))]
            return self.head(self.post(torch.cat(rows)).relu())

    torch.manual_seed(0)
    model, x = OneByOne("").double(), torch.randn(12, 6).double()
    found = []
    for gate in (model.gate.weight.clone(), -model.gate.weight):
        with torch.no_grad():
            model.gate.weight.copy_(gate)
            tracking = Tracking((x,))
            reads = []

            def note(name, inputs, output, tracking=tracking, reads=reads):
                reads.append(tracking.choices(inputs[0]))

            with pv.hooked(model, ["experts.0"], note), tracking:
                model(x)
        found.append(reads)
    assert not all(chosen_alike(a, b) for a, b in zip(*found, strict=False))


def test_units_that_are_permuted_are_no_routing():
    def forward(self, x):
        return self.b(self.a(x).relu()[:, self.order])

    model = net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 2))
    model.order = torch.tensor([5, 4, 3, 2, 1, 0])
    x = torch.randn(20, 4)
    tracking, reads = Tracking((x,)), []
    with (
        torch.no_grad(),
        pv.hooked(model, ["b"], lambda n, i, o: reads.append(tracking.choices(i[0]))),
        tracking,
    ):
        model(x)
    assert reads == [()]


# -- what cannot be repaired is said once, and the others are repaired ---------------------------


def test_a_layer_that_no_example_reaches_stays_as_it_is():
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 2), nn.Linear(8, 2)

        def forward(self, x, other: Tensor | None = None):
            h = self.a(x).relu()
            return self.b(h) if other is None else self.b(h) + self.c(h) * other

    torch.manual_seed(0)
    model, x = Branch(), torch.randn(50, 4)
    plan = pv.drop(pv.find_groups(model, (x, x[:, :1])), {"a": [1, 2]})
    for repair in ("lstsq", "fold"):
        with pytest.warns(UserWarning) as said:
            new = pv.shrink(model, plan, example_input=(x, x[:, :1]), repair=repair, batches=[x])
        assert len(said) == 1
        assert str(said[0].message).startswith(
            f"repair {repair!r} was not applied to some layers. 'c': "
        )
        assert torch.equal(new.c.weight, model.c.weight[:, [0, 3, 4, 5, 6, 7]])
        assert not torch.equal(new.b.bias, model.b.bias)


def test_the_kept_weights_of_a_mask_are_judged_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(60, 60, bias=False), nn.Linear(60, 3)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(60))
    x = torch.randn(120, 60).double()
    keep = torch.ones(3, 60, dtype=torch.bool)
    keep[:, :20] = False
    plan = pv.Plan({"1.weight": keep})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(refit_file, "STRONGER", ())
        with pytest.warns(UserWarning, match="'1': on held-out examples"):
            new = pv.mask(model, plan, repair="lstsq", batches=x, ridge=1e-9)
    assert torch.equal(new[1].weight.detach(), torch.where(keep, model[1].weight.detach(), 0))

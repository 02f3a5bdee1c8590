"""A group that cannot be cut is left out, with the reason and its share; the model is pruned."""

from __future__ import annotations

import math
import warnings

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import pruneviz as pv
from pruneviz.pruning.refused import least_plan, reason_of, refused_groups
from pruneviz.pruning.shrink import Shrinker

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(0))


class Written(nn.Module):
    """A size is written into its Python: the units of `b` cannot go without editing it."""

    def __init__(self, stubborn: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d = (
            nn.Linear(6, 12), nn.Linear(12, 8), nn.Linear(8, 10), nn.Linear(10, 3),
        )  # fmt: skip
        self.stubborn = stubborn

    def forward(self, x):
        x = torch.relu(self.a(x))
        x = torch.relu(self.b(x))
        if self.stubborn:
            x = x.reshape(x.shape[0], 8)
        x = torch.relu(self.c(x))
        if self.stubborn > 1:
            x = x.reshape(x.shape[0], 10)
        return self.d(x)


LEFT_OUT = r"left out: b \(3[0-9] % of the MACs: an old size is used at .*test_refused.py:\d+: `x = x.reshape\(x.shape\[0\], 8\)`\)"


@pytest.mark.parametrize("budget", [{"sparsity": 0.5}, {"macs": 0.6}, {"params": 0.7}])
def test_prune_leaves_a_stubborn_group_out(budget):
    model = Written().eval()
    with pytest.warns(UserWarning, match=LEFT_OUT) as said:
        small = pv.prune(model, X, **budget)
    assert len(said) == 1
    assert small.b.out_features == 8
    assert small.a.out_features < 12 and small.c.out_features < 10
    with pytest.raises(pv.GraphError, match=r"would not compute|fails at"):
        pv.prune(model, X, **budget, strict=True)
    program = pv.prune(model, X, **budget, as_program=True)
    assert program(X).shape == (16, 3)
    assert sum(p.numel() for p in program.parameters()) < sum(p.numel() for p in small.parameters())


def test_it_is_said_once_and_stands_in_the_plan():
    model = Written(2).eval()
    session = pv.Session(model, X)
    with pytest.warns(UserWarning, match="left out: b .*; c ") as said:
        groups = session.groups
    assert len(said) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan = pv.select(session.scores("l2"), sparsity=0.5)
        small = pv.prune(model, X, sparsity=0.5, session=session)
    assert set(plan.left_out) == {"b", "c"} == set(session.left_out)
    assert plan.left_out["b"].macs == pytest.approx(96 / (72 + 96 + 80 + 30))
    assert "left out: b (35 % of the MACs: an old size is used at" in repr(plan)
    assert "reshape(x.shape[0], 8)" in groups["b"].frozen
    assert [small.a.out_features, small.b.out_features, small.c.out_features] == [6, 8, 10]
    assert [*plan.to_frame()["left_out"]].count("") == len(plan.keep)


def test_tables_and_searches_go_on():
    model = Written().eval()
    judge = lambda m: float(sum(p.detach().abs().sum() for p in m.parameters()))  # noqa: E731
    with pytest.warns(UserWarning, match=LEFT_OUT):
        frame = pv.sensitivity(
            model, X, criterion="l2", sparsities=[0.5], evaluate=judge, progress=False
        )
    assert frame["layer"].tolist() == ["a", "c", "b"]
    row = frame.iloc[-1]
    assert row["left_out"].startswith("35 % of the MACs: an old size is used at")
    assert (row["sparsity"], row["metric"], row["macs"]) == (0, row["dense"], 278)
    assert frame["left_out"].tolist()[:2] == ["", ""]
    assert len(pv.plot_sensitivity(frame).lines) == 3  # two layers, and the whole model
    with pytest.warns(UserWarning, match=LEFT_OUT):
        swept = pv.sweep(
            model, X, criteria=["l2"], granularity="unit", sparsities=[0.5], evaluate=judge,
            progress=False,
        )  # fmt: skip
    assert swept["params"].iloc[0] < sum(p.numel() for p in model.parameters())
    assert swept["left_out"][0].startswith("b (35 % of the MACs: an old size is used at")
    with pytest.warns(UserWarning, match=LEFT_OUT):
        assert set(pv.allocate(model, frame, example_input=X, macs=0.8)) == {"a", "c"}


class Late(Written):
    """`c` can lose one unit, not five."""

    def forward(self, x):
        x = torch.relu(self.c(torch.relu(self.b(torch.relu(self.a(x))))))
        return self.d(x if x.shape[1] > 8 else x[:, :0])


def test_a_group_that_fails_with_fewer_units_is_in_the_tables_as_it_is(tmp_path):
    model, judge = Late(0).eval(), lambda m: float(m(X).detach().abs().mean())
    how = {"evaluate": judge, "progress": False, "sparsities": [0.1, 0.5]}
    with pytest.warns(UserWarning, match=r"left out: c \(29 %"):
        frame = pv.sensitivity(model, X, criterion="l2", path=tmp_path / "s.csv", **how)
    rows = frame[frame["layer"] == "c"]
    assert rows["sparsity"].tolist() == pytest.approx([0.1, 0.0])
    assert rows["metric"].iloc[1] == rows["dense"].iloc[1] == judge(model)
    assert [bool(t) for t in rows["left_out"]] == [False, True]
    with pytest.warns(UserWarning, match=r"left out: c \(29 %"):
        swept = pv.sweep(model, X, criteria=["l2"], granularity="unit", **how)
    assert swept["sparsity"].tolist() == [pytest.approx(3 / 30), pytest.approx(10 / 30)]
    assert [t[:6] for t in swept["left_out"]] == ["", "c (29 "]
    stored = pd.read_csv(tmp_path / "s.csv", comment="#")
    assert set(pv.allocate(model, stored, example_input=X, params=0.95)) == {"a", "b", "c"}


def test_what_cannot_be_scored_is_in_the_frame_of_sensitivity():
    model = Written(0).eval()
    evidence = pv.collect(model, [X], layers=["b", "d"], progress=False)
    how = {"criterion": "activation", "evidence": evidence, "sparsities": [0.5], "progress": False,
           "evaluate": lambda m: 0.0}  # fmt: skip
    with pytest.warns(UserWarning, match="left out: b"):
        frame = pv.sensitivity(model, X, **how)
    assert frame["layer"].tolist() == ["a", "c", "b"]
    assert frame["left_out"].iloc[-1].startswith("35 % of the MACs: `evidence` has nothing of it")
    with (
        pytest.warns(UserWarning, match="left out: b"),
        pytest.raises(pv.ArgumentError, match=r"'b' cannot be scored .* out of `layers`, or"),
    ):
        pv.sensitivity(model, X, layers=["b"], **how)
    assert (
        len(pv.sensitivity(model, X, layers=["a"], **how | {"evidence": None, "batches": [X]})) == 1
    )
    with pytest.warns(UserWarning, match="left out: b"):
        found = pv.find_inactive(evidence, groups=pv.find_groups(model, X))
    assert found.attrs["left_out"] == {"b": "`evidence` has no layer that reads them"}


def test_as_a_program_every_verb_cuts_it():
    """A warning is an error: nothing is left out."""
    model, judge = Written(2).eval(), lambda m: float(m(X).detach().abs().mean())
    program = {"as_program": True}
    frame = pv.sensitivity(
        model, X, criterion="l2", sparsities=[0.5], evaluate=judge, progress=False, **program
    )
    assert frame["layer"].tolist() == ["a", "b", "c"]
    swept = pv.sweep(model, X, criteria=["l2"], granularity="unit", sparsities=[0.5], evaluate=judge,
                     progress=False, **program)  # fmt: skip
    small = pv.prune(model, X, sparsity=0.5, criterion="l2", **program)
    assert swept["params"][0] == pv.measure(small, X).params
    assert swept["metric"][0] == pytest.approx(judge(small))
    sparsities = pv.allocate(model, frame, example_input=X, macs=0.6, **program)
    assert set(sparsities) == {"a", "b", "c"}
    costs = pv.compare_costs(model, X, sparsity=0.9, seconds=0, **program).set_index("way")
    left = 0.6 * costs["macs"]["zeros"]  # zeros in each layer leave a tenth
    assert costs["macs"]["smaller"] < left + costs["macs"]["dense"] / 2


def test_a_group_that_no_program_can_lose_is_left_out_too(monkeypatch):
    """No such model is known, so the refusal is played."""
    real = Shrinker._program

    def refusing(self, plan, *rest):
        if not bool(plan.keep["b"].all()):
            raise pv.GraphError("played")
        return real(self, plan, *rest)

    monkeypatch.setattr(Shrinker, "_program", refusing)
    model = Written().eval()
    with pytest.warns(UserWarning, match=r"left out: b \(.*: played\)"):
        small = pv.prune(model, X, sparsity=0.5, as_program=True)
    sizes = {n: len(p) for n, p in small.named_parameters() if n.endswith("bias")}
    assert sizes == {"a.bias": 6, "b.bias": 8, "c.bias": 5, "d.bias": 3}
    with pytest.raises(pv.GraphError, match="played"):
        pv.prune(model, X, sparsity=0.5, as_program=True, strict=True)


def test_only_the_guilty_groups_are_refused():
    for stubborn in (0, 1, 2):
        model = Written(stubborn).eval()
        groups = pv.find_groups(model, X)
        refused = refused_groups(Shrinker(model, X), least_plan(groups))
        assert list(refused) == ["b", "c"][:stubborn]
        assert all("reshape" in reason_of(e) for e in refused.values())
        assert not refused_groups(Shrinker(model, X), least_plan(groups), as_program=True)


def test_a_model_that_cannot_be_compared_is_refused_as_a_whole():
    class Noisy(Written):
        def forward(self, x):
            return super().forward(x) * float("nan")

    with pytest.raises(pv.GraphError, match="returns NaN or infinity on the example"):
        pv.prune(Noisy(0).eval(), X, sparsity=0.5)


def test_groups_of_which_nothing_is_known_are_left_out():
    model = Written(0).eval()
    evidence = pv.collect(model, [X], layers=["b", "d"], progress=False)
    with pytest.warns(
        UserWarning, match=r"left out: b \(35 % of the MACs: `evidence` has nothing of it"
    ):
        small = pv.prune(model, X, sparsity=0.5, criterion="activation", evidence=evidence)
    assert [small.a.out_features, small.b.out_features, small.c.out_features] == [6, 8, 5]
    with pytest.raises(pv.ArgumentError, match="has no layer that reads group 'b'"):
        pv.prune(model, X, sparsity=0.5, criterion="activation", evidence=evidence, strict=True)


class Attention(nn.Module):
    """Attention of our own; its scale follows from a shape."""

    def __init__(self, heads: int, scale: str) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.heads, self.scale = heads, scale

    def forward(self, x):
        n, t, _ = x.shape
        q, k, v = (
            p(x).view(n, t, self.heads, -1).transpose(1, 2) for p in (self.q, self.k, self.v)
        )
        if self.scale == "sqrt":
            a = q @ k.transpose(-2, -1) / math.sqrt(k.size(-1))
        elif self.scale == "power":
            a = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        else:
            return self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.o((a.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    """Attention, and a network of two layers; both are added."""

    def __init__(self, heads: int, scale: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        own = Attention(heads, scale)
        self.att = nn.MultiheadAttention(8, heads, batch_first=True) if scale == "torch" else own
        self.first, self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 16), nn.Linear(16, 8)
        self.out = nn.Linear(8, 3)

    def forward(self, x):
        x = self.first(x)
        own = isinstance(self.att, Attention)
        x = x + (self.att(x) if own else self.att(x, x, x, need_weights=False)[0])
        return self.out((x + self.down(torch.relu(self.up(x)))).mean(1))


WORDS = torch.randn(8, 5, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.filterwarnings("ignore:left out")
@pytest.mark.parametrize("rounds", [1, 3])
@pytest.mark.parametrize("scale", ["sqrt", "power", "sdpa", "torch"])
def test_of_a_single_head_only_the_width_of_its_queries_is_left_out(scale, rounds):
    """Four heads become two, then one: then the scale follows from a width that could be cut."""
    model = Encoder(1 if rounds == 1 else 4, scale).eval()
    for _ in range(rounds):
        session = pv.Session(model, WORDS)
        model = pv.prune(model, WORDS, sparsity=0.5, session=session)
    why = {g.name: g.frozen for g in session.groups if g.frozen}
    assert set(why) == {"att" if scale == "torch" else "att.q", "out"}
    assert model.up.out_features == 16 // 2**rounds and model.first.out_features == 8 // 2**rounds
    width = 8 if rounds == 1 else 2
    rows = model.att.in_proj_weight.shape[0] // 3 if scale == "torch" else model.att.q.out_features
    assert rows == width
    assert torch.isfinite(model(WORDS)).all()


@pytest.mark.parametrize("scale", ["sqrt", "power"])
def test_as_a_program_the_queries_are_cut_and_the_scale_stays(scale):
    model = Encoder(1, scale).eval()
    groups = pv.find_groups(model, WORDS)
    plan = pv.drop(groups, {"att.q": [0, 1, 2, 3]})
    small = pv.shrink(model, plan, example_input=WORDS, as_program=True)
    with torch.no_grad():
        assert small.get_parameter("att.q.weight").shape == (4, 8)
        assert torch.allclose(small(WORDS), pv.mask(model, plan)(WORDS), atol=1e-6)

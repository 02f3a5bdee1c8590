"""Branches that nobody reads, and layers that never run: named, cut, and certified as what they are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import pruneviz as pv


class Aux(nn.Module):
    """An auxiliary head whose result is not returned, and one that runs in training only."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.head = nn.Linear(8, 3)
        self.aux = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3))
        self.extra = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x):
        h = self.body(x)
        self.aux(h)
        return (self.head(h), self.extra(h)) if self.training else self.head(h)


X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
UNRUN = "it never ran on the example: lossless_plan(model, x, unrun=True) cuts it"


def test_groups_say_what_is_not_used():
    groups = pv.find_groups(Aux(), X)
    assert {g.name: g.unused for g in groups} == {
        "body.0": "", "head": "", "aux.0": "unread", "aux.3": "unread",
        "extra.0": "unrun", "extra.2": "unrun",
    }  # fmt: skip
    assert (
        repr(groups)
        == f"""\
Groups: 3 of 6 can be cut, 17 units
  body.0   8 units; read by aux.0, head
  aux.0    6 units; shared with aux.1; read by aux.3; no output needs them
  aux.3    3 units; no output needs them
frozen:
  head     its units are the model's output
  extra.0  {UNRUN}
  extra.2  {UNRUN}"""
    )
    assert "extra.0" not in pv.score(Aux(), "l2", groups=groups).values
    with pytest.raises(pv.GraphError, match="never ran on the example: lossless_plan"):
        pv.drop(groups, {"extra.0": [1]})


@pytest.mark.parametrize("repair", ["none", "merge"])
@pytest.mark.parametrize("unrun", [False, True])
def test_what_nobody_reads_goes_and_the_outputs_stay(unrun, repair, tmp_path):
    model = Aux().eval()
    plan = pv.lossless_plan(model, X, unrun=unrun)
    small = pv.shrink(model, plan, example_input=X, repair=repair)
    assert torch.equal(small(X), model(X))
    assert torch.equal(pv.mask(model, plan)(X), model(X))
    assert [small.aux[i].weight.shape for i in (0, 1, 3)] == [(1, 8), (1,), (1, 1)]
    assert small.extra[0].weight.shape == ((1, 8) if unrun else (6, 8))
    certificate = pv.certify(model, small, [X])
    # what a training head would do, nobody has seen
    assert certificate.kind == ("observed" if unrun else "exact")
    assert certificate.removed["aux.0"] == (0, 1, 2, 3, 4)
    pv.save(small, tmp_path / "small")
    assert torch.equal(pv.load(tmp_path / "small", Aux).eval()(X), model(X))
    if unrun:
        with pytest.raises(RuntimeError):  # where it does run, it is no silent wrong number
            small.train()(X)
    else:
        small.train()(X)


def test_a_unit_that_only_an_unread_branch_reads_is_unread():
    model = Aux().eval()
    with torch.no_grad():
        model.head.weight[:, [2, 5]] = 0
    plan = pv.lossless_plan(model, X)
    assert (~plan.keep["body.0"]).nonzero().flatten().tolist() == [2, 5]
    small = pv.shrink(model, plan, example_input=X)
    torch.testing.assert_close(small(X), model(X))
    assert pv.certify(model, small, [X]).kind == "exact"


def test_the_pooler_of_bert_under_mean_pooling():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=20,
        vocab_size=30, max_position_embeddings=8,
    )  # fmt: skip

    class Sentence(nn.Module):
        def __init__(self):
            super().__init__()
            self.bert = transformers.BertModel(config)

        def forward(self, x):
            return self.bert(x).last_hidden_state.mean(1)

    model, x = Sentence().eval(), torch.arange(12).view(2, 6)
    assert pv.find_groups(model, x)["bert.pooler.dense"].unused == "unread"
    small = pv.shrink(model, pv.lossless_plan(model, x), example_input=x)
    assert small.bert.pooler.dense.weight.shape == (1, 16)
    assert torch.equal(small(x), model(x)) and pv.certify(model, small, [x]).kind == "exact"
    # where it is read, it stays
    read = pv.find_groups(transformers.BertModel(config).eval(), x)
    assert not any(g.unused for g in read)


def test_a_branch_with_sizes_in_its_code_stays():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(4, 5)

        def forward(self, x):
            self.b(x).view(-1, 2, 3)  # of 3 examples with 2 units each it would make one
            self.c(x).relu()
            return self.a(x)

    model, x = Fixed().eval(), X[:3]
    plan = pv.lossless_plan(model, x)
    assert {n: int(k.sum()) for n, k in plan.keep.items()} == {"b": 3, "c": 1}
    small = pv.shrink(model, plan, example_input=x)
    assert torch.equal(small(X), model(X))


def test_layers_of_all_kinds_that_never_run():
    layers = {
        "lstm": nn.LSTM(4, 5),
        "transposed": nn.ConvTranspose1d(3, 4, 2),
        "grouped": nn.Conv1d(8, 8, 3, groups=4),
        "depthwise": nn.Conv1d(8, 8, 3, groups=8),
        "attention": nn.MultiheadAttention(6, 2),
        "embedding": nn.Embedding(5, 3, padding_idx=4),
        "norm": nn.GroupNorm(2, 4),
        "single": nn.Linear(3, 1),
        "normed": nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)),
    }
    model = nn.Sequential(nn.Linear(4, 2)).eval()
    model[0].idle = nn.ModuleDict(layers)  # a Linear does not run its children
    groups = pv.find_groups(model, X)
    found = {g.name for g in groups if g.unused == "unrun"}
    assert found == {f"0.idle.{n}" for n in [*layers, "attention.out_proj"]}
    plan = pv.lossless_plan(model, X, unrun=True)
    small = pv.shrink(model, plan, example_input=X)
    assert torch.equal(small(X), model(X))
    assert pv.certify(model, small, [X]).kind == "observed"
    assert pv.measure(small, X).params < pv.measure(model, X).params / 3
    kept = pv.shrink(model, pv.lossless_plan(model, X), example_input=X)
    assert pv.measure(kept, X).params == pv.measure(model, X).params


@pytest.mark.filterwarnings("ignore:repair 'lstsq' has fewer rows")  # a few examples will do
def test_layers_that_never_run_do_not_stand_in_the_way_of_data():
    model, batches = Aux().eval(), [(X, torch.tensor([0, 1, 2, 0, 1]))]
    evidence = pv.collect(model, batches, loss=nn.functional.cross_entropy, progress=False)
    assert repr(evidence).endswith("; never ran: extra.0, extra.2")
    scores = pv.score(model, "wanda", evidence=evidence)
    assert "extra.0.weight" not in scores.values and "extra.0.weight" in scores.left_out
    groups = pv.find_groups(model, X)
    for criterion in ("obs", "taylor", "activation", "l2"):
        units = pv.score(model, criterion, groups=groups, evidence=evidence).values
        assert list(units) == ["body.0", "aux.0", "aux.3"] and bool((units["body.0"] > 0).any())
        assert not units["aux.0"].any() and not units["aux.3"].any()
    assert set(pv.find_inactive(evidence, groups=groups)["group"]) <= {"body.0"}
    small = pv.prune(model, X, sparsity=0.5, criterion="obs", repair="lstsq", batches=batches)
    assert small.extra[0].weight.shape == (6, 8) and small(X).shape == (5, 3)
    plan = pv.lossless_plan(model, X, evidence=evidence)
    assert torch.allclose(
        pv.shrink(model, plan, example_input=X, repair="merge", evidence=evidence)(X),
        model(X),
        atol=1e-5,
    )

"""Every weight that an operator multiplies is scored, masked and counted, or named with the reason."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from helpers import refused
from torch import nn

import pruneviz as pv
from pruneviz.model.weights import left_out

RECURRENT = [
    nn.LSTM(3, 4, 2, bidirectional=True, batch_first=True),
    nn.LSTM(3, 8, batch_first=True),
    nn.GRU(3, 4, batch_first=True),
    nn.RNN(3, 4, batch_first=True),
    nn.LSTMCell(3, 4),
    nn.GRUCell(3, 4),
    nn.RNNCell(3, 4),
]


def first(output):
    return output[0] if isinstance(output, tuple) else output


def example_of(model):
    return torch.randn(2, 3) if isinstance(model, nn.RNNCellBase) else torch.randn(2, 5, 3)


def half(model, sparsity=0.5):
    return pv.select(pv.score(model, "magnitude"), sparsity=sparsity)


@pytest.mark.parametrize("model", RECURRENT, ids=repr)
def test_recurrent_layers_and_cells_are_masked_and_stay_masked(model):
    plan, x = half(model), example_of(model)
    assert set(plan.keep) == {n for n, p in model.named_parameters() if p.ndim == 2}
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        for name, keep in plan.keep.items():
            getattr(by_hand, name).mul_(keep)
    masked = pv.mask(model, plan)
    masked(x)  # torch keeps what it computed: no copy may trip over it
    for same in (masked, copy.deepcopy(masked), copy.deepcopy(copy.deepcopy(masked))):
        torch.testing.assert_close(first(same(x)), first(by_hand(x)))
    baked = pv.bake(masked)
    torch.testing.assert_close(first(copy.deepcopy(baked)(x)), first(by_hand(x)))
    assert list(baked.state_dict()) == list(model.state_dict())
    optimizer = torch.optim.Adam(masked.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(2):
        first(masked(x)).square().sum().backward()
        optimizer.step()
    after = pv.named_weights(masked)
    assert all((after[n][~keep] == 0).all() for n, keep in plan.keep.items())
    assert not torch.equal(first(masked(x)), first(by_hand(x)))


def test_the_sparsity_of_an_lstm_is_that_of_the_lstm():
    model = nn.Sequential(nn.LSTM(20, 40))
    plan = half(model, 0.9)
    kept = pv.measure(pv.mask(model, plan), torch.zeros(5, 1, 20)).nonzero
    assert kept == plan.kept + 320  # the biases
    assert repr(plan) == (
        "Plan for 9,600 weights in 1 layer: keeps 960, sparsity 0.900 (0.871 of all 9,920 numbers)"
    )


def test_the_macs_of_an_lstm_are_split_over_its_weights():
    model, x = nn.LSTM(3, 4, batch_first=True), torch.randn(2, 5, 3)
    masked = pv.mask(model, half(model))
    frame = pv.effective_macs(masked, [x]).set_index("tensor")
    assert frame["macs"].to_dict() == {
        "weight_ih_l0": 5 * 16 * 3, "weight_hh_l0": 5 * 16 * 4, "other": 0, "whole": 5 * 16 * 7,
    }  # fmt: skip
    assert frame.loc["whole", "macs_weights"] == 5 * 16 * 7 / 2
    assert frame.loc["whole", "macs"] == pv.measure(masked, x).macs


def test_gradients_of_single_examples_reach_an_lstm():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm, self.out = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.lstm(x)[0][:, -1])

    model, x, y = Net(), torch.randn(3, 5, 3), torch.tensor([0, 1, 1])
    evidence = pv.collect(model, [(x, y)], loss=F.cross_entropy, progress=False)
    want = torch.zeros_like(model.lstm.weight_hh_l0)
    for i in range(3):
        model.zero_grad()
        F.cross_entropy(model(x[i : i + 1]), y[i : i + 1]).backward()
        want += model.lstm.weight_hh_l0.grad**2 / 3
    torch.testing.assert_close(evidence.grad_sq["lstm.weight_hh_l0"].float(), want)
    assert "lstm.weight_ih_l0" in pv.score(model, "taylor", evidence=evidence).values
    wanda = pv.score(model, "wanda", evidence=evidence)  # it needs what a layer reads
    why = "`evidence` has nothing of it that 'wanda' could use"
    assert wanda.left_out["lstm.weight_ih_l0"].why == why
    assert pv.select(wanda, sparsity=0.5).to_frame()["left_out"].tolist() == [
        "", f"lstm.weight_ih_l0 (48 numbers: {why})", f"lstm.weight_hh_l0 ({16 * 4} numbers: {why})",
    ]  # fmt: skip


def test_gpt2_is_pruned_in_its_layers_not_only_in_its_embeddings():
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, vocab_size=30, n_positions=8, bos_token_id=1, eos_token_id=1
    )
    model, x = transformers.GPT2Model(config).eval(), torch.arange(6)[None]
    plan = half(model, 0.9)
    assert "h.0.attn.c_attn.weight" in plan.keep
    assert sum(p.numbers for p in plan.left_out.values()) + plan.total == model.num_parameters()
    masked = pv.mask(model, plan)
    assert pv.measure(masked, x).nonzero <= 0.2 * model.num_parameters()
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        for name, keep in plan.keep.items():
            by_hand.get_parameter(name).mul_(keep)
    torch.testing.assert_close(masked(x)[0], by_hand(x)[0])
    many = [torch.randint(0, 30, (16, 8))]
    layers = pv.select(pv.score(model, "magnitude"), sparsity=0.7, protect=["wte", "wpe"])
    far, near = (
        pv.mask(model, layers, repair=repair, batches=many)(many[0])[0] - model(many[0])[0]
        for repair in ("none", "lstsq")
    )
    assert near.square().mean() < far.square().mean() / 2
    assert "'h.0.attn.c_attn'" in repr(list(pv.weight_histogram(model)["layer"].unique()))


def test_the_fused_path_of_a_transformer_reads_the_mask():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    plan, x = half(layer, 0.8), torch.randn(2, 3, 8)
    assert {"self_attn.in_proj_weight", "self_attn.out_proj.weight"} <= plan.keep.keys()
    by_hand = copy.deepcopy(layer)
    with torch.no_grad():
        for name, keep in plan.keep.items():
            by_hand.get_parameter(name).mul_(keep)
        torch.testing.assert_close(pv.mask(layer, plan)(x), by_hand(x))


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[3.0, 1.0], [-2.0, 0.5]]))
        self.norm = nn.LayerNorm((2, 2))

    def forward(self, x):
        return self.norm(torch.stack([x @ self.w] * 2, 1))


UNSEEN = "a parameter of Own; that an operator multiplies it can only be seen in a run"


def test_what_is_left_out_is_named():
    model = nn.Sequential(nn.Linear(2, 2), Own())
    assert {n: p.why for n, p in left_out(model).items()} == {
        "0.bias": "a bias or a norm", "1.w": UNSEEN, "1.norm.weight": "a norm", "1.norm.bias": "a norm",
    }  # fmt: skip
    plan = half(model)
    assert repr(plan) == (
        "Plan for 4 weights in 1 layer: keeps 2, sparsity 0.500 (0.111 of all 18 numbers)\n"
        f"left out: 1.w (4 numbers: {UNSEEN}); 1.norm.weight (4 numbers: a norm); "
        "1.norm.bias (4 numbers: a norm)"
    )
    panel = pv.panel_weights(model)
    assert f"(0.000 of all 18 numbers). Left out: 1.w (4 numbers: {UNSEEN}); " in panel.sentence
    panel.close()
    assert list(half(nn.Linear(2, 2)).to_frame().columns) == ["layer", "total", "kept", "sparsity"]
    attention = nn.MultiheadAttention(4, 2, add_bias_kv=True)
    assert "appended to the keys" in left_out(attention)["bias_k"].why
    assert pv.select(pv.Scores({"w": torch.ones(4)}, "magnitude"), sparsity=0.5).left_out == {}


def test_a_parameter_of_ones_own_is_pruned_by_hand():
    model = Own()
    with refused(
        "`model` (Own) has 12 parameters, but none of them in a Linear, Conv, Embedding, attention "
        "or recurrent layer. Score its parameters by hand: pv.select(pv.Scores({name: "
        "parameter.abs()}, 'magnitude'), sparsity=0.5)."
    ):
        pv.score(model, "magnitude")
    scores = pv.Scores({"w": model.w.abs()}, "magnitude")
    masked = pv.mask(model, pv.select(scores, sparsity=0.5))
    assert masked.w.tolist() == [[3, 0], [-2, 0]]
    assert pv.bake(masked).w.tolist() == [[3, 0], [-2, 0]]


def test_a_layer_without_outputs_is_shown():
    with pytest.warns(UserWarning, match="zero-element"):
        empty = nn.Linear(3, 0)
    panel = pv.panel_weights(nn.Sequential(empty, nn.Linear(3, 4)))
    panel.controls["sparsity"].value = 0.5
    assert panel.result["layers"] == {"0": 1.0, "1": 0.5}
    assert panel.result["plan"].to_frame()["sparsity"].tolist() == [0.0, 0.5]
    panel.close()
    with refused("all layers of `model` are empty: there is no weight to show. Pass a model with weights."):  # fmt: skip
        pv.panel_weights(empty)


def test_every_plan_of_weights_says_what_it_leaves_out():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.out, self.table = nn.Linear(4, 2), nn.Parameter(torch.zeros(1, 4))

        def forward(self, x):
            return self.out(x + self.table)

    model, x, y = Net(), torch.randn(6, 4), torch.tensor([0, 1] * 3)
    rounds = pv.prune_iteratively(model, [(x, y)], sparsity=0.5, rounds=2, progress=False)
    assert list(rounds.plan.left_out) == ["table", "out.bias"]
    panel = pv.panel_whatif(model, [(x, y)])
    panel.controls["criterion"].value = "weight magnitude"
    assert "stay, sparsity 0.000 (0.000 of all 14 numbers). Left out: table" in panel.sentence
    assert "Left out: table (4 numbers: a parameter of Net; that an operator" in panel.sentence
    panel.close()

"""A shrunken model comes back: by rebuilding, cutting and filling, never by unpickling."""

import json
import pickle
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import pruneviz as pv


def build() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Sigmoid(),
        nn.Flatten(), nn.Linear(8 * 36, 12), nn.ReLU(), nn.Linear(12, 3),
    )  # fmt: skip


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 16)
        self.inner = nn.Linear(16, 24)
        self.outer = nn.Linear(24, 16)
        self.head = nn.Linear(16, 20, bias=False)
        self.head.weight = self.table.weight

    def forward(self, x):
        x = self.table(x)
        return self.head(x + self.outer(torch.relu(self.inner(x))))


X = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def test_round_trip(tmp_path):
    model = build().eval()
    small = pv.prune(model, X, sparsity=0.5)
    pv.save(small, tmp_path / "small.safetensors")
    again = pv.load(tmp_path / "small.safetensors", build).eval()
    assert torch.equal(again(X), small(X))
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in small.state_dict().items()
    }
    assert [p.name for p in tmp_path.iterdir()] == ["small.safetensors"]


def test_several_rounds_training_between_and_saving_again(tmp_path):
    model = build().eval()
    once = pv.prune(model, X, sparsity=0.25)
    with torch.no_grad():
        for p in once.parameters():
            p.add_(0.01)
    twice = pv.prune(once, X, sparsity=0.25)
    pv.save(twice, tmp_path / "a.safetensors")
    again = pv.load(tmp_path / "a.safetensors", build).eval()
    assert torch.equal(again(X), twice(X))
    pv.save(again, tmp_path / "b.safetensors")
    assert torch.equal(pv.load(tmp_path / "b.safetensors", build).eval()(X), twice(X))
    thrice = pv.prune(again, X, sparsity=0.25)
    assert thrice[0].out_channels < again[0].out_channels < model[0].out_channels


def test_ties_and_dtype(tmp_path):
    ids = torch.randint(0, 20, (2, 5))
    model = Tied().double().eval()
    small = pv.prune(model, ids, sparsity=0.5)
    pv.save(small, tmp_path / "t.safetensors")
    again = pv.load(tmp_path / "t.safetensors", lambda: Tied().double())
    assert again.head.weight is again.table.weight
    assert again.inner.weight.dtype == torch.float64
    assert torch.equal(again(ids), small(ids))


def test_attention_with_fewer_heads(tmp_path):
    def encoder() -> nn.Module:
        return nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)

    x = torch.randn(2, 5, 16)
    model = encoder().eval()
    groups = pv.find_groups(model, x)
    plan = pv.drop(groups, {"self_attn": [1, 2], "linear1": range(10)})
    small = pv.shrink(model, plan, example_input=x)
    pv.save(small, tmp_path / "e.safetensors")
    again = pv.load(tmp_path / "e.safetensors", encoder).eval()
    assert again.self_attn.num_heads == 2
    assert torch.equal(again(x), small(x))


class Heads(nn.Module):
    """Its Python holds the number of heads in an attribute that the cut changes."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 3
        self.qkv = nn.Linear(8, 36)
        self.out = nn.Linear(12, 8)
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, 4).permute(2, 0, 3, 1, 4)
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.last(self.out(y.transpose(1, 2).reshape(b, n, 4 * self.heads)))


def test_attributes_that_were_mended_come_back(tmp_path):
    x = torch.randn(2, 5, 8)
    model = Heads().eval()
    small = pv.shrink(model, pv.drop(pv.find_groups(model, x), {"qkv": [1]}), example_input=x)
    assert small.heads == 2
    assert model.heads == 3
    pv.save(small, tmp_path / "h.safetensors")
    assert torch.equal(pv.load(tmp_path / "h.safetensors", Heads)(x), small(x))


def test_an_uncut_model_and_a_baked_mask(tmp_path):
    model = build().eval()
    pv.save(model, tmp_path / "m.safetensors")
    assert torch.equal(pv.load(tmp_path / "m.safetensors", build).eval()(X), model(X))
    plan = pv.select(pv.score(model, "magnitude"), sparsity=0.5)
    small = pv.bake(pv.prune(pv.mask(model, plan), X, sparsity=0.5))
    pv.save(small, tmp_path / "b.safetensors")
    assert torch.equal(pv.load(tmp_path / "b.safetensors", build).eval()(X), small(X))


def test_the_file_holds_no_pickle(tmp_path):
    pv.save(pv.prune(build(), X, sparsity=0.5), tmp_path / "s.safetensors")
    with safe_open(tmp_path / "s.safetensors", framework="pt") as f:
        text = f.metadata()["pruneviz"]
    assert json.loads(text)["version"] == 3
    raw = (tmp_path / "s.safetensors").read_bytes()
    with pytest.raises(pickle.UnpicklingError):
        pickle.loads(raw)


def test_load_leaves_the_built_model_alone(tmp_path):
    pv.save(pv.prune(build(), X, sparsity=0.5), tmp_path / "s.safetensors")
    template = build()
    pv.load(tmp_path / "s.safetensors", lambda: template)
    assert template[0].out_channels == 8


def test_what_cannot_be_saved(tmp_path):
    model = build().eval()
    plan = pv.select(pv.score(model, "magnitude"), sparsity=0.5)
    with pytest.raises(pv.ArgumentError, match=r"has masks.*pv\.bake\(model\)"):
        pv.save(pv.mask(model, plan), tmp_path / "m.safetensors")
    groups = pv.find_groups(model, X)
    program = pv.shrink(model, pv.drop(groups, {"0": [1]}), example_input=X, as_program=True)
    with pytest.raises(pv.ArgumentError, match="a shrunken program has no such code"):
        pv.save(program, tmp_path / "p.safetensors")
    with pytest.raises(pv.ArgumentError, match="cannot be written"):
        pv.save(model, tmp_path / "nowhere" / "m.safetensors")
    with pytest.raises(pv.ArgumentError, match=r"`model` must be a torch\.nn\.Module"):
        pv.save("model", tmp_path / "m.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_loaded(tmp_path):
    path = tmp_path / "s.safetensors"
    with pytest.raises(pv.ArgumentError, match=r"is not a file\. Write one: pv\.save"):
        pv.load(path, build)
    small = pv.prune(build(), X, sparsity=0.5)
    pv.save(small, path)
    with pytest.raises(pv.ArgumentError, match="`build` must be a function"):
        pv.load(path, build())
    with pytest.raises(pv.ArgumentError, match="another model"):
        pv.load(path, lambda: nn.Linear(2, 2))
    with pytest.raises(pv.ArgumentError, match="another model"):
        pv.load(path, lambda: nn.Sequential(*build()[:-1], nn.Linear(12, 4)))
    raw = path.read_bytes()
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(pv.ArgumentError, match="is damaged"):
        pv.load(path, build)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(pv.ArgumentError, match=re.escape("was not written by pv.save")):
        pv.load(path, build)
    save_file({"a": torch.zeros(1)}, path, metadata={"pruneviz": '{"version": 4, "by": "9.9"}'})
    with pytest.raises(pv.ArgumentError, match=r"by a newer pruneviz \(9\.9\)"):
        pv.load(path, build)
    save_file({"a": torch.zeros(1)}, path, metadata={"pruneviz": '{"version": 1, "cuts": 7}'})
    with pytest.raises(pv.ArgumentError, match="is damaged"):
        pv.load(path, build)

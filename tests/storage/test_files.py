"""A shrunken model comes back: by rebuilding, cutting and filling, never by unpickling."""

import copy
import importlib
import inspect
import json
import os
import pickle
import re
import subprocess
import sys

import pytest
import torch
from helpers import refused
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import prune as torch_prune

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


HEAD = [*range(4, 8), *range(16, 20), *range(28, 32)]  # query, key and value of head 1


def test_attributes_that_were_mended_come_back(tmp_path):
    x = torch.randn(2, 5, 8)
    model = Heads().eval()
    plan = pv.drop(pv.find_groups(model, x), {"qkv": HEAD})
    small = pv.shrink(model, plan, example_input=x)
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


def test_a_program_is_loaded_into_one_of_the_same_plan(tmp_path):
    path, groups = tmp_path / "p.safetensors", pv.find_groups(build(), X)

    def program(channels, of=build):
        plan = pv.Plan.from_json(pv.drop(groups, {"0": channels}).to_json())
        return pv.shrink(of().eval(), plan, example_input=X, as_program=True)

    saved = pv.fit(program([1]), [(X, torch.arange(len(X)) % 2)], progress=False)
    pv.save(saved, path, encoding="csr_int32")
    again = pv.load(path, lambda: program([1]))
    assert torch.equal(again(X), saved(X))
    pv.save(again, path)  # and once more
    assert torch.equal(pv.load(path, lambda: program([1]))(X), saved(X))
    with pytest.raises(pv.ArgumentError, match=r"cut by another plan. Pass the plan of the saved"):
        pv.load(path, lambda: program([2]))
    with pytest.raises(pv.ArgumentError, match="a program was saved, but `build` returns none"):
        pv.load(path, build)
    pv.save(build(), path)
    with pytest.raises(pv.ArgumentError, match="no program was saved, but `build` returns one"):
        pv.load(path, lambda: program([1]))


def test_what_cannot_be_saved(tmp_path):
    model = build().eval()
    plan = pv.select(pv.score(model, "magnitude"), sparsity=0.5)
    with pytest.raises(pv.ArgumentError, match=r"has masks.*pv\.bake\(model\)"):
        pv.save(pv.mask(model, plan), tmp_path / "m.safetensors")
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


WITHOUT_PRUNEVIZ = """
import sys, torch
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "pruneviz":
            raise ImportError("pruneviz is not here")
sys.meta_path.insert(0, Nothing())
for model, x, y in torch.load(sys.argv[1], weights_only=False):
    assert torch.equal(model(x), y), "other outputs"
    print("the same", "pruneviz" in sys.modules)
"""


def test_smaller_models_are_unpickled_without_pruneviz(tmp_path, monkeypatch):
    model = build().eval()
    once = pv.prune(model, X, sparsity=0.5)
    twice = pv.prune(once, X, sparsity=0.25)
    pv.save(twice, tmp_path / "s")
    loaded = pv.load(tmp_path / "s", lambda: build().eval())
    baked = pv.bake(pv.mask(once, pv.select(pv.score(once, "magnitude"), sparsity=0.5)))
    # one whose sizes were corrected, of a class that the other process can import
    text = f"import torch\nfrom torch import nn\n{inspect.getsource(Heads)}"
    (tmp_path / "mine_too.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    x, heads = torch.randn(2, 5, 8), importlib.import_module("mine_too").Heads().eval()
    plan = pv.drop(pv.find_groups(heads, x), {"qkv": HEAD})
    sized = pv.shrink(heads, plan, example_input=x)
    cases = [(m, X) for m in (once, twice, loaded, baked)] + [(sized, x)]
    torch.save([(m, x, m(x).detach()) for m, x in cases], tmp_path / "s.pt")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PRUNEVIZ, tmp_path / "s.pt"],
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert done.stdout == "the same False\n" * 5, done.stderr[-800:]


def test_a_pickled_model_can_still_be_saved_and_certified(tmp_path):
    model = build().eval()
    small = pv.prune(model, X, sparsity=0.5)
    again = pickle.loads(pickle.dumps(small))
    pv.save(again, tmp_path / "s")
    assert torch.equal(pv.load(tmp_path / "s", build).eval()(X), small(X))
    one, other = (pv.certify(model, m, [X]) for m in (small, again))
    assert one.removed == other.removed and one.removed


def test_a_wrapped_model_is_saved_as_what_is_inside(tmp_path):
    small = pv.prune(build().eval(), X, sparsity=0.5)
    pv.save(nn.DataParallel(small), tmp_path / "s")
    assert torch.equal(pv.load(tmp_path / "s", build).eval()(X), small(X))


def test_half_precision_and_odd_dtypes_come_back(tmp_path):
    model = build().eval()
    model.register_buffer("odd", torch.zeros(3, dtype=torch.float8_e4m3fn))
    model.register_buffer("pairs", torch.zeros(2, dtype=torch.complex64))
    model.register_buffer("none", torch.zeros(0, 4))
    model[0].bfloat16()

    def like():
        return copy.deepcopy(model)

    pv.save(model, tmp_path / "s")
    again = pv.load(tmp_path / "s", like)
    assert {k: t.dtype for k, t in again.state_dict().items()} == {
        k: t.dtype for k, t in model.state_dict().items()
    }
    with refused(
        "`build` makes another model than the saved one: '0.weight' is bfloat16[8, 1, 3, 3] in the file "
        "and float32[8, 1, 3, 3] in the model."
    ):
        pv.load(tmp_path / "s", lambda: nn.Sequential(like()[0].float(), *like()[1:]))


def csr(model):
    return pv.to_csr(model)


def cut_by_hand(model):
    model[4].weight = nn.Parameter(model[4].weight[:, :9].detach())
    return model


def cut_again(model):
    small = pv.prune(model, X, sparsity=0.5)
    first, last = small[4], small[6]
    with torch.no_grad():
        first.weight, first.bias = (nn.Parameter(t[:-1]) for t in (first.weight, first.bias))
        last.weight = nn.Parameter(last.weight[:, :-1])
    first.out_features, last.in_features = first.out_features - 1, last.in_features - 1
    return small


def masked_by_torch(model):
    torch_prune.l1_unstructured(model[6], "weight", 0.5)
    return model


def lazy(model):
    model[6] = nn.LazyLinear(3)
    return model


def sparse(model):
    model[6].weight = nn.Parameter(model[6].weight.detach().to_sparse())
    return model


ELSEWHERE = (
    "it was cut by another tool, and `load` could not repeat that. Cut the model with pv.prune or "
    "pv.shrink instead; or keep it whole: torch.save(model, path)."
)
NOT_SAVED = {
    csr: "layer '4' stores compressed sparse rows, which the model that `load` builds does not have. Save "
    "the model from which pv.to_csr made it: pv.save(dense, path, encoding='csr_int32'), and then "
    "pv.to_csr(pv.load(path, build)).",
    cut_by_hand: f"layer '4' says that its weight is (12, 288), but it is (12, 9): {ELSEWHERE}",
    cut_again: f"'4.weight' is (5, 144), but pruneviz left 6 along dimension 0: {ELSEWHERE}",
    masked_by_torch: "layer '6' has a mask of torch.nn.utils.prune, which `load` could not restore. Make it "
    "permanent first: torch.nn.utils.prune.remove(layer, 'weight').",
    lazy: "'6.weight' has no shape yet. Run the model once: model(x).",
    lambda m: m.to("meta"): "'0.weight' is on the device 'meta': it has no numbers to save.",
    sparse: "'6.weight' is a sparse tensor. Make it dense, and save its zeros without cost: pv.save(model, "
    "path, encoding='csr_int32').",
}


@pytest.mark.parametrize("change", NOT_SAVED, ids=lambda f: f.__name__)
def test_what_load_would_refuse_is_not_saved(tmp_path, change):
    with refused(NOT_SAVED[change]):
        pv.save(change(build().eval()), tmp_path / "s")
    assert list(tmp_path.iterdir()) == []


def test_the_ways_out_work(tmp_path):
    path, model = tmp_path / "s", build().eval()
    pv.save(model, path, encoding="csr_int32")
    assert torch.allclose(
        pv.to_csr(pv.load(path, lambda: build().eval()))(X), csr(model)(X), atol=1e-6
    )
    for other in (cut_by_hand(build()), cut_again(build().eval())):
        torch.save(other, path)
        assert torch.load(path, weights_only=False)[4].weight.shape == other[4].weight.shape
    masked = masked_by_torch(build().eval())
    torch_prune.remove(masked[6], "weight")
    pv.save(masked, path)
    assert torch.equal(pv.load(path, build).eval()(X), masked(X))
    late = lazy(build().eval())
    late(X)
    pv.save(late, path)
    assert torch.equal(pv.load(path, build).eval()(X), late(X))
    dense = sparse(build().eval())
    dense[6].weight = nn.Parameter(dense[6].weight.detach().to_dense())
    pv.save(dense, path, encoding="csr_int32")
    assert torch.equal(pv.load(path, build).eval()(X), dense(X))


def test_a_model_that_another_tool_made_smaller_is_built_smaller(tmp_path):
    """Its layers agree with their tensors: nothing tells it from a model that was built like this."""
    smaller = nn.Sequential(*build()[:4], nn.Linear(288, 7), nn.ReLU(), nn.Linear(7, 3)).eval()
    pv.save(smaller, tmp_path / "s")
    with refused(
        "`build` makes another model than the saved one: '4.weight' is float32[7, 288] in the file and "
        "float32[12, 288] in the model. If another tool made it smaller, let `build` return the smaller model."
    ):
        pv.load(tmp_path / "s", build)
    again = pv.load(tmp_path / "s", lambda: copy.deepcopy(smaller))
    assert torch.equal(again(X), smaller(X))


class Writes(nn.Module):
    """Whoever sets an attribute of it makes it write a file."""

    def __init__(self, path) -> None:
        super().__init__()
        self.__dict__["path"] = path
        self.__dict__["heads"] = 8
        self.fc = nn.Linear(4, 3)

    def __setattr__(self, name, value):
        if isinstance(value, int) and name != "training":
            self.path.write_text(f"{name} = {value}")
        super().__setattr__(name, value)

    def forward(self, x):
        return self.fc(x)


def test_loading_runs_no_code_of_the_model(tmp_path):
    path, trap = tmp_path / "s", tmp_path / "trap"
    record = {"keep": [], "attributes": [["", "heads", 2, "int"]]}
    head = {"version": 1, "by": "0", "cuts": [record], "aliases": {}}
    save_file(Writes(trap).state_dict(), path, metadata={"pruneviz": json.dumps(head)})
    again = pv.load(path, lambda: Writes(trap))
    assert again.heads == 2 and not trap.exists()


@pytest.mark.parametrize("encoding", ["dense", "csr_int32"])
def test_the_same_model_gives_the_same_bytes(tmp_path, encoding):
    small = pv.prune(build().eval(), X, sparsity=0.5)
    for name in "ab":
        pv.save(small, tmp_path / name, encoding=encoding)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_model_without_numbers_cannot_be_filled(tmp_path):
    def on_meta():
        with torch.device("meta"):
            return build()

    small = pv.prune(build().eval(), X, sparsity=0.5)
    pv.save(small, tmp_path / "s")
    with refused(
        "`build` makes a model on the device 'meta', which holds no numbers. Let it make one on the CPU, and "
        "move that: pv.load(path, build).to(device)."
    ):
        pv.load(tmp_path / "s", on_meta)
    assert pv.load(tmp_path / "s", build).to("meta")[0].weight.is_meta


def test_what_build_raises_is_its_own(tmp_path):
    pv.save(build(), tmp_path / "s")
    with pytest.raises(ZeroDivisionError):
        pv.load(tmp_path / "s", lambda: 1 / 0)
    with refused("`build()` must be a Module, but None was passed. Return the model."):
        pv.load(tmp_path / "s", lambda: None)

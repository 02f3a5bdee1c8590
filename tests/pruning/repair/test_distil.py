"""Distillation: closer to the whole model than least squares, without labels, and without a trace."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pruneviz as pv
from pruneviz.pruning.repair import distil as module
from pruneviz.pruning.repair.distil import distil, rung_of, without_bar


def mlp(inputs: int = 8, outputs: int = 4) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, outputs))  # fmt: skip


def apart(a: nn.Module, b: nn.Module, x: Any) -> float:
    with pv.evaluating(a), pv.evaluating(b), torch.no_grad():
        return float(F.mse_loss(a(x), b(x)))


QUICK = pv.Distillation(steps=60, lr=4e-3, progress=False)


@pytest.fixture
def data() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(400, 8, generator=generator), torch.randn(200, 8, generator=generator)


def test_units_come_closer_to_the_whole_model_on_other_examples(data) -> None:
    model, (x, other) = mlp(), data
    made = {r: pv.prune(model, x[:2], macs=0.3, batches=x, repair=r)
            for r in ("none", "lstsq", "distil")}  # fmt: skip
    found = {r: apart(new, model, other) for r, new in made.items()}
    assert found["distil"] < 0.8 * found["lstsq"] < 0.8 * found["none"]
    shapes = [tuple(p.shape) for p in made["none"].parameters()]
    assert [tuple(p.shape) for p in made["distil"].parameters()] == shapes


def test_single_weights_stay_zero(data) -> None:
    model, (x, other) = mlp(), data
    plan = pv.select(pv.score(model, "magnitude"), sparsity=0.8)
    made = {r: pv.mask(model, plan, batches=x, repair=r) for r in ("none", "lstsq", "distil")}
    found = {r: apart(new, model, other) for r, new in made.items()}
    assert found["distil"] < found["lstsq"] < found["none"]
    for name, w in pv.bake(made["distil"]).named_parameters():
        if name in plan.keep:
            assert not w[~plan.keep[name]].any()


def test_rounds_learn_from_the_whole_model(data, monkeypatch) -> None:
    model, (x, other) = mlp(), data
    taught = []
    monkeypatch.setattr(
        "pruneviz.pruning.mask.distil",
        lambda whole, *a, **k: (taught.append(whole), distil(whole, *a, **k)),
    )
    how = {"sparsity": 0.9, "rounds": 3, "tune": lambda m: m, "progress": False}
    found = {
        r if isinstance(r, str) else "distil": pv.prune_iteratively(model, x, repair=r, **how)
        for r in ("none", QUICK)
    }
    assert taught == [model] * 3
    assert apart(found["distil"].model, model, other) < apart(found["none"].model, model, other)
    zeros = sum(int((w == 0).sum()) for w in pv.bake(found["distil"].model).parameters())
    assert zeros >= found["distil"].plan.total - found["distil"].plan.kept


def test_a_sweep_shows_both_rungs_and_each_seed_draws_its_own_examples(data) -> None:
    model, (x, other) = mlp(), data
    frame = pv.sweep(
        model, x[:2], criteria=["l2"], sparsities=[0.7], repair=["lstsq", QUICK], batches=x,
        granularity="unit", seeds=[0, 1], evaluate=lambda m: apart(m, model, other), better="lower",
        progress=False,
    )  # fmt: skip
    metric = frame.set_index(["repair", "seed"])["metric"]
    assert metric["lstsq", 0] == metric["lstsq", 1]
    assert metric["distil", 0] != metric["distil", 1]
    assert metric["distil"].max() < metric["lstsq"].min()


def test_a_sweep_is_not_taken_up_with_other_settings(data, tmp_path) -> None:
    model, (x, _) = mlp(), data
    how = {"criteria": ["l2"], "sparsities": [0.5], "batches": x, "granularity": "unit",
           "evaluate": _one, "path": tmp_path / "rows.csv", "progress": False}  # fmt: skip
    pv.sweep(model, x[:2], repair=QUICK, **how)
    pv.sweep(model, x[:2], repair=QUICK, **how)
    with pytest.raises(pv.ArgumentError, match="settings of the repair"):
        pv.sweep(model, x[:2], repair=pv.Distillation(steps=61, lr=4e-3), **how)
    with pytest.raises(pv.ArgumentError, match="must name each repair once"):
        pv.sweep(model, x[:2], repair=[QUICK, "distil"], **how | {"path": None})


def _one(_: nn.Module) -> float:
    return 1.0


class Pair(nn.Module):
    """Two inputs by name; a dict of classes and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 24), nn.Linear(6, 24)
        self.classes, self.number = nn.Linear(24, 3), nn.Linear(24, 1)

    def forward(self, left: Tensor, right: Tensor) -> dict[str, Any]:
        h = torch.tanh(self.a(left) + self.b(right))
        return {"logits": self.classes(h), "value": self.number(h)[:, 0], "note": "text"}


class Encoder(nn.Module):
    """Tokens and their mask; a vector for each token and the mean of the real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 8, padding_idx=0)
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        h = self.down(F.gelu(self.up(self.table(ids))))
        m = attention_mask.unsqueeze(2)
        return h, F.normalize((h * m).sum(1) / m.sum(1), dim=1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Linear(5, 24)
        self.gru = nn.GRU(24, 12, batch_first=True)
        self.up, self.head = nn.Linear(12, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.up(self.gru(F.relu(self.table(x)))[0][:, -1])))


def _pairs() -> list[Any]:
    return [({"left": torch.randn(40, 4), "right": torch.randn(40, 6)}, None) for _ in range(6)]


def _texts() -> list[Any]:
    found = []
    for length in (5, 7, 5, 7, 6, 5):  # of different lengths: they cannot be joined
        mask = (torch.arange(length) < torch.randint(2, length + 1, (40, 1))).long()
        found.append(
            ({"ids": torch.randint(1, 20, (40, length)) * mask, "attention_mask": mask}, None)
        )
    return found


TASKS = {
    "numbers": (lambda: mlp(outputs=1), lambda: [(torch.randn(40, 8), torch.randn(40, 1)) for _ in range(6)]),
    "classes": (mlp, lambda: [torch.randn(40, 8) for _ in range(6)]),
    "several": (Pair, _pairs),
    "texts": (Encoder, _texts),
    "images": (
        lambda: nn.Sequential(nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(),
                              nn.Dropout(0.5), nn.Conv2d(24, 3, 3, padding=1)),
        lambda: [torch.randn(20, 1, 6, 6) for _ in range(6)],
    ),
    "recurrent": (Recurrent, lambda: [torch.randn(40, 4, 5) for _ in range(6)]),
}  # fmt: skip


@pytest.mark.parametrize("task", TASKS)
def test_any_output_comes_closer(task: str) -> None:
    torch.manual_seed(0)
    make, draw = TASKS[task]
    model, batches, other = make(), draw(), draw()
    example = batches[0][0] if isinstance(batches[0], tuple) else batches[0]
    made = {r: pv.prune(model, example, sparsity=0.6, criterion="l2", batches=batches, repair=r)
            for r in ("lstsq", pv.Distillation(steps=200, progress=False))}  # fmt: skip

    def off(new: nn.Module) -> float:
        total = 0.0
        with pv.evaluating(model), pv.evaluating(new):
            for b in other:
                x = b[0] if isinstance(b, tuple) else b
                ours, theirs = ((m(**x) if isinstance(x, dict) else m(x)) for m in (new, model))
                for a, c in zip(_floats(ours), _floats(theirs), strict=True):
                    total += float(F.mse_loss(a, c) / c.var())
        return total

    least_squares, distilled = (off(new) for new in made.values())
    assert distilled < least_squares


def _floats(output: Any) -> list[Tensor]:
    values = (
        output.values()
        if isinstance(output, dict)
        else output
        if isinstance(output, tuple)
        else [output]
    )
    return [v for v in values if isinstance(v, Tensor)]


def test_a_match_of_ones_own(data) -> None:
    x, other = data
    model = Pair()
    batches = [({"left": x[:, :4], "right": x[:, 2:]}, None)]
    only = pv.Distillation(
        steps=200, progress=False, match=lambda now, whole: F.mse_loss(now["value"], whole["value"])
    )
    made = {n: pv.prune(model, batches[0][0], sparsity=0.8, batches=batches, repair=r)
            for n, r in (("lstsq", "lstsq"), ("own", only))}  # fmt: skip
    left, right = other[:, :4], other[:, 2:]
    with torch.no_grad():
        off = {
            n: float(F.mse_loss(m(left, right)["value"], model(left, right)["value"]))
            for n, m in made.items()
        }
    assert off["own"] < off["lstsq"]


def test_two_runs_with_one_seed_are_equal_and_seeds_differ(data) -> None:
    model, (x, _) = mlp(), data
    how = {"macs": 0.3, "batches": x}
    runs = [
        pv.prune(model, x[:2], repair=r, **how)
        for r in (QUICK, QUICK, pv.Distillation(steps=60, lr=4e-3, seed=1))
    ]
    same, other = [
        all(torch.equal(a, b) for a, b in zip(runs[0].parameters(), m.parameters(), strict=True))
        for m in runs[1:]
    ]
    assert same
    assert not other
    a, b = (pv.prune(model, x[:2], repair="distil", seed=s, **how) for s in (0, 1))
    assert not torch.equal(a[0].weight, b[0].weight)


def test_no_trace_is_left(data) -> None:
    model, (x, _) = mlp(), data
    model.insert(1, nn.BatchNorm1d(32))
    model.insert(2, nn.Dropout(0.5))
    model.train()
    model[1](torch.randn(16, 32) * 3)
    model(x).sum().backward()
    before, inputs = copy.deepcopy(model), x.clone()
    gradients = [p.grad.clone() for p in model.parameters()]
    torch.manual_seed(7)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    new = pv.prune(model, x[:2], macs=0.3, batches=x, repair=QUICK)
    assert torch.equal(torch.rand(3), drawn)
    assert torch.equal(x, inputs)
    for (n, a), b in zip(model.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(a, b), n
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert all(m.training for m in [*model.modules(), *new.modules()])
    assert not any(m._forward_hooks for m in [*model.modules(), *new.modules()])
    assert all(p.grad is None and p.requires_grad for p in new.parameters())
    # batch norm in eval mode: the statistics are those of the kept channels
    plain = pv.prune(model, x[:2], macs=0.3, batches=x, repair="none")
    assert torch.equal(new[1].running_var, plain[1].running_var)


def test_frozen_parameters_stay(data) -> None:
    model, (x, _) = mlp(), data
    model[4].requires_grad_(False)
    lstsq = pv.prune(model, x[:2], macs=0.3, batches=x, repair="lstsq")
    new = pv.prune(model, x[:2], macs=0.3, batches=x, repair=QUICK)
    assert torch.equal(new[4].weight, lstsq[4].weight)
    assert not torch.equal(new[0].weight, lstsq[0].weight)
    assert not new[4].weight.requires_grad


def test_it_keeps_the_rung_below_where_that_is_better_and_says_so(data) -> None:
    model, (x, _) = mlp(), data
    lstsq = pv.prune(model, x[:2], macs=0.8, batches=x, repair="lstsq")
    bad = pv.Distillation(steps=20, lr=10.0, progress=False)
    with pytest.warns(
        UserWarning, match="no closer to those of the whole model than before, so the weights"
    ):
        new = pv.prune(model, x[:2], macs=0.8, batches=x, repair=bad)
    assert all(torch.equal(a, b) for a, b in zip(new.parameters(), lstsq.parameters(), strict=True))


def test_what_least_squares_left_is_not_said() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    model[2].weight = model[0].weight
    plan = pv.select(pv.score(model, "magnitude"), sparsity=0.5)
    x = torch.randn(100, 8)
    with pytest.warns(UserWarning, match="repair 'lstsq' was not applied to some layers"):
        pv.mask(model, plan, batches=x, repair="lstsq")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pv.mask(model, plan, batches=x, repair=QUICK)


def test_a_model_that_loses_nothing_takes_no_step(data, monkeypatch) -> None:
    model, (x, _) = mlp(), data
    monkeypatch.setattr(module, "descend", lambda *_: pytest.fail("a step"))
    new = pv.prune(model, x[:2], sparsity=0.0, batches=x, repair="distil")
    assert apart(new, model, x) < 1e-10


def test_seconds_are_a_budget(data, monkeypatch) -> None:
    model, (x, _) = mlp(), data
    clock = [0.0]

    def ticking() -> float:
        clock[0] += 0.5
        return clock[0]

    monkeypatch.setattr(module.time, "monotonic", ticking)
    steps = []
    descend = module.descend

    def counted(*args):
        for value in descend(*args):
            steps.append(value)
            yield value

    monkeypatch.setattr(module, "descend", counted)
    pv.prune(
        model,
        x[:2],
        macs=0.3,
        batches=x,
        repair=pv.Distillation(seconds=100, lr=1e-3, progress=False),
    )
    assert 40 <= len(steps) <= 200


def test_an_interrupt_keeps_the_best_so_far(data, monkeypatch) -> None:
    model, (x, other) = mlp(), data
    lstsq = pv.prune(model, x[:2], macs=0.3, batches=x, repair="lstsq")
    descend, at = module.descend, [700]

    def interrupted(*args):
        for i, value in enumerate(descend(*args)):
            if i == at[0]:
                raise KeyboardInterrupt
            yield value

    monkeypatch.setattr(module, "descend", interrupted)
    with pytest.warns(
        UserWarning, match="interrupted after 700 steps. The best weights so far are kept"
    ):
        new = pv.prune(model, x[:2], macs=0.3, batches=x, repair=pv.Distillation(lr=4e-3))
    assert apart(new, model, other) < apart(lstsq, model, other)
    at[0] = 100  # one of many prunings: all of them end
    with pytest.raises(KeyboardInterrupt):
        pv.sweep(model, x[:2], criteria=["l2"], sparsities=[0.5], granularity="unit", batches=x,
                 repair=pv.Distillation(lr=4e-3), evaluate=_one, progress=False)  # fmt: skip


def test_the_learning_rate_is_found_by_trials(data) -> None:
    """A rate a thousand times off would lose against the one that is found."""
    model, (x, other) = mlp(), data
    found = {
        lr: apart(pv.prune(model, x[:2], macs=0.3, batches=x,
                           repair=pv.Distillation(steps=200, lr=lr, progress=False)), model, other)
        for lr in (None, 2e-6)
    }  # fmt: skip
    assert found[None] < 0.9 * found[2e-6]


def test_in_inference_mode_and_with_inference_tensors(data) -> None:
    model, (x, _) = mlp(), data
    expected = pv.prune(model, x[:2], macs=0.3, batches=x, repair=QUICK)
    with torch.inference_mode():
        made = x.clone()
        new = pv.prune(model, made[:2], macs=0.3, batches=[made[:200], made[200:]], repair=QUICK)
    for a, b in zip(new.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)
    new(x).sum().backward()


def test_a_program_is_distilled_too(data) -> None:
    model, (x, other) = mlp(), data
    plain = pv.prune(model, x[:2], macs=0.3, batches=x, as_program=True, repair="none")
    new = pv.prune(model, x[:2], macs=0.3, batches=x, as_program=True, repair="distil")
    assert apart(new, model, other) < apart(plain, model, other)


class Detached(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.relu(self.up(x))).detach()


class Masked(nn.Sequential):
    """Never chooses the last class."""

    def __init__(self) -> None:
        super().__init__(*mlp())

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.tensor([0, 0, 0, -math.inf])


def _frozen() -> nn.Module:
    return mlp().requires_grad_(False)


X = torch.randn(100, 8)
BAD: list[tuple[Any, Any, dict[str, Any], str]] = [
    (mlp, None, {}, "repair 'distil' learns the answers of the whole model to inputs, but there are none. Pass batches=...; labels are not needed."),
    (mlp, [], {}, "`batches` is empty: there is nothing to fit to. Pass an iterable of batches; a generator runs only once."),
    (mlp, X[:1], {}, "repair 'distil' holds out one example in 10, but `batches` hold only 1. Pass more, or use repair='lstsq'."),
    (Masked, X, {}, "repair 'distil' learns the answers of `model`, but for batch 1 of `batches` output holds NaN or infinity. Leave these examples out, or pass pv.Distillation(match=...), which compares only what is finite."),
    (Detached, X, {}, "repair 'distil' moves weights, but the outputs of the pruned model depend on none that may change. Let the forward compute with gradients (no .detach(), no torch.no_grad()), or unfreeze its layers: model.requires_grad_()."),
    (_frozen, X, {}, "repair 'distil' moves weights by gradients, but all parameters of `model` are frozen. Call model.requires_grad_() first."),
    (lambda: mlp().bfloat16(), X.bfloat16(), {}, "repair 'distil' takes steps smaller than torch.bfloat16 can hold. Pass a copy in float32: copy.deepcopy(model).float(), and convert the smaller model afterwards."),
    (mlp, X, {"match": lambda a, b: 3.0}, "`match` must return a tensor, but it returned a float. Compute it with torch, from the outputs of the model."),
    (mlp, X, {"match": lambda a, b: (a - b).square()}, "`match` must return a scalar, but its shape is (10, 4). Take the mean over the batch."),
]  # fmt: skip


@pytest.mark.parametrize(("make", "batches", "settings", "message"), BAD)
def test_what_cannot_be_learned_is_refused(make, batches, settings, message: str) -> None:
    model = make()
    before = copy.deepcopy(model.state_dict())
    plan = pv.select(pv.score(model, "magnitude"), sparsity=0.5)
    how = pv.Distillation(**settings, progress=False)
    with warnings.catch_warnings(), pytest.raises(pv.ArgumentError) as e:
        warnings.simplefilter("ignore")
        pv.mask(model, plan, repair=how, batches=batches)
    assert str(e.value) == message
    assert all(torch.equal(a, before[n]) for n, a in model.state_dict().items())


def test_the_advices_are_followed() -> None:
    model = mlp()
    plan = pv.drop(pv.find_groups(model, X[:2]), {"0": list(range(20))})
    how = {"example_input": X[:2], "repair": QUICK}
    assert pv.shrink(_frozen().requires_grad_(), plan, batches=X, **how)
    whole = copy.deepcopy(mlp().bfloat16()).float()
    assert pv.shrink(whole, plan, batches=X, **how).bfloat16()(X.bfloat16()).dtype is torch.bfloat16
    own = pv.Distillation(match=_where_finite, steps=20, lr=1e-3, progress=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = pv.select(pv.score(Masked(), "magnitude"), sparsity=0.5)
        pv.mask(Masked(), plan, batches=X, repair=own)


def _where_finite(now: Tensor, whole: Tensor) -> Tensor:
    fine = torch.isfinite(whole)
    return F.mse_loss(now[fine], whole[fine])


SETTINGS = [
    ({"steps": 0}, "`steps` must be a whole number ≥ 1, but 0 was passed."),
    ({"seconds": -1}, "`seconds` must be a number ≥ 0, but -1 was passed."),
    ({"lr": math.nan}, "`lr` must be a number ≥ 0, but nan was passed."),
    ({"seed": 1.5}, "`seed` must be a whole number ≥ 0, but 1.5 was passed."),
    ({"match": 3}, "`match` must be a function, match(outputs, outputs_of_whole)"),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(pv.ArgumentError) as e:
        pv.Distillation(**settings)
    assert str(e.value).startswith(message)


def test_names_of_rungs() -> None:
    assert rung_of(QUICK) == rung_of("distil") == "distil"
    with pytest.raises(pv.ArgumentError, match="Known: lstsq, none"):
        rung_of(QUICK, ("none", "lstsq"))
    assert without_bar("lstsq") == "lstsq"
    how = without_bar(pv.Distillation(steps=7, seed=1), 2)
    assert isinstance(how, pv.Distillation)
    assert (how.steps, how.seed, how.progress) == (7, 3, False)


def test_the_sensitivity_of_layers_with_distillation(data) -> None:
    model, (x, other) = mlp(), data
    how = {"sparsities": [0.7], "evaluate": lambda m: apart(m, model, other), "better": "lower",
           "batches": x, "criterion": "l2", "groups": pv.find_groups(model, x[:2]), "progress": False}  # fmt: skip
    least, distilled = (pv.sensitivity(model, x[:2], repair=r, **how) for r in ("lstsq", QUICK))
    assert distilled["repair"].unique().tolist() == ["distil"]
    assert (distilled["metric"] < least["metric"]).all()

"""What all threads share stays as it is: a panel measures while a cell trains."""

from __future__ import annotations

import logging
import threading
import warnings
from contextlib import ExitStack, contextmanager

import pytest
import torch
from torch import nn

import pruneviz as pv
from pruneviz.graph.silence import roles_of
from pruneviz.graph.values import draws_random_numbers
from pruneviz.model.forward import quiet
from pruneviz.model.hooks import in_background, no_fast_path
from pruneviz.pruning.shrink import Shrinker
from pruneviz.pruning.surgery.proof import at_precision, reference
from pruneviz.pruning.surgery.removal import removed_classes

X = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(1))


class Makes(nn.Module):
    """Its forward makes tensors without saying of which type, and halves whole numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(64, 3)

    def forward(self, x):
        x = torch.relu(self.conv(x)) * torch.full((1, 1, 1), 0.7)
        x = self.fc(x.flatten(1)) @ torch.eye(3)
        return x + torch.tensor([0.1, 0.2, 0.3]) + torch.arange(3) / 3


class Draws(Makes):
    """Noise in the forward, behind all units."""

    def forward(self, x):
        out = super().forward(x)
        return out + torch.randn_like(out)


def plan_for(model):
    groups = pv.find_groups(model, X[:2])
    return pv.select(pv.score(model, "l2", groups=groups), sparsity=0.5)


def shared():
    """Return everything torch and Python keep once for all threads."""
    return (
        torch.get_default_dtype(),
        torch.backends.mha.get_fastpath_enabled(),
        logging.root.manager.disable,
        list(warnings.filters),
    )


def interleaved(make):
    """Enter in two threads one after the other, and leave in the same order."""
    steps = [threading.Event() for _ in range(4)]

    def first():
        with make():
            steps[0].set()
            steps[1].wait(10)
        steps[2].set()

    def second():
        steps[0].wait(10)
        with make():
            steps[1].set()
            steps[2].wait(10)
        steps[3].set()

    threads = [threading.Thread(target=f) for f in (first, second)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(20)
    assert steps[3].is_set()


@pytest.mark.parametrize("make", [quiet, no_fast_path, lambda: at_precision(True)])
def test_two_threads_that_overlap_leave_nothing_turned(make):
    before = shared()
    interleaved(make)
    assert shared() == before


def test_a_switch_is_turned_back_after_an_error_too():
    before = shared()
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), quiet(), quiet():
            raise ZeroDivisionError
        assert shared() == before


def test_float64_is_of_one_thread_alone():
    found = []
    with at_precision(True):
        other = threading.Thread(target=lambda: found.append(torch.zeros(2).dtype))
        other.start()
        other.join()
        assert torch.zeros(2).dtype == torch.float64
    assert found == [torch.float32]


def test_a_forward_that_names_no_type_is_still_proved_in_float64():
    model = Makes()
    plan = plan_for(model)
    assert plan.kept < plan.total
    w = Shrinker(model, X[:2]).walk
    example = (X[:2],), {}
    ref = reference(w, example, removed_classes(w, plan), roles_of(w))
    proof = ref.compare(pv.shrink(model, plan, example_input=X[:2]).double())
    assert proof.in_float64 and proof.holds and proof.effect > 0


@pytest.mark.filterwarnings("ignore:repair 'lstsq' has fewer rows")  # a few examples will do
def test_beside_another_thread_random_numbers_logs_and_warnings_are_left_alone(monkeypatch):
    model = Makes()
    plan, shrinker = plan_for(model), Shrinker(model, X[:2])

    @contextmanager
    def never(*args, **kwargs):
        raise AssertionError("the random state is touched")
        yield

    monkeypatch.setattr(torch.random, "fork_rng", never)
    monkeypatch.setattr(torch, "manual_seed", never)
    monkeypatch.setattr(logging, "disable", never)
    before = shared()
    with in_background():
        small = shrinker.compared(plan)
        shrinker.repair(small, plan, "lstsq", None, [X])
        pv.accuracy(small, [(X, torch.arange(12) % 3)])
    assert shared() == before


def test_counting_hooks_no_module_of_another_thread():
    model, seen = Makes(), []

    def forward_elsewhere(module, inputs, output):
        seen.append(len(torch.nn.modules.module._global_forward_hooks))

    with pv.hooked(model, ["conv"], lambda *_: forward_elsewhere(*_)):
        cost = pv.measure(model, X[:2])
    assert seen == [0]
    assert cost.macs == 4 * 16 * 9 + 64 * 3 + 3 * 3


def test_what_draws_is_seeded_and_the_numbers_of_others_are_put_back():
    model = Draws()
    plan = plan_for(model)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    pv.shrink(model, plan, example_input=X[:2])
    assert torch.equal(torch.get_rng_state(), state)


def test_who_draws():
    heads = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True).eval()
    for model, x, draws in (
        (Makes(), X, False),
        (Draws(), X, True),
        (nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5)), X, False),
        (heads, torch.rand(2, 3, 8), False),
    ):
        nodes = Shrinker(model.eval(), x[:2]).walk.traced.live
        assert any(map(draws_random_numbers, nodes)) == draws


@pytest.mark.filterwarnings("ignore:repair 'lstsq' has fewer rows")  # a few examples will do
def test_a_hand_in_a_thread_of_its_own_draws_and_restores_nothing(monkeypatch):
    y = torch.arange(12) % 3
    model = Makes()
    with ExitStack() as stack:
        panels = [
            pv.panel_strip(model, X[:3], y[:3], batches=[(X, y)]),
            pv.panel_neurons(model, X[:3], batches=[(X, y)]),
            pv.panel_inactive(model, [(X, y)]),
            pv.panel_redundant(model, X[:3], batches=[(X, y)]),
            pv.panel_whatif(model, [(X, y)], repair="lstsq"),
        ]
        for panel in panels:
            stack.callback(panel.close)
        touched = []
        monkeypatch.setattr(torch.random, "fork_rng", lambda *a, **k: touched.append("fork"))
        monkeypatch.setattr(torch, "manual_seed", lambda *a: touched.append("seed"))
        for panel in panels:
            slider = panel.controls.get("sparsity") or panel.controls.get("rare")
            slider = slider or panel.controls["threshold"]
            hand = threading.Thread(target=slider.set_state, args=({"value": 0.4},))
            hand.start()
            hand.join()
            with in_background():  # whoever asks first does the work, here or there
                assert panel.result["plan"] is not None
    assert touched == []


def test_proofs_in_threads_beside_a_training():
    model = Makes()
    plan, before = plan_for(model), shared()
    shrinkers = [Shrinker(model, X[:2]) for _ in range(3)]
    over, errors, types = threading.Event(), [], set()

    def prove(shrinker):
        try:
            with in_background():
                for _ in range(10):
                    shrinker.compared(plan)
        except Exception as e:
            errors.append(e)

    def train():
        while not over.is_set():
            types.add(torch.zeros(1).dtype)

    threads = [threading.Thread(target=prove, args=(s,)) for s in shrinkers]
    trainer = threading.Thread(target=train)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    for t in (*threads, trainer):
        t.start()
    for t in threads:
        t.join(60)
    over.set()
    trainer.join(10)
    assert errors == []
    assert types == {torch.float32}
    assert torch.equal(torch.get_rng_state(), state)
    assert shared() == before


def test_a_model_stays_in_eval_mode_until_the_last_thread_has_finished():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    model[0].training = False
    inside, first_left = threading.Event(), threading.Event()
    seen = []

    def second():
        with pv.evaluating(model):
            inside.set()
            first_left.wait(10)
            seen.append([m.training for m in model.modules()])
            with pv.evaluating(model):
                pass
            seen.append([m.training for m in model.modules()])

    thread = threading.Thread(target=second)
    with pv.evaluating(model):
        thread.start()
        assert inside.wait(10)
    first_left.set()
    thread.join()
    assert seen == [[False, False, False]] * 2
    assert [m.training for m in model.modules()] == [True, False, True]


def test_within_one_thread_each_block_restores_what_it_found():
    model = nn.Dropout(0.5)
    with pv.evaluating(model):
        model.training = True  # somebody's forward does
        with pv.evaluating(model):
            assert not model.training
        assert model.training
    assert model.training

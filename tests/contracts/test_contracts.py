"""Contracts that hold for every verb: no trace, the input is kept, the same seeds."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from helpers import (
    MODELS,
    assert_untouched,
    batches,
    bits,
    build,
    inputs,
    labels,
    mlp,
    plan_for,
    snapshot,
    state,
    storages,
)
from torch import nn

import pruneviz as pv
from pruneviz.lessons import load
from pruneviz.model.hooks import seeded

# a dozen examples: what a repair says of that is tested elsewhere
pytestmark = pytest.mark.filterwarnings("ignore:repair 'lstsq'")


def in_evaluating(model, x):
    with pv.evaluating(model):
        model(x)


def in_hooked(model, x):
    seen = []
    with pv.evaluating(model), pv.hooked(model, None, lambda *call: seen.append(torch.rand(1))):
        model(x)


def drawing(weight):
    return torch.rand_like(weight)


OF_WEIGHTS = sorted(
    n for n, c in pv.CRITERIA.items() if "weight" in c.granularity and not c.evidence
)
READERS = {
    **{f"score {c}": lambda m, x, c=c: pv.score(m, c, seed=7) for c in OF_WEIGHTS},
    "score by a function that draws": lambda m, x: pv.score(m, drawing),
    "named_weights": lambda m, x: pv.named_weights(m),
    "weight_histogram": lambda m, x: pv.weight_histogram(m, bins=10),
}
FORWARDS = {
    "measure": pv.measure,
    "predict": pv.predict,
    "accuracy": lambda m, x: pv.accuracy(m, [(x, labels())]),
    "evaluating": in_evaluating,
    "hooked": in_hooked,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("reader", READERS)
def test_readers_leave_no_trace(reader, name):
    model = build(name)
    before = snapshot(model)
    READERS[reader](model, inputs())
    assert_untouched(model, before)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("reader", FORWARDS)
def test_readers_that_run_the_model_leave_no_trace(reader, name):
    model, x = build(name), inputs()
    before = snapshot(model)
    if name == "raising":
        with pytest.raises((RuntimeError, pv.ArgumentError), match="boom"):
            FORWARDS[reader](model, x)
    else:
        FORWARDS[reader](model, x)
    assert_untouched(model, before)


def test_readers_leave_their_data_alone():
    model, x, y = build("cnn"), inputs(), labels()
    before = bits(x), bits(y)
    for reader in FORWARDS.values():
        reader(model, x)
    pv.accuracy(model, [(x, y)])
    assert (bits(x), bits(y)) == before


def test_a_bad_argument_leaves_no_trace():
    model = build("cnn")
    before = snapshot(model)
    with pytest.raises(pv.ArgumentError):
        pv.score(model, "magnitud")
    with pytest.raises(pv.ArgumentError):
        pv.measure(model, inputs()[:0])
    with pytest.raises(pv.ArgumentError):
        pv.accuracy(model, [])
    with pytest.raises(pv.ArgumentError, match="could not run on `x`, float32"):
        pv.predict(model, torch.zeros(2, 3))
    assert_untouched(model, before)


def test_what_a_reader_returns_is_a_copy():
    model = build("mlp")
    before = snapshot(model)
    for weight in pv.named_weights(model).values():
        weight.zero_()
    for scores in pv.score(model, "magnitude").values.values():
        scores.zero_()
    assert_untouched(model, before)


WRITERS = {
    "mask": lambda m: pv.mask(m, plan_for(m)),
    "mask that keeps all": lambda m: pv.mask(m, plan_for(m, 0.0)),
    "bake": lambda m: pv.bake(m),
    "fit": lambda m: pv.fit(m, batches(), epochs=2, lr=0.1, progress=False),
    "prune_iteratively": lambda m: rounds(m),
    "ticket": lambda m: pv.lottery_ticket(m, plan_for(m), control="random-mask"),
}


def rounds(model):
    return pv.prune_iteratively(model, batches(), sparsity=0.9, rounds=2, progress=False).model


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("writer", WRITERS)
def test_writers_keep_their_input(writer, name):
    model = build(name)
    before = snapshot(model)
    if writer in ("fit", "prune_iteratively") and name == "raising":
        with pytest.raises(pv.ArgumentError, match="RuntimeError: boom"):
            WRITERS[writer](model)
        assert_untouched(model, before)
        return
    new = WRITERS[writer](model)
    assert_untouched(model, before)
    assert new is not model
    assert not storages(model) & storages(new)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"raising"}))
@pytest.mark.parametrize("writer", WRITERS)
def test_what_a_writer_returns_can_be_written_to(writer, name):
    model = build(name)
    before = snapshot(model)
    new = WRITERS[writer](model)
    with torch.no_grad():
        for t in (*new.parameters(), *new.buffers()):
            t.zero_()
    assert_untouched(model, before)


def test_a_mask_does_not_share_the_plan():
    model = build("tied")
    plan = plan_for(model)
    masked = pv.mask(model, plan)
    zeros = {n: (w == 0).sum() for n, w in pv.named_weights(masked).items()}
    for keep in plan.keep.values():
        keep.fill_(False)
    assert {n: (w == 0).sum() for n, w in pv.named_weights(masked).items()} == zeros


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"raising"}))
def test_a_plan_that_keeps_everything_changes_nothing(name):
    model = build(name)
    plan = plan_for(model, 0.0)
    assert plan.kept == plan.total
    masked = pv.mask(model, plan)
    with seeded(3), pv.evaluating(model):
        want = model(inputs())
    with seeded(3), pv.evaluating(masked):
        assert torch.equal(masked(inputs()), want)


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"masked", "spectral"}))
def test_baking_a_mask_that_keeps_everything_gives_the_same_state(name):
    model = build(name)
    baked = pv.bake(pv.mask(model, plan_for(model, 0.0)))
    assert state(baked) == state(model)
    assert [m.training for m in baked.modules()] == [m.training for m in model.modules()]
    assert [type(m) for m in baked.modules()] == [type(m) for m in model.modules()]


@pytest.mark.parametrize("name", ["mlp", "tied"])
def test_a_plan_that_names_nothing_changes_nothing(name):
    model = build(name)
    assert state(pv.mask(model, pv.Plan({}))) == state(model)


def shuffled():
    """Batches that draw their order from torch's global generator, as a DataLoader does."""
    return torch.utils.data.DataLoader(
        list(zip(inputs(9), labels(9), strict=True)), batch_size=3, shuffle=True
    )


def swept(model):
    return pv.sweep(
        model,
        inputs(),
        criteria=["random", "lamp"],
        sparsities=[0.5, 0.8],
        evaluate=lambda m: pv.accuracy(m, shuffled()),
        tune=lambda m: pv.fit(m, shuffled(), lr=0.05, seed=4, progress=False),
        seeds=(0, 1),
        progress=False,
    )


def test_the_same_seeds_give_the_same_frame():
    model = build("cnn")
    torch.manual_seed(11)
    first = swept(model)
    torch.manual_seed(12)
    pd.testing.assert_frame_equal(first, swept(model))


VERBS = {
    "score": lambda m: pv.score(m, "random"),
    "sweep": swept,
    "fit": lambda m: pv.fit(m, shuffled(), progress=False),
    "accuracy": lambda m: pv.accuracy(m, shuffled()),
    "measure": lambda m: pv.measure(m, inputs()),
    "load": lambda m: load("lenet-300-100"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_the_callers_random_numbers_go_on(verb):
    model = build("random" if verb != "sweep" else "cnn")
    before = bits(torch.get_rng_state())
    VERBS[verb](model)
    assert bits(torch.get_rng_state()) == before


def test_the_callers_random_numbers_go_on_after_an_error():
    model = nn.Sequential(mlp(), nn.Dropout(0.5))
    bad = [(inputs(), labels()), (torch.full((5, 1, 6, 6), torch.nan), labels())]
    before = bits(torch.get_rng_state())
    with pytest.raises(pv.ArgumentError, match="`loss` became nan"):
        pv.fit(model, bad, progress=False)
    assert bits(torch.get_rng_state()) == before


@pytest.mark.parametrize("criterion", OF_WEIGHTS)
def test_scores_depend_on_the_seed_only_where_they_draw(criterion):
    model = build("mlp")

    def drawn(seed):
        return [bits(v) for v in pv.score(model, criterion, seed=seed).values.values()]

    assert drawn(3) == drawn(3)
    assert (drawn(3) != drawn(4)) == ("generator" in pv.CRITERIA[criterion].needs)

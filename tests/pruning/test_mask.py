from __future__ import annotations

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from helpers import (
    MODELS,
    Tied,
    assert_untouched,
    batches,
    build,
    cnn,
    inputs,
    mlp,
    plan_for,
    refused,
    snapshot,
    state,
)
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import pruneviz as pv
from pruneviz.model.weights import weight_places

MASKABLE = sorted(set(MODELS) - {"raising"})


def zeros(model, plan):
    """Return whether all that the plan drops is zero in the model."""
    weights = pv.named_weights(model)
    return all(bool((weights[n][~keep] == 0).all()) for n, keep in plan.keep.items())


@pytest.mark.parametrize("name", MASKABLE)
def test_what_the_plan_drops_is_zero_and_the_rest_stays(name):
    model = build(name)
    plan = plan_for(model)
    before, after = pv.named_weights(model), pv.named_weights(pv.mask(model, plan))
    assert before.keys() == after.keys() == plan.keep.keys()
    for n, keep in plan.keep.items():
        assert torch.equal(after[n], before[n] * keep)
        assert not keep.all()


@given(st.integers(1, 6), st.integers(1, 6), st.data())
def test_a_layer_computes_with_the_masked_weight(rows, columns, data):
    bits = st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns)
    keep = torch.tensor(data.draw(bits)).view(rows, columns)
    layer = nn.Linear(columns, rows).double()
    x = torch.randn(3, columns, dtype=torch.float64)
    want = F.linear(x, layer.weight * keep, layer.bias)
    masked = pv.mask(layer, pv.Plan({"weight": keep}))
    torch.testing.assert_close(masked(x), want)
    torch.testing.assert_close(pv.bake(masked)(x), want)


OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1),
    "AdamW": partial(torch.optim.AdamW, weight_decay=0.1),
}


@pytest.mark.parametrize("name", ["mlp", "cnn", "tied", "masked"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masked_weights_stay_zero_in_training(optimizer, name):
    model = MODELS[name]()
    plan = plan_for(model, 0.75)
    masked = pv.mask(model, plan)
    tuned = pv.fit(
        masked, batches(), epochs=3, lr=0.05, optimizer=OPTIMIZERS[optimizer], progress=False
    )
    assert zeros(tuned, plan)
    before, after = pv.named_weights(masked), pv.named_weights(tuned)
    assert all(not torch.equal(before[n], after[n]) for n in before)
    assert zeros(pv.bake(tuned), plan)


def test_baked_weights_do_not_stay_zero_in_training(small_model):
    plan = plan_for(small_model)
    tuned = pv.fit(pv.bake(pv.mask(small_model, plan)), batches(), lr=0.1, progress=False)
    assert not zeros(tuned, plan)


def test_a_masked_model_survives_deepcopy(small_model, x):
    plan = plan_for(small_model)
    masked = pv.mask(small_model, plan)
    twin = copy.deepcopy(masked)
    assert torch.equal(twin(x), masked(x))
    tuned = pv.fit(twin, batches(), lr=0.1, progress=False)
    assert zeros(tuned, plan)


def test_a_state_dict_goes_from_one_masked_model_to_another(small_model, x):
    plan = plan_for(small_model)
    masked = pv.mask(small_model, plan)
    other = mlp()
    everything = {n: torch.ones_like(k) for n, k in plan.keep.items()}
    twin = pv.mask(other, pv.Plan(everything))
    assert not torch.equal(twin(x), masked(x))
    twin.load_state_dict(masked.state_dict())
    assert torch.equal(twin(x), masked(x))
    assert zeros(twin, plan)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_a_masked_model_can_change_its_precision(small_model, dtype):
    plan = plan_for(small_model)
    masked = pv.mask(small_model, plan).to(dtype)
    assert zeros(masked, plan)
    assert all(w.dtype == dtype for w in pv.named_weights(masked).values())
    masks = [b for n, b in masked.named_buffers() if n.endswith("keep")]
    assert masks
    assert all(b.dtype == torch.bool for b in masks)


def test_a_mask_over_a_mask_drops_what_either_drops():
    layer = nn.Linear(4, 1)
    first = pv.Plan({"weight": torch.tensor([[True, True, False, False]])})
    second = pv.Plan({"weight": torch.tensor([[True, False, True, False]])})
    both = pv.mask(pv.mask(layer, first), second)
    assert (both.weight != 0).tolist() == [[True, False, False, False]]
    assert len(both.parametrizations.weight) == 1
    assert list(pv.bake(both).state_dict()) == list(layer.state_dict())


def test_iterative_pruning_reaches_the_last_sparsity(small_model):
    model = small_model
    for sparsity in pv.schedule("cubic", 0.9, rounds=3):
        model = pv.mask(model, pv.select(pv.score(model, "magnitude"), sparsity=sparsity))
    weights = torch.cat([w.reshape(-1) for w in pv.named_weights(model).values()])
    assert int((weights == 0).sum()) == round(0.9 * 288) + round(0.9 * 24)


def test_baking_a_copy_does_not_damage_the_masked_original(small_model, x):
    # torch gives a parametrized module a class of its own, and copies share it
    plan = plan_for(small_model)
    masked = pv.mask(small_model, plan)
    want = masked(x)
    for twin in (copy.deepcopy(masked), masked):
        pv.bake(twin)
        pv.fit(twin, batches(), progress=False)
    assert torch.equal(masked(x), want)
    assert zeros(masked, plan)
    assert zeros(pv.mask(masked, plan_for(masked, 0.1)), plan)


def test_two_masked_models_of_one_model_do_not_share_a_class(small_model):
    light, heavy = (pv.mask(small_model, plan_for(small_model, s)) for s in (0.1, 0.9))
    twin = pv.mask(light, plan_for(small_model, 0.9))
    assert len({type(m[1]) for m in (small_model, light, heavy, twin)}) == 4
    pv.bake(light)
    parametrize.remove_parametrizations(light[1], "weight")
    assert zeros(twin, plan_for(small_model, 0.9))
    assert zeros(heavy, plan_for(small_model, 0.9))


@pytest.mark.parametrize("name", sorted({*MASKABLE} - {"masked", "spectral"}))
def test_bake_restores_the_keys_and_keeps_the_output(name):
    model = build(name)
    masked = pv.mask(model, plan_for(model))
    baked = pv.bake(masked)
    assert list(baked.state_dict()) == list(model.state_dict())
    assert [n for n, _ in baked.named_parameters()] == [n for n, _ in model.named_parameters()]
    assert [type(m) for m in baked.modules()] == [type(m) for m in model.modules()]
    assert not any(parametrize.is_parametrized(m) for m in baked.modules())
    assert zeros(baked, plan_for(model))
    if name != "random":
        with pv.evaluating(masked), pv.evaluating(baked):
            assert torch.equal(baked(inputs()), masked(inputs()))


def test_bake_keeps_what_can_be_trained(small_model):
    small_model[1].weight.requires_grad_(False)
    baked = pv.bake(pv.mask(small_model, plan_for(small_model)))
    assert [p.requires_grad for p in baked.parameters()] == [False, True, True, True]


def test_bake_without_a_mask_is_a_copy():
    model = build("mixed")
    assert state(pv.bake(model)) == state(model)


def test_tied_weights_stay_tied_and_count_once():
    model = Tied()
    assert list(weight_places(model)) == ["fc1.weight", "head.weight"]
    plan = plan_for(model)
    masked = pv.mask(model, plan)
    assert list(weight_places(masked)) == ["fc1.weight", "head.weight"]
    assert torch.equal(masked.fc1.weight, masked.fc2.weight)
    baked = pv.bake(masked)
    assert baked.fc1.weight is baked.fc2.weight
    cost = pv.measure(masked, inputs())
    assert cost.params == 36 * 36 + 36 * 3 + 36 * 2 + 3
    assert cost.nonzero == cost.params - (plan.total - plan.kept)
    tuned = pv.fit(masked, batches(), epochs=2, lr=0.1, progress=False)
    assert torch.equal(tuned.fc1.weight, tuned.fc2.weight)
    assert zeros(tuned, plan)
    assert not torch.equal(tuned.fc1.weight, masked.fc1.weight)


def test_a_mask_over_tied_weights_holds_in_both_places(x):
    model = Tied()
    plan = plan_for(model)
    with torch.no_grad():
        weight = model.fc1.weight * plan.keep["fc1.weight"]
        hidden = F.relu(F.linear(x.flatten(1), weight, model.fc1.bias))
        hidden = F.relu(F.linear(hidden, weight, model.fc2.bias))
        head = model.head.weight * plan.keep["head.weight"]
        want = F.linear(hidden, head, model.head.bias)
    torch.testing.assert_close(pv.mask(model, plan)(x), want)


def attention(**options):
    return nn.MultiheadAttention(8, 2, batch_first=True, **options)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("options", [{}, {"kdim": 3, "vdim": 5}])
def test_masks_act_on_the_output_of_attention(training, options):
    model = attention(**options).train(training)
    plan = plan_for(model)
    assert set(plan.keep) == (
        {"q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj.weight"}
        if options
        else {"in_proj_weight", "out_proj.weight"}
    )
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        for n, keep in plan.keep.items():
            by_hand.get_parameter(n).mul_(keep)
    q, k, v = (torch.randn(2, 4, options.get(d, 8)) for d in ("", "kdim", "vdim"))
    with torch.no_grad():
        got, want, whole = (m(q, k, v)[0] for m in (pv.mask(model, plan), by_hand, model))
    torch.testing.assert_close(got, want)
    assert not torch.allclose(got, whole)
    with torch.no_grad():
        torch.testing.assert_close(pv.bake(pv.mask(model, plan))(q, k, v)[0], want)


@pytest.mark.parametrize("training", [True, False])
def test_masks_act_in_an_encoder_layer(training):
    # in eval mode and without gradients torch takes a fused path that reads the weights itself
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True).train(training)
    plan = plan_for(model)
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        for n, keep in plan.keep.items():
            by_hand.get_parameter(n).mul_(keep)
        x = torch.randn(2, 4, 8)
        torch.testing.assert_close(pv.mask(model, plan)(x), by_hand(x))


def weight_normed():
    torch.manual_seed(1)
    return parametrizations.weight_norm(nn.Linear(4, 3))


def test_a_mask_lies_over_a_weight_norm():
    model = weight_normed()
    plan = plan_for(model)
    masked = pv.mask(model, plan)
    torch.testing.assert_close(masked.weight, model.weight * plan.keep["weight"])
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    tuned = pv.fit(masked, [(x, y)], epochs=3, lr=0.1, progress=False)
    assert zeros(tuned, plan)
    assert not torch.allclose(tuned.weight, masked.weight)


def test_two_masks_over_a_weight_norm_drop_what_either_drops():
    model = weight_normed()
    first, second = (plan_for(model, s) for s in (0.25, 0.75))
    both = pv.mask(pv.mask(model, second), first)
    torch.testing.assert_close(both.weight, model.weight * second.keep["weight"])
    assert len(both.parametrizations.weight) == 2


def test_baking_over_a_weight_norm_is_refused():
    masked = pv.mask(weight_normed(), plan_for(weight_normed()))
    before = snapshot(masked)
    with refused(
        "the weight 'weight' of a ParametrizedLinear carries another parametrization beside its "
        "mask. Remove that first: torch.nn.utils.parametrize.remove_parametrizations(layer, name)."
    ):
        pv.bake(masked)
    assert_untouched(masked, before)


def bad_plans():
    keep = {n: torch.ones_like(w, dtype=torch.bool) for n, w in pv.named_weights(mlp()).items()}
    yield (
        pv.Plan({**keep, "2.weight": keep["1.weight"]}),
        "`plan` is of another model: it names '2.weight', but the weights here are: 1.weight, "
        "3.weight.",
    )
    yield (
        pv.Plan({"1.bias": torch.ones(8, dtype=torch.bool)}),
        "`plan` is of another model: it names '1.bias', but the weights here are: 1.weight, "
        "3.weight.",
    )
    yield (
        pv.Plan({**keep, "3.weight": keep["3.weight"].T}),
        "`plan` is of another model: for '3.weight' it has torch.bool of shape (8, 3), but needs "
        "torch.bool of (3, 8).",
    )
    yield (
        pv.Plan({**keep, "3.weight": keep["3.weight"].float()}),
        "`plan` is of another model: for '3.weight' it has torch.float32 of shape (3, 8), but "
        "needs torch.bool of (3, 8).",
    )
    yield (
        keep,
        "`plan` must be a Plan, but a dict was passed. Make it: pv.select(scores, sparsity=0.5).",
    )


@pytest.mark.parametrize(("plan", "message"), list(bad_plans()))
def test_a_plan_that_does_not_fit_is_refused(plan, message):
    model = build("mlp")
    before = snapshot(model)
    with refused(message):
        pv.mask(model, plan)
    assert_untouched(model, before)


def pruned_by_torch():
    model = mlp()
    prune.l1_unstructured(model[1], "weight", amount=0.5)
    return model


def old_weight_norm():
    model = mlp()
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model[1])
    return model


def lazy():
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(3))


HOOK = "is not a parameter: a hook computes it at each forward."
UNFIT = [
    (
        pruned_by_torch,
        f"the weight of layer '1' {HOOK} Make that mask permanent first: "
        "torch.nn.utils.prune.remove(layer, 'weight').",
    ),
    (
        old_weight_norm,
        f"the weight of layer '1' {HOOK} Remove it first: torch.nn.utils.remove_weight_norm(layer).",
    ),
    (
        lazy,
        "layer '1' has no shape yet (a lazy layer). Run the model once, then prune it.",
    ),
]


@pytest.mark.parametrize(("make", "message"), UNFIT)
def test_a_layer_whose_weight_cannot_be_masked_is_refused(make, message):
    model = make()
    with refused(message):
        pv.score(model, "magnitude")
    with refused(message):
        pv.named_weights(model)
    with refused(message):
        pv.mask(model, pv.Plan({}))


def test_after_torchs_remove_the_layer_can_be_masked():
    model = pruned_by_torch()
    prune.remove(model[1], "weight")
    assert pv.mask(model, plan_for(model))[1].weight.shape == (8, 36)


def test_a_model_that_cannot_be_copied_is_refused(small_model, x):
    small_model.last = small_model(x)  # not a leaf: torch does not copy it
    for writer in (
        partial(pv.mask, plan=pv.Plan({})),
        pv.bake,
        partial(pv.fit, batches=batches(), progress=False),
    ):
        with pytest.raises(pv.ArgumentError, match=r"^`model` cannot be copied \(Only Tensors"):
            writer(small_model)


@pytest.mark.parametrize("verb", [partial(pv.mask, plan=pv.Plan({})), pv.bake])
def test_what_is_no_model_is_refused(verb):
    with refused("`model` must be a torch.nn.Module, but None was passed."):
        verb(None)


COUNTED = [
    (nn.Linear(3, 2), ["weight"]),
    (nn.Bilinear(3, 2, 2), ["weight"]),
    (nn.Conv1d(2, 2, 3), ["weight"]),
    (nn.ConvTranspose2d(2, 2, 3), ["weight"]),
    (nn.Embedding(3, 2), ["weight"]),
    (nn.EmbeddingBag(3, 2), ["weight"]),
    (attention(), ["in_proj_weight", "out_proj.weight"]),
    (cnn(), ["0.weight", "5.weight"]),
    (
        nn.Sequential(nn.LayerNorm(3), nn.LSTM(3, 2), nn.Linear(2, 2)),
        ["1.weight_ih_l0", "1.weight_hh_l0", "2.weight"],
    ),
]


@pytest.mark.parametrize(("model", "names"), COUNTED)
def test_the_weights_that_count(model, names):
    weights = pv.named_weights(model)
    assert list(weights) == names
    assert {n: w.shape for n, w in weights.items()} == {
        n: model.get_parameter(n).shape for n in names
    }


def test_a_mask_tells_what_it_keeps(small_model):
    masked = pv.mask(small_model, plan_for(small_model, 0.75))
    assert "Mask(keeps 72 of 288)" in repr(masked)

from __future__ import annotations

import pytest
import torch
from helpers import HOOKS, assert_untouched, bits, build, cnn, inputs, mlp, refused, snapshot
from torch import nn

import pruneviz as pv
from pruneviz.model.hooks import seeded


def hooks(model):
    return sum(len(getattr(m, h)) for m in model.modules() for h in HOOKS)


def called(model, layers, x=None):
    """Return the calls (name, inputs, output) of one forward pass."""
    calls = []
    with pv.hooked(model, layers, lambda *call: calls.append(call)):
        model(inputs() if x is None else x)
    return calls


def test_hooked_calls_with_name_inputs_and_output(small_model, x):
    (name, given, output), *others = called(small_model, ["1"])
    assert not others
    assert name == "1"
    assert torch.equal(given[0], x.flatten(1))
    assert torch.equal(output, small_model[1](x.flatten(1)))


def test_hooked_none_means_every_module_without_children(small_model):
    model = nn.ModuleDict({"net": small_model, "unused": nn.ReLU()})
    model.forward = model["net"].forward
    assert [call[0] for call in called(model, None)] == ["net.0", "net.1", "net.2", "net.3"]


def test_hooked_follows_the_forward_not_the_list(small_model):
    assert [call[0] for call in called(small_model, ["3", "", "1"])] == ["1", "3", ""]


def test_hooked_sees_every_call_of_a_shared_layer():
    layer = nn.Linear(4, 4)
    model = nn.Sequential(layer, nn.ReLU(), layer)
    assert [call[0] for call in called(model, None, torch.zeros(1, 4))] == ["0", "1", "0"]


def test_hooked_gives_all_positional_inputs():
    x, y = torch.ones(2, 3), torch.ones(2, 4)
    model = nn.Bilinear(3, 4, 2)
    calls = []
    with pv.hooked(model, None, lambda *call: calls.append(call)):
        model(x, y)
    assert [t.shape for t in calls[0][1]] == [(2, 3), (2, 4)]


def test_what_the_function_returns_takes_the_place_of_the_output(small_model, x):
    def silence_two(name, given, output):
        output = output.clone()
        output[:, :2] = 0
        return output

    with pv.hooked(small_model, ["2"], silence_two):
        got = small_model(x)
    weight = small_model[3].weight.clone()
    weight[:, :2] = 0
    hidden = small_model[:3](x)
    torch.testing.assert_close(got, hidden @ weight.T + small_model[3].bias)
    assert not torch.equal(small_model(x), got)


def test_hooks_stay_only_inside_the_block(small_model, x):
    with pv.hooked(small_model, None, lambda *call: None) as inside:
        assert inside is small_model
        assert hooks(small_model) == 4
    assert hooks(small_model) == 0


def test_blocks_can_be_nested(small_model, x):
    calls = []
    with pv.hooked(small_model, ["1"], lambda *c: calls.append("outer")):
        with pv.hooked(small_model, ["1"], lambda *c: calls.append("inner")):
            small_model(x)
        small_model(x)
    assert calls == ["outer", "inner", "outer"]
    assert hooks(small_model) == 0


def test_foreign_hooks_stay(small_model, x):
    calls = []
    small_model[1].register_forward_hook(lambda *args: calls.append(1))
    called(small_model, None)
    small_model(x)
    assert calls == [1, 1]
    assert hooks(small_model) == 1


def test_unhooked_after_an_error_in_the_forward():
    model = build("raising")
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="boom"), pv.evaluating(model):
        called(model, None)
    assert_untouched(model, before)


def test_unhooked_after_an_error_in_the_function(small_model, x):
    def broken(name, given, output):
        raise KeyError(name)

    with pytest.raises(KeyError), pv.hooked(small_model, None, broken):
        small_model(x)
    assert hooks(small_model) == 0


def test_an_unknown_layer_is_refused_and_nothing_is_hooked(small_model):
    with (
        refused("layer 'fc' is unknown. Known: , 0, 1, 2, 3."),
        pv.hooked(small_model, ["0", "fc"], lambda *call: None),
    ):
        pytest.fail("the block was entered")
    assert hooks(small_model) == 0


def test_what_is_no_model_is_refused():
    message = "`model` must be a torch.nn.Module, but a function was passed."
    with refused(message), pv.hooked(inputs, None, lambda *call: None):
        pytest.fail("the block was entered")
    with refused(message), pv.evaluating(inputs):
        pytest.fail("the block was entered")


def test_evaluating_is_eval_mode_without_gradients():
    model = cnn()
    with pv.evaluating(model) as inside:
        assert inside is model
        assert not any(m.training for m in model.modules())
        assert torch.equal(model(inputs()), model(inputs()))
        assert not model(inputs()).requires_grad
    assert all(m.training for m in model.modules())
    assert model(inputs()).requires_grad


@pytest.mark.parametrize("training", [(True, False, True), (False, True, False)])
def test_evaluating_restores_each_modules_own_flag(training):
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(3))
    for module, flag in zip(model.modules(), training, strict=True):
        module.training = flag
    with pv.evaluating(model):
        assert [m.training for m in model.modules()] == [False] * 3
    assert tuple(m.training for m in model.modules()) == training


class Overriding(nn.Linear):
    """As some libraries do: freezing a model for good when it goes into eval mode."""

    def train(self, mode=True):
        raise AssertionError("train() or eval() was called")


def test_evaluating_calls_no_override_of_train_or_eval():
    model = Overriding(2, 2)
    with pv.evaluating(model):
        assert not model.training
    assert model.training


def test_evaluating_can_be_nested():
    model = cnn()
    with pv.evaluating(model):
        with pv.evaluating(model):
            pass
        assert not any(m.training for m in model.modules())
    assert all(m.training for m in model.modules())


def test_evaluating_keeps_the_gradient_mode_of_the_caller(small_model):
    with torch.no_grad():
        with pv.evaluating(small_model):
            pass
        assert not torch.is_grad_enabled()
    with pytest.raises(ValueError, match="inside"), pv.evaluating(small_model):
        raise ValueError("inside")
    assert torch.is_grad_enabled()


def test_evaluating_leaves_buffers_with_nan_alone():
    model = nn.BatchNorm1d(2)
    model.running_mean.fill_(torch.nan)
    before = snapshot(model)
    with pv.evaluating(model):
        model.running_mean.zero_()
    assert_untouched(model, before)


def test_readers_run_on_a_model_of_inference_tensors():
    with torch.inference_mode():
        model = mlp()
    pv.predict(model, inputs())
    assert pv.measure(model, inputs()).macs == 36 * 8 + 8 * 3


def test_seeded_repeats_and_restores_the_callers_state():
    before = bits(torch.get_rng_state())
    drawn = []
    for seed in (5, 5, 6):
        with seeded(seed):
            drawn.append(torch.rand(3).tolist())
    assert drawn[0] == drawn[1] != drawn[2]
    assert bits(torch.get_rng_state()) == before


def test_seeded_without_a_seed_starts_from_the_callers_state():
    with seeded(None):
        first = torch.rand(3)
    assert torch.equal(first, torch.rand(3))


def test_seeded_restores_after_an_error():
    before = bits(torch.get_rng_state())
    with pytest.raises(KeyError), seeded(1):
        torch.rand(1)
        raise KeyError
    assert bits(torch.get_rng_state()) == before


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_layers_have_their_names_with_and_without_a_wrapper(wrap):
    inner = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model, x = wrap(inner), torch.zeros(2, 3)
    wrapped = [n for n, _ in model.named_modules() if n.endswith(".2")]
    groups = pv.find_groups(model, x)
    for name in ("2", *wrapped):
        seen = []
        with pv.hooked(model, [name], lambda n, *_, seen=seen: seen.append(n)):
            inner(x)
        assert seen == ["2"]
        assert list(pv.collect(model, [x], layers=[name], progress=False).inputs) == ["2"]
        first = name[:-1] + "0"
        assert pv.drop(groups, {first: [1]}).kept == 3
        scores = pv.score(model, "magnitude")
        kept = pv.select(scores, sparsity=0.5, protect=[name]).keep
        assert kept["2.weight"].all() and not kept["0.weight"].all()
        panel = pv.panel_neurons(model, x, layer=first)
        assert panel.controls["layer"].value == "0"
        panel.close()
    unknown = pytest.raises(pv.ArgumentError, match=r"layer 'module\.9' is unknown")
    with unknown, pv.hooked(model, ["module.9"], print):
        pass
    own = nn.Sequential()
    own.add_module("module", nn.Sequential(nn.Linear(2, 2)))  # a name of the user's own
    with pv.hooked(own, ["module.0"], lambda n, *_: seen.append(n)):
        own(torch.zeros(1, 2))
    assert seen[-1] == "module.0"

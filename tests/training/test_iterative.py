from __future__ import annotations

import copy
import itertools
import math
import sys
import threading
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_untouched, batches, bits, build, inputs, mlp, refused, snapshot, state
from torch import nn

import pruneviz as pv
from pruneviz.metrics.evaluator import metric as judged

N = (8 * 36, 3 * 8)  # weights of the mlp by layer
COLUMNS = ["round", "target_sparsity", "sparsity"]


def run(model=None, data=None, **options):
    given = {"sparsity": 0.8, "rounds": 3, "lr": 0.05, "progress": False, **options}
    given = {k: v for k, v in given.items() if v is not ...}
    return pv.prune_iteratively(model or mlp(), data or batches(), **given)


def kept(model):
    return sum(int((w != 0).sum()) for w in pv.named_weights(model).values())


def test_a_row_a_round_and_one_before():
    result = run(schedule="geometric", evaluate=lambda m: 0.5)
    assert list(result.frame.columns) == [*COLUMNS, "metric_untuned", "metric"]
    assert result.frame["round"].tolist() == [0, 1, 2, 3]
    want = [0, *pv.schedule("geometric", 0.8, rounds=3)]
    assert result.frame["target_sparsity"].tolist() == want
    assert len(result.plans) == 3 and result.plan is result.plans[-1]
    assert list(run().frame.columns) == COLUMNS
    assert (
        repr(result)
        == "3 rounds to sparsity 0.798 (0.771 of all 323 numbers): metric 0.500 → 0.500"
    )
    assert repr(run(rounds=1)) == "1 round to sparsity 0.798 (0.771 of all 323 numbers)"


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("criterion", ["magnitude", "random", "lamp"])
def test_every_round_drops_exactly_what_it_should(criterion, scope):
    result = run(criterion=criterion, scope=scope, evaluate=kept)
    parts = N if scope == "layer" else (sum(N),)
    for target, left in zip(
        result.frame["target_sparsity"], result.frame["metric_untuned"], strict=True
    ):
        assert left == sum(n - round(target * n) for n in parts)
    assert result.frame["sparsity"].iloc[-1] == 1 - result.frame["metric"].iloc[-1] / sum(N)


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_what_was_dropped_does_not_come_back(criterion):
    plans = run(criterion=criterion, rounds=4).plans
    for before, after in itertools.pairwise(plans):
        for name, keep in after.keep.items():
            assert not (keep & ~before.keep[name]).any()


OPTIMIZERS = {
    "SGD": partial(torch.optim.SGD, momentum=0.9, weight_decay=0.1),
    "Adam": partial(torch.optim.Adam, weight_decay=0.1),
    "AdamW": partial(torch.optim.AdamW, weight_decay=0.5),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_masks_hold_through_momentum_and_weight_decay(optimizer):
    model = mlp()

    def tune(cut):
        return pv.fit(cut, batches(), epochs=5, lr=0.05, optimizer=OPTIMIZERS[optimizer], progress=False)  # fmt: skip

    result = run(model, tune=tune, evaluate=kept)
    assert (result.frame["metric"] == result.frame["metric_untuned"]).all()
    for name, weight in pv.named_weights(result.model).items():
        keep = result.plan.keep[name]
        assert (weight[~keep] == 0).all()
        assert not torch.equal(weight[keep], pv.named_weights(model)[name][keep])


def test_without_a_mask_they_do_not_hold():
    model = mlp()
    opt = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    (x, y), *_ = batches()
    F.cross_entropy(model(x), y).backward()
    opt.step()
    weight = model[1].weight
    gone = torch.rand(weight.shape) < 0.9
    with torch.no_grad():
        weight[gone] = 0
    opt.zero_grad()
    F.cross_entropy(model(x), y).backward()
    weight.grad[gone] = 0  # not even gradients are needed
    opt.step()
    assert (weight[gone] != 0).any()


def test_the_default_tune_is_fit_with_the_seed_of_the_round():
    model = mlp()
    data = torch.utils.data.DataLoader(
        [(x, y) for b in batches(9) for x, y in zip(*b, strict=True)], batch_size=4, shuffle=True
    )
    result = run(model, data, schedule=[0.5, 0.7], sparsity=..., rounds=..., epochs=2, seed=5)
    by_hand = model
    for i, s in ((1, 0.5), (2, 0.7)):
        plan = pv.select(pv.score(by_hand, "magnitude"), sparsity=s)
        by_hand = pv.mask(by_hand, plan)
        by_hand = pv.fit(by_hand, data, epochs=2, lr=0.05, seed=5 + i, progress=False)
    assert state(result.model) == state(by_hand)


def test_each_layer_may_have_its_own_end():
    result = run(sparsity={"1": 0.9, "3": 0.5}, schedule="cubic")
    frame = result.plan.to_frame().set_index("layer")["sparsity"]
    assert frame["1"] == pytest.approx(1 - round(0.1 * N[0]) / N[0])
    assert frame["3"] == 0.5
    ways = [pv.schedule("cubic", s, rounds=3) for s in (0.9, 0.5)]
    want = [0, *(np.average(at, weights=N) for at in zip(*ways, strict=True))]
    assert result.frame["target_sparsity"].tolist() == pytest.approx(want)
    one = run(sparsity={"1": 0.9}).plan
    assert one.keep["3.weight"].all()


def test_one_shot_has_one_round():
    assert len(run(schedule="one-shot", rounds=...).plans) == 1
    assert len(run(rounds=...).plans) == 5


def test_the_rounds_start_from_masks_of_the_model():
    model = pv.mask(mlp(), pv.select(pv.score(mlp(), "magnitude"), sparsity=0.5))
    result = run(model, sparsity=0.75, rounds=2, criterion="random")
    want = pv.schedule("geometric", 0.75, rounds=2, start=0.5)
    assert result.frame["target_sparsity"].tolist() == pytest.approx([0.5, *want])
    for name, keep in result.plan.keep.items():
        assert not keep[pv.named_weights(model)[name] == 0].any()
    with refused(
        "`start` must not be above `sparsity`, but 0.5 is above 0.3: a schedule never falls. Pass a smaller `start`."
    ):
        run(model, sparsity=0.3)
    with refused("`schedule` goes down: 0.3 in round 1, after 0.5. What was dropped does not come back: pass sparsities that rise."):  # fmt: skip
        run(model, schedule=[0.3], sparsity=..., rounds=...)
    mapped = run(model, sparsity={"1": 0.75}, rounds=2)
    assert mapped.plan.to_frame()["sparsity"].tolist() == [0.75, 0.5]


@pytest.mark.parametrize("form", ["model", "state_dict", "masked model"])
def test_rewinding(form):
    model, start = mlp(), mlp()
    for p in start.parameters():
        p.data = torch.randn_like(p)
    seen = []

    def tune(cut):
        seen.append(pv.bake(cut))
        return pv.fit(cut, batches(), lr=0.1, progress=False)

    rewind = {
        "model": start,
        "state_dict": start.state_dict(),
        "masked model": pv.mask(start, pv.Plan({})),
    }[form]
    result = run(model, rewind=rewind, tune=tune)
    for cut, plan in zip(seen, result.plans, strict=True):
        ticket = pv.bake(pv.lottery_ticket(start, plan))
        assert state(cut) == state(ticket)
    for name, w in pv.named_weights(result.model).items():
        assert (w[~result.plan.keep[name]] == 0).all()


def test_the_score_is_of_the_tuned_weights_also_when_rewinding():
    model, start = mlp(), mlp()
    first = run(model, sparsity=0.5, schedule="one-shot", rounds=...).plan
    again = run(model, sparsity=0.5, schedule="one-shot", rounds=..., rewind=start).plan
    want = pv.select(pv.score(model, "magnitude"), sparsity=0.5)
    for name, keep in want.keep.items():
        assert torch.equal(first.keep[name], keep) and torch.equal(again.keep[name], keep)


def test_units_are_dropped_and_can_be_removed():
    model, x = build("cnn"), inputs()
    groups = pv.find_groups(model, x)
    result = run(model, criterion="l2", groups=groups, sparsity=0.5, rounds=2, evaluate=kept)
    assert result.plan.groups is groups
    assert result.frame["sparsity"].tolist() == [0, 0.25, 0.5]
    small = pv.shrink(result.model, result.plan, example_input=x)
    with pv.evaluating(small), pv.evaluating(result.model):
        assert torch.allclose(small(x), result.model(x), atol=1e-5)
    (name,) = [g.name for g in groups if not g.frozen]
    mapped = run(model, criterion="l2", groups=groups, sparsity={name: 0.5}, rounds=2)
    assert mapped.frame["target_sparsity"].tolist() == pytest.approx([0, 1 - 0.5**0.5, 0.5])


def test_evidence_is_collected_anew_in_each_round():
    models = []

    def evidence(model):
        models.append(kept(model))
        return pv.collect(model, [inputs()], progress=False)

    result = run(criterion="wanda", evidence=evidence)
    assert models == [sum(N), *(p.kept for p in result.plans[:-1])]


def test_the_model_and_the_callers_random_state_are_not_changed():
    model = build("cnn")
    before, numbers = snapshot(model), bits(torch.get_rng_state())
    result = run(model, criterion="random", rewind=build("cnn"))
    assert_untouched(model, before)
    assert bits(torch.get_rng_state()) == numbers
    torch.rand(3)
    again = run(model, criterion="random", rewind=build("cnn"))
    assert state(again.model) == state(result.model)
    other = run(model, criterion="random", rewind=build("cnn"), seed=1)
    assert state(other.model) != state(result.model)


def test_an_interrupted_run_is_continued(tmp_path, monkeypatch):
    path = tmp_path / "rounds.safetensors"
    model = mlp()
    whole = run(model, evaluate=kept)
    calls = []

    def metric(value):
        calls.append(value)
        if len(calls) == 5:  # the second round is tuned
            raise KeyboardInterrupt
        return float(value)

    monkeypatch.setattr("pruneviz.training.iterative.metric", metric)
    with pytest.raises(KeyboardInterrupt) as e:
        run(model, evaluate=kept, path=path)
    assert e.value.__notes__ == [
        f"1 of 3 rounds are finished and stored in {str(path)!r}: the same call continues from there."
    ]
    result = run(model, evaluate=kept, path=str(path))
    assert len(calls) == 5 + 4
    pd.testing.assert_frame_equal(result.frame, whole.frame)
    assert state(result.model) == state(whole.model)
    for a, b in zip(result.plans, whole.plans, strict=True):
        assert a.to_json() == b.to_json()
    again = run(model, evaluate=kept, path=path)
    assert len(calls) == 9 and state(again.model) == state(whole.model)
    assert list(tmp_path.iterdir()) == [path]
    with refused(f"`path` {str(path)!r} holds the rounds of another call: lr differs. Name another file, or delete this one."):  # fmt: skip
        run(model, evaluate=kept, path=path, lr=0.01)
    with refused(f"`path` {str(path)!r} holds the rounds of another call: schedule, epochs differ. Name another file, or delete this one."):  # fmt: skip
        run(model, evaluate=kept, path=path, epochs=7, rounds=2)
    with refused(f"`path` {str(path)!r} holds the rounds of another call: criterion differs. Name another file, or delete this one."):  # fmt: skip
        run(model, evaluate=kept, path=path, criterion=lambda w: w.abs())
    other = mlp()
    other[1].weight.data += 1
    with refused(f"`path` {str(path)!r} holds the rounds of another call: model differs. Name another file, or delete this one."):  # fmt: skip
        run(other, evaluate=kept, path=path)


def test_units_and_rewinding_can_be_resumed_too(tmp_path):
    model = build("cnn")
    options = {
        "criterion": "l2", "groups": pv.find_groups(model, inputs()), "rewind": build("cnn"),
        "sparsity": 0.5, "path": tmp_path / "rounds",
    }  # fmt: skip

    def raising(cut):
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom") as e:
        run(model, tune=raising, **options)
    assert not hasattr(e.value, "__notes__")
    first = run(model, **options)
    again = run(model, **options)
    assert state(again.model) == state(first.model)
    assert again.plan.groups is not None


def test_a_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / "x"
    pv.save(mlp(), path)
    for text in (None, b"nonsense"):
        if text:
            path.write_bytes(text)
        with pytest.raises(pv.ArgumentError, match="holds no rounds, or is damaged"):
            run(path=path)
    with pytest.raises(pv.ArgumentError, match="cannot be written"):
        run(path=tmp_path / "nowhere" / "x")


def test_a_metric_that_is_no_number_is_refused_and_rounds_are_kept(tmp_path, monkeypatch):
    model = mlp()
    values = iter([0.9, 0.8, 0.85, math.nan])
    path = tmp_path / "rounds"
    options = {"evaluate": kept, "path": path}
    with monkeypatch.context() as patched:
        patched.setattr("pruneviz.training.iterative.metric", lambda _: judged(next(values)))
        with pytest.raises(pv.ArgumentError, match="must return a finite number"):
            run(model, **options)
    assert run(model, **options).frame["metric"].tolist()[:2] == [0.9, 0.85]


def test_rounds_of_other_functions_and_data_are_refused(tmp_path):
    model, path, step = mlp(), tmp_path / "rounds", 1.0
    run(model, evaluate=lambda m: step, path=path)
    step = 2.0
    call = f"`path` {str(path)!r} holds the rounds of another call:"
    with refused(f"{call} evaluate, its variable step differs. Name another file, or delete this one."):  # fmt: skip
        run(model, evaluate=lambda m: step, path=path)
    with pytest.raises(pv.ArgumentError, match="batches"):
        pv.prune_iteratively(
            model, batches(n=7), sparsity=0.75, rounds=3, path=path, progress=False
        )


def test_rounds_that_cannot_be_compared_are_computed_again(tmp_path):
    path, lock, calls = tmp_path / "rounds", threading.Lock(), []

    def evaluate(m):
        with lock:
            calls.append(m)
            return 0.5

    model = mlp()
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"^`evaluate` holds a lock\. So what is stored in "):
            run(model, evaluate=evaluate, path=path)
    assert len(calls) == 2 * 7


def test_a_second_writer_of_rounds_is_refused(tmp_path):
    path = tmp_path / "rounds"

    def tune(m):
        with refused(f"`path` {str(path)!r} is being written by another call. Wait until it has finished, or name another file."):  # fmt: skip
            run(path=path)
        return m

    run(tune=tune, path=path)


def test_progress_is_shown_only_where_asked(capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE")  # as our tests set it
    run()
    assert capsys.readouterr().err == ""
    run(progress=True)
    assert capsys.readouterr().err == ""  # a log file: nobody sees it move
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    run(progress=True)
    assert "rounds" in capsys.readouterr().err


def revive(cut):
    return pv.fit(pv.bake(cut), batches(), lr=0.1, progress=False)


def test_rounds_without_training_rank_what_they_re_fitted():
    model, data = mlp(), batches()
    ends = [0.5, 0.8]
    result = run(model, sparsity=..., rounds=..., schedule=ends, repair="lstsq", epochs=0)
    now = model
    for end in ends:
        plan = pv.select(pv.score(now, "magnitude"), sparsity=end)
        now = pv.mask(now, plan, repair="lstsq", batches=data)
    assert result.plan.sparsity == plan.sparsity
    x = inputs(4)
    torch.testing.assert_close(result.model.eval()(x), now.eval()(x))
    plain = run(model, sparsity=..., rounds=..., schedule=ends, epochs=0)
    assert off(result.model, model, data) < off(plain.model, model, data)


def off(new, model, data):
    """Mean square of what changes in the output."""
    with torch.no_grad():
        return sum(float((new.eval()(x) - model.eval()(x)).square().mean()) for x, _ in data)


BAD_CALLS = [
    ({"repair": "fold"}, "`repair` 'fold' is unknown. Known: distil, lstsq, none."),
    ({"repair": "lstsq", "rewind": mlp()}, "`repair` re-fits the weights on `batches`. Pass `batches`, and leave `rewind` out, which would undo the repair."),
    ({"sparsity": ...}, "`sparsity` is missing. Pass the sparsity of the last round, such as sparsity=0.9, or the sparsity of each round, schedule=[0.5, 0.8, 0.9]."),
    ({"sparsity": 80}, "`sparsity` must be a fraction in [0, 1), but 80 was passed. Did you mean 0.8? Fractions, never percentages."),
    ({"schedule": "cubik"}, "schedule 'cubik' is unknown. Did you mean 'cubic'? Known: cubic, geometric, linear, one-shot."),
    ({"schedule": "one-shot"}, "a one-shot schedule has one round, but rounds=3 was passed. Try 'geometric' or 'cubic'."),
    ({"rounds": 0}, "`rounds` must be a whole number ≥ 1, but 0 was passed."),
    ({"schedule": [0.5, 0.8]}, "`schedule` is a list of the sparsity of each round: leave `sparsity` and `rounds` out."),
    ({"schedule": [], "sparsity": ..., "rounds": ...}, "`schedule` is empty: there is no round to run."),
    ({"schedule": [0.5, 0.8, 0.7], "sparsity": ..., "rounds": ...}, "`schedule` goes down: 0.7 in round 3, after 0.8. What was dropped does not come back: pass sparsities that rise."),
    ({"schedule": [0.5, 90], "sparsity": ..., "rounds": ...}, "`schedule` must be a fraction in [0, 1), but 90 was passed. Did you mean 0.9? Fractions, never percentages."),
    ({"sparsity": {"9": 0.5}}, "layer '9' is unknown. Known: 1, 1.weight, 3, 3.weight."),
    ({"scope": "local"}, "`scope` 'local' is unknown. Did you mean 'global'? Known: global, layer."),
    ({"criterion": "magnitud"}, "criterion 'magnitud' is unknown. Did you mean 'magnitude'? Known: fisher, lamp, magnitude, random, taylor, wanda."),
    ({"epochs": -1}, "`epochs` must be a whole number ≥ 0, but -1 was passed."),
    ({"lr": -1}, "`lr` must be a number ≥ 0, but -1 was passed."),
    ({"seed": 0.5}, "`seed` must be a whole number ≥ 0, but 0.5 was passed."),
    ({"evaluate": 3}, "`evaluate` must be a function of the model, but 3 was passed."),
    ({"tune": "fit"}, "`tune` must be a function of the model, but 'fit' was passed."),
    ({"tune": lambda m: None}, "`tune` must return a model, but it returned None."),
    ({"tune": revive}, "`tune` must keep pruned weights at zero, but it changed some of '1.weight'. Let it train the masked model that it is given, as pv.fit does, and not a baked copy."),
    ({"groups": 3}, "`groups` must be a Groups, but an int was passed. Make them: pv.find_groups(model, example_input)."),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "message"), BAD_CALLS)
def test_a_bad_call_is_refused(bad, message):
    model = mlp()
    before = snapshot(model)
    with refused(message):
        run(model, **bad)
    assert_untouched(model, before)


def test_nothing_to_tune_with():
    with refused("there is nothing to tune with. Pass `batches`, or your own `tune`."):
        pv.prune_iteratively(mlp(), None, sparsity=0.5)
    result = pv.prune_iteratively(
        mlp(), None, sparsity=0.5, tune=copy.deepcopy, progress=False, rounds=2
    )
    assert kept(result.model) == sum(N) // 2


@pytest.mark.parametrize("rewind", [nn.Linear(3, 3), {}, 3])
def test_a_rewind_of_another_model_is_refused(rewind):
    with pytest.raises(pv.ArgumentError, match="`rewind` must be a model like the pruned one"):
        run(rewind=rewind)


def test_weights_that_never_run_are_left_out():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.fc, self.out, self.spare = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(50, 50)

        def forward(self, x):
            return self.out(torch.relu(self.fc(x)))

    model, data = Spare(), [(torch.randn(20, 6), torch.arange(20) % 3)]
    loader = torch.utils.data.DataLoader(torch.randn(20, 6), shuffle=True)
    for given in (data, loader):
        own = {"tune": lambda m: m} if given is loader else {}
        result = pv.prune_iteratively(model, given, sparsity=0.5, rounds=2, scope="global",
                                      progress=False, **own)  # fmt: skip
        assert set(result.plan.keep) == {"fc.weight", "out.weight"}
        assert result.plan.left_out["spare.weight"].why == "it never ran on the example"
        assert result.frame["sparsity"].iloc[-1] == 0.5
        assert bool((result.model.spare.weight != 0).all())
    assert result.plan.kept == (48 + 24) // 2
    with pytest.raises(pv.ArgumentError, match="could not run on one example of `batches`"):
        pv.prune_iteratively(
            model, [(torch.randn(20, 7), data[0][1])], sparsity=0.5, progress=False
        )

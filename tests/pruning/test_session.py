"""One model, prepared once: every call that stands on the session gives what it gives alone."""

from __future__ import annotations

import pickle
import threading

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_untouched, batches, build, inputs, mlp, refused, snapshot
from torch import nn

import pruneviz as pv
from pruneviz.pruning import session as module
from pruneviz.selection.criteria.registry import criterion

RECIPES = [
    {"macs": 0.5},
    {"sparsity": 0.25},
    {"macs": 0.5, "criterion": "obs", "repair": "lstsq"},
    {"sparsity": 0.5, "criterion": "taylor", "repair": "merge"},
    {"sparsity": 0.5, "criterion": "wanda", "repair": "fold"},
    {"sparsity": 0.5, "criterion": "random", "seed": 3},
]


def same(a: nn.Module, b: nn.Module) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return list(one) == list(other) and all(torch.equal(one[n], other[n]) for n in one)


@pytest.fixture
def counted(monkeypatch):
    calls: list[str] = []
    for name in ("traced_walk", "collected"):
        real = getattr(module, name)

        def counting(*args, real=real, name=name, **options):
            calls.append(name)
            return real(*args, **options)

        monkeypatch.setattr(module, name, counting)
    return calls


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_prunings_with_a_session_are_those_without(name, counted):
    model, data = build(name), [x for x, _ in batches(n=30)]
    before = snapshot(model)
    session = pv.Session(model, inputs(), batches=data)
    found = [pv.prune(model, inputs(), session=session, **how) for how in RECIPES]
    assert counted.count("traced_walk") == 1
    # of "obs" without the squared gradients of weights, then of "taylor" with them; "wanda" has both
    assert counted.count("collected") == 2
    for how, new in zip(RECIPES, found, strict=True):
        assert same(new, pv.prune(model, inputs(), batches=data, **how)), how
    assert len({id(new) for new in found}) == len(found)
    assert_untouched(model, before)


def test_what_was_passed_is_used(counted):
    model = mlp()
    data = [x for x, _ in batches()]
    groups, evidence = pv.find_groups(model, inputs()), pv.collect(model, data, progress=False)
    session = pv.Session(model, inputs(), evidence=evidence, groups=groups)
    assert session.groups is groups
    assert session.evidence(gradients=True) is evidence
    how = {"sparsity": 0.5, "criterion": "l2", "repair": "lstsq"}
    alone = pv.prune(model, inputs(), evidence=evidence, **how)
    assert same(pv.prune(model, inputs(), session=session, **how), alone)


def test_with_a_loss_the_targets_are_learned_from():
    model, pairs = mlp(), batches(n=20)
    session = pv.Session(model, inputs(), batches=pairs, loss=F.cross_entropy)
    want = pv.collect(model, pairs, loss=F.cross_entropy, progress=False).grad_sq
    got = session.evidence(gradients=True).grad_sq
    assert all(torch.equal(got[n], want[n]) for n in want)
    drawn = pv.Session(model, inputs(), batches=pairs).evidence(gradients=True).grad_sq
    assert not all(torch.equal(drawn[n], want[n]) for n in want)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_obs_needs_no_squared_gradient_of_weights(name):
    model, pairs = build(name), batches(n=30)
    session, full = (pv.Session(model, inputs(), batches=pairs, seed=3) for _ in range(2))
    lean, whole = session.evidence(gradients=True, squares=False), full.evidence(gradients=True)
    assert not lean.grad_sq and not lean.fisher and whole.grad_sq and whole.fisher
    assert lean.output_grad.keys() == whole.output_grad.keys()
    assert all(torch.equal(g, whole.output_grad[n]) for n, g in lean.output_grad.items())
    assert session.evidence_for([criterion("obs", "unit")]) is lean
    assert full.evidence_for([criterion("obs", "unit")]) is whole  # what has more will do, too
    taylor = session.evidence_for([criterion("obs", "unit"), criterion("taylor", "unit")])
    assert all(torch.equal(g, whole.grad_sq[n]) for n, g in taylor.grad_sq.items())


def test_a_tuple_of_inputs_stays_one():
    class Sum(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 6), nn.Linear(3, 6), nn.Linear(6, 2)

        def forward(self, x, y):
            return self.head(torch.relu(self.a(x) + self.b(y)))

    model, x = Sum(), (torch.randn(9, 4), torch.randn(9, 3))
    labelled = [(x, torch.zeros(9).long())]
    session = pv.Session(model, x, batches=labelled)
    small = pv.prune(model, x, sparsity=0.5, criterion="wanda", repair="lstsq", session=session)
    assert small.a.out_features == small.b.out_features == 3
    once = pv.prune(model, x, sparsity=0.5, criterion="wanda", repair="lstsq", batches=labelled)
    assert same(small, once)


def test_a_model_that_has_changed_is_refused():
    model = mlp()
    session = pv.Session(model, inputs())
    pv.prune(model, inputs(), sparsity=0.5, session=session)  # and no reader changes it
    with torch.no_grad():
        model[1].weight.mul_(2)
    with refused(
        "the weights of `model` have changed since the session was made. Make a new one: "
        "pv.Session(model, example_input)."
    ):
        pv.prune(model, inputs(), sparsity=0.5, session=session)
    fresh = pv.Session(model, inputs())
    assert pv.prune(model, inputs(), sparsity=0.5, session=fresh)[1].out_features == 4


def test_the_session_of_another_model_is_refused():
    with refused(
        "`session` is of another model. Pass that model, or make a new session: "
        "pv.Session(model, example_input)."
    ):
        pv.prune(mlp(), inputs(), sparsity=0.5, session=pv.Session(mlp(), inputs()))


@pytest.mark.parametrize(
    "more",
    [{"batches": batches()}, {"approximate": True}, {"loss": F.cross_entropy}, {"draw": len}],
    ids=lambda more: next(iter(more)),
)
def test_what_belongs_to_the_session_is_refused_beside_it(more):
    model = mlp()
    with refused(
        f"`{next(iter(more))}` belongs to the session. Pass it there: pv.Session(model, "
        "example_input, batches=batches)."
    ):
        pv.prune(model, inputs(), sparsity=0.5, session=pv.Session(model, inputs()), **more)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batches": []}, "`batches` is empty: there is nothing to learn from. Pass an iterable of batches; a generator runs only once."),
        ({"evidence": 3}, "`evidence` must be an Evidence, but an int was passed. Make it: pv.collect(model, batches)."),
        ({"groups": "fc1"}, "`groups` must be a Groups, but a str was passed. Make them: pv.find_groups(model, example_input)."),
    ],
)  # fmt: skip
def test_a_bad_session_is_refused(options, message):
    with refused(message):
        pv.Session(mlp(), inputs(), **options)


def test_a_repair_without_data_is_refused_with_a_session_too():
    model = mlp()
    with pytest.raises(pv.ArgumentError, match="repair 'lstsq' needs"):
        pv.prune(model, inputs(), sparsity=0.5, repair="lstsq", session=pv.Session(model, inputs()))


def test_threads_share_a_session(counted):
    model, data = build("cnn"), [x for x, _ in batches(n=30)]
    session = pv.Session(model, inputs(), batches=data)
    made: dict[int, nn.Module] = {}

    def prune(i: int) -> None:
        how = RECIPES[2 + i % 2]
        made[i] = pv.prune(model, inputs(), session=session, **how)

    threads = [threading.Thread(target=prune, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert counted.count("traced_walk") == 1
    assert (
        counted.count("collected") <= 2
    )  # once for "obs", if it came first, and once for "taylor"
    assert same(made[0], made[2]) and same(made[1], made[3])
    assert same(made[0], pv.prune(model, inputs(), batches=data, **RECIPES[2]))


def test_a_clone_and_a_copy_by_pickle_keep_the_data_and_trace_anew(counted):
    model, data = mlp(), [x for x, _ in batches()]
    session = pv.Session(model, inputs(), batches=data)
    pv.prune(model, inputs(), sparsity=0.5, criterion="obs", session=session)
    for other in (session.clone(), pickle.loads(pickle.dumps(session))):
        counted.clear()
        new = pv.prune(other.model, inputs(), sparsity=0.5, criterion="obs", session=other)
        assert counted == ["traced_walk"]
        assert same(new, pv.prune(model, inputs(), sparsity=0.5, criterion="obs", session=session))


def test_only_the_latest_scores_are_kept():
    model = mlp()
    session = pv.Session(model, inputs())
    for seed in range(20):
        session.scores("random", seed=seed)
    assert session.has_scores("random", seed=19) and not session.has_scores("random", seed=0)
    assert sum(session.has_scores("random", seed=s) for s in range(20)) == module.MAX_SCORES
    assert session.scores("random", seed=19) is session.scores("random", seed=19)


def test_weights_that_never_run_are_not_scored_with_the_rest():
    class Spare(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1, self.fc2, self.spare = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(50, 50)
            self.table, self.gru = nn.Embedding(7, 6), nn.GRU(6, 6, batch_first=True)

        def forward(self, ids):
            return self.fc2(torch.relu(self.fc1(self.gru(self.table(ids))[0][:, -1])))

    model, ids = Spare().eval(), torch.arange(14).reshape(2, 7) % 7
    session = pv.Session(model, ids)
    assert session.idle == {"spare.weight"}
    scores = session.scores("magnitude", "weight")
    assert set(scores.values) == {"table.weight", "fc1.weight", "fc2.weight", "gru.weight_ih_l0",
                                  "gru.weight_hh_l0"}  # fmt: skip
    assert scores.left_out["spare.weight"].why == "it never ran on the example"

    def judge(m):
        return float((m.spare.weight == 0).sum())

    frame = pv.sweep(
        model, ids, criteria=["magnitude"], sparsities=[0.9], evaluate=judge, progress=False
    )
    assert frame["metric"].tolist() == [0.0]
    assert frame["left_out"].tolist() == [
        "spare.weight (2,500 numbers: it never ran on the example)"
    ]
    frame = pv.sensitivity(model, ids, sparsities=[0.5], evaluate=judge, progress=False)
    assert set(frame["layer"][:-1]) == {"table", "gru", "fc1", "fc2"}
    assert frame["layer"].iloc[-1] == "spare.weight"
    assert frame["left_out"].iloc[-1] == "2,500 numbers: it never ran on the example"
    with refused(
        "layer 'spare' never ran on the example, so nothing depends on it. Leave it out of `layers`."
    ):
        pv.sensitivity(
            model, ids, sparsities=[0.5], layers=["spare"], evaluate=judge, progress=False
        )
    masked = pv.mask(model, pv.select(scores, sparsity=0.5))
    assert pv.Session(masked, ids).idle == {"spare.weight"}

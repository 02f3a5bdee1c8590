"""Whatever is wrong with a model, its data or what is set around a call: right, or the exact error.

Each verb meets each fault. What it answers is what it answers without the fault, or it refuses with
words; and the model, its hooks and the caller's random numbers are as before.
"""

from __future__ import annotations

import copy
import re
import threading
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_untouched, numbers, snapshot
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import pruneviz as pv
from pruneviz.study.whatif import WhatIf

# a dozen examples: what a repair says of that is tested elsewhere
pytestmark = pytest.mark.filterwarnings("ignore:repair '(lstsq|distil)'")

GENERATOR = torch.Generator().manual_seed(3)
X, Y = torch.randn(12, 1, 6, 6, generator=GENERATOR), torch.arange(12) % 3
BOOM = 7.0  # an example that begins with it makes the forward raise


class Net(nn.Module):
    """A convolution, a batch norm, two Linear layers; `end` decides what the forward returns."""

    def __init__(self, end: str = "") -> None:
        super().__init__()
        torch.manual_seed(1)
        self.a, self.n = nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6)
        self.b, self.c = nn.Linear(6 * 16, 8), nn.Linear(8, 3)
        self.end = end

    def forward(self, x: Tensor) -> object:
        if self.end == "raises" and float(x.flatten()[0]) == BOOM:
            raise RuntimeError("boom")
        y = self.c(torch.relu(self.b(torch.relu(self.n(self.a(x))).flatten(1))))
        return ENDS[self.end](y)


ENDS = {
    "": lambda y: y,
    "raises": lambda y: y,
    "None": lambda y: None,
    "words": lambda y: ["a", "b"],
    "generator": lambda y: (row for row in y),
    "NumPy": lambda y: y.detach().numpy(),
    "number": lambda y: float(y.detach().sum()),
    "NaN": lambda y: y * torch.nan,
    "infinity": lambda y: torch.where(torch.arange(3) == 1, torch.inf, y),
    "pair": lambda y: (y, None),
}


def batches(change=lambda x, y: (x, y), at=(2,)) -> list[tuple[Tensor, Tensor]]:
    """Return three batches of four; `change` is applied to those of the numbers `at`."""
    found = [(X[i : i + 4].clone(), Y[i : i + 4].clone()) for i in (0, 4, 8)]
    return [change(x, y) if i in at else (x, y) for i, (x, y) in enumerate(found)]


def opposite(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.c.weight.mul_(-1)
    return other


def halved() -> pv.Plan:
    model = Net().eval()
    return pv.select(pv.score(model, "l2", groups=pv.find_groups(model, X[:4])), sparsity=0.5)


def size(model: nn.Module) -> float:
    return float(sum(p.detach().abs().sum() for p in model.parameters()))


def inputs(data: list[tuple[Tensor, Tensor]]) -> object:
    return Shuffled(targets=False) if isinstance(data, Shuffled) else [x for x, _ in data]


def what_if(model, data):
    found = WhatIf(model, data)
    return [found.before, found.pruned(found.plan("unit", "l2", 0.5), "lstsq")]


class Shuffled:
    """A DataLoader that draws the order from torch's global generator; as a list, X and Y."""

    def __init__(self, targets: bool = True) -> None:
        data = TensorDataset(*((X, Y) if targets else (X,)))
        self.loader = DataLoader(data, batch_size=4, shuffle=True)

    def __iter__(self):
        return iter(self.loader)

    def __len__(self) -> int:
        return len(self.loader)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return X[:4], Y[:4]


HALVED = halved()
DISTILLED = pv.Distillation(steps=5, lr=1e-3, progress=False)


# by what a verb looks at: the structure of the model, the inputs, the targets
STRUCTURE = {
    "find_groups": lambda m, b: [g.size * (not g.frozen) for g in pv.find_groups(m, b[0][0])],
    "lossless_plan": lambda m, b: pv.lossless_plan(m, b[0][0]).keep,
    "bounds": lambda m, b: pv.bounds(m, b[0][0], low=-1, high=1),
    "shrink": lambda m, b: pv.shrink(m, HALVED, example_input=b[0][0]),
    "prune": lambda m, b: pv.prune(m, b[0][0], sparsity=0.5),
}
REPAIRED = {
    "prune, lstsq": lambda m, b: pv.prune(
        m, b[0][0], sparsity=0.5, criterion="l2", repair="lstsq", batches=inputs(b)
    ),
    "prune, distil": lambda m, b: pv.prune(
        m, b[0][0], sparsity=0.5, criterion="l2", repair=DISTILLED, batches=inputs(b)
    ),
    "sweep": lambda m, b: pv.sweep(
        m, b[0][0], criteria=["l2"], sparsities=[0.5], repair=["lstsq"], evaluate=size,
        batches=inputs(b), progress=False,
    )[["metric"]],
    "sensitivity": lambda m, b: pv.sensitivity(
        m, b[0][0], criterion="l2", sparsities=[0.5], repair="lstsq", evaluate=size,
        batches=inputs(b), progress=False,
    )[["metric"]],
    "certify": lambda m, b: pv.certify(m, opposite(m), inputs(b)).max_error,
}  # fmt: skip
INPUTS = {
    "collect": lambda m, b: [
        i.mean for i in pv.collect(m, inputs(b), progress=False).inputs.values()
    ],
    "effective_macs": lambda m, b: pv.effective_macs(m, inputs(b))[["macs", "active"]],
    "recalibrate": lambda m, b: pv.recalibrate(m, inputs(b)),
    "mask, lstsq": lambda m, b: pv.mask(
        m, pv.select(pv.score(m, "magnitude"), sparsity=0.5), repair="lstsq", batches=inputs(b)
    ),
    "mask, distil": lambda m, b: pv.mask(
        m, pv.select(pv.score(m, "magnitude"), sparsity=0.5), repair=DISTILLED, batches=inputs(b)
    ),
}
JUDGES = {
    "accuracy": lambda m, b: pv.accuracy(m, b),
    "Accuracy": lambda m, b: pv.Accuracy(b)(m),
    "compare_accuracy": lambda m, b: pv.compare_accuracy(m, opposite(m), b).difference,
}
WATCHED = {"WhatIf": what_if}
LOSSES = {
    "collect, loss": lambda m, b: pv.collect(
        m, b, loss=F.cross_entropy, progress=False
    ).grad_sq,
    "fit": lambda m, b: pv.fit(m, b, lr=0.1, progress=False),
    "ablate": lambda m, b: pv.ablate(
        m, b, groups=HALVED.groups, progress=False
    ).values,
    "criterion_card": lambda m, b: pv.criterion_card(
        m, b, groups=HALVED.groups, criteria=["taylor"], seeds=(0, 1), progress=False
    ).scores["taylor"].values,
    "prune_iteratively": lambda m, b: pv.prune_iteratively(
        m, b, sparsity=0.5, rounds=1, progress=False
    ).model,
}  # fmt: skip
DRAWN = {
    "prune, obs": lambda m, b: pv.prune(
        m, b[0][0], sparsity=0.5, criterion="obs", repair="lstsq", batches=b
    ),
}
VERBS = {
    **STRUCTURE, **REPAIRED, **INPUTS, **JUDGES, **WATCHED, **LOSSES, **DRAWN
}  # fmt: skip
TRACED = {*STRUCTURE, *REPAIRED, *DRAWN} - {"certify"}
READERS = set(VERBS) - set(STRUCTURE)
LABELS = {*JUDGES, *WATCHED, *LOSSES}


NO_EXAMPLES = "`model` must return a tensor whose first dimension is the examples, but it returns none. Wrap it in a module that does."  # fmt: skip


def expect(*cases: tuple[set[str] | dict[str, object], str]) -> dict[str, str]:
    """Return the message that each verb must give; the others must be right."""
    return {verb: message for verbs, message in cases for verb in verbs}


NO_TENSOR = "`model` returns {}, without a tensor: there is nothing to compare. Wrap it in a module that returns what it computes."  # fmt: skip
NOT_TRACED = "`model` (Net) cannot be traced by torch.export: "
NO_LOGITS = "`model` must return logits of shape (examples, classes), but it returned {}. Wrap it in a module that returns its logits."  # fmt: skip
NO_LOSS = "`loss` could not be computed for batch 1 of `batches`, from outputs {}"
NAN_DRAW = "`model` returns NaN or infinity, so no label can be drawn. Look at the data and at the weights."  # fmt: skip
NOT_COMPARED = "the outputs of the two models on batch 1 cannot be compared: that of the first holds NaN or infinity, at output. "  # fmt: skip
NOT_CHECKED = (
    "`model` returns NaN or infinity on the example, at output, so no cut could be checked. "
)
NO_PREDICTION = "`model` returns NaN or infinity for batch 1 of `batches`, which is no prediction. "
GENERATED = "`model` returns a generator at output, which cannot be compared. Wrap it in a module that returns only what should be compared."  # fmt: skip
MASKED = {"mask, distil"}
NO_WEIGHT = "repair 'distil' moves weights, but the outputs of the pruned model depend on none that may change. "
NOT_LEARNED = "repair 'distil' learns the answers of `model`, but for batch 1 of `batches` output holds NaN or infinity. "
CUT = {"shrink", "prune", "prune, lstsq", "prune, distil", "prune, obs", "sweep", "sensitivity"}
MODELS = {
    "None": expect(
        (TRACED | MASKED | {"certify"}, NO_TENSOR.format("None")),
        (LABELS, NO_LOGITS.format("NoneType")),
        (LOSSES, NO_LOSS.format("NoneType")),
        ({"collect, loss"}, NO_EXAMPLES),
    ),
    "words": expect(
        (TRACED | MASKED | {"certify"}, NO_TENSOR.format("a list")),
        (LABELS, NO_LOGITS.format("list")),
        (LOSSES, NO_LOSS.format("list")),
        ({"collect, loss"}, NO_EXAMPLES),
    ),
    "generator": expect(
        (TRACED | MASKED | {"certify"}, GENERATED),
        (LABELS, NO_LOGITS.format("generator")),
        (LOSSES, NO_LOSS.format("generator")),
        ({"collect, loss"}, NO_EXAMPLES),
    ),
    "NumPy": expect(
        (TRACED, NOT_TRACED),
        (MASKED, NO_WEIGHT),
        (LABELS, NO_LOGITS.format("ndarray")),
        (LOSSES, NO_LOSS.format("ndarray")),
        ({"collect, loss"}, NO_EXAMPLES),
    ),
    "number": expect(
        (TRACED, NOT_TRACED),
        (MASKED, NO_WEIGHT),
        (LABELS, NO_LOGITS.format("float")),
        (LOSSES, NO_LOSS.format("float")),
        ({"collect, loss"}, NO_EXAMPLES),
    ),
    "NaN": expect(
        (CUT, NOT_CHECKED),
        (MASKED, NOT_LEARNED),
        ({"certify"}, NOT_COMPARED),
        ({*JUDGES, *WATCHED}, NO_PREDICTION),
        (
            {"fit", "prune_iteratively"},
            "the value of `loss` became nan in epoch 1, batch 1 of `batches`. ",
        ),
        ({"ablate", "criterion_card"}, "`loss` gave NaN or infinity. "),
        ({"collect, loss"}, NAN_DRAW),
        ({"effective_macs"}, "`model` returns NaN for batch 1 of `batches`, "),
    ),
    "infinity": expect(
        (CUT, NOT_CHECKED),
        (MASKED, NOT_LEARNED),
        ({"certify"}, NOT_COMPARED),
        ({*JUDGES, *WATCHED}, NO_PREDICTION),
        (
            {"fit", "prune_iteratively"},
            "the value of `loss` became nan in epoch 1, batch 1 of `batches`. ",
        ),
        ({"ablate", "criterion_card"}, "`loss` gave NaN or infinity. "),
        ({"collect, loss"}, NAN_DRAW),
    ),
    "pair": expect(),  # its first part is the logits
}

RUN = "`model` (Net) could not run on batch 3 of `batches`, {}: RuntimeError: "
ON_META = (
    "batch 3 of `batches` holds a tensor on the device 'meta': it has a shape, but no numbers. "
)
LABEL = "a label of batch 3 of `batches` is {}, but classes of the model go from 0 to 2. {}"
NO_CLASS = "Leave out examples that have no class: x[labels >= 0], labels[labels >= 0]."
OTHER_DATA = "Pass the data that the model was made for."
LOOK = "Look at the data and at the weights before it."


def relabelled(label: int):
    def change(x, y):
        y[1] = label
        return x, y

    return change


def raising(x, y):
    x[0] = BOOM
    return x, y


DATA = {
    "a label out of range": (
        relabelled(7),
        expect(({*JUDGES, *WATCHED, *LOSSES}, LABEL.format(7, OTHER_DATA))),
    ),
    "a label of -100": (
        relabelled(-100),
        expect(
            ({*JUDGES, *WATCHED}, LABEL.format(-100, NO_CLASS)),
            (
                {"Accuracy"},
                LABEL.format(-100, NO_CLASS).replace(
                    "of the model go from 0 to 2", "are counted from 0"
                ),
            ),
        ),
    ),
    "whole numbers": (
        lambda x, y: (x.to(torch.uint8), y),
        expect((READERS, RUN.format("uint8[4, 1, 6, 6]"))),
    ),
    "channels last": (
        lambda x, y: (x.movedim(1, -1), y),
        expect((READERS, RUN.format("float32[4, 6, 6, 1]"))),
    ),
    "double precision": (
        lambda x, y: (x.double(), y),
        expect((READERS, RUN.format("float64[4, 1, 6, 6]"))),
    ),
    "inputs on another device": (lambda x, y: (x.to("meta"), y), expect((READERS, ON_META))),
    "labels on another device": (
        lambda x, y: (x, y.to("meta")),
        expect((LABELS, ON_META), (DRAWN, ON_META)),
    ),
    "NaN": (
        lambda x, y: (x * torch.nan, y),
        expect(
            ({"collect"}, f"layer 'a' read NaN or infinity. {LOOK}"),
            ({"recalibrate"}, f"layer 'n' read NaN or infinity. {LOOK}"),
            (
                {"prune, lstsq", "prune, distil", "sweep", "sensitivity"},
                f"layer 'b' read or returned NaN or infinity. {LOOK}",
            ),
            (
                {"mask, lstsq", "mask, distil"},
                f"layer 'a' read or returned NaN or infinity. {LOOK}",
            ),
            ({"certify"}, NOT_COMPARED.replace("batch 1", "batch 3")),
            ({*JUDGES, *WATCHED}, NO_PREDICTION.replace("batch 1", "batch 3")),
            (
                {"fit", "prune_iteratively"},
                "the value of `loss` became nan in epoch 1, batch 3 of `batches`. ",
            ),
            ({"ablate", "criterion_card"}, "`loss` gave NaN or infinity. "),
            ({"collect, loss", "prune, obs"}, NAN_DRAW),
            ({"effective_macs"}, "`model` returns NaN for batch 3 of `batches`, "),
        ),
    ),
}
UNLIKE = {"a label of -100": set(LOSSES)}  # right, but with fewer examples: see below


def outcome(verb: str, model: nn.Module, data: list, around=nullcontext) -> object:
    """Return what a verb answers, as numbers, or its error as text; raise if it leaves a trace."""
    before, state = snapshot(model), torch.get_rng_state()
    try:
        with around():
            found = VERBS[verb](model, data)
    except (pv.ArgumentError, pv.GraphError) as e:
        # a table names its row first
        return re.sub(r"^in the row of .*?: (?=[a-z`])", "", str(e))
    finally:
        assert_untouched(model, before)
        assert torch.equal(torch.get_rng_state(), state)
    return numbers(found)


@pytest.fixture(scope="module")
def plain() -> dict[str, object]:
    """What each verb answers when nothing is wrong."""
    found = {verb: outcome(verb, Net().eval(), batches()) for verb in VERBS}
    assert all(isinstance(v, list) and v for v in found.values())
    return found


def check(got: object, want: object, message: str | None) -> None:
    if message is None:
        assert got == pytest.approx(want, rel=1e-5, abs=1e-6, nan_ok=True)
    else:
        assert isinstance(got, str), f"answered, and should have said: {message}"
        assert got.startswith(message), got


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("fault", MODELS)
def test_a_model_that_returns_something_else(fault, verb, plain):
    got = outcome(verb, Net(fault).eval(), batches())
    want = plain[verb]
    if (verb in ("find_groups", "lossless_plan", "bounds") and fault == "infinity") or (
        verb == "certify" and fault in ("NumPy", "number")
    ):
        assert isinstance(got, list)  # another output: other numbers, but right
        assert any(got)
        return
    check(got, want, MODELS[fault].get(verb))


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("fault", DATA)
def test_a_batch_that_does_not_fit(fault, verb, plain):
    change, messages = DATA[fault]
    got = outcome(verb, Net().eval(), batches(change))
    if verb in UNLIKE.get(fault, ()):
        assert isinstance(got, list)
        return
    check(got, plain[verb], messages.get(verb))


@pytest.mark.parametrize("verb", sorted(READERS))
def test_a_forward_that_raises_at_the_third_batch(verb):
    got = outcome(verb, Net("raises").eval(), batches(raising))
    traced = verb in TRACED | {"WhatIf"}  # its forward looks at values, which export cannot follow
    start = RUN.format("float32[4, 1, 6, 6]") + "boom"
    assert got.startswith(start) or (traced and got.startswith(NOT_TRACED)), got


AROUND = {
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "a default device": lambda: torch.device("meta"),
    "deterministic algorithms": lambda: deterministic(),
}


class deterministic:
    def __enter__(self):
        torch.use_deterministic_algorithms(True)

    def __exit__(self, *error):
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("what", AROUND)
def test_what_is_set_around_a_call_does_not_change_the_answer(what, verb, plain):
    check(outcome(verb, Net().eval(), batches(), AROUND[what]), plain[verb], None)


@pytest.mark.parametrize("verb", sorted(LOSSES))
def test_an_ignored_label_is_never_an_example(verb):
    def dropped(x, y):
        return x[[0, 2, 3]], y[[0, 2, 3]]

    got = outcome(verb, Net().eval(), batches(relabelled(-100)))
    check(got, outcome(verb, Net().eval(), batches(dropped)), None)


@pytest.mark.parametrize("judge", [pv.accuracy, pv.compare_accuracy])
def test_ignore_index_leaves_examples_out(judge):
    model = Net().eval()
    models = (model,) if judge is pv.accuracy else (model, opposite(model))
    kept = [(x[[0, 2, 3]], y[[0, 2, 3]]) for x, y in batches()]
    ignoring = judge(*models, batches(relabelled(-100), at=(0, 1, 2)), ignore_index=-100)
    assert str(ignoring) == str(judge(*models, kept))
    judged = pv.Accuracy(batches(relabelled(-100), at=(0, 1, 2)), ignore_index=-100)
    assert judged.columns(model) == pv.Accuracy(kept).columns(model)
    with pytest.raises(
        pv.ArgumentError, match=r"^all labels of `batches` are 1, which is ignored: "
    ):
        judge(*models, [(X, torch.ones(12).long())], ignore_index=1)


def test_the_advice_makes_inputs_run():
    """What the messages say of uint8, doubles, channels and memory is what helps."""
    model = Net().eval()

    class Views(Net):
        def forward(self, x):
            return self.c(torch.relu(self.b(torch.relu(self.n(self.a(x))).view(len(x), -1))))

    cases = {
        "pass x.to(torch.float32), scaled as in training": (
            model, (X * 9).to(torch.uint8), lambda x: x.to(torch.float32) / 255),
        "pass x.to(torch.float32)": (model, X.double(), lambda x: x.to(torch.float32)),
        "pass x.movedim(-1, 1)": (model, X.movedim(1, -1), lambda x: x.movedim(-1, 1)),
        "pass x.contiguous()": (
            Views().eval(), X.expand(12, 1, 6, 6).to(memory_format=torch.channels_last), None),
    }  # fmt: skip
    for advice, (net, x, mended) in cases.items():
        if mended is None:  # memory layouts of one channel are alike: use three
            net.a = nn.Conv2d(3, 6, 3)
            x = X.expand(12, 3, 6, 6).contiguous(memory_format=torch.channels_last)
            mended = torch.Tensor.contiguous
        with pytest.raises(pv.ArgumentError, match=re.escape(advice)):
            pv.predict(net, x)
        assert len(pv.predict(net, mended(x))) == 12


@pytest.mark.parametrize("verb", sorted(READERS))
def test_a_loader_that_shuffles_moves_no_random_number_of_the_caller(verb):
    assert isinstance(outcome(verb, Net().eval(), Shuffled()), list)


@pytest.mark.parametrize("attention", [False, True])
def test_two_threads_that_watch_one_model_do_not_mix_what_they_see(attention):
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) if attention else Net()
    model.eval()
    shape = (40, 5, 8) if attention else (40, 1, 6, 6)
    data = [torch.randn(shape), torch.randn(shape) + 5]
    want = [pv.collect(model, [x], progress=False) for x in data]
    got: list[list[pv.Evidence]] = [[], []]

    def watch(i: int) -> None:
        for _ in range(6):
            got[i].append(pv.collect(model, [*data[i].split(4)], progress=False))

    threads = [threading.Thread(target=watch, args=(i,)) for i in (0, 1)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for one, many in zip(want, got, strict=True):
        assert len(many) == 6
        for found in many:
            assert found.examples == 40
            for name, moments in one.inputs.items():
                assert found.inputs[name].count == moments.count
                assert torch.allclose(found.inputs[name].mean, moments.mean, atol=1e-5)
    assert type(model) is not Net or not any(m._forward_hooks for m in model.modules())


@pytest.mark.cuda
@pytest.mark.parametrize("verb", VERBS)
def test_a_model_on_the_gpu_gives_the_same_answers(verb, plain):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU of CUDA")
    got = outcome(verb, Net().eval().cuda(), batches())
    assert got == pytest.approx(plain[verb], rel=1e-2, abs=1e-3, nan_ok=True)


@pytest.mark.cuda
@pytest.mark.parametrize("verb", VERBS)
def test_a_default_device_on_the_gpu_does_not_change_the_answer(verb, plain):
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU of CUDA")
    check(outcome(verb, Net().eval(), batches(), lambda: torch.device("cuda")), plain[verb], None)

"""Every task goes the whole way: nothing in a practitioner's model stops the front door."""

from __future__ import annotations

import warnings

import pytest
import torch

import pruneviz as pv
from tasks.networks import LABELS, NAMES, Task, run, task


@pytest.fixture(scope="module", params=NAMES)
def given(request) -> Task:
    return task(request.param)


@pytest.fixture
def allowed():
    """What is left out is said in a warning; that is no failure here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="left out: ")
        warnings.filterwarnings("ignore", message="repair 'lstsq'")
        yield


def numbers(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def close(found, want, atol: float) -> None:
    torch.testing.assert_close(found, want, atol=atol, rtol=1e-4)


@pytest.mark.usefixtures("allowed")
def test_readers(given):
    groups = pv.find_groups(given.model, given.example, approximate=given.approximate)
    assert groups.cuttable
    evidence = pv.collect(given.model, given.batches, loss=given.loss, progress=False)
    frame = pv.find_inactive(evidence, groups=groups, rare=0.5)
    assert set(frame["kind"]) <= {"dead", "constant", "rare"}
    assert len(pv.find_redundant(given.model, groups=groups, evidence=evidence, top=2)) <= 2
    plan = pv.lossless_plan(given.model, given.example, evidence=evidence)
    small = pv.shrink(
        given.model, plan, example_input=given.example, repair="merge", evidence=evidence
    )
    found = pv.certify(given.model, small, given.inputs)
    assert found.kind in ("exact", "observed")


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize(
    "budget", [{"sparsity": 0.3}, {"macs": 0.9}, {"params": 0.9}, {"bytes": 0.9}, {"at_most": 2.0}]
)
def test_prune_in_one_call(given, budget):
    options = {"evaluate": given.evaluate} if "at_most" in budget else {}
    small = pv.prune(given.model, given.example, batches=given.batches, loss=given.loss,
                     approximate=given.approximate, **budget, **options)  # fmt: skip
    assert numbers(small) < numbers(given.model)
    assert given.evaluate(small) < given.evaluate(given.build().eval())
    if "at_most" in budget:
        assert given.evaluate(small) <= 2.0


@pytest.mark.usefixtures("allowed")
def test_the_repaired_model_is_no_worse_than_the_plain_one(given):
    def lost(**options) -> float:
        return given.evaluate(pv.prune(
            given.model, given.example, sparsity=0.4, approximate=given.approximate, **options))  # fmt: skip

    assert (
        lost(batches=given.batches, loss=given.loss) <= lost(criterion="l2", repair="none") + 0.02
    )


@pytest.mark.usefixtures("allowed")
@pytest.mark.parametrize("name", LABELS)
def test_the_smaller_model_is_compared(name):
    given = task(name)
    small = pv.prune(given.model, given.example, sparsity=0.4, batches=given.batches,
                     loss=given.loss, approximate=given.approximate)  # fmt: skip
    found = pv.compare_accuracy(given.model, small, given.batches)
    assert (
        found.accuracy_after
        == pv.accuracy(small, given.batches)
        == pv.Accuracy(given.batches)(small)
    )
    costs = pv.measure(small, given.example), pv.measure(given.model, given.example)
    assert costs[0].macs < costs[1].macs and costs[0].bytes < costs[1].bytes


@pytest.mark.usefixtures("allowed")
def test_an_encoder_needs_no_labels():
    given = task("embedding")
    small = pv.prune(given.model, given.example, sparsity=0.4, batches=given.inputs)
    assert numbers(small) < numbers(given.model)
    with torch.no_grad():
        near = (run(small, given.example) * run(given.model, given.example)).sum(-1)
    assert near.mean() > 0.9


# torch's own, of a GRU that is exported
@pytest.mark.filterwarnings("ignore:The tensor attributes self.gru._flat_weights")
@pytest.mark.usefixtures("allowed")
def test_tables_and_home(given, tmp_path):
    frame = pv.sensitivity(
        given.model, given.example, criterion="l2", sparsities=[0.5], evaluate=given.evaluate,
        groups=pv.find_groups(given.model, given.example, approximate=given.approximate),
        progress=False,
    )  # fmt: skip
    assert len(frame) and frame["metric"].notna().all()
    small = pv.prune(given.model, given.example, sparsity=0.3, batches=given.batches,
                     loss=given.loss, approximate=given.approximate)  # fmt: skip
    tuned = pv.fit(small, given.batches, loss=given.loss, epochs=1, lr=1e-3, progress=False)
    pv.save(tuned, tmp_path / "small.safetensors")
    again = pv.load(tmp_path / "small.safetensors", given.build)
    with torch.no_grad():
        want = run(tuned.eval(), given.example)
        close(run(again.eval(), given.example), want, 1e-6)
        by_name = isinstance(given.example, dict)
        exported = torch.export.export(
            tuned, () if by_name else (given.example,), given.example if by_name else {}
        )
        close(run(exported.module(), given.example), want, 1e-5)


@pytest.mark.usefixtures("allowed")
def test_panel(given):
    panel = pv.panel_whatif(given.model, given.inputs, evaluate=lambda m: -given.evaluate(m),
                            approximate=given.approximate)  # fmt: skip
    panel.controls["sparsity"].value = 0.3
    assert panel.result["metric"] < panel.result["metric_before"] + 1
    assert panel.result["macs"] < panel.result["macs_before"]
    panel.close()

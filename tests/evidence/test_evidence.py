"""Evidence: parts merged or reduced are one pass over everything; files give back what was saved."""

from __future__ import annotations

import dataclasses
import re
import socket
import subprocess
import sys
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_untouched, build, refused, snapshot
from torch import Tensor, nn

import pruneviz as pv
from pruneviz.evidence.evidence import GRADIENTS, Evidence, check_evidence
from pruneviz.evidence.moments import Moments
from pruneviz.model.layers import weight_shapes

FIELDS = ("mean", "comoment", "zeros", "low", "high")
collect = partial(pv.collect, progress=False)


def net() -> nn.Module:
    """Moments of every kind: whole, diagonal, patches, patches of groups."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(),
        nn.Linear(16, 3)).double()  # fmt: skip


X = F.relu(torch.randn(9, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double())
Y = torch.arange(9) % 3


def first(outputs: Tensor, generator: torch.Generator) -> Tensor:
    return outputs.argmax(
        1
    )  # instead of drawing: the parts then see the labels that the whole sees


def seen(at: slice = slice(None), loss=F.cross_entropy, **options) -> Evidence:
    return collect(net(), [(X[at], Y[at])], loss=loss, draw=first, **options)


def assert_equal(a: Evidence, b: Evidence, exact: bool = False) -> None:
    tolerance = {"rtol": 0.0, "atol": 0.0} if exact else {"rtol": 1e-9, "atol": 1e-12}
    assert (a.examples, a.shapes) == (b.examples, b.shapes)
    for part in ("inputs", "patches"):
        mine, theirs = getattr(a, part), getattr(b, part)
        assert list(mine) == list(theirs)
        for name, m in mine.items():
            assert m.count == theirs[name].count
            for f in FIELDS:
                torch.testing.assert_close(getattr(m, f), getattr(theirs[name], f), **tolerance)
    for part in GRADIENTS:
        mine, theirs = getattr(a, part), getattr(b, part)
        assert set(mine) == set(theirs)
        for name, t in mine.items():
            torch.testing.assert_close(t, theirs[name], **tolerance)


def test_what_it_says():
    assert repr(seen()) == "Evidence from 9 examples on 3 layers, with gradients"
    assert repr(seen(loss=None)) == "Evidence from 9 examples on 3 layers"


def test_columns_are_what_the_weights_multiply():
    evidence = seen()
    assert evidence.columns("0") is evidence.patches["0"]
    assert evidence.columns("2").mean.shape == (2, 18)
    assert evidence.columns("4") is evidence.inputs["4"]
    with refused("layer '1' is unknown. Known: 0, 2, 4."):
        evidence.columns("1")


# merge


@pytest.mark.parametrize("cuts", [[4], [1, 2], [3, 4, 8]])
@pytest.mark.parametrize("options", [{}, {"comoment": False}, {"loss": None}])
def test_merged_parts_are_one_pass(cuts, options):
    ends = [0, *cuts, 9]
    parts = [seen(slice(a, b), **options) for a, b in pairwise(ends)]
    whole = seen(**options)
    for some in (parts, parts[::-1], parts[1:] + parts[:1]):
        merged = some[0]
        for part in some[1:]:
            merged = merged.merge(part)
        assert_equal(merged, whole)


def test_merging_changes_neither_part():
    a, b = seen(slice(4)), seen(slice(4, 9))
    a.merge(b)
    assert_equal(a, seen(slice(4)), exact=True)
    assert_equal(b, seen(slice(4, 9)), exact=True)


OTHER = (
    "evidence of different layers cannot be merged: `{}` differs ({}). Collect both from the same model, "
    "with the same arguments."
)


def test_merging_something_else_is_refused():
    evidence = seen()
    linear = collect(
        nn.Sequential(*(nn.Identity() for _ in range(4)), nn.Linear(4, 3)), X[0, 0].float()
    )
    for other, message in (
        (seen(loss=None), OTHER.format("grad_sq", "0.weight, 2.weight, 4.weight")),
        (seen(layers=["0", "4"]), OTHER.format("inputs", "2")),
        (dataclasses.replace(evidence, shapes={}), OTHER.format("inputs", "other shapes")),
        (linear, OTHER.format("inputs", "0, 2")),
    ):
        with refused(message):
            evidence.merge(other)
    with pytest.raises(pv.ArgumentError, match=r"^`other` must be an? Evidence, but None"):
        evidence.merge(None)


# files


@pytest.mark.parametrize("options", [{}, {"comoment": False}, {"loss": None}])
def test_a_file_gives_back_what_was_saved(tmp_path, options):
    evidence = seen(**options)
    evidence.save(tmp_path / "e.safetensors")
    loaded = Evidence.load(tmp_path / "e.safetensors")
    assert_equal(loaded, evidence, exact=True)
    assert_equal(loaded.merge(evidence), evidence.merge(evidence))


def test_gradients_for_drawn_labels_alone_can_be_saved(tmp_path):
    """E[g²] and the Fisher information are the same numbers then."""
    evidence = collect(net(), X, loss=F.cross_entropy)
    evidence.save(tmp_path / "e")
    assert_equal(Evidence.load(tmp_path / "e"), evidence, exact=True)


def test_a_model_that_is_one_layer_can_be_saved(tmp_path):
    evidence = collect(nn.Linear(4, 3), X[0, 0].float())  # its name is the empty text
    evidence.save(str(tmp_path / "e"))
    assert_equal(Evidence.load(str(tmp_path / "e")), evidence, exact=True)


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "text", "other tensors", "no head", "lost tensor"]
)
def test_a_damaged_or_other_file_is_refused(tmp_path, damage):
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = tmp_path / "e"
    seen().save(path)
    data, tensors = path.read_bytes(), load_file(path)
    with safe_open(path, "pt") as file:
        meta = file.metadata()
    if damage in ("cut", "empty", "text"):
        path.write_bytes(
            {"cut": data[: len(data) // 2], "empty": b"", "text": b"hello" * 9}[damage]
        )
    elif damage == "other tensors":
        save_file(tensors, path)
    elif damage == "no head":
        save_file(tensors, path, {"pruneviz": "evidence", "head": "{}"})
    else:
        del tensors["inputs/0/mean"]
        save_file(tensors, path, meta)
    message = (
        rf"^{re.escape(repr(str(path)))} could not be read as evidence \(.+\). "
        rf"Write it with evidence.save\(path\).$"
    )
    with pytest.raises(pv.ArgumentError, match=message):
        Evidence.load(path)


def test_a_model_saved_by_pruneviz_is_no_evidence(tmp_path):
    pv.save(nn.Linear(4, 3), tmp_path / "m")
    with pytest.raises(pv.ArgumentError, match="it holds something else"):
        Evidence.load(tmp_path / "m")


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        Evidence.load(tmp_path / "nowhere")


# another model


def test_evidence_of_the_model_passes():
    evidence = seen()
    assert check_evidence(evidence, weight_shapes(net())) is evidence


@pytest.mark.parametrize(
    ("layer", "there"), [(nn.Linear(16, 5), "has the shape (5, 16)"), (nn.ReLU(), "is not there")]
)
def test_evidence_of_another_model_is_refused(layer, there):
    model = net()
    model[4] = layer
    hint = "Collect it: pv.collect(model, batches)."
    with refused(
        "`evidence` is of another model: it has a weight of shape (3, 16) in layer '4', which "
        f"{there} here. {hint}"
    ):
        check_evidence(seen(), weight_shapes(model))
    with pytest.raises(pv.ArgumentError, match=r"^`evidence` must be an? Evidence, but a dict was"):
        check_evidence({}, weight_shapes(model))


def test_looking_at_shapes_leaves_no_trace():
    model = build("spectral")  # in train mode every look at the weight moves its buffers
    before = snapshot(model)
    assert weight_shapes(model) == {"1": (8, 36), "3": (3, 8)}
    assert_untouched(model, before)


# a table


def test_one_row_for_each_input():
    evidence = seen()
    frame = evidence.to_frame()
    assert list(frame.columns) == ["layer", "input", "mean", "std", "zeros", "low", "high"]
    assert frame["layer"].tolist() == ["0"] * 2 + ["2"] * 4 + ["4"] * 16
    x = X.transpose(0, 1).flatten(1).numpy()
    read = frame[frame["layer"] == "0"]
    assert read["input"].tolist() == [0, 1]
    np.testing.assert_allclose(read["mean"], x.mean(1))
    np.testing.assert_allclose(read["std"], x.std(1))
    np.testing.assert_allclose(read["zeros"], (x == 0).mean(1))
    assert read["low"].tolist() == [0, 0]
    np.testing.assert_array_equal(read["high"], x.max(1))


# units


def test_the_moments_of_units_are_those_of_what_reads_them():
    """After flatten a channel is read in 4 places."""
    model = net()
    groups = pv.find_groups(model, X)
    evidence = seen()
    layer, m = evidence.of_units(groups["2"])
    assert (layer, m.mean.shape, m.full) == ("4", (4, 4), False)
    with torch.no_grad():
        h = model[:3](X).flatten(2)  # (examples, channels, positions)
    torch.testing.assert_close(m.mean, h.mean(0))
    torch.testing.assert_close(m.variance, h.var(0, correction=0))
    with refused(
        "`evidence` has no layer that reads group '2' (4). Collect it from all layers: "
        "pv.collect(model, batches)."
    ):
        seen(layers=["0"]).of_units(groups["2"])


# many processes


def test_reduce_needs_processes():
    with refused(
        "`reduce` joins the evidence of several processes, but torch.distributed is not initialised. "
        "Call torch.distributed.init_process_group first, or use merge."
    ):
        seen().reduce()


WORKER = """
import os, sys
sys.path.insert(0, {tests!r})
import torch
import torch.distributed as dist
from evidence.test_evidence import Evidence, pv, seen

torch.set_num_threads(1)
rank, folder = int(sys.argv[1]), sys.argv[2]
store = dist.TCPStore("127.0.0.1", {port}, 2, rank == 0)
dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
mine = seen((slice(4), slice(4, 9))[rank])
if rank:  # evidence from a file may be in another order
    mine.save(folder + "/part")
    mine = Evidence.load(folder + "/part")
mine.reduce().save(folder + f"/whole{{rank}}")
try:
    seen(layers=["4"] if rank else None).reduce()
except pv.ArgumentError as e:
    open(folder + f"/error{{rank}}", "w").write(str(e))
dist.barrier()
dist.destroy_process_group()
"""


def test_two_processes_share_one_pass(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    code = WORKER.format(tests=str(Path(__file__).parents[1]), port=port)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(tmp_path)],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in processes:
            said, _ = process.communicate(timeout=120)
            assert process.returncode == 0, said
    finally:
        for process in processes:
            process.kill()
    for rank in range(2):
        assert_equal(Evidence.load(tmp_path / f"whole{rank}"), seen())
        assert (tmp_path / f"error{rank}").read_text() == (
            "evidence of different layers cannot be reduced: the processes' evidence differs. Collect all "
            "from the same model, with the same arguments."
        )


def test_by_hand():
    evidence = Evidence({"fc": Moments.of(torch.eye(2))}, examples=2)
    assert repr(evidence) == "Evidence from 2 examples on 1 layer"
    both = evidence.merge(evidence)
    assert both.examples == both.inputs["fc"].count == 4

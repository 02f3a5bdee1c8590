"""A model on a graphics card is looked at, cut, repaired and measured there; batches may be anywhere."""

from __future__ import annotations

import pytest
import torch
from helpers import snapshot

import pruneviz as pv
from pruneviz import lessons

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
NAMES = ["lenet-300-100", "batchnorm-cnn", "image-transformer"]
HERE, THERE = torch.device("cpu"), torch.device("cuda")


def batches(device, n=3):
    data = lessons.fashion_mnist().validation
    return [(x.to(device), y.to(device)) for x, y in list(data.batches(200))[:n]]


def net(name):
    return lessons.load(name).to(THERE)


def devices(model):
    return {t.device.type for t in (*model.parameters(), *model.buffers())}


@pytest.mark.parametrize("device", [HERE, THERE])
@pytest.mark.parametrize("name", NAMES)
def test_readers_find_what_they_find_on_the_processor(name, device):
    model, x = net(name), batches(device)[0][0][:8]
    before = snapshot(model)
    groups = pv.find_groups(model, x)
    at_home = pv.find_groups(lessons.load(name), x.cpu())
    assert [(g.name, g.size, g.frozen) for g in groups] == [
        (g.name, g.size, g.frozen) for g in at_home
    ]
    evidence = pv.collect(model, [b for b, _ in batches(device)], progress=False)
    home = pv.collect(lessons.load(name), [b for b, _ in batches(HERE)], progress=False)
    for layer, moments in evidence.inputs.items():
        assert torch.allclose(moments.mean.cpu(), home.inputs[layer].mean, atol=1e-3, rtol=1e-3)
    assert len(pv.find_sleepers(evidence, groups=groups))
    assert len(pv.find_twins(model, groups=groups, evidence=evidence, top=5))
    assert pv.measure(model, x).macs == pv.measure(lessons.load(name), x.cpu()).macs
    assert pv.accuracy(model, batches(device)) == pytest.approx(
        pv.accuracy(lessons.load(name), batches(HERE)), abs=0.005
    )
    assert snapshot(model) == before


@pytest.mark.parametrize("repair", ["none", "fold", "merge", "lstsq"])
@pytest.mark.parametrize("name", NAMES)
def test_writers_stay_on_the_device(name, repair):
    model, data = net(name), batches(HERE)
    x, learn = data[0][0][:8], [b for b, _ in data]
    for criterion in ("l2", "taylor"):
        groups = pv.find_groups(model, x)
        evidence = pv.collect(model, data, loss=torch.nn.functional.cross_entropy, progress=False)
        scores = pv.score(model, criterion, groups=groups, evidence=evidence)
        plan = pv.select(scores, sparsity=0.3)
        small = pv.shrink(model, plan, example_input=x, repair=repair, batches=learn)
        assert devices(small) == devices(pv.mask(model, plan)) == {"cuda"}
        assert pv.accuracy(small, data) > 0.2
    if repair in ("none", "lstsq"):
        scores = pv.score(model, "magnitude")
        plan = pv.select(scores, sparsity=0.5)
        sparse = pv.mask(model, plan, repair=repair, evidence=evidence)
        assert devices(sparse) == {"cuda"}
        assert pv.accuracy(pv.bake(sparse), data) > 0.5


def test_the_second_order_choice_and_the_front_door():
    data = batches(HERE)
    small = pv.prune(
        net("batchnorm-cnn"), data[0][0][:8], batches=[x for x, _ in data], macs=0.5,
        criterion="obs", repair="lstsq",
    )  # fmt: skip
    assert devices(small) == {"cuda"}
    assert pv.accuracy(small, data) > 0.8
    timing = pv.compare_latency(net("batchnorm-cnn"), small, data[0][0], seconds=0.3)
    assert timing.latency_speedup > 0


@pytest.mark.parametrize("device", [HERE, THERE])
def test_panels(device):
    data, model = batches(device), net("batchnorm-cnn")
    x, y = data[0]
    before = snapshot(model)
    panels = {
        "weights": pv.panel_weights(model, batches=data),
        "strip": pv.panel_strip(model, x[:5], y[:5], batches=data),
        "neurons": pv.panel_neurons(model, x[:8], batches=data),
        "sleepers": pv.panel_sleepers(model, data, repair="fold"),
        "twins": pv.panel_twins(model, x[:8], batches=data),
    }
    for name, panel in panels.items():
        slider = panel.controls["sparsity" if "sparsity" in panel.controls else
                                "rare" if name == "sleepers" else "threshold"]  # fmt: skip
        slider.value = 0.3
        assert panel.result["plan"] is not None
        assert panel.figure() is not None
        panel.close()
    panel = pv.panel_whatif(model, data, sparsity=0.3)
    for control, value in (
        ("repair", "lstsq"), ("criterion", "unit obs"), ("criterion", "unit taylor"),
        ("criterion", "weight wanda"), ("repair", "none"), ("protect", ("conv1",)),
    ):  # fmt: skip
        panel.controls[control].value = value
        assert devices(panel.result["model"]) == {"cuda"}
        assert panel.result["timing"].latency_speedup > 0
        assert panel.result["metric"] > 0.2
    panel.close()
    assert snapshot(model) == before


def test_saving_and_loading(tmp_path):
    data, model = batches(HERE), net("lenet-300-100")
    small = pv.prune(model, data[0][0][:8], sparsity=0.5)
    pv.save(small, tmp_path / "small.safetensors")
    back = pv.load(tmp_path / "small.safetensors", lessons.load("lenet-300-100"))
    assert pv.accuracy(back, data) == pytest.approx(pv.accuracy(small, data), abs=0.005)

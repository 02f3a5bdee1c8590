"""What the browser computes is what Python computes: both read web/cases.json."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import pruneviz as pv
from pruneviz.study import weight_cuts

FOLDER = Path(__file__).parent / "web"
NODE = shutil.which("node", path=f"{os.environ['PATH']}:{Path(sys.executable).parent}")
COARSE = (0, 2, 500, 502, 998, 1000)


def model():
    """Two layers of 48 weights together, with ties, zeros and a tiny layer."""
    net = nn.Sequential(nn.Linear(9, 5), nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        for offset, layer in ((0, net[0]), (5, net[2])):
            n = torch.arange(layer.weight.numel()) + offset
            layer.weight.copy_(((n * 37 % 23 - 11) / 16).reshape(layer.weight.shape))
    return net


def case(name, steps):
    """Move a panel from step to step; note the state and the result after each move."""
    panel = pv.panel_weights(model(), bins=8)
    state = panel.state()
    noted = {
        "name": name,
        "data": json.loads(json.dumps(panel.view.data)),
        "table": base64.b64encode(panel.view.table).decode(),
        "start": state,
        "moves": [],
    }
    for control, value in steps(panel.controls):
        if panel.controls[control].value == value:  # that is no move, in neither language
            continue
        panel.controls[control].value = value
        noted["moves"].append(
            {
                "name": control,
                "value": panel.controls[control].value,
                "state": panel.state(),
                "result": panel.view.shown["result"],
            }
        )
    panel.close()
    return noted


def all_over(controls):
    for i in range(40):
        name = ("sparsity", "threshold")[i % 2]
        yield name, controls[name].at(i * 389 % (controls[name].last + 1))
        if i % 10 == 3:
            yield "layer", ("0", "2", "all layers")[i % 3]
        if i % 10 == 7:
            yield "log", i % 20 == 7
    for name in ("sparsity", "threshold"):
        yield from ((name, controls[name].at(i)) for i in (controls[name].last, 0, 1))


def coarse(controls):
    for name in ("sparsity", "threshold"):
        for i in COARSE:
            yield name, controls[name].at(min(i, controls[name].last))


def cases(monkeypatch):
    found = [case("ties, zeros, a tiny layer", all_over)]
    monkeypatch.setattr(weight_cuts, "MANY_LAYERS", 1)  # every second step
    return [*found, case("a coarse table", coarse)]


def test_python_still_says_what_the_cases_say(monkeypatch):
    """`UPDATE_CASES=1 pytest tests/panels/test_weights_cases.py` writes them anew."""
    now = json.loads(json.dumps(cases(monkeypatch)))
    file = FOLDER / "cases.json"
    if os.environ.get("UPDATE_CASES"):
        file.write_text(json.dumps(now, separators=(",", ":")) + "\n", encoding="utf-8")
    assert json.loads(file.read_text(encoding="utf-8")) == now


@pytest.mark.skipif(NODE is None and not os.environ.get("CI"), reason="needs node")
def test_node_agrees():
    done = subprocess.run(
        [NODE, "--test", *map(str, sorted(FOLDER.glob("*.test.js")))],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr

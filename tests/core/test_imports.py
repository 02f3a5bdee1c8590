"""Ctrl-C during a late import leaves pandas, torch and us importable in the same process."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import pruneviz as pv
from pruneviz.core.imports import imported, whole

PACKAGE = Path(pv.__file__).parent
LATE = {"pandas", "scipy", "joblib", "seaborn", "torch", "numpy"}

# In a process that has torch but neither pandas nor anything of ours, each case forks a child, in
# which a finder stops one import: the n-th module of a package that is searched.
CASES = r"""
import os, signal, sys
import pruneviz as pv

if "torch" not in sys.argv[1]:
    import torch, numpy, scipy

class Stop:
    def __init__(self, top, at, how):
        self.top, self.at, self.how = top, at, how
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == self.top:
            self.at -= 1
            if self.at == 0 and self.how == "signal":
                signal.raise_signal(signal.SIGINT)
            elif self.at == 0:
                raise KeyboardInterrupt

def use():
    model = sys.modules["torch"].nn.Linear(4, 3)
    frame = pv.encodings(model)
    assert frame.set_index("tensor").loc["whole", "weights"] == 12
    import pandas as pd
    two = pd.DataFrame({"a": [1, 2, 2], "b": ["x", "y", "y"]})
    assert two.groupby("b")["a"].sum()["y"] == 4 and "y" in two.to_csv() and "x" in two.to_string()
    assert pd.concat([two, two])["a"].astype("Int64").sum() == 10 and pd.Timestamp("2020-01-01").year
    assert len(pv.CRITERIA) == 11
    x = sys.modules["torch"].zeros(1, 4)
    net = sys.modules["torch"].nn.Sequential(model, sys.modules["torch"].nn.Linear(3, 2))
    assert pv.prune(net, x, sparsity=0.3)(x).shape == (1, 2)

def case(top, at, how):
    sys.meta_path.insert(0, Stop(top, at, how))
    try:
        pv.encodings, use()
    except KeyboardInterrupt:
        pass
    else:
        raise AssertionError("nothing was interrupted")
    use()

for text in sys.argv[1:]:
    top, at, how = text.split(":")
    child = os.fork()
    if not child:
        try:
            case(top, int(at), how)
        except BaseException as e:
            print(text, type(e).__name__, e, flush=True)
            os._exit(1)
        os._exit(0)
    os.waitpid(child, 0)
print("ended")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks children of a warm process")
@pytest.mark.parametrize(
    "cases",
    [
        ["pandas:30:raise", "pandas:200:signal", "pruneviz:60:raise"],
        ["torch:300:signal"],
    ],
    ids=["pandas and pruneviz", "torch"],
)  # fmt: skip
def test_an_interrupted_import_can_be_done_again(cases):
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CASES, *cases],
        capture_output=True,
        text=True,
        env=env,
    )
    assert (done.stdout, done.returncode) == ("ended\n", 0), done.stderr[-2000:]


def test_ctrl_c_counts_after_the_import():
    steps = []
    with pytest.raises(KeyboardInterrupt), whole():
        signal.raise_signal(signal.SIGINT)
        with whole():
            signal.raise_signal(signal.SIGINT)
        steps.append("went on")
    assert steps == ["went on"]
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_other_threads_import_as_ever():
    found = []
    thread = threading.Thread(target=lambda: found.append(imported("pandas")))
    with whole():
        thread.start()
        thread.join()
    assert found == [sys.modules["pandas"]]


def test_what_is_missing_is_said_as_by_import():
    with pytest.raises(ModuleNotFoundError, match="No module named 'nothing_like_this'"):
        imported("nothing_like_this")


def late_imports(path: Path) -> list[str]:
    """Return the imports inside functions of packages whose half cannot be completed."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = []
    for function in ast.walk(tree):
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
            for node in ast.walk(function):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                found += [n for n in names if n.partition(".")[0] in LATE]
    return found


def test_every_late_import_is_whole():
    late = {str(p.relative_to(PACKAGE)): late_imports(p) for p in PACKAGE.rglob("*.py")}
    # torch is there by then: these are small parts of it
    assert {p: names for p, names in late.items() if names} == {
        "evidence/evidence.py": ["torch.distributed"],
        "metrics/latency.py": ["torch.utils.benchmark"],
    }

"""The user gets the quick part at once, the rest when the control is idle; code gets all."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import ipywidgets as widgets
import numpy as np
import pytest
import torch
from helpers import batches, inputs, labels, mlp, panels, snapshot
from hypothesis import given
from hypothesis import strategies as st

import pruneviz as pv
from pruneviz.panels.kit import worker as background
from pruneviz.panels.kit.history import History
from pruneviz.panels.kit.panel import Panel
from pruneviz.selection.ranking import Ranking


class Slow(Panel):
    """Doubles quickly, squares slowly: only when the gate is open."""

    def __init__(self, gate=None):
        self.gate = gate or threading.Event()
        self.worked = []
        super().__init__()
        row, slider = self.slider("n", 1, 0, 10, 1, digits=0)
        if gate is None:
            self.gate.set()
        self.start({"n": row}, {"n": slider})

    def answer(self, moved):
        return {"double": 2 * self.controls["n"].rounded, "square": None}

    def later(self, result):
        n = self.controls["n"].rounded

        def work(token):
            self.worked.append(n)
            if n == 7:
                raise ValueError("seven <b>")
            for _ in token.through(range(400)):
                if self.gate.wait(0.005):
                    break
            return {"square": n * n}

        return work

    def show(self, result):
        return "<svg></svg>", f"{result['double']:.0f}, {result['square']}".removesuffix(".0")

    def draw(self, result):
        from pruneviz.plots.style import figure

        with figure(1, 1) as (fig, _):
            return fig

    def to_python(self):
        return f"n = {self.controls['n'].rounded}"


@pytest.fixture
def panel():
    gate = threading.Event()
    gate.set()
    panel = Slow(gate)
    gate.clear()
    yield panel
    gate.set()
    panel.close()


def user_moves(panel, value, name="n"):
    panels.user_moves(panel, value, name)


def html(panel):
    return next(w for w in panel.children if isinstance(w, widgets.HTML)).value


def eventually(check, seconds=10):
    end = time.monotonic() + seconds
    while not check() and time.monotonic() < end:
        time.sleep(0.01)
    assert check()


def test_code_waits_for_everything():
    panel = Slow()
    panel.controls["n"].value = 3
    assert panel._result == {"double": 6, "square": 9}
    assert "measuring" not in html(panel)
    panel.close()


def test_the_user_gets_the_quick_part_at_once_and_then_the_rest(panel):
    user_moves(panel, 3)
    assert panel._result == {"double": 6, "square": None}
    assert "6, None <i>measuring…</i>" in html(panel)
    panel.gate.set()
    eventually(lambda: panel._result == {"double": 6, "square": 9})
    assert "<p>6, 9</p>" in html(panel)


def test_the_result_waits_for_what_is_measured(panel):
    user_moves(panel, 4)
    threading.Timer(0.3, panel.gate.set).start()
    assert panel.result == {"double": 8, "square": 16}
    assert panel.sentence == "8, 16"


def test_only_the_last_of_many_moves_is_measured(panel, monkeypatch):
    monkeypatch.setattr(background, "CONTROL_IDLE", 60)
    before = len(panel.worked)
    for n in (2, 3, 4, 5, 6):
        user_moves(panel, n)
    panel.gate.set()
    assert panel.result["square"] == 36
    assert panel.worked[before:] == [6]


def test_running_work_is_cancelled_when_the_user_moves_again(panel):
    user_moves(panel, 2)
    eventually(lambda: panel.worked[-1] == 2)  # it runs now, and waits at the gate
    user_moves(panel, 5)
    panel.gate.set()
    assert panel.result["square"] == 25
    assert panel.worked[-2:] == [2, 5]


def test_an_error_while_measuring_is_shown_and_raised(panel):
    panel.gate.set()
    user_moves(panel, 7)
    with pytest.raises(ValueError, match="seven"):
        panel.result  # noqa: B018
    alert = [w for w in panel.children if isinstance(w, widgets.HTML)][1].value
    assert 'role="alert"' in alert
    assert "seven &lt;b&gt;" in alert
    user_moves(panel, 2)
    assert panel.result["square"] == 4
    assert [w for w in panel.children if isinstance(w, widgets.HTML)][1].value == ""
    with pytest.raises(ValueError, match="seven"):
        panel.controls["n"].value = 7


def test_the_page_is_told_of_the_picture_first(monkeypatch):
    panel = pv.panel_strip(mlp(), inputs(4), labels(4), batches=batches())
    sent = []
    send = widgets.Widget._send
    monkeypatch.setattr(
        widgets.Widget, "_send", lambda w, m, **how: (sent.append((w, m)), send(w, m, **how))
    )
    user_moves(panel, 0.5, "sparsity")
    told = [(w, set(m["state"])) for w, m in sent if m["method"] == "update"]
    assert told[0] == (panel._view, {"value"})
    # the page knows where its own slider stands
    assert [s for w, s in told if w is panel.controls["sparsity"]] == []
    fields = [w for w, _ in told if isinstance(w, widgets.BoundedFloatText)]
    assert fields == [panel.controls["sparsity"].field]
    panel.close()


def test_cancelled_work_and_the_next_work_do_not_run_at_the_same_time(panel):
    user_moves(panel, 2)
    eventually(lambda: panel.worked[-1] == 2)  # it runs in the thread, and waits at the gate
    panel.gate.clear()
    running = []
    work = panel.later
    panel.later = lambda result: (
        lambda token: running.append(background._at_work._is_owned()) or work(result)(token)
    )
    threading.Timer(0.2, panel.gate.set).start()
    panel.controls["n"].value = 5  # code waits until the thread is done
    assert panel.result["square"] == 25
    assert running == [True]


def test_a_closed_panel_measures_no_more(panel):
    user_moves(panel, 9)
    panel.close()
    panel.gate.set()
    time.sleep(2 * background.CONTROL_IDLE)
    assert panel._result["square"] is None


def test_the_thread_ends_when_there_is_nothing_to_do(panel, monkeypatch):
    monkeypatch.setattr(background, "THREAD_IDLE", 0.05)
    panel.gate.set()
    user_moves(panel, 3)
    assert panel.result["square"] == 9
    eventually(lambda: background._thread is None)
    user_moves(panel, 4)
    eventually(lambda: panel._result["square"] == 16)


def test_without_threads_the_user_waits(panel, monkeypatch):
    def never(self):
        raise RuntimeError("can't start new thread")

    eventually(lambda: not background._jobs)
    monkeypatch.setattr(background, "_thread", None)
    monkeypatch.setattr(threading.Thread, "start", never)
    panel.gate.set()
    user_moves(panel, 3)
    assert panel._result["square"] == 9


def test_undo_and_redo_go_through_the_moves():
    panel = Slow()
    assert panel.steps() == (False, False)
    for n in (3, 5):
        panel.controls["n"].value = n
    panel.undo()
    assert panel.result["square"] == 9
    assert panel.steps() == (True, True)
    panel.undo()
    panel.undo()  # there is nothing more
    assert panel.result["square"] == 1
    panel.redo()
    assert panel.controls["n"].value == 3
    panel.controls["n"].value = 8  # what was undone is forgotten
    panel.redo()
    assert panel.result["square"] == 64
    assert panel.steps() == (True, False)
    panel.close()


def test_a_drag_is_one_move(monkeypatch):
    monkeypatch.setattr("pruneviz.panels.kit.history.SAME_MOVE", 60)
    panel = Slow()
    for n in (2, 3, 4, 5):
        user_moves(panel, n)
    panel.undo()
    assert panel.controls["n"].value == 1
    panel.close()


def test_moves_with_a_pause_between_them_are_several(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("pruneviz.panels.kit.history.time.monotonic", lambda: now[0])
    history = History({"n": 0})
    for n in (1, 2, 3):
        now[0] += 1
        history.add({"n": n}, "n", by_user=True)
    assert history.step(-1) == {"n": 2}


def test_a_panel_remembers_not_more_than_two_hundred_moves():
    history = History({"n": -1})
    for n in range(500):
        history.add({"n": n}, "n")
    steps = 0
    while history.step(-1):
        steps += 1
    assert steps == 199


def test_plans_are_kept_by_name():
    panel = Slow()
    panel.controls["n"].value = 6
    panel.save("six")
    panel.controls["n"].value = 2
    panel.load("six")
    assert panel.result["square"] == 36
    panel.undo()
    assert panel.result["square"] == 4
    panel.redo()
    assert panel.result["square"] == 36
    with pytest.raises(pv.ArgumentError, match="plan 'sicks' is unknown"):
        panel.load("sicks")
    with pytest.raises(pv.ArgumentError, match="`name` must be"):
        panel.save(6)
    panel.close()


def test_the_buttons_do_it():
    panel = Slow()
    bar = panel._toolbar
    assert bar.undo.disabled and bar.redo.disabled
    panel.controls["n"].value = 6
    assert not bar.undo.disabled
    bar.name.value = "<b>six</b>"
    bar.save.click()
    assert panel.saved == {"<b>six</b>": {"n": 6}}
    bar.undo.click()
    assert panel.result["square"] == 1
    assert not bar.redo.disabled
    bar.plans.value = "<b>six</b>"
    assert panel.result["square"] == 36
    assert (
        bar.plans.value == "<b>six</b>"
    )  # until the user moves a control; then it can be chosen again
    panel.controls["n"].value = 5
    assert bar.plans.value == ""
    bar.plans.value = "<b>six</b>"
    assert panel.result["square"] == 36
    bar.save.click()
    assert list(panel.saved) == ["<b>six</b>", "plan 2"]
    panel.controls["n"].value = 2
    bar.name.value = "saved"  # a name like any other
    bar.save.click()
    panel.controls["n"].value = 3
    bar.plans.value = "saved"
    assert panel.result["square"] == 4
    with pytest.raises(pv.ArgumentError, match="`name` is empty"):
        panel.save(" ")
    panel.controls["n"].value = 6
    assert "n = 6" not in bar.children[1].value
    bar.code.value = True
    assert "n = 6" in bar.children[1].value
    panel.controls["n"].value = 3
    assert "n = 3" in bar.children[1].value
    panel.close()


def test_a_plan_stays_chosen_though_the_measuring_ends_in_this_moment(panel, monkeypatch):
    bar, show, sent = panel._toolbar, panel.show, []
    panel.gate.set()
    panel.controls["n"].value = 6
    panel.save("six")
    panel.gate.clear()
    user_moves(panel, 3)
    ending = threading.Event()

    def late(result):  # shows the result for 3 after the user has chosen the other plan
        if result["square"] == 9:
            ending.set()
            eventually(lambda: bar.plans.value == "six")
        return show(result)

    monkeypatch.setattr(panel, "show", late)
    monkeypatch.setattr(bar.plans, "_send", lambda msg, buffers=None: sent.append(msg))
    panel.gate.set()
    assert ending.wait(10)
    bar.plans.set_state({"index": 1})
    assert bar.plans.value == "six"
    assert panel.result == {"double": 12, "square": 36}
    told = [m["state"]["index"] for m in sent if "index" in m.get("state", {})]
    assert set(told) <= {1}  # the browser never hears of another plan than the chosen one


def test_undo_restores_which_of_two_linked_sliders_decided():
    panel = pv.panel_weights(mlp())
    panel.controls["sparsity"].value = 0.9
    exact = panel.result
    panel.controls["threshold"].value = 0.0
    panel.undo()
    assert panel.result["sparsity"] == exact["sparsity"]
    assert panel.result["plan"].kept == exact["plan"].kept
    assert "sparsity=0.9" in panel.to_python()
    panel.close()


@pytest.mark.parametrize("move", [("sparsity", 0.7), ("threshold", 0.05)])
def test_the_code_does_what_the_panel_does(move):
    model = mlp()
    for panel in (
        pv.panel_weights(model, batches=batches()),
        pv.panel_strip(model, inputs(4), labels(4), batches=batches(), criterion="lamp"),
    ):
        name, value = move
        if name in panel.controls:
            user_moves(panel, value, name)
            space = {"model": model, "batches": batches(), "x": inputs(4)}
            exec(panel.to_python(), space)
            for tensor, keep in panel.result["plan"].keep.items():
                assert torch.equal(space["plan"].keep[tensor], keep)
            assert pv.accuracy(space["pruned"], batches()) == panel.result["accuracy"]
        panel.close()


def test_the_quick_part_of_a_histogram_is_the_exact_one(monkeypatch):
    monkeypatch.setattr(background, "CONTROL_IDLE", 60)
    panel = pv.panel_weights(mlp())
    for name, value in (("sparsity", 0.3), ("threshold", 0.07), ("sparsity", 0.95)):
        user_moves(panel, value, name)
        quick, text = panel._result, panel._sentence
        assert quick["plan"] is None
        exact = panel.result
        for key in ("threshold", "sparsity", "layers"):
            assert quick[key] == exact[key]
        assert panel.sentence == text
        layers = exact["plan"].to_frame()
        assert list(exact["layers"].values()) == pytest.approx(1 - layers["sparsity"])
    panel.close()


def test_a_panel_measures_a_model_of_its_own():
    model = mlp()
    before = snapshot(model)
    panel = pv.panel_weights(model, batches=batches())
    user_moves(panel, 0.5, "sparsity")
    first = panel.result["accuracy"]
    assert snapshot(model).keys() == before.keys()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    user_moves(panel, 0.0, "sparsity")
    user_moves(panel, 0.5, "sparsity")
    assert panel.result["accuracy"] == first
    panel.close()


def test_the_thread_leaves_the_random_numbers_alone(panel):
    running, model = threading.Event(), mlp()

    def work(token):
        with pv.evaluating(model):  # which puts the random state back when it is done
            running.set()
            panel.gate.wait(10)
        return {"square": 0}

    panel.later = lambda result: work
    torch.manual_seed(0)
    want = torch.rand(4)
    torch.manual_seed(0)
    user_moves(panel, 3)
    assert running.wait(10)
    got = [torch.rand(2)]
    panel.gate.set()
    assert panel.result["square"] == 0
    assert torch.equal(torch.cat([*got, torch.rand(2)]), want)


numbers = st.lists(
    st.lists(st.floats(0, 4, width=32) | st.sampled_from([0.0, 1.0]), min_size=1, max_size=30),
    min_size=1,
    max_size=4,
)


@given(numbers, st.floats(0, 0.999))
def test_a_cut_is_where_a_sort_puts_it(lists, sparsity):
    arrays = {str(i): np.array(v, np.float32) for i, v in enumerate(lists)}
    ranked = Ranking(arrays)
    values = np.sort(np.concatenate(list(arrays.values())))
    k = min(round(sparsity * values.size), values.size - 1)
    threshold, gone = ranked.cut(sparsity)
    assert threshold == values[k]
    assert sum(gone.values()) == k
    scores = pv.Scores({n: torch.from_numpy(a) for n, a in arrays.items()}, "magnitude")
    plan = pv.select(scores, sparsity=sparsity, scope="global", min_keep=0)
    if round(sparsity * values.size) < values.size:
        assert gone == {n: int((~keep).sum()) for n, keep in plan.keep.items()}
    assert ranked.below(threshold) == {n: int((a < threshold).sum()) for n, a in arrays.items()}


def test_freed_memory_is_released_where_the_c_library_can(monkeypatch):
    given = threading.Event()

    class Library:
        malloc_trim = staticmethod(lambda pad: given.set())

    monkeypatch.setattr(background, "_libc", Library())
    background.run_later(background.Job(lambda token: 1, lambda job, result, error: None))
    assert given.wait(10)
    monkeypatch.setattr(background, "_libc", None)  # elsewhere
    background.release_memory()


ENDS = """
import torch, pruneviz as pv
class Slow(torch.nn.Linear):
    def forward(self, x):
        for _ in range(20):
            x = x @ torch.eye(6)
        return super().forward(x)
model = torch.nn.Sequential(torch.nn.Flatten(), Slow(6, 3))
batches = [(torch.rand(100, 6), torch.arange(100) % 3) for _ in range(3000)]
panel = pv.panel_strip(model, torch.rand(2, 1, 2, 3), torch.tensor([0, 1]), batches=batches[:1])
panel.batches = batches
panel.controls["sparsity"].set_state({"value": 0.5})
import time; time.sleep(0.4)  # the thread is at work
assert panel._result["accuracy"] is None
print("over")
"""


def test_python_ends_well_while_something_is_measured():
    done = subprocess.run([sys.executable, "-c", ENDS], capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")

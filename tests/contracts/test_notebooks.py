"""What a notebook must be (no kernel needed), its exercises, and the tools that keep it."""

import json
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
import torch
from scipy.stats import binomtest

import pruneviz as pv
from pruneviz.lessons import notebooks
from pruneviz.lessons.exercises import exercise as exercises
from pruneviz.lessons.guesses import guess

ROOT = Path(__file__).parents[2]
PATHS = notebooks.notebooks(ROOT / "notebooks")
IDS = [p.stem for p in PATHS]


@pytest.fixture(params=PATHS, ids=IDS)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [c for c in notebook.cells if c.cell_type == "code"]


def test_it_is_valid_and_small(path, notebook):
    nbformat.validate(notebook)
    assert path.stat().st_size < 1_000_000
    assert notebook.metadata == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    ids = [c.id for c in notebook.cells]
    assert len(ids) == len(set(ids))


def test_it_opens_with_a_question_and_the_minutes(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown"
    assert re.match(r"# \d\d · .*\?\n\n\*\d+ minutes", first.source)


def test_cells_are_short(notebook):
    assert len(code(notebook)) <= 40
    for cell in code(notebook):
        imports = [n for n in cell.source.splitlines() if re.match(r"(import|from) ", n)]
        lines = [n for n in cell.source.splitlines() if n.strip()]
        assert len(lines) - len(imports) <= 8, cell.source
        assert not cell.source.rstrip().endswith(";")


def test_it_has_been_run_in_order_without_errors(notebook):
    counts = [c.execution_count for c in code(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [o for c in code(notebook) for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert not [o for o in outputs if o.output_type == "stream" and o.name == "stderr"]


def test_every_picture_has_a_sentence(notebook):
    pictures = [o for c in code(notebook) for o in c.outputs if "image/png" in o.get("data", {})]
    assert pictures
    for output in pictures:
        alt = output.metadata["image/png"]["alt"]
        assert len(alt) > 30 and alt.endswith(".")
        assert output.data["text/plain"] == alt


def test_every_claim_is_asserted_somewhere(notebook):
    assert sum("assert " in c.source for c in code(notebook)) >= 5


def test_links_lead_somewhere(path, notebook):
    for cell in notebook.cells:
        for target in re.findall(
            r"\]\(([^)]+)\)", cell.source if cell.cell_type == "markdown" else ""
        ):
            assert (path.parent / target).is_file(), target


def tasks(notebook):
    named = {}
    for i, cell in enumerate(notebook.cells):
        for tag in cell.metadata.get("tags", []):
            if tag.startswith("exercise:"):
                named[tag.removeprefix("exercise:")] = i
    return named


def test_the_solutions_solve_the_exercises(path, notebook):
    exercises._find("00-cliff")  # fills the table
    named = tasks(notebook)
    assert named
    for name, i in named.items():
        notebook.cells[i].source = exercises.EXERCISES[name].solution
    notebooks.run(notebook, path.parent)
    for name in named:
        (cell,) = [
            c for c in code(notebook) if c.source == f'lessons.check("{name}", ' + name_of(c)
        ]
        said = "".join(o.text for o in cell.outputs if o.get("name") == "stdout")  # no progress bar
        assert re.fullmatch(r"✓ Right\.( .+\.)?\n", said), (name, said)


def name_of(cell):
    return cell.source.rpartition(", ")[2]


def test_every_exercise_stands_in_a_notebook():
    exercises._find("00-cliff")
    standing = {n for p in PATHS for n in tasks(nbformat.read(p, as_version=4))}
    assert standing == set(exercises.EXERCISES)


def merge(weight, bias, after, kept, removed, scale):
    stay = torch.arange(6) != removed
    return weight[stay], bias[stay], take_over(after, 0, kept, removed, scale, 0)[0]


def take_over(after, bias, kept, removed, scale, offset):
    stay = torch.arange(after.shape[1]) != removed
    after[:, kept] += scale * after[:, removed]
    return after[:, stay], bias + offset * after[:, removed]


# no row of the recorded run, but as good as the best for the phone
POINT = {"macs": 54695.8, "bytes": 219_383.2, "metric": 0.87622}
WRONG = {
    "00-cliff": [0.5, 0.95, 89, "a", True, [0.7]],
    "01-bytes": [
        lambda w, i: w.numel() * 4,
        lambda w, i: (w != 0).sum().item() * (4 + i),
        lambda w, i: (w != 0).sum().item() * (4 + i) + i * len(w),
        lambda w, i: (w > 0).sum().item() * (4 + i) + i * (len(w) + 1),
        lambda w, i: 7,
        lambda w, i: "many",
    ],
    "01-crossover": [
        0.5,
        {1: 0.5},
        {1: 0.5, 64: 0.5},
        {1: 0.55, 64: 0.55},
        {1: 0.99, 64: 0.99},
        {1: 0.9, 8: 0.7, 64: 0.7},
    ],
    "02-magnitude": [lambda w: w, lambda w: -w.abs(), lambda w: w.abs().sum(), lambda w: w.nope],
    "02-exactly": [
        lambda s, n: s >= s.flatten().sort(descending=True).values[max(n - 1, 0)],
        lambda s, n: s > 2,
        lambda s, n: s,
        lambda s, n: (s * 0 + 1).cumsum(0).bool(),
    ],
    "03-by-hand": [
        lambda w, b, a, n: (w, b, a),
        lambda w, b, a, n: (w[:-1], b[:-1], a[:, :-1]),
        lambda w, b, a, n: w,
        lambda w, b, a, n: (w[torch.arange(6) != n], b[torch.arange(6) != n], a),
        lambda w, b, a, n: (1, 2, 3),
    ],
    "03-columns": [
        lambda c, size: [c],
        lambda c, size: list(range(c, c + size)),
        lambda c, size: [c + size * i for i in range(size)],
        lambda c, size: 3,
    ],
    "04-sandal": [0, 460, 337, 73.0, 500, -1, True, [73], torch.tensor([73, 450])],
    "04-fold": [
        lambda w, b, n, v: (w, b),
        lambda w, b, n, v: w,
        lambda w, b, n, v: (w[:, 1:], b + v * w[:, n]),
        lambda w, b, n, v: (w[:, torch.arange(4) != n], b),
        lambda w, b, n, v: (w[:, torch.arange(4) != n], b - v * w[:, n]),
    ],
    "05-merge": [
        lambda w, b, a, k, r: (w, b, a),
        lambda w, b, a, k, r: w,
        lambda w, b, a, k, r: (1, 2, 3),
        lambda w, b, a, k, r: (w[1:], b[1:], a[:, 1:]),
        lambda w, b, a, k, r: (w[torch.arange(6) != r], b[torch.arange(6) != r], a[:, 1:]),
        lambda w, b, a, k, r: tuple(t[..., torch.arange(6) != r] for t in (w.T, b, a)),
        lambda w, b, a, k, r: (
            *(t[torch.arange(6) != r] for t in (w, b)),
            a[:, torch.arange(6) != r],
        ),
        lambda w, b, a, k, r: merge(w, b, a, k, r, 1),
        lambda w, b, a, k, r: merge(w, b, a, k, r, w[k].norm() / w[r].norm()),
        lambda w, b, a, k, r: merge(w, b, a, k, r, 3),
    ],
    "05-offset": [
        lambda a, b, k, r, s, o: a,
        lambda a, b, k, r, s, o: (a, b),
        lambda a, b, k, r, s, o: (a[:, torch.arange(4) != r], b),
        lambda a, b, k, r, s, o: (a[:, torch.arange(4) != r], b + o * a[:, k]),
        lambda a, b, k, r, s, o: take_over(a, b, k, r, s, 0),
        lambda a, b, k, r, s, o: take_over(a, b, k, r, s, -o),
    ],
    "06-quiet": [
        lambda a, b: a + b,
        lambda a, b: 3,
        lambda a, b: torch.ones(4),
        lambda a, b: torch.ones(len(a)),
        lambda a, b: b * 1.0,
        lambda a, b: a * b**2,
        lambda a, b: a * b / 0 * 0,
    ],
    "06-invent": [
        lambda w, i: 3,
        lambda w, i: w,
        lambda w, i: torch.ones(len(w)),
        lambda w, i: w.abs().sum(1),
        lambda w, i: -(w**2 * i).sum(1),
        lambda w, i: (w**2 * i).sum(1) / 0 * 0,
    ],
    "08-noise": [
        lambda worse, better: "yes",
        lambda worse, better: True,
        lambda worse, better: worse <= better or worse < 100,
        lambda worse, better: worse != better,
        lambda worse, better: False,
        lambda worse, better: worse + better > 0 and binomtest(worse, worse + better).pvalue > 0.05,
        lambda worse, better: (
            binomtest(max(worse, better), worse + better, alternative="greater").pvalue > 0.05
            if worse + better
            else True
        ),
        lambda worse, better: worse < better or binomtest(worse, worse + better).pvalue > 0.05,
    ],
    "07-steps": [
        lambda s, n: [s],
        lambda s, n: [s / n * i for i in range(1, n + 1)],
        lambda s, n: [1 - (1 - s) ** i for i in range(1, n + 1)],
        lambda s, n: 0.5,
    ],
    "07-spend": [
        0.9,
        {"rounds": 5},
        {"schedule": ..., "epochs": ...},
        {"schedule": "linear", "sparsity": 0.5},
        {"schedule": "linear", "rounds": 3, "epochs": 2},
        {"schedule": [0.5, 0.9]},
        {"schedule": [0.98, 0.9]},
        {"schedule": [0.98], "epochs": 0},
        {"schedule": "one-shot"},
    ],
    "08-customers": [
        3,
        {"phone": POINT},
        {"phone": 3, "server": POINT, "toy": POINT},
        {"phone": {**POINT, "bytes": 300_000.0}},
        {"phone": POINT, "server": {**POINT, "metric": 0.87}, "toy": POINT},
        {"phone": {**POINT, "metric": 0.8}},
    ],
    "02-budget": [
        0.9,
        {"conv9": 0.5},
        {"fc1": 90},
        {"conv1": 0.5, "conv2": 0.5, "fc1": 0.5, "fc2": 0.5},
        {"conv1": 0.9, "conv2": 0.9, "fc1": 0.9, "fc2": 0.9},
    ],
}


@pytest.mark.parametrize(
    ("name", "answer"), [(n, a) for n, answers in WRONG.items() for a in answers]
)
def test_a_wrong_answer_gets_a_hint_and_no_stack_trace(name, answer, capsys):
    exercises.check(name, answer)
    out = capsys.readouterr().out
    assert out.startswith("✗ Not yet. ")
    assert out.endswith(f"Need a hint? lessons.hint({name!r})\n")
    assert "Traceback" not in out


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "01-bytes",
            [
                *("That is the dense", "in which row a value", "the last row end"),
                *("Negative weights", "three lists"),
            ],
        ),
        (
            "01-crossover",
            ["and one for batch 64", "was not measured", "it is not faster", "it begins"],
        ),
        ("04-sandal", ["of the sandals", "shirts only", "number of one neuron"]),
        ("04-fold", ["two tensors", "not the columns", "is another one"]),
        (
            "05-merge",
            [
                *("three tensors", "has the shape", "not the numbers of those that stay"),
                *("nobody does the work", "without a scale", "upside down", "would be another one"),
            ],
        ),
        ("06-quiet", ["one score a neuron", "does not grow", "it should stay", "no finite"]),
        ("06-invent", ["one score a row", "the same score", "; lamp has", "no finite"]),
        (
            "07-spend",
            [
                *("a dict of settings", "is missing", "'sparsity' is given"),
                *("3 rounds of 2 epochs", "0.9, not at 0.98", "goes down", "≥ 1", "points less"),
            ],
        ),
        (
            "08-noise",
            [
                "True (noise)",
                "more than noise",
                "is noise",
                "count both",
                "double it",
                "nothing fl",
            ],
        ),
        ("08-customers", ["a dict", "is missing", "a row of", "more than", "less than", "better"]),
        (
            "05-offset",
            ["two tensors", "weights are right, the bias is not", "weights are not right yet"],
        ),
    ],
)
def test_wrong_answers_get_every_hint(name, said, capsys):
    for answer in WRONG[name]:
        exercises.check(name, answer)
    out = capsys.readouterr().out
    assert [s for s in said if s not in out] == []


@pytest.mark.parametrize("answer", [None, lambda *a: None, lambda *a: ...])
def test_an_empty_stub_is_no_wrong_answer(answer, capsys):
    exercises.check("02-exactly", answer)
    assert capsys.readouterr().out == exercises.NOTHING + "\n"


def test_hints_come_one_by_one_and_the_solution_when_asked_twice(capsys, monkeypatch):
    task = exercises._find("02-budget")
    monkeypatch.setattr(task, "asked", {"hint": 0, "solution": 0})
    said = []
    for call in (exercises.hint, exercises.hint, exercises.hint, exercises.solution):
        call("02-budget")
        said.append(capsys.readouterr().out)
    assert said[0].startswith("Hint 1 of 2") and said[1] == said[2]
    assert said[1].startswith("Hint 2 of 2") and said[3].startswith("Sure?")
    exercises.solution("02-budget")
    assert capsys.readouterr().out.strip() == task.solution.strip()
    for value in ("off", "OFF ", "0", "False", "no"):
        monkeypatch.setenv(exercises.ANSWERS_OFF, value)
        exercises.solution("02-budget")
        assert "switched off" in capsys.readouterr().out
    for value in ("", "on", "1", "TRUE"):
        monkeypatch.setenv(exercises.ANSWERS_OFF, value)
        exercises.solution("02-budget")
        assert task.solution.strip() in capsys.readouterr().out
    monkeypatch.setenv(exercises.ANSWERS_OFF, "disabled")
    with pytest.raises(
        pv.ArgumentError, match="PRUNEVIZ_ANSWERS must be 'on' or 'off', but it is 'd"
    ):
        exercises.solution("02-budget")
    assert capsys.readouterr().out == ""


def test_guesses():
    right = guess("q", "a", options=("a", "b"))
    assert right.against("a").endswith("right.")
    assert right.against("b") == "You guessed a. It is b: a surprise."
    assert guess("q", 0.9).against(0.5).endswith("less than you thought.")
    assert guess("q", "many").value is None  # a typing error does not stop the lesson
    assert guess("q", True).value is None
    assert "→ 'many' is no number." in repr(guess("q", "many"))


def test_a_guess_that_is_none_says_why():
    one = guess("q", "fifth", options=("first", "second", "third"))
    assert one.against("first") == "You did not guess. It is first."
    assert repr(one).endswith(
        "→ I do not know 'fifth'; choose 'first', 'second' or 'third', then run the cell again."
    )
    assert "choose 'a', then" in repr(guess("q", torch.ones(2), options=("a",)))
    assert "→ 60 does not lie between 0 and 1; 60 % is 0.6. Change" in repr(
        guess("q", 60, fraction=True)
    )
    assert "→ -1 does not lie between 0 and 1. Change" in repr(guess("q", -1, fraction=True))
    assert guess("q", 1, fraction=True).value == 1 and guess("q", 60).value == 60
    assert guess("q", float("nan")).value is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda a, b: a * b, "compares the layers no better"),
        (lambda a, b: a.log() + b.log(), "compares the layers no better"),
        (lambda a, b: a * b / (a * b).sum(), "compares the layers better"),
    ],
)
def test_a_score_is_judged_by_its_order(answer, said, capsys):
    exercises.check("06-quiet", answer)
    assert said in capsys.readouterr().out


def test_the_working_copy_shows_no_answers_and_is_never_overwritten(tmp_path):
    source, target = tmp_path / "notebooks", tmp_path / "work"
    shutil.copytree(ROOT / "notebooks", source, ignore=lambda *_: [".ipynb_checkpoints"])
    (source / ".ipynb_checkpoints").mkdir()
    shutil.copy(PATHS[0], source / ".ipynb_checkpoints" / "x.ipynb")
    made = notebooks.working_copy(source, target)
    assert [p.name for p in made] == [p.name for p in PATHS]
    for copy in made:
        for cell in code(nbformat.read(copy, as_version=4)):
            assert cell.outputs == [] and cell.execution_count is None
    made[0].write_text("mine")
    made[1].unlink()
    assert notebooks.working_copy(source, target) == [made[1]]
    assert made[0].read_text() == "mine"


def test_copy_from_the_command_line(tmp_path, capsys):
    where = ["--source", str(ROOT / "notebooks"), "--target", str(tmp_path / "work")]
    assert notebooks.main(["copy", *where]) == 0
    assert len(capsys.readouterr().out.splitlines()) == len(PATHS)


def test_lab_listens_on_this_machine_only(tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(notebooks.subprocess, "call", lambda c, env: called.append((c, env)) or 0)
    monkeypatch.setattr(notebooks.sys, "prefix", str(tmp_path))
    where = ["--source", str(ROOT / "notebooks"), "--target", str(tmp_path / "work")]
    assert notebooks.main(["lab", *where, "--", "--no-browser"]) == 0
    ((command, env),) = called
    assert env["OMP_WAIT_POLICY"] == os.environ.get("OMP_WAIT_POLICY", "PASSIVE")
    assert "--ServerApp.ip=127.0.0.1" in command and "--no-browser" in command
    assert not [c for c in command if "token" in c]  # Jupyter's own random token stays on
    settings = tmp_path / "share/jupyter/lab/settings/overrides.json"
    assert "fetchNews" in json.loads(settings.read_text()).popitem()[1]


def test_refresh_stores_what_stays_the_same(tmp_path):
    cells = [
        nbformat.v4.new_code_cell("import sys; print('no', file=sys.stderr); print('yes')"),
        nbformat.v4.new_code_cell("import ipywidgets; ipywidgets.IntSlider()"),
        nbformat.v4.new_markdown_cell("text"),
    ]
    path = tmp_path / "n.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    assert notebooks.main(["refresh", str(path)]) == 0
    first, second, _ = nbformat.read(path, as_version=4).cells
    assert [o.text for o in first.outputs] == ["yes\n"]
    assert second.outputs == []

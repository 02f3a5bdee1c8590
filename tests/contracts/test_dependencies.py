"""One source of dependencies: pyproject.toml, the constraints and environment.yml agree."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CONDA = {"torch": "pytorch-cpu"}


def wanted(*extras: str) -> dict[str, Requirement]:
    texts = list(PROJECT["dependencies"])
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    found = [Requirement(t) for t in texts]
    return {r.name.lower(): r for r in found if r.name != "pruneviz"}


def pinned() -> dict[str, str]:
    lines = (ROOT / ".ci/constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name.lower().replace("_", "-"): version for name, version in pairs}


@pytest.mark.parametrize("name", sorted(wanted("lab", "test")))
def test_the_constraints_pin_what_the_project_wants(name):
    requirement = wanted("lab", "test")[name]
    assert Version(pinned()[name]) in requirement.specifier
    assert all(s.operator == ">=" for s in requirement.specifier), "no upper bounds in a library"


def test_environment_yml_installs_the_same():
    entries = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert entries[-1] == {"pip": ["--editable ."]}
    conda = dict(e.split("=", 1) for e in entries if isinstance(e, str) and "=" in e)
    assert conda.pop("python") == PROJECT["requires-python"].removeprefix(">=")
    assert conda == {CONDA.get(n, n): pinned()[n] for n in wanted("lab")}


def test_torch_is_the_oldest_that_is_tested():
    assert str(wanted()["torch"].specifier) == ">=2.13"
    assert pinned()["torch"] == "2.13.0"
    assert re.fullmatch(r">=3\.11", PROJECT["requires-python"])


def test_no_file_names_a_registry():
    hosts = ["pypi" + ".org", "python" + "hosted.org", "deb.debian" + ".org", "npmjs" + ".org"]
    for path in [*ROOT.glob("*.*"), *ROOT.glob("Makefile"), *(ROOT / ".ci").iterdir()]:
        if path.is_file():
            text = path.read_text(encoding="utf-8", errors="ignore")
            assert not [h for h in hosts if h in text], path
